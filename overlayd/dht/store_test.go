package dht

import (
	"fmt"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

func TestPublishAndLookup(t *testing.T) {
	n := newNetwork(t, 1)
	n.build(60, 20)
	name := service("web")
	n.handle(n.nodes[3], Publish{Name: name, Value: []byte("one")})
	n.run(3 * time.Second)
	if got := len(n.stores(name)); got < Replicas || got > Replicas+3 {
		t.Errorf("%d nodes store the record, want %d or few more", got, Replicas)
	}
	holders := map[any]bool{}
	for _, m := range n.stores(name) {
		holders[m.holder] = true
	}
	if len(holders) < Replicas {
		t.Errorf("they belong to %d holders, want %d", len(holders), Replicas)
	}
	begin := n.now
	if r := n.ask(n.nodes[40], name); values(r) != "[one]" || r.Records[0].Owner != n.nodes[3].id || r.Asked < 3 {
		t.Errorf("found %v, %d asked", values(r), r.Asked)
	}
	t.Logf("found after %v", n.now.Sub(begin))
	if r := n.ask(n.nodes[40], name); values(r) != "[one]" || r.Asked != 0 {
		t.Errorf("from the cache: %v, %d asked", values(r), r.Asked)
	}
	if r := n.lookup(n.nodes[40], Lookup{Name: name, Fresh: true}); values(r) != "[one]" || r.Asked < 3 {
		t.Errorf("past the cache: %v, %d asked", values(r), r.Asked)
	}
	n.handle(n.nodes[3], Publish{Name: name, Value: []byte("two")})
	n.run(3 * time.Second)
	if r := n.ask(n.nodes[41], name); values(r) != "[two]" {
		t.Errorf("after a change: %v", values(r))
	}
	n.handle(n.nodes[5], Publish{Name: name, Value: []byte("other")})
	n.run(3 * time.Second)
	if r := n.ask(n.nodes[42], name); len(r.Records) != 2 {
		t.Errorf("of two owners: %v", values(r))
	}
	n.handle(n.nodes[3], Withdraw{name})
	n.run(3 * time.Second)
	if r := n.ask(n.nodes[43], name); values(r) != "[other]" {
		t.Errorf("after withdrawing: %v", values(r))
	}
	if r := n.ask(n.nodes[43], service("nothing")); len(r.Records) != 0 || r.Asked < 3 {
		t.Errorf("of nothing: %v, %d asked", values(r), r.Asked)
	}
}

func TestLargestRecord(t *testing.T) {
	n := newNetwork(t, 2)
	n.build(20, 20)
	value := make([]byte, MaxValue)
	value[MaxValue-1] = 9
	name := service("big")
	n.handle(n.nodes[0], Publish{Name: name, Value: value})
	n.run(3 * time.Second)
	if r := n.ask(n.nodes[9], name); len(r.Records) != 1 || string(r.Records[0].Value) != string(value) {
		t.Errorf("found %d records", len(r.Records))
	}
	n.handle(n.nodes[0], Publish{Name: service("bigger"), Value: make([]byte, MaxValue+1)})
	if c := n.nodes[0].machine.Counters(); c.BadForm != 1 {
		t.Errorf("a value of %d bytes: counters %+v", MaxValue+1, c)
	}
}

// TestLifetime: a record whose owner is gone ends in time, one whose owner is
// there does not.
func TestLifetime(t *testing.T) {
	n := newNetwork(t, 3)
	n.build(30, 30)
	gone, there := service("gone"), service("there")
	n.handle(n.nodes[1], Publish{Name: gone, Value: []byte("x"), Lifetime: 60 * time.Second})
	n.handle(n.nodes[2], Publish{Name: there, Value: []byte("y"), Lifetime: 60 * time.Second})
	n.run(2 * time.Second)
	n.kill(n.nodes[1])
	n.run(50 * time.Second)
	if r := n.ask(n.nodes[20], gone); values(r) != "[x]" {
		t.Errorf("after 52 s: %v", values(r))
	}
	n.run(10 * time.Second)
	for _, m := range n.stores(gone) {
		t.Errorf("%v still stores it after its lifetime", m.id)
	}
	n.run(200 * time.Second)
	if r := n.ask(n.nodes[21], there); values(r) != "[y]" {
		t.Errorf("of a live owner: %v", values(r))
	}
	// The cache of node 20 lived for half of what remained.
	if r := n.ask(n.nodes[20], gone); len(r.Records) != 0 {
		t.Errorf("from the cache: %v", values(r))
	}
}

// churn has nodes come and go while 40 records are published whose owners then
// die, and returns how many were found before the end of their lifetime.
func churn(t *testing.T, seed uint64, rounds int, r *rules) (lost, total int, n *network) {
	n = newNetwork(t, seed)
	n.rules = r
	n.build(80, 40)
	var names []Name
	for i := range 40 {
		name := service(fmt.Sprint("s", i))
		names = append(names, name)
		n.handle(n.nodes[i], Publish{Name: name, Value: []byte{byte(i)}, Lifetime: 10 * time.Minute})
	}
	n.run(5 * time.Second)
	// All owners go, one by one; nobody publishes again. Others come, and go.
	for i := range rounds {
		n.kill(n.nodes[i])
		n.add(n.randomID(), i, nil)
		if i%2 == 0 {
			live := n.live()
			n.kill(live[n.rand.IntN(len(live))])
			n.add(n.randomID(), 40+i, nil)
		}
		n.run(12 * time.Second)
	}
	live := n.live()
	for i, name := range names {
		if r := n.ask(live[n.rand.IntN(len(live))], name); values(r) != fmt.Sprintf("[%s]", []byte{byte(i)}) {
			lost++
		}
	}
	return lost, len(names), n
}

func TestNothingIsLostInChurn(t *testing.T) {
	for seed := range uint64(2) {
		lost, total, n := churn(t, seed, 40, nil)
		if lost > 0 {
			t.Errorf("seed %d: %d of %d records lost within their lifetime", seed, lost, total)
		}
		t.Logf("seed %d: 0 of %d records lost after 60 of 80 nodes were replaced in 8 min; %d messages, %d KiB, %+v",
			seed, total, n.sent, n.bytes>>10, n.total())
	}
	lost, total, _ := churn(t, 0, 40, &rules{perHolder: true, handover: false, readers: 3})
	if lost == 0 {
		t.Error("mutant without handover: nothing lost, so the test tests nothing")
	}
	t.Logf("mutant without handover: %d of %d lost", lost, total)
}

// TestLeave: a node that leaves hands over before it goes.
func TestLeave(t *testing.T) {
	n := newNetwork(t, 5)
	n.loss = 0
	n.build(30, 30)
	name := service("web")
	n.handle(n.nodes[0], Publish{Name: name, Value: []byte("x")})
	n.run(3 * time.Second)
	for _, m := range n.stores(name) {
		n.handle(m, Leave{})
		n.run(time.Second)
		m.alive = false // and nobody is told yet
	}
	if got := len(n.stores(name)); got == 0 {
		t.Error("the record left with its replicas")
	}
}

// TestHolderQuota: all nodes of one holder together have 64 records at a store.
func TestHolderQuota(t *testing.T) {
	flood := func(r *rules) (most int) {
		n := newNetwork(t, 6)
		n.rules = r
		n.build(12, 12)
		for range 4 { // four more nodes of holder 3
			m := n.add(n.randomID(), 3, nil)
			n.run(7 * time.Second)
			for i := range maxPublications {
				n.handle(m, Publish{Name: service(fmt.Sprintf("%x-%d", m.id[:4], i)), Value: []byte("x")})
			}
		}
		n.run(30 * time.Second)
		for _, m := range n.live() {
			mine := 0
			for _, e := range m.machine.store.entries {
				owner, err := m.crypto.VerifyChain(must(ParseChain(e.kept.object.Bytes())), n.now)
				if err != nil {
					t.Fatal(err)
				}
				if owner.Holder.Key == (credential.KeyID{1: 3}) {
					mine++
				}
			}
			most = max(most, mine)
		}
		return most
	}
	if most := flood(nil); most > HolderRecords {
		t.Errorf("a store keeps %d records of one holder, at most %d allowed", most, HolderRecords)
	}
	if most := flood(&rules{perHolder: false, handover: true, readers: 3}); most <= HolderRecords {
		t.Errorf("mutant that counts by node: only %d records, so the test tests nothing", most)
	} else {
		t.Logf("mutant that counts by node: %d records of one holder", most)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestOneReplicaPerHolder(t *testing.T) {
	ground := func(r *rules) (ground, all int) {
		n := newNetwork(t, 7)
		n.rules = r
		n.build(30, 30)
		name := service("web")
		for i := range byte(6) { // ground IDs next to the key
			id := name.Key()
			id[nodeid.Size-1] ^= i + 1
			n.add(id, 99, nil)
		}
		n.run(10 * time.Second)
		n.handle(n.nodes[0], Publish{Name: name, Value: []byte("x")})
		n.run(5 * time.Second)
		for _, m := range n.stores(name) {
			if all++; m.holder == n.nodes[30].holder {
				ground++
			}
		}
		return ground, all
	}
	if got, all := ground(nil); got != 1 || all < Replicas {
		t.Errorf("%d of %d replicas are of one holder", got, all)
	}
	if got, _ := ground(&rules{perHolder: false, handover: true, readers: 3}); got < Replicas {
		t.Errorf("mutant that counts by node: only %d replicas of one holder, so the test tests nothing", got)
	}
}
