// Package lease gives one address, or one name, to one node at a time: the
// Holder asks, Witnesses vote, and a majority's votes are a certificate that
// anybody can verify.
//
//	Holder                                  witnesses of the key
//	   | -- HOLD(key, me, seq, term) ---------> W1  W2  W3
//	   |                          append, fsync  |   |   |
//	   | <-------- signed votes -----------------+---+   x (cut off)
//	   | 2 of 3: a certificate. Mine until the HOLD was sent + term;
//	   | renewed at half the lease time, which is far shorter
//
// Invariants, in TRUST.md's words "no two valid leases for one address at one
// time":
//
//   - A witness votes for a key only when it is free, its hold has ended by the
//     witness's own clock, or it is already that holder's; and only after the
//     hold is on disk. It keeps a hold for (1+e)/(1-e) terms, e = 2 %.
//   - A holder counts from when it sent. It gives back what it got in an
//     acquisition that failed, and nothing after a renewal that failed.
//   - Everybody takes a key's witnesses from the signed roster. Under a new
//     roster a majority of the old one must vote too, until enough of the old
//     one have handed their holds on and signed that they stopped.
//   - seq is 1 + the highest in a majority's answers: the newer of two
//     certificates has the higher seq. Witnesses want that proved when it is
//     not 1 + what they know themselves.
//   - A witness that lost its holds copies those of enough others before it
//     votes, under a new incarnation. Votes count together only if each voter
//     knows the others' incarnations, so that the old and the new copy of a
//     witness never serve two majorities.
//   - A witness that meets evidence that another machine uses its key recovers
//     or falls silent, and raises an alarm.
//
// Not promised: with an odd number of witnesses two majorities may share one
// witness only. If that one is duplicated or rolled back *and could not notice*
// (same instance, and it has met nobody since), exclusion fails until it meets
// another witness or a holder with a certificate; then it is noticed, and of
// two leases the newer wins.
//
// Both machines are pure: they are handed events and the time, and answer with
// actions. Neither is safe for concurrent use; a Lease is a value. Times are
// compared on the caller's monotonic clock, which must not stand still while
// the machine is suspended; what is written to disk or signed is wall time.
//
// Sources: TRUST.md, "Leases"; research/overlay.md §2; Lamport, Paxos Made
// Simple (quorum intersection only: there is no log); Kleppmann, How to do
// distributed locking (fencing).
package lease
