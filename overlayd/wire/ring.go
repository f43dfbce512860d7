package wire

import (
	"encoding/binary"

	"gridappliance/overlayd/nodeid"
)

// Flags of a Status.
const (
	StatusMember = 1 << 0 // on the ring: listed by its predecessor
	StatusReady  = 1 << 1 // has a successor, wants to be listed
)

// Status is what a node says of itself in every Ping, Pong, Neigh and Link.
//
//	offset size
//	0      1    flags: 1 member, 2 ready; others are ignored
//	1      4    version of its list; changes with the list
//	5      2    estimated size of the ring, log2 in units of 1/256
//	7      6    coordinate
type Status struct {
	Flags   uint8
	Version uint32
	Size    uint16
	Coord   Coord
}

func (s Status) append(b []byte) []byte {
	b = append(b, s.Flags)
	b = binary.BigEndian.AppendUint32(b, s.Version)
	b = binary.BigEndian.AppendUint16(b, s.Size)
	return s.Coord.append(b)
}

func (r *reader) status() Status {
	return Status{Flags: r.u8(), Version: r.u32(), Size: r.u16(), Coord: r.coord()}
}

// Ping asks for a sign of life.
//
//	offset size
//	0      4    number, echoed by the Pong
//	4      13   status
//	17     ...  tail, at most 64: what else travels with every sign of life
//	            (versions of descriptor and revocation list)
type Ping struct {
	Number uint32
	Status Status
	Tail   []byte
}

// Pong answers a Ping; it has the same bytes.
type Pong Ping

func (Ping) Type() Type { return TypePing }
func (Pong) Type() Type { return TypePong }

// Append appends the body.
func (m Ping) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, m.Number)
	return append(m.Status.append(b), m.Tail...)
}

// Append appends the body.
func (m Pong) Append(b []byte) []byte { return Ping(m).Append(b) }

// ParsePing reads a Ping; the tail lies in b.
func ParsePing(b []byte) (Ping, error) {
	r := reader{b: b}
	m := Ping{Number: r.u32(), Status: r.status()}
	r.bound(len(r.b) <= MaxTail)
	m.Tail = r.take(len(r.b))
	return m, r.end(TypePing)
}

// ParsePong reads a Pong; the tail lies in b.
func ParsePong(b []byte) (Pong, error) {
	m, err := ParsePing(b)
	return Pong(m), err
}

// NeighAsk asks for a list.
//
//	offset size
//	0      4    version that the asker has, 0 if none: a hint for counters
type NeighAsk struct{ Have uint32 }

func (NeighAsk) Type() Type { return TypeNeighAsk }

// Append appends the body.
func (m NeighAsk) Append(b []byte) []byte { return binary.BigEndian.AppendUint32(b, m.Have) }

// ParseNeighAsk reads a NeighAsk.
func ParseNeighAsk(b []byte) (NeighAsk, error) {
	r := reader{b: b}
	m := NeighAsk{Have: r.u32()}
	return m, r.end(TypeNeighAsk)
}

// List is a node's predecessors and successors, nearest first, read at one
// moment.
//
//	offset size
//	0      1    number of predecessors p <= 12
//	1      30*p predecessors
//	...    1    number of successors s <= 12
//	...    30*s successors
type List struct{ Preds, Succs []Peer }

func (l List) append(b []byte) []byte { return appendPeers(appendPeers(b, l.Preds), l.Succs) }

func (r *reader) list() List { return List{Preds: r.peers(MaxList), Succs: r.peers(MaxList)} }

// Neigh is a node's whole list, with the far links as the first 8 bytes of
// their IDs: enough for lookahead.
//
//	offset size
//	0      13   status; its version is this list's
//	13     ...  list
//	...    1    number of far links f <= 48
//	...    8*f  their prefixes
type Neigh struct {
	Status Status
	List   List
	Far    []uint64
}

func (Neigh) Type() Type { return TypeNeigh }

// Append appends the body.
func (m Neigh) Append(b []byte) []byte {
	b = m.List.append(m.Status.append(b))
	b = append(b, byte(len(m.Far)))
	for _, p := range m.Far {
		b = binary.BigEndian.AppendUint64(b, p)
	}
	return b
}

// ParseNeigh reads a Neigh.
func ParseNeigh(b []byte) (Neigh, error) {
	r := reader{b: b}
	m := Neigh{Status: r.status(), List: r.list()}
	if n := r.count(MaxFar, 8); n > 0 {
		m.Far = make([]uint64, n)
		for i := range m.Far {
			m.Far[i] = r.u64()
		}
	}
	return m, r.end(TypeNeigh)
}

// Role is what a connection is for; one connection may have several.
type Role uint8

