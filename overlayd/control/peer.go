package control

import (
	"net/netip"
	"time"
)

// Path is how records to a peer go.
type Path string

// The paths.
const (
	PathNone   Path = "none"   // no session
	PathRing   Path = "ring"   // over the ring, as the first packets do
	PathRelay  Path = "relay"  // through a common neighbour
	PathDirect Path = "direct" // to an endpoint
)

// PurposeLink is the purpose of a Session that carries the overlay itself;
// any other is the namespace whose packets it carries.
const PurposeLink = "link"

// Peer is a node with which there is a session.
type Peer struct {
	NodeID   string     `json:"node"`
	Address  netip.Addr `json:"address,omitzero"` // zero: not known
	Name     string     `json:"name,omitempty"`
	User     string     `json:"user,omitempty"`
	Group    string     `json:"group,omitempty"`
	Role     string     `json:"role,omitempty"`
	Ring     []string   `json:"ring,omitempty"` // its connections: "near", "shortcut", "on-demand", "leaf"
	Sessions []Session  `json:"sessions"`
}

// Session is one session with a peer.
type Session struct {
	Purpose  string         `json:"purpose"` // PurposeLink or a namespace
	Path     Path           `json:"path"`
	Checking bool           `json:"checking"`          // a direct path is being looked for
	Endpoint netip.AddrPort `json:"endpoint,omitzero"` // of a direct path
	Relay    string         `json:"relay,omitempty"`   // node ID of who relays, unless it is a bootstrap
	By       string         `json:"by,omitempty"`      // its name, if it is known, or what it is
	RTT      Millis         `json:"rtt_ms,omitzero"`   // zero: not measured
	Since    time.Time      `json:"since,omitzero"`
	Sent     uint64         `json:"sent_bytes"`
	Received uint64         `json:"received_bytes"`
}

// Why says why packets to a peer go the way they go.
type Why struct {
	NodeID   string        `json:"node"`
	Address  netip.Addr    `json:"address,omitzero"`
	Name     string        `json:"name,omitempty"`
	Sessions []Explanation `json:"sessions"` // the namespace's first; none: there was no traffic yet
}

// Explanation is what is known of one session's path.
type Explanation struct {
	Session
	Own          netip.AddrPort `json:"own_endpoint,omitzero"` // as other nodes see this one
	OwnMapping   Mapping        `json:"own_mapping"`
	PeerMapping  Mapping        `json:"peer_mapping"`
	Rounds       int            `json:"rounds"`  // of checks
	Sprayed      bool           `json:"sprayed"` // many ports were tried at random
	Pairs        []Pair         `json:"pairs"`
	Improvements []string       `json:"improvements"` // what a person could change; none: nothing to gain
}

// Pair is a candidate pair: this node's socket and an endpoint of the peer's.
type Pair struct {
	Endpoint netip.AddrPort `json:"endpoint"`
	Kind     string         `json:"kind"`    // "host", "reflexive", "mapped", "advertised", or "seen": nobody named it
	Outcome  string         `json:"outcome"` // "answered", "no answer", "waiting", "budget used up", "not tried"
	Reason   string         `json:"reason,omitempty"`
	Checks   int            `json:"checks"`
	RTT      Millis         `json:"rtt_ms,omitzero"`
}

// Pong is the answer to one Ping.
type Pong struct {
	NodeID   string         `json:"node"`
	Address  netip.Addr     `json:"address,omitzero"`
	Name     string         `json:"name,omitempty"`
	Path     Path           `json:"path"` // that the answer took
	Endpoint netip.AddrPort `json:"endpoint,omitzero"`
	Relay    string         `json:"relay,omitempty"`
	By       string         `json:"by,omitempty"` // the relay's name, if it is known
	RTT      Millis         `json:"rtt_ms"`
}
