// Package discover finds a node's first contacts, all ways at once, and goes on
// looking while the node runs.
//
//	descriptor, GRID.TML ── names, resolved again and again ──┐  UDP
//	bootstraps among them ── enrolment, members ──────────────┤
//	the same ── TCP 443, after 5 s without UDP ───────────────┤ Contacts   ┌──────┐
//	peers of before ── a file ────────────────────────────────┼──────────> │ event│
//	the LAN ── multicast beacon ──────────────────────────────┘            │ loop │
//	                                   Send, Observed, Places ───────────> │      │
//	                                   Network, Path, Peer, Datagram <──── └──────┘
//
// A name may belong to a bootstrap or to a node; nobody says which. It is given
// to the loop as a contact and asked to enrol, and what answers decides: from
// then on a bootstrap is no contact.
//
// A Finder has no UDP socket of the overlay's: it asks the loop to send, and is
// told what came. It owns the TCP connections, the socket of the beacon and the
// file of peers.
//
// Invariants: nothing that a contact says is taken for true, for its handshake
// will tell; the list given to the loop has at most 64 contacts, of which no
// source has more than half; names are asked for at most once in 5 s each;
// beacons are answered at most 10 times a second, on the network they came
// from, and carry no name.
//
// Concurrency: Run owns everything; Tell may be called by one other goroutine
// and never waits; Actions is to be read until Run has ended.
//
// Limits on purpose: a LAN of IPv6 link-local addresses alone yields no
// contact, because no endpoint of the overlay has a zone.
package discover
