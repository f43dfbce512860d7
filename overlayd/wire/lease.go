package wire

import (
	"cmp"
	"encoding/binary"
	"net/netip"

	"gridappliance/overlayd/nodeid"
)

// Types of payloads of the leases, besides those of wire.go.
const (
	TypeGreet   Type = 53
	TypeGreeted Type = 54
	TypeStop    Type = 55
	TypeStopped Type = 56
)

// Protocol bounds of the leases.
const (
	MaxWitnesses = 9  // of a roster: credential
	MaxVoters    = 5  // witnesses of one key in one roster
	MaxProof     = 3  // answers that prove a seq: a majority of those
	MaxNamespace = 32 // bytes of a namespace's name
	MaxName      = 63 // bytes of a name: one DNS label
)

// LeaseKind says what a key is.
type LeaseKind uint8

// The kinds of keys.
const (
	LeaseAddress LeaseKind = 1 // Value is the 4 bytes of an IPv4 address
	LeaseName    LeaseKind = 2 // Value is a DNS label in lower case
)

// LeaseKey is what one node at a time may have: an address or a name of a
// namespace. It is comparable.
//
//	offset size
//	0      1    kind
//	1      1    length n of the namespace, 1 to 32
//	2      n    namespace
//	2+n    1    length m of the value: 4, or 1 to 63
//	3+n    m    value
type LeaseKey struct {
	Kind             LeaseKind
	Namespace, Value string
}

// Append appends the key.
func (k LeaseKey) Append(b []byte) []byte {
	b = append(b, byte(k.Kind), byte(len(k.Namespace)))
	b = append(b, k.Namespace...)
	return append(append(b, byte(len(k.Value))), k.Value...)
}

// Addr returns the address of an address key, else the zero Addr.
func (k LeaseKey) Addr() netip.Addr {
	if k.Kind != LeaseAddress {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte([]byte(k.Value)))
}

// Compare orders keys by kind, namespace, value: -1, 0 or +1.
func (k LeaseKey) Compare(other LeaseKey) int {
	return cmp.Or(cmp.Compare(k.Kind, other.Kind), cmp.Compare(k.Namespace, other.Namespace), cmp.Compare(k.Value, other.Value))
}

// String is for people: 10.250.3.7@net or name@net.
func (k LeaseKey) String() string {
	if a := k.Addr(); a.IsValid() {
		return a.String() + "@" + k.Namespace
	}
	return k.Value + "@" + k.Namespace
}

func (r *reader) leaseKey() (k LeaseKey) {
	k.Kind = LeaseKind(r.u8())
	n := int(r.u8())
	r.bound(n >= 1 && n <= MaxNamespace)
	k.Namespace = string(r.take(n))
	n = int(r.u8())
	value := r.take(n)
	switch k.Kind {
	case LeaseAddress:
		r.bound(n == 4)
	case LeaseName:
		r.bound(ValidName(value))
	default:
		r.bound(false)
	}
	if r.failed {
		return LeaseKey{}
	}
	k.Value = string(value)
	return k
}

// CutLeaseKey reads a key from the front of b and returns the rest.
func CutLeaseKey(b []byte) (LeaseKey, []byte, error) {
	r := reader{b: b}
	k := r.leaseKey()
	if r.failed {
		return LeaseKey{}, nil, ErrMalformed
	}
	return k, r.b, nil
}

