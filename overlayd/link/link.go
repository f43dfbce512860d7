// Package link makes and keeps the path to each peer: candidates, checks, hole
// punching, a relay as the next best, a bootstrap or TCP where there is none,
// and the ring as what always works.
//
//	       session             channel              checks              an answer
//	NONE ─────────> RING ───────────────> RELAY2 ───────────> PUNCHING ──────────> DIRECT
//	  ^              │ ^                    │ ^                  │                    │
//	  │              │ └─ channel gone ─────┘ └── 5 s in vain ───┘                    │
//	  │              └───────────────── checks ────────────────> │                    │
//	  └── session gone, from each      RING or RELAY2 <── sent into silence ──────────┘
//
// A virtual endpoint (session.VirtualEndpoint) is the way to a peer through a
// bootstrap or over TCP: RELAY2 as well, so checks go on. It is taken from who
// asks for a session and from where a datagram came, and named to nobody.
//
// Whoever has one path keeps it while a better one is made, and after the
// switch for 30 s. Silence is 0.8 s for a relay, which is asked for then, and
// 1.6 s for the ring. Records go the best way that is there: a direct path that
// answers, else a relay, else a bootstrap, else TCP, else the ring. PUNCHING says that checks are under
// way; records go as they did before it.
//
// A path is a session.Via. A direct one is used once a Check or challenge sent
// to it was answered from it; until then it is sent no more bytes than came
// from it, or, when the peer has named it as a candidate, at most 20 checks.
//
// Invariants: what any peer says can make this node send at most 8 addresses
// at most 20 checks each, 60 to one address whatever peers say of it (one
// spray of 1,024 in ten minutes to a peer that is a peer already, see
// spray.go), and nothing to multicast, loopback, link-local and virtual
// addresses, nor to private ones except on an attached prefix or behind a
// common translator. Every table has a constant bound.
//
// Concurrency: Machine is not safe for concurrent use.
//
// Limits on purpose: no TURN; virtual endpoints and port mappings are made elsewhere and
// told; relaying for others is package relay's.
//
// Sources: TRUST.md "Sessions", "Relays, records, abuse"; research/overlay.md
// §3, §9.2, §9.3; RFC 8445 §5 to §7 (candidates, checks, triggered checks);
// RFC 4787 §4, §5; RFC 5128 §3.3.
package link

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// Config is what a machine is made of. Session's Offer is link's to fill.
type Config struct {
	Session session.Config
	Rand    *rand.Rand // required; the machine's own, for pacing and choices, not for keys
	Spray   bool       // birthday spraying is allowed: not on a battery, a metered line or a small translator
}

// key names a peer: one node has a session for each purpose.
type key struct {
	id      nodeid.ID
	purpose string
}

// Machine holds the paths to all peers, and their sessions.
type Machine struct {
	cfg       Config
	id        nodeid.ID
	sessions  *session.Machine
	peers     []*peer // in the order of their making
	byKey     map[key]*peer
	bySession map[*session.Session]*peer
	own       addresses
	places    []Place
	targets   targets
	versions  wire.Versions
	spray     *spray
	pings     map[[8]byte]uint64 // tokens by nonce
	marker    session.Marker
	checker   session.Checker
	counters  Counters
	actions   []Action
	nonces    uint64
	next      time.Time
	stale     bool
	now       time.Time // of the event being handled
}

// Counters counts what happened since the machine was made.
type Counters struct {
	Checks, Answers, Directs, Demotions, Relays, Sprays uint64

	Filtered  uint64 // candidates that must not be tried
	Budgeted  uint64 // checks not sent because of a budget
	Unasked   uint64 // answers that fit no question, or came from elsewhere
	Malformed uint64 // messages that do not parse
	Unknown   uint64 // messages of an unknown type
	NoChannel uint64 // relayed datagrams on no channel of ours
	NoPath    uint64 // messages for which there was no path
}

