package lease

import (
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Rules replaces choices on which exclusion rests, for the tests that must
// fail. Zero fields are left alone.
type Rules struct {
	Hold   func(term time.Duration) time.Duration
	Quorum func(n int) int
	AnySeq bool

	Patience time.Duration
}

func (r Rules) apply(to *rules) {
	if r.Hold != nil {
		to.hold = r.Hold
	}
	if r.Quorum != nil {
		to.quorum = r.Quorum
	}
	if r.Patience != 0 {
		to.patience = r.Patience
	}
	to.anySeq = r.AnySeq
}

func (w *Witness) Break(r Rules) { r.apply(&w.rules) }
func (h *Holder) Break(r Rules)  { r.apply(&h.rules) }

// ForceRoster puts a roster in place of the current one, whatever its epoch.
func (w *Witness) ForceRoster(r Roster) { w.book.current = r }
func (h *Holder) ForceRoster(r Roster)  { h.book.current = r }

// VotingFile is the file of a witness that has nothing to recover.
func VotingFile(id nodeid.ID, instance wire.Instance) []byte {
	w := &Witness{cfg: WitnessConfig{ID: id, Instance: instance}}
	return appendRecord(w.appendHeader(nil), recordVoting, nil)
}

var (
	Cover       = cover
	CoverOthers = coverOthers
	Majority    = majority
	HoldFor     = holdFor
	Candidate   = candidate
)

func (r *Roster) Replicas(key wire.LeaseKey) []nodeid.ID { return r.sets(key).now }
func (b *Book) Current() *Roster                         { return &b.current }
func (w *Witness) Epoch() uint64                         { return w.book.current.Epoch }
func (w *Witness) StoppedPrevious() bool                 { return w.book.stopped }
func (w *Witness) Incarnation() uint16                   { return w.incarnation }
func (w *Witness) Sizes() (holds, pending, seen, known int) {
	return len(w.holds), len(w.pending), len(w.seen), len(w.known)
}
