package wire

import (
	"encoding/binary"
	"net/netip"

	"gridappliance/overlayd/nodeid"
)

// CandidateKind says how a node knows an endpoint of its own.
type CandidateKind uint8

// Kinds of candidates (RFC 8445 §5.1.1).
const (
	HostCandidate       CandidateKind = 1 // of an interface
	ReflexiveCandidate  CandidateKind = 2 // as other nodes see it
	MappedCandidate     CandidateKind = 3 // a port mapping of PCP, NAT-PMP or UPnP
	AdvertisedCandidate CandidateKind = 4 // from configuration
)

// Mapping is how a node's translator maps (RFC 4787 §4.1), as far as it knows.
type Mapping uint8

// Mappings.
const (
	UnknownMapping      Mapping = 0
	EndpointIndependent Mapping = 1 // or no translator
	AddressDependent    Mapping = 2 // or address and port
)

// Candidate is an endpoint at which a node may be reached.
type Candidate struct {
	Kind     CandidateKind
	Endpoint netip.AddrPort
}

// RelayOffer is a node through which the sender can be reached: it has a
// direct link with it.
type RelayOffer struct {
	ID  nodeid.ID
	RTT uint16 // ms
}

// Bounds. Protocol.
const (
	MaxCandidates = 8 // TRUST.md, "Relays, records, abuse"
	MaxRelays     = 8
	MaxPlaces     = 4
)

// Candidates says where the sender may be reached. It travels in the payloads
// of a handshake and, when it changes or checks are to begin again, in the
// session.
//
//	offset size
//	0      1    mapping: 0 unknown, 1 endpoint-independent, 2 address-dependent
//	1      1    1: the sender has opened many sockets towards the receiver, who
//	            may spray its reflexive address; else 0
//	2      1    number of candidates, at most 8
//	3      ...  each: 1 kind, 1 length of address (4 or 16), address, 2 port
//	...    1    number of relays, at most 8
//	...    18   each: 16 node ID, 2 round-trip time in ms
//	...    1    number of places, at most 4
//	...    12   each: 8 bootstrap, 4 handle
type Candidates struct {
	Mapping Mapping
	Spray   bool
	List    []Candidate
	Relays  []RelayOffer
	Places  []Place
}

// Place is one at a bootstrap (package bootstrap): who has another place there
// can send to this one.
type Place struct {
	Bootstrap [8]byte // drawn by the bootstrap when it started
	Handle    uint32
}

// Type returns TypeCandidates.
func (Candidates) Type() Type { return TypeCandidates }

// Append appends the body.
func (m Candidates) Append(b []byte) []byte {
	spray := byte(0)
	if m.Spray {
		spray = 1
	}
	b = append(b, byte(m.Mapping), spray, byte(len(m.List)))
	for _, c := range m.List {
		b = AppendEndpoint(append(b, byte(c.Kind)), c.Endpoint)
	}
	b = append(b, byte(len(m.Relays)))
	for _, r := range m.Relays {
		b = append(b, r.ID[:]...)
		b = binary.BigEndian.AppendUint16(b, r.RTT)
	}
	b = append(b, byte(len(m.Places)))
	for _, p := range m.Places {
		b = append(b, p.Bootstrap[:]...)
		b = binary.BigEndian.AppendUint32(b, p.Handle)
	}
	return b
}

// ParseCandidates reads a body.
func ParseCandidates(b []byte) (Candidates, error) {
	r := reader{b: b}
	m := Candidates{Mapping: Mapping(r.u8())}
	spray := r.u8()
	m.Spray = spray == 1
	r.bound(m.Mapping <= AddressDependent && spray <= 1)
	for range r.count(MaxCandidates, 8) {
		c := Candidate{Kind: CandidateKind(r.u8())}
		r.bound(c.Kind >= HostCandidate && c.Kind <= AdvertisedCandidate)
		c.Endpoint = r.endpoint()
		m.List = append(m.List, c)
	}
	for range r.count(MaxRelays, nodeid.Size+2) {
		m.Relays = append(m.Relays, RelayOffer{ID: r.id(), RTT: r.u16()})
	}
	for range r.count(MaxPlaces, 12) {
		var p Place
		copy(p.Bootstrap[:], r.take(8))
		p.Handle = r.u32()
		m.Places = append(m.Places, p)
	}
	return m, r.end(TypeCandidates)
}

