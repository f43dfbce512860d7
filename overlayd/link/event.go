package link

import (
	"net/netip"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// Event is what happened. The set is closed.
type Event interface{ event() }

type (
	// Want asks for a session with a peer and keeps it until Unwant. With a
	// zero ID the endpoints are a bootstrap node's, and whoever answers is the
	// peer; Up names it. Over is the member through which a peer is reached
	// that is not on the ring itself. Purpose "" is session.LinkPurpose.
	Want struct {
		Contact wire.Contact
		Over    nodeid.ID
		Purpose string
	}

	// Unwant gives a session up. A session that the peer asked for needs it
	// as well: nothing ends an Up but Down.
	Unwant struct {
		ID      nodeid.ID
		Purpose string
	}

	// Addresses says where this machine can be reached as far as it knows
	// itself. It replaces what was said before.
	Addresses struct {
		Host       []netip.AddrPort // of interfaces of the underlay, with the socket's port
		Attached   []netip.Prefix   // directly attached prefixes of the underlay
		Mapped     []netip.AddrPort // port mappings
		Advertised []netip.AddrPort // configured
		Pools      []netip.Prefix   // virtual networks, never candidates
	}

	// Observed says at which endpoint By, a bootstrap, sees this node.
	Observed struct{ By, Endpoint netip.AddrPort }

	// Places says at which bootstraps this node is enrolled. It replaces what
	// was said before.
	Places struct{ List []Place }

	// Datagram is one of the underlay for which session.Ours is true.
	Datagram struct {
		From   netip.AddrPort
		Socket uint16 // 0: the usual one; else as in SendDatagram
		Data   []byte
	}

	// Routed is the body of a payload of wire.TypeSession that the ring
	// delivered to this node. Over is the header's via of the source.
	Routed struct {
		Src, Over nodeid.ID
		Data      []byte
	}

	// Send seals a message for a peer on its best path, or on every path that
	// is proven: a peer and a copy of it are on different ones.
	Send struct {
		ID         nodeid.ID
		Purpose    string
		Message    []byte
		Everywhere bool
	}

	// Forward sends what package relay decided on: a carried datagram to a
	// peer's channel.
	Forward struct {
		To      nodeid.ID
		Channel uint16
		Carried []byte
	}

	// Traffic says that the data path has sent records of a session on its best
	// path, or opened some that came on those in Heard, since the last Traffic:
	// once a second is enough.
	Traffic struct {
		ID      nodeid.ID
		Purpose string
		Sent    bool
		Heard   []session.Via
	}

	// Ping asks a peer with a session for a sign of life on its best path. Pong
	// with the same token answers it, if anything does.
	Ping struct {
		ID      nodeid.ID
		Purpose string
		Token   uint64
	}

	// Versions is what every handshake from now on says of the descriptor and
	// revocation lists that this node has.
	Versions struct{ wire.Versions }

	// Identity, Roots, Recheck and Destroy are session's.
	Identity struct{ Chain credential.Chain }
	Roots    struct{ List [][32]byte }
	Recheck  struct{}
	Destroy  struct{ Reason session.Reason }

	// Tick is the event for NextDeadline.
	Tick struct{}
)

func (Want) event()      {}
func (Unwant) event()    {}
func (Addresses) event() {}
func (Observed) event()  {}
func (Places) event()    {}
func (Datagram) event()  {}
func (Routed) event()    {}
func (Send) event()      {}
func (Forward) event()   {}
func (Traffic) event()   {}
func (Ping) event()      {}
func (Versions) event()  {}
func (Identity) event()  {}
func (Roots) event()     {}
func (Recheck) event()   {}
func (Destroy) event()   {}
func (Tick) event()      {}

// Place is one at a bootstrap, which virtual endpoints know by Kind and Number.
type Place struct {
	wire.Place
	Kind   session.Virtual
	Number uint16
}

// Action is what is to be done. The set is closed.
type Action interface{ action() }

type (
	// SendDatagram is for the underlay. The receiver owns Data. Socket 0 is
	// the usual one; 1 to 256 are opened, on any port, when they are first
	// used.
	SendDatagram struct {
		To     netip.AddrPort
		Socket uint16
		Data   []byte
	}

	// CloseSockets closes all sockets but the usual one and those in Keep.
	CloseSockets struct{ Keep []uint16 }

	// RouteSession is a payload of wire.TypeSession for the ring, at most
	// wire.MaxCarried.
	RouteSession struct {
		To   wire.Target
		Data []byte
	}

	// Up says that there is a session: for purpose link once there is a path
	// that is not the ring's, else at once. Contact.Endpoints has the endpoint
	// of a direct path.
	Up struct {
		Contact wire.Contact
		Purpose string
		Node    *credential.Node
		RTT     time.Duration // 0: not measured yet
		Path    State
		TCP     bool // the path is a TCP connection with the peer

		Versions wire.Versions // that the peer has
	}

	// Down ends an Up.
	Down struct {
		ID      nodeid.ID
		Purpose string
		Reason  session.Reason
	}

	// Failed answers a Want that led to nothing. Contact is the Want's.
	Failed struct {
		Contact wire.Contact
		Purpose string
		Reason  session.Reason
	}

	// Message is what a peer's record said, in the datagram's memory: of
	// purpose link a wire message (type and body) that is not link's own.
	// Total is the record's: above 1 it was part of a superpacket.
	Message struct {
		From    nodeid.ID
		Purpose string
		Total   uint8
		Body    []byte
	}

	// Relayed is a marked datagram on a channel that is not this node's end:
	// package relay says where it goes. Carried lies in the datagram's memory.
	Relayed struct {
		From    nodeid.ID
		Channel uint16
		Carried []byte
	}

	// PathChanged says that records go another way now, or that the way was
	// measured again. Over says that it is over the ring, which Punching does
	// not tell.
	PathChanged struct {
		ID      nodeid.ID
		Purpose string
		Path    State
		Over    bool
		TCP     bool // as Up's
		RTT     time.Duration
	}

	// Needed says that a link carries another session's records and is to be
	// kept. It comes again every neededEvery while that is so.
	Needed struct{ ID nodeid.ID }

	// Pong answers a Ping. Via is the path that the answer took.
	Pong struct {
		ID      nodeid.ID
		Purpose string
		Token   uint64
		Via     session.Via
		RTT     time.Duration
	}

	// KeysChanged says that a snapshot for the data path is stale.
	KeysChanged struct{ Session *session.Session }

	// Reflexive says that the endpoint at which others see this node, or what
	// is known of its translator, has changed.
	Reflexive struct {
		Endpoint netip.AddrPort
		Mapping  wire.Mapping
	}
)

func (SendDatagram) action() {}
func (CloseSockets) action() {}
func (RouteSession) action() {}
func (Up) action()           {}
func (Down) action()         {}
func (Failed) action()       {}
func (Message) action()      {}
func (Relayed) action()      {}
func (PathChanged) action()  {}
func (Needed) action()       {}
func (Pong) action()         {}
func (KeysChanged) action()  {}
func (Reflexive) action()    {}

// State is how far the path to a peer has come.
type State uint8

const (
	None     State = iota // no session
	Ring                  // records go over the ring
	Relay2                // through a common neighbour, a bootstrap, or over TCP
	Punching              // as before, and checks are under way
	Direct                // to an endpoint
)

var stateNames = [...]string{"none", "ring", "relay", "punching", "direct"}

func (s State) String() string { return stateNames[s] }
