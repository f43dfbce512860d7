package wire

import (
	"encoding/binary"
	"net/netip"

	"gridappliance/overlayd/nodeid"
)

// Holder tells holders apart where at most one node per holder counts: the
// first bytes of the holder's key ID.
type Holder [8]byte

// Coord is where a node places itself so that the distance of two coordinates
// predicts their round-trip time (Dabek et al., Vivaldi, SIGCOMM 2004: a plane
// and a height for the access link). Unit: 1/8 ms. It is a hint that anyone
// can lie about: it chooses among equals and decides nothing.
//
//	offset size
//	0      2    x, signed
//	2      2    y, signed
//	4      2    height
type Coord struct {
	X, Y   int16
	Height uint16
}

func (c Coord) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(c.X))
	b = binary.BigEndian.AppendUint16(b, uint16(c.Y))
	return binary.BigEndian.AppendUint16(b, c.Height)
}

func (r *reader) coord() Coord {
	return Coord{X: int16(r.u16()), Y: int16(r.u16()), Height: r.u16()}
}

// Peer is a node as lists name it: no endpoints, because a session to a node
// that is on the ring begins over the ring, and candidates are exchanged
// encrypted.
//
//	offset size
//	0      16   node ID
//	16     8    holder
//	24     6    coordinate
type Peer struct {
	ID     nodeid.ID
	Holder Holder
	Coord  Coord
}

const peerSize = nodeid.Size + 8 + 6

func (p Peer) append(b []byte) []byte {
	b = append(b, p.ID[:]...)
	b = append(b, p.Holder[:]...)
	return p.Coord.append(b)
}

func (r *reader) id() (id nodeid.ID) {
	copy(id[:], r.take(nodeid.Size))
	return id
}

func (r *reader) peer() (p Peer) {
	p.ID = r.id()
	copy(p.Holder[:], r.take(8))
	p.Coord = r.coord()
	return p
}

func appendPeers(b []byte, peers []Peer) []byte {
	b = append(b, byte(len(peers)))
	for _, p := range peers {
		b = p.append(b)
	}
	return b
}

// peers returns nil for none, so that what is parsed compares equal.
func (r *reader) peers(limit int) []Peer {
	n := r.count(limit, peerSize)
	if n == 0 {
		return nil
	}
	peers := make([]Peer, n)
	for i := range peers {
		peers[i] = r.peer()
	}
	return peers
}

// MaxEndpoints bounds the endpoints of a contact. Protocol.
const MaxEndpoints = 4

// Contact is a node and where it may be reached. Nothing of it is true before
// a handshake with that node.
//
//	offset size
//	0      16   node ID
//	16     8    holder
//	24     1    number of endpoints n <= 4
//	25     ...  n times: 1 byte length of address (4 or 16), address, port
type Contact struct {
	ID        nodeid.ID
	Holder    Holder
	Endpoints []netip.AddrPort // at most MaxEndpoints; IPv4 never mapped into IPv6, no zone
}

// Append appends the contact.
func (c Contact) Append(b []byte) []byte {
	b = append(b, c.ID[:]...)
	b = append(b, c.Holder[:]...)
	b = append(b, byte(len(c.Endpoints)))
	for _, e := range c.Endpoints {
		b = AppendEndpoint(b, e)
	}
	return b
}

// ParseContact reads exactly one contact.
func ParseContact(b []byte) (Contact, error) {
	r := reader{b: b}
	c := r.contact()
	return c, r.end(0)
}

func (r *reader) contact() (c Contact) {
	c.ID = r.id()
	copy(c.Holder[:], r.take(8))
	for range r.count(MaxEndpoints, 7) {
		c.Endpoints = append(c.Endpoints, r.endpoint())
	}
	return c
}

// AppendEndpoint appends an endpoint: length of address, address, port.
func AppendEndpoint(b []byte, e netip.AddrPort) []byte {
	addr := e.Addr().Unmap().AsSlice()
	b = append(b, byte(len(addr)))
	b = append(b, addr...)
	return binary.BigEndian.AppendUint16(b, e.Port())
}

func (r *reader) endpoint() netip.AddrPort {
	n := r.u8()
	r.bound(n == 4 || n == 16)
	addr, ok := netip.AddrFromSlice(r.take(int(n)))
	r.bound(ok && !addr.Is4In6())
	return netip.AddrPortFrom(addr, r.u16())
}
