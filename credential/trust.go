package credential

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	trustFormat = 1
	maxTrust    = 4 << 20 // bytes of its text
	maxSigners  = 64      // revocation lists: the roots' and issuers'
	maxAlarms   = 16      // the oldest are kept: they tell how it began
)

// Trust is a machine's memory of the newest descriptor and revocation lists it
// has accepted, so that nobody can show it older ones. The zero value has seen
// nothing and takes the first descriptor on its own roots' word: it comes with
// the floppy. Later ones must be signed by a root of the one before.
//
// Two different descriptors of one version are refused both: the one before
// them counts again, and if there is none, none does. Of two revocation lists
// of one version the first keeps revoking, because otherwise whoever stole a
// signing key could take a revocation back that way; but neither is passed on.
// Both raise an alarm that stays.
//
// Trust is not safe for concurrent use. A Verifier it returns is.
type Trust struct {
	current  *Descriptor // the newest accepted, refused when conflict is set
	previous *Descriptor // the one before it, or nil
	conflict bool
	lists    []trustedList
	newest   time.Time
	alarms   []string
}

type trustedList struct {
	*RevocationList
	conflict bool
}

// Descriptor returns the descriptor that counts, or nil before the first;
// ErrConflict when the only one known is refused.
func (t *Trust) Descriptor() (*Descriptor, error) {
	if !t.conflict {
		return t.current, nil
	}
	if t.previous == nil {
		return nil, fmt.Errorf("descriptor version %d: %w", t.current.Version, ErrConflict)
	}
	return t.previous, nil
}

// Newest returns when the newest object seen was signed. A machine's clock is
// never set below it.
func (t *Trust) Newest() time.Time { return t.newest }

// Alarms returns what a person must be told: which versions exist twice.
func (t *Trust) Alarms() []string { return slices.Clone(t.alarms) }

// AcceptDescriptor takes a descriptor if it is newer than what is known and
// properly signed, and reports whether anything changed. The one that counts
// already is not an error. It returns ErrOlder, ErrSignature, ErrWrongGrid,
// ErrFormat, or ErrConflict.
func (t *Trust) AcceptDescriptor(text []byte) (changed bool, err error) {
	d, err := ParseDescriptor(text)
	if err != nil {
		return false, err
	}
	if t.current == nil {
		if err := d.CheckSignature(nil); err != nil {
			return false, err
		}
		t.current = d
		t.see(d.Issued)
		return true, nil
	}
	what := fmt.Sprintf("descriptor version %d of grid %q", d.Version, d.Grid)
	if d.Grid != t.current.Grid {
		return false, fmt.Errorf("%s: %w: this is grid %q", what, ErrWrongGrid, t.current.Grid)
	}
	if d.Version < t.current.Version {
		return false, fmt.Errorf("%s: %w: version %d", what, ErrOlder, t.current.Version)
	}
	twin := d.Version == t.current.Version
	if twin && d.Hash() == t.current.Hash() {
		if t.conflict {
			return false, fmt.Errorf("%s: %w", what, ErrConflict)
		}
		return false, nil
	}
	if err := d.CheckSignature(t.before(twin).Roots); err != nil {
		return false, err
	}
	t.see(d.Issued)
	if twin {
		t.conflict = true
		return true, t.alarm(what, KeyID(t.current.Hash()), KeyID(d.Hash()))
	}
	if !t.conflict {
		t.previous = t.current
	}
	t.current, t.conflict = d, false
	return true, nil
}

// before returns the descriptor whose roots must have signed the next one, or
// a twin of the current one.
func (t *Trust) before(twin bool) *Descriptor {
	if (twin || t.conflict) && t.previous != nil {
		return t.previous
	}
	return t.current
}

