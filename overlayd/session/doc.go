// Package session proves to two nodes who the other is and gives them keys:
// the handshake machine, replay windows and deadlines of the overlay.
//
//	initiator                                        responder
//	    │  HELLO   e, salt, known; exactly 1,200         │
//	    │ ─────────────────────────────────────────────> │ keeps nothing, when
//	    │  COOKIE  28 bytes                              │ the answer is long or
//	    │ <───────────────────────────────────────────── │ many are half open
//	    │  HELLO   the same, with the cookie             │
//	    │ ─────────────────────────────────────────────> │
//	    │  ANSWER  e, ee, s, es {chain, AES?, offer}     │
//	    │ <───────────────────────────────────────────── │ in 1 to 24 parts
//	    │  FINISH  s, se {chain, AEAD, offer}            │
//	    │ ─────────────────────────────────────────────> │
//	    │  RECORD  empty: the new keys work              │
//	    │ <────────────────────────────────────────────> │
//
// The pattern is Noise_XX_25519_ChaChaPoly_BLAKE2s by flynn/noise; the prologue
// is the protocol's version, the hash of the grid's roots and the purpose:
// "link" for the ring, or a namespace for what its nodes say end to end.
//
// A datagram of this package has the top bit of its first byte set; the byte
// tables stand at the parsers in packet.go, payload.go and record.go, and
// docs/protocol.md repeats them with vectors from testdata.
//
// Invariants: no certificate travels in the clear; a node that has not proven
// that it receives at its address is sent no more bytes than it sent; state
// for unproven nodes has constant bounds; a key seals at most 2^32 records per
// path and for 120 s; keys live in memory only, and none outlives Destroy; a
// record is opened once; no datagram makes this package panic.
//
// Concurrency: Machine is not safe for concurrent use and owns everything but
// the data path's handles: a Sealer belongs to one goroutine, and Keys.Open is
// called inside Keys.Lock. Several Sealers of one path share an
// atomic counter.
//
// Limits on purpose: one pattern and one cipher suite in the handshake, no
// resumption, no early data; the machine does not choose paths (package link
// does), it is told by Via where a datagram came from.
//
// Sources: TRUST.md "Sessions"; Noise Protocol Framework revision 34 §7.5 (XX),
// §11.2; RFC 6479 (window); RFC 5869 (HKDF); WireGuard §5.3, §6 (cookies, rekey).
package session
