package ring

import (
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
//  1. If the least m(v) is below both P and d: to that v, and P becomes m(v).
//  2. Else, if a connected member is nearer than this node (by whole IDs): to
//     the nearest, and P stays.
//  3. Else this node is a local minimum.
//
// With each hop the pair (P, distance of the node that has the message) gets
// smaller in the order of pairs, whoever lists what: step 1 lowers P, step 2
// keeps P and lowers the distance. So no message comes back to a node with the
// same P, and while lists stay as they are a node takes step 1 at most once
// for a message: it took its least first. Connections that have not answered
// two Pings are passed over. A Join, or a Find for the sender's own ID, is led
// past the sender.
func (m *Machine) NextHop(h *wire.Header) (nodeid.ID, Verdict) {
	if h.To.Via == m.cfg.ID && m.cfg.ID != (nodeid.ID{}) {
		h.To.Via, h.Promise = nodeid.ID{}, wire.NoPromise
	}
	if h.To.Via == (nodeid.ID{}) && h.To.ID == m.cfg.ID {
		return m.cfg.ID, Deliver
	}
	if h.TTL == 0 {
		return nodeid.ID{}, Expired
	}
	next, verdict := m.step(h, nil)
	if verdict == Forward {
		h.TTL--
	}
	return next, verdict
}

// FirstHop returns where a payload of this node's own goes first. It fills in
// what a header needs besides To, Payload, RPC and SrcVia: TTL, Promise, Src,
// and SrcVia if this node is not on the ring. Attempt try leaves by another
// peer than the attempts before it, while there are any.
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
	var used [tries]nodeid.ID
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
		if d < least {
			least, ahead = d, c
		}
		for _, p := range c.told {
			if d := nodeid.PrefixDistance(p, target); d < least && !(past && p == target) {
				least, ahead = d, c
			}
		}
	}
	switch {
	case ahead != nil && least < own && (least < h.Promise || !m.rules.promise):
		h.Promise = least
		return m.use(ahead), Forward
	case nearest != nil:
		return m.use(nearest), Forward
	case exact:
		return nodeid.ID{}, NoRoute
	}
	return m.cfg.ID, Deliver
}

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
