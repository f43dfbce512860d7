package wire

import (
	"encoding/binary"

	"gridappliance/overlayd/nodeid"
)

// Verdict is a witness's answer to a Hold.
type Verdict uint8

// The verdicts.
const (
	Granted     Verdict = 0  // a vote
	Held        Verdict = 1  // another holder has it, for Term more seconds
	WrongSeq    Verdict = 2  // Seq is not above the highest accepted, or cannot be proved
	NeedProof   Verdict = 3  // the seq is above 1 + the highest accepted here: prove it
	OldEpoch    Verdict = 4  // the witness has seen a newer roster: Epoch
	NewEpoch    Verdict = 5  // the witness has only seen an older roster: Epoch
	NeedChain   Verdict = 6  // the witness does not have the signer's certificates
	Refused     Verdict = 7  // revoked, not leasable, reserved, or not this node's to ask
	OverQuota   Verdict = 8  // the holder has as many keys as it may
	Recovering  Verdict = 9  // the witness has lost its holds and is copying others'
	Suspended   Verdict = 10 // another machine uses the witness's key
	Full        Verdict = 11 // the witness has no room
	lastVerdict         = Full
)

var verdicts = [...]string{"granted", "held", "wrong-seq", "need-proof", "old-epoch", "new-epoch", "need-chain",
	"refused", "over-quota", "recovering", "suspended", "full"}

// String returns the verdict's name, as counters use it.
func (v Verdict) String() string {
	if int(v) < len(verdicts) {
		return verdicts[v]
	}
	return "unknown"
}

// Answer is a witness's signed answer: a vote when granted, else a nack.
//
//	offset size
//	0      ...  key
//	0      1    verdict
//	1      8    nonce of the Hold
//	9      8    roster epoch: a vote's, or the witness's own
//	17     8    version of the revocation lists that the witness has
//	25     16   witness: the signer's node ID
//	41     2    its incarnation: how often it has recovered
//	43     16   holder: the asker, or who has the key; zero if nobody has
//	59     8    instance of that holder
//	67     8    seq: a vote's, or the highest accepted for the key
//	75     4    term: a vote's, or how many seconds the hold has left
//	79     8    end of the hold by the witness's wall clock, Unix seconds
//	87     1    flags: 1 the witness knows that the previous roster has stopped
//	88     1    number of incarnations k <= 10
//	89     2*k  incarnations of the key's witnesses that this one knows of, in
//	            their order: roster's, then the previous roster's
//	...    97   signature
//
// As a proof in a Hold it comes without the key; the signature covers it.
type Answer struct {
	Key         LeaseKey
	Verdict     Verdict
	Nonce       uint64
	Epoch       uint64
	Revocations uint64
	Witness     nodeid.ID
	Incarnation uint16
	Holder      nodeid.ID
	Instance    Instance
	Seq         uint64
	Term        uint32
	End         int64
	Flags       uint8
	Known       []uint16
	Signature   Signature
}

// AnswerStopped is the flag of Answer.
const AnswerStopped = 1

const answerSize = 89 + SignatureSize

// Type returns TypeVote or TypeNack.
func (m Answer) Type() Type {
	if m.Verdict == Granted {
		return TypeVote
	}
	return TypeNack
}

// Append appends the body.
func (m Answer) Append(b []byte) []byte { return m.Signature.append(m.body(m.Key.Append(b))) }

// Signed appends what the signature covers.
func (m Answer) Signed(b []byte) []byte { return m.body(m.Key.Append(domain(b, "answer"))) }

