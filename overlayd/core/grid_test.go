package core

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// founded is one grid for all tests: a fuzzer plays thousands of nodes of it.
var founded = sync.OnceValues(func() (*credential.Grid, error) {
	return credential.NewGrid(credential.GridOptions{Name: "core", Masters: 1, Namespaces: []credential.Namespace{{Name: "one"}}}, start)
})

// master returns the only master of a grid, as a node with nobody around.
func master(t testing.TB) (*Node, *wires, *credential.Grid) {
	t.Helper()
	g, err := founded()
	if err != nil {
		t.Fatal(err)
	}
	m := g.Material[0]
	floppy, err := credential.Open(g.Descriptor.Text(), m.HolderCert, m.HolderKey, start)
	if err != nil {
		t.Fatal(err)
	}
	key, err := credential.ParseKey(m.NodeKey)
	if err != nil {
		t.Fatal(err)
	}
	made, err := floppy.MakeNode(credential.NodeRequest{Key: &key.PublicKey, X25519: [32]byte{1}, Instance: "vm"}, start)
	if err != nil {
		t.Fatal(err)
	}
	memory := new(credential.Trust)
	if _, err := memory.AcceptDescriptor(g.Descriptor.Text()); err != nil {
		t.Fatal(err)
	}
	trust, err := NewTrust(memory)
	if err != nil {
		t.Fatal(err)
	}
	grid, err := NewGrid(GridConfig{Trust: trust, Chain: made.Chain, Key: key}, start)
	if err != nil {
		t.Fatal(err)
	}
	w := &wires{}
	n := New(Config{ID: nodeid.ID(made.Node.ID), Holder: wire.Holder(made.Node.Holder.Key[:8]), Founder: true,
		Rand: rand.New(rand.NewPCG(3, 3)), Links: w, Grid: grid})
	return n, w, g
}

// alone runs a node until a time, with a disk that is done at once.
func alone(n *Node, from, until time.Time) (out []Action) {
	out = run(n, from, until)
	for i := 0; i < len(out); i++ {
		if p, ok := out[i].(Persist); ok && p.File == HoldsFile {
			out = append(out, n.Handle(until, Persisted{N: p.N})...)
		}
	}
	return out
}

// TestMasterAlone: one master of one, and nobody else, leases itself a second
// address and finds it, and its own, in the store.
func TestMasterAlone(t *testing.T) {
	n, _, _ := master(t)
	n.Handle(start, Start{})
	n.Handle(start, Acquire{Claim: 7, Namespace: "one"})
	now := start
	for !n.MaySend(7, now) && now.Before(start.Add(3*time.Minute)) {
		alone(n, now, now.Add(time.Second))
		now = now.Add(time.Second)
	}
	state, l := n.Lease(7)
	if state != lease.Holding || !n.MaySend(7, now) {
		t.Fatalf("%v after %v", state, now.Sub(start))
	}
	if took := now.Sub(start); took < lease.RecoverWait {
		t.Errorf("voted after %v, before live nodes could show their leases", took)
	}
	if n.MaySend(7, l.Until()) || n.MaySend(7, now.Add(365*24*time.Hour)) || n.MaySend(8, now) {
		t.Error("may send without a lease")
	}
	alone(n, now, now.Add(5*time.Second))
	now = now.Add(5 * time.Second)
	for token, want := range []netip.Addr{l.Key.Addr(), n.grid.self.Rights.Addresses[0]} {
		got := append(slices.Clone(n.Handle(now, Whois{Token: uint64(token), Address: want})), alone(n, now, now.Add(5*time.Second))...)
		now = now.Add(5 * time.Second)
		i := slices.IndexFunc(got, func(a Action) bool { _, ok := a.(Who); return ok })
		if i < 0 || got[i].(Who).Address != want || got[i].(Who).ID != n.ID() || got[i].(Who).Node == nil {
			t.Errorf("who has %v: %v", want, got)
		}
	}
}

