package gossip

import (
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

var update = flag.Bool("update", false, "rewrite golden files")

// slowest publishes a revocation on a line of honest nodes with far links at
// 25 % loss, and returns when the last node had it; tamper may break a machine
// after each event.
func slowest(t *testing.T, seed uint64, tamper func(*Machine)) time.Duration {
	a := newAuthority(t)
	_, serial := a.member("mallory")
	s := newSwarm(t, seed, 0.25)
	s.ringed(a, 40)
	s.tamper = tamper
	s.run(start.Add(20 * time.Second))
	begin := s.now
	s.publish(0, a.revoke(serial))
	s.run(begin.Add(60 * time.Second))
	var last time.Duration
	for _, m := range s.nodes {
		if len(m.changed) == 0 {
			return time.Hour
		}
		last = max(last, m.changed[0].Sub(begin))
	}
	return last
}

// TestLoss: a quarter of all messages is lost, and the bound holds. A machine
// that waits for pings to tell what is new is caught.
func TestLoss(t *testing.T) {
	caught := 0
	for seed := range uint64(3) {
		if d := slowest(t, seed, nil); d > 10*time.Second {
			t.Errorf("seed %d: the last node had it after %v", seed, d)
		} else {
			t.Logf("seed %d: 40 nodes, 25 %% loss: the last had it after %v", seed, d)
		}
		d := slowest(t, seed, func(m *Machine) {
			for _, p := range m.peers {
				p.pushes = 0
			}
			m.actions = slices.DeleteFunc(m.actions, func(a Action) bool {
				send, ok := a.(Send)
				return ok && send.Type == wire.TypeGossip && send.Body[0]&wire.GossipConfirm != 0
			})
		})
		t.Logf("mutant that does not pass on: %v", d)
		if d > 10*time.Second {
			caught++
		}
	}
	if caught == 0 {
		t.Error("mutant that does not pass on was never slower than 10 s, so the test tests nothing")
	}
}

// TestTwinsMustBePassedOn: a machine that refuses a twin but does not show it
// leaves the grid in halves.
func TestTwinsMustBePassedOn(t *testing.T) {
	a := newAuthority(t)
	s := newSwarm(t, 3, 0)
	s.ringed(a, 30)
	s.tamper = func(m *Machine) { m.twins = nil }
	b := a.twin()
	s.publish(0, a.amended("a.example.org:4242"))
	s.publish(15, b.amended("b.example.org:4242"))
	s.run(start.Add(30 * time.Second))
	alarmed := 0
	for _, m := range s.nodes {
		alarmed += min(1, len(m.alarms))
	}
	if alarmed == len(s.nodes) {
		t.Error("mutant that keeps twins for itself: all were alarmed, so TestConflictReachesAll tests nothing")
	}
	t.Logf("mutant that keeps twins for itself: %d of %d alarmed", alarmed, len(s.nodes))
}

// TestSecondPublicationIsNoNews and what else a person may hand in.
func TestPublish(t *testing.T) {
	a := newAuthority(t)
	trust := a.trust()
	m := New(Config{Trust: trust})
	old := a.grid.Descriptor.Text()
	next := a.amended("b.example.org:4242")
	publish := func(text []byte) (error, bool) {
		var err error
		changed := false
		for _, action := range m.Handle(start, Publish{text}) {
			switch action := action.(type) {
			case Published:
				err = action.Err
			case Changed:
				changed = true
			}
		}
		return err, changed
	}
	if err, changed := publish(next); err != nil || !changed {
		t.Errorf("new: %v, %v", err, changed)
	}
	if err, changed := publish(next); err != nil || changed {
		t.Errorf("again: %v, %v", err, changed)
	}
	if err, changed := publish(old); err != nil || changed {
		t.Errorf("older: %v, %v", err, changed)
	}
	if err, _ := publish([]byte("x")); err == nil {
		t.Error("garbage was published")
	}
	if err, _ := publish(make([]byte, piece.MaxObject+1)); !errors.Is(err, piece.ErrSize) {
		t.Errorf("too large: %v", err)
	}
	if err, _ := publish(newAuthority(t).amended("c.example.org:4242")); err == nil {
		t.Error("another authority's descriptor was published")
	}
}

// TestLiarIsNotHeardForAWhile: what a liar costs, and what it is counted as.
func TestLiarIsNotHeardForAWhile(t *testing.T) {
	a := newAuthority(t)
	s := newSwarm(t, 5, 0)
	s.ringed(a, 2)
	liar()(s, 1)
	s.run(start.Add(10 * time.Minute))
	c := s.nodes[0].machine.Counters()
	if c.Refused == 0 || c.Refused > 12 {
		t.Errorf("in 10 min: %+v", c)
	}
	t.Logf("a liar that always claims more, in 10 min: %+v; %d KiB", c, s.bytes>>10)
	if d, _ := s.nodes[0].trust.Descriptor(); d.Version != 1 {
		t.Errorf("descriptor %d", d.Version)
	}
}

// TestGarbageIsNotFetchedTwice: an object that was refused is not asked for
// again from another peer.
func TestGarbageIsNotFetchedTwice(t *testing.T) {
	a := newAuthority(t)
	m := New(Config{Trust: a.trust()})
	garbage := piece.New([]byte("garbage"))
	row := wire.Object{Kind: wire.ObjectDescriptor, Version: 9, Root: garbage.ID().Root, Size: 7}
	fetches := 0
	for n := range byte(5) {
		id := nodeid.ID{15: n}
		g := wire.Gossip{Versions: wire.Versions{Digest: [8]byte{n}}, Objects: []wire.Object{row}}
		for _, e := range []Event{PeerUp{id, g.Versions}, Received{id, wire.TypeGossip, g.Append(nil)}, Received{id, wire.TypePiece, garbage.Cut(0).Append(nil)}} {
			for _, action := range m.Handle(start, e) {
				if send, ok := action.(Send); ok && send.Type == wire.TypeFetch {
					fetches++
				}
			}
		}
	}
	if c := m.Counters(); fetches != 1 || c.Refused != 1 {
		t.Errorf("fetched %d times, %+v", fetches, c)
	}
}

// TestCounted: each kind of useless message is in its counter.
func TestCounted(t *testing.T) {
	a := newAuthority(t)
	friend, stranger := nodeid.ID{1}, nodeid.ID{2}
	object := piece.New([]byte("nobody asked"))
	receive := func(from nodeid.ID, m wire.Message) Received { return Received{from, m.Type(), m.Append(nil)} }
	for what, test := range map[string]struct {
		event Event
		count func(Counters) uint64
	}{
		"gossip of a stranger": {receive(stranger, wire.Gossip{}), func(c Counters) uint64 { return c.Strange }},
		"ping of a stranger":   {Heard{From: stranger}, func(c Counters) uint64 { return c.Strange }},
		"short gossip":         {Received{friend, wire.TypeGossip, []byte{1}}, func(c Counters) uint64 { return c.Malformed }},
		"short fetch":          {Received{friend, wire.TypeFetch, []byte{1}}, func(c Counters) uint64 { return c.Malformed }},
		"short piece":          {Received{friend, wire.TypePiece, []byte{1}}, func(c Counters) uint64 { return c.Malformed }},
		"other type":           {Received{friend, wire.TypePing, nil}, func(c Counters) uint64 { return c.Malformed }},
		"unasked piece":        {receive(friend, object.Cut(0)), func(c Counters) uint64 { return c.Unasked }},
		"unknown object":       {receive(friend, wire.Fetch{Mask: 1, Size: 1}), func(c Counters) uint64 { return c.Unknown }},
		"size zero": {receive(friend, wire.Gossip{Objects: []wire.Object{{Kind: wire.ObjectDescriptor, Version: 9}}}),
			func(c Counters) uint64 { return c.Malformed }},
	} {
		m := New(Config{Trust: a.trust()})
		m.Handle(start, PeerUp{friend, m.Versions()})
		m.Handle(start, test.event)
		if got := test.count(m.Counters()); got != 1 {
			t.Errorf("%s: counted %d times: %+v", what, got, m.Counters())
		}
	}
	m := New(Config{Trust: a.trust()})
	m.Handle(start, PeerUp{friend, m.Versions()})
	for range talkBurst + 10 {
		m.Handle(start, receive(friend, wire.Gossip{Versions: m.Versions()}))
	}
	if got := m.Counters().TooFast; got != 10 {
		t.Errorf("%d of 10 messages too many were counted", got)
	}
	for n := range maxPeers + 3 {
		m.Handle(start, PeerUp{nodeid.ID{3, byte(n >> 8), byte(n)}, m.Versions()})
	}
	if got := m.Counters().Full; got != 4 {
		t.Errorf("%d of 4 peers too many were counted", got)
	}
}

// TestDigestVector pins the digest of known objects.
func TestDigestVector(t *testing.T) {
	m := New(Config{Trust: new(credential.Trust)})
	row := func(kind wire.ObjectKind, signer byte, version uint64, body byte) object {
		o := object{Object: wire.Object{Kind: kind, Version: version, Body: [32]byte{body}}}
		if signer > 0 {
			o.Signer = [32]byte{signer}
		}
		return o
	}
	m.objects = []object{row(2, 9, 3, 3), row(1, 0, 7, 1), row(2, 0, 1, 2), {Object: wire.Object{Kind: 1, Version: 6}, previous: true}}
	digest := m.digest()
	got := hex.EncodeToString(digest[:]) + "\n"
	const file = "testdata/digest.hex"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Errorf("digest %s, %s has %s, %v", got, file, want, err)
	}
}

