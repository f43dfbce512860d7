package credential

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"time"
)

const (
	revocationsLabel  = "GRID REVOCATIONS"
	revocationsFormat = 1
	maxRevocations    = 40 << 10 // bytes of the body: with its PEM below maxPEM
	maxReason         = 200      // bytes
)

var serialPattern = regexp.MustCompile(`^[1-9a-f][0-9a-f]{0,39}$`)

// RevocationList is what one signer, a root or an issuer, has revoked. A
// root's list concerns every certificate of the grid, an issuer's only those it
// signed and the nodes below them. A list that came from ParseRevocations is
// not to be changed.
type RevocationList struct {
	Format  int          `json:"format"`
	Grid    string       `json:"grid"`
	Version uint64       `json:"version"` // from 1, per signer
	Issued  time.Time    `json:"issued"`  // UTC, whole seconds
	Issuer  Certificate  `json:"issuer"`  // who signed it; null: a root of the descriptor
	Entries []Revocation `json:"entries"`

	signed *signed
	signer KeyID // the issuer's, or the zero value for the roots: they share one list
}

// Revocation revokes the certificates that have this serial or this key.
type Revocation struct {
	Serial string    `json:"serial"` // hexadecimal; "" when only the key counts
	Key    KeyID     `json:"key"`
	Until  time.Time `json:"until"`  // the certificate's end: after it the entry may go
	Reason string    `json:"reason"` // for people
	Keep   []Kept    `json:"keep"`   // of an issuer: holders that stay good
}

// Kept is a holder that outlives its issuer's revocation. Whoever has the
// issuer's key could put a kept serial and key into another certificate, so
// the signed content (TBSCertificate) is named too. It is not a fingerprint:
// rewriting the ECDSA signature does not change it.
type Kept struct {
	Serial  string `json:"serial"`
	Content KeyID  `json:"content"` // SHA-256 of the DER TBSCertificate
}

// KeepHolder returns the Kept entry of a certificate.
func KeepHolder(c Certificate) (Kept, error) {
	cert, err := parseCertificate(c)
	if err != nil {
		return Kept{}, err
	}
	return keep(cert), nil
}

func keep(c *x509.Certificate) Kept {
	return Kept{Serial: serialText(c), Content: sha256.Sum256(c.RawTBSCertificate)}
}

// ParseRevocations decodes a list. It verifies no signature; NewVerifier and
// Trust do. It accepts only what Text can return.
func ParseRevocations(text []byte) (*RevocationList, error) {
	s, err := parseSigned(revocationsLabel, text, maxRevocations)
	if err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	l := &RevocationList{}
	if err := decodeBody(s.body, l); err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	l.signed = s
	return l, nil
}

// Text returns the list as it is published, or nil when it was never signed.
func (l *RevocationList) Text() []byte {
	if l.signed == nil {
		return nil
	}
	return l.signed.text()
}

func (l *RevocationList) check() error {
	if l.Format != revocationsFormat || l.Version == 0 {
		return fmt.Errorf("%w: format %d version %d; format %d and versions from 1 are known", ErrFormat, l.Format, l.Version, revocationsFormat)
	}
	if err := CheckGrid(l.Grid); err != nil {
		return err
	}
	if l.Issued != l.Issued.UTC().Truncate(time.Second) {
		return fmt.Errorf("%w: issued %v is not in UTC and whole seconds", ErrFormat, l.Issued)
	}
	l.signer = KeyID{}
	if l.Issuer != nil {
		c, err := parseCertificate(l.Issuer)
		if err != nil {
			return err
		}
		l.signer = keyIDOfCert(c)
	}
	for i, e := range l.Entries {
		if e.Serial == "" && e.Key == (KeyID{}) || e.Serial != "" && !serialPattern.MatchString(e.Serial) || len(e.Reason) > maxReason {
			return fmt.Errorf("%w: entry %d: serial %.50q, key %v, reason of %d bytes", ErrFormat, i+1, e.Serial, e.Key, len(e.Reason))
		}
	}
	return nil
}

