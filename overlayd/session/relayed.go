package session

import (
	"crypto/subtle"
	"encoding/binary"
)

// Marker marks the datagrams that this node gives to, or forwards as, a relay.
// The zero value is ready; it belongs to one goroutine.
type Marker struct {
	nonce [12]byte
	tag   [TagSize]byte
}

// Mark makes a relayed datagram in place under the keys of a link session:
// b[RelaySize:] is the datagram that is carried, which stays as it is.
//
//	offset size field
//	0      1    0x85
//	1      1    0
//	2      2    channel of the link, from 1
//	4      4    index of the receiver's keys
//	8      4    counter
//	12     12   first bytes of the AEAD's tag over bytes 0 to 11 and 24 to the end, with nothing encrypted
//	24     n    the carried datagram
//
// The AEAD's key is one of its own ("relay" in its derivation); the nonce is
// the counter. It allocates nothing.
func (m *Marker) Mark(k *Keys, b []byte, channel uint16) error {
	if k.dead.Load() {
		return ErrDead
	}
	counter := k.marks.Add(1) - 1
	if counter >= maxCount {
		k.kill()
		return ErrDead
	}
	b[0], b[1] = typeRelayed, 0
	binary.BigEndian.PutUint16(b[2:], channel)
	binary.BigEndian.PutUint32(b[4:], k.remote)
	binary.BigEndian.PutUint32(b[8:], uint32(counter))
	binary.BigEndian.PutUint64(m.nonce[4:], counter)
	tag := k.mark.Seal(m.tag[:0], m.nonce[:], nil, covered(b))
	copy(b[HeaderSize:RelaySize], tag)
	return nil
}

// covered makes what a mark covers lie in one piece: it puts the header where
// the mark is.
func covered(b []byte) []byte {
	copy(b[HeaderSize:RelaySize], b[:HeaderSize])
	return b[HeaderSize:]
}

// Checker checks marked datagrams. The zero value is ready; it belongs to one
// goroutine, and only one may be used with the same Keys.
type Checker struct {
	nonce [12]byte
	mark  [RelayTag]byte
	tag   [TagSize]byte
}

// Check returns, inside k's Lock, the channel of a relayed datagram and the datagram carried, in
// its memory, once the tag is right and was not seen before.
func (c *Checker) Check(k *Keys, datagram []byte) (channel uint16, carried []byte, drop Drop, err error) {
	switch {
	case k.dead.Load():
		return 0, nil, DropIndex, ErrDead
	case len(datagram) < RelaySize:
		return 0, nil, DropShort, ErrRecord
	}
	counter := uint64(binary.BigEndian.Uint32(datagram[8:]))
	if k.checks != nil && !k.checks.fresh(counter) {
		return 0, nil, DropReplay, ErrRecord
	}
	// The tag of nothing, under the peer's key: made again and compared.
	binary.BigEndian.PutUint64(c.nonce[4:], counter)
	copy(c.mark[:], datagram[HeaderSize:])
	tag := k.check.Seal(c.tag[:0], c.nonce[:], nil, covered(datagram))
	copy(datagram[HeaderSize:], c.mark[:])
	if subtle.ConstantTimeCompare(tag[:RelayTag], c.mark[:]) != 1 {
		return 0, nil, DropForged, ErrRecord
	}
	if k.checks == nil {
		k.checks = new(window)
	}
	k.checks.accept(counter)
	return binary.BigEndian.Uint16(datagram[2:]), datagram[RelaySize:], 0, nil
}
