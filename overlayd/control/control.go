// Package control is overlayd's local status socket: the types that travel on
// it, the server inside overlayd and the client that the other parts use.
//
// The socket is a Unix stream socket at /run/overlayd/control.sock, mode 0660,
// root and group overlayd. It speaks HTTP/1.1 with JSON bodies, one resource a
// verb; /v1/watch is a stream of newline-separated Status values, the first at
// once and one more after every change.
//
//	GET /v1/status             -> Status
//	GET /v1/watch              -> Status\n Status\n ...
//	GET /v1/whois?addr=A       -> Whois, or 404
//
// Client methods are safe for concurrent use. Limits on purpose: nothing here
// changes the daemon; whoever can read the socket sees names and addresses,
// never keys.
package control

import (
	"net/netip"
	"time"
)

// SocketPath is where overlayd listens unless told otherwise.
const SocketPath = "/run/overlayd/control.sock"

// State is how far the node has come.
type State string

// The states of a node, in the order it goes through them.
const (
	StateStarting State = "starting" // reading its floppy, making its certificate
	StateJoining  State = "joining"  // no address yet: looking for the grid
	StateRunning  State = "running"  // has an address and carries traffic
	StateStopping State = "stopping"
)

// Status is what a node knows about itself.
type Status struct {
	State     State             `json:"state"`
	Reason    string            `json:"reason,omitempty"` // why it is not running, for a person
	Version   string            `json:"version"`
	Grid      string            `json:"grid"`
	Namespace string            `json:"namespace"`
	NodeID    string            `json:"node"`
	Role      string            `json:"role"`
	User      string            `json:"user"`
	Group     string            `json:"group"`
	Device    string            `json:"device"`               // name of the virtual device: "tapipop"
	Address   netip.Prefix      `json:"address,omitzero"`     // virtual address with the pool's mask
	Name      string            `json:"name,omitempty"`       // C250000002.ipop
	Since     time.Time         `json:"since,omitzero"`       // when the address came
	Masters   []Master          `json:"masters"`              // roster of the descriptor
	Descr     uint64            `json:"descriptor"`           // version of the descriptor in use
	Cert      Certificate       `json:"certificate,omitzero"` // the node certificate in use
	Counters  map[string]uint64 `json:"counters,omitempty"`
}

// Master is one master of the grid's roster.
type Master struct {
	Name    string     `json:"name"`    // C250000002.ipop
	Address netip.Addr `json:"address"` // its fixed virtual address
}

// Certificate is the validity of a node certificate.
type Certificate struct {
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Whois is who holds a virtual address.
type Whois struct {
	Address netip.Addr `json:"address"`
	Name    string     `json:"name"`
	NodeID  string     `json:"node"`
	User    string     `json:"user"`
	Group   string     `json:"group"`
	Role    string     `json:"role"`
	Router  bool       `json:"behind_router"` // leased by a router for a LAN machine
}
