// Package ring keeps one node on the overlay's ring and says where messages
// go next.
//
//	    far (Symphony's harmonic law, the nearest of 16 by round trip)
//	     .-------------------------------.
//	p4 p3 p2 p1  SELF  s1 s2 s3 s4 s5 s6 s7      SELF: this node
//	 '--near---'        '---near---'  '-told-'   p, s: predecessors, successors
//
// A node keeps sessions (connections, once they have a role here) with its
// four nearest nodes on each side, with about log2 N others whose distance
// follows the harmonic law, and with whom traffic wants. Of each it knows the
// list it keeps itself, so that routing looks one hop ahead.
//
// # Lists
//
// A node's list of successors (predecessors likewise) is made anew whenever a
// connection or a peer's list changes: the connected peers in ring order, and
// behind each the successors that peer itself lists, up to the next connected
// one. A peer's list is read in one message and replaces the earlier one
// whole. So every claim is passed on only by nodes that lie nearer to whom it
// is about, down to one that has a session with it; nothing keeps itself
// alive. A list ends when r holders are in it: a holder's second node does not
// count. These are Zave's join, stabilise and rectify on symmetric sessions:
// a peer that connects is taken into the list (rectify), an unconnected node
// in the first four is connected to (stabilise), and a node is a member only
// when its predecessor has it as first successor (join).
//
// # Invariants
//
//   - A list is ordered, without repetition, without the node itself.
//   - A node that declares itself a member is the first successor of a member.
//   - No node is given up for dead unless at least two others of different
//     holders had no answer either. "I cannot reach it" is not death: it stays
//     listed while somebody nearer to it lists it, and a session through that
//     one is asked for.
//   - Each hop of a routed message promises a smaller distance, or keeps the
//     promise and is itself nearer: no message travels in a loop, whatever
//     lists say, and no copy of one that went another way (see NextHop, Divert).
//   - Every table is bounded: Degree+reserve connections, wire.MaxList peers a
//     side, graves, passive, calls, asks, newcomers (constants below).
//   - Nothing rests on where a node's ID lies: juries and lists count holders.
//
// Concurrency: a Machine is for one goroutine. It has no clock, socket or
// randomness of its own.
//
// Limits on purpose: coordinates are hints and can be lied about; a node all of
// whose first contacts are malicious can be kept on a ring of theirs.
//
// Sources: Zave, "Reasoning about identifier spaces: how to make Chord
// correct" (2017, arXiv 1610.01140); Manku, Bawa, Raghavan, "Symphony" (USITS
// 2003) §3; Das, Gupta, Motivala, "SWIM" (DSN 2002) §4.1; Rhea et al.,
// "Handling churn in a DHT" (USENIX 2004); Shafaat, Ghodsi, Haridi, "Dealing
// with network partitions in structured overlay networks" (2009); Dabek et
// al., "Vivaldi" (SIGCOMM 2004). Figures: research/overlay.md §1, §9.
package ring

