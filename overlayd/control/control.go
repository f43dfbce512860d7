// Package control is overlayd's control socket: the types that travel on it,
// the server inside overlayd and the client that the other parts use.
//
// The socket is a Unix stream socket at /run/overlayd/control.sock, mode 0660,
// root and group overlayd. It speaks HTTP/1.1 with JSON bodies, one resource a
// verb; /v1/watch and /v1/crawl are streams of newline-separated values.
//
//	GET    /v1/status            -> Status
//	GET    /v1/watch             -> Status\n Status\n ..., the first at once, then one a change
//	GET    /v1/whois?addr=A      -> Whois         or ?name=, ?node=
//	GET    /v1/peers             -> []Peer
//	GET    /v1/why?addr=A        -> Why           or ?name=, ?node=
//	GET    /v1/ping?addr=A       -> Pong          or ?name=, ?node=
//	GET    /v1/lookup?key=K      -> Found         or ?record=KIND/NAME
//	GET    /v1/records?record=R  -> []Record
//	PUT    /v1/records?record=R&lifetime_s=N  value -> Stored
//	DELETE /v1/records?record=R  -> Stored
//	POST   /v1/publish  text     -> {}            root only
//	GET    /v1/crawl             -> Crawled\n Crawled\n ...
//	GET    /metrics              -> Prometheus text exposition
//
// A request that is not done is answered by a line of text and a status: 400
// the request has no meaning, 403 the caller may not, 404 nobody known, 410
// known and refused since, 422 what was sent is refused, 503 too many requests or not on the ring, 504 no
// answer. Each but 400 is an error of this package at the client.
//
// Client methods are safe for concurrent use. Limits on purpose: whoever can
// read the socket sees names and addresses, never keys; what changes more than
// this node's own records (publish) needs root.
package control

import (
	"net/netip"
	"strconv"
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
	State     State        `json:"state"`
	Reason    string       `json:"reason,omitempty"` // why it is not running, or not as it should, for a person
	Version   string       `json:"version"`
	Grid      string       `json:"grid"`
	Namespace string       `json:"namespace"`
	NodeID    string       `json:"node"`
	Role      string       `json:"role"`
	User      string       `json:"user"`
	Group     string       `json:"group"`
	Device    string       `json:"device"`               // name of the virtual device: "tapipop"
	Address   netip.Prefix `json:"address,omitzero"`     // virtual address with the pool's mask
	Address6  netip.Prefix `json:"address6,omitzero"`    // IPv6 address, made of the node's key
	Name      string       `json:"name,omitempty"`       // C250000002.ipop
	HostNames []string     `json:"host_names,omitempty"` // chosen names that are held: pc.ipop
	Since     time.Time    `json:"since,omitzero"`       // when the address came
	Masters   []Master     `json:"masters"`              // roster of the descriptor
	Descr     uint64       `json:"descriptor"`           // version of the descriptor in use
	Revoked   uint64       `json:"revocations"`          // version of the newest revocation list
	Cert      Certificate  `json:"certificate,omitzero"` // the node certificate in use
	Lease     Lease        `json:"lease,omitzero"`       // of Address; a master has none
	DNS       DNS          `json:"dns,omitzero"`         // how names of Domain are resolved here
	Barred    []netip.Addr `json:"barred,omitempty"`     // of nodes that were peers until their certificate was refused
	Alarms    []string     `json:"alarms,omitempty"`     // what a person must see
	Live
}

// Live is what of a Status changes all the time, so that it wakes no watcher.
type Live struct {
	Ring     Ring              `json:"ring,omitzero"`
	Underlay Underlay          `json:"underlay,omitzero"`
	Peers    map[string]int    `json:"peers,omitempty"` // by path: how many sessions take it
	Counters map[string]uint64 `json:"counters,omitempty"`
}

// Lease is the lease of the virtual address.
type Lease struct {
	State string    `json:"state"` // as package lease calls it: "holding"
	Until time.Time `json:"until,omitzero"`
}

// DNS is how names of the virtual network are resolved on this machine. Server
// and domains are what its resolver is to be told, none without an address.
type DNS struct {
	State  string     `json:"state"`            // for a person
	Server netip.Addr `json:"server,omitzero"`  // the node itself
	Search []string   `json:"search,omitempty"` // domains that short names are tried with
	Route  []string   `json:"route,omitempty"`  // domains to ask the server about, beside those
}

// IsZero tells JSON that there is nothing to say.
func (d DNS) IsZero() bool { return d.State == "" && !d.Server.IsValid() }

// Ring is the node's place on the overlay's ring.
type Ring struct {
	Member bool   `json:"member"`
	Size   uint64 `json:"size"` // estimated number of members
}

// Underlay is how the node stands on the underlay.
type Underlay struct {
	Listen    netip.AddrPort `json:"listen,omitzero"`
	Reflexive netip.AddrPort `json:"reflexive,omitzero"` // as other nodes see it
	Mapping   Mapping        `json:"mapping,omitempty"`  // of the translator in between
}

// Mapping is how a network address translator maps (RFC 4787 §4.1).
type Mapping string

// The mappings.
const (
	MappingUnknown     Mapping = "unknown"
	MappingIndependent Mapping = "endpoint-independent" // or no translator
	MappingDependent   Mapping = "address-dependent"    // or address and port
)

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

// Millis is a time span that travels as milliseconds, to a microsecond.
type Millis time.Duration

func (m Millis) String() string { return time.Duration(m).Round(10 * time.Microsecond).String() }

// MarshalJSON writes a number of milliseconds.
func (m Millis) MarshalJSON() ([]byte, error) {
	us := time.Duration(m).Round(time.Microsecond).Microseconds()
	return strconv.AppendFloat(nil, float64(us)/1000, 'f', -1, 64), nil
}

// UnmarshalJSON reads a number of milliseconds.
func (m *Millis) UnmarshalJSON(text []byte) error {
	ms, err := strconv.ParseFloat(string(text), 64)
	*m = Millis(ms * float64(time.Millisecond))
	return err
}
