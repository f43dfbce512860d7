package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func signed(first byte) (s Signature) {
	s.Key[0] = 2
	for i := range s.Value {
		s.Value[i] = first + byte(i)
	}
	return s
}

var (
	addressKey = LeaseKey{Kind: LeaseAddress, Namespace: "archer", Value: "\x0a\xfa\x03\x07"}
	nameKey    = LeaseKey{Kind: LeaseName, Namespace: "archer", Value: "my-host"}
	longKey    = LeaseKey{Kind: LeaseName, Namespace: strings.Repeat("n", MaxNamespace), Value: strings.Repeat("v", MaxName)}
	vote       = Answer{
		Key: addressKey, Nonce: 1, Epoch: 2, Revocations: 3, Witness: id(0x80), Incarnation: 4, Holder: id(0x10), Instance: Instance{5},
		Seq: 6, Term: 604800, End: 1795000000, Flags: AnswerStopped, Known: []uint16{4, 1, 1}, Signature: signed(1),
	}
	greeting = Greet{Witness: id(0x80), Epoch: 2, Incarnation: 3, Boot: 4, Start: 5, Number: 6, Records: 7, Clock: 1795000000123, Flags: GreetAsk, Signature: signed(2)}
)

func nack() Answer {
	m := vote
	m.Verdict, m.Flags = Held, 0
	return m
}

func certificate(votes int, key LeaseKey, known int) LeaseCertificate {
	c := LeaseCertificate{Nonce: 1, Epoch: 2, Holder: id(0x10), Instance: Instance{5}, Seq: 6, Term: 604800, Key: key}
	for i := range votes {
		c.Votes = append(c.Votes, LeaseVote{Revocations: 3, Witness: id(byte(0x80 + i)), Incarnation: 1, End: 1795000000, Known: make([]uint16, known), Signature: signed(byte(i))})
	}
	return c
}

// leaseVectors are the messages of the leases.
var leaseVectors = []vector{
	{"hold", Hold{Nonce: 1, Epoch: 2, Holder: id(0x10), Instance: Instance{5}, Seq: 6, Term: 604800, Chain: [32]byte{7}, Key: nameKey, Signature: signed(3)}, parse(ParseHold)},
	{"hold-proof", Hold{Nonce: 1, Epoch: 2, Holder: id(0x10), Seq: 7, Term: 604800, Key: addressKey, Proof: []Answer{vote, nack()}, Signature: signed(3)}, parse(ParseHold)},
	{"vote", vote, parse(ParseAnswer)},
	{"nack", nack(), parse(ParseAnswer)},
	{"release", Release{Nonce: 1, Epoch: 2, Holder: id(0x10), Instance: Instance{5}, Seq: 6, Chain: [32]byte{7}, Key: addressKey, Signature: signed(4)}, parse(ParseRelease)},
	{"show", Show{certificate(2, addressKey, 3)}, parse(ParseShow)},
	{"greet", greeting, parse(ParseGreet)},
	{"greeted", Greeted{Own: greeting, Seen: []Greet{greeting}}, parse(ParseGreeted)},
	{"holds-ask", HoldsAsk{Witness: id(0x80), Nonce: 1, Epoch: 2, Incarnation: 3, Flags: HoldsRecovering, Signature: signed(5)}, parse(ParseHoldsAsk)},
	{"holds-ask-after", HoldsAsk{Witness: id(0x80), Nonce: 1, Epoch: 2, Incarnation: 3, After: nameKey, Signature: signed(5)}, parse(ParseHoldsAsk)},
	{"holds", Holds{Witness: id(0x80), Nonce: 1, Epoch: 2, Asker: 3, Flags: HoldsMore, Holds: []HeldKey{
		{Key: addressKey, Holder: id(0x10), Instance: Instance{5}, Quota: Holder{6}, Seq: 7, Left: 3600}}, Signature: signed(6)}, parse(ParseHolds)},
	{"stop", Stop{Witness: id(0x80), Epoch: 3, Digest: [32]byte{9}, Signature: signed(7)}, parse(ParseStop)},
	{"stopped", Stopped{Epoch: 3, Digest: [32]byte{9}, Stops: []StoppedWitness{{id(0x80), signed(7)}, {id(0x90), signed(8)}}}, parse(ParseStopped)},
}

func TestLeaseVectors(t *testing.T) {
	check(t, leaseVectors)
	cuts(t, leaseVectors)
}

