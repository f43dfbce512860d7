package wire

import "encoding/binary"

// MaxPieceData is how many bytes of an object one piece carries. Protocol.
// With the deepest proof of a 64 KiB object a Piece has 1,031 bytes.
const MaxPieceData = 768

const (
	pieceHeader = 39
	maxProof    = 7 // hashes: 86 pieces of 768 bytes hold 64 KiB
)

// Fetch asks for pieces of an object (package piece).
//
//	offset size
//	0      32   root of the object's hash tree
//	32     4    size of the object in bytes
//	36     2    first piece of the window
//	38     2    mask: bit i asks for piece first+i; not zero
type Fetch struct {
	Root  [32]byte
	Size  uint32
	First uint16
	Mask  uint16
}

// Type returns TypeFetch.
func (Fetch) Type() Type { return TypeFetch }

// Append appends the body.
func (m Fetch) Append(b []byte) []byte {
	b = append(b, m.Root[:]...)
	b = binary.BigEndian.AppendUint32(b, m.Size)
	b = binary.BigEndian.AppendUint16(b, m.First)
	return binary.BigEndian.AppendUint16(b, m.Mask)
}

// ParseFetch reads a Fetch.
func ParseFetch(b []byte) (Fetch, error) {
	r := reader{b: b}
	m := Fetch{Root: r.hash(), Size: r.u32(), First: r.u16(), Mask: r.u16()}
	r.bound(m.Mask != 0)
	return m, r.end(TypeFetch)
}

// Piece is one piece of an object, with the proof that it is. Only its form is
// checked here; package piece checks the proof.
//
//	offset size
//	0      32   root of the object's hash tree
//	32     4    size of the object in bytes
//	36     2    index of the piece
//	38     1    number of hashes n <= 7
//	39     32*n proof, the lowest hash first
//	...    ...  data, 1 to 768 bytes
type Piece struct {
	Root  [32]byte
	Size  uint32
	Index uint16
	Proof [][32]byte
	Data  []byte
}

// Type returns TypePiece.
func (Piece) Type() Type { return TypePiece }

// Append appends the body.
func (m Piece) Append(b []byte) []byte {
	b = append(b, m.Root[:]...)
	b = binary.BigEndian.AppendUint32(b, m.Size)
	b = binary.BigEndian.AppendUint16(b, m.Index)
	b = append(b, byte(len(m.Proof)))
	for _, h := range m.Proof {
		b = append(b, h[:]...)
	}
	return append(b, m.Data...)
}

// ParsePiece reads a Piece; its data lies in b.
func ParsePiece(b []byte) (Piece, error) {
	r := reader{b: b}
	m := r.piece()
	return m, r.end(TypePiece)
}

// piece takes a piece, which reaches to the end.
func (r *reader) piece() Piece {
	m := Piece{Root: r.hash(), Size: r.u32(), Index: r.u16()}
	for range r.count(maxProof, 32) {
		m.Proof = append(m.Proof, r.hash())
	}
	r.bound(1 <= len(r.b) && len(r.b) <= MaxPieceData)
	m.Data = r.take(len(r.b))
	return m
}

func (r *reader) hash() (h [32]byte) {
	copy(h[:], r.take(len(h)))
	return h
}