// FuzzMachine plays a script of events, true and hostile, to one machine.
func FuzzMachine(f *testing.F) {
	a := newAuthority(f)
	base := a.trust().Append(nil)
	b := a.twin()
	objects := []*piece.Object{
		piece.New(a.amended("a.example.org:4242")), piece.New(b.amended("b.example.org:4242")),
		piece.New(a.amended("c.example.org:4242")), piece.New(make([]byte, 5000)),
	}
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x04\x00\x00\x05\x00\x00\x02\x01\x01\x05\x01\x01"))
	f.Add([]byte{0, 1, 1, 2, 1, 2, 5, 1, 2, 6, 0, 0, 7, 200, 9, 3, 1, 1, 1, 1, 1})
	f.Fuzz(func(t *testing.T, script []byte) { playScript(t, base, objects, script) })
}

// TestRandomScripts is FuzzMachine with scripts from a seed.
func TestRandomScripts(t *testing.T) {
	a := newAuthority(t)
	base := a.trust().Append(nil)
	b := a.twin()
	objects := []*piece.Object{
		piece.New(a.amended("a.example.org:4242")), piece.New(b.amended("b.example.org:4242")),
		piece.New(a.amended("c.example.org:4242")), piece.New(make([]byte, 5000)),
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		script := make([]byte, 3*r.IntN(100))
		for i := range script {
			script[i] = byte(r.Uint32())
		}
		playScript(t, base, objects, script)
	}
}

