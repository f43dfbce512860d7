// Package link makes and keeps the path to each peer: candidates, checks, hole
// punching, a relay as the next best and the ring as what always works.
package link

import (
	"math/rand/v2"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
)

// Config is what a machine is made of. Session's Offer is link's to fill.
type Config struct {
	Session session.Config
	Rand    *rand.Rand // required; the machine's own, for pacing and choices, not for keys
	Spray   bool       // birthday spraying is allowed: not on a battery, a metered line or a small translator
}

// Machine holds the paths to all peers, and their sessions.
type Machine struct {
	cfg      Config
	sessions *session.Machine
}

// New returns a machine without peers. The error is session.New's.
func New(cfg Config, now time.Time) (*Machine, error) {
	s, err := session.New(cfg.Session, now)
	return &Machine{cfg: cfg, sessions: s}, err
}

// Handle takes one event and returns what to do; the slice is reused by the
// next call.
func (m *Machine) Handle(now time.Time, e Event) []Action { return nil }

// NextDeadline is when Tick is due; zero: never.
func (m *Machine) NextDeadline() time.Time { return m.sessions.NextDeadline() }

// State returns how far the path to a peer has come.
func (m *Machine) State(peer nodeid.ID, purpose string) State { return None }