// CheckSignature returns nil when the list is of the descriptor's grid and
// signed by one of its roots, or by the issuer it names, which one of the roots
// signed. It looks at no clock: an expired issuer's word still counts, as
// nothing it signed does.
func (l *RevocationList) CheckSignature(d *Descriptor) error {
	what := fmt.Sprintf("revocation list version %d of grid %q", l.Version, l.Grid)
	if l.Grid != d.Grid {
		return fmt.Errorf("%s: %w: this is grid %q", what, ErrWrongGrid, d.Grid)
	}
	signers := d.roots
	if l.Issuer != nil {
		c, err := parseCertificate(l.Issuer)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if _, err := checkShape(kindIssuer, c); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if err := (&Verifier{descriptor: d}).checkRootSignature(what, c, c.NotBefore); err != nil {
			return err
		}
		signers = []*x509.Certificate{c}
	}
	for _, c := range signers {
		if key, err := p256Key(c); err == nil && l.signed != nil && l.signed.signedBy(key) {
			return nil
		}
	}
	return fmt.Errorf("%s: %w by any of %v", what, ErrSignature, keyIDs(signers))
}

// sign fixes the body and signs it.
func (l *RevocationList) sign(key *ecdsa.PrivateKey) error {
	l.Format = revocationsFormat
	l.Issued = l.Issued.UTC().Truncate(time.Second)
	if err := l.check(); err != nil {
		return err
	}
	body, err := encodeBody(l)
	if err != nil {
		return fmt.Errorf("revocation list: %w", err)
	}
	if len(body) > maxRevocations {
		return fmt.Errorf("revocation list: %w: %d bytes, at most %d allowed", ErrFormat, len(body), maxRevocations)
	}
	l.signed = &signed{label: revocationsLabel, body: body}
	return l.signed.sign(key)
}

// grows returns ErrShrunk when the list, which replaces old, has lost an entry
// whose certificate had not ended when the list was signed.
func (l *RevocationList) grows(old *RevocationList) error {
	for _, e := range old.Entries {
		still := slices.ContainsFunc(l.Entries, func(n Revocation) bool { return n.Serial == e.Serial && n.Key == e.Key })
		if !still && e.Until.After(l.Issued) {
			return fmt.Errorf("revocation list version %d: %w: serial %q, key %v of version %d, which ends %s",
				l.Version, ErrShrunk, e.Serial, e.Key, old.Version, stamp(e.Until))
		}
	}
	return nil
}

func (l *RevocationList) hash() KeyID { return sha256.Sum256(l.signed.body) }

// find returns the entry that names c, or nil.
func (l *RevocationList) find(c *x509.Certificate) *Revocation {
	if l == nil {
		return nil
	}
	serial, key := serialText(c), keyIDOfCert(c)
	for i := range l.Entries {
		if e := &l.Entries[i]; e.Serial == serial || e.Key == key {
			return e
		}
	}
	return nil
}

// checkRevoked looks a certificate up in the roots' list and in the list of the
// issuer above it. An issuer is looked up with each of its holders, because the
// roots may have kept that one.
func (v *Verifier) checkRevoked(what string, k kind, c *x509.Certificate, above *verified) error {
	if k == kindIssuer {
		return nil
	}
	roots := v.revoked[KeyID{}]
	refuse := func(e *Revocation, by string) error {
		return fmt.Errorf("%s: %w by %s: serial %q, key %v: %s", what, ErrRevoked, by, e.Serial, e.Key, e.Reason)
	}
	if e := roots.find(c); e != nil {
		return refuse(e, "the root")
	}
	issuer := above.issuer()
	if issuer == nil {
		return nil
	}
	if e := v.revoked[keyIDOfCert(issuer.cert)].find(c); e != nil {
		return refuse(e, "its issuer")
	}
	if e := roots.find(issuer.cert); e != nil && k == kindHolder && !slices.Contains(e.Keep, keep(c)) {
		return refuse(e, "the root, which revoked its issuer")
	}
	return nil
}
