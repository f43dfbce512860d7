package dht

import "time"

// Machine is a node's part of the store: what it keeps for others, what it
// publishes, what it looks up.
type Machine struct {
	cfg     Config
	count   Counters
	actions []Action
}

// New returns a machine that stores nothing and knows no neighbour.
func New(cfg Config) *Machine { return &Machine{cfg: cfg} }

// Handle takes one event. The actions are valid until the next call.
func (m *Machine) Handle(now time.Time, e Event) []Action {
	m.actions = m.actions[:0]
	return m.actions
}

// NextDeadline returns when Tick is due, zero for never.
func (m *Machine) NextDeadline() time.Time { return time.Time{} }

// Counters returns the counters.
func (m *Machine) Counters() Counters { return m.count }