import (
	"math/rand/v2"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Protocol: what other nodes rely on.
const (
	near      = 4 // connections wanted on each side
	minList   = 4 // r is at least this
	witnesses = 2 // of different holders, without whom nobody is dead
)

// Implementation: times. All intervals are drawn within ±20 %.
const (
	pingNear     = 5 * time.Second
	pingFar      = 15 * time.Second
	minRTO       = 200 * time.Millisecond
	maxRTO       = 3 * time.Second
	firstRTO     = time.Second           // before a round trip was measured
	minHopMargin = 30 * time.Millisecond // of a hop's acknowledgement, over the round trip
	juryTime     = 4 * time.Second
	jurorTime    = 400 * time.Millisecond // in which a juror that hears a peer has said so
	trustFor     = time.Second            // traffic takes a connection for alive that was heard so lately
	probes       = 3                      // unanswered Pings until a session counts as silent
	heardBy      = 2                      // unanswered Pings until a session counts as broken whose peer a juror hears
	askNear      = 500 * time.Millisecond
	askFar       = 30 * time.Second // between two readings of a far peer's list
	roleGrace    = 3 * time.Second  // a session without role lives this long
	leafTime     = 60 * time.Second // a peer's leaf role, from its last Link
	demandTime   = 60 * time.Second
	joinRetry    = time.Second
	fastTries    = 10 // a node without a session doubles joinRetry after as many
	slowestRetry = 30 * time.Second
	joinAgain    = 3 * time.Second        // while joining: the place may be another by now
	callTime     = 700 * time.Millisecond // for the answer to a call's first attempt; half as much longer each time
	callAgain    = 50 * time.Millisecond  // after an Err
	newcomerTime = 2 * time.Second
	foundAfter   = 2 * time.Second // a founder waits that long for a ring
	mergeEvery   = 30 * time.Second
	mergeAgain   = 5 * time.Second // between two lookups that a Merge asks for
	farSearch    = 2 * time.Second // between two draws while some are missing
	farRenew     = 5 * time.Minute
	deadTime     = 60 * time.Second // a dead node is not believed in for this long
	retryOpen    = 2 * time.Second  // after a failure; doubles up to deadTime
	OpenTimeout  = 10 * time.Second
)

// Implementation: bounds.
const (
	BudgetAppliance = 24
	BudgetBootstrap = 128

	reserve   = 12 // connections above the budget: neighbours and first contacts
	maxDemand = 8  // of this node's own
	graves    = 32 // nodes remembered as dead or not reached
	passive   = 32 // past peers
	calls     = 8  // requests of this node under way
	openings  = 16 // Opens under way
	newcomers = 4  // nodes told of as joining, within newcomerTime
	asks      = 16 // questions of others about third nodes
	jury      = 3  // witnesses asked
	contacts  = 64 // of Bootstrap
	hints     = 2*wire.MaxList + 1
	pns       = 16 // consecutive nodes of which a far link takes the nearest
)

// Config is what a machine is made of.
type Config struct {
	ID     nodeid.ID
	Holder wire.Holder
	Rand   *rand.Rand // required; the machine's own

	// Founder may begin a ring when it finds none: bootstrap nodes and
	// masters. Two that begin one each are merged.
	Founder bool

	// Degree bounds the sessions the ring keeps: BudgetAppliance or
	// BudgetBootstrap. 0 is BudgetAppliance.
	Degree int

	// Tail, if not nil, appends what every Ping and Pong carries besides, at
	// most wire.MaxTail bytes.
	Tail func(b []byte) []byte
}

// rules are what the invariants rest on. New sets all of them; tests break
// them one at a time to see that the checkers notice.
type rules struct {
	rectify   bool    // a peer that connects is taken into the list
	atomic    bool    // a peer's list is replaced whole
	listed    bool    // member only as the predecessor's first successor
	promise   bool    // hops promise strictly less
	witnesses int     // for a death
	list      int     // holders on each side of a list, at least
	size      float64 // log2 of the size to believe in; 0: the estimate
	mixedBase bool    // far links drawn as Evio does, exp(log10(n)(u-1)): wrong
}

var sound = rules{rectify: true, atomic: true, listed: true, promise: true, witnesses: witnesses, list: minList}

// instant is a time since the machine's first event.
type instant = time.Duration

const never = instant(1<<63 - 1)

// Machine is one node's place on the ring.
//
//	       LinkUp                JoinAnswer, both neighbours
//	INIT ---------> ATTACHED --------------------------------> JOINING
//	 |  <---------    |   <----------------------------------    |
//	 |   no session   |          no neighbour connected          |
//	 |                |                                          | first successor
//	 | Founder, no ring within 2 s                               | of a member
//	 '----------------'-----------> MEMBER <---------------------'
//	                                  | no neighbour connected and not a founder's
//	                                  '----> ATTACHED or INIT
//	any -- Leave --> LEFT
type Machine struct {
	cfg    Config
	rules  rules
	prefix uint64
	epoch  time.Time
	now    instant
	phase  Phase

	conns     []*conn  // in ring order clockwise from this node
	places    []uint64 // their distances clockwise, prefixes: to search in
	list      wire.List
	r         int     // holders on each side of a list
	version   uint32  // of the flags, the list and the far links
	flags     uint8   // of that version
	farSum    uint64  // of its far links' prefixes
	size      float64 // log2 of the estimated number of members
	density   float64 // the same, by the own list alone: what peers are told
	coord     coord
	hints     []wire.Peer // possible neighbours, from answers; until connected or failed
	hintVia   nodeid.ID
	graves    []grave
	passive   []wire.Contact
	contacts  []wire.Contact
	opening   []opening
	calls     []call
	asks      []ask
	newcomers [newcomers]newcomer

	number    uint32 // of Pings, calls and questions
	entered   bool   // ready, in this attempt
	dirty     bool   // lists have to be made anew
	regather  bool   // all peers' lists have to be looked through anew
	seek      bool   // somebody may have to be connected with
	ahead     uint64 // while joining, how far the answer to the Join reaches
	behind    uint64
	foundAt   instant // when a founder begins a ring
	attachAt  instant
	stranded  int // times that a place was asked for in vain
	vain      int // times that first contacts were called in vain
	mergeAt   instant
	kicked    instant // last lookup for another ring
	turn      bool    // of first contacts, then of past peers
	farAt     instant
	renewAt   instant
	renewing  bool    // one far link more is drawn, for the oldest
	drawnSize float64 // size when far links were last all drawn
	far       farSearchState
	connDue   instant // of the connections
	deadline  instant

	actions []Action
	buf     []byte // of the actions' bytes
}

// New returns a machine that waits for Bootstrap.
func New(cfg Config) *Machine {
	if cfg.Degree == 0 {
		cfg.Degree = BudgetAppliance
	}
	return &Machine{
		cfg: cfg, rules: sound, prefix: cfg.ID.Prefix(), r: minList, deadline: never,
		foundAt: never, attachAt: never, mergeAt: never, farAt: never, renewAt: never,
		number: cfg.Rand.Uint32(), version: cfg.Rand.Uint32() | 1,
	}
}

// Handle takes one event and returns what to do; the slice is reused by the
// next call.
func (m *Machine) Handle(now time.Time, e Event) []Action {
	if m.epoch.IsZero() {
		m.epoch = now
	}
	m.now = max(m.now, now.Sub(m.epoch))
	m.actions, m.buf = m.actions[:0], m.buf[:0]
	if m.phase == Left {
		return nil
	}
	var touched *conn
	switch e := e.(type) {
	case Bootstrap:
		m.bootstrap(e.Contacts)
	case LinkUp:
		m.linkUp(e)
	case LinkDown:
		if c := m.conn(e.ID); c != nil {
			m.drop(c)
		}
	case LinkFailed:
		m.linkFailed(e.ID, e.Asked)
	case RTT:
		if c := m.conn(e.ID); c != nil {
			c.rtt.restart(e.RTT)
		}
	case FromLink:
		touched = m.fromLink(e)
		if m.phase == OnRing && !m.dirty && m.now < m.deadline && isRoutine(e.Data) {
			return m.routine(touched)
		}
	case Heard:
		if touched = m.conn(e.ID); touched != nil {
			m.onReceipt(touched, e.RTT)
			if m.phase == OnRing && !m.dirty && m.now < m.deadline {
				return m.routine(touched)
			}
		}
	case Unheard:
		if touched = m.conn(e.ID); touched != nil {
			m.onUnheard(touched)
		}
	case Routed:
		m.routed(e)
	case Demand:
		m.demand(e.ID)
	case Leave:
		m.leave()
		return m.actions
	case Tick:
	}
	m.tick(touched)
	return m.actions
}

// routine ends an event that only concerned one connection, or none.
func (m *Machine) routine(touched *conn) []Action {
	if touched != nil {
		m.connDue = min(m.connDue, touched.deadline())
		m.deadline = min(m.deadline, m.connDue)
	}
	return m.actions
}

// isRoutine says that a message only concerns its own connection, unless it made
// the lists dirty: nothing else can be due because of it. Most messages are.
func isRoutine(msg []byte) bool {
	return len(msg) > 0 && (msg[0] == byte(wire.TypePing) || msg[0] == byte(wire.TypePong) || msg[0] == byte(wire.TypeNeighAsk))
}

// NextDeadline is when Tick is due; zero: never.
func (m *Machine) NextDeadline() time.Time {
	if m.epoch.IsZero() || m.deadline == never {
		return time.Time{}
	}
	return m.epoch.Add(m.deadline)
}

// Phase returns how far the node has come.
func (m *Machine) Phase() Phase { return m.phase }

// List returns the predecessors and successors, nearest first. The slices are
// the machine's and hold until the next Handle.
func (m *Machine) List() wire.List { return m.list }

// tick does what is due, and what the event made due. Of the connections one
// was touched, or none; the others are looked at when the first of them is due.
func (m *Machine) tick(touched *conn) {
	if m.now >= m.connDue {
		m.watchAll()
	} else if touched != nil {
		m.watch(touched)
	}
	m.expireOpenings()
	m.expireCalls()
	m.expireAsks()
	m.exhume()
	if m.dirty {
		m.refresh()
	}
	m.progress()
	m.restate()
	if m.seek {
		m.wantNear()
	}
	m.wantFar()
	m.wantMerge()
	if m.dirty {
		m.refresh()
	}
	m.schedule()
}

// schedule finds the earliest deadline.
func (m *Machine) schedule() {
	m.connDue = never
	for _, c := range m.conns {
		m.connDue = min(m.connDue, c.deadline())
	}
	d := min(m.connDue, m.attachAt, m.mergeAt, m.farAt, m.renewAt, m.foundAt)
	for _, o := range m.opening {
		d = min(d, o.until)
	}
	for _, c := range m.calls {
		d = min(d, c.due)
	}
	for _, a := range m.asks {
		d = min(d, a.until)
	}
	for _, g := range m.graves {
		if g.until > m.now && (g.wanted || g.dead) {
			d = min(d, g.until)
		}
	}
	m.deadline = d
}

// jitter draws around an interval, ±20 %.
func (m *Machine) jitter(d time.Duration) time.Duration {
	return d*4/5 + time.Duration(m.cfg.Rand.Int64N(int64(d)*2/5+1))
}

func (m *Machine) act(a Action) { m.actions = append(m.actions, a) }

// send sends a link message.
func (m *Machine) send(to nodeid.ID, msg wire.Message) {
	start := len(m.buf)
	m.buf = wire.AppendMessage(m.buf, msg)
	m.act(SendLink{ID: to, Data: m.buf[start:len(m.buf):len(m.buf)]})
}

// route sends a payload.
func (m *Machine) route(to wire.Target, srcVia nodeid.ID, rpc uint32, msg wire.Message, try int) {
	start := len(m.buf)
	m.buf = msg.Append(m.buf)
	m.act(Route{To: to, SrcVia: srcVia, RPC: rpc, Type: msg.Type(), Body: m.buf[start:len(m.buf):len(m.buf)], Try: try})
}

// nextNumber is never 0.
func (m *Machine) nextNumber() uint32 {
	m.number++
	if m.number == 0 {
		m.number = 1
	}
	return m.number
}

// self is this node as others list it.
func (m *Machine) self() wire.Peer {
	return wire.Peer{ID: m.cfg.ID, Holder: m.cfg.Holder, Coord: m.coord.wire()}
}

// status is what this node says of itself. Other flags make a new version, so
// that a peer can tell which of two that overtook each other is newer.
func (m *Machine) status() wire.Status {
	var flags uint8
	if m.ready() {
		flags |= wire.StatusReady
	}
	if m.phase == OnRing {
		flags |= wire.StatusMember
	}
	if flags != m.flags {
		m.flags = flags
		m.version++
	}
	return wire.Status{Flags: flags, Version: m.version, Size: sizeToWire(m.density), Coord: m.coord.wire()}
}

// ready says that this node has neighbours and may be listed. Once said, it
// holds until the node has to begin again: who lists it relies on it.
func (m *Machine) ready() bool {
	m.entered = m.phase == OnRing || m.phase == Joining && (m.entered || m.placed())
	return m.entered
}
