package ring

import (
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// conn is a session with a peer and what it is for.
type conn struct {
	peer   wire.Peer
	cw     nodeid.ID // how far clockwise of this node
	prefix uint64
	asked  bool      // this node began it
	gone   bool      // dropped
	roles  wire.Role // what this node keeps it for
	theirs wire.Role // what the peer keeps it for
	until  instant   // roles demand and leaf end
	leafBy instant   // the peer's leaf role ends
	idle   instant   // when it lost its last role

	status wire.Status
	heard  instant // last message of any kind
	list   wire.List
	fresh  bool     // the list was not looked through yet
	told   []uint64 // prefixes of the peer's connections: list and far
	have   uint32   // version of list
	askAt  instant  // not to ask for the list before
	linkAt instant  // not to ask to be listed before

	rtt             rtt
	ping            instant // next Ping when nothing is out, else when the last one counts as lost
	out             int     // Pings without answer
	first, number   uint32  // of the first and the last Ping without answer
	firstSent, sent instant
	trial           *trial  // nil: nothing suspected
	farAt           instant // when it was drawn
}

func (c *conn) ring() bool   { return c.status.Flags&(wire.StatusMember|wire.StatusReady) != 0 }
func (c *conn) known() bool  { return c.status.Version != 0 }
func (c *conn) member() bool { return c.status.Flags&wire.StatusMember != 0 }

// near says that one of the two counts the other among its neighbours.
func (c *conn) near() bool { return (c.roles|c.theirs)&wire.RoleNear != 0 }

// shortcut says that the connection is told to others for lookahead.
func (c *conn) shortcut() bool {
	all := c.roles | c.theirs
	return c.member() && all&(wire.RoleFar|wire.RoleDemand) != 0 && c.roles&wire.RoleNear == 0
}

func (c *conn) deadline() instant {
	d := c.ping
	if c.roles == 0 && c.theirs == 0 {
		d = min(d, c.idle+roleGrace)
	}
	if c.roles&(wire.RoleDemand|wire.RoleLeaf) != 0 {
		d = min(d, c.until)
	}
	if c.theirs&wire.RoleLeaf != 0 {
		d = min(d, c.leafBy)
	}
	if c.have != c.status.Version && c.near() {
		d = min(d, c.askAt)
	}
	return d
}

// find returns where the peer at id is, or would be, among conns.
func (m *Machine) find(id nodeid.ID) (int, bool) {
	cw := nodeid.Clockwise(m.cfg.ID, id)
	place := cw.Prefix()
	i, end := 0, len(m.places)
	for i < end {
		if mid := (i + end) / 2; m.places[mid] < place {
			i = mid + 1
		} else {
			end = mid
		}
	}
	for ; i < len(m.places) && m.places[i] == place; i++ {
		if order := m.conns[i].cw.Compare(cw); order >= 0 {
			return i, order == 0
		}
	}
	return i, false
}

// conn returns the connection with id, or nil.
func (m *Machine) conn(id nodeid.ID) *conn {
	if i, ok := m.find(id); ok {
		return m.conns[i]
	}
	return nil
}

func (m *Machine) linkUp(e LinkUp) {
	id := e.Contact.ID
	if id == m.cfg.ID {
		return
	}
	if old := m.conn(id); old != nil {
		m.drop(old)
	}
	o, asked := m.takeOpening(id, e.Asked)
	m.forgive(id)
	m.remember(e.Contact)
	c := &conn{
		peer: wire.Peer{ID: id, Holder: e.Contact.Holder}, cw: nodeid.Clockwise(m.cfg.ID, id), prefix: id.Prefix(),
		asked: asked, idle: m.now, heard: m.now,
	}
	c.rtt.restart(e.RTT)
	c.ping, m.connDue = m.now, m.now // at once: status, version and coordinate of the peer
	if len(m.conns) >= m.cfg.Degree+reserve && !m.makeRoom(c) {
		m.act(Close{ID: id, Why: WhyUnused})
		return
	}
	i, _ := m.find(id)
	m.conns, m.places = slices.Insert(m.conns, i, c), slices.Insert(m.places, i, c.cw.Prefix())
	m.dirty = true
	if m.joinAlso(c); asked {
		m.opened(c, o.why)
	}
	if m.phase == Init { // whatever it was asked for
		m.phase = Attached
		m.attachAt = m.now
	}
}

// opened gives a connection that this node asked for its role.
func (m *Machine) opened(c *conn, why Why) {
	switch why {
	case WhyBootstrap:
		m.take(c, wire.RoleLeaf)
	case WhyMerge:
		m.take(c, wire.RoleLeaf)
		m.lookElsewhere(c)
	case WhyFar:
		m.take(c, wire.RoleFar)
		c.farAt = m.now
	case WhyDemand:
		m.take(c, wire.RoleDemand)
	case WhyNear:
		// refresh gives the role
	}
}

// Roles returns what a connection is for, to either of its ends; 0 when there
// is none.
func (m *Machine) Roles(id nodeid.ID) wire.Role {
	if c := m.conn(id); c != nil {
		return c.roles | c.theirs
	}
	return 0
}

// take adds a role of this node's own and tells the peer.
func (m *Machine) take(c *conn, role wire.Role) {
	if role == wire.RoleLeaf || role == wire.RoleDemand {
		c.until = m.now + demandTime
	}
	c.roles |= role
	m.send(c.peer.ID, wire.Link{Role: role, Status: m.status()})
}

// release takes a role back and tells the peer.
func (m *Machine) release(c *conn, role wire.Role) {
	if c.roles&role == 0 {
		return
	}
	c.roles &^= role
	c.idle = m.now
	m.send(c.peer.ID, wire.Unlink{Role: role})
}

// drop forgets a connection whose session is gone or about to be closed.
func (m *Machine) drop(c *conn) {
	if i, ok := m.find(c.peer.ID); ok {
		m.conns, m.places = slices.Delete(m.conns, i, i+1), slices.Delete(m.places, i, i+1)
		m.dirty, m.regather, c.gone = true, true, true
		m.answerAsks(c, wire.FindingNoLink)
	}
}

func (m *Machine) close(c *conn, why Why) {
	m.drop(c)
	m.act(Close{ID: c.peer.ID, Why: why})
}

// makeRoom closes the least useful connection for one that will be a
// neighbour. It says whether there is room now.
func (m *Machine) makeRoom(c *conn) bool {
	if !m.inWindow(c.peer.ID) {
		return false
	}
	var worst *conn
	for _, o := range m.conns {
		if !o.near() && (worst == nil || o.worth() < worst.worth()) {
			worst = o
		}
	}
	if worst == nil {
		return false
	}
	m.close(worst, WhyUnused)
	return true
}

// worth orders connections for makeRoom: none, leaf, on demand, far.
func (c *conn) worth() int {
	switch all := c.roles | c.theirs; {
	case all == 0:
		return 0
	case all == wire.RoleLeaf:
		return 1
	case c.roles == 0:
		return 2
	}
	return 3
}

// ageRoles ends what has a time and closes what has no role.
func (m *Machine) ageRoles(c *conn) {
	if c.roles&(wire.RoleDemand|wire.RoleLeaf) != 0 && m.now >= c.until {
		m.release(c, wire.RoleDemand)
		m.release(c, wire.RoleLeaf)
	}
	if c.theirs&wire.RoleLeaf != 0 && m.now >= c.leafBy {
		c.theirs &^= wire.RoleLeaf
		c.idle = m.now
	}
	if c.roles == 0 && c.theirs == 0 && m.now-c.idle >= roleGrace {
		m.close(c, WhyUnused)
	}
}

// onLink answers a peer that wants the connection for a role.
func (m *Machine) onLink(c *conn, msg wire.Link) {
	code := wire.CodeOK
	if msg.Role != wire.RoleNear && c.theirs&msg.Role == 0 && (len(m.conns) > m.cfg.Degree || msg.Role == wire.RoleFar && m.farTaken() >= maxTaken) {
		code = wire.CodeFull
	}
	if code == wire.CodeOK {
		c.theirs |= msg.Role
		if msg.Role == wire.RoleLeaf {
			c.leafBy = m.now + leafTime
		}
	}
	m.send(c.peer.ID, wire.LinkAnswer{Role: msg.Role, Code: code})
	if msg.Role == wire.RoleNear {
		m.dirty = true
	}
}

func (m *Machine) onLinkAnswer(c *conn, msg wire.LinkAnswer) {
	if msg.Code == wire.CodeOK || c.roles&msg.Role == 0 {
		return
	}
	c.roles &^= msg.Role
	c.idle = m.now
	if msg.Role == wire.RoleFar {
		m.farRefused()
	}
}

func (m *Machine) onUnlink(c *conn, msg wire.Unlink) {
	if msg.Code == wire.CodeLeaving {
		m.bury(c.peer.ID, deadTime)
		m.close(c, WhyLeaving)
		return
	}
	c.theirs &^= msg.Role
	c.idle = m.now
	m.dirty = true
}

// demand keeps a connection while there is traffic, or asks for one.
func (m *Machine) demand(id nodeid.ID) {
	if c := m.conn(id); c != nil {
		if c.roles&wire.RoleDemand == 0 {
			m.take(c, wire.RoleDemand)
		}
		c.until = m.now + demandTime
		return
	}
	n := 0
	for _, c := range m.conns {
		if c.roles&wire.RoleDemand != 0 {
			n++
		}
	}
	if n < maxDemand && len(m.conns) < m.cfg.Degree {
		m.open(wire.Contact{ID: id}, nodeid.ID{}, WhyDemand)
	}
}

func (m *Machine) leave() {
	for _, c := range m.conns {
		m.send(c.peer.ID, wire.Unlink{Role: wire.RoleNear, Code: wire.CodeLeaving})
		m.act(Close{ID: c.peer.ID, Why: WhyLeaving})
	}
	if m.phase == OnRing {
		m.act(Member{On: false})
	}
	m.phase, m.deadline = Left, never
	m.conns, m.places, m.list = nil, nil, wire.List{}
}

// opening is an Open under way.
type opening struct {
	id    nodeid.ID      // zero: of whoever answers at
	at    netip.AddrPort // this endpoint
	why   Why
	until instant
}

// open asks for a session unless one is there, under way, or was tried in
// vain a moment ago. It says whether it asked.
func (m *Machine) open(to wire.Contact, via nodeid.ID, why Why) bool {
	o := opening{id: to.ID, why: why, until: m.now + OpenTimeout}
	if to.ID == (nodeid.ID{}) && len(to.Endpoints) > 0 {
		o.at = to.Endpoints[0]
	} else if to.ID == m.cfg.ID || m.conn(to.ID) != nil || m.held(to.ID) {
		return false
	}
	same := func(p opening) bool { return p.id == o.id && p.at == o.at }
	if len(m.opening) >= openings || slices.ContainsFunc(m.opening, same) {
		return false
	}
	m.opening = append(m.opening, o)
	m.act(Open{Contact: to, Via: via, Why: why})
	return true
}

// takeOpening returns and removes what was asked for: this node, or whoever
// answers at the endpoint. When it was both, the endpoint counts: who has no
// place on the ring keeps a first contact.
func (m *Machine) takeOpening(id nodeid.ID, at netip.AddrPort) (taken opening, ok bool) {
	m.opening = slices.DeleteFunc(m.opening, func(o opening) bool {
		byEndpoint := o.at.IsValid() && o.at == at
		if !byEndpoint && (o.at.IsValid() || o.id != id) {
			return false
		}
		if !ok || byEndpoint {
			taken, ok = o, true
		}
		return true
	})
	return taken, ok
}

func (m *Machine) linkFailed(id nodeid.ID, at netip.AddrPort) {
	o, ok := m.takeOpening(id, at)
	m.seek = true
	if !ok || o.at.IsValid() {
		return
	}
	m.fail(id)
	m.dirty, m.regather = true, true
	if o.why == WhyFar {
		m.farRefused()
	}
}

func (m *Machine) expireOpenings() {
	for i := 0; i < len(m.opening); {
		if o := m.opening[i]; m.now >= o.until {
			m.linkFailed(o.id, o.at)
			continue
		}
		i++
	}
}

// remember keeps a past peer, for merging.
func (m *Machine) remember(c wire.Contact) {
	if len(c.Endpoints) == 0 {
		return
	}
	for i := range m.passive {
		if m.passive[i].ID == c.ID {
			m.passive[i] = c
			return
		}
	}
	if len(m.passive) < passive {
		m.passive = append(m.passive, c)
	} else {
		m.passive[m.cfg.Rand.IntN(passive)] = c
	}
}

// grave is a node that is not to be believed in, or not to be tried, for a
// while.
type grave struct {
	id     nodeid.ID
	until  instant
	fails  uint8 // Opens in vain
	dead   bool  // not to be listed
	wanted bool  // to be tried again then
}

func (m *Machine) grave(id nodeid.ID) *grave {
	for i := range m.graves {
		if m.graves[i].id == id {
			return &m.graves[i]
		}
	}
	return nil
}

// dig returns the grave of id, a new one in place of the oldest if need be.
func (m *Machine) dig(id nodeid.ID) *grave {
	if g := m.grave(id); g != nil {
		return g
	}
	if len(m.graves) < graves {
		m.graves = append(m.graves, grave{id: id})
		return &m.graves[len(m.graves)-1]
	}
	oldest := &m.graves[0]
	for i := range m.graves {
		if m.graves[i].until < oldest.until {
			oldest = &m.graves[i]
		}
	}
	*oldest = grave{id: id}
	return oldest
}

func (m *Machine) bury(id nodeid.ID, d time.Duration) {
	g := m.dig(id)
	g.until, g.dead = m.now+d, true
	m.dirty = true
}

// fail counts an Open in vain; the third in a row takes the node off the list
// until it is tried again.
func (m *Machine) fail(id nodeid.ID) {
	g := m.dig(id)
	g.fails = min(g.fails+1, 6)
	g.until = m.now + m.jitter(min(retryOpen<<(g.fails-1), deadTime))
	g.dead = g.dead || g.fails >= 3
}

// forgive forgets that a node was dead or not reached.
func (m *Machine) forgive(id nodeid.ID) {
	for i := range m.graves {
		if m.graves[i].id == id {
			m.graves = slices.Delete(m.graves, i, i+1)
			return
		}
	}
}

// exhume lets nodes be listed again when their time is over.
func (m *Machine) exhume() {
	for i := range m.graves {
		if g := &m.graves[i]; (g.dead || g.wanted) && m.now >= g.until {
			g.dead, g.wanted = false, false
			m.dirty, m.regather = true, true
		}
	}
}

// held says that a node is not to be tried yet.
func (m *Machine) held(id nodeid.ID) bool {
	g := m.grave(id)
	return g != nil && m.now < g.until
}

// gone says that a node is not to be listed.
func (m *Machine) gone(id nodeid.ID) bool {
	g := m.grave(id)
	return g != nil && g.dead && m.now < g.until
}
