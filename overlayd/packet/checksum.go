package packet

import (
	"encoding/binary"
	"math/bits"
)

// sum is the ones' complement sum of b's 16-bit words (RFC 1071). It adds
// eight bytes at a time in the other byte order, which RFC 1071 §2(B) allows.
func sum(b []byte) uint16 {
	var s, c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[32:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[40:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[48:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	var last uint64
	for i, x := range b {
		last |= uint64(x) << (8 * i)
	}
	s, c = bits.Add64(s, last, c)
	s, c = bits.Add64(s, 0, c)
	s += c
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return bits.ReverseBytes16(uint16(s))
}

// add is the ones' complement sum of two words.
func add(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s + s>>16)
}

// pseudo is the sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) of the
// packet b of a length.
func (p *IP) pseudo(b []byte, length int) uint16 {
	addresses := b[12:20]
	if p.Is6() {
		addresses = b[8:40]
	}
	return add(add(sum(addresses), uint16(p.Protocol)), uint16(length-p.Header))
}

// Partial puts into the packet b, as p says a TCP or UDP packet, what a kernel
// expects that is to make the checksum: the sum of the pseudo-header.
func (p *IP) Partial(b []byte) {
	binary.BigEndian.PutUint16(b[p.Header+p.ChecksumOffset():], p.pseudo(b, p.Length))
}

// Complete makes a checksum where the field already holds the pseudo-header's
// sum: of what begins at start, into the two bytes at start+offset. It reports
// whether these lie in b.
func Complete(b []byte, start, offset int) bool {
	if start < 0 || offset < 0 || start+offset+2 > len(b) {
		return false
	}
	c := ^sum(b[start:])
	if c == 0 {
		c = 0xffff // 0 is "no checksum" (RFC 768); the two are equal
	}
	binary.BigEndian.PutUint16(b[start+offset:], c)
	return true
}

// Checksum makes the checksum of the packet b, as p says a TCP or UDP packet.
func (p *IP) Checksum(b []byte) {
	p.Partial(b)
	Complete(b[:p.Length], p.Header, p.ChecksumOffset())
}

// Unsummed reports whether the checksum of the packet b, as p says a TCP or UDP
// packet, is 0: that of a segment of a superpacket.
func (p *IP) Unsummed(b []byte) bool {
	at := p.Header + p.ChecksumOffset()
	return b[at] == 0 && b[at+1] == 0
}
