package core

import (
	"errors"
	"time"

	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/relay"
	"gridappliance/overlayd/wire"
)

// Event is what happened to a node. The set is closed.
type Event interface{ event() }

// Events.
type (
	// Start begins the node: it says where the grid may be found. It may come
	// again: then its contacts replace those before.
	Start struct{ Contacts []wire.Contact }

	// Datagram is what the overlay's socket received. Data is not kept, but
	// may be written to.
	Datagram link.Datagram

	// Addresses says where this machine can be reached as far as it knows
	// itself.
	Addresses link.Addresses

	// Places says where at bootstraps this machine can be reached.
	Places link.Places

	// Observed says how a bootstrap sees this machine.
	Observed link.Observed

	// Lookup asks which member is nearest to a key. It is answered by Found
	// with the same token, within LookupTime.
	Lookup struct {
		Token uint64
		Key   nodeid.ID
	}

	// Demand says that there is traffic for a peer, so that a connection of its
	// own may be made. Repeat it while there is.
	Demand struct{ ID nodeid.ID }

	// Other is an event for the sessions that are no part of the ring: a
	// namespace's. What becomes of them, Links knows.
	Other struct{ Event link.Event }

	// Carried says that somebody else has carried datagrams of a channel that
	// Relaying().Unlimited() names.
	Carried relay.Carried

	// Leave ends the node in order.
	Leave struct{}

	// Tick says that NextDeadline has come.
	Tick struct{}
)

func (Start) event()     {}
func (Datagram) event()  {}
func (Addresses) event() {}
func (Observed) event()  {}
func (Places) event()    {}
func (Lookup) event()    {}
func (Demand) event()    {}
func (Other) event()     {}
func (Carried) event()   {}
func (Leave) event()     {}
func (Tick) event()      {}

// Action is what is to be done, or what somebody may want to know. The set is
// closed. Bytes hold until the next Handle.
type Action interface{ action() }

// Actions.
type (
	// Send sends a datagram from a socket: 0 is the overlay's, others are
	// opened by the first datagram from them.
	Send link.SendDatagram

	// CloseSockets closes the other sockets that are not in Keep.
	CloseSockets link.CloseSockets

	// Found answers a Lookup. List is the node's own neighbours, Hops how many
	// the answer took.
	Found struct {
		Token uint64
		Node  wire.Peer
		List  wire.List
		Hops  int
		Took  time.Duration
		Err   error // ErrNoAnswer, ErrBusy
	}

	// Member says that the node is on the ring, or no longer.
	Member struct{ On bool }

	// Connected says that there is a connection to a peer, or that it takes
	// another path.
	Connected struct {
		ID   nodeid.ID
		Path link.State
	}

	// Disconnected says that it is gone.
	Disconnected struct{ ID nodeid.ID }
)

func (Send) action()         {}
func (CloseSockets) action() {}
func (Found) action()        {}
func (Member) action()       {}
func (Connected) action()    {}
func (Disconnected) action() {}

// Why a request failed.
var (
	ErrNoAnswer = errors.New("no answer")
	ErrBusy     = errors.New("too many requests at once")
)