// AcceptRevocations takes a list if it is newer than what is known of its
// signer, properly signed, and has lost nothing. It needs a descriptor first.
// Errors are those of AcceptDescriptor, and ErrShrunk.
func (t *Trust) AcceptRevocations(text []byte) (changed bool, err error) {
	l, err := ParseRevocations(text)
	if err != nil {
		return false, err
	}
	d, err := t.Descriptor()
	if err != nil {
		return false, err
	}
	what := fmt.Sprintf("revocation list version %d of grid %q", l.Version, l.Grid)
	if d == nil {
		return false, fmt.Errorf("%s: %w: no descriptor is known yet", what, ErrSignature)
	}
	i := slices.IndexFunc(t.lists, func(old trustedList) bool { return old.signer == l.signer })
	if i < 0 {
		if err := l.CheckSignature(d); err != nil {
			return false, err
		}
		if len(t.lists) >= maxSigners {
			return false, fmt.Errorf("%s: %w: of a further signer, %d are known", what, ErrFormat, maxSigners)
		}
		t.lists = append(t.lists, trustedList{l, false})
		t.see(l.Issued)
		return true, nil
	}
	old := &t.lists[i]
	if l.Version < old.Version {
		return false, fmt.Errorf("%s: %w: version %d", what, ErrOlder, old.Version)
	}
	twin := l.Version == old.Version
	if twin && bytes.Equal(l.signed.body, old.signed.body) {
		if old.conflict {
			return false, fmt.Errorf("%s: %w", what, ErrConflict)
		}
		return false, nil
	}
	if err := l.CheckSignature(d); err != nil {
		return false, err
	}
	if twin {
		old.conflict = true
		t.see(l.Issued)
		return true, t.alarm(what, old.hash(), l.hash())
	}
	if err := l.grows(old.RevocationList); err != nil {
		return false, err
	}
	t.lists[i] = trustedList{l, false}
	t.see(l.Issued)
	return true, nil
}

func (t *Trust) see(signed time.Time) {
	if signed.After(t.newest) {
		t.newest = signed
	}
}

func (t *Trust) alarm(what string, first, second KeyID) error {
	err := fmt.Errorf("%s: %w: SHA-256 %v and %v; whoever signed them has lost control of the key, or made a mistake", what, ErrConflict, first, second)
	if text := err.Error(); len(t.alarms) < maxAlarms && !slices.Contains(t.alarms, text) {
		t.alarms = append(t.alarms, text)
	}
	return err
}

// Verifier returns a verifier for the descriptor and lists that count.
func (t *Trust) Verifier() (*Verifier, error) {
	d, err := t.Descriptor()
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, errors.New("no descriptor is known yet")
	}
	// The lists were checked against the descriptor of their time: one whose
	// root has been replaced since still counts.
	v := &Verifier{descriptor: d, revoked: map[KeyID]*RevocationList{}}
	for _, l := range t.lists {
		v.revoked[l.signer] = l.RevocationList
	}
	return v, nil
}

// Publishable returns the texts that another node may be given: the descriptor
// that counts and the lists that are not in conflict.
func (t *Trust) Publishable() (descriptor []byte, revocations [][]byte) {
	if d, err := t.Descriptor(); err == nil && d != nil {
		descriptor = d.Text()
	}
	for _, l := range t.lists {
		if !l.conflict {
			revocations = append(revocations, l.Text())
		}
	}
	return descriptor, revocations
}

// Known is one object of a Trust's memory, as it is told to peers.
type Known struct {
	Revocations bool   // else a descriptor
	Signer      KeyID  // of a revocation list: its issuer's key, zero for the roots'
	Version     uint64 // per signer
	Body        KeyID  // SHA-256 of what is signed: objects with one body are one
	Text        []byte
	Conflict    bool // there is another object of this version
	Previous    bool // the descriptor before the newest
}

// Known returns the newest descriptor seen, the one before it, and the newest
// list of each signer, in this order, refused ones included: a twin is proof of
// what has happened, and peers need both.
func (t *Trust) Known() []Known {
	var known []Known
	if t.current != nil {
		known = append(known, Known{Version: t.current.Version, Body: t.current.Hash(), Text: t.current.Text(), Conflict: t.conflict})
	}
	if t.previous != nil {
		known = append(known, Known{Version: t.previous.Version, Body: t.previous.Hash(), Text: t.previous.Text(), Previous: true})
	}
	for _, l := range t.lists {
		known = append(known, Known{
			Revocations: true, Signer: l.signer, Version: l.Version, Body: l.hash(), Text: l.Text(), Conflict: l.conflict,
		})
	}
	return known
}

