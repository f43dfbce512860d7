package gossip

import (
	"time"

	"gridappliance/overlayd/wire"
)

// Machine spreads descriptor and revocation lists.
type Machine struct {
	cfg      Config
	versions wire.Versions
	count    Counters
	actions  []Action
}

// New returns a machine that knows no peer.
func New(cfg Config) *Machine { return &Machine{cfg: cfg} }

// Handle takes one event. The actions are valid until the next call.
func (m *Machine) Handle(now time.Time, e Event) []Action {
	m.actions = m.actions[:0]
	return m.actions
}

func (m *Machine) nextDeadline() time.Time { return time.Time{} }
