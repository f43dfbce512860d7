package packet

import "encoding/binary"

// TCP flags (RFC 9293 §3.1).
const (
	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagPSH = 1 << 3
	flagACK = 1 << 4
	flagURG = 1 << 5
	flagCWR = 1 << 7
)

// Cut cuts a superpacket into segments, in place: each segment's headers are
// written over the end of the one before, which must be done with by then.
type Cut struct {
	b       []byte
	ip      IP
	headers [MaxHeader]byte
	size    int // payload of each segment but the last
	at      int // of the next segment's payload
	id      uint16
	seq     uint32
	flags   byte
	first   bool
}

// Begin takes the superpacket b, of whose TCP or UDP header p knows, and
// returns how many segments of size bytes of payload it makes: 1 when there is
// nothing to cut. Size must be positive.
func (c *Cut) Begin(b []byte, p *IP, size int) (segments int) {
	c.b, c.ip, c.size, c.at, c.first = b[:p.Length], *p, size, p.Headers(), true
	copy(c.headers[:], b[:p.Headers()])
	c.id = binary.BigEndian.Uint16(b[4:])
	if p.Protocol == TCP {
		c.seq, c.flags = binary.BigEndian.Uint32(b[p.Header+4:]), b[p.Header+13]
	}
	return max(1, (p.Payload()+size-1)/size)
}

// Next returns the next segment, a whole packet in the superpacket's memory
// with the checksum field of TCP or UDP 0, or nil after the last.
//
//	field             first     between   last
//	IPv4 ID           id        id+i      id+n-1
//	TCP sequence      seq       seq+i*size
//	CWR               as it is  0         0
//	FIN, PSH          0         0         as they are
func (c *Cut) Next() []byte {
	if c.at >= len(c.b) && !c.first {
		return nil
	}
	headers := c.ip.Headers()
	n := min(c.size, len(c.b)-c.at)
	segment := c.b[c.at-headers : c.at+n]
	copy(segment, c.headers[:headers])
	if !c.ip.Is6() {
		binary.BigEndian.PutUint16(segment[4:], c.id)
		c.id++
	}
	c.ip.setLength(segment, headers+n)
	t := segment[c.ip.Header:]
	if c.ip.Protocol == TCP {
		binary.BigEndian.PutUint32(t[4:], c.seq)
		c.seq += uint32(n)
		t[13] = c.flags
		if !c.first {
			t[13] &^= flagCWR
		}
		if c.at+n < len(c.b) {
			t[13] &^= flagFIN | flagPSH
		}
	}
	sum := c.ip.ChecksumOffset()
	t[sum], t[sum+1] = 0, 0
	c.at += n
	c.first = false
	return segment
}
