package lease

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// What a certificate may be refused for.
var (
	ErrUnknownEpoch = errors.New("roster of that epoch is not known")
	ErrVotes        = errors.New("not the votes of a majority")
)

// Verify returns nil when a majority of the key's witnesses has voted for the
// certificate. It looks at no clock; see Ends.
func (b *Book) Verify(c *wire.LeaseCertificate) error {
	r := b.roster(c.Epoch)
	if r == nil {
		return fmt.Errorf("lease of %v: %w: %d, this is %d", c.Key, ErrUnknownEpoch, c.Epoch, b.current.Epoch)
	}
	s := r.sets(c.Key)
	votes := make([]wire.Answer, len(c.Votes))
	for i := range c.Votes {
		votes[i] = c.Answer(i)
		v := &votes[i]
		twice := slices.ContainsFunc(votes[:i], func(o wire.Answer) bool { return o.Witness == v.Witness })
		if twice || !slices.Contains(s.all, v.Witness) || !b.crypto.Verify(v.Witness, &v.Signature, v.Signed(nil)) {
			return fmt.Errorf("lease of %v: %w: %v", c.Key, ErrVotes, v.Witness)
		}
	}
	if len(s.consistent(votes)) < len(votes) || !s.quorate(votes, majority) {
		return fmt.Errorf("lease of %v: %w: %d votes", c.Key, ErrVotes, len(votes))
	}
	return nil
}

// Ends returns the earliest end among the votes, by the witnesses' wall clocks:
// the holder's own end comes before it.
func Ends(c *wire.LeaseCertificate) time.Time {
	var end int64
	for i := range c.Votes {
		if i == 0 || c.Votes[i].End < end {
			end = c.Votes[i].End
		}
	}
	return time.Unix(end, 0)
}

// Newer compares two certificates for one key: the newer grant wins. It returns
// +1 when a is the newer.
func Newer(a, b *wire.LeaseCertificate) int {
	return cmp.Or(cmp.Compare(a.Seq, b.Seq), Ends(a).Compare(Ends(b)), -a.Holder.Compare(b.Holder), slices.Compare(a.Instance[:], b.Instance[:]))
}

// Overlap returns the witnesses that voted in both of two certificates: when
// both leases are valid, these were copied, rolled back or dishonest.
func Overlap(a, b *wire.LeaseCertificate) []nodeid.ID {
	var both []nodeid.ID
	for i := range a.Votes {
		id := a.Votes[i].Witness
		if slices.ContainsFunc(b.Votes, func(v wire.LeaseVote) bool { return v.Witness == id }) {
			both = append(both, id)
		}
	}
	return both
}

// certificate puts votes of one round together.
func certificate(votes []wire.Answer) wire.LeaseCertificate {
	v := &votes[0]
	c := wire.LeaseCertificate{
		Nonce: v.Nonce, Epoch: v.Epoch, Holder: v.Holder, Instance: v.Instance, Seq: v.Seq, Term: v.Term, Key: v.Key,
		Votes: make([]wire.LeaseVote, len(votes)),
	}
	for i, v := range votes {
		c.Votes[i] = wire.LeaseVote{
			Revocations: v.Revocations, Witness: v.Witness, Incarnation: v.Incarnation, End: v.End, Flags: v.Flags,
			Known: v.Known, Signature: v.Signature,
		}
	}
	return c
}

// quorate says whether votes that agree suffice: a majority of the roster's
// witnesses of the key, and of the roster before unless each of that majority
// knows that it has stopped.
func (s *sets) quorate(votes []wire.Answer, need func(int) int) bool {
	now, stopped, before := 0, 0, 0
	for i := range votes {
		v := &votes[i]
		if slices.Contains(s.now, v.Witness) {
			now++
			if v.Flags&wire.AnswerStopped != 0 {
				stopped++
			}
		}
		if slices.Contains(s.before, v.Witness) {
			before++
		}
	}
	switch {
	case len(s.before) == 0:
		return now >= need(len(s.now))
	case stopped >= need(len(s.now)):
		return true
	}
	return now >= need(len(s.now)) && before >= need(len(s.before))
}

// maxVotes is how many votes of a certificate fit a message: a majority of each
// of two rosters' witnesses of a key.
const maxVotes = 2 * wire.MaxProof

// trim drops votes beyond what is needed when they do not fit.
func (s *sets) trim(votes []wire.Answer) []wire.Answer {
	if len(votes) <= maxVotes {
		return votes
	}
	now, before := majority(len(s.now)), majority(len(s.before))
	return slices.DeleteFunc(votes, func(v wire.Answer) bool {
		inNow, inBefore := slices.Contains(s.now, v.Witness), slices.Contains(s.before, v.Witness)
		if inNow && now > 0 || inBefore && before > 0 {
			if inNow {
				now--
			}
			if inBefore {
				before--
			}
			return false
		}
		return true
	})
}

// consistent returns those of the votes that agree on each other's
// incarnations: a vote of a witness that has recovered since does not count,
// nor one of a witness that does not know of another's recovery.
func (s *sets) consistent(votes []wire.Answer) []wire.Answer {
	latest := make([]uint16, len(s.all))
	for i := range votes {
		v := &votes[i]
		if len(v.Known) != len(s.all) {
			continue
		}
		for j, k := range v.Known {
			latest[j] = max(latest[j], k)
		}
		j := slices.Index(s.all, v.Witness)
		latest[j] = max(latest[j], v.Incarnation)
	}
	var good []wire.Answer
	for _, v := range votes {
		if len(v.Known) == len(s.all) && v.Incarnation == latest[slices.Index(s.all, v.Witness)] {
			good = append(good, v)
		}
	}
	unaware := func(v wire.Answer) bool {
		return slices.ContainsFunc(good, func(u wire.Answer) bool {
			return u.Witness != v.Witness && v.Known[slices.Index(s.all, u.Witness)] != u.Incarnation
		})
	}
	if !slices.ContainsFunc(good, unaware) {
		return good
	}
	var aware []wire.Answer
	for _, v := range good {
		if !unaware(v) {
			aware = append(aware, v)
		}
	}
	return aware
}
