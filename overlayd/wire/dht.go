package wire

import (
	"encoding/binary"

	"gridappliance/overlayd/nodeid"
)

// The store's own requests for pieces: of records and of their owners'
// certificate chains. Their bodies are those of Fetch and Piece.
const (
	TypeStoreFetch Type = 62
	TypeStorePiece Type = 63
)

// Protocol bounds of what one Records names.
const (
	MaxStored   = 8 // records of one key
	MaxReplicas = 8 // nodes near a key
)

const (
	storedSize  = 62
	replicaSize = 24
)

// GetNear asks for the nodes near the key only.
const GetNear = 1 << 0

// Get asks a node near a key, or a witness, what it stores under the key.
//
//	offset size
//	0      16   key
//	16     1    flags: 1 only the nodes near the key
type Get struct {
	Key   nodeid.ID
	Flags uint8
}

// Type returns TypeGet.
func (Get) Type() Type { return TypeGet }

// Append appends the body.
func (m Get) Append(b []byte) []byte { return append(append(b, m.Key[:]...), m.Flags) }

// ParseGet reads a Get.
func ParseGet(b []byte) (Get, error) {
	r := reader{b: b}
	m := Get{Key: r.id(), Flags: r.u8()}
	r.bound(m.Flags&^GetNear == 0)
	return m, r.end(TypeGet)
}

// Stored names one record: whose, how new, how long it lives, and its object.
//
//	offset size
//	0      16   owner
//	16     8    seq
//	24     4    what remains of its lifetime, ms
//	28     32   root of the record's hash tree
//	60     2    size of the record in bytes
type Stored struct {
	Owner     nodeid.ID
	Seq       uint64
	Remaining uint32
	Root      [32]byte
	Size      uint16
}

func (s Stored) append(b []byte) []byte {
	b = append(b, s.Owner[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Seq)
	b = binary.BigEndian.AppendUint32(b, s.Remaining)
	b = append(b, s.Root[:]...)
	return binary.BigEndian.AppendUint16(b, s.Size)
}

func (r *reader) stored() Stored {
	return Stored{Owner: r.id(), Seq: r.u64(), Remaining: r.u32(), Root: r.hash(), Size: r.u16()}
}

// Replica is a node near a key, and its holder.
type Replica struct {
	ID     nodeid.ID
	Holder Holder
}

func (r *reader) replica() (n Replica) {
	n.ID = r.id()
	copy(n.Holder[:], r.take(len(n.Holder)))
	return n
}

// Records answers a Get: the nodes that the answering node knows nearest to
// the key, itself among them if it is one; what it stores under the key; and
// the record itself when it is the only one and fits into one piece.
//
//	offset size
//	0      16   key
//	16     1    number of replicas n <= 8
//	17     24n  replicas: 16 bytes node ID, 8 bytes holder
//	...    1    number of records m <= 8
//	...    62m  records, as Stored
//	...    ...  nothing, or a Piece of the only record
type Records struct {
	Key      nodeid.ID
	Replicas []Replica
	Records  []Stored
	Piece    *Piece
}

// Type returns TypeRecords.
func (Records) Type() Type { return TypeRecords }

// Append appends the body.
func (m Records) Append(b []byte) []byte {
	b = append(b, m.Key[:]...)
	b = append(b, byte(len(m.Replicas)))
	for _, n := range m.Replicas {
		b = append(append(b, n.ID[:]...), n.Holder[:]...)
	}
	b = append(b, byte(len(m.Records)))
	for _, s := range m.Records {
		b = s.append(b)
	}
	return appendPiece(b, m.Piece)
}

// ParseRecords reads a Records; the piece's data lies in b.
func ParseRecords(b []byte) (Records, error) {
	r := reader{b: b}
	m := Records{Key: r.id()}
	for range r.count(MaxReplicas, replicaSize) {
		m.Replicas = append(m.Replicas, r.replica())
	}
	for range r.count(MaxStored, storedSize) {
		m.Records = append(m.Records, r.stored())
	}
	m.Piece = r.pieceOrNone()
	r.bound(m.Piece == nil || len(m.Records) == 1)
	return m, r.end(TypeRecords)
}

// Put offers a record to a node near its key, or to a witness. The receiver
// asks the sender for what it lacks: the record's other pieces, the owner's
// chain.
//
//	offset size
//	0      16   key
//	16     62   the record, as Stored
//	78     ...  nothing, or a Piece of the record
type Put struct {
	Key    nodeid.ID
	Stored Stored
	Piece  *Piece
}

// Type returns TypePut.
func (Put) Type() Type { return TypePut }

// Append appends the body.
func (m Put) Append(b []byte) []byte {
	return appendPiece(m.Stored.append(append(b, m.Key[:]...)), m.Piece)
}

// ParsePut reads a Put; the piece's data lies in b.
func ParsePut(b []byte) (Put, error) {
	r := reader{b: b}
	m := Put{Key: r.id(), Stored: r.stored(), Piece: r.pieceOrNone()}
	return m, r.end(TypePut)
}

func appendPiece(b []byte, p *Piece) []byte {
	if p == nil {
		return b
	}
	return p.Append(b)
}

func (r *reader) pieceOrNone() *Piece {
	if r.failed || len(r.b) == 0 {
		return nil
	}
	p := r.piece()
	return &p
}

// PutStatus is what became of a Put.
type PutStatus uint8

// What became of a Put. With the last three the record is not stored there.
const (
	PutStored  PutStatus = 1 // it is stored now
	PutHave    PutStatus = 2 // it, or a newer one, was there before
	PutQuota   PutStatus = 3 // its holder has as much there as it may
	PutFull    PutStatus = 4 // the store, or the key's place in it, is full
	PutInvalid PutStatus = 5 // form, key, time, chain, right or signature
)

// PutAnswer answers a Put.
//
//	offset size
//	0      16   key
//	16     16   owner
//	32     8    seq of the record that is there now, 0 for none
//	40     1    status: 1 stored, 2 had it, 3 quota, 4 full, 5 invalid
type PutAnswer struct {
	Key    nodeid.ID
	Owner  nodeid.ID
	Seq    uint64
	Status PutStatus
}

// Type returns TypePutAnswer.
func (PutAnswer) Type() Type { return TypePutAnswer }

// Append appends the body.
func (m PutAnswer) Append(b []byte) []byte {
	b = append(append(b, m.Key[:]...), m.Owner[:]...)
	return append(binary.BigEndian.AppendUint64(b, m.Seq), byte(m.Status))
}

// ParsePutAnswer reads a PutAnswer.
func ParsePutAnswer(b []byte) (PutAnswer, error) {
	r := reader{b: b}
	m := PutAnswer{Key: r.id(), Owner: r.id(), Seq: r.u64(), Status: PutStatus(r.u8())}
	r.bound(PutStored <= m.Status && m.Status <= PutInvalid)
	return m, r.end(TypePutAnswer)
}
