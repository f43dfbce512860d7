package link

import (
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// path is one way to a peer.
type path struct {
	id        uint8
	via       session.Via
	valid     bool // proven: it may be sent on
	rtt       time.Duration
	heard     time.Time // last record that came this way
	waiting   time.Time // first send since; zero: none
	probes    int       // checks since waiting
	questions questions
	warm      time.Time // not the best since the switch; kept until then
}

// sent notices that something was sent and an answer may be expected.
func (pa *path) sent(now time.Time) {
	if pa.waiting.IsZero() {
		pa.waiting, pa.probes = now, 0
	}
}

// hear notices that the path works towards us, and so, when we have sent,
// very likely in both directions.
func (pa *path) hear(now time.Time) {
	pa.heard, pa.waiting, pa.probes = now, time.Time{}, 0
}

// doubted says that two checks in a row were not answered: another way is looked
// for before the path is given up.
func (pa *path) doubted() bool { return pa != nil && !pa.waiting.IsZero() && pa.probes >= doubtful }

// heardFrom notices a record on a path that is known.
func (p *peer) heardFrom(now time.Time, via session.Via) {
	if p == nil {
		return
	}
	if pa := p.find(via); pa != nil {
		pa.hear(now)
	}
}

func (p *peer) find(via session.Via) *path {
	for _, pa := range p.paths {
		if pa.via == via || pa.via.IsRing() && via.IsRing() {
			return pa
		}
	}
	return nil
}

// path returns the path by a Via and makes it if need be. Path ids: 0 is the
// ring's, the others are given in turn.
func (p *peer) path(via session.Via) *path {
	if pa := p.find(via); pa != nil {
		if via.IsRing() {
			pa.via = via
		}
		return pa
	}
	pa := &path{via: via}
	if !via.IsRing() {
		pa.id = p.newID()
	}
	p.paths = append(p.paths, pa)
	return pa
}

// newID gives a path id: 1 to 15 in turn, without those in use.
func (p *peer) newID() uint8 {
	for {
		p.ids = p.ids%(session.MaxPaths-1) + 1
		if !slices.ContainsFunc(p.paths, func(pa *path) bool { return pa.id == p.ids }) {
			return p.ids
		}
	}
}

// ring makes sure that there is the ring's path, which always counts.
func (p *peer) ring() *path {
	pa := p.find(session.Ring(p.id, p.over))
	if pa == nil {
		pa = p.path(session.Ring(p.id, p.over))
	}
	pa.valid = true
	return pa
}

// rank orders kinds of paths: the lower the better.
func rank(v session.Via) int {
	switch {
	case isDirect(v):
		return 0
	case v.Channel != 0:
		return 1
	case v.Virtual() == session.ByBootstrap:
		return 2
	case v.IsDirect():
		return 3
	}
	return 4
}

// isDirect says whether a path leads straight to the peer's socket.
func isDirect(v session.Via) bool { return v.IsDirect() && v.Virtual() == session.NotVirtual }

// isTCP says whether a path is a TCP connection with the peer.
func isTCP(v session.Via) bool {
	if !v.IsDirect() {
		return false
	}
	kind, bootstrap, _ := session.ParseVirtual(v.Endpoint)
	return kind == session.ByStream && bootstrap == 0
}

// carries says whether a peer can relay for this node, or this node for it:
// nobody else is on the path between them.
func (p *peer) carries() bool {
	return p.s != nil && p.best != nil && (isDirect(p.best.via) || isTCP(p.best.via))
}

// better says whether a is worth a switch from b. A path in doubt is worse than
// any other but the ring's, over which a link cannot go.
func better(a, b *path) bool {
	if a.doubted() != b.doubted() && !a.via.IsRing() && !b.via.IsRing() {
		return b.doubted()
	}
	if ra, rb := rank(a.via), rank(b.via); ra != rb {
		return ra < rb
	}
	return a.rtt > 0 && b.rtt > a.rtt+max(betterBy, b.rtt/10)
}

// choose switches to the best path there is. The old one is kept for 30 s.
func (m *Machine) choose(now time.Time, p *peer) {
	best := p.best
	if best != nil && !best.valid {
		best = nil
	}
	for _, pa := range p.paths {
		if pa.valid && (best == nil || better(pa, best)) {
			best = pa
		}
	}
	if best != p.best {
		if p.best != nil && p.best.valid {
			p.best.warm = now.Add(warmFor)
		}
		if best != nil && isDirect(best.via) {
			p.indirect = time.Time{}
			m.endSpray(p)
			m.counters.Directs++
		}
		p.best = best
		if best != nil {
			best.warm = time.Time{}
			p.s.Use(best.via)
			m.act(KeysChanged{p.s})
		}
		m.refreshOffer()
	}
	m.tell(now, p)
}

// check asks whether a path works.
func (m *Machine) check(now time.Time, p *peer, pa *path) {
	pa.sent(now)
	pa.probes++
	m.counters.Checks++
	m.say(now, p, pa, wire.Check{Nonce: pa.questions.ask(m, now), To: shown(pa.via)})
}

var noEndpoint = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)

