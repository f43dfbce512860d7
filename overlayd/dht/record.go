package dht

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
)

// Protocol: changing these breaks interoperation.
const (
	recordFormat = 1
	MaxValue     = 1024 // bytes
	maxNamespace = 32   // bytes
	maxName      = 64   // bytes
	maxSignature = 72   // bytes: ECDSA over P-256, ASN.1
	recordHeader = 66   // bytes before namespace
	MaxRecord    = recordHeader + maxNamespace + maxName + MaxValue + maxSignature
	MaxChain     = 16 << 10         // bytes of an encoded chain
	MinLifetime  = 10 * time.Second // shorter ones would be gone before they are found
	MaxLifetime  = time.Hour

	// Skew is how far the wall clocks of owner and reader may differ: as much
	// as for certificates.
	Skew = time.Hour
)

// What a record or chain is refused for.
var (
	ErrFormat    = errors.New("malformed record")
	ErrTime      = errors.New("record is not of this time")
	ErrRight     = errors.New("owner has no right to such a record")
	ErrSignature = errors.New("record's signature does not verify")
)

// Name is what a record is found by.
type Name struct {
	Kind      Kind
	Namespace string // "" for what concerns the whole grid
	Name      string
}

// Key returns the place on the ring where records of that name are kept: the
// first 16 bytes of SHA-256 over
//
//	"grid-appliance key\x00" || kind || length of namespace || namespace || name
func (n Name) Key() nodeid.ID {
	b := append([]byte("grid-appliance key\x00"), byte(n.Kind), byte(len(n.Namespace)))
	hash := sha256.Sum256(append(append(b, n.Namespace...), n.Name...))
	return nodeid.ID(hash[:nodeid.Size])
}

// Record is what one node says under a name for a while, signed by its key.
//
//	offset size
//	0      1    format: 1
//	1      1    kind
//	2      1    length of namespace n <= 32
//	3      1    length of name m <= 64
//	4      8    seq: the owner's wall clock in ms since 1970 when it signed,
//	            raised above its last
//	12     2    lifetime in s, 10 to 3600
//	14     16   owner
//	30     32   root of the hash tree over the owner's encoded chain
//	62     2    size of that chain in bytes
//	64     2    length of value v <= 1024
//	66     n    namespace
//	...    m    name
//	...    v    value; empty: the owner takes back what it said
//	...    ...  signature, at most 72: ECDSA, ASN.1, by the owner's key over
//	            SHA-256("grid-appliance record\x00" || all before)
type Record struct {
	Name
	Seq       uint64
	Lifetime  time.Duration // whole seconds
	Owner     nodeid.ID
	Chain     piece.ID
	Value     []byte
	Signature []byte
}

// body appends what is signed.
func (r Record) body(b []byte) []byte {
	b = append(b, recordFormat, byte(r.Kind), byte(len(r.Namespace)), byte(len(r.Name.Name)))
	b = binary.BigEndian.AppendUint64(b, r.Seq)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Lifetime/time.Second))
	b = append(b, r.Owner[:]...)
	b = append(b, r.Chain.Root[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Chain.Size))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Value)))
	b = append(b, r.Namespace...)
	b = append(b, r.Name.Name...)
	return append(b, r.Value...)
}

// Append appends the record.
func (r Record) Append(b []byte) []byte { return append(r.body(b), r.Signature...) }

// Digest returns what the owner signs.
func (r Record) Digest() [32]byte {
	return sha256.Sum256(r.body([]byte("grid-appliance record\x00")))
}

// ParseRecord reads what Append wrote. Value and Signature point into b. It
// verifies nothing but form.
func ParseRecord(b []byte) (Record, error) {
	if len(b) < recordHeader || len(b) > MaxRecord || b[0] != recordFormat {
		return Record{}, fmt.Errorf("record of %d bytes: %w", len(b), ErrFormat)
	}
	n, m, v := int(b[2]), int(b[3]), int(binary.BigEndian.Uint16(b[64:]))
	signature := len(b) - recordHeader - n - m - v
	if n > maxNamespace || m > maxName || v > MaxValue || signature < 1 || signature > maxSignature {
		return Record{}, fmt.Errorf("record of %d bytes, namespace %d, name %d, value %d: %w", len(b), n, m, v, ErrFormat)
	}
	r := Record{
		Seq:      binary.BigEndian.Uint64(b[4:]),
		Lifetime: time.Duration(binary.BigEndian.Uint16(b[12:])) * time.Second,
		Owner:    nodeid.ID(b[14:30]),
		Chain:    piece.ID{Root: [32]byte(b[30:62]), Size: int(binary.BigEndian.Uint16(b[62:]))},
	}
	rest := b[recordHeader:]
	r.Name = Name{Kind(b[1]), string(rest[:n]), string(rest[n : n+m])}
	r.Value, r.Signature = rest[n+m:n+m+v:n+m+v], rest[n+m+v:]
	if r.Lifetime < MinLifetime || r.Lifetime > MaxLifetime || r.Chain.Size < 1 || r.Chain.Size > MaxChain {
		return Record{}, fmt.Errorf("record with a lifetime of %v and a chain of %d bytes: %w", r.Lifetime, r.Chain.Size, ErrFormat)
	}
	if err := r.Name.check(); err != nil {
		return Record{}, err
	}
	return r, nil
}

// left returns how much of the lifetime remains at most, by the wall clock;
// ErrTime when the record is from the future or has ended, even if both clocks
// are as wrong as Skew allows.
func (r Record) left(now time.Time) (time.Duration, error) {
	if r.Seq > 1<<62 {
		return 0, fmt.Errorf("seq %d: %w", r.Seq, ErrTime)
	}
	age := now.Round(0).Sub(time.UnixMilli(int64(r.Seq)))
	if left := r.Lifetime + Skew - age; age >= -Skew && left > 0 {
		return min(left, r.Lifetime), nil
	}
	return 0, fmt.Errorf("record signed %v ago for %v: %w", age.Round(time.Second), r.Lifetime, ErrTime)
}

// EncodeChain returns a chain as the store carries it: for each certificate,
// the leaf first, 2 bytes of length and its DER.
func EncodeChain(chain credential.Chain) []byte {
	var b []byte
	for _, c := range chain {
		b = binary.BigEndian.AppendUint16(b, uint16(len(c)))
		b = append(b, c...)
	}
	return b
}

// ParseChain reads what EncodeChain wrote: two or three certificates, which
// point into b. It verifies nothing.
func ParseChain(b []byte) (credential.Chain, error) {
	var chain credential.Chain
	for rest := b; len(rest) > 0; {
		if len(rest) < 3 || len(chain) == 3 {
			return nil, fmt.Errorf("chain of %d bytes: %w", len(b), ErrFormat)
		}
		n := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; n < 1 || n > len(rest) {
			return nil, fmt.Errorf("chain of %d bytes: %w", len(b), ErrFormat)
		}
		chain = append(chain, credential.Certificate(rest[:n:n]))
		rest = rest[n:]
	}
	if len(chain) < 2 || len(b) > MaxChain {
		return nil, fmt.Errorf("chain of %d bytes and %d certificates: %w", len(b), len(chain), ErrFormat)
	}
	return slices.Clip(chain), nil
}
