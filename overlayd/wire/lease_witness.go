package wire

import (
	"encoding/binary"

	"gridappliance/overlayd/nodeid"
)

// Greet is how a witness makes itself known to the others. All it says of
// itself only grows, as the order (incarnation, boot, number), and so do its
// records within one incarnation: a witness that
// is shown a greeting by its own key that it did not send is not alone.
//
//	offset size
//	0      16   witness: the signer's node ID
//	16     8    roster epoch
//	24     2    incarnation: how often it has recovered
//	26     4    boot: how often it has started with these holds
//	30     8    nonce of this start
//	38     4    number of this greeting
//	42     8    records that it has written to its file so far
//	50     8    the sender's clock, Unix milliseconds
//	58     1    flags: 1 recovering, 2 suspended, 4 an answer is wanted
//	59     2    suspended: the highest incarnation it has seen of its own key
//	61     97   signature
type Greet struct {
	Witness     nodeid.ID
	Epoch       uint64
	Incarnation uint16
	Boot        uint32
	Start       uint64
	Number      uint32
	Records     uint64
	Clock       int64
	Flags       uint8
	Cites       uint16
	Signature   Signature
}

// Flags of Greet.
const (
	GreetRecovering = 1 << 0
	GreetSuspended  = 1 << 1
	GreetAsk        = 1 << 2
	greetFlags      = GreetRecovering | GreetSuspended | GreetAsk
)

const greetSize = 61 + SignatureSize

// Type returns TypeGreet.
func (Greet) Type() Type { return TypeGreet }

// Append appends the body.
func (m Greet) Append(b []byte) []byte { return m.Signature.append(m.body(b)) }

// Signed appends what the signature covers.
func (m Greet) Signed(b []byte) []byte { return m.body(domain(b, "greet")) }

func (m *Greet) body(b []byte) []byte {
	b = append(b, m.Witness[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Epoch)
	b = binary.BigEndian.AppendUint16(b, m.Incarnation)
	b = binary.BigEndian.AppendUint32(b, m.Boot)
	b = binary.BigEndian.AppendUint64(b, m.Start)
	b = binary.BigEndian.AppendUint32(b, m.Number)
	b = binary.BigEndian.AppendUint64(b, m.Records)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Clock))
	return binary.BigEndian.AppendUint16(append(b, m.Flags), m.Cites)
}

func (r *reader) greet() (m Greet) {
	m.Witness, m.Epoch, m.Incarnation, m.Boot = r.id(), r.u64(), r.u16(), r.u32()
	m.Start, m.Number, m.Records, m.Clock, m.Flags, m.Cites = r.u64(), r.u32(), r.u64(), int64(r.u64()), r.u8(), r.u16()
	r.bound(m.Flags&^greetFlags == 0)
	m.Signature = r.signature()
	return m
}

// ParseGreet reads a Greet.
func ParseGreet(b []byte) (Greet, error) {
	r := reader{b: b}
	m := r.greet()
	return m, r.end(TypeGreet)
}

// Greeted answers a Greet.
//
//	offset size
//	0      158  the answering witness's own greeting
//	158    1    number n <= 3
//	159    158n the newest greeting it has of the asker's key; of two that
//	            contradict each other the other one; a suspended one
type Greeted struct {
	Own  Greet
	Seen []Greet
}

// MaxSeen bounds the greetings in a Greeted.
const MaxSeen = 3

// Type returns TypeGreeted.
func (Greeted) Type() Type { return TypeGreeted }

// Append appends the body.
func (m Greeted) Append(b []byte) []byte {
	b = append(m.Own.Append(b), byte(len(m.Seen)))
	for i := range m.Seen {
		b = m.Seen[i].Append(b)
	}
	return b
}

// ParseGreeted reads a Greeted.
func ParseGreeted(b []byte) (Greeted, error) {
	r := reader{b: b}
	m := Greeted{Own: r.greet()}
	if n := r.count(MaxSeen, greetSize); n > 0 {
		m.Seen = make([]Greet, n)
		for i := range m.Seen {
			m.Seen[i] = r.greet()
		}
	}
	return m, r.end(TypeGreeted)
}

