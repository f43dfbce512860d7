package ring

import (
	"net/netip"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Event is what happened to a node.
type Event interface{ event() }

// Events.
type (
	// Bootstrap starts a node: it names where the ring may be found. It may
	// come again: then its contacts replace those before. A contact of which only
	// endpoints are known has the zero ID.
	Bootstrap struct{ Contacts []wire.Contact }

	// LinkUp says that there is a session of kind link with a peer, direct or
	// through a relay, whoever began it. A LinkUp for a peer that has one
	// already is taken as LinkDown and LinkUp.
	LinkUp struct {
		Contact wire.Contact // authenticated
		RTT     time.Duration
		Asked   netip.AddrPort // the first endpoint of the Open, if that had no ID
	}

	// LinkDown says that a session is gone.
	LinkDown struct{ ID nodeid.ID }

	// LinkFailed says that what an Open asked for did not come about.
	LinkFailed struct {
		ID    nodeid.ID
		Asked netip.AddrPort // as in LinkUp
	}

	// RTT says that the path to a peer is another, or was measured.
	RTT struct {
		ID  nodeid.ID
		RTT time.Duration
	}

	// FromLink is a link message of types 1 to 4, 6 to 10 and 16 from a peer;
	// the bytes are type and body, and are not kept.
	FromLink struct {
		ID   nodeid.ID
		Data []byte
	}

	// Heard says that a peer acknowledged a payload that was sent to it, RTT
	// after it was sent; zero if that is not known.
	Heard struct {
		ID  nodeid.ID
		RTT time.Duration
	}

	// Unheard says that a peer did not acknowledge a payload in HopTimeout.
	Unheard struct{ ID nodeid.ID }

	// Routed is a payload delivered to this node, of type Find, Found, Join,
	// JoinAnswer, Merge or Err; the body is not kept.
	Routed struct {
		Header wire.Header
		Body   []byte
	}

	// Demand says that there is traffic for a peer. Repeat it while there is.
	Demand struct{ ID nodeid.ID }

	// Leave ends a node in order; the machine answers nothing after it.
	Leave struct{}

	// Tick says that NextDeadline has come.
	Tick struct{}
)

func (Bootstrap) event()  {}
func (LinkUp) event()     {}
func (LinkDown) event()   {}
func (LinkFailed) event() {}
func (RTT) event()        {}
func (FromLink) event()   {}
func (Heard) event()      {}
func (Unheard) event()    {}
func (Routed) event()     {}
func (Demand) event()     {}
func (Leave) event()      {}
func (Tick) event()       {}

// Action is what a node is to do.
type Action interface{ action() }

// Actions. Their bytes are the machine's and hold until the next Handle.
type (
	// SendLink sends a link message (type and body) to a peer with a session.
	SendLink struct {
		ID   nodeid.ID
		Data []byte
	}

	// Open asks for a session. It is answered by LinkUp or LinkFailed within
	// OpenTimeout, or taken as failed. With endpoints they are where to begin;
	// without, the handshake is routed to the ID through Via, if that is not
	// the zero ID: a peer that has a connection to it, and so a relay of last
	// resort too. A contact with the zero ID is whoever answers there.
	Open struct {
		Contact wire.Contact
		Via     nodeid.ID
		Why     Why
	}

	// Close ends a session that the ring no longer wants. If something else
	// wants it, it may stay; it is then on the ring again by LinkUp.
	Close struct {
		ID  nodeid.ID
		Why Why
	}

	// Route sends a payload: see FirstHop. Try counts from 0 the attempts of
	// one request, each of which leaves by another peer.
	Route struct {
		To     wire.Target
		SrcVia nodeid.ID
		RPC    uint32
		Type   wire.Type
		Body   []byte
		Try    int
	}

	// Changed says that the predecessors or successors are others: who keeps
	// things at ring positions has to look again. See Machine.List.
	Changed struct{}

	// Member says that this node is on the ring, or no longer.
	Member struct{ On bool }
)

func (SendLink) action() {}
func (Open) action()     {}
func (Close) action()    {}
func (Route) action()    {}
func (Changed) action()  {}
func (Member) action()   {}

// Why says why a session is opened or closed, for counters and people.
type Why uint8

// Reasons.
const (
	WhyBootstrap Why = iota // first contact
	WhyNear                 // a neighbour on the ring
	WhyFar                  // a shortcut
	WhyDemand               // traffic
	WhyMerge                // to look for another ring
	WhyUnused               // no role left
	WhyDead                 // the peer is dead: others say so too
	WhyBroken               // the peer is alive, this session is not
	WhySilent               // no answer, and nobody to ask
	WhyLeaving              // this node or the peer leaves
)

var whys = [...]string{"bootstrap", "near", "far", "demand", "merge", "unused", "dead", "broken", "silent", "leaving"}

// String returns the reason as a word.
func (w Why) String() string { return whys[w] }

// Verdict says what to do with a Routed message.
type Verdict uint8

// Verdicts.
const (
	Forward Verdict = iota // send it to the peer that was returned
	Deliver                // it is for this node
	NoRoute                // exact, and the destination is not there: answer wire.CodeNoRoute
	Expired                // no hops left: drop, count
	OffRing                // this node is not on the ring and cannot tell: answer wire.CodeOffRing
	Unsure                 // it is for this node unless a silent neighbour lives: ask again soon
)

// Phase is how far a node has come.
type Phase uint8

// Phases; see Machine.
const (
	Init     Phase = iota // no session
	Attached              // a session with somebody; the place on the ring is being asked for
	Joining               // connecting with the neighbours
	OnRing                // a member
	Left
)

var phases = [...]string{"init", "attached", "joining", "member", "left"}

// String returns the phase as a word.
func (p Phase) String() string { return phases[p] }
