package datapath

import (
	"net/netip"
	"sync/atomic"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
)

// Table is all that the data path knows at one moment. Neither it nor what it
// points at changes after Publish, but for Activity and Way.Heard. The zero
// Table carries nothing.
type Table struct {
	// Until is the reading of Config.Clock at which the right to the own
	// addresses ends: the lease's end, or the node certificate's.
	Until time.Duration

	Own  []netip.Addr // this node's virtual addresses
	Pool netip.Prefix // of the virtual LAN; its other addresses are answered for ARP

	To     map[netip.Addr]*Peer // by a packet's destination
	Keys   map[uint32]*Opening  // by the index in a record: of purpose namespace
	Relays map[uint32]*Relay    // by the index in a relayed datagram: of purpose link
}

// Peer is where packets for some addresses go. A peer whose records go over
// the ring is in no Table: the loop sends them.
type Peer struct {
	ID       nodeid.ID
	Keys     *session.Keys // to seal under
	Path     uint8         // and the path id
	Via      session.Via   // direct or relayed
	Relay    *Relay        // of a relayed Via: marks what is sent
	MTU      int           // longest packet in one record
	Activity *Activity
}

// sent counts what was sealed for a peer.
func (p *Peer) sent(packets, bytes int) {
	p.Activity.Sent(packets, bytes)
	if p.Relay != nil {
		p.Relay.Activity.Sent(packets, bytes)
	}
}

// Opening is keys that a peer seals under and was heard under.
type Opening struct {
	ID       nodeid.ID
	Keys     *session.Keys
	From     []*Way       // proven; a record from elsewhere is the loop's
	Sources  []netip.Addr // the peer's addresses; packets from others are the loop's
	Activity *Activity
}

// Way is one path on which records of a peer arrive.
type Way struct {
	Via   session.Via
	Heard atomic.Uint64 // records; the loop tells link of them
}

// Relay is the link with a node that carries datagrams for this one, or for
// which this one carries them.
type Relay struct {
	ID       nodeid.ID
	Keys     *session.Keys // of the link: to mark under
	Via      session.Via   // direct: where marked datagrams go
	From     []*Way        // direct: where they come from
	Channels map[uint16]nodeid.ID
	Forward  map[uint16]*Forward // what this node carries on, by channel; the loop has what needs a budget
	Activity *Activity
}

// Forward is where a relay carries what comes on a channel.
type Forward struct {
	To      *Relay // keys to mark under and where datagrams go
	Channel uint16 // of that link
	Carried *Carried
}

// Carried counts what a channel has carried. All Tables share one.
type Carried struct{ Datagrams, Bytes atomic.Uint64 }

// Activity counts what a session has carried since it began. All Tables of a
// session share one.
type Activity struct {
	SentPackets, SentBytes   atomic.Uint64
	HeardPackets, HeardBytes atomic.Uint64
}

// Sent and Heard count packets of so many bytes altogether.
func (a *Activity) Sent(packets, bytes int) {
	a.SentPackets.Add(uint64(packets))
	a.SentBytes.Add(uint64(bytes))
}

func (a *Activity) Heard(packets, bytes int) {
	a.HeardPackets.Add(uint64(packets))
	a.HeardBytes.Add(uint64(bytes))
}