// HoldsAsk asks a witness for its holds: of one that recovers, or of one of a
// new roster.
//
//	offset size
//	0      16   witness: the signer's node ID
//	16     8    nonce
//	24     8    roster epoch
//	32     2    incarnation that it has or will have
//	34     1    flags: 1 it has everything up to Holds' end; 2 it is recovering
//	35     1    0, or 1 if a key follows
//	36     ...  the last key it has: what is wanted comes after it
//	...    97   signature
type HoldsAsk struct {
	Witness     nodeid.ID
	Nonce       uint64
	Epoch       uint64
	Incarnation uint16
	Flags       uint8
	After       LeaseKey // zero: from the beginning
	Signature   Signature
}

// Flags of HoldsAsk.
const (
	HoldsDone       = 1 << 0
	HoldsRecovering = 1 << 1
	holdsAskFlags   = HoldsDone | HoldsRecovering
)

// Type returns TypeHoldsAsk.
func (HoldsAsk) Type() Type { return TypeHoldsAsk }

// Append appends the body.
func (m HoldsAsk) Append(b []byte) []byte { return m.Signature.append(m.body(b)) }

// Signed appends what the signature covers.
func (m HoldsAsk) Signed(b []byte) []byte { return m.body(domain(b, "holds-ask")) }

func (m *HoldsAsk) body(b []byte) []byte {
	b = append(b, m.Witness[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b = binary.BigEndian.AppendUint64(b, m.Epoch)
	b = append(binary.BigEndian.AppendUint16(b, m.Incarnation), m.Flags)
	if m.After == (LeaseKey{}) {
		return append(b, 0)
	}
	return m.After.Append(append(b, 1))
}

// ParseHoldsAsk reads a HoldsAsk.
func ParseHoldsAsk(b []byte) (HoldsAsk, error) {
	r := reader{b: b}
	m := HoldsAsk{Witness: r.id(), Nonce: r.u64(), Epoch: r.u64(), Incarnation: r.u16(), Flags: r.u8()}
	r.bound(m.Flags&^holdsAskFlags == 0)
	switch r.u8() {
	case 0:
	case 1:
		m.After = r.leaseKey()
	default:
		r.bound(false)
	}
	m.Signature = r.signature()
	return m, r.end(TypeHoldsAsk)
}

// Holds answers a HoldsAsk.
//
//	offset size
//	0      16   witness: the signer's node ID
//	16     8    nonce of the HoldsAsk
//	24     8    roster epoch
//	32     2    the asker's incarnation as the witness knows it
//	34     1    flags: 1 there are more; 2 it is recovering itself and has none;
//	            4 that incarnation was taken: a higher one is wanted
//	35     1    number of holds n <= 6, in the order of LeaseKey.Compare
//	36     ...  n times: key, 16 holder, 8 instance, 8 whose quota, 8 seq,
//	            4 remaining seconds; 0: free, only the seq counts
//	...    97   signature
type Holds struct {
	Witness   nodeid.ID
	Nonce     uint64
	Epoch     uint64
	Asker     uint16
	Flags     uint8
	Holds     []HeldKey
	Signature Signature
}

// HeldKey is one hold of a witness.
type HeldKey struct {
	Key      LeaseKey
	Holder   nodeid.ID
	Instance Instance
	Quota    Holder // whose quota it counts for
	Seq      uint64
	Left     uint32 // seconds
}

// Flags and bounds of Holds.
const (
	HoldsMore    = 1 << 0
	HoldsEmpty   = 1 << 1
	HoldsRefused = 1 << 2
	holdsFlags   = HoldsMore | HoldsEmpty | HoldsRefused
	MaxHolds     = 6 // each at most 142 bytes
)

// Type returns TypeHolds.
func (Holds) Type() Type { return TypeHolds }

// Append appends the body.
func (m Holds) Append(b []byte) []byte { return m.Signature.append(m.body(b)) }

// Signed appends what the signature covers.
func (m Holds) Signed(b []byte) []byte { return m.body(domain(b, "holds")) }

func (m *Holds) body(b []byte) []byte {
	b = append(b, m.Witness[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b = binary.BigEndian.AppendUint64(b, m.Epoch)
	b = append(binary.BigEndian.AppendUint16(b, m.Asker), m.Flags, byte(len(m.Holds)))
	for i := range m.Holds {
		b = m.Holds[i].Append(b)
	}
	return b
}

// Append appends the hold as in Holds.
func (h HeldKey) Append(b []byte) []byte {
	b = append(append(append(h.Key.Append(b), h.Holder[:]...), h.Instance[:]...), h.Quota[:]...)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, h.Seq), h.Left)
}

func (r *reader) heldKey() (h HeldKey) {
	h.Key, h.Holder, h.Instance = r.leaseKey(), r.id(), r.instance()
	copy(h.Quota[:], r.take(8))
	h.Seq, h.Left = r.u64(), r.u32()
	return h
}

// ParseHolds reads a Holds.
func ParseHolds(b []byte) (Holds, error) {
	r := reader{b: b}
	m := Holds{Witness: r.id(), Nonce: r.u64(), Epoch: r.u64(), Asker: r.u16(), Flags: r.u8()}
	r.bound(m.Flags&^holdsFlags == 0)
	if n := r.count(MaxHolds, 40); n > 0 {
		m.Holds = make([]HeldKey, n)
		for i := range m.Holds {
			m.Holds[i] = r.heldKey()
		}
	}
	m.Signature = r.signature()
	return m, r.end(TypeHolds)
}

// Stop is the word of a witness of the previous roster that it will not vote
// for any older roster again and has handed its holds on.
//
//	offset size
//	0      16   witness: the signer's node ID
//	16     8    epoch of the new roster
//	24     32   digest of the new roster
//	56     97   signature
type Stop struct {
	Witness   nodeid.ID
	Epoch     uint64
	Digest    [32]byte
	Signature Signature
}

// Type returns TypeStop.
func (Stop) Type() Type { return TypeStop }

// Append appends the body.
func (m Stop) Append(b []byte) []byte { return m.Signature.append(m.body(b)) }

// Signed appends what the signature covers.
func (m Stop) Signed(b []byte) []byte { return m.body(domain(b, "stop")) }

func (m *Stop) body(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, m.Witness[:]...), m.Epoch)
	return append(b, m.Digest[:]...)
}

