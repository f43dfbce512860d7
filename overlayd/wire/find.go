package wire

import "gridappliance/overlayd/nodeid"

// Find asks the member nearest to the destination who it and its neighbours
// are. Its body is empty.
type Find struct{}

func (Find) Type() Type { return TypeFind }

// Append appends nothing.
func (Find) Append(b []byte) []byte { return b }

// ParseFind reads a Find.
func ParseFind(b []byte) (Find, error) {
	r := reader{b: b}
	return Find{}, r.end(TypeFind)
}

// Found answers a Find.
//
//	offset size
//	0      30   the answering node
//	30     2    estimated size of the ring, as in Status
//	32     ...  its list
type Found struct {
	Self Peer
	Size uint16
	List List
}

func (Found) Type() Type { return TypeFound }

// Append appends the body.
func (m Found) Append(b []byte) []byte {
	b = m.Self.append(b)
	return m.List.append(append(b, byte(m.Size>>8), byte(m.Size)))
}

// ParseFound reads a Found.
func ParseFound(b []byte) (Found, error) {
	r := reader{b: b}
	m := r.found()
	return m, r.end(TypeFound)
}

func (r *reader) found() Found { return Found{Self: r.peer(), Size: r.u16(), List: r.list()} }

// Join asks for the neighbours of the sender's own place, which it wants to
// take. It is routed to the member nearest to the sender's ID, past the sender
// itself.
//
//	offset size
//	0      30   the sender
type Join struct{ Self Peer }

func (Join) Type() Type { return TypeJoin }

// Append appends the body.
func (m Join) Append(b []byte) []byte { return m.Self.append(b) }

// ParseJoin reads a Join.
func ParseJoin(b []byte) (Join, error) {
	r := reader{b: b}
	m := Join{Self: r.peer()}
	return m, r.end(TypeJoin)
}

// JoinAnswer answers a Join.
//
//	offset size
//	0      1    code: 0, or 6 if the answering node is not on the ring itself
//	1      ...  as Found
type JoinAnswer struct {
	Code  Code
	Found Found
}

func (JoinAnswer) Type() Type { return TypeJoinAnswer }

// Append appends the body.
func (m JoinAnswer) Append(b []byte) []byte { return m.Found.Append(append(b, byte(m.Code))) }

// ParseJoinAnswer reads a JoinAnswer.
func ParseJoinAnswer(b []byte) (JoinAnswer, error) {
	r := reader{b: b}
	m := JoinAnswer{Code: Code(r.u8()), Found: r.found()}
	return m, r.end(TypeJoinAnswer)
}

// Merge tells a neighbour of a node on another ring; it will look for its own
// place there through that node.
//
//	offset size
//	0      30   a node of the other ring, to which the sender has a connection
type Merge struct{ Through Peer }

func (Merge) Type() Type { return TypeMerge }

// Append appends the body.
func (m Merge) Append(b []byte) []byte { return m.Through.append(b) }

// ParseMerge reads a Merge.
func ParseMerge(b []byte) (Merge, error) {
	r := reader{b: b}
	m := Merge{Through: r.peer()}
	return m, r.end(TypeMerge)
}

// Err says that a request could not be delivered.
//
//	offset size
//	0      1    code
//	1      1    type of the payload that could not
type Err struct {
	Code  Code
	About Type
}

func (Err) Type() Type { return TypeErr }

// Append appends the body.
func (m Err) Append(b []byte) []byte { return append(b, byte(m.Code), byte(m.About)) }

// ParseErr reads an Err.
func ParseErr(b []byte) (Err, error) {
	r := reader{b: b}
	m := Err{Code: Code(r.u8()), About: Type(r.u8())}
	return m, r.end(TypeErr)
}

// Newcomer tells a neighbour of a node that joins next to it, which it may call.
//
//	offset size
//	0      30   the node, as it says of itself
//	30     16   the peer it is connected to, over which it is reached
type Newcomer struct {
	Self Peer
	Via  nodeid.ID
}

// Type returns TypeNewcomer.
func (Newcomer) Type() Type { return TypeNewcomer }

// Append appends the body.
func (m Newcomer) Append(b []byte) []byte { return append(m.Self.append(b), m.Via[:]...) }

// ParseNewcomer reads a body.
func ParseNewcomer(b []byte) (Newcomer, error) {
	r := reader{b: b}
	m := Newcomer{Self: r.peer(), Via: r.id()}
	return m, r.end(TypeNewcomer)
}
