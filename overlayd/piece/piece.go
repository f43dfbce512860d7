// Package piece carries objects of up to 64 KiB, such as descriptors,
// revocation lists, certificate chains and records, in datagrams, from peers
// who may lie.
//
// An object is cut into pieces of 768 bytes and named by the root of the hash
// tree over them (RFC 9162 §2.1: leaf SHA-256(0x00 || piece), inner node
// SHA-256(0x01 || left || right)) and by its size. A piece brings the hashes
// beside its way to the root, so it is checked when it arrives:
//
//	       root                piece 2 of 3 is proven by h01;
//	      /    \               piece 0 by h1 and h2
//	   h01      h2
//	  /   \      |
//	 h0    h1    |
//	 |     |     |
//	768   768   ...   bytes
//
// What must hold: nothing that is not part of the named object is ever kept;
// pieces of one object may come from several peers in any order and a transfer
// is taken up where it stopped; a peer that sends nothing, too slowly or false
// pieces costs Fetcher a bounded time and bounded memory, and is named to the
// caller.
//
// Nothing here is safe for concurrent use. Who may announce an object, and
// what it means, is the caller's matter.
//
// Sources: RFC 9162 §2.1.1, §2.1.3.
package piece

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"gridappliance/overlayd/wire"
)

// Protocol: changing these breaks interoperation.
const (
	Size      = wire.MaxPieceData // bytes of every piece but the last
	MaxObject = 64 << 10          // bytes of an object
)

// What Check and Assembly.Add refuse.
var (
	ErrSize  = errors.New("not a size an object or its piece can have")
	ErrProof = errors.New("not part of the object named by its root")
	ErrOther = errors.New("piece of another object")
)

// ID names an object.
type ID struct {
	Root [32]byte
	Size int // bytes, 1 to MaxObject
}

// Count returns how many pieces an object of size bytes has.
func Count(size int) int { return (size + Size - 1) / Size }

// Object is an object that can be cut: its bytes and the hashes of its pieces.
type Object struct {
	id     ID
	bytes  []byte
	leaves [][32]byte
}

// New returns the object of 1 to MaxObject bytes, which must not change.
func New(b []byte) *Object {
	o := &Object{bytes: b, leaves: make([][32]byte, Count(len(b)))}
	for i := range o.leaves {
		o.leaves[i] = leaf(o.data(i))
	}
	o.id = ID{top(len(b), tree(o.leaves)), len(b)}
	return o
}

// ID returns the object's name.
func (o *Object) ID() ID { return o.id }

// Bytes returns the object.
func (o *Object) Bytes() []byte { return o.bytes }

func (o *Object) data(i int) []byte { return o.bytes[i*Size : min((i+1)*Size, len(o.bytes))] }

// Cut returns piece i. Its data are the object's.
func (o *Object) Cut(i int) wire.Piece {
	return wire.Piece{
		Root: o.id.Root, Size: uint32(o.id.Size), Index: uint16(i), Data: o.data(i), Proof: proof(o.leaves, i),
	}
}

// Serve returns the pieces that a request asks for: none when it is for
// another object or beyond the end.
func (o *Object) Serve(f wire.Fetch) []wire.Piece {
	var pieces []wire.Piece
	if f.Root != o.id.Root || int(f.Size) != o.id.Size {
		return nil
	}
	for i := range 16 {
		if at := int(f.First) + i; f.Mask&(1<<i) != 0 && at < len(o.leaves) {
			pieces = append(pieces, o.Cut(at))
		}
	}
	return pieces
}