// New returns a machine without peers. The error is session.New's.
func New(cfg Config, now time.Time) (*Machine, error) {
	cfg.Session.Offer = wire.Candidates{}.Append(wire.Versions{}.Append(nil))
	s, err := session.New(cfg.Session, now)
	if err != nil {
		return nil, err
	}
	return &Machine{cfg: cfg, id: cfg.Session.ID, sessions: s, byKey: map[key]*peer{}, bySession: map[*session.Session]*peer{},
		targets: newTargets(), nonces: cfg.Rand.Uint64(), stale: true}, nil
}

// Handle takes one event and returns what to do; the slice is reused by the
// next call.
func (m *Machine) Handle(now time.Time, e Event) []Action {
	m.actions = m.actions[:0]
	m.now, m.stale = now, true
	if m.sessions.Jumped(now) {
		m.session(now, m.sessions.Handle(now, session.Destroy{Reason: session.ClockJump}))
	}
	switch e := e.(type) {
	case Want:
		m.want(now, e)
	case Unwant:
		m.unwant(now, key{e.ID, orLink(e.Purpose)})
	case Addresses:
		m.own.set(e)
		m.announce(now)
	case Observed:
		if m.own.observe(wire.Holder{}, e.By, e.Endpoint) {
			m.observed(now)
		}
	case Places:
		m.places = slices.Clone(e.List)
		m.placesChanged(now)
	case Datagram:
		m.datagram(now, e)
	case Routed:
		m.toSession(now, session.Datagram{From: session.Ring(e.Src, e.Over), Data: e.Data})
	case Send:
		m.message(now, e)
	case Forward:
		m.forward(now, e)
	case Traffic:
		m.traffic(now, e)
	case Ping:
		m.ping(now, e)
	case Versions:
		m.versions = e.Versions
		m.refreshOffer()
	case Identity:
		m.session(now, m.sessions.Handle(now, session.Identity{Chain: e.Chain, Offer: m.offer()}))
	case Roots:
		m.session(now, m.sessions.Handle(now, session.Roots(e)))
	case Recheck:
		m.session(now, m.sessions.Handle(now, session.Recheck{}))
	case Destroy:
		m.session(now, m.sessions.Handle(now, session.Destroy{Reason: e.Reason}))
	case Tick:
		m.tick(now)
	}
	return m.actions
}

func orLink(purpose string) string {
	if purpose == "" {
		return session.LinkPurpose
	}
	return purpose
}

// Counters returns what happened so far.
func (m *Machine) Counters() Counters { return m.counters }

// Sessions returns the session machine's counters.
func (m *Machine) Sessions() session.Counters { return m.sessions.Counters() }

// State returns how far the path to a peer has come.
func (m *Machine) State(peer nodeid.ID, purpose string) State {
	if p := m.byKey[key{peer, orLink(purpose)}]; p != nil {
		return p.state()
	}
	return None
}

// Session returns the session with a peer, or nil.
func (m *Machine) Session(peer nodeid.ID, purpose string) *session.Session {
	return m.sessions.Session(peer, orLink(purpose))
}

func (m *Machine) act(a Action) { m.actions = append(m.actions, a) }

// nonce returns a number that no other check has. It need not be secret: it
// travels encrypted.
func (m *Machine) nonce() (n [8]byte) {
	m.nonces++
	binary.BigEndian.PutUint64(n[:], m.nonces)
	return n
}

// datagram takes one from the underlay.
func (m *Machine) datagram(now time.Time, e Datagram) {
	via := session.Direct(e.From)
	via.Socket = e.Socket
	if !session.IsRelayed(e.Data) {
		m.toSession(now, session.Datagram{From: via, Data: e.Data})
		return
	}
	index, _ := session.ParseIndex(e.Data)
	k, s := m.sessions.Find(index)
	if k == nil || s.Purpose() != session.LinkPurpose {
		m.sessions.Drop(session.DropIndex)
		return
	}
	k.Lock()
	channel, carried, drop, err := m.checker.Check(k, e.Data)
	k.Unlock()
	if err != nil {
		m.sessions.Drop(drop)
		return
	}
	relay := m.bySession[s]
	relay.heardFrom(now, via)
	if relay.channels[channel] == (nodeid.ID{}) {
		m.act(Relayed{relay.id, channel, carried})
		return
	}
	if session.IsRelayed(carried) {
		m.counters.NoChannel++ // one relay is enough
		return
	}
	m.toSession(now, session.Datagram{From: session.Relayed(relay.id, channel), Data: carried})
}