// KnownBy returns what a text would be known as, without accepting it, and
// checks nothing but its form.
func KnownBy(text []byte) (Known, error) {
	d, err := ParseDescriptor(text)
	if err == nil {
		return Known{Version: d.Version, Body: d.Hash(), Text: text}, nil
	}
	l, listErr := ParseRevocations(text)
	if listErr != nil {
		return Known{}, fmt.Errorf("neither a descriptor (%w) nor a revocation list (%w)", err, listErr)
	}
	return Known{Revocations: true, Signer: l.signer, Version: l.Version, Body: l.hash(), Text: text}, nil
}

// trustText is Trust as it is stored: JSON of one line.
type trustText struct {
	Format   int        `json:"format"`
	Newest   time.Time  `json:"newest"`
	Current  string     `json:"current"`
	Previous string     `json:"previous"`
	Conflict bool       `json:"conflict"`
	Lists    []listText `json:"lists"`
	Alarms   []string   `json:"alarms"`
}

type listText struct {
	Text     string `json:"text"`
	Conflict bool   `json:"conflict"`
}

// Append appends the memory in the form that ParseTrust reads.
func (t *Trust) Append(b []byte) []byte {
	s := trustText{Format: trustFormat, Newest: t.newest.UTC(), Conflict: t.conflict, Alarms: t.alarms}
	if t.current != nil {
		s.Current = string(t.current.Text())
	}
	if t.previous != nil {
		s.Previous = string(t.previous.Text())
	}
	for _, l := range t.lists {
		s.Lists = append(s.Lists, listText{string(l.Text()), l.conflict})
	}
	text, err := encodeBody(s)
	if err != nil {
		panic("credential: encode trust: " + err.Error()) // strings, booleans and a time of this era
	}
	return append(b, text...)
}

// ParseTrust reads what Append wrote. It believes what it reads as far as
// signatures of lists go: the file must be as safe as the machine's own keys.
func ParseTrust(text []byte) (*Trust, error) {
	if len(text) > maxTrust {
		return nil, fmt.Errorf("trust memory: %w: %d bytes, at most %d allowed", ErrFormat, len(text), maxTrust)
	}
	var s trustText
	if err := decodeBody(text, &s); err != nil {
		return nil, fmt.Errorf("trust memory: %w", err)
	}
	if s.Format != trustFormat || len(s.Lists) > maxSigners || len(s.Alarms) > maxAlarms ||
		s.Current == "" && (s.Previous != "" || s.Conflict || s.Lists != nil) {
		return nil, fmt.Errorf("trust memory: %w: format %d, %d lists, %d alarms", ErrFormat, s.Format, len(s.Lists), len(s.Alarms))
	}
	t := &Trust{newest: s.Newest, conflict: s.Conflict, alarms: s.Alarms}
	var err error
	if t.current, err = parseKnown(s.Current); err != nil {
		return nil, err
	}
	if t.previous, err = parseKnown(s.Previous); err != nil {
		return nil, err
	}
	for _, stored := range s.Lists {
		l, err := ParseRevocations([]byte(stored.Text))
		if err != nil {
			return nil, fmt.Errorf("trust memory: %w", err)
		}
		t.lists = append(t.lists, trustedList{l, stored.Conflict})
	}
	return t, nil
}

func parseKnown(text string) (*Descriptor, error) {
	if text == "" {
		return nil, nil
	}
	d, err := ParseDescriptor([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("trust memory: %w", err)
	}
	if err := d.CheckSignature(nil); err != nil {
		return nil, fmt.Errorf("trust memory: %w", err)
	}
	return d, nil
}
