// Package nodeid is the name of a node: a position on the overlay's ring.
//
// The ring is the integers modulo 2^128, big-endian in an ID's bytes, growing
// clockwise:
//
//	       0
//	 b  .  |  .  a        Clockwise(a, b) = b - a   mod 2^128
//	.             .       Distance(a, b)  = the shorter of the two ways
//	 .           .        Between(x, a, b): x is met when going
//	    .  .  .           clockwise from a, before b
//
// An ID is cut from a hash of the node's public key and stands in its
// certificate (package credential computes and verifies it); this package
// only knows the arithmetic and the text form, 32 lower-case hex digits.
//
// Why 128 bits, as research/overlay.md has it, where the first generation had
// 160: nobody can find a key for an ID that another node has (2^128 tries),
// and a routed frame with two IDs keeps its 48 bytes. Two keys of one person
// with one ID (2^64 tries) gain nothing, because certificates bind the key as
// well, quotas count per holder, and nothing rests on where on the ring an ID
// lies (TRUST.md, "Relays, records, abuse"): a position can be ground offline
// at any length.
//
// An ID is a value, comparable and usable as a map key.
package nodeid

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
)

// Size is the length of an ID in bytes. Protocol: changing it breaks
// interoperation.
const Size = 16

// ID is a position on the ring. The zero ID is a position like any other.
type ID [Size]byte

// Parse reads the text form. Upper-case digits and any other length are
// errors, so that one ID has one text.
func Parse(text string) (ID, error) {
	var id ID
	if len(text) != 2*Size {
		return ID{}, fmt.Errorf("parse node ID %.60q: want %d hex digits", text, 2*Size)
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil || id.String() != text {
		return ID{}, fmt.Errorf("parse node ID %q: want lower-case hex digits", text)
	}
	return id, nil
}

// String returns the text form.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns the text form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is Parse.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = Parse(string(text))
	return err
}

// Compare orders IDs as integers: -1, 0 or +1.
func (id ID) Compare(other ID) int {
	if c := cmp.Compare(id.Prefix(), other.Prefix()); c != 0 {
		return c
	}
	return cmp.Compare(id.suffix(), other.suffix())
}

// Prefix returns the first 64 bits, by which routing compares distances: two
// of 2^20 honest nodes have the same with a chance of 2^-25.
func (id ID) Prefix() uint64 { return binary.BigEndian.Uint64(id[:8]) }

func (id ID) suffix() uint64 { return binary.BigEndian.Uint64(id[8:]) }

// Clockwise returns how far b lies clockwise of a.
func Clockwise(a, b ID) ID {
	var d ID
	low, borrow := bits.Sub64(b.suffix(), a.suffix(), 0)
	high, _ := bits.Sub64(b.Prefix(), a.Prefix(), borrow)
	binary.BigEndian.PutUint64(d[:8], high)
	binary.BigEndian.PutUint64(d[8:], low)
	return d
}

// Distance returns how far a and b lie apart the shorter way round: at most
// 2^127, and the same from either end.
func Distance(a, b ID) ID {
	forth, back := Clockwise(a, b), Clockwise(b, a)
	if forth.Compare(back) <= 0 {
		return forth
	}
	return back
}

// Between says whether x lies on the arc clockwise from a to b, both ends
// excluded. For a == b the arc is the whole ring but a, as for a node that is
// its own successor.
func Between(x, a, b ID) bool {
	if a == b {
		return x != a
	}
	return x != a && Clockwise(a, x).Compare(Clockwise(a, b)) < 0
}
