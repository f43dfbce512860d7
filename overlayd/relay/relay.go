// Package relay carries datagrams between two peers that cannot reach each
// other, within budgets.
package relay

import (
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Config is what a machine is made of.
type Config struct {
	Namespace string // of this node: what its own peers send is unlimited
}

// Event is what happened. The set is closed.
type Event interface{ event() }

type (
	// LinkUp says that there is a direct link session with a node that its
	// certificate says these things of.
	LinkUp struct {
		ID        nodeid.ID
		Holder    wire.Holder
		Namespace string
		Mbit      int // of its holder's quota, for other namespaces
	}

	// LinkDown says that it is gone.
	LinkDown struct{ ID nodeid.ID }

	// Message is a peer's wire.Relay with the operation ask or close.
	Message struct {
		From nodeid.ID
		wire.Relay
	}

	// Tick is the event for NextDeadline.
	Tick struct{}
)

func (LinkUp) event()   {}
func (LinkDown) event() {}
func (Message) event()  {}
func (Tick) event()     {}

// Send is the only action: a message for a peer's link session.
type Send struct {
	To nodeid.ID
	wire.Relay
}

// Machine is what one node relays.
type Machine struct {
	cfg Config
}

// New returns a machine that relays nothing yet.
func New(cfg Config) *Machine { return &Machine{cfg: cfg} }

// Handle takes one event and returns what to send; the slice is reused by the
// next call.
func (m *Machine) Handle(now time.Time, e Event) []Send { return nil }

// NextDeadline is when Tick is due; zero: never.
func (m *Machine) NextDeadline() time.Time { return time.Time{} }

// Forward says where a datagram of so many bytes, whose mark was right, goes:
// to which peer and which of its channels. It allocates nothing. What is not
// forwarded is counted.
func (m *Machine) Forward(now time.Time, from nodeid.ID, channel uint16, size int) (to nodeid.ID, out uint16, ok bool) {
	return nodeid.ID{}, 0, false
}
