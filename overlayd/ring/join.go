package ring

import (
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// call is a request of this node under way.
type call struct {
	rpc    uint32
	kind   callKind
	to     wire.Target
	srcVia nodeid.ID
	ask    wire.Contact // of a merge: to be connected to if there is no way over the ring
	try    int
	due    instant
}

type callKind uint8

const (
	callJoin  callKind = iota
	callMerge          // who else is nearest to this node?
	callFar            // who is at the drawn point?
)

const tries = 3 // of one call

// begin sends a request.
func (m *Machine) begin(c call) {
	if len(m.calls) >= calls {
		return
	}
	c.rpc = m.nextNumber()
	m.attempt(&c)
	m.calls = append(m.calls, c)
}

func (m *Machine) attempt(c *call) {
	c.due = m.now + m.jitter(callTime+callTime/2*time.Duration(c.try))
	var msg wire.Message = wire.Find{}
	if c.kind == callJoin {
		msg = wire.Join{Self: m.self()}
	}
	m.route(c.to, c.srcVia, c.rpc, msg, c.try)
}

func (m *Machine) expireCalls() {
	m.calls = slices.DeleteFunc(m.calls, func(c call) bool {
		over := m.now >= c.due && c.try+1 >= tries
		if over {
			m.unheard(c)
		}
		return over
	})
	for i := range m.calls {
		if c := &m.calls[i]; m.now >= c.due {
			c.try++
			m.attempt(c)
		}
	}
}

// unheard is a call in vain: a past peer that is not to be found on this ring
// is asked in a session.
func (m *Machine) unheard(c call) {
	if c.kind == callMerge && len(c.ask.Endpoints) > 0 && m.phase == OnRing {
		m.open(c.ask, nodeid.ID{}, WhyMerge)
	}
}

// joinAlso sends a Join under way through another first contact as well, which
// is no later attempt: the first answer counts.
func (m *Machine) joinAlso(through *conn) {
	for _, c := range m.calls {
		if c.kind == callJoin && m.phase == Attached {
			m.route(c.to, through.peer.ID, c.rpc, wire.Join{Self: m.self()}, c.try)
		}
	}
}

// onErr lets a call that was not delivered go on by the next peer soon.
func (m *Machine) onErr(rpc uint32) {
	for i := range m.calls {
		if c := &m.calls[i]; c.rpc == rpc {
			c.due = min(c.due, m.now+callAgain)
		}
	}
}

// answered returns and removes the call with that number.
func (m *Machine) answered(rpc uint32) (call, bool) {
	for i, c := range m.calls {
		if c.rpc == rpc {
			m.calls = slices.Delete(m.calls, i, i+1)
			return c, true
		}
	}
	return call{}, false
}

func (m *Machine) calling(kind callKind) bool {
	return slices.ContainsFunc(m.calls, func(c call) bool { return c.kind == kind })
}

// routed takes a payload.
func (m *Machine) routed(e Routed) {
	switch e.Header.Payload {
	case wire.TypeFind:
		take(e.Body, wire.ParseFind, func(wire.Find) { m.onFind(e.Header) })
	case wire.TypeJoin:
		take(e.Body, wire.ParseJoin, func(msg wire.Join) { m.onJoin(e.Header, msg) })
	case wire.TypeFound:
		take(e.Body, wire.ParseFound, func(msg wire.Found) { m.onFound(e.Header.RPC, msg) })
	case wire.TypeJoinAnswer:
		take(e.Body, wire.ParseJoinAnswer, func(msg wire.JoinAnswer) { m.onJoinAnswer(e.Header.RPC, msg) })
	case wire.TypeMerge:
		take(e.Body, wire.ParseMerge, func(msg wire.Merge) { m.onMerge(msg) })
	case wire.TypeErr:
		m.onErr(e.Header.RPC)
	}
}

// found is the answer to a lookup, with at most n peers a side.
func (m *Machine) found(n int) wire.Found {
	l := m.list
	l.Preds, l.Succs = l.Preds[:min(n, len(l.Preds))], l.Succs[:min(n, len(l.Succs))]
	return wire.Found{Self: m.self(), Size: sizeToWire(m.density), List: l}
}

// strangers is how many a side are told to a node that looks for its own
// place: it wants to know whether it knows them. Implementation.
const strangers = 2

func back(h wire.Header) wire.Target { return wire.Target{ID: h.Src, Exact: true, Via: h.SrcVia} }

func (m *Machine) onFind(h wire.Header) {
	if h.Src == m.cfg.ID {
		if c, ok := m.answered(h.RPC); ok {
			m.lookedFrom(c.srcVia)
		}
		return
	}
	n := wire.MaxList
	if h.To.ID == h.Src {
		n = strangers
	}
	m.route(back(h), nodeid.ID{}, h.RPC, m.found(n), 0)
}

func (m *Machine) onJoin(h wire.Header, msg wire.Join) {
	if h.Src == m.cfg.ID {
		return
	}
	a := wire.JoinAnswer{Found: m.found(near)}
	if m.phase != OnRing {
		a.Code = wire.CodeOffRing
	}
	m.route(back(h), nodeid.ID{}, h.RPC, a, 0)
	if a.Code == wire.CodeOK && msg.Self.ID == h.Src && h.SrcVia != (nodeid.ID{}) {
		m.introduce(wire.Newcomer{Self: msg.Self, Via: h.SrcVia})
	}
}

// newcomer is a node that was told of as joining.
type newcomer struct {
	id nodeid.ID
	at instant
}

// introduce tells the neighbours of a node that joins, and calls it, so that
// their calls are on the way while the answer is.
func (m *Machine) introduce(msg wire.Newcomer) {
	if !m.greet(msg) {
		return
	}
	for _, c := range m.conns {
		if c.roles&wire.RoleNear != 0 && c.out < 2 {
			m.send(c.peer.ID, msg)
		}
	}
}

// greet calls a node that joins, over the peer that it is connected to. It does
// so for a few in a while, and says whether it did.
func (m *Machine) greet(msg wire.Newcomer) bool {
	id := msg.Self.ID
	slot := &m.newcomers[0]
	for i := range m.newcomers {
		n := &m.newcomers[i]
		if n.id == id && m.now-n.at < newcomerTime {
			return false
		}
		if n.at < slot.at {
			slot = n
		}
	}
	if m.phase != OnRing || slot.id != (nodeid.ID{}) && m.now-slot.at < newcomerTime || !m.inWindow(id) {
		return false
	}
	*slot = newcomer{id, m.now}
	return m.open(wire.Contact{ID: id, Holder: msg.Self.Holder}, msg.Via, WhyNear)
}

func (m *Machine) bootstrap(list []wire.Contact) {
	m.contacts, m.vain = nil, 0
	for _, c := range list {
		if c.ID == m.cfg.ID || len(m.contacts) >= contacts {
			continue
		}
		same := func(o wire.Contact) bool {
			return o.ID == c.ID && (c.ID != nodeid.ID{} || slices.Equal(o.Endpoints, c.Endpoints))
		}
		if !slices.ContainsFunc(m.contacts, same) {
			m.contacts = append(m.contacts, c)
		}
	}
	if m.phase < OnRing {
		m.attachAt = m.now
		if m.cfg.Founder && m.foundAt == never {
			m.foundAt = m.now
			if len(m.contacts) > 0 {
				m.foundAt += m.jitter(foundAfter)
			}
		}
	}
}

// progress moves the node on towards membership, or back.
func (m *Machine) progress() {
	if m.phase == OnRing {
		m.stayMember()
		return
	}
	if m.phase != Init && len(m.conns) == 0 {
		m.calls = m.calls[:0]
		m.startOver(m.attachAt)
	}
	if m.phase == Joining && len(m.hints) == 0 && len(m.list.Preds) == 0 {
		m.phase, m.attachAt = Attached, m.now+m.jitter(callAgain)
	}
	if m.now >= m.attachAt {
		m.attach()
	}
	if m.phase == Joining {
		m.enter()
	}
	if m.phase != OnRing && m.now >= m.foundAt {
		m.become()
	}
}

// startOver is for a node without connections: first contacts are called, also
// one that was being asked whether there is another ring.
func (m *Machine) startOver(at instant) {
	m.phase, m.attachAt = Init, at
	m.opening = slices.DeleteFunc(m.opening, func(o opening) bool { return o.at.IsValid() })
}

// attach looks for a first contact, or asks one for the place on the ring.
func (m *Machine) attach() {
	m.attachAt = m.now + m.jitter(joinRetry)
	if m.phase == Init {
		first := m.cfg.Rand.IntN(max(1, len(m.contacts)))
		for i := range min(3, len(m.contacts)) {
			m.open(m.contacts[(first+i)%len(m.contacts)], nodeid.ID{}, WhyBootstrap)
		}
		m.stranded = 0
		if m.vain++; len(m.contacts) == 0 {
			m.attachAt = never
		} else if m.vain > fastTries {
			m.attachAt = m.now + m.jitter(min(slowestRetry, joinRetry<<min(m.vain-fastTries, 8)))
		}
		return
	}
	if m.phase == Attached {
		if m.stranded++; m.stranded > 1 {
			m.another()
		}
	}
	if m.phase == Joining {
		m.attachAt = m.now + m.jitter(joinAgain)
	}
	if !m.calling(callJoin) {
		m.begin(call{kind: callJoin, to: wire.Target{ID: m.cfg.ID}})
	}
}

// another looks for one more first contact: those that have answered may be as
// new as this node, and know nobody on the ring.
func (m *Machine) another() {
	first := m.cfg.Rand.IntN(max(1, len(m.contacts)))
	for i := range m.contacts {
		c := m.contacts[(first+i)%len(m.contacts)]
		if !m.reached(c) && m.open(c, nodeid.ID{}, WhyBootstrap) {
			return
		}
	}
}

// reached says that a contact known by an endpoint alone is a peer already.
func (m *Machine) reached(c wire.Contact) bool {
	return c.ID == (nodeid.ID{}) && slices.ContainsFunc(m.passive, func(p wire.Contact) bool {
		return m.conn(p.ID) != nil && slices.ContainsFunc(c.Endpoints, func(e netip.AddrPort) bool { return slices.Contains(p.Endpoints, e) })
	})
}

func (m *Machine) onJoinAnswer(rpc uint32, msg wire.JoinAnswer) {
	if _, ok := m.answered(rpc); !ok || m.phase != Attached && m.phase != Joining || msg.Code != wire.CodeOK {
		return
	}
	m.phase, m.attachAt, m.stranded = Joining, m.now+m.jitter(joinAgain), 0
	m.hint(msg.Found)
	if c := m.conn(msg.Found.Self.ID); c != nil && !c.ring() && c.out == 0 {
		c.ping, m.connDue = m.now, m.now // it has become a member since it was heard last
	}
	m.ahead, m.behind = m.edge(msg.Found, true), m.edge(msg.Found, false)
	m.dirty, m.regather = true, true
}

// edge is how far the fourth node named in an answer lies on one side of this
// one; to the whole ring if it names fewer.
func (m *Machine) edge(f wire.Found, clockwise bool) uint64 {
	x := make([]uint64, 0, hints)
	for _, side := range [3][]wire.Peer{{f.Self}, f.List.Succs, f.List.Preds} {
		for _, p := range side {
			d := p.ID.Prefix() - m.prefix
			if !clockwise {
				d = -d
			}
			x = append(x, d)
		}
	}
	if len(x) < 2*near {
		return ^uint64(0)
	}
	slices.Sort(x)
	return x[near-1]
}

// hint takes what an answer names as possible neighbours.
func (m *Machine) hint(f wire.Found) {
	m.hintVia = f.Self.ID
	for _, side := range [3][]wire.Peer{{f.Self}, f.List.Succs, f.List.Preds} {
		for _, p := range side {
			m.addHint(p)
		}
	}
	m.trimHints()
}

func (m *Machine) addHint(p wire.Peer) {
	known := slices.ContainsFunc(m.hints, func(o wire.Peer) bool { return o.ID == p.ID })
	if p.ID != m.cfg.ID && !known && m.conn(p.ID) == nil && !m.gone(p.ID) {
		if len(m.hints) >= hints {
			m.trimHints()
		}
		m.hints, m.seek = append(m.hints, p), true
	}
}

// trimHints keeps the four nearest on each side.
func (m *Machine) trimHints() {
	keep := make([]wire.Peer, 0, 2*near)
	for _, clockwise := range [2]bool{true, false} {
		slices.SortFunc(m.hints, func(a, b wire.Peer) int {
			if a.ID == b.ID {
				return 0
			}
			if m.nearer(a.ID, b.ID, clockwise) {
				return -1
			}
			return 1
		})
		for _, p := range m.hints[:min(near, len(m.hints))] {
			if !slices.ContainsFunc(keep, func(o wire.Peer) bool { return o.ID == p.ID }) {
				keep = append(keep, p)
			}
		}
	}
	m.hints = keep
}

// placed says that the nearest on each side that this node has heard of is
// connected, so that its list is as good as theirs. Who was not reached does not
// count: whether this node is a member is for its predecessor to say, who knows
// whether somebody lies between them.
func (m *Machine) placed() bool {
	if len(m.list.Succs) == 0 || len(m.list.Preds) == 0 {
		return false
	}
	s, p := m.list.Succs[0].ID, m.list.Preds[0].ID
	for _, h := range m.hints {
		if (m.nearer(h.ID, s, true) || m.nearer(h.ID, p, false)) && !m.held(h.ID) {
			return false
		}
	}
	sc, pc := m.conn(s), m.conn(p)
	return sc != nil && pc != nil && sc.ring() && pc.ring()
}

// enter asks the predecessor to list this node, and makes it a member when it
// is listed.
func (m *Machine) enter() {
	if !m.placed() {
		return
	}
	p := m.conn(m.list.Preds[0].ID)
	if !m.rules.listed || p.member() && len(p.list.Succs) > 0 && p.list.Succs[0].ID == m.cfg.ID {
		m.become()
		return
	}
	m.rectify(p)
	m.rectify(m.conn(m.list.Succs[0].ID))
}

// rectify tells a neighbour again that this node is there.
func (m *Machine) rectify(c *conn) {
	if c == nil || m.now < c.linkAt {
		return
	}
	c.linkAt = m.now + m.jitter(askNear)
	m.send(c.peer.ID, wire.Link{Role: wire.RoleNear, Status: m.status()})
	m.send(c.peer.ID, wire.NeighAsk{Have: c.have})
}

// become makes this node a member.
func (m *Machine) become() {
	m.phase, m.dirty, m.regather = OnRing, true, true
	m.foundAt, m.attachAt = never, never
	m.mergeAt = m.now + m.jitter(mergeEvery)
	m.farAt = m.now
	m.renewAt = m.now + m.jitter(farRenew)
	m.act(Member{On: true})
	for _, c := range m.conns {
		m.release(c, wire.RoleLeaf)
	}
	m.announce()
}

// stayMember ends membership when no neighbour is left, except of a founder
// that is alone.
func (m *Machine) stayMember() {
	if slices.ContainsFunc(m.conns, func(c *conn) bool { return c.ring() }) {
		if len(m.list.Preds) == 0 {
			return
		}
		p := m.conn(m.list.Preds[0].ID)
		if p != nil && p.have != 0 && (len(p.list.Succs) == 0 || p.list.Succs[0].ID != m.cfg.ID) {
			m.rectify(p)
		}
		return
	}
	if m.cfg.Founder {
		return
	}
	m.startOver(m.now)
	if len(m.conns) > 0 {
		m.phase = Attached
	}
	m.mergeAt, m.farAt, m.renewAt = never, never, never
	m.act(Member{On: false})
}

// wantMerge looks, from a random first contact and a random past peer in turn,
// who its nearest neighbours are: strangers are of another ring.
func (m *Machine) wantMerge() {
	if m.phase != OnRing || m.now < m.mergeAt {
		return
	}
	m.mergeAt = m.now + m.jitter(mergeEvery)
	m.kicked = m.now
	m.turn = !m.turn
	from, ok := m.pastPeer(m.turn)
	if !ok {
		from, ok = m.pastPeer(!m.turn)
	}
	switch {
	case ok && (from.ID == nodeid.ID{} || len(m.conns) == 0):
		m.open(from, nodeid.ID{}, WhyMerge)
	case ok: // over the ring, if it is on this one
		m.begin(call{kind: callMerge, to: wire.Target{ID: m.cfg.ID, Via: from.ID}, srcVia: from.ID, ask: from})
	case len(m.conns) > 0:
		m.lookElsewhere(m.conns[m.cfg.Rand.IntN(len(m.conns))])
	}
}

// pastPeer returns a random first contact, or past peer, that is not connected.
func (m *Machine) pastPeer(first bool) (wire.Contact, bool) {
	list := m.passive
	if first {
		list = m.contacts
	}
	start := 0
	if len(list) > 0 {
		start = m.cfg.Rand.IntN(len(list))
	}
	for i := range list {
		if c := list[(start+i)%len(list)]; m.conn(c.ID) == nil && !m.held(c.ID) {
			return c, true
		}
	}
	return wire.Contact{}, false
}

// lookElsewhere asks through a peer.
func (m *Machine) lookElsewhere(c *conn) {
	m.begin(call{kind: callMerge, to: wire.Target{ID: m.cfg.ID, Via: c.peer.ID}, srcVia: c.peer.ID})
}

// lookedFrom lets go of the peer that a lookup began at.
func (m *Machine) lookedFrom(id nodeid.ID) {
	if c := m.conn(id); c != nil {
		m.release(c, wire.RoleLeaf)
	}
}

func (m *Machine) onFound(rpc uint32, msg wire.Found) {
	c, ok := m.answered(rpc)
	if !ok {
		return
	}
	switch c.kind {
	case callFar:
		m.farFound(msg)
	case callMerge:
		m.lookedFrom(c.srcVia)
		if m.phase != OnRing || msg.Self.ID == m.cfg.ID {
			return
		}
		m.hint(msg)
		m.hints = slices.DeleteFunc(m.hints, func(p wire.Peer) bool { return !m.inWindow(p.ID) })
		if len(m.hints) > 0 {
			m.hintVia = c.srcVia
			m.kick(msg.Self)
		}
	}
}

// kick tells all connections that there is another ring.
func (m *Machine) kick(through wire.Peer) {
	for _, c := range m.conns {
		if c.member() && c.peer.ID != through.ID {
			m.route(wire.Target{ID: c.peer.ID, Exact: true}, nodeid.ID{}, 0, wire.Merge{Through: through}, 0)
		}
	}
}

// onMerge looks at once, at most every few seconds.
func (m *Machine) onMerge(msg wire.Merge) {
	if m.phase != OnRing || m.now-m.kicked < mergeAgain {
		return
	}
	m.kicked = m.now
	m.mergeAt = m.now + time.Duration(m.cfg.Rand.Int64N(int64(time.Second)))
	if m.inWindow(msg.Through.ID) {
		m.addHint(msg.Through)
	}
}
