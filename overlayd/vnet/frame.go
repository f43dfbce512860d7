package vnet

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Neighbour is the hardware address of every other address of the LAN.
var Neighbour = [6]byte{0x02, 'o', 'v', 'e', 'r', 1}

// EtherTypes.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

// Sizes of headers, in bytes.
const (
	ethernetSize = 14
	arpSize      = 28
	ipv4Size     = 20
	ipv6Size     = 40
	adviceSize   = 32 // of a neighbour advertisement with its option
)

// AppendEthernet appends the header in front of a packet for this machine.
func AppendEthernet(b []byte, to [6]byte, packet []byte) []byte {
	kind := uint16(etherIPv4)
	if packet[0]>>4 == 6 {
		kind = etherIPv6
	}
	return binary.BigEndian.AppendUint16(append(append(b, to[:]...), Neighbour[:]...), kind)
}

// Packet returns the IP packet in a frame, without what may follow it, if
// there is a whole one.
func Packet(frame []byte) ([]byte, bool) {
	if len(frame) < ethernetSize {
		return nil, false
	}
	kind, p := binary.BigEndian.Uint16(frame[12:]), frame[ethernetSize:]
	size := Size(p)
	if size == 0 || (kind == etherIPv4) != (p[0]>>4 == 4) || (kind == etherIPv6) != (p[0]>>4 == 6) {
		return nil, false
	}
	return p[:size], true
}

// Size returns the length that an IP packet's header gives, or 0 when it is no
// whole packet.
func Size(p []byte) (n int) {
	switch {
	case len(p) >= ipv4Size && p[0]>>4 == 4:
		n = int(binary.BigEndian.Uint16(p[2:]))
		if head := int(p[0]&15) * 4; head < ipv4Size || n < head {
			return 0
		}
	case len(p) >= ipv6Size && p[0]>>4 == 6:
		n = ipv6Size + int(binary.BigEndian.Uint16(p[4:]))
	}
	if n > len(p) {
		return 0
	}
	return n
}

// Source returns a whole packet's source.
func Source(p []byte) (netip.Addr, bool) { return address(p, 12, 8) }

// Destination returns a whole packet's destination.
func Destination(p []byte) (netip.Addr, bool) { return address(p, 16, 24) }

func address(p []byte, at4, at6 int) (netip.Addr, bool) {
	switch {
	case Size(p) == 0:
		return netip.Addr{}, false
	case p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[at4:])), true
	}
	return netip.AddrFrom16([16]byte(p[at6:])), true
}

// Answer returns the frame that answers a question of this machine about a
// hardware address of the LAN, or nil when the frame is no such question. A
// machine that asks about its own addresses, to see whether they are free, is
// told nothing.
func Answer(frame []byte, lan netip.Prefix, own []netip.Addr) []byte {
	if len(frame) < ethernetSize {
		return nil
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherARP:
		return answerARP(frame, lan, own)
	case etherIPv6:
		return answerSolicitation(frame, own)
	}
	return nil
}

func answerARP(frame []byte, lan netip.Prefix, own []netip.Addr) []byte {
	q := frame[ethernetSize:]
	// Ethernet, IPv4, 6 and 4 bytes, request
	if len(q) < arpSize || !slices.Equal(q[:8], []byte{0, 1, 8, 0, 6, 4, 0, 1}) {
		return nil
	}
	target := netip.AddrFrom4([4]byte(q[24:28]))
	if !lan.Contains(target) || slices.Contains(own, target) {
		return nil
	}
	b := slices.Concat(frame[6:12], Neighbour[:], frame[12:14], q[:7], []byte{2})
	b = append(append(b, Neighbour[:]...), q[24:28]...) // sender: who was asked for
	return append(b, q[8:18]...)                        // target: who asked
}

// answerSolicitation answers for every unicast address but the own ones; what
// is on the link, the kernel's routes decide.
func answerSolicitation(frame []byte, own []netip.Addr) []byte {
	const solicitation, advertisement, solicited, override = 135, 136, 0x40, 0x20
	p, ok := Packet(frame)
	if !ok || len(p) < ipv6Size+24 || p[6] != 58 || p[7] != 255 || p[ipv6Size] != solicitation || p[ipv6Size+1] != 0 {
		return nil
	}
	source := netip.AddrFrom16([16]byte(p[8:]))
	target := netip.AddrFrom16([16]byte(p[ipv6Size+8:]))
	if source.IsUnspecified() || target.IsMulticast() || slices.Contains(own, target) {
		return nil // unspecified: duplicate address detection, RFC 4862 §5.4
	}
	b := slices.Concat(frame[6:12], Neighbour[:], frame[12:14])
	b = append(b, 0x60, 0, 0, 0, 0, adviceSize, 58, 255)
	b = append(append(b, target.AsSlice()...), source.AsSlice()...)
	at := len(b)
	b = append(b, advertisement, 0, 0, 0, solicited|override, 0, 0, 0)
	b = append(append(b, target.AsSlice()...), 2, 1) // option: target's link-layer address
	b = append(b, Neighbour[:]...)
	binary.BigEndian.PutUint16(b[at+2:], checksum6(target, source, 58, b[at:]))
	return b
}

// checksum6 is the internet checksum over pseudo-header and payload (RFC 8200
// §8.1), whose own field is zero.
func checksum6(from, to netip.Addr, protocol byte, payload []byte) uint16 {
	sum := uint32(len(payload)) + uint32(protocol)
	for _, b := range [][]byte{from.AsSlice(), to.AsSlice(), payload} {
		for len(b) > 1 {
			sum += uint32(b[0])<<8 | uint32(b[1])
			b = b[2:]
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
