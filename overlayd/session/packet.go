package session

import "encoding/binary"

// Types of datagrams, their first byte. STUN (RFC 8489 §5) has 0x00 to 0x03.
const (
	typeHello   = 0x80
	typeCookie  = 0x81
	typeAnswer  = 0x82
	typeFinish  = 0x83
	typeRecord  = 0x84
	typeRelayed = 0x85
)

// Ours reports whether a datagram on the underlay's socket belongs to this
// package (relayed ones included).
func Ours(datagram []byte) bool {
	return len(datagram) > 0 && datagram[0] >= typeHello && datagram[0] <= typeRelayed
}

// IsData reports whether a datagram is a record or a relayed one, and none of
// a handshake.
func IsData(datagram []byte) bool {
	return len(datagram) > 0 && (datagram[0] == typeRecord || datagram[0] == typeRelayed)
}

// IsRelayed reports whether a datagram is a relayed one: see Checker.
func IsRelayed(datagram []byte) bool { return len(datagram) > 0 && datagram[0] == typeRelayed }

// hello is the first message.
//
//	offset size field
//	0      1    0x80
//	1      1    version, 1
//	2      2    0
//	4      4    index of the sender's handshake
//	8      4    first bytes of SHA-256 of the prologue
//	12     16   cookie, or zeros
//	28     n    Noise message 1: e (32), salt (8), known (8), 1 byte that is 1
//	            when FINISH will have more than one part, zeros; n fills the
//	            datagram to 1,200 (1,100 on the ring path)
type hello struct {
	sender uint32
	tag    [4]byte
	cookie [cookieSize]byte
	noise  []byte
}

const (
	helloHead = 28
	ephemeral = 32
)

func (h *hello) append(b []byte) []byte {
	b = append(b, typeHello, Version, 0, 0)
	b = binary.BigEndian.AppendUint32(b, h.sender)
	b = append(b, h.tag[:]...)
	b = append(b, h.cookie[:]...)
	return append(b, h.noise...)
}

// parseHello takes the datagram's whole length for the padded size of its path.
func parseHello(b []byte, size int) (h hello, drop Drop, ok bool) {
	switch {
	case len(b) > size:
		return h, DropOversize, false
	case len(b) < size:
		return h, DropShort, false
	case b[1] != Version:
		return h, DropVersion, false
	}
	h.sender = binary.BigEndian.Uint32(b[4:])
	copy(h.tag[:], b[8:])
	copy(h.cookie[:], b[12:])
	h.noise = b[helloHead:]
	return h, 0, true
}

// appendCookie makes the answer to a HELLO that must be repeated.
//
//	offset size field
//	0      1    0x81
//	1      3    0
//	4      4    index of the receiver's handshake
//	8      16   cookie
func appendCookie(b []byte, receiver uint32, cookie [cookieSize]byte) []byte {
	b = append(b, typeCookie, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, receiver)
	return append(b, cookie[:]...)
}

// part is one part of Noise message 2 or 3.
//
//	offset size field
//	0      1    0x82 ANSWER, 0x83 FINISH
//	1      1    number of this part, from 0
//	2      1    parts, 1 to 24
//	3      1    0
//	4      4    index of the receiver's handshake
//	8      4    index of the sender's handshake
//	12     n    the part: all but the last equally long
type part struct {
	kind             byte
	number, parts    uint8
	receiver, sender uint32
	data             []byte
}

const partHead = 12

func (p *part) append(b []byte) []byte {
	b = append(b, p.kind, p.number, p.parts, 0)
	b = binary.BigEndian.AppendUint32(b, p.receiver)
	b = binary.BigEndian.AppendUint32(b, p.sender)
	return append(b, p.data...)
}

func parsePart(b []byte) (p part, drop Drop, ok bool) {
	switch {
	case len(b) > MaxMessage:
		return p, DropOversize, false
	case len(b) <= partHead:
		return p, DropShort, false
	}
	p = part{kind: b[0], number: b[1], parts: b[2],
		receiver: binary.BigEndian.Uint32(b[4:]), sender: binary.BigEndian.Uint32(b[8:]), data: b[partHead:]}
	if p.parts == 0 || p.parts > maxParts || p.number >= p.parts {
		return p, DropPieces, false
	}
	return p, 0, true
}

// cut makes the datagrams of a Noise message on a path.
func cut(kind byte, receiver, sender uint32, message []byte, limit int) [][]byte {
	room := limit - partHead
	parts := (len(message) + room - 1) / room
	if parts > maxParts {
		return nil
	}
	out := make([][]byte, 0, parts)
	for i := range parts {
		data := message[i*room : min(len(message), (i+1)*room)]
		p := part{kind, uint8(i), uint8(parts), receiver, sender, data}
		out = append(out, p.append(make([]byte, 0, partHead+len(data))))
	}
	return out
}

// pieces collects the parts of one message.
type pieces struct {
	parts [][]byte
	have  int
	size  int // bytes held
}

// add keeps a part and returns the whole message once all are there. It says
// no when the part contradicts the ones before.
func (p *pieces) add(q *part) (whole []byte, ok bool) {
	if q.parts == 1 {
		return q.data, true
	}
	if p.parts == nil {
		p.parts = make([][]byte, q.parts)
	}
	if int(q.parts) != len(p.parts) {
		return nil, false
	}
	if p.parts[q.number] == nil {
		p.parts[q.number] = append([]byte{}, q.data...)
		p.have++
		p.size += len(q.data)
	}
	if p.have < len(p.parts) {
		return nil, true
	}
	for _, b := range p.parts {
		whole = append(whole, b...)
	}
	*p = pieces{}
	return whole, true
}
