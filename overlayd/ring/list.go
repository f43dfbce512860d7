package ring

import (
	"math"
	"slices"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// refresh makes lists and near roles anew after something changed.
func (m *Machine) refresh() {
	m.dirty, m.seek = false, true
	m.resize()
	succs := m.side(nil, true)
	preds := m.side(nil, false)
	if !slices.EqualFunc(succs, m.list.Succs, same) || !slices.EqualFunc(preds, m.list.Preds, same) {
		m.list = wire.List{Preds: preds, Succs: succs}
		m.version++
		m.regather = true
		m.act(Changed{})
		m.announce()
	}
	m.gather()
	for _, c := range m.conns {
		if c.ring() && m.inReach(c.peer.ID) && m.wantedNear(c.peer.ID) {
			if c.roles&wire.RoleNear == 0 {
				m.take(c, wire.RoleNear)
				c.linkAt = m.now + askNear
			}
		} else {
			m.release(c, wire.RoleNear)
		}
	}
}

// restate gives the list a new version when the far links are others.
func (m *Machine) restate() {
	sum := uint64(0)
	for _, c := range m.conns {
		if c.shortcut() {
			sum += c.prefix
		}
	}
	if sum != m.farSum {
		m.farSum = sum
		m.version++
	}
}

// gather takes as hints whom peers list in this node's window: stabilise. A
// hint is connected to, and listed only then. A list is looked through when it
// is new, and again when something changed that hints depend on.
func (m *Machine) gather() {
	if m.phase < Joining {
		return
	}
	all := m.regather
	m.regather = false
	ahead, behind := ^uint64(0), ^uint64(0) // how far the window reaches, in prefixes
	if p, s := m.list.Preds, m.list.Succs; len(p) >= near && len(s) >= near {
		ahead, behind = s[near-1].ID.Prefix()-m.prefix, m.prefix-p[near-1].ID.Prefix()
	}
	for _, c := range m.conns {
		if !all && !c.fresh {
			continue
		}
		c.fresh = false
		for _, side := range [2][]wire.Peer{c.list.Succs, c.list.Preds} {
			for _, p := range side {
				if x := p.ID.Prefix() - m.prefix; x > ahead && -x > behind || !m.inWindow(p.ID) {
					continue
				}
				m.addHint(p)
			}
		}
	}
	if len(m.hints) > 2*near {
		m.trimHints()
	}
}

func same(a, b wire.Peer) bool { return a.ID == b.ID }

// side appends one side of the list: connected peers on the ring in order, and
// behind each what it claims up to the next.
func (m *Machine) side(list []wire.Peer, clockwise bool) []wire.Peer {
	linked := m.linked(clockwise)
	claims := wire.MaxList - len(linked)
	holders := 0
	for i := 0; i < len(linked) && holders < m.r && len(list) < wire.MaxList; i++ {
		c := linked[i]
		list = append(list, c.peer)
		holders += m.newHolder(list)
		told := c.list.Succs
		if !clockwise {
			told = c.list.Preds
		}
		for _, p := range told {
			if i+1 < len(linked) && !m.nearer(p.ID, linked[i+1].peer.ID, clockwise) || claims == 0 || holders >= m.r {
				break
			}
			if p.ID == m.cfg.ID || m.nearer(p.ID, list[len(list)-1].ID, clockwise) {
				break // the peer's list goes on round the ring
			}
			if other := m.conn(p.ID); p.ID != list[len(list)-1].ID && !m.gone(p.ID) && (other == nil || !other.known() || other.ring()) {
				list = append(list, p)
				holders += m.newHolder(list)
				claims--
			}
		}
	}
	return list
}

// linked returns up to near connected peers on the ring, the nearest first;
// if they are all of one holder, also the next of another, if it lies where
// an honest ring would have it: so the nodes of one holder, with IDs ground to
// be nearest, do not part a node from everybody else.
func (m *Machine) linked(clockwise bool) []*conn {
	var out [near + 1]*conn
	n := 0
	for i := range m.conns {
		c := m.conns[i]
		if !clockwise {
			c = m.conns[len(m.conns)-1-i]
		}
		switch {
		case !c.ring(), !m.rules.rectify && !clockwise && !c.asked:
			continue
		case n < near:
			out[n] = c
			n++
			continue
		case severalHolders(out[:near]):
			return slices.Clone(out[:n])
		case nodeid.Distance(m.cfg.ID, c.peer.ID).Fraction() > honestReach/math.Exp2(m.size):
			return slices.Clone(out[:n])
		case c.peer.Holder != out[0].peer.Holder:
			out[n] = c
			return slices.Clone(out[:n+1])
		}
	}
	return slices.Clone(out[:n])
}

// honestReach is how many mean gaps away the nearest of another holder is
// still looked for.
const honestReach = 16

func severalHolders(conns []*conn) bool {
	return slices.ContainsFunc(conns, func(c *conn) bool { return c.peer.Holder != conns[0].peer.Holder })
}

// newHolder is 1 if the last of the list is the first of its holder.
func (m *Machine) newHolder(list []wire.Peer) int {
	last := list[len(list)-1]
	for _, p := range list[:len(list)-1] {
		if p.Holder == last.Holder {
			return 0
		}
	}
	return 1
}

// nearer says whether a lies before b, going from this node.
func (m *Machine) nearer(a, b nodeid.ID, clockwise bool) bool {
	if clockwise {
		return nodeid.Clockwise(m.cfg.ID, a).Compare(nodeid.Clockwise(m.cfg.ID, b)) < 0
	}
	return nodeid.Clockwise(a, m.cfg.ID).Compare(nodeid.Clockwise(b, m.cfg.ID)) < 0
}

// wanted are the peers of one side to be connected with: the first four, and
// the nearest of another holder if they are all of one.
func wanted(side []wire.Peer) (first []wire.Peer, other *wire.Peer) {
	first = side[:min(near, len(side))]
	for i := range first {
		if first[i].Holder != first[0].Holder {
			return first, nil
		}
	}
	for i := len(first); i < len(side); i++ {
		if side[i].Holder != first[0].Holder {
			return first, &side[i]
		}
	}
	return first, nil
}

func (m *Machine) wantedNear(id nodeid.ID) bool {
	for _, side := range [2][]wire.Peer{m.list.Preds, m.list.Succs} {
		first, other := wanted(side)
		if other != nil && other.ID == id {
			return true
		}
		for i := range first {
			if first[i].ID == id {
				return true
			}
		}
	}
	return false
}

// inWindow says whether a node would be among the first four of a side.
func (m *Machine) inWindow(id nodeid.ID) bool {
	if !m.inReach(id) {
		return false
	}
	p, s := m.list.Preds, m.list.Succs
	return len(s) < near || len(p) < near || m.nearer(id, s[near-1].ID, true) || m.nearer(id, p[near-1].ID, false)
}

// inReach says, while this node joins, whether a node lies among those that the
// answer to its Join named: the lists of its first contacts are not yet its own.
func (m *Machine) inReach(id nodeid.ID) bool {
	x := id.Prefix() - m.prefix
	return m.phase == OnRing || m.phase == Joining && (x <= m.ahead || -x <= m.behind)
}

// wantNear connects with listed nodes that should be connected: stabilise.
func (m *Machine) wantNear() {
	m.seek = false
	for _, side := range [2][]wire.Peer{m.list.Preds, m.list.Succs} {
		first, other := wanted(side)
		for _, p := range first {
			m.approach(p)
		}
		if other != nil {
			m.approach(*other)
		}
	}
	m.hints = slices.DeleteFunc(m.hints, func(p wire.Peer) bool {
		return m.conn(p.ID) != nil || m.gone(p.ID) || !m.inWindow(p.ID)
	})
	for _, p := range m.hints {
		m.approach(p)
	}
}

func (m *Machine) approach(p wire.Peer) {
	if p.ID == m.cfg.ID || m.conn(p.ID) != nil || !m.inReach(p.ID) {
		return
	}
	if g := m.grave(p.ID); g != nil && m.now < g.until {
		g.wanted = true
		return
	}
	via := m.lister(p.ID)
	if via == (nodeid.ID{}) && m.hintVia != p.ID {
		via = m.hintVia
	}
	m.open(wire.Contact{ID: p.ID, Holder: p.Holder}, via, WhyNear)
}

// lister returns a connected peer that lists id, the nearest to it of those that
// answer; the zero ID if none does.
func (m *Machine) lister(id nodeid.ID) (best nodeid.ID) {
	for _, c := range m.conns {
		if c.peer.ID == id || c.out > 0 || !lists(c.list, id) {
			continue
		}
		if best == (nodeid.ID{}) || nodeid.Distance(c.peer.ID, id).Compare(nodeid.Distance(best, id)) < 0 {
			best = c.peer.ID
		}
	}
	return best
}

func lists(l wire.List, id nodeid.ID) bool {
	is := func(p wire.Peer) bool { return p.ID == id }
	return slices.ContainsFunc(l.Succs, is) || slices.ContainsFunc(l.Preds, is)
}

// announce tells the neighbours at once that the list is another. Who is ready
// waits for it to become a member, and is told the list itself.
func (m *Machine) announce() {
	for _, c := range m.conns {
		switch {
		case !c.near():
		case c.status.Flags&(wire.StatusReady|wire.StatusMember) == wire.StatusReady:
			m.send(c.peer.ID, m.neigh())
		case c.out == 0:
			c.ping = m.now
			m.beat(c)
		}
	}
}

// neigh is the whole list, as told to peers.
func (m *Machine) neigh() wire.Neigh {
	n := wire.Neigh{Status: m.status(), List: m.list}
	for _, c := range m.conns {
		if c.shortcut() && len(n.Far) < wire.MaxFar {
			n.Far = append(n.Far, c.prefix)
		}
	}
	return n
}

// onNeigh takes a peer's list, whole.
func (m *Machine) onNeigh(c *conn, msg wire.Neigh) {
	if len(msg.List.Succs) > 0 && !m.rules.atomic && len(c.list.Succs) > 0 {
		msg.List.Succs = append(msg.List.Succs[:1:1], c.list.Succs[min(1, len(c.list.Succs)):]...)
	}
	m.onStatus(c, msg.Status)
	if c.have != 0 && older(msg.Status.Version, c.have) {
		return
	}
	c.have = msg.Status.Version
	c.list, c.fresh = wire.List{}, true
	if c.near() || m.phase != OnRing {
		c.list = tidy(msg.List, c.peer.ID)
	}
	if n := len(msg.List.Preds) + len(msg.List.Succs) + len(msg.Far); cap(c.told) < n || cap(c.told) > n+8 {
		c.told = make([]uint64, 0, n)
	}
	c.told = c.told[:0]
	for _, p := range msg.List.Preds {
		c.told = append(c.told, p.ID.Prefix())
	}
	for _, p := range msg.List.Succs {
		c.told = append(c.told, p.ID.Prefix())
	}
	c.told = append(c.told, msg.Far...)
	m.dirty = true
}

// tidy keeps the leading part of each side that is ordered.
func tidy(l wire.List, from nodeid.ID) wire.List {
	last := nodeid.ID{}
	for i, p := range l.Succs {
		d := nodeid.Clockwise(from, p.ID)
		if d.Compare(last) <= 0 {
			l.Succs = l.Succs[:i]
			break
		}
		last = d
	}
	last = nodeid.ID{}
	for i, p := range l.Preds {
		d := nodeid.Clockwise(p.ID, from)
		if d.Compare(last) <= 0 {
			l.Preds = l.Preds[:i]
			break
		}
		last = d
	}
	return l
}

// resize estimates the number of members from how dense the list is, and takes
// the median of that and what the peers estimate; a few liars change nothing.
func (m *Machine) resize() {
	m.density = density(m.cfg.ID, m.list)
	sizes := append(make([]float64, 0, 64), m.density)
	for _, c := range m.conns {
		if c.member() && c.status.Size > 0 && len(sizes) < cap(sizes) {
			sizes = append(sizes, sizeFromWire(c.status.Size))
		}
	}
	slices.Sort(sizes)
	m.size = sizes[len(sizes)/2]
	if m.rules.size > 0 {
		m.size = m.rules.size
	}
	m.r = min(max(m.rules.list, int(math.Ceil(m.size/2))), wire.MaxList)
}

// density is log2 of the members that a node's list lets expect. A list that
// goes round the whole ring counts them.
func density(self nodeid.ID, l wire.List) float64 {
	p, s := l.Preds, l.Succs
	if len(p) == 0 || len(s) == 0 {
		return 0
	}
	there := nodeid.Clockwise(self, s[len(s)-1].ID).Fraction()
	back := nodeid.Clockwise(p[len(p)-1].ID, self).Fraction()
	if there+back >= 1 {
		n := 1 + len(s)
		for _, x := range p {
			if !slices.ContainsFunc(s, func(y wire.Peer) bool { return x.ID == y.ID }) {
				n++
			}
		}
		return math.Log2(float64(n))
	}
	return math.Log2(float64(len(p)+len(s)) / (there + back))
}

// Size returns the estimated number of members.
func (m *Machine) Size() float64 { return math.Exp2(m.size) }

func sizeToWire(log2 float64) uint16   { return uint16(min(max(log2, 0), 128) * 256) }
func sizeFromWire(size uint16) float64 { return min(float64(size)/256, 128) }