// ValidName says whether a name is a DNS label in lower case: 1 to 63 of a-z,
// 0-9 and -, neither beginning nor ending with - (RFC 1123 §2.1).
func ValidName[T string | []byte](name T) bool {
	if len(name) == 0 || len(name) > MaxName || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for i := range len(name) {
		if c := name[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// Signature is who signed and the signature.
//
//	offset size
//	0      33   the signer's P-256 public key, compressed (SEC 1 §2.3.3)
//	33     64   r and s, 32 bytes each, of ECDSA with SHA-256
//
// It covers "grid-appliance lease ", the message's name, a zero byte and the
// message's body without the signature. The signer's node ID is a hash of its
// key (package credential), so that a roster of IDs suffices to verify.
type Signature struct {
	Key   [33]byte
	Value [64]byte
}

// SignatureSize is the length of a Signature.
const SignatureSize = 33 + 64

func (s *Signature) append(b []byte) []byte { return append(append(b, s.Key[:]...), s.Value[:]...) }

func (r *reader) signature() (s Signature) {
	copy(s.Key[:], r.take(33))
	copy(s.Value[:], r.take(64))
	return s
}

// domain is what a signature covers before the body.
func domain(b []byte, name string) []byte {
	if b == nil {
		b = make([]byte, 0, 384)
	}
	return append(append(append(b, "grid-appliance lease "...), name...), 0)
}

// Instance tells machines apart that have one key: the first 8 bytes of
// SHA-256 of the instance in the node certificate.
type Instance [8]byte

func (r *reader) instance() (i Instance) {
	copy(i[:], r.take(8))
	return i
}

// Hold asks a witness to hold a key for the signer.
//
//	offset size
//	0      8    nonce: new for every round; answers carry it
//	8      8    roster epoch
//	16     16   holder: the signer's node ID
//	32     8    instance
//	40     8    seq: 1 + the highest in a majority's answers
//	48     4    term in seconds: how long it is to be held
//	52     32   SHA-256 of the signer's certificate chain
//	84     ...  key
//	...    1    number of proofs p <= 3
//	...    ...  proofs: answers of witnesses without their key, this one's
//	...    97   signature
type Hold struct {
	Nonce, Epoch uint64
	Holder       nodeid.ID
	Instance     Instance
	Seq          uint64
	Term         uint32
	Chain        [32]byte
	Key          LeaseKey
	Proof        []Answer
	Signature    Signature
}

// Type returns TypeHold.
func (Hold) Type() Type { return TypeHold }

// Append appends the body.
func (m Hold) Append(b []byte) []byte { return m.Signature.append(m.body(b)) }

// Signed appends what the signature covers.
func (m Hold) Signed(b []byte) []byte { return m.body(domain(b, "hold")) }

func (m *Hold) body(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b = binary.BigEndian.AppendUint64(b, m.Epoch)
	b = append(append(b, m.Holder[:]...), m.Instance[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Seq)
	b = binary.BigEndian.AppendUint32(b, m.Term)
	b = m.Key.Append(append(b, m.Chain[:]...))
	b = append(b, byte(len(m.Proof)))
	for i := range m.Proof {
		b = m.Proof[i].Signature.append(m.Proof[i].body(b))
	}
	return b
}

// ParseHold reads a Hold.
func ParseHold(b []byte) (Hold, error) {
	r := reader{b: b}
	m := Hold{Nonce: r.u64(), Epoch: r.u64(), Holder: r.id(), Instance: r.instance(), Seq: r.u64(), Term: r.u32()}
	copy(m.Chain[:], r.take(32))
	m.Key = r.leaseKey()
	if n := r.count(MaxProof, answerSize); n > 0 {
		m.Proof = make([]Answer, n)
		for i := range m.Proof {
			m.Proof[i] = r.answer(m.Key)
		}
	}
	m.Signature = r.signature()
	return m, r.end(TypeHold)
}

// Release gives back a hold of an acquisition that failed.
//
//	offset size
//	0      8    nonce of the Hold
//	8      8    roster epoch
//	16     16   holder: the signer's node ID
//	32     8    instance
//	40     8    seq of the Hold
//	48     32   SHA-256 of the signer's certificate chain
//	80     ...  key
//	...    97   signature
type Release struct {
	Nonce     uint64
	Epoch     uint64
	Holder    nodeid.ID
	Instance  Instance
	Seq       uint64
	Chain     [32]byte
	Key       LeaseKey
	Signature Signature
}

// Type returns TypeRelease.
func (Release) Type() Type { return TypeRelease }

// Append appends the body.
func (m Release) Append(b []byte) []byte { return m.Signature.append(m.body(b)) }

// Signed appends what the signature covers.
func (m Release) Signed(b []byte) []byte { return m.body(domain(b, "release")) }

func (m *Release) body(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b = binary.BigEndian.AppendUint64(b, m.Epoch)
	b = append(append(b, m.Holder[:]...), m.Instance[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Seq)
	return m.Key.Append(append(b, m.Chain[:]...))
}

// ParseRelease reads a Release.
func ParseRelease(b []byte) (Release, error) {
	r := reader{b: b}
	m := Release{Nonce: r.u64(), Epoch: r.u64(), Holder: r.id(), Instance: r.instance(), Seq: r.u64()}
	copy(m.Chain[:], r.take(32))
	m.Key, m.Signature = r.leaseKey(), r.signature()
	return m, r.end(TypeRelease)
}
