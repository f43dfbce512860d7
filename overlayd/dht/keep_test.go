package dht

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// TestNewReplicaGetsEverything: a node joins among several hundred records.
func TestNewReplicaGetsEverything(t *testing.T) {
	n := newNetwork(t, 21)
	n.build(12, 12)
	var names []Name
	for i := range 480 {
		name := service(fmt.Sprint("s", i))
		names = append(names, name)
		n.handle(n.nodes[i%12], Publish{Name: name, Value: []byte("x"), Lifetime: time.Hour})
		if i%20 == 0 {
			n.run(time.Second)
		}
	}
	n.run(10 * time.Second)
	joined := n.add(n.randomID(), 50, nil)
	n.run(60 * time.Second)
	missing, has := 0, 0
	var all []wire.Replica
	for _, m := range n.live() {
		all = append(all, wire.Replica{ID: m.id, Holder: m.holder})
	}
	for _, name := range names {
		if !slices.Contains(joined.machine.choose(name.Key(), all), joined.id) {
			continue
		}
		if len(joined.machine.store.under(name.Key())) == 1 {
			has++
		} else {
			missing++
		}
	}
	if missing > 0 || has < 50 {
		t.Errorf("a new node has %d of its records, %d are missing after a minute", has, missing)
	}
	t.Logf("a new node had its %d records after a minute: %+v", has, joined.machine.Counters())
}

// TestByteQuota: 60 records of 1 KiB are more than 64 KiB.
func TestByteQuota(t *testing.T) {
	n := newNetwork(t, 22)
	n.build(6, 6)
	for i := range 60 {
		n.handle(n.nodes[0], Publish{Name: service(fmt.Sprint("s", i)), Value: make([]byte, MaxValue)})
	}
	n.run(20 * time.Second)
	if n.total().Quota == 0 {
		t.Error("nobody refused for the quota of bytes")
	}
	for _, m := range n.nodes { // checkBounds looks at the bytes
		if got := len(m.machine.store.entries); got < 40 || got >= 60 {
			t.Errorf("%d records of 60 stored", got)
		}
	}
}

// TestTries: an RPC is sent three times, each as another attempt, and no more.
func TestTries(t *testing.T) {
	n := newNetwork(t, 23)
	n.build(20, 20)
	m := n.nodes[0].machine
	attempts := map[uint32][]int{}
	var result *Result
	note := func(actions []Action) {
		for _, a := range actions {
			switch a := a.(type) {
			case Route:
				attempts[a.RPC] = append(attempts[a.RPC], a.Attempt)
			case Result:
				result = &a
			}
		}
	}
	now := n.now
	note(m.Handle(now, Lookup{ID: 1, Name: service("web")}))
	for i := 0; i < 100 && result == nil; i++ {
		now = m.NextDeadline()
		note(m.Handle(now, Tick{}))
	}
	if result == nil || now.Sub(n.now) > lookupTime {
		t.Fatalf("result %v after %v", result, now.Sub(n.now))
	}
	three := 0
	for rpc, a := range attempts {
		for i, attempt := range a {
			if attempt != i || i >= maxTries {
				t.Errorf("RPC %d: attempts %v", rpc, a)
			}
		}
		if len(a) == maxTries {
			three++
		}
	}
	if three == 0 {
		t.Error("nothing was tried three times")
	}
	if c := m.Counters(); c.Timeouts == 0 || len(m.rpcs) != 0 || len(m.candidates) != 0 {
		t.Errorf("%d requests left, %+v", len(m.rpcs), c)
	}
}

// TestHalfLives: a record is put again at half its lifetime, and cached for at
// most half of what remains.
func TestHalfLives(t *testing.T) {
	n := newNetwork(t, 24)
	n.loss = 0
	n.build(20, 20)
	owner, reader := n.nodes[0], n.nodes[10]
	name := service("web")
	n.handle(owner, Publish{Name: name, Value: []byte("x"), Lifetime: 100 * time.Second})
	n.run(40 * time.Second)
	if len(owner.published) != 1 || owner.published[0].Copies < Replicas {
		t.Errorf("in 40 s: %+v", owner.published)
	}
	n.ask(reader, name)
	c := reader.machine.cache[0]
	if left := c.until.Sub(n.now); left > 31*time.Second || left < 25*time.Second {
		t.Errorf("cached for %v with about 60 s left", left)
	}
	n.run(12 * time.Second)
	if len(owner.published) != 2 || owner.published[1].Seq <= owner.published[0].Seq {
		t.Errorf("in 52 s: %+v", owner.published)
	}
}

// TestFloodOfPuts: puts whose chains never come do not keep others out.
func TestFloodOfPuts(t *testing.T) {
	n := newNetwork(t, 25)
	n.loss = 0
	n.build(6, 6)
	evil, owner := n.nodes[5], n.nodes[0]
	evil.evil = func(*network, *node, Received) bool { return true }
	flooded := 0
	var flood func()
	flood = func() {
		for _, m := range n.nodes[:5] {
			for range 20 {
				r := vectorRecord()
				r.Seq, r.Owner = uint64(n.now.UnixMilli()), nodeid.ID{1: byte(n.rand.Uint32()), 2: byte(n.rand.Uint32())}
				put := wire.Put{Key: r.Key(), Stored: wire.Stored{Owner: r.Owner, Seq: r.Seq, Remaining: 60_000, Root: [32]byte{byte(flooded), byte(flooded >> 8)}, Size: 300}}
				flooded++
				n.handle(m, Received{evil.id, 1, wire.TypePut, put.Append(nil)})
			}
		}
		n.after(100*time.Millisecond, flood)
	}
	flood()
	n.run(3 * time.Second)
	name := service("honest")
	n.handle(owner, Publish{Name: name, Value: []byte("x")})
	n.run(10 * time.Second)
	if got := len(n.stores(name)); got < 3 {
		t.Errorf("%d nodes store the honest record under a flood", got)
	}
	if r := n.ask(n.nodes[3], name); values(r) != "[x]" {
		t.Errorf("found %v", values(r))
	}
	t.Logf("%d puts without chains: the honest record is at %d of 5 nodes; %+v", flooded, len(n.stores(name)), n.nodes[1].machine.Counters())
}

// TestReplays runs the same churn twice: the same messages.
func TestReplays(t *testing.T) {
	_, _, a := churn(t, 4, 6, nil)
	_, _, b := churn(t, 4, 6, nil)
	if a.sent != b.sent || a.bytes != b.bytes || a.total() != b.total() {
		t.Errorf("%d messages of %d bytes, then %d of %d", a.sent, a.bytes, b.sent, b.bytes)
	}
}
