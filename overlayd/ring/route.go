package ring

import (
	"math/bits"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// NextHop says where a Routed message that arrived goes, and changes the
// header to what the next hop is to get. It does not allocate. It may bring
// NextDeadline forward: see use.
//
// Distances are between the first 64 bits of IDs. Let d be this node's
// distance from the destination, P the promise in the header, and of each
// connected member v let m(v) be the least distance of v and of all whom v
// lists.
//
//  1. If an m(v) is below both P and d: to the v that likely delivers soonest
//     (see cost), and P becomes m(v).
//  2. Else, if a connected member is nearer than this node (by whole IDs): to
//     the nearest, and P stays.
//  3. Else this node is a local minimum: the end, unless a peer lists somebody
//     nearer, which gets the payload, once, with few hops left; or unless a
//     neighbour is nearer of which it is not known yet whether it lives, or that is
//     not connected yet (Unsure).
//
// With each hop the pair (P, distance of the node that has the message) gets
// smaller in the order of pairs, whoever lists what: step 1 lowers P, step 2
// keeps P and lowers the distance. So no message comes back to a node with the
// same P. The second opinion of step 3 begins a
// new promise, but it sets the hops left, so that it happens once. The last hops
// follow no promise: step 1 is left out. Connections that have not answered
// two Pings are passed over. A Join, or a Find for the sender's own ID, is led
// past the sender.
func (m *Machine) NextHop(h *wire.Header) (nodeid.ID, Verdict) { return m.Divert(h, nil) }

// Divert is NextHop for a copy of a payload that some next hops did not
// acknowledge: it goes past them. Deliver and NoRoute then mean that without
// them this node would be the end. The header is to be as it came, so that a
// copy's pair, too, is less than what came.
func (m *Machine) Divert(h *wire.Header, past []nodeid.ID) (nodeid.ID, Verdict) {
	if h.To.Via == m.cfg.ID && m.cfg.ID != (nodeid.ID{}) {
		h.To.Via, h.Promise = nodeid.ID{}, wire.NoPromise
	}
	if h.To.Via == (nodeid.ID{}) && h.To.ID == m.cfg.ID {
		return m.cfg.ID, Deliver
	}
	if h.TTL == 0 {
		return nodeid.ID{}, Expired
	}
	next, verdict := m.step(h, past)
	if verdict == Forward {
		h.TTL--
	}
	return next, verdict
}

// HopTimeout is how long a payload's next hop has to acknowledge it.
func (m *Machine) HopTimeout(id nodeid.ID) time.Duration {
	c := m.conn(id)
	if c == nil || c.rtt.smoothed == 0 {
		return firstRTO
	}
	return min(max(c.rtt.smoothed+4*c.rtt.variation, c.rtt.smoothed+minHopMargin), maxRTO)
}

// Doubted says that a peer has not answered two Pings, or is none: traffic passes
// it over.
func (m *Machine) Doubted(id nodeid.ID) bool {
	c := m.conn(id)
	return c == nil || c.out >= 2
}

// ways is how many attempts of one payload leave by different peers.
// Implementation.
const ways = 4

// FirstHop returns where a payload of this node's own goes first. It fills in
// what a header needs besides To, Payload, RPC and SrcVia: TTL, Promise, Src,
// and SrcVia if this node is not on the ring. Attempt try leaves by another
// peer than the attempts before it, while there are any, and from the second on
// the answer comes back through that peer: a way back may be broken as well.
func (m *Machine) FirstHop(h *wire.Header, try int) (nodeid.ID, Verdict) {
	h.TTL, h.Promise, h.Src = wire.MaxTTL, wire.NoPromise, m.cfg.ID
	if m.phase != OnRing {
		return m.firstHopOffRing(h, try)
	}
	if h.To.Via == m.cfg.ID && m.cfg.ID != (nodeid.ID{}) {
		h.To.Via = nodeid.ID{}
	}
	if h.To.Via == (nodeid.ID{}) && h.To.ID == m.cfg.ID {
		return m.cfg.ID, Deliver
	}
	var used [ways]nodeid.ID
	n := 0
	for {
		trial := *h
		next, verdict := m.step(&trial, used[:n])
		if verdict != Forward && n > 0 { // no further disjoint way: begin again
			trial = *h
			next, verdict = m.step(&trial, nil)
			try = n
		}
		if n == try || n == len(used) || verdict != Forward {
			trial.TTL--
			*h = trial
			if try > 0 && verdict == Forward && h.SrcVia == (nodeid.ID{}) {
				h.SrcVia = next
			}
			return next, verdict
		}
		used[n] = next
		n++
	}
}

// firstHopOffRing goes through a connected peer, to which answers come: the
// header's via of the source if that is one.
func (m *Machine) firstHopOffRing(h *wire.Header, try int) (nodeid.ID, Verdict) {
	h.TTL--
	if c := m.conn(h.To.ID); c != nil && h.To.Exact {
		h.To.Via = nodeid.ID{}
		return c.peer.ID, Forward
	}
	if c := m.conn(h.SrcVia); c != nil {
		return h.SrcVia, Forward
	}
	n := 0
	for _, c := range m.conns {
		if c.member() {
			n++
		}
	}
	if n == 0 {
		return m.anyConn(h, try)
	}
	skip := try % n
	for _, c := range m.conns {
		if !c.member() {
			continue
		}
		if skip == 0 {
			h.SrcVia = c.peer.ID
			return c.peer.ID, Forward
		}
		skip--
	}
	return nodeid.ID{}, OffRing
}

// anyConn takes a peer that has not said yet whether it is on the ring.
func (m *Machine) anyConn(h *wire.Header, try int) (nodeid.ID, Verdict) {
	if len(m.conns) == 0 {
		return nodeid.ID{}, OffRing
	}
	h.SrcVia = m.conns[try%len(m.conns)].peer.ID
	return h.SrcVia, Forward
}

// step is steps 1 to 3, past the peers in used.
func (m *Machine) step(h *wire.Header, used []nodeid.ID) (nodeid.ID, Verdict) {
	to, exact := h.To.ID, h.To.Exact
	if h.To.Via != (nodeid.ID{}) {
		to, exact = h.To.Via, true
	}
	if exact {
		if c := m.conn(to); c != nil && !contains(used, to) {
			return m.use(c), Forward
		}
	}
	if m.phase != OnRing {
		return nodeid.ID{}, OffRing
	}
	past := h.To.Via == (nodeid.ID{}) && ownPlace(h)
	target := to.Prefix()
	own := nodeid.PrefixDistance(m.prefix, target)
	var ahead, nearest *conn
	best, bound := time.Duration(0), own
	switch {
	case h.TTL <= greedyTTL:
		bound = 0 // promises have led nowhere
	case m.rules.promise:
		bound = min(bound, h.Promise)
	}
	least, least128 := wire.NoPromise, nodeid.Distance(m.cfg.ID, to)
	for _, c := range m.conns {
		if !c.member() || c.out >= 2 || contains(used, c.peer.ID) || past && c.peer.ID == to {
			continue
		}
		d := nodeid.PrefixDistance(c.prefix, target)
		if d <= own {
			if whole := nodeid.Distance(c.peer.ID, to); whole.Compare(least128) < 0 {
				least128, nearest = whole, c
			}
		}
		for _, p := range c.told {
			if x := nodeid.PrefixDistance(p, target); x < d && !(past && p == target) {
				d = x
			}
		}
		if cost := c.cost(d); d < bound && (ahead == nil || cost < best || cost == best && d < least) {
			least, best, ahead = d, cost, c
		}
	}
	switch {
	case ahead != nil:
		h.Promise = least
		return m.use(ahead), Forward
	case nearest != nil:
		return m.use(nearest), Forward
	}
	return m.end(h, to, exact, used)
}

// end is a local minimum: this node is the destination, unless it is parted from
// somebody nearer. Who a peer lists there, and this node does not know to be
// silent, is asked for a second opinion of: that peer gets the payload, with few
// hops left and a new promise. A payload with as few has had it. A neighbour that
// does not answer is waited for while jurors are asked, and so is one that is
// known of and not connected yet.
func (m *Machine) end(h *wire.Header, to nodeid.ID, exact bool, used []nodeid.ID) (nodeid.ID, Verdict) {
	past := h.To.Via == (nodeid.ID{}) && ownPlace(h)
	target := to.Prefix()
	least := nodeid.PrefixDistance(m.prefix, target)
	var asked *conn
	for _, c := range m.conns {
		if h.TTL <= opinionTTL || !c.member() || c.out >= 2 || contains(used, c.peer.ID) || past && c.peer.ID == to {
			continue
		}
		for _, p := range c.told {
			if d := nodeid.PrefixDistance(p, target); d < least && !(past && p == target) && !m.silent(p) {
				least, asked = d, c
			}
		}
	}
	if asked != nil {
		h.TTL, h.Promise = opinionTTL, wire.NoPromise
		return m.use(asked), Forward
	}
	if exact {
		return nodeid.ID{}, NoRoute
	}
	own := nodeid.Distance(m.cfg.ID, to)
	for _, c := range m.conns {
		if c.trial != nil && c.member() && !m.silent(c.prefix) && nodeid.Distance(c.peer.ID, to).Compare(own) < 0 {
			return nodeid.ID{}, Unsure
		}
	}
	for _, known := range [...][]wire.Peer{m.list.Preds, m.list.Succs, m.hints} {
		for i := range known {
			if id := known[i].ID; nodeid.Distance(id, to).Compare(own) < 0 && m.conn(id) == nil && !m.gone(id) {
				return nodeid.ID{}, Unsure
			}
		}
	}
	return m.cfg.ID, Deliver
}

// silent says that a node is known not to answer: it is taken for dead, or has
// not answered two Pings and no juror has heard it either.
func (m *Machine) silent(prefix uint64) bool {
	for _, c := range m.conns {
		if c.prefix == prefix {
			t := c.trial
			return c.out >= 2 && (t == nil || t.alive == (nodeid.ID{}) && m.now-t.since >= jurorTime)
		}
	}
	for i := range m.graves {
		if g := &m.graves[i]; g.dead && m.now < g.until && g.id.Prefix() == prefix {
			return true
		}
	}
	return false
}

// Implementation: how many hops a second opinion has, and of how many at the end
// none follows a promise, so that a payload led by what lists say of the dead
// still ends at a node instead of nowhere.
const (
	opinionTTL = 6
	greedyTTL  = 3
)

// cost is how long a payload likely takes by a peer that promises distance d.
func (c *conn) cost(d uint64) time.Duration {
	rtt := c.rtt.smoothed
	if rtt == 0 {
		rtt = firstRTO / 4
	}
	return rtt/2 + time.Duration(bits.Len64(d))*perBit
}

// perBit is how long a route takes to halve its distance. Implementation.
const perBit = 12 * time.Millisecond

// use has a connection tried that traffic is about to take and nothing was heard
// from of late: its Ping is due at once.
func (m *Machine) use(c *conn) nodeid.ID {
	if c.out == 0 && m.now-c.heard > trustFor {
		c.ping = min(c.ping, m.now)
		m.connDue, m.deadline = min(m.connDue, m.now), min(m.deadline, m.now)
	}
	return c.peer.ID
}

// ownPlace says that a node looks for its own place on the ring: it is to be
// led to its neighbours, past itself.
func ownPlace(h *wire.Header) bool {
	return h.Src == h.To.ID && (h.Payload == wire.TypeJoin || h.Payload == wire.TypeFind)
}

func contains(ids []nodeid.ID, id nodeid.ID) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}
