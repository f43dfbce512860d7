package wire

import "encoding/binary"

// VersionsSize is the length of Versions.
const VersionsSize = 24

// MaxObjects is how many objects one Gossip names: it has 1,008 bytes then.
const MaxObjects = 9

const objectSize = 109

// Versions says in every ping (in its tail), hello and vote which descriptor
// and revocation lists its sender has.
//
//	offset size
//	0      8    version of the descriptor that counts
//	8      8    version of the roots' revocation list, 0 without one
//	16     8    digest over all objects the sender has: package gossip
type Versions struct {
	Descriptor  uint64
	Revocations uint64
	Digest      [8]byte
}

// Append appends the 24 bytes.
func (v Versions) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, v.Descriptor)
	b = binary.BigEndian.AppendUint64(b, v.Revocations)
	return append(b, v.Digest[:]...)
}

// ParseVersions reads Versions from the front of b: a tail may go on.
func ParseVersions(b []byte) (Versions, error) {
	r := reader{b: b}
	v := r.versions()
	r.b = nil
	return v, r.end(TypeGossip)
}

func (r *reader) versions() Versions {
	v := Versions{Descriptor: r.u64(), Revocations: r.u64()}
	copy(v.Digest[:], r.take(len(v.Digest)))
	return v
}

// ObjectKind tells a descriptor from a revocation list.
type ObjectKind uint8

// The kinds of objects.
const (
	ObjectDescriptor  ObjectKind = 1
	ObjectRevocations ObjectKind = 2
)

// Object names a descriptor or revocation list.
//
//	offset size
//	0      1    kind: 1 descriptor, 2 revocation list
//	1      32   signer of a list: SHA-256 of the issuer's public key; zero for
//	            the roots and for a descriptor
//	33     8    version
//	41     32   SHA-256 of its body: objects with one body are one object
//	73     32   root of the hash tree over its text
//	105    4    size of its text in bytes
type Object struct {
	Kind    ObjectKind
	Signer  [32]byte
	Version uint64
	Body    [32]byte
	Root    [32]byte
	Size    uint32
}

func (o Object) append(b []byte) []byte {
	b = append(b, byte(o.Kind))
	b = append(b, o.Signer[:]...)
	b = binary.BigEndian.AppendUint64(b, o.Version)
	b = append(b, o.Body[:]...)
	b = append(b, o.Root[:]...)
	return binary.BigEndian.AppendUint32(b, o.Size)
}

func (r *reader) object() Object {
	o := Object{Kind: ObjectKind(r.u8()), Signer: r.hash(), Version: r.u64(), Body: r.hash(), Root: r.hash(), Size: r.u32()}
	r.bound(o.Kind == ObjectRevocations || o.Kind == ObjectDescriptor && o.Signer == [32]byte{})
	return o
}

// Flags of Gossip.
const (
	GossipWant    = 1 << 0 // the sender asks for the peer's objects
	GossipConfirm = 1 << 1 // the sender asks for a Gossip in return

	gossipFlags = GossipWant | GossipConfirm
)

// Gossip tells a peer which objects the sender has.
//
//	offset size
//	0      1    flags: 1 send me yours, 2 confirm
//	1      24   versions
//	25     1    page: with flag 1, of the peer's list, the one asked for; else
//	            of the sender's list, the one that the objects are
//	26     1    number of pages of the sender's list
//	27     1    number of objects n <= 9
//	28     109n objects
type Gossip struct {
	Flags       uint8
	Versions    Versions
	Page, Pages uint8
	Objects     []Object
}

// Type returns TypeGossip.
func (Gossip) Type() Type { return TypeGossip }

// Append appends the body.
func (m Gossip) Append(b []byte) []byte {
	b = m.Versions.Append(append(b, m.Flags))
	b = append(b, m.Page, m.Pages, byte(len(m.Objects)))
	for _, o := range m.Objects {
		b = o.append(b)
	}
	return b
}

// ParseGossip reads a Gossip.
func ParseGossip(b []byte) (Gossip, error) {
	r := reader{b: b}
	m := Gossip{Flags: r.u8(), Versions: r.versions(), Page: r.u8(), Pages: r.u8()}
	r.bound(m.Flags&^gossipFlags == 0)
	for range r.count(MaxObjects, objectSize) {
		m.Objects = append(m.Objects, r.object())
	}
	return m, r.end(TypeGossip)
}