// shown is what a check says of a path.
func shown(v session.Via) netip.AddrPort {
	if isDirect(v) {
		return netip.AddrPortFrom(v.Endpoint.Addr().Unmap(), v.Endpoint.Port())
	}
	return noEndpoint
}

// tend keeps a peer's paths: it asks those that are silent, gives up what
// stays silent and drops what is warm no longer.
func (m *Machine) tend(now time.Time, p *peer) {
	for _, pa := range slices.Clone(p.paths) {
		if pa.valid && pa.via.Channel != 0 && m.kept(now, p) {
			m.need(now, m.byKey[key{pa.via.Node, session.LinkPurpose}])
		}
		switch {
		case !pa.valid || pa.via.IsRing():
		case !pa.waiting.IsZero() && due(now, pa.waiting.Add(demoteSilent)):
			m.demote(now, p, pa)
		case !pa.waiting.IsZero() && due(now, pa.waiting.Add(time.Duration(pa.probes+1)*probeEvery)) && pa.probes < 4:
			m.check(now, p, pa)
			if pa == p.best && pa.doubted() {
				p.relayAt = now
				m.choose(now, p)
			}
		case pa != p.best && !pa.warm.IsZero() && due(now, pa.warm):
			m.forget(now, p, pa)
		case pa.waiting.IsZero() && due(now, pa.heard.Add(keepalive)) && m.kept(now, p):
			m.check(now, p, pa)
		}
	}
	m.lonely(now, p)
}

// lonely ends what has had no path but the ring's for too long: a link needs
// one of its own, and anything needs an answer.
func (m *Machine) lonely(now time.Time, p *peer) {
	if p.s == nil || p.best == nil || !p.best.via.IsRing() {
		return
	}
	if p.purpose == session.LinkPurpose && !p.alone.IsZero() && due(now, p.alone.Add(linkGrace)) ||
		!p.best.waiting.IsZero() && due(now, p.best.waiting.Add(ringSilent)) {
		m.session(now, m.sessions.Handle(now, session.Close{Session: p.s}))
	}
}

// kept says whether a peer's paths are worth keepalives.
func (m *Machine) kept(now time.Time, p *peer) bool {
	return p.purpose == session.LinkPurpose || now.Sub(p.active) < idleAfter
}

// demote gives up a path that does not answer, and begins to look for another.
// What is dead for one purpose is for all: the peer's other sessions leave it
// too, unless they have heard something on it since the silence began.
func (m *Machine) demote(now time.Time, p *peer, pa *path) {
	since := pa.waiting
	m.leave(now, p, pa)
	for _, q := range slices.Clone(m.peers) {
		if q.id != p.id || q == p || q.s == nil {
			continue
		}
		if twin := q.find(pa.via); twin != nil && twin.valid && !pa.via.IsRing() && !twin.heard.After(since) {
			m.leave(now, q, twin)
		}
	}
}

func (m *Machine) leave(now time.Time, p *peer, pa *path) {
	m.counters.Demotions++
	wasBest := pa == p.best
	m.forget(now, p, pa)
	if !wasBest && (p.state() == Direct || !isDirect(pa.via)) {
		return
	}
	p.relayAt, p.nextTry = now, now
	if p.round > 0 {
		p.round = 1 // as after a first round: soon again, with few checks
	}
	m.begin(now, p)
}

// forget drops a path.
func (m *Machine) forget(now time.Time, p *peer, pa *path) {
	pa.valid = false
	p.paths = slices.DeleteFunc(p.paths, func(x *path) bool { return x == pa })
	if pa.via.Channel != 0 {
		m.closeChannel(now, pa.via)
	}
	m.choose(now, p)
}

func due(now, deadline time.Time) bool { return !now.Before(deadline) }