// ParseStop reads a Stop.
func ParseStop(b []byte) (Stop, error) {
	r := reader{b: b}
	m := Stop{Witness: r.id(), Epoch: r.u64()}
	copy(m.Digest[:], r.take(32))
	m.Signature = r.signature()
	return m, r.end(TypeStop)
}

// Stopped is a majority's Stops: it travels with the new roster.
//
//	offset size
//	0      8    epoch of the new roster
//	8      32   digest of the new roster
//	40     1    number of stops n <= 9
//	41     113n witness (16), signature (97)
type Stopped struct {
	Epoch  uint64
	Digest [32]byte
	Stops  []StoppedWitness
}

// StoppedWitness is one Stop in a Stopped.
type StoppedWitness struct {
	Witness   nodeid.ID
	Signature Signature
}

// Type returns TypeStopped.
func (Stopped) Type() Type { return TypeStopped }

// Stop returns the word of witness i as it signed it.
func (m *Stopped) Stop(i int) Stop {
	return Stop{Witness: m.Stops[i].Witness, Epoch: m.Epoch, Digest: m.Digest, Signature: m.Stops[i].Signature}
}

// Append appends the body.
func (m Stopped) Append(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint64(b, m.Epoch), m.Digest[:]...)
	b = append(b, byte(len(m.Stops)))
	for i := range m.Stops {
		b = m.Stops[i].Signature.append(append(b, m.Stops[i].Witness[:]...))
	}
	return b
}

// ParseStopped reads a Stopped.
func ParseStopped(b []byte) (Stopped, error) {
	r := reader{b: b}
	m := Stopped{Epoch: r.u64()}
	copy(m.Digest[:], r.take(32))
	if n := r.count(MaxWitnesses, nodeid.Size+SignatureSize); n > 0 {
		m.Stops = make([]StoppedWitness, n)
		for i := range m.Stops {
			m.Stops[i] = StoppedWitness{Witness: r.id(), Signature: r.signature()}
		}
	}
	return m, r.end(TypeStopped)
}
