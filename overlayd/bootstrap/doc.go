// Package bootstrap is first contact for machines that know nobody: a public
// address where the members of a grid enrol, are told how they are seen from
// outside and who else is there, and through which any two of them can talk
// until their own ways are open.
//
//	member x ──ENROLL──> Server <──ENROLL── member y
//	       <──ENROLLED── (y: 7)  (x: 5) ──ENROLLED──>
//	       ──CARRY 7───>        ──CARRIED 5──>           a handshake of overlayd/session,
//	       <──CARRIED 7──       <──CARRY 5────           then candidates, then punching
//
// A Server belongs to no grid and serves any number of them: it verifies no
// certificate, reads nothing that it carries and knows a grid only as a tag. A
// Member is the other end: what a node does at each bootstrap that it knows.
// Table makes virtual endpoints of the members that a node meets there, for
// the layers above to use like any other.
//
// Invariants of Server: whoever gets more than a cookie has shown that it
// receives what is sent to its address; no answer is longer than its question;
// a member is told of, and can send to, members of its own tag only, and only
// datagrams of sessions; every table is bounded, by source address too; bytes
// carried are bounded by member and in total, and a part of the total is kept
// for handshakes, so that bulk does not shut newcomers out.
//
// What a Server cannot do: read, forge or replay a record. What it can: see
// who is in contact with whom by tag, node ID, endpoint and volume; withhold,
// delay, name false members. A false member fails in its handshake. Anybody
// who knows a tag can enrol under it, as any node ID, so a member's claims are
// hints to be proven.
//
// Concurrency: Server and Member are for one goroutine each, Table for many.
//
// Sources: DESIGN.md "The overlay"; RFC 8656 (a relay that tells its clients
// apart by endpoint; no permissions here, since both ends enrol); RFC 8489 for
// the STUN server beside it; RFC 6347 §4.2.1 for the cookie.
package bootstrap