// Check returns nil when the piece is part of the object it names.
func Check(p wire.Piece) error {
	size, i := int(p.Size), int(p.Index)
	n := Count(size)
	if size < 1 || size > MaxObject || i >= n || len(p.Data) != min(Size, size-i*Size) {
		return fmt.Errorf("piece %d of %d bytes in an object of %d: %w", i, len(p.Data), size, ErrSize)
	}
	if len(p.Proof) != proofLength(i, n) {
		return fmt.Errorf("piece %d of %d: %w: %d hashes", i, n, ErrProof, len(p.Proof))
	}
	// RFC 9162 §2.1.3.2, with the proof's length checked above.
	hash, fn, sn := leaf(p.Data), i, n-1
	for _, beside := range p.Proof {
		if fn&1 == 1 || fn == sn {
			hash = node(beside, hash)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			hash = node(hash, beside)
		}
		fn, sn = fn>>1, sn>>1
	}
	if top(size, hash) != p.Root {
		return fmt.Errorf("piece %d of %d: %w", i, n, ErrProof)
	}
	return nil
}

// Assembly is an object of which some pieces are there.
type Assembly struct {
	id     ID
	pieces [][]byte
	have   int
}

// NewAssembly returns an assembly without a piece; ErrSize when no object has
// that size.
func NewAssembly(id ID) (*Assembly, error) {
	if id.Size < 1 || id.Size > MaxObject {
		return nil, fmt.Errorf("object of %d bytes: %w", id.Size, ErrSize)
	}
	return &Assembly{id: id, pieces: make([][]byte, Count(id.Size))}, nil
}

// Add keeps a copy of a piece that is part of the object, and reports whether
// it was new. Memory grows with what has been proven, not with what is claimed.
func (a *Assembly) Add(p wire.Piece) (added bool, err error) {
	if p.Root != a.id.Root || int(p.Size) != a.id.Size {
		return false, ErrOther
	}
	if int(p.Index) < len(a.pieces) && a.pieces[p.Index] != nil {
		return false, nil
	}
	if err := Check(p); err != nil {
		return false, err
	}
	a.pieces[p.Index] = append([]byte(nil), p.Data...)
	a.have++
	return true, nil
}

// Bytes returns the object, or nil while a piece is missing.
func (a *Assembly) Bytes() []byte {
	if a.have < len(a.pieces) {
		return nil
	}
	b := make([]byte, 0, a.id.Size)
	for _, p := range a.pieces {
		b = append(b, p...)
	}
	return b
}

// Missing returns the request for the first missing pieces, at most 16 in a
// window of 16. It must not be called on a whole object.
func (a *Assembly) Missing() wire.Fetch {
	f := wire.Fetch{Root: a.id.Root, Size: uint32(a.id.Size)}
	first := 0
	for a.pieces[first] != nil {
		first++
	}
	f.First = uint16(first)
	for i := first; i < len(a.pieces) && i < first+16; i++ {
		if a.pieces[i] == nil {
			f.Mask |= 1 << (i - first)
		}
	}
	return f
}

func leaf(data []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(data)
	return [32]byte(h.Sum(nil))
}

func node(left, right [32]byte) [32]byte {
	b := append([]byte{1}, left[:]...)
	return sha256.Sum256(append(b, right[:]...))
}

func top(size int, tree [32]byte) [32]byte {
	b := binary.BigEndian.AppendUint32([]byte{2}, uint32(size))
	return sha256.Sum256(append(b, tree[:]...))
}

// tree returns the root over one leaf or more.
func tree(leaves [][32]byte) [32]byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := split(len(leaves))
	return node(tree(leaves[:k]), tree(leaves[k:]))
}

// proof returns the hashes beside the way from leaf i to the root, the lowest
// first.
func proof(leaves [][32]byte, i int) [][32]byte {
	if len(leaves) == 1 {
		return nil
	}
	k := split(len(leaves))
	if i < k {
		return append(proof(leaves[:k], i), tree(leaves[k:]))
	}
	return append(proof(leaves[k:], i-k), tree(leaves[:k]))
}

func proofLength(i, n int) int {
	length := 0
	for n > 1 {
		if k := split(n); i < k {
			n = k
		} else {
			i, n = i-k, n-k
		}
		length++
	}
	return length
}

// split is the largest power of two below n > 1.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }
