// Package ring keeps one node on the overlay's ring.
package ring

import (
	"math/rand/v2"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
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

// Implementation: the degree budget.
const (
	BudgetAppliance = 24
	BudgetBootstrap = 128
)

// Machine is one node's place on the ring.
type Machine struct {
	cfg Config
}

// New returns a machine that waits for Bootstrap.
func New(cfg Config) *Machine { return &Machine{cfg: cfg} }

// Handle takes one event and returns what to do; the slice is reused by the
// next call.
func (m *Machine) Handle(now time.Time, e Event) []Action { return nil }

// NextDeadline is when Tick is due; zero: never.
func (m *Machine) NextDeadline() time.Time { return time.Time{} }

// FirstHop returns where a payload of this node's own goes first. It fills in
// what a header needs besides To, Payload and RPC: TTL, Promise, Src, SrcVia.
// Attempt try leaves by another peer than the attempts before it, while there
// are any.
func (m *Machine) FirstHop(h *wire.Header, try int) (nodeid.ID, Verdict) { return nodeid.ID{}, OffRing }

// NextHop says where a Routed message that arrived goes, and changes the
// header to what the next hop is to get.
func (m *Machine) NextHop(h *wire.Header) (nodeid.ID, Verdict) { return nodeid.ID{}, OffRing }

// Phase returns how far the node has come.
func (m *Machine) Phase() Phase { return Init }

// List returns the predecessors and successors, nearest first. The slices are
// the machine's and hold until the next Handle.
func (m *Machine) List() wire.List { return wire.List{} }

// Size returns the estimated number of members.
func (m *Machine) Size() float64 { return 1 }
