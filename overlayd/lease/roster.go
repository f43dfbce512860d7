package lease

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Roster is who may vote, as the root signed it.
type Roster struct {
	Epoch     uint64
	Witnesses []nodeid.ID // ascending, 1 to 9
	Previous  []nodeid.ID // those of Epoch-1; nil for the first roster

	// ForceAfter is when Previous no longer counts though it has not stopped;
	// zero: never.
	ForceAfter time.Time

	// Follows proves that the roster before Previous has stopped: epochs
	// cannot be skipped. It is nil for the first two epochs, and when that one
	// was left behind by force.
	Follows *wire.Stopped
	Forced  bool // the roster before Previous was left behind by force
}

// Policy is what the descriptor says of a namespace.
type Policy interface {
	// Times returns the namespace's lease time and hold time, or false.
	Times(namespace string) (lease, hold time.Duration, ok bool)
	// Pool returns the prefix that addresses are chosen from.
	Pool(namespace string) netip.Prefix
	Leasable(namespace string, addr netip.Addr) bool
}

// descriptorPolicy is Policy by a descriptor.
type descriptorPolicy struct{ d *credential.Descriptor }

// PolicyOf returns the policy of a descriptor.
func PolicyOf(d *credential.Descriptor) Policy { return descriptorPolicy{d} }

func (p descriptorPolicy) Times(namespace string) (lease, hold time.Duration, ok bool) {
	n, ok := p.d.Namespace(namespace)
	return time.Duration(n.LeaseTime) * time.Second, time.Duration(n.HoldTime) * time.Second, ok
}

func (p descriptorPolicy) Pool(namespace string) netip.Prefix {
	n, _ := p.d.Namespace(namespace)
	return n.Pool
}

func (p descriptorPolicy) Leasable(namespace string, addr netip.Addr) bool {
	return p.d.Leasable(namespace, addr)
}

// Digest names the roster in the words of those that stop for it.
func (r *Roster) Digest() [32]byte {
	b := binary.BigEndian.AppendUint64([]byte("grid-appliance roster\x00"), r.Epoch)
	for _, list := range [][]nodeid.ID{r.Witnesses, r.Previous} {
		b = append(b, byte(len(list)))
		for _, id := range list {
			b = append(b, id[:]...)
		}
	}
	return sha256.Sum256(b)
}

// majority of n.
func majority(n int) int { return n/2 + 1 }

// cover is how many of a roster of n must have done something so that every
// majority of every key's witnesses has one among them.
func cover(n int) int { return max(majority(n), n-majority(min(n, wire.MaxVoters))+1) }

// coverOthers is how many of the n-1 others a witness must have copied so that
// it has met every majority that it was ever part of.
func coverOthers(n int) int {
	if n == 1 {
		return 0
	}
	return n - majority(min(n, wire.MaxVoters)) + 1
}

// replicas returns the witnesses of a key in one list.
func replicas(list []nodeid.ID, key wire.LeaseKey) []nodeid.ID {
	return heaviest(list, key.Append([]byte("grid-appliance witness\x00")))
}

// Keepers returns the witnesses of a roster that keep copies of the records of
// a key of the store: as many as vote for a lease, chosen in the same way.
func (r Roster) Keepers(key nodeid.ID) []nodeid.ID {
	return heaviest(r.Witnesses, append([]byte("grid-appliance record witness\x00"), key[:]...))
}

// heaviest returns the 5 of a list with the highest SHA-256 of prefix and node
// ID, or all, highest first (rendezvous hashing; Thaler and Ravishankar 1998).
func heaviest(list []nodeid.ID, prefix []byte) []nodeid.ID {
	if len(list) <= wire.MaxVoters {
		return list
	}
	weight := make(map[nodeid.ID][32]byte, len(list))
	for _, id := range list {
		weight[id] = sha256.Sum256(append(prefix[:len(prefix):len(prefix)], id[:]...))
	}
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b nodeid.ID) int {
		wa, wb := weight[a], weight[b]
		return -slices.Compare(wa[:], wb[:])
	})
	return sorted[:wire.MaxVoters]
}

// sets are a key's witnesses: of the roster and of the one before it.
type sets struct {
	now, before []nodeid.ID
	all         []nodeid.ID // both, each once: the order of Answer.Known
}

func (r *Roster) sets(key wire.LeaseKey) sets {
	s := sets{now: replicas(r.Witnesses, key), before: replicas(r.Previous, key)}
	s.all = s.now
	for _, id := range s.before {
		if !slices.Contains(s.now, id) {
			s.all = append(s.all[:len(s.all):len(s.all)], id)
		}
	}
	return s
}

// ErrSkipped is wrapped when a roster does not follow from the one known.
var ErrSkipped = errors.New("roster does not follow")

