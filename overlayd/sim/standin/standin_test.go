package standin

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/flynn/noise"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func machine(t testing.TB, n byte, end time.Time, verify func(credential.Chain, time.Time) (*credential.Node, error)) *session.Machine {
	c := Claim{ID: credential.NodeID{n}, X25519: [32]byte{n, 1}, Holder: credential.KeyID{n, 2}, Namespace: "one", NotAfter: end}
	crypto := Crypto()
	crypto.Verify = verify
	m, err := session.New(session.Config{ID: nodeid.ID(c.ID), Static: noise.DHKey{Public: c.X25519[:]}, Chain: Chain(c), Roots: [][32]byte{{1}},
		Purposes: []string{session.LinkPurpose}, AES: true, Random: rand.NewChaCha8([32]byte{n}), Crypto: crypto}, start)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// exchange carries datagrams until none is left, and returns their sizes.
func exchange(a, b *session.Machine, now time.Time, e session.Event) (sizes []int, ups []*session.Session) {
	type letter struct {
		to, other *session.Machine
		data      []byte
	}
	var queue []letter
	take := func(from, to *session.Machine, actions []session.Action) {
		for _, x := range actions {
			switch x := x.(type) {
			case session.Send:
				queue = append(queue, letter{to, from, append([]byte{}, x.Data...)})
				sizes = append(sizes, len(x.Data))
			case session.Up:
				ups = append(ups, x.Session)
			}
		}
	}
	take(a, b, a.Handle(now, e))
	for len(queue) > 0 {
		l := queue[0]
		queue = queue[1:]
		take(l.to, l.other, l.to.Handle(now, session.Datagram{From: session.Direct(netip.MustParseAddrPort("192.0.2.1:4242")), Data: l.data}))
	}
	return sizes, ups
}

func open(n byte) session.Open {
	return session.Open{Peer: nodeid.ID{n}, Purpose: session.LinkPurpose, Via: session.Direct(netip.MustParseAddrPort("192.0.2.2:4242"))}
}

func TestSizesAreThoseOfTheRealHandshake(t *testing.T) {
	a, b := machine(t, 1, start.Add(time.Hour), Verify), machine(t, 2, start.Add(time.Hour), Verify)
	sizes, ups := exchange(a, b, start, open(2))
	// HELLO, COOKIE, HELLO, ANSWER in two parts, FINISH in two, two records.
	want := []int{1200, 24, 1200, 1200, 202, 1200, 170, 28, 28}
	if len(ups) != 2 || len(sizes) != len(want) {
		t.Fatal(len(ups), sizes)
	}
	for i, n := range want {
		if d := sizes[i] - n; d < -40 || d > 40 {
			t.Errorf("datagram %d of %d bytes, really about %d", i, sizes[i], n)
		}
	}
	record, err := ups[0].Seal(nil, start, 3, []byte("hello"))
	if err != nil || len(record) != 5+session.Overhead {
		t.Fatal(len(record), err)
	}
	other, _, _ := ups[1].Keys().Open(append([]byte{}, record...))
	mine, _, _ := ups[0].Keys().Open(append([]byte{}, record...))
	if string(other.Plain)+string(mine.Plain) != "hello" {
		t.Errorf("%q %q", other.Plain, mine.Plain)
	}
	record[20] ^= 1
	for _, s := range ups {
		if _, drop, err := s.Keys().Open(append([]byte{}, record...)); err == nil || drop != session.DropForged && drop != session.DropReplay {
			t.Error("a changed record was opened", drop)
		}
	}
}

func TestEndedAndForeignChainsAreRefused(t *testing.T) {
	a, b := machine(t, 1, start.Add(-time.Second), Verify), machine(t, 2, start.Add(time.Hour), Verify)
	if _, ups := exchange(b, a, start, open(1)); len(ups) != 0 {
		t.Error("an ended chain was taken")
	}
	chain := Chain(Claim{Holder: credential.KeyID{1}, NotAfter: start.Add(time.Hour)})
	other := Chain(Claim{Holder: credential.KeyID{2}, NotAfter: start.Add(time.Hour)})
	if _, err := Verify(credential.Chain{chain[0], other[1]}, start); err == nil {
		t.Error("another's holder was taken")
	}
}

func BenchmarkHandshake(b *testing.B) {
	now := start
	x, y := machine(b, 1, start.Add(time.Hour), Verify), machine(b, 2, start.Add(time.Hour), Verify)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(10 * time.Millisecond)
		x.Handle(now, session.Destroy{})
		y.Handle(now, session.Destroy{})
		if _, ups := exchange(x, y, now, open(2)); len(ups) != 2 {
			b.Fatal("no session")
		}
	}
}
