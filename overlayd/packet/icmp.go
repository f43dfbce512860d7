package packet

import "encoding/binary"

// The longest error that is made, in bytes.
const (
	maxError4 = 576  // RFC 1812 §4.3.2.3
	maxError6 = 1280 // RFC 4443 §2.4
)

// Unreachable is what an Error says.
type Unreachable uint8

const (
	TooBig  Unreachable = iota // RFC 1191 §4; RFC 4443 §3.2
	NoRoute                    // host unreachable; no route
	NoRight                    // administratively prohibited
)

// Error appends to b an ICMP error about the packet, which p describes, as if
// from its destination, and returns b as it was when none may be sent: about
// an ICMP error, a later fragment, or a packet to or from many (RFC 1122
// §3.2.2, RFC 4443 §2.4). mtu is what TooBig names.
func Error(b, packet []byte, p *IP, what Unreachable, mtu int) []byte {
	if p.Src.IsUnspecified() || p.Src.IsMulticast() || p.Dst.IsMulticast() || isError(packet, p) {
		return b
	}
	if p.Is6() {
		kind, code, rest := byte(1), byte(0), uint32(0)
		switch what {
		case TooBig:
			kind, rest = 2, uint32(mtu)
		case NoRight:
			code = 1
		}
		quoted := packet[:min(p.Length, maxError6-header6-8)]
		start := len(b)
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(quoted)))
		b = append(b, ICMPv6, 64)
		b = append(append(b, packet[24:40]...), packet[8:24]...)
		b = binary.BigEndian.AppendUint32(append(b, kind, code, 0, 0), rest)
		b = append(b, quoted...)
		e := b[start:]
		ip := IP{Src: p.Dst, Dst: p.Src, Header: header6, Protocol: ICMPv6}
		binary.BigEndian.PutUint16(e[header6+2:], ip.pseudo(e, len(e)))
		Complete(e, header6, 2)
		return b
	}
	kind, code, rest := byte(3), byte(1), uint32(0)
	switch what {
	case TooBig:
		code, rest = 4, uint32(mtu)
	case NoRight:
		code = 13
	}
	quoted := packet[:min(p.Length, maxError4-header4-8)]
	start := len(b)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(header4+8+len(quoted)))
	b = append(b, 0, 0, 0, 0, 64, ICMP, 0, 0)
	b = append(append(b, packet[16:20]...), packet[12:16]...)
	b = binary.BigEndian.AppendUint32(append(b, kind, code, 0, 0), rest)
	b = append(b, quoted...)
	e := b[start:]
	headerChecksum(e)
	Complete(e, header4, 2)
	return b
}

// isError reports whether nothing may be answered to a packet: it is an ICMP
// error, or a fragment that is not the first.
func isError(packet []byte, p *IP) bool {
	if p.Is6() {
		// Behind extension headers nobody looks: such a packet is answered only
		// if no ICMP error can be in it.
		switch p.Protocol {
		case TCP, UDP:
			return false
		case ICMPv6:
			return p.Length <= header6 || packet[header6] < 128
		}
		return true
	}
	if binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
		return true
	}
	if p.Protocol != ICMP {
		return false
	}
	if p.Length <= p.Header {
		return true
	}
	switch packet[p.Header] {
	case 0, 8, 13, 14: // echo and timestamp
		return false
	}
	return true
}

// ClampMSS lowers the maximum segment size that a TCP SYN offers (RFC 9293
// §3.7.1), so that segments of it and its headers without options fit mtu. A
// right checksum stays right.
func ClampMSS(b []byte, p *IP, mtu int) {
	if p.Transport == 0 || p.Protocol != TCP || b[p.Header+13]&flagSYN == 0 {
		return
	}
	limit := mtu - p.Header - headerTCP
	t := b[p.Header : p.Header+p.Transport]
	for o := t[headerTCP:]; len(o) >= 2 && o[0] != 0; {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		n := int(o[1])
		if n < 2 || n > len(o) {
			return
		}
		if o[0] == 2 && n == 4 {
			was := binary.BigEndian.Uint16(o[2:])
			if int(was) > limit {
				old := sum(t[headerTCP:])
				binary.BigEndian.PutUint16(o[2:], uint16(limit))
				// RFC 1624 eqn. 3, over the options as a whole, since one may
				// begin at an odd offset.
				check := binary.BigEndian.Uint16(t[16:])
				binary.BigEndian.PutUint16(t[16:], ^add(add(^check, ^old), sum(t[headerTCP:])))
			}
			return
		}
		o = o[n:]
	}
}
