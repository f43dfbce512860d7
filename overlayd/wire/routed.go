package wire

import (
	"encoding/binary"

	"gridappliance/overlayd/nodeid"
)

// Target is where a payload goes.
type Target struct {
	ID    nodeid.ID
	Exact bool // to this node or nobody; false: to the member nearest to ID

	// Via is a node to go to first, exactly; the zero ID is none. It leads to
	// a node that is not on this ring: one that is still joining, or one of
	// another ring that is being merged.
	Via nodeid.ID
}

// Flags of a Header.
const (
	flagExact   = 1 << 0
	flagDstVia  = 1 << 1
	flagSrcVia  = 1 << 2
	flagsUnused = ^uint8(flagExact | flagDstVia | flagSrcVia)
)

// Header leads every Routed message from hop to hop.
//
//	offset size
//	0      1    hops left, at most 32
//	1      1    flags: 1 exact, 2 has a via of the destination, 4 has a via of
//	            the source; the others are 0 when sent, carried on, ignored
//	2      1    payload's type
//	3      1    service version \
//	4      2    service           } reserved for active services; 0
//	6      2    extension length /
//	8      8    promised distance: package ring
//	16     16   destination
//	32     16   source
//	48     4    RPC number; an answer carries its request's
//	52     4    hop number: the next hop acknowledges it by Receipt; 0: it need not
//	56     16   via of the destination, if flagged
//	...    16   via of the source, if flagged
//	...    n    extension, then the payload's body to the end
//
// A source is only as true as what is signed in the payload.
type Header struct {
	TTL         uint8
	Flags       uint8 // unused flags, as received
	Payload     Type
	Version     uint8
	Service     uint16
	Promise     uint64 // in units of 2^64 IDs; NoPromise before the first hop
	To          Target
	Src, SrcVia nodeid.ID // a zero SrcVia is none
	RPC         uint32
	Hop         uint32 // of the session it is sent in; 0: no Receipt wanted
}

// NoPromise is larger than any promised distance.
const NoPromise = ^uint64(0)

// HeaderSize is the length of the longest header.
const HeaderSize = 88

// MaxPayload is the longest body that a Routed message with any header holds.
const MaxPayload = MaxMessage - 1 - HeaderSize

// MaxCarried is the longest body of type TypeSession: a packet of 1,280 bytes,
// the least that IPv6 asks for, in a record. The message is longer than
// MaxMessage then, and its datagram 1,425 bytes, which every path carries that
// carries 1,500 less what PPPoE takes.
const MaxCarried = 1280 + 28

// Routed is a payload on its way.
type Routed struct {
	Header
	Extension []byte // of a service; carried on, ignored
	Body      []byte
}

// Type returns TypeRouted.
func (Routed) Type() Type { return TypeRouted }

// Append appends header, extension and body.
func (m Routed) Append(b []byte) []byte {
	flags := m.Flags & flagsUnused
	if m.To.Exact {
		flags |= flagExact
	}
	if m.To.Via != (nodeid.ID{}) {
		flags |= flagDstVia
	}
	if m.SrcVia != (nodeid.ID{}) {
		flags |= flagSrcVia
	}
	b = append(b, m.TTL, flags, byte(m.Payload), m.Version)
	b = binary.BigEndian.AppendUint16(b, m.Service)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Extension)))
	b = binary.BigEndian.AppendUint64(b, m.Promise)
	b = append(b, m.To.ID[:]...)
	b = append(b, m.Src[:]...)
	b = binary.BigEndian.AppendUint32(b, m.RPC)
	b = binary.BigEndian.AppendUint32(b, m.Hop)
	if flags&flagDstVia != 0 {
		b = append(b, m.To.Via[:]...)
	}
	if flags&flagSrcVia != 0 {
		b = append(b, m.SrcVia[:]...)
	}
	b = append(b, m.Extension...)
	return append(b, m.Body...)
}

// ParseRouted reads a Routed message; extension and body lie in b.
func ParseRouted(b []byte) (Routed, error) {
	r := reader{b: b}
	var m Routed
	m.TTL = r.u8()
	r.bound(m.TTL <= MaxTTL)
	flags := r.u8()
	m.Flags, m.To.Exact = flags&flagsUnused, flags&flagExact != 0
	m.Payload, m.Version, m.Service = Type(r.u8()), r.u8(), r.u16()
	extension := int(r.u16())
	m.Promise = r.u64()
	m.To.ID, m.Src, m.RPC, m.Hop = r.id(), r.id(), r.u32(), r.u32()
	if flags&flagDstVia != 0 {
		m.To.Via = r.id()
		r.bound(m.To.Via != nodeid.ID{})
	}
	if flags&flagSrcVia != 0 {
		m.SrcVia = r.id()
		r.bound(m.SrcVia != nodeid.ID{})
	}
	m.Extension = r.take(extension)
	m.Body = r.take(len(r.b))
	return m, r.end(TypeRouted)
}

// Receipt acknowledges a Routed message to the node that sent it on, before
// anything is done with it. It says nothing about what becomes of it.
//
//	offset size
//	0      4    hop number
type Receipt struct{ Hop uint32 }

// Type returns TypeReceipt.
func (Receipt) Type() Type { return TypeReceipt }

// Append appends the body.
func (m Receipt) Append(b []byte) []byte { return binary.BigEndian.AppendUint32(b, m.Hop) }

// ParseReceipt reads a body.
func ParseReceipt(b []byte) (Receipt, error) {
	r := reader{b: b}
	m := Receipt{Hop: r.u32()}
	return m, r.end(TypeReceipt)
}
