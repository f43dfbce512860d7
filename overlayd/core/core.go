// Package core is one node's whole protocol: it joins the machines of the
// overlay into one, which the daemon drives with sockets and a clock, and the
// simulator with neither.
//
//	             events                     actions
//	               │                           ▲
//	┌──────────────▼───────────────────────────┴───────────────┐
//	│ Node                    requests                         │
//	│        ┌────────────────────┬──────────────┐             │
//	│   payloads for this node    │       Routed, forwarded    │
//	│        │                    │              │             │
//	│  ┌─────┴──┐             ┌───┴──┐      ┌────┴──┐          │
//	│  │ dht    │             │ ring │◄────►│ Links │          │
//	│  │ lease  │             └──────┘      └───────┘          │
//	│  │ gossip │      peers, lists, hops    sessions, paths   │
//	│  └────────┘                                              │
//	└──────────────────────────────────────────────────────────┘
//
// The machines do not know each other. What one of them wants of another is an
// action that Node turns into an event; such events wait in a queue, so no
// machine is ever entered while another's answer is being read.
//
// Invariants: a payload is forwarded only as far as ring.NextHop promises, so
// none loops; every request of this node ends by an answer or by its time, and
// at most MaxRequests are open; what cannot be delivered is told to its source
// once, and an Err is never answered.
//
// Not safe for concurrent use. Handle's actions and their bytes hold until the
// next Handle.
//
// Sources: research/overlay.md §9.
package core

