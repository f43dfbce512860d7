package link

import (
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// peer is one node, for one purpose, and the paths to it.
type peer struct {
	key
	contact wire.Contact // as wanted, or as known
	over    nodeid.ID
	wanted  bool // by the layer above
	s       *session.Session
	since   time.Time // of s
	up      bool      // told
	told    State     // told last
	toldOn  bool      // the ring
	toldTCP bool
	toldRTT time.Duration

	remote   wire.Candidates
	versions wire.Versions
	paths    []*path
	best     *path
	ids      uint8 // the last path id given
	pairs    []*pair
	round    int       // rounds of checks begun
	roundEnd time.Time // of the one under way; zero: none
	nextTry  time.Time // of the next round
	extra    int       // checks still to be sent after a success
	extraAt  time.Time

	sentBytes, heardBytes uint64 // of records; the data path counts its own

	active   time.Time // last traffic of the layer above
	indirect time.Time // since when there is traffic without a direct path; zero: none
	sprayed  time.Time // last spray
	alone    time.Time // since when a link has had the ring's path only

	channels map[uint16]nodeid.ID // of a link to a relay: whose each channel is
	detour   session.Via          // a virtual endpoint that was a path; zero: none
	relayAt  time.Time            // when a relay is asked for next
	helper   []nodeid.ID          // relays wanted for this peer's sake
	helping  int                  // peers that want this one as their relay
	needed   time.Time            // of a relay: when that is said next
}

func (m *Machine) peer(k key) *peer {
	p := m.byKey[k]
	if p == nil && len(m.peers) < maxPeers {
		p = &peer{key: k, contact: wire.Contact{ID: k.id}}
		m.peers = append(m.peers, p)
		m.byKey[k] = p
	}
	return p
}

// remove forgets a peer.
func (m *Machine) remove(p *peer) {
	if m.byKey[p.key] == p {
		delete(m.byKey, p.key)
	}
	if i := slices.Index(m.peers, p); i >= 0 {
		m.peers = slices.Delete(m.peers, i, i+1)
	}
	m.endSpray(p)
	m.releaseHelpers(p)
	if p.purpose == session.LinkPurpose {
		m.dropRelay(p.id)
	}
}

// want begins a session, unless there is one.
func (m *Machine) want(now time.Time, e Want) {
	e.Purpose = orLink(e.Purpose)
	if e.Contact.ID == (nodeid.ID{}) {
		m.bootstrap(now, e)
		return
	}
	p := m.peer(key{e.Contact.ID, e.Purpose})
	if p == nil || e.Contact.ID == m.id {
		m.act(Failed{e.Contact, e.Purpose, session.Busy})
		return
	}
	p.wanted = true
	if p.s != nil {
		return
	}
	p.contact, p.over = e.Contact, e.Over
	via := session.Ring(p.id, p.over)
	for _, endpoint := range e.Contact.Endpoints {
		if session.VirtualKind(endpoint.Addr()) != session.NotVirtual || m.own.permits(endpoint, nil) == "" {
			via = session.Direct(endpoint)
			break
		}
	}
	m.open(now, p, via)
}

func (m *Machine) open(now time.Time, p *peer, via session.Via) {
	m.session(now, m.sessions.Handle(now, session.Open{Peer: p.id, Holder: p.contact.Holder, Purpose: p.purpose, Via: via}))
}

// bootstrap calls endpoints whose node ID is not known.
func (m *Machine) bootstrap(now time.Time, e Want) {
	for _, endpoint := range e.Contact.Endpoints[:min(len(e.Contact.Endpoints), wire.MaxEndpoints)] {
		if endpoint.Port() == 0 || !endpoint.Addr().IsValid() || endpoint.Addr().IsMulticast() {
			m.act(Failed{e.Contact, e.Purpose, session.NoAnswer})
			continue
		}
		m.session(now, m.sessions.Handle(now, session.Open{Purpose: e.Purpose, Via: session.Direct(endpoint)}))
	}
}

// unwant gives a session up, unless it is needed as a relay.
func (m *Machine) unwant(now time.Time, k key) {
	p := m.byKey[k]
	if p == nil {
		return
	}
	p.wanted = false
	if p.helping > 0 {
		return
	}
	if p.s == nil {
		m.remove(p)
		return
	}
	m.session(now, m.sessions.Handle(now, session.Close{Session: p.s}))
}

// sessionUp takes a new session: its handshake has proven its path.
func (m *Machine) sessionUp(now time.Time, a session.Up) {
	p := m.peer(key{a.Session.Peer(), a.Session.Purpose()})
	if p == nil {
		m.session(now, m.sessions.Handle(now, session.Close{Session: a.Session}))
		return
	}
	p.s, p.since, p.alone, p.nextTry = a.Session, now, now, now
	copy(p.contact.Holder[:], holderKey(a.Session))
	m.bySession[a.Session] = p
	p.relayAt = now.Add(relayAfter)
	m.offered(p, a.Offer)
	pa := p.path(a.Via)
	pa.valid, pa.heard = true, now
	p.remember(a.Via)
	p.ring()
	m.choose(now, p)
	if a.Via.IsDirect() {
		m.check(now, p, pa) // to learn the round-trip time, and how the peer sees us
	}
	m.begin(now, p)
}

// offered takes what a peer said in its handshake.
//
//	offset size
//	0      24   versions
//	24     n    body of a Candidates message
func (m *Machine) offered(p *peer, offer []byte) {
	if len(offer) < wire.VersionsSize {
		m.counters.Malformed++
		return
	}
	versions, err := wire.ParseVersions(offer[:wire.VersionsSize])
	c, bad := wire.ParseCandidates(offer[wire.VersionsSize:])
	if err != nil || bad != nil {
		m.counters.Malformed++
		return
	}
	p.versions, p.remote = versions, c
}

func (m *Machine) offer() []byte { return m.candidates().Append(m.versions.Append(nil)) }

func holderKey(s *session.Session) []byte {
	if s.Node() == nil || s.Node().Holder == nil {
		return nil
	}
	return s.Node().Holder.Key[:8]
}

func (m *Machine) sessionDown(a session.Down) {
	p := m.bySession[a.Session]
	delete(m.bySession, a.Session)
	if p == nil || p.s != a.Session {
		return
	}
	m.gone(p, a.Reason)
}

// gone tells that a peer has no session any more, and forgets it.
func (m *Machine) gone(p *peer, why session.Reason) {
	m.remove(p)
	switch {
	case p.up:
		m.act(Down{p.id, p.purpose, why})
	case p.wanted:
		m.act(Failed{p.contact, p.purpose, why})
	}
}

// sessionFailed tries the ring after an endpoint that does not answer.
func (m *Machine) sessionFailed(now time.Time, a session.Failed) {
	if a.Peer == (nodeid.ID{}) {
		c := wire.Contact{}
		if a.Via.IsDirect() {
			c.Endpoints = append(c.Endpoints, a.Via.Endpoint)
		}
		m.act(Failed{c, a.Purpose, a.Reason})
		return
	}
	p := m.byKey[key{a.Peer, a.Purpose}]
	if p == nil || p.s != nil {
		return
	}
	if a.Via.IsDirect() && a.Reason != session.Busy {
		m.open(now, p, session.Ring(p.id, p.over))
		return
	}
	m.gone(p, a.Reason)
}

// state is how far the path has come.
func (p *peer) state() State {
	switch {
	case p.s == nil || p.best == nil:
		return None
	case isDirect(p.best.via):
		return Direct
	case !p.roundEnd.IsZero():
		return Punching
	case !p.best.via.IsRing():
		return Relay2
	}
	return Ring
}

// tell says what has changed: that there is a path, or another one.
func (m *Machine) tell(now time.Time, p *peer) {
	if p.s == nil || p.best == nil {
		return
	}
	state, rtt := p.state(), p.best.rtt
	onRing, onTCP := p.best.via.IsRing(), isTCP(p.best.via)
	if !onRing {
		p.alone = time.Time{}
	} else if p.alone.IsZero() {
		p.alone = now
	}
	if !p.up {
		if onRing && p.purpose == session.LinkPurpose {
			p.told = state
			return // a link over the ring would lead the ring through itself
		}
		p.up, p.told, p.toldOn, p.toldTCP, p.toldRTT = true, state, onRing, onTCP, rtt
		c := wire.Contact{ID: p.id, Holder: p.contact.Holder}
		if isDirect(p.best.via) {
			c.Endpoints = append(c.Endpoints, p.best.via.Endpoint)
		}
		m.act(Up{c, p.purpose, p.s.Node(), rtt, state, onTCP, p.versions})
		return
	}
	changed := rtt - p.toldRTT
	if state != p.told || onRing != p.toldOn || onTCP != p.toldTCP || p.toldRTT == 0 && rtt != 0 || changed.Abs() > max(betterBy, p.toldRTT/4) {
		p.told, p.toldOn, p.toldTCP, p.toldRTT = state, onRing, onTCP, rtt
		m.act(PathChanged{p.id, p.purpose, state, onRing, onTCP, rtt})
	}
}

// used notices traffic of the layer above.
func (p *peer) used(now time.Time) {
	p.active = now
	if p.best != nil && isDirect(p.best.via) {
		p.indirect = time.Time{}
	} else if p.indirect.IsZero() {
		p.indirect = now
	}
}

func (m *Machine) traffic(now time.Time, e Traffic) {
	p := m.byKey[key{e.ID, orLink(e.Purpose)}]
	if p == nil || p.best == nil {
		return
	}
	p.used(now)
	if e.Sent {
		p.best.sent(now)
	}
	for _, via := range e.Heard {
		p.heardFrom(now, via)
	}
}

// record takes one that the session machine has opened.
func (m *Machine) record(now time.Time, a session.Record) {
	p := m.bySession[a.Session]
	if p == nil {
		return
	}
	p.heardFrom(now, a.From)
	p.heardBytes += uint64(len(a.Plain) + session.Overhead)
	if a.From.IsDirect() {
		m.learn(now, p, a.From, len(a.Plain)+session.Overhead)
	}
	switch {
	case a.Total > 0:
		if p.purpose == session.LinkPurpose && len(a.Plain) > 0 && wire.Type(a.Plain[0]) == wire.TypeRelay && m.relayMessage(now, p, a.Plain[1:]) {
			return
		}
		p.used(now)
		m.act(Message{p.id, p.purpose, a.Total, a.Plain})
	case len(a.Plain) > 1:
		m.control(now, p, a)
	}
	m.tell(now, p)
}

// control takes a message of link's own.
func (m *Machine) control(now time.Time, p *peer, a session.Record) {
	body := a.Plain[1:]
	var err error
	switch wire.Type(a.Plain[0]) {
	case wire.TypeCheck:
		var c wire.Check
		if c, err = wire.ParseCheck(body); err == nil {
			m.checked(now, p, a.From, c)
		}
	case wire.TypeCheckAnswer:
		var c wire.CheckAnswer
		if c, err = wire.ParseCheckAnswer(body); err == nil {
			m.answered(now, p, a.From, c)
		}
	case wire.TypeCandidates:
		var c wire.Candidates
		if c, err = wire.ParseCandidates(body); err == nil {
			m.called(now, p, c)
		}
	default:
		m.counters.Unknown++
	}
	if err != nil {
		m.counters.Malformed++
	}
}