// Roles. RoleLeaf is a connection of a node that is not yet on the ring, or
// that asks on another ring.
const (
	RoleNear   Role = 1 << 0
	RoleFar    Role = 1 << 1
	RoleDemand Role = 1 << 2
	RoleLeaf   Role = 1 << 3
	roleAll         = RoleNear | RoleFar | RoleDemand | RoleLeaf
)

// Link asks the peer to keep the connection for one more role.
//
//	offset size
//	0      1    role: 1 near, 2 far, 4 on demand, 8 leaf
//	1      13   status
type Link struct {
	Role   Role
	Status Status
}

func (Link) Type() Type { return TypeLink }

// Append appends the body.
func (m Link) Append(b []byte) []byte { return m.Status.append(append(b, byte(m.Role))) }

// ParseLink reads a Link.
func ParseLink(b []byte) (Link, error) {
	r := reader{b: b}
	m := Link{Role: r.role(), Status: r.status()}
	return m, r.end(TypeLink)
}

// role takes one role; single roles only.
func (r *reader) role() Role {
	role := Role(r.u8())
	r.bound(role != 0 && role&roleAll == role && role&(role-1) == 0)
	return role
}

// Code is how a request was answered.
type Code uint8

// Codes.
const (
	CodeOK      Code = 0
	CodeFull    Code = 1 // no room within the degree budget, or of a quota
	CodeNotHere Code = 2 // the place on the ring is another's
	CodeLeaving Code = 3
	CodeNoRoute Code = 4 // an exact destination that is not there
	CodeTTL     Code = 5
	CodeOffRing Code = 6 // the answering node is not on the ring itself
	CodeUnknown Code = 7 // a type or service this node does not know
)

// LinkAnswer accepts or refuses a Link.
//
//	offset size
//	0      1    role asked for
//	1      1    code: 0 accepted, 1 full, 3 leaving
type LinkAnswer struct {
	Role Role
	Code Code
}

func (LinkAnswer) Type() Type { return TypeLinkAnswer }

// Append appends the body.
func (m LinkAnswer) Append(b []byte) []byte { return append(b, byte(m.Role), byte(m.Code)) }

// ParseLinkAnswer reads a LinkAnswer.
func ParseLinkAnswer(b []byte) (LinkAnswer, error) {
	r := reader{b: b}
	m := LinkAnswer{Role: r.role(), Code: Code(r.u8())}
	return m, r.end(TypeLinkAnswer)
}

// Unlink says that the sender no longer keeps the connection for a role; with
// CodeLeaving, that it leaves the ring now.
//
//	offset size
//	0      1    role
//	1      1    code
type Unlink struct {
	Role Role
	Code Code
}

func (Unlink) Type() Type { return TypeUnlink }

// Append appends the body.
func (m Unlink) Append(b []byte) []byte { return append(b, byte(m.Role), byte(m.Code)) }

// ParseUnlink reads an Unlink.
func ParseUnlink(b []byte) (Unlink, error) {
	r := reader{b: b}
	m := Unlink{Role: r.role(), Code: Code(r.u8())}
	return m, r.end(TypeUnlink)
}

// ProbeFor asks a node to look whether another is alive (SWIM §4.1's
// ping-req).
//
//	offset size
//	0      16   whom
//	16     4    number, echoed
type ProbeFor struct {
	Target nodeid.ID
	Number uint32
}

func (ProbeFor) Type() Type { return TypeProbeFor }

// Append appends the body.
func (m ProbeFor) Append(b []byte) []byte {
	return binary.BigEndian.AppendUint32(append(b, m.Target[:]...), m.Number)
}

// ParseProbeFor reads a ProbeFor.
func ParseProbeFor(b []byte) (ProbeFor, error) {
	r := reader{b: b}
	m := ProbeFor{Target: r.id(), Number: r.u32()}
	return m, r.end(TypeProbeFor)
}

// Finding is what a witness saw.
type Finding uint8

// Findings.
const (
	FindingNoLink Finding = 0 // it has no connection to that node: no opinion
	FindingAlive  Finding = 1 // a Pong came for this question
	FindingSilent Finding = 2 // three Pings were not answered
)

// ProbeResult answers a ProbeFor.
//
//	offset size
//	0      16   whom
//	16     4    number
//	20     1    finding
type ProbeResult struct {
	Target  nodeid.ID
	Number  uint32
	Finding Finding
}

func (ProbeResult) Type() Type { return TypeProbeResult }

// Append appends the body.
func (m ProbeResult) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, m.Target[:]...), m.Number)
	return append(b, byte(m.Finding))
}

// ParseProbeResult reads a ProbeResult.
func ParseProbeResult(b []byte) (ProbeResult, error) {
	r := reader{b: b}
	m := ProbeResult{Target: r.id(), Number: r.u32(), Finding: Finding(r.u8())}
	r.bound(m.Finding <= FindingSilent)
	return m, r.end(TypeProbeResult)
}
