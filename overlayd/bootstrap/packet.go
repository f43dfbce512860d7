package bootstrap

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
)

// Types of datagrams, their first byte. STUN has 0x00 to 0x03, sessions have
// 0x80 to 0x85.
const (
	typeEnrol    = 0x90
	typeCookie   = 0x91
	typeEnrolled = 0x92
	typeCarry    = 0x93
	typeCarried  = 0x94
	typeUnknown  = 0x95
)

// Protocol: changing one of these breaks interoperation.
const (
	Version = 1

	EnrolSize   = 256 // of every ENROLL, so that no answer is longer
	MaxContacts = 10  // in one ENROLLED
	Overhead    = 8   // that carrying adds to a datagram
	MaxCarried  = 2048

	cookieSize = 16
	nonceSize  = 8
)

// Ours reports whether a datagram on the underlay's socket is of this package.
func Ours(datagram []byte) bool {
	return len(datagram) > 0 && datagram[0] >= typeEnrol && datagram[0] <= typeUnknown
}

// Tag names a grid to bootstraps, without telling them which.
type Tag [8]byte

// TagOf returns the tag of a grid: the first bytes of SHA-256 over
// "grid-appliance bootstrap", a zero byte and the key ID of a root.
func TagOf(root [32]byte) Tag {
	h := sha256.New()
	h.Write([]byte("grid-appliance bootstrap\x00"))
	h.Write(root[:])
	return Tag(h.Sum(nil))
}

// Handle names a member at one bootstrap for as long as it is enrolled there.
type Handle uint32

// ErrMalformed says that a datagram is none of this package's.
var ErrMalformed = errors.New("malformed datagram")

type nonce [nonceSize]byte

// enrol asks for a place, and again every 20 to 25 s to keep it and the
// translators on the way open.
//
//	offset size field
//	0      1    0x90
//	1      1    version, 1
//	2      1    how many contacts are wanted, at most 10
//	3      1    0
//	4      8    nonce
//	12     8    tag
//	20     16   node ID
//	36     16   cookie, or zeros
//	52     204  zeros
type enrol struct {
	want   uint8
	nonce  nonce
	tag    Tag
	id     nodeid.ID
	cookie [cookieSize]byte
}

func (e *enrol) append(b []byte) []byte {
	n := len(b)
	b = append(b, typeEnrol, Version, e.want, 0)
	b = append(b, e.nonce[:]...)
	b = append(b, e.tag[:]...)
	b = append(b, e.id[:]...)
	b = append(b, e.cookie[:]...)
	return append(b, make([]byte, EnrolSize-(len(b)-n))...)
}

func parseEnrol(b []byte) (e enrol, err error) {
	if len(b) != EnrolSize || b[0] != typeEnrol || b[1] != Version || b[2] > MaxContacts {
		return e, ErrMalformed
	}
	e.want = b[2]
	copy(e.nonce[:], b[4:])
	copy(e.tag[:], b[12:])
	copy(e.id[:], b[20:])
	copy(e.cookie[:], b[36:])
	return e, nil
}

// cookie answers an ENROLL that does not show that its sender is where it says.
//
//	offset size field
//	0      1    0x91
//	1      3    0
//	4      8    the ENROLL's nonce
//	12     16   cookie
type cookie struct {
	nonce  nonce
	cookie [cookieSize]byte
}

func (c *cookie) append(b []byte) []byte {
	b = append(b, typeCookie, 0, 0, 0)
	b = append(b, c.nonce[:]...)
	return append(b, c.cookie[:]...)
}

func parseCookie(b []byte) (c cookie, err error) {
	if len(b) != 4+nonceSize+cookieSize || b[0] != typeCookie {
		return c, ErrMalformed
	}
	copy(c.nonce[:], b[4:])
	copy(c.cookie[:], b[12:])
	return c, nil
}

// Contact is another member, as a bootstrap tells of it: nothing of it is
// proven.
type Contact struct {
	Handle Handle
	ID     nodeid.ID
}

