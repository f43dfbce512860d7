package node

import "time"

// renewal decides when a node makes its certificate. It is pure: it is handed
// the time and what happened, and answers with what to do.
//
//	               tick, half life passed
//	valid ------------------------------------> making
//	  ^   <------------------------------------   | |
//	  |                   made                    | | not made, still valid:
//	  |                                           | | try again in retryDelay
//	(start) --------------- tick -----------------' |
//	                                                v
//	                                    ended: not made, and none is valid
//
// A clock that jumps is an ordinary case: a machine starts with the time its
// image was built and learns the right one minutes later. So every decision
// is made from the wall clock, at every tick, and a certificate that lies in
// the future is replaced as one that has ended is.
//
// The zero renewal is a node without a certificate.
type renewal struct {
	begin, renew, end time.Time // of the certificate in use; zero: none
	retry             time.Time // not to try before; zero: no failure yet
}

// retryDelay lies between two attempts to make a certificate.
const retryDelay = time.Minute

// Events of a renewal.
type (
	tick    struct{}
	made    struct{ begin, renew, end time.Time }
	notMade struct{}
)

// What a renewal answers.
type renewalAction int

const (
	wait            renewalAction = iota
	makeCertificate               // and say how it went: made or notMade
	end                           // no certificate is valid and none can be made
)

// Handle takes one event at now and returns what to do.
func (r *renewal) Handle(now time.Time, event any) renewalAction {
	switch e := event.(type) {
	case made:
		*r = renewal{begin: e.begin, renew: e.renew, end: e.end}
	case notMade:
		r.retry = now.Add(retryDelay)
		if !r.valid(now) {
			return end
		}
	case tick:
		held := now.Before(r.retry) && r.retry.Sub(now) <= retryDelay
		if !held && (!r.valid(now) || !now.Before(r.renew)) {
			return makeCertificate
		}
	}
	return wait
}

// NextDeadline is when the next tick can matter, on a clock that does not
// jump.
func (r *renewal) NextDeadline() time.Time {
	if r.retry.After(r.renew) {
		return r.retry
	}
	return r.renew
}

func (r *renewal) valid(now time.Time) bool {
	return !r.end.IsZero() && !now.Before(r.begin) && now.Before(r.end)
}