func playScript(t *testing.T, base []byte, objects []*piece.Object, script []byte) {
	trust, err := credential.ParseTrust(base)
	if err != nil {
		t.Fatal(err)
	}
	m := New(Config{Trust: trust})
	now := start
	play := func(e Event) {
		for _, action := range m.Handle(now, e) {
			if send, ok := action.(Send); ok && len(send.Body) > wire.MaxPayload {
				t.Fatalf("%v of %d bytes", send.Type, len(send.Body))
			}
		}
		checkBounds(t, m)
		if at := m.NextDeadline(); !at.IsZero() && !at.After(now) {
			t.Fatalf("due again at once after %T", e)
		}
	}
	for i := 0; i+2 < len(script); i += 3 {
		who, o, arg := nodeid.ID{script[i+1] % 5}, objects[int(script[i+2])%4], script[i+2]
		versions := wire.Versions{Descriptor: uint64(arg), Digest: [8]byte{script[i+1]}}
		switch script[i] % 9 {
		case 0:
			play(PeerUp{who, versions})
		case 1:
			play(PeerDown{who})
		case 2, 3:
			g := wire.Gossip{Flags: arg >> 4 & 3, Versions: versions, Pages: arg, Page: m.page(who)}
			row := wire.Object{Kind: wire.ObjectDescriptor, Version: 2 + uint64(arg)%3, Root: o.ID().Root, Size: uint32(o.ID().Size)}
			if k, err := credential.KnownBy(o.Bytes()); err == nil && script[i]%9 == 2 {
				row = objectOf(k).Object
			}
			g.Objects = []wire.Object{row}
			play(Received{who, wire.TypeGossip, g.Append(nil)})
		case 4:
			play(Received{who, wire.Type(arg), script[i:]})
		case 5:
			for k := range piece.Count(o.ID().Size) {
				play(Received{who, wire.TypePiece, o.Cut(k).Append(nil)})
			}
		case 6:
			play(Publish{o.Bytes()})
		case 7:
			now = now.Add(time.Duration(arg) * time.Duration(script[i+1]) * time.Millisecond)
			play(Tick{})
		case 8:
			play(Received{who, wire.TypeFetch, wire.Fetch{Root: o.ID().Root, Size: uint32(o.ID().Size), Mask: uint16(arg) + 1}.Append(nil)})
		}
	}
}

func (m *Machine) page(id nodeid.ID) uint8 {
	if p := m.peer(id); p != nil {
		return p.page
	}
	return 0
}