func TestLeaseBounds(t *testing.T) {
	hold := func(change func(*Hold)) []byte {
		m := Hold{Key: nameKey}
		change(&m)
		return m.Append(nil)
	}
	for _, c := range []struct {
		name  string
		body  []byte
		parse anyParse
	}{
		{"no namespace", hold(func(m *Hold) { m.Key.Namespace = "" }), parse(ParseHold)},
		{"long namespace", hold(func(m *Hold) { m.Key.Namespace += longKey.Namespace }), parse(ParseHold)},
		{"upper case", hold(func(m *Hold) { m.Key.Value = "Host" }), parse(ParseHold)},
		{"empty name", hold(func(m *Hold) { m.Key.Value = "" }), parse(ParseHold)},
		{"name of 64", hold(func(m *Hold) { m.Key.Value = longKey.Value + "v" }), parse(ParseHold)},
		{"name with a dot", hold(func(m *Hold) { m.Key.Value = "a.b" }), parse(ParseHold)},
		{"name ending in a hyphen", hold(func(m *Hold) { m.Key.Value = "a-" }), parse(ParseHold)},
		{"address of 3", hold(func(m *Hold) { m.Key = LeaseKey{LeaseAddress, "n", "abc"} }), parse(ParseHold)},
		{"kind 3", hold(func(m *Hold) { m.Key.Kind = 3 }), parse(ParseHold)},
		{"four proofs", hold(func(m *Hold) { m.Proof = make([]Answer, MaxProof+1) }), parse(ParseHold)},
		{"verdict 12", func() []byte { m := vote; m.Verdict = 12; return m.Append(nil) }(), parse(ParseAnswer)},
		{"eleven known", func() []byte { m := vote; m.Known = make([]uint16, 11); return m.Append(nil) }(), parse(ParseAnswer)},
		{"eleven votes", Show{certificate(11, nameKey, 1)}.Append(nil), parse(ParseShow)},
		{"greet flags", Greet{Flags: 8}.Append(nil), parse(ParseGreet)},
		{"four seen", Greeted{Seen: make([]Greet, MaxSeen+1)}.Append(nil), parse(ParseGreeted)},
		{"holds-ask flags", HoldsAsk{Flags: 4}.Append(nil), parse(ParseHoldsAsk)},
		{"holds flags", Holds{Flags: 8}.Append(nil), parse(ParseHolds)},
		{"seven holds", Holds{Holds: slicesOf(MaxHolds+1, HeldKey{Key: nameKey})}.Append(nil), parse(ParseHolds)},
		{"ten stops", Stopped{Stops: make([]StoppedWitness, MaxWitnesses+1)}.Append(nil), parse(ParseStopped)},
	} {
		if _, err := c.parse(c.body); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", c.name, err)
		}
	}
}

func slicesOf[T any](n int, v T) []T {
	list := make([]T, n)
	for i := range list {
		list[i] = v
	}
	return list
}

// TestLongestLeaseMessagesFit: also when a key has ten witnesses, of two
// rosters, and a certificate the votes of both majorities.
func TestLongestLeaseMessagesFit(t *testing.T) {
	long := vote
	long.Key, long.Known = longKey, make([]uint16, 2*MaxVoters)
	for _, m := range []Message{
		Hold{Key: longKey, Proof: []Answer{long, long, long}}, long, Show{certificate(6, longKey, 2*MaxVoters)},
		Release{Key: longKey}, Greeted{Seen: make([]Greet, MaxSeen)}, HoldsAsk{After: longKey},
		Holds{Holds: slicesOf(MaxHolds, HeldKey{Key: longKey})}, Stopped{Stops: make([]StoppedWitness, MaxWitnesses)},
	} {
		if n := len(m.Append(nil)); n > MaxPayload {
			t.Errorf("%s of %d bytes, at most %d", m.Type(), n, MaxPayload)
		}
	}
}

func FuzzParseLease(f *testing.F) {
	for _, v := range leaseVectors {
		f.Add(v.m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range leaseVectors {
			m, err := v.parse(b)
			if err != nil {
				if !errors.Is(err, ErrMalformed) {
					t.Fatalf("%s: %v is no ErrMalformed", v.name, err)
				}
				continue
			}
			if again := m.Append(nil); !bytes.Equal(again, b) {
				t.Fatalf("%s: took %x, appends %x", v.name, b, again)
			}
		}
	})
}