// Book is what a node knows of rosters: the one that counts and a few before
// it, whose certificates may still be valid.
type Book struct {
	crypto  Crypto
	current Roster
	stopped bool // Previous does not count any more
	proof   *wire.Stopped
	old     []Roster // newest first
}

const maxOldRosters = 4

// NewBook returns an empty book. It verifies with crypto and never signs.
func NewBook(crypto Crypto) *Book { return &Book{crypto: crypto} }

// Accept takes a roster if it is newer and follows, and reports whether it was
// newer. The first is taken as it is: it comes with the floppy.
func (b *Book) Accept(r Roster, now time.Time) (bool, error) {
	if r.Epoch <= b.current.Epoch {
		return false, nil
	}
	if err := b.follows(&r, now); err != nil {
		return false, err
	}
	if b.current.Epoch != 0 {
		b.old = append([]Roster{b.current}, b.old[:min(len(b.old), maxOldRosters-1)]...)
	}
	b.current, b.stopped, b.proof = r, len(r.Previous) == 0, nil
	return true, nil
}

// follows checks that no epoch is skipped: when this roster began, the one
// before its Previous had stopped.
func (b *Book) follows(r *Roster, now time.Time) error {
	c := &b.current
	skipped := func(why string) error {
		return fmt.Errorf("roster %d after %d: %w: %s", r.Epoch, c.Epoch, ErrSkipped, why)
	}
	switch {
	case c.Epoch == 0: // it came with the floppy
		return nil
	case r.Epoch == c.Epoch+1:
		if !slices.Equal(r.Previous, c.Witnesses) {
			return skipped("it names other predecessors")
		}
		if b.left(now) || r.Forced {
			return nil
		}
		if b.checkStopped(r.Follows, c) {
			return nil
		}
		return skipped("the predecessors' predecessors have not stopped")
	case r.Epoch == c.Epoch+2 && !r.Forced:
		middle := Roster{Epoch: c.Epoch + 1, Witnesses: r.Previous, Previous: c.Witnesses}
		if !b.checkStopped(r.Follows, &middle) {
			return skipped("the predecessors' predecessors have not stopped")
		}
	case r.Follows == nil && !r.Forced:
		return skipped("nothing proves that it follows")
	}
	return nil
}

// left says whether the previous roster no longer counts.
func (b *Book) left(now time.Time) bool {
	f := b.current.ForceAfter
	return b.stopped || !f.IsZero() && !now.Round(0).Before(f)
}

// checkStopped verifies that enough of r's Previous have stopped for r.
func (b *Book) checkStopped(s *wire.Stopped, r *Roster) bool {
	if s == nil || s.Epoch != r.Epoch || s.Digest != r.Digest() {
		return false
	}
	var seen []nodeid.ID
	for i := range s.Stops {
		stop := s.Stop(i)
		if slices.Contains(seen, stop.Witness) || !slices.Contains(r.Previous, stop.Witness) ||
			!b.crypto.Verify(stop.Witness, &stop.Signature, stop.Signed(nil)) {
			return false
		}
		seen = append(seen, stop.Witness)
	}
	return len(seen) >= cover(len(r.Previous))
}

// LearnStopped takes the certificate that Previous has stopped, and reports
// whether that was news.
func (b *Book) LearnStopped(s *wire.Stopped) bool {
	if b.proof != nil || len(b.current.Previous) == 0 || !b.checkStopped(s, &b.current) {
		return false
	}
	b.stopped, b.proof = true, s
	return true
}

// Stopped returns the certificate that the previous roster has stopped, or nil:
// it travels with the roster.
func (b *Book) Stopped() *wire.Stopped { return b.proof }

// roster returns the roster of an epoch, if it is known.
func (b *Book) roster(epoch uint64) *Roster {
	if epoch == b.current.Epoch {
		return &b.current
	}
	for i := range b.old {
		if b.old[i].Epoch == epoch {
			return &b.old[i]
		}
	}
	return nil
}

// RosterOf returns the roster of a descriptor, as the root signed it.
func RosterOf(d *credential.Descriptor) (Roster, error) {
	r := Roster{Epoch: d.Epoch, Witnesses: witnessIDs(d.Witnesses)}
	c := d.Change
	if c == nil {
		return r, nil
	}
	r.Previous, r.Forced = witnessIDs(c.Witnesses), c.Forced
	if c.ForceAfter != nil {
		r.ForceAfter = *c.ForceAfter
	}
	if c.Stopped != nil {
		s, err := wire.ParseStopped(c.Stopped)
		if err != nil {
			return Roster{}, fmt.Errorf("roster %d: %w", d.Epoch, err)
		}
		r.Follows = &s
	}
	return r, nil
}

func witnessIDs(list []credential.Witness) []nodeid.ID {
	ids := make([]nodeid.ID, len(list))
	for i, w := range list {
		ids[i] = nodeid.ID(w.ID)
	}
	slices.SortFunc(ids, nodeid.ID.Compare)
	return ids
}