// TestForgedNames: a name is refused unless a lease proves it.
func TestForgedNames(t *testing.T) {
	n, _, _ := master(t)
	n.Handle(start, Start{})
	own := n.grid.self.Rights.Addresses[0]
	other := netip.MustParseAddr("10.250.9.9")
	cert := &wire.LeaseCertificate{Key: lease.AddressKey("one", other), Holder: n.ID(), Instance: lease.InstanceOf("vm"), Epoch: 1, Seq: 1, Term: 3600}
	for _, tc := range []struct {
		name, record string
		value        []byte
		good         bool
	}{
		{"own address", label(own), appendNamed(own, nil), true},
		{"own user", "master-1", appendNamed(own, nil), true},
		{"another's name", "mail", appendNamed(own, nil), false},
		{"another's address", label(other), appendNamed(other, nil), false},
		{"no votes", label(other), appendNamed(other, cert), false},
		{"nothing", label(own), nil, false},
		{"cut", label(own), own.AsSlice()[:3], false},
	} {
		err := n.grid.nameRight(dht.Name{Kind: dht.KindName, Namespace: "one", Name: tc.record}, n.grid.self, tc.value, start)
		if (err == nil) != tc.good {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// corpus are the messages of package wire's vectors, by type.
func corpus(t testing.TB) (bodies [][]byte) {
	files, err := filepath.Glob("../wire/testdata/*.hex")
	if err != nil || len(files) == 0 {
		t.Fatal("no vectors", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		if err != nil {
			t.Fatal(f, err)
		}
		bodies = append(bodies, b)
	}
	return bodies
}

// hostile plays a script: every byte of it decides something. Peers come and
// go, say anything, and the daemon asks for everything in any order.
func hostile(t testing.TB, script []byte) {
	n, w, g := master(t)
	bodies := corpus(t)
	now := start
	next := func() (b byte) {
		if len(script) > 0 {
			b, script = script[0], script[1:]
		}
		return b
	}
	body := func() []byte {
		b := bytes.Clone(bodies[int(next())%len(bodies)])
		if len(b) > 0 {
			b[int(next())%len(b)] ^= next()
		}
		return b[:len(b)-min(len(b), int(next()%4))]
	}
	peer := func() nodeid.ID { return id(next() % 5) }
	n.Handle(now, Start{})
	for len(script) > 0 {
		var e Event = Datagram{}
		switch next() % 16 {
		case 0:
			w.answers = []link.Action{link.Up{Contact: wire.Contact{ID: peer()}, Purpose: session.LinkPurpose, Path: link.State(1 + next()%4)}}
		case 1:
			w.answers = []link.Action{link.Down{ID: peer(), Purpose: session.LinkPurpose}}
		case 2, 3, 4:
			w.answers = []link.Action{link.Message{From: peer(), Purpose: session.LinkPurpose, Body: append([]byte{next() % 70}, body()...)}}
		case 5, 6, 7, 8:
			h := wire.Header{Payload: wire.Type(next()%70 + 1), TTL: next() % 33, Src: peer(), RPC: uint32(next()), To: wire.Target{ID: n.ID(), Exact: next()&1 > 0}}
			if next()&1 > 0 {
				h.SrcVia = peer()
			}
			w.answers = []link.Action{link.Message{From: peer(), Purpose: session.LinkPurpose, Body: wire.AppendMessage(nil, wire.Routed{Header: h, Body: body()})}}
		case 9:
			e = Acquire{Claim: lease.ClaimID(next() % 4), Namespace: "one", Name: []string{"", "a", "master-1", "x y"}[next()%4], Saved: body()}
		case 10:
			e = GiveUp{Claim: lease.ClaimID(next() % 4)}
		case 11:
			e = Whois{Token: uint64(next()), Name: []string{"", "a", "c250000002"}[next()%3], Address: netip.AddrFrom4([4]byte{10, 250, next(), next()})}
		case 12:
			e = Persisted{N: uint64(next())}
		case 13:
			e = []Event{Resumed{}, Leave{}, Publish{Text: body()}, Publish{Text: g.Descriptor.Text()}, Identity{}, Start{}, Withdraw{}, Get{}}[next()%8]
		default:
			now = now.Add(time.Duration(next()) * time.Duration(next()) * 10 * time.Millisecond)
			e = Tick{}
		}
		n.Handle(now, e)
		w.answers = nil
		bounded(t, n, now)
	}
	// Nobody says anything any more: deadlines go on, and not in a circle.
	steps := 0
	for end := now.Add(time.Minute); steps < 20_000; steps++ {
		d := n.NextDeadline()
		if d.IsZero() || d.After(end) {
			break
		}
		if d.After(now) {
			now = d
		}
		n.Handle(now, Tick{})
	}
	if steps == 20_000 {
		t.Errorf("20,000 wake-ups in a minute, the next at %v, now %v", n.NextDeadline(), now)
	}
}

// bounded wants every table of the node to have its bound.
func bounded(t testing.TB, n *Node, now time.Time) {
	t.Helper()
	g := n.grid
	for _, x := range []struct {
		what      string
		have, max int
	}{
		{"lookups", len(n.requests.open), MaxRequests}, {"asks", len(g.asks.open), MaxRequests}, {"returns", len(g.returns), maxReturns},
		{"greetings", len(g.flood.heard), maxGreeted}, {"runs", len(g.runs), maxRuns}, {"differing", len(g.differs), len(n.peers)},
		{"events", len(n.todo), 0}, {"chains", len(g.members.list), maxChains}, {"arriving", len(g.members.arriving), maxArriving},
		{"held", len(g.held), 4},
	} {
		if x.have > x.max {
			t.Fatalf("%d %s, at most %d", x.have, x.what, x.max)
		}
	}
}

// TestHostileGrid plays long random scripts.
func TestHostileGrid(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for range 6 {
		script := make([]byte, 20_000)
		for i := range script {
			script[i] = byte(r.Uint32())
		}
		hostile(t, script)
	}
}

func FuzzHandle(f *testing.F) {
	f.Add([]byte{0, 1, 4, 5, 44, 9, 1, 1, 14, 9, 9})
	f.Fuzz(func(t *testing.T, script []byte) { hostile(t, script[:min(len(script), 4000)]) })
}
