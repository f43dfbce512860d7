// Package datapath carries packets between the virtual LAN's device and the
// underlay: it seals and opens records, and asks nobody.
//
//	underlay ── receive ──> record under keys of the Table, from a proven way
//	   socket                  │ open ─> source is the peer's ─> device
//	                           │                 └ not known ──> Packets   ┐
//	                           └─ everything else ────────────> Datagrams  │ event
//	device ──── transmit ──> destination in the Table                      │ loop
//	                           │ seal ─> underlay                          │
//	                           ├─ ARP and neighbour solicitation: answered │
//	                           └─ everything else ────────────> Packets    ┘
//	                 Publish <── a new Table ── Send, Deliver ─────────────┘
//
// One goroutine carries a packet all the way: it reads the device, seals and
// sends, or it receives, opens and writes to the device. There is no channel
// on that way, and nothing is allocated. A superpacket of the kernel's, TCP or
// UDP, is cut into records only for the underlay and joined again behind it
// (package packet), so that look-ups and checks are made once for it: lease and
// Table for each call that brought something, source, destination and way for
// each superpacket.
//
// A Table is immutable: the event loop makes another one whenever keys, paths,
// leases or addresses change, and Publish swaps it. Whoever has taken a burst
// with one Table finishes it with that one; dead keys seal and open nothing all
// the same.
//
// A record under keys that the peer has not been heard under yet, or from a
// way that link has not proven, is no business of this package: the loop opens
// it, link learns from it, and the next Table has it.
//
// Invariants: nothing is sealed or delivered after Table.Until, asked once for
// each burst of a clock that counts while a machine sleeps; a packet reaches
// the device only if its source is one of the peer's addresses and leaves it
// only if its source is one of this node's; both queues to the loop are
// bounded, and what does not fit is counted; nothing is logged per packet.
//
// Concurrency: the package owns the underlay's sockets and the device while
// they are open. One goroutine receives from each socket, one transmits from
// the device; Send, Deliver and Publish may be called by one other goroutine,
// the loop. Opening under a session.Keys happens inside its lock, because the
// loop opens too.
package datapath