import (
	"math/rand/v2"
	"time"

	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/relay"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// Config is what a node is made of.
type Config struct {
	ID        nodeid.ID
	Holder    wire.Holder
	Rand      *rand.Rand // required; the node's own
	Links     Links      // required; the node's own
	Namespace string     // of the node's virtual network: relayed without limit
	Founder   bool       // may begin a ring: see ring.Config
	Degree    int        // bound of the ring's sessions: see ring.Config
	Grid      *Grid      // nil: a place on the ring and nothing else
}

// Counters counts since New.
type Counters struct {
	Forwarded      uint64 // payloads of others carried on
	Delivered      uint64 // payloads for this node
	Diverted       uint64 // sent another way, because the next hop did not acknowledge them
	Repeated       uint64 // sent to the next hop once more
	Unacknowledged uint64 // given up as if the next hop were not there
	Relayed        uint64 // datagrams carried between two peers
	Malformed      uint64 // messages that do not parse
	Unknown        uint64 // messages of a type this node does not know
	NoRoute        uint64 // payloads that led to nobody
	Expired        uint64 // payloads without hops left
	TooLong        uint64 // own payloads that fit no message, as of a path that leads through itself
}

// Node is one node.
type Node struct {
	cfg   Config
	ring  *ring.Machine
	links Links
	relay *relay.Machine
	grid  *Grid               // or nil
	peers map[nodeid.ID]*peer // with a session

	now      time.Time
	todo     []any // events that wait for their machine
	out      []Action
	memory   arena
	hops     hops
	requests requests
	counters Counters
}

// New returns a node that waits for Start.
func New(cfg Config) *Node {
	n := &Node{cfg: cfg, links: cfg.Links, grid: cfg.Grid, relay: relay.New(relay.Config{ID: cfg.ID, Namespace: cfg.Namespace}), peers: map[nodeid.ID]*peer{}}
	ringConfig := ring.Config{ID: cfg.ID, Holder: cfg.Holder, Rand: cfg.Rand, Founder: cfg.Founder, Degree: cfg.Degree}
	if n.grid != nil {
		n.attach()
		ringConfig.Tail = n.grid.tail
	}
	n.ring = ring.New(ringConfig)
	return n
}

// ID returns the node's ID.
func (n *Node) ID() nodeid.ID { return n.cfg.ID }

// Ring returns the node's place on the ring, to look at only.
func (n *Node) Ring() *ring.Machine { return n.ring }

// Relaying returns what the node relays, to look at only.
func (n *Node) Relaying() *relay.Machine { return n.relay }

// ConnectedTo says whether there is a session with a peer.
func (n *Node) ConnectedTo(id nodeid.ID) bool { _, ok := n.peers[id]; return ok }

// Counters returns the counters.
func (n *Node) Counters() Counters { return n.counters }

// Handle takes one event and returns what is to be done.
func (n *Node) Handle(now time.Time, e Event) []Action {
	n.now = now
	clear(n.out) // what they pointed at can go
	n.out = n.out[:0]
	n.memory.reset()
	switch e := e.(type) {
	case Start:
		n.startGrid()
		n.enqueue(ring.Bootstrap{Contacts: e.Contacts})
	case Datagram:
		n.enqueue(link.Datagram(e))
	case Addresses:
		n.enqueue(link.Addresses(e))
	case Places:
		n.enqueue(link.Places(e))
	case Observed:
		n.enqueue(link.Observed(e))
	case Demand:
		n.enqueue(ring.Demand{ID: e.ID})
	case Other:
		n.enqueue(e.Event)
	case Carried:
		n.counters.Relayed += e.Datagrams
		n.enqueue(relay.Carried(e))
	case Leave:
		n.leave()
	case Lookup:
		n.lookup(e)
	case Tick:
		n.tick()
	default:
		n.request(e)
	}
	for i := 0; i < len(n.todo); i++ {
		switch e := n.todo[i].(type) {
		case ring.Event:
			n.fromRing(n.ring.Handle(now, e))
		case link.Event:
			n.fromLinks(n.links.Handle(now, e))
		case relay.Event:
			n.fromRelay(n.relay.Handle(now, e))
		default:
			n.handleGrid(e)
		}
		n.todo[i] = nil
	}
	n.todo = n.todo[:0]
	return n.out
}

func (n *Node) enqueue(e any) { n.todo = append(n.todo, e) }

func (n *Node) do(a Action) { n.out = append(n.out, a) }

// tick wakes whoever is due.
func (n *Node) tick() {
	if due(n.ring.NextDeadline(), n.now) {
		n.enqueue(ring.Tick{})
	}
	if due(n.links.NextDeadline(), n.now) {
		n.enqueue(link.Tick{})
	}
	if due(n.relay.NextDeadline(), n.now) {
		n.enqueue(relay.Tick{})
	}
	if n.grid != nil {
		n.tickGrid()
	}
	n.overdue()
	n.retry()
}

func due(deadline, now time.Time) bool { return !deadline.IsZero() && !deadline.After(now) }

// NextDeadline is when Tick is due; zero: never.
func (n *Node) NextDeadline() time.Time {
	next := earliest(n.ring.NextDeadline(), n.links.NextDeadline(), n.relay.NextDeadline(), n.requests.deadline(), n.hopDeadline())
	if n.grid != nil {
		next = earliest(next, n.grid.nextDeadline())
	}
	return next
}

func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// fromRing does what the ring wants. The bytes of its actions are copied,
// because they end when the ring is entered again.
func (n *Node) fromRing(actions []ring.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case ring.SendLink:
			n.enqueue(link.Send{ID: a.ID, Purpose: session.LinkPurpose, Message: n.memory.keep(a.Data)})
		case ring.Open:
			n.enqueue(link.Want{Contact: a.Contact, Over: a.Via, Purpose: session.LinkPurpose})
		case ring.Close:
			n.enqueue(link.Unwant{ID: a.ID, Purpose: session.LinkPurpose})
		case ring.Route:
			h := wire.Header{Payload: a.Type, To: a.To, RPC: a.RPC, SrcVia: a.SrcVia}
			n.route(&h, a.Body, a.Try)
		case ring.Changed:
			if n.grid != nil {
				n.near()
			}
		case ring.Member:
			n.do(Member{On: a.On})
		}
	}
}