func (m *Answer) body(b []byte) []byte {
	b = append(b, byte(m.Verdict))
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b = binary.BigEndian.AppendUint64(b, m.Epoch)
	b = binary.BigEndian.AppendUint64(b, m.Revocations)
	b = append(b, m.Witness[:]...)
	b = binary.BigEndian.AppendUint16(b, m.Incarnation)
	b = append(append(b, m.Holder[:]...), m.Instance[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Seq)
	b = binary.BigEndian.AppendUint32(b, m.Term)
	b = binary.BigEndian.AppendUint64(b, uint64(m.End))
	return appendKnown(append(b, m.Flags), m.Known)
}

func appendKnown(b []byte, known []uint16) []byte {
	b = append(b, byte(len(known)))
	for _, k := range known {
		b = binary.BigEndian.AppendUint16(b, k)
	}
	return b
}

func (r *reader) known() []uint16 {
	n := r.count(2*MaxVoters, 2)
	if n == 0 {
		return nil
	}
	known := make([]uint16, n)
	for i := range known {
		known[i] = r.u16()
	}
	return known
}

func (r *reader) answer(key LeaseKey) (m Answer) {
	m.Key, m.Verdict = key, Verdict(r.u8())
	r.bound(m.Verdict <= lastVerdict)
	m.Nonce, m.Epoch, m.Revocations, m.Witness, m.Incarnation = r.u64(), r.u64(), r.u64(), r.id(), r.u16()
	m.Holder, m.Instance, m.Seq, m.Term, m.End = r.id(), r.instance(), r.u64(), r.u32(), int64(r.u64())
	m.Flags, m.Known = r.u8(), r.known()
	m.Signature = r.signature()
	return m
}

// ParseAnswer reads a Vote or a Nack.
func ParseAnswer(b []byte) (Answer, error) {
	r := reader{b: b}
	m := r.answer(r.leaseKey())
	return m, r.end(m.Type())
}

// LeaseCertificate is a majority's votes of one round: anybody who has the
// roster can verify it.
//
//	offset size
//	0      8    nonce
//	8      8    roster epoch
//	16     16   holder
//	32     8    instance
//	40     8    seq: of two certificates for a key, the higher is the newer
//	48     4    term in seconds
//	52     ...  key
//	...    1    number of votes v <= 10
//	...    ...  v times: 8 revocations, 16 witness, 2 incarnation, 8 end,
//	            1 flags, 1 number k of known incarnations, 2*k, 97 signature
type LeaseCertificate struct {
	Nonce, Epoch uint64
	Holder       nodeid.ID
	Instance     Instance
	Seq          uint64
	Term         uint32
	Key          LeaseKey
	Votes        []LeaseVote
}

// LeaseVote is what differs between the votes of one certificate; the fields
// are those of Answer.
type LeaseVote struct {
	Revocations uint64
	Witness     nodeid.ID
	Incarnation uint16
	End         int64
	Flags       uint8
	Known       []uint16
	Signature   Signature
}

// Answer returns the vote i as the witness signed it.
func (m *LeaseCertificate) Answer(i int) Answer {
	v := &m.Votes[i]
	return Answer{
		Key: m.Key, Nonce: m.Nonce, Epoch: m.Epoch, Holder: m.Holder, Instance: m.Instance, Seq: m.Seq, Term: m.Term,
		Revocations: v.Revocations, Witness: v.Witness, Incarnation: v.Incarnation, End: v.End, Flags: v.Flags,
		Known: v.Known, Signature: v.Signature,
	}
}

// Append appends the certificate.
func (m LeaseCertificate) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b = binary.BigEndian.AppendUint64(b, m.Epoch)
	b = append(append(b, m.Holder[:]...), m.Instance[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Seq)
	b = binary.BigEndian.AppendUint32(b, m.Term)
	b = append(m.Key.Append(b), byte(len(m.Votes)))
	for i := range m.Votes {
		v := &m.Votes[i]
		b = binary.BigEndian.AppendUint64(b, v.Revocations)
		b = append(b, v.Witness[:]...)
		b = binary.BigEndian.AppendUint16(b, v.Incarnation)
		b = binary.BigEndian.AppendUint64(b, uint64(v.End))
		b = v.Signature.append(appendKnown(append(b, v.Flags), v.Known))
	}
	return b
}

// ParseLeaseCertificate reads exactly one certificate.
func ParseLeaseCertificate(b []byte) (LeaseCertificate, error) {
	r := reader{b: b}
	m := LeaseCertificate{Nonce: r.u64(), Epoch: r.u64(), Holder: r.id(), Instance: r.instance(), Seq: r.u64(), Term: r.u32()}
	m.Key = r.leaseKey()
	if n := r.count(2*MaxVoters, 36+SignatureSize); n > 0 {
		m.Votes = make([]LeaseVote, n)
		for i := range m.Votes {
			v := &m.Votes[i]
			v.Revocations, v.Witness, v.Incarnation, v.End = r.u64(), r.id(), r.u16(), int64(r.u64())
			v.Flags, v.Known = r.u8(), r.known()
			v.Signature = r.signature()
		}
	}
	return m, r.end(TypeShow)
}

// Show shows a lease to a witness. Its body is the certificate.
type Show struct{ Certificate LeaseCertificate }

// Type returns TypeShow.
func (Show) Type() Type { return TypeShow }

// Append appends the body.
func (m Show) Append(b []byte) []byte { return m.Certificate.Append(b) }

// ParseShow reads a Show.
func ParseShow(b []byte) (Show, error) {
	c, err := ParseLeaseCertificate(b)
	return Show{c}, err
}
