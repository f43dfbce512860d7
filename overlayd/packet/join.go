package packet

import (
	"bytes"
	"encoding/binary"
)

// Join joins segments of one flow that follow each other into a superpacket,
// without moving them: the superpacket is the first segment, its header
// changed, and the payloads of the others.
//
//	Begin(s0) ── Add(s1) … Add(sn), until one says no ── End
type Join struct {
	ip     IP
	first  []byte
	pieces [][]byte // the first segment, then payloads
	size   int      // payload of each segment but the last
	length int      // of the superpacket
	flags  byte     // of the last segment
	ended  bool     // no segment may follow
}

// Begin takes the first segment, which p describes and which is as long as p
// says. It reports whether others may follow it at all.
func (j *Join) Begin(b []byte, p *IP) bool {
	j.ip, j.first, j.pieces = *p, b, append(j.pieces[:0], b)
	if !p.Plain {
		j.ended = true
		return false
	}
	j.size, j.length = p.Payload(), p.Length
	t := b[p.Header:]
	switch p.Protocol {
	case TCP:
		j.flags = t[13]
		j.ended = j.flags&(flagFIN|flagSYN|flagRST|flagPSH|flagACK|flagURG) != flagACK
	case UDP:
		j.ended = int(binary.BigEndian.Uint16(t[4:])) != len(t)
	}
	j.ended = j.ended || j.size == 0 || !p.soundHeader(b)
	return !j.ended
}

// Add takes the next segment if it continues what there is: the same headers
// but for what Cut changes, of the same length or, as the last, shorter.
func (j *Join) Add(b []byte) bool {
	headers := j.ip.Headers()
	n := len(b) - headers
	if j.ended || n <= 0 || n > j.size || j.length+n > 65535 || len(j.pieces) == MaxSegments || !j.follows(b) {
		return false
	}
	j.pieces = append(j.pieces, b[headers:])
	j.length += n
	if j.ip.Protocol == TCP {
		j.flags = b[j.ip.Header+13]
	}
	j.ended = n < j.size || j.flags&(flagFIN|flagPSH) != 0
	return true
}

// follows compares the headers of the segment b with the first's.
func (j *Join) follows(b []byte) bool {
	a, h := j.first, j.ip.Header
	i := len(j.pieces)
	if j.ip.Is6() {
		// version to flow label; next header, hop limit, addresses
		if !bytes.Equal(a[:4], b[:4]) || !bytes.Equal(a[6:header6], b[6:header6]) ||
			int(binary.BigEndian.Uint16(b[4:])) != len(b)-header6 {
			return false
		}
	} else {
		// version, length, TOS; flags and fragment offset, TTL, protocol; addresses
		if a[0] != b[0] || a[1] != b[1] || !bytes.Equal(a[6:10], b[6:10]) || !bytes.Equal(a[12:20], b[12:20]) ||
			int(binary.BigEndian.Uint16(b[2:])) != len(b) ||
			binary.BigEndian.Uint16(b[4:]) != binary.BigEndian.Uint16(a[4:])+uint16(i) ||
			!j.ip.soundHeader(b) { // the superpacket's is made anew: a wrong one would be mended
			return false
		}
	}
	s, t := a[h:h+j.ip.Transport], b[h:h+j.ip.Transport]
	if j.ip.Protocol == UDP {
		return bytes.Equal(s[:4], t[:4]) && int(binary.BigEndian.Uint16(t[4:])) == len(b)-h
	}
	const last = flagFIN | flagPSH
	// ports; acknowledgement and header length; flags; window; urgent pointer and options
	return bytes.Equal(s[:4], t[:4]) &&
		binary.BigEndian.Uint32(t[4:]) == binary.BigEndian.Uint32(s[4:])+uint32(j.length-j.ip.Headers()) &&
		bytes.Equal(s[8:13], t[8:13]) &&
		t[13]&^last == s[13]&^flagCWR &&
		bytes.Equal(s[14:16], t[14:16]) && bytes.Equal(s[18:], t[18:])
}

// Len is how many segments there are.
func (j *Join) Len() int { return len(j.pieces) }

// Segment is the payload of each segment but the last, in bytes.
func (j *Join) Segment() int { return j.size }

// Parts are the pieces that there are, the first segment whole, before End.
func (j *Join) Parts() [][]byte { return j.pieces }

// IP describes the superpacket after End.
func (j *Join) IP() *IP { return &j.ip }

// End makes the first segment's header the superpacket's, with the
// pseudo-header's sum as checksum, and returns the pieces that make it; they
// hold until the next Begin. One segment alone stays what it was but for its
// checksum, if it is TCP or UDP.
func (j *Join) End() [][]byte {
	if !j.ip.Plain {
		return j.pieces
	}
	if len(j.pieces) > 1 {
		j.ip.Length = j.length
		j.ip.setLength(j.first, j.length)
		if j.ip.Protocol == TCP {
			j.first[j.ip.Header+13] |= j.flags & (flagFIN | flagPSH)
		}
	}
	j.ip.Partial(j.first)
	return j.pieces
}
