// Package packet reads and makes the packets of the virtual LAN: what an IP
// packet is, how a superpacket is cut into segments and segments are joined
// again, and the answers that this machine gives itself.
//
//	device                         records                        device
//	┌────┬──────────────────┐      ┌────┬─────┐                   ┌────┬──────────────────┐
//	│ h  │ payload of 60 KB │ Cut  │ h0 │ p0  │ total 3, index 0  │ h' │ p0 │ p1 │ p2     │
//	└────┴──────────────────┘ ───> ├────┼─────┤ ───────────────>  └────┴──────────────────┘
//	                               │ h1 │ p1  │ index 1      Join
//	                               ├────┼───┬─┘
//	                               │ h2 │p2 │   index 2
//	                               └────┴───┘
//
// Every segment is a whole packet with its own headers, so that one that comes
// alone is of use, and what is joined is compared header by header. The TCP or
// UDP checksum of a segment is 0 on the wire: the record's AEAD has covered
// the bytes, and whoever takes the segment off the wire has its kernel make
// the sum, or makes it by Complete.
//
// Invariants: nothing that a peer says about a packet but the packet itself is
// used; joining reads headers and writes only the first; Cut and Join allocate
// nothing; no input panics.
//
// Safe for concurrent use but for Cut and Join, which belong to one goroutine.
//
// Limits on purpose: cut and joined are TCP and UDP over IPv4 without options
// and IPv6 without extension headers; anything else passes as it is.
//
// Sources: TRUST.md "Sessions" (joining); RFC 791, RFC 8200, RFC 9293, RFC 768;
// RFC 1071 (checksum); RFC 792, RFC 4443, RFC 1191 (errors); RFC 826 (ARP);
// RFC 4861 (neighbour discovery); virtio 1.2 §5.1.6 (what a superpacket is).
package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Protocol numbers (IANA).
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

const (
	header4   = 20 // IPv4 without options
	header6   = 40
	headerTCP = 20 // without options
	headerUDP = 8

	// MaxHeader is the longest IP and TCP header of what is cut, in bytes.
	MaxHeader = 60 + 60
	// MaxSegments is how many segments a superpacket is cut into at most. Protocol:
	// see docs/protocol.md.
	MaxSegments = 64
)

// ErrMalformed says that bytes are no whole IP packet.
var ErrMalformed = errors.New("no whole IP packet")

// IP is what Parse found in a packet.
type IP struct {
	Src, Dst  netip.Addr
	Length    int   // of the packet in bytes; what follows is padding
	Header    int   // bytes of the IP header; of IPv6 the first 40
	Transport int   // bytes of the TCP or UDP header; 0 of a fragment or anything else
	Protocol  uint8 // of IPv6 the first next header
	DF        bool  // must not be fragmented; always so with IPv6
	Plain     bool  // whole TCP or UDP without IP options: may be cut and joined
}

// Parse reads the headers of an IP packet.
func Parse(b []byte) (p IP, err error) {
	if len(b) < header4 {
		return p, ErrMalformed
	}
	switch b[0] >> 4 {
	case 4:
		p.Header = int(b[0]&15) * 4
		p.Length = int(binary.BigEndian.Uint16(b[2:]))
		if p.Header < header4 || p.Length < p.Header || p.Length > len(b) {
			return p, ErrMalformed
		}
		p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.Protocol = b[9]
		fragment := binary.BigEndian.Uint16(b[6:])
		p.DF = fragment&0x4000 != 0
		p.Plain = p.Header == header4
		if fragment&0xbfff != 0 {
			p.Plain = false
			return p, nil
		}
	case 6:
		if len(b) < header6 {
			return p, ErrMalformed
		}
		p.Header = header6
		p.Length = header6 + int(binary.BigEndian.Uint16(b[4:]))
		if p.Length > len(b) {
			return p, ErrMalformed
		}
		p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.Protocol = b[6]
		p.DF, p.Plain = true, true
	default:
		return p, ErrMalformed
	}
	switch t := b[p.Header:p.Length]; {
	case p.Protocol == TCP && len(t) >= headerTCP && int(t[12]>>4)*4 >= headerTCP && int(t[12]>>4)*4 <= len(t):
		p.Transport = int(t[12]>>4) * 4
	case p.Protocol == UDP && len(t) >= headerUDP:
		p.Transport = headerUDP
	default:
		p.Plain = false
	}
	return p, nil
}

// Headers is the length of IP and TCP or UDP header, in bytes.
func (p *IP) Headers() int { return p.Header + p.Transport }

// Payload is how many bytes p carries behind them.
func (p *IP) Payload() int { return p.Length - p.Headers() }

// ChecksumOffset is where the checksum is in the TCP or UDP header.
func (p *IP) ChecksumOffset() int {
	if p.Protocol == TCP {
		return 16
	}
	return 6
}

// Is6 reports whether p is IPv6.
func (p *IP) Is6() bool { return p.Dst.Is6() }

// setLength writes how long the packet b with headers as p says is now, and
// IPv4's header checksum.
func (p *IP) setLength(b []byte, length int) {
	if p.Is6() {
		binary.BigEndian.PutUint16(b[4:], uint16(length-header6))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(length))
		headerChecksum(b)
	}
	if p.Protocol == UDP {
		binary.BigEndian.PutUint16(b[p.Header+4:], uint16(length-p.Header))
	}
}

// soundHeader says whether the checksum of an IPv4 header is right; IPv6 has none.
func (p *IP) soundHeader(b []byte) bool { return p.Is6() || sum(b[:p.Header]) == 0xffff }

// headerChecksum makes the checksum of an IPv4 header.
func headerChecksum(b []byte) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^sum(b[:int(b[0]&15)*4]))
}
