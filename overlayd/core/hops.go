package core

import (
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// Implementation: what a node that sent a payload on does until the next hop
// has acknowledged it.
const (
	maxKept  = 64 // payloads; further ones are not acknowledged
	keepKept = 4  // room for as many is not given back
	hopSends = 3  // to one next hop
	hopPeers = 3  // next hops of one payload

	// A payload whose end is not known waits so often so long.
	maxWaits = 8
	waitTime = 150 * time.Millisecond

	// Copies that go another way: so many at once, and one more each detourTime.
	// It bounds what slow answers, or nodes that acknowledge nothing, can make
	// of a payload.
	maxDetours = 16
	detourTime = 125 * time.Millisecond
)

// kept is a payload that was sent on and is not acknowledged yet.
//
//	sent -- Receipt ---------------------------------> forgotten
//	sent -- no Receipt in time, another way is left --> sent another way
//	sent -- no Receipt in time, none is left ---------> sent again, three times
//	sent -- the third time in vain -------------------> as if the next hop were not there
//
// A copy that goes another way takes the step that the payload's header allows
// as it came, without the hops tried: its pair of promise and distance is less
// than what came, as the first copy's was, so that no copy travels in a loop.
type kept struct {
	number    uint32
	came      wire.Header // as it came, or began here
	went      wire.Header // as it was sent last
	own       bool        // of this node's own
	body      []byte      // extension and body
	extension int
	hops      [hopPeers]nodeid.ID // tried, the last now
	n         int
	sends     int // to the last
	waits     int
	sent, due time.Time
}

func (k *kept) to() nodeid.ID { return k.hops[k.n-1] }

// hops are the payloads that are kept, and the copies that may be made.
type hops struct {
	kept    []kept
	detours int
	filled  time.Time
}

// otherWay is the next hop of a copy that goes past those tried, if there is one
// and it may be made. What a node sends by way of a first contact goes no other
// way: who sent it tries again itself. A session's own datagrams must not go
// through that session.
func (n *Node) otherWay(k *kept, h *wire.Header) (nodeid.ID, *peer) {
	if k.n == hopPeers || k.own && n.ring.Phase() != ring.OnRing {
		return nodeid.ID{}, nil
	}
	past := append(make([]nodeid.ID, 0, hopPeers+1), k.hops[:k.n]...)
	if to := n.peers[h.To.ID]; k.own && h.Payload == wire.TypeSession && to != nil && to.over {
		past = append(past, h.To.ID)
	}
	next, verdict := n.ring.Divert(h, past)
	if p := n.peers[next]; verdict == ring.Forward && p != nil && n.detour() {
		return next, p
	}
	return nodeid.ID{}, nil
}

// sendOn sends a payload to the next hop and keeps it until that has it. Came
// is its header before the step. A session's records are sent once: they are
// packets, of which there may be thousands a second, and repetitions of those
// would choke the hop that is late already.
func (n *Node) sendOn(next nodeid.ID, m *wire.Routed, came wire.Header, own bool) {
	m.Hop = 0
	records := m.Payload == wire.TypeSession && session.IsData(m.Body)
	if p := n.peers[next]; p != nil && !records && len(n.hops.kept) < maxKept {
		n.try(n.keep(m, came, own), p, next, m)
	}
	n.send(next, m)
}

func (n *Node) keep(m *wire.Routed, came wire.Header, own bool) *kept {
	if len(n.hops.kept) < cap(n.hops.kept) {
		n.hops.kept = n.hops.kept[:len(n.hops.kept)+1]
	} else {
		n.hops.kept = append(n.hops.kept, kept{})
	}
	k := &n.hops.kept[len(n.hops.kept)-1]
	*k = kept{came: came, own: own, body: append(append(k.body[:0], m.Extension...), m.Body...), extension: len(m.Extension)}
	return k
}

// wait keeps a payload of which it is not known yet whether it is for this node.
func (n *Node) wait(m *wire.Routed, came wire.Header) {
	if len(n.hops.kept) < maxKept {
		k := n.keep(m, came, false)
		k.waits, k.due = 1, n.now.Add(waitTime)
		return
	}
	n.deliver(&m.Header, m.Body)
}

// sendOwn sends a payload of this node's own to its first hop.
func (n *Node) sendOwn(next nodeid.ID, h *wire.Header, body []byte) {
	came := *h
	came.TTL, came.Promise = wire.MaxTTL, wire.NoPromise
	n.sendOn(next, &wire.Routed{Header: *h, Body: body}, came, true)
}

// try notes that a kept payload goes to a next hop, for the first time.
func (n *Node) try(k *kept, p *peer, next nodeid.ID, m *wire.Routed) {
	p.lastHop++
	if p.lastHop == 0 {
		p.lastHop = 1
	}
	k.number, m.Hop = p.lastHop, p.lastHop
	k.went = m.Header
	k.hops[k.n] = next
	k.n++
	k.sends, k.sent = 1, n.now
	k.due = n.now.Add(n.ring.HopTimeout(next))
}

// dropKept forgets the i-th kept payload. Its bytes serve the next.
func (n *Node) dropKept(i int) {
	last := len(n.hops.kept) - 1
	n.hops.kept[i], n.hops.kept[last] = n.hops.kept[last], n.hops.kept[i]
	n.hops.kept = n.hops.kept[:last]
	if last == 0 && cap(n.hops.kept) > keepKept {
		n.hops.kept = nil
	}
}

// receipt is a next hop that has a payload.
func (n *Node) receipt(from nodeid.ID, number uint32) {
	i := slices.IndexFunc(n.hops.kept, func(k kept) bool { return k.n > 0 && k.number == number && k.to() == from })
	if i < 0 {
		return
	}
	heard := ring.Heard{ID: from}
	if n.hops.kept[i].sends == 1 { // else it is not known which was acknowledged (Karn)
		heard.RTT = n.now.Sub(n.hops.kept[i].sent)
	}
	n.dropKept(i)
	n.enqueue(heard)
}

// acknowledge answers a payload that wants it, and says whether it is new: a
// repetition goes no further.
func (n *Node) acknowledge(from nodeid.ID, number uint32) bool {
	p := n.peers[from]
	if number == 0 || p == nil {
		return true
	}
	n.send(from, wire.Receipt{Hop: number})
	return p.fresh(number)
}

// fresh says whether a hop number of the peer's is new, and notes it. Numbers
// older than the window are taken for new: so a payload may be carried twice,
// but none is lost.
func (p *peer) fresh(number uint32) bool {
	switch ahead := int32(number - p.top); {
	case ahead > 0 && ahead < 64:
		p.seen = p.seen<<ahead | 1
	case ahead > 0 || ahead <= -64:
		p.seen = 1
	case p.seen>>-ahead&1 == 1:
		return false
	default:
		p.seen |= 1 << -ahead
		return true
	}
	p.top = number
	return true
}

// lostHop is a peer without a session any more: what it did not acknowledge
// goes on at once.
func (n *Node) lostHop(id nodeid.ID) {
	for i := range n.hops.kept {
		if k := &n.hops.kept[i]; k.n > 0 && k.to() == id {
			k.due = n.now
		}
	}
}

// hopDeadline is when the next Receipt is overdue; zero: never.
func (n *Node) hopDeadline() (first time.Time) {
	for i := range n.hops.kept {
		if d := n.hops.kept[i].due; first.IsZero() || d.Before(first) {
			first = d
		}
	}
	return first
}

// overdue goes on with payloads that were not acknowledged in time.
func (n *Node) overdue() {
	for i := 0; i < len(n.hops.kept); {
		k := &n.hops.kept[i]
		if k.due.After(n.now) {
			i++
			continue
		}
		if k.n > 0 && k.waits == 0 {
			n.enqueue(ring.Unheard{ID: k.to()})
		}
		if !n.again(k) {
			n.dropKept(i)
			continue
		}
		i++
	}
}

// again sends a kept payload another way, or once more, or treats it as one
// whose next hop is not there. It says whether the payload is still kept.
func (n *Node) again(k *kept) bool {
	m := wire.Routed{Header: k.came, Extension: k.body[:k.extension], Body: k.body[k.extension:]}
	if next, p := n.otherWay(k, &m.Header); p != nil {
		n.counters.Diverted++
		n.try(k, p, next, &m)
		n.send(next, &m)
		return true
	}
	if k.n > 0 && k.sends < hopSends && n.peers[k.to()] != nil && !n.ring.Doubted(k.to()) {
		n.counters.Repeated++
		k.due = n.now.Add(n.ring.HopTimeout(k.to()) << k.sends)
		k.sends++
		m.Header = k.went
		n.send(k.to(), &m)
		return true
	}
	if k.own {
		n.counters.Unacknowledged++
		if k.came.Payload != wire.TypeErr {
			n.failed(&k.came, wire.CodeOffRing)
		}
		return false
	}
	return n.conclude(k)
}

// conclude looks where a payload of others goes now that a next hop is given up.
func (n *Node) conclude(k *kept) bool {
	m := wire.Routed{Header: k.came, Extension: k.body[:k.extension], Body: k.body[k.extension:]}
	next, verdict := n.ring.Divert(&m.Header, nil)
	if p := n.peers[next]; verdict == ring.Forward && p != nil && !slices.Contains(k.hops[:k.n], next) && k.n < hopPeers && n.detour() {
		n.counters.Diverted++
		n.try(k, p, next, &m)
		n.send(next, &m)
		return true
	}
	if verdict == ring.Unsure && k.waits < maxWaits {
		k.waits++
		k.due = n.now.Add(waitTime)
		return true
	}
	n.counters.Unacknowledged++
	switch verdict {
	case ring.Deliver, ring.Unsure:
		n.deliver(&m.Header, n.memory.keep(m.Body))
	case ring.NoRoute, ring.Forward:
		n.counters.NoRoute++
		n.refuse(&k.came, wire.CodeNoRoute)
	case ring.OffRing:
		n.counters.NoRoute++
		n.refuse(&m.Header, wire.CodeOffRing)
	}
	return false
}

// detour says whether one more copy may go another way, and counts it.
func (n *Node) detour() bool {
	h := &n.hops
	if more := n.now.Sub(h.filled) / detourTime; more > 0 {
		h.detours = max(0, h.detours-int(min(more, maxDetours)))
		h.filled = n.now
	}
	if h.detours >= maxDetours {
		return false
	}
	h.detours++
	return true
}