// Check asks whether datagrams arrive on the path it is sent on. It is as long
// as its answer, so that nobody can be sent more than was sent.
//
//	offset size
//	0      8    nonce
//	8      8    0
//	16     7/19 endpoint it is sent to: length of address, address, port;
//	            0.0.0.0:0 on a path without endpoints
type Check struct {
	Nonce [8]byte
	To    netip.AddrPort
}

// Type returns TypeCheck.
func (Check) Type() Type { return TypeCheck }

// Append appends the body.
func (m Check) Append(b []byte) []byte {
	b = append(append(b, m.Nonce[:]...), make([]byte, 8)...)
	return AppendEndpoint(b, m.To)
}

// ParseCheck reads a body.
func ParseCheck(b []byte) (Check, error) {
	r := reader{b: b}
	var m Check
	copy(m.Nonce[:], r.take(8))
	r.bound(r.u64() == 0)
	m.To = r.endpoint()
	return m, r.end(TypeCheck)
}

// CheckAnswer answers a Check or another CheckAnswer's challenge. It must
// arrive from where the question was sent.
//
//	offset size
//	0      8    nonce or challenge of what is answered
//	8      8    challenge to be answered by a CheckAnswer, or 0
//	16     7/19 endpoint that what is answered came from: its sender's reflexive one
type CheckAnswer struct {
	Nonce     [8]byte
	Challenge [8]byte
	Observed  netip.AddrPort
}

// Type returns TypeCheckAnswer.
func (CheckAnswer) Type() Type { return TypeCheckAnswer }

// Append appends the body.
func (m CheckAnswer) Append(b []byte) []byte {
	b = append(append(b, m.Nonce[:]...), m.Challenge[:]...)
	return AppendEndpoint(b, m.Observed)
}

// ParseCheckAnswer reads a body.
func ParseCheckAnswer(b []byte) (CheckAnswer, error) {
	r := reader{b: b}
	var m CheckAnswer
	copy(m.Nonce[:], r.take(8))
	copy(m.Challenge[:], r.take(8))
	m.Observed = r.endpoint()
	return m, r.end(TypeCheckAnswer)
}

// RelayOp is what a Relay message is about.
type RelayOp uint8

// Operations. A channel is a number of one link, given by the relay.
const (
	RelayAsk    RelayOp = 1 // node to relay: a channel to Peer, please
	RelayAnswer RelayOp = 2 // relay to node: it is Channel; 0: refused
	RelayNew    RelayOp = 3 // relay to node: Peer has a channel to you, Channel
	RelayClose  RelayOp = 4 // either way: Channel is gone
)

// Relay opens and closes channels through a node that both ends have links with.
//
//	offset size
//	0      1    1 ask, 2 answer, 3 new, 4 close
//	1      2    channel; 0 in an ask
//	3      16   peer
type Relay struct {
	Op      RelayOp
	Channel uint16
	Peer    nodeid.ID
}

// Type returns TypeRelay.
func (Relay) Type() Type { return TypeRelay }

// Append appends the body.
func (m Relay) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(append(b, byte(m.Op)), m.Channel)
	return append(b, m.Peer[:]...)
}

// ParseRelay reads a body.
func ParseRelay(b []byte) (Relay, error) {
	r := reader{b: b}
	m := Relay{Op: RelayOp(r.u8()), Channel: r.u16(), Peer: r.id()}
	r.bound(m.Op >= RelayAsk && m.Op <= RelayClose)
	return m, r.end(TypeRelay)
}