func (m *Machine) toSession(now time.Time, d session.Datagram) {
	m.session(now, m.sessions.Handle(now, d))
}

// session does what the session machine says.
func (m *Machine) session(now time.Time, actions []session.Action) {
	// What follows can call the session machine again, which reuses its slice.
	for _, a := range slices.Clone(actions) {
		switch a := a.(type) {
		case session.Send:
			m.emit(now, a.To, a.Data)
		case session.Up:
			m.sessionUp(now, a)
		case session.Rekeyed:
			m.act(KeysChanged{a.Session})
		case session.Down:
			m.sessionDown(a)
		case session.Failed:
			m.sessionFailed(now, a)
		case session.Record:
			m.record(now, a)
		}
	}
}

// emit sends a datagram on a path.
func (m *Machine) emit(now time.Time, to session.Via, data []byte) {
	switch {
	case to.IsDirect():
		m.act(SendDatagram{to.Endpoint, to.Socket, data})
	case to.IsRing():
		m.act(RouteSession{wire.Target{ID: to.Node, Exact: true, Via: to.Over}, data})
	default:
		m.forward(now, Forward{to.Node, to.Channel, data})
	}
}

// forward marks a datagram for a channel of a peer and sends it there.
func (m *Machine) forward(now time.Time, e Forward) {
	p := m.byKey[key{e.To, session.LinkPurpose}]
	if p == nil || !p.carries() || p.s.Keys() == nil || !p.s.Keys().Usable(now) {
		m.counters.NoPath++
		return
	}
	b := append(make([]byte, session.RelaySize, session.RelaySize+len(e.Carried)), e.Carried...)
	if m.marker.Mark(p.s.Keys(), b, e.Channel) != nil {
		m.counters.NoPath++
		return
	}
	p.best.sent(now)
	m.act(SendDatagram{p.best.via.Endpoint, p.best.via.Socket, b})
}

// message seals a message for a peer.
func (m *Machine) message(now time.Time, e Send) {
	p := m.byKey[key{e.ID, orLink(e.Purpose)}]
	if p == nil || p.s == nil || p.best == nil {
		m.counters.NoPath++
		return
	}
	p.used(now)
	for _, pa := range p.paths {
		if pa != p.best && !(e.Everywhere && pa.valid) {
			continue
		}
		b, err := p.s.Seal(make([]byte, 0, len(e.Message)+session.Overhead), now, pa.id, e.Message)
		if err != nil {
			m.counters.NoPath++
			return
		}
		pa.sent(now)
		p.sentBytes += uint64(len(b))
		m.emit(now, pa.via, b)
	}
}

// say sends a message of link's own on a path.
func (m *Machine) say(now time.Time, p *peer, pa *path, msg wire.Message) {
	b, err := p.s.SealControl(nil, now, pa.id, wire.AppendMessage(nil, msg))
	if err != nil {
		return
	}
	p.sentBytes += uint64(len(b))
	m.emit(now, pa.via, b)
}

// maxPings bounds the pings that may still be answered.
const maxPings = 64

// ping asks on the best path.
func (m *Machine) ping(now time.Time, e Ping) {
	p := m.byKey[key{e.ID, orLink(e.Purpose)}]
	if p == nil || p.s == nil || p.best == nil {
		return
	}
	if len(m.pings) >= maxPings || m.pings == nil {
		m.pings = map[[8]byte]uint64{}
	}
	nonce := p.best.questions.ask(m, now)
	m.pings[nonce] = e.Token
	p.used(now)
	p.best.sent(now)
	m.say(now, p, p.best, wire.Check{Nonce: nonce, To: shown(p.best.via)})
}

// ponged answers a ping whose check was answered.
func (m *Machine) ponged(p *peer, nonce [8]byte, via session.Via, rtt time.Duration) {
	if token, ok := m.pings[nonce]; ok {
		delete(m.pings, nonce)
		m.act(Pong{p.id, p.purpose, token, via, rtt})
	}
}