// enrolled answers an ENROLL.
//
//	offset size  field
//	0      1     0x92
//	1      1     version, 1
//	2      1     number of contacts k
//	3      1     0
//	4      8     the ENROLL's nonce
//	12     4     the member's own handle, not 0
//	16     2     seconds after which the place is lost, at least 30
//	18     8     the bootstrap's own number, drawn when it started
//	26     7, 19 endpoint at which the member is seen: 1 length, address, 2 port;
//	             0.0.0.0:0 if it came over TCP
//	...    20k   contacts: 4 handle, 16 node ID
type enrolled struct {
	nonce    nonce
	handle   Handle
	life     uint16
	server   [8]byte
	seen     netip.AddrPort
	contacts []Contact
}

const minLife = 30

func (e *enrolled) append(b []byte) []byte {
	b = append(b, typeEnrolled, Version, byte(len(e.contacts)), 0)
	b = append(b, e.nonce[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(e.handle))
	b = binary.BigEndian.AppendUint16(b, e.life)
	b = append(b, e.server[:]...)
	addr := e.seen.Addr().Unmap().AsSlice()
	b = append(b, byte(len(addr)))
	b = append(b, addr...)
	b = binary.BigEndian.AppendUint16(b, e.seen.Port())
	for _, c := range e.contacts {
		b = binary.BigEndian.AppendUint32(b, uint32(c.Handle))
		b = append(b, c.ID[:]...)
	}
	return b
}

func parseEnrolled(b []byte) (e enrolled, err error) {
	if len(b) < 33 || b[0] != typeEnrolled || b[1] != Version || b[2] > MaxContacts || b[26] != 4 && b[26] != 16 {
		return e, ErrMalformed
	}
	copy(e.nonce[:], b[4:])
	e.handle = Handle(binary.BigEndian.Uint32(b[12:]))
	e.life = binary.BigEndian.Uint16(b[16:])
	copy(e.server[:], b[18:])
	k, n := int(b[2]), int(b[26])
	b = b[27:]
	if len(b) != n+2+20*k || e.handle == 0 || e.life < minLife {
		return e, ErrMalformed
	}
	addr, _ := netip.AddrFromSlice(b[:n])
	if addr.Is4In6() {
		return e, ErrMalformed
	}
	e.seen = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[n:]))
	for b = b[n+2:]; len(b) > 0; b = b[20:] {
		c := Contact{Handle: Handle(binary.BigEndian.Uint32(b)), ID: nodeid.ID(b[4:20])}
		if c.Handle == 0 {
			return e, ErrMalformed
		}
		e.contacts = append(e.contacts, c)
	}
	return e, nil
}

// A carried datagram, on its way to the bootstrap and from it:
//
//	offset size field
//	0      1    0x93 CARRY, 0x94 CARRIED
//	1      3    0
//	4      4    CARRY: whom it is for; CARRIED: whom it is from
//	8      n    a datagram of a session: HELLO to RELAYED
//
// UNKNOWN (0x95) is these first eight bytes: the bootstrap knows nobody by that
// handle, or not the sender itself.

// putHeader writes the header of a carried datagram or UNKNOWN into b.
func putHeader(b []byte, kind byte, h Handle) {
	b[0], b[1], b[2], b[3] = kind, 0, 0, 0
	binary.BigEndian.PutUint32(b[4:], uint32(h))
}

// parseCarried splits a CARRY or CARRIED. Data lies in b.
func parseCarried(b []byte, kind byte) (h Handle, data []byte, err error) {
	if len(b) <= Overhead || len(b) > Overhead+MaxCarried || b[0] != kind || !session.Ours(b[Overhead:]) {
		return 0, nil, ErrMalformed
	}
	return Handle(binary.BigEndian.Uint32(b[4:])), b[Overhead:], nil
}

func parseUnknown(b []byte) (Handle, error) {
	if len(b) != Overhead || b[0] != typeUnknown {
		return 0, ErrMalformed
	}
	return Handle(binary.BigEndian.Uint32(b[4:])), nil
}
