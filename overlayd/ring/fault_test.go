package ring

import (
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

func grown(t testing.TB, seed uint64, n int) *lab {
	l := newLab(t, seed)
	l.grow(n, time.Duration(n)*50*time.Millisecond)
	l.run(40 * time.Second)
	if err := l.ideal(); err != nil {
		t.Fatalf("the ring did not form: %v", err)
	}
	return l
}

// until runs until ok, at most d, and returns how long that took.
func (l *lab) until(d time.Duration, ok func() bool) (time.Duration, bool) {
	start := l.now
	for l.now.Sub(start) < d {
		l.run(100 * time.Millisecond)
		if ok() {
			return l.now.Sub(start), true
		}
	}
	return d, false
}

func TestAdjacentDeathsAreRepaired(t *testing.T) {
	for _, k := range []int{1, 2, 3, 4, 6} {
		l := grown(t, uint64(k), 40)
		members := l.members()
		for i := range k {
			l.kill(members[10+i])
		}
		took, ok := l.until(60*time.Second, func() bool { return l.ideal() == nil })
		if !ok {
			t.Errorf("%d adjacent deaths: not repaired in 60 s: %v", k, l.ideal())
		}
		t.Logf("%d adjacent deaths: whole again after %s", k, took)
	}
}

func TestThirdOfAllNodesDie(t *testing.T) {
	l := grown(t, 5, runs(100, 200))
	for i, id := range l.order {
		if i%10 < 3 && i > 0 {
			l.kill(l.nodes[id])
		}
	}
	took, ok := l.until(90*time.Second, func() bool { return l.ideal() == nil })
	if !ok {
		t.Fatalf("not repaired in 90 s: %v", l.ideal())
	}
	t.Logf("30 %% of %d dead: whole again after %s", len(l.order), took)
}

func TestLeavingIsNoticedAtOnce(t *testing.T) {
	l := grown(t, 9, 30)
	n := l.members()[7]
	l.handle(n, Leave{})
	l.kill(n)
	took, ok := l.until(5*time.Second, func() bool { return l.ideal() == nil })
	if !ok {
		t.Fatalf("after 5 s: %v", l.ideal())
	}
	if l.nodes[n.id].NextDeadline() != (time.Time{}) || l.nodes[n.id].Phase() != Left {
		t.Error("a machine that has left still wants to be woken")
	}
	t.Logf("whole again after %s", took)
}

// TestNeighboursThatCannotReachEachOther cuts neighbours off from each other,
// before they meet and after: they stay neighbours, over a relay.
func TestNeighboursThatCannotReachEachOther(t *testing.T) {
	l := grown(t, 3, 30)
	m := l.members()
	a, b := m[4], m[5]
	l.cut[[2]nodeid.ID{a.id, b.id}], l.cut[[2]nodeid.ID{b.id, a.id}] = true, true
	l.run(60 * time.Second)
	if err := l.ideal(); err != nil {
		t.Errorf("cut off after they met: %v", err)
	}
	if a.sessions[b.id] == b.id {
		t.Error("the session is still called direct")
	}
	for _, n := range l.members() {
		if slices.Contains(n.dead, a.id) || slices.Contains(n.dead, b.id) {
			t.Errorf("%s declared one of them dead", n.id)
		}
	}

	id := nodeid.Add(m[20].id, nodeid.ID{15: 1}) // right behind m[20], which it cannot reach
	l.cut[[2]nodeid.ID{id, m[20].id}], l.cut[[2]nodeid.ID{m[20].id, id}] = true, true
	l.add(id, holderOf(id), false, l.order[0])
	l.run(60 * time.Second)
	if err := l.ideal(); err != nil {
		t.Errorf("cut off before they met: %v", err)
	}
}

// juryRun cuts a node off from one neighbour. Of the others one says that the
// node is silent whatever it sees, or four do who are one person's; of the
// questions and answers of juries half are lost. It returns how many nodes
// declared the cut-off node dead, which it is not.
func juryRun(t *testing.T, seed uint64, rules rules, oneHolder bool) int {
	l := newLab(t, seed)
	l.rules = rules
	l.grow(12, time.Second)
	l.run(20 * time.Second)
	m := l.members()
	b, a := m[5], m[6]
	liars := []*node{m[[]int{3, 4, 7, 8}[l.rng.IntN(4)]]}
	if oneHolder {
		liars = []*node{m[3], m[4], m[7], m[8]}
		for _, n := range m {
			for _, w := range liars {
				if c := n.conn(w.id); c != nil {
					c.peer.Holder = wire.Holder{1}
				}
			}
		}
	}
	l.tamper = func(from *node, data []byte) []byte {
		if msg, err := wire.ParseProbeResult(data[1:]); err == nil && data[0] == byte(wire.TypeProbeResult) && slices.Contains(liars, from) {
			msg.Finding = wire.FindingSilent
			return wire.AppendMessage(nil, msg)
		}
		return data
	}
	l.cut[[2]nodeid.ID{a.id, b.id}], l.cut[[2]nodeid.ID{b.id, a.id}] = true, true
	l.loseJury = 0.5
	l.run(30 * time.Second)
	n := 0
	for _, x := range m {
		if slices.Contains(x.dead, b.id) {
			n++
		}
	}
	return n
}

func TestNobodyIsDeadOnOneWitness(t *testing.T) {
	one := sound
	one.witnesses = 1
	caught := 0
	for seed := range uint64(runs(10, 500)) {
		if n := juryRun(t, seed, sound, false); n > 0 {
			t.Errorf("seed %d: %d nodes declared a living node dead", seed, n)
		}
	}
	for seed := uint64(0); caught == 0 && seed < 300; seed++ {
		caught = juryRun(t, seed, one, false)
	}
	if caught == 0 {
		t.Error("the mutant that believes one witness was not caught")
	}
}

// TestOneHoldersNodesAreOneWitness: a holder with four nodes around a victim
// that say it is silent has one vote.
func TestOneHoldersNodesAreOneWitness(t *testing.T) {
	for seed := range uint64(runs(10, 500)) {
		if n := juryRun(t, seed, sound, true); n > 0 {
			t.Errorf("seed %d: %d nodes declared a living node dead", seed, n)
		}
	}
}

// TestPartitionHeals parts a ring in two for five minutes.
func TestPartitionHeals(t *testing.T) {
	for _, n := range []int{20, runs(60, 400)} {
		l := grown(t, uint64(n), n)
		for i, id := range l.order {
			l.part[id] = i % 2
		}
		l.run(5 * time.Minute)
		for side := range 2 {
			for _, x := range l.members() {
				for _, p := range x.List().Succs {
					if l.part[x.id] == side && l.part[p.ID] != side {
						t.Errorf("after 5 minutes %s still lists the other side's %s", x.id, p.ID)
					}
				}
			}
		}
		clear(l.part)
		took, ok := l.until(3*time.Minute, func() bool { return l.ideal() == nil })
		if !ok {
			t.Errorf("%d nodes: not one ring 3 minutes after: %v", n, l.ideal())
		}
		t.Logf("%d nodes: one ring again after %s", n, took)
	}
}

// TestFoundersMerge lets two founders that cannot see each other begin a ring
// each, with nodes of their own, and then meet.
func TestFoundersMerge(t *testing.T) {
	l := newLab(t, 77)
	var founders [2]nodeid.ID
	founders[0], founders[1] = l.id(), l.id()
	l.part[founders[1]] = 1
	for i, f := range founders {
		l.add(f, holderOf(f), true, founders[1-i])
	}
	for i := range 30 {
		id := l.id()
		l.part[id] = i % 2
		l.add(id, holderOf(id), false, founders[i%2])
	}
	l.run(60 * time.Second)
	if got := len(l.members()); got != 32 {
		t.Fatalf("%d of 32 are on one of the two rings", got)
	}
	clear(l.part)
	took, ok := l.until(3*time.Minute, func() bool { return l.ideal() == nil })
	if !ok {
		t.Fatalf("not one ring after 3 minutes: %v", l.ideal())
	}
	t.Logf("one ring after %s", took)
}

// TestContactKnownByEndpointOnly joins through an endpoint whose node ID is
// not known.
func TestContactKnownByEndpointOnly(t *testing.T) {
	l := grown(t, 4, 5)
	id := l.id()
	cfg := Config{ID: id, Rand: l.rng}
	n := &node{Machine: New(cfg), id: id, alive: true, sessions: map[nodeid.ID]nodeid.ID{}}
	l.nodes[id], l.order = n, append(l.order, id)
	c := l.contact(l.order[0])
	c.ID = nodeid.ID{}
	l.handle(n, Bootstrap{Contacts: []wire.Contact{c}})
	l.run(15 * time.Second)
	if err := l.ideal(); err != nil {
		t.Error(err)
	}
}

// TestTrafficFindsTheDead lets 30 % of a ring die and looks keys up at once, as
// core does: up to three attempts, each by another first hop, half a second and
// a second after the one before. Nobody has had a Ping to lose yet: it is the
// traffic that has connections tried.
func TestTrafficFindsTheDead(t *testing.T) {
	l := grown(t, 15, runs(100, 400))
	l.run(30 * time.Second)
	for i, id := range l.order {
		if i%10 < 3 && i > 0 {
			l.kill(l.nodes[id])
		}
	}
	const keys = 600
	members := l.members()
	reached := make([]bool, keys)
	l.delivered = func(n *node, r wire.Routed, hops int) {
		if r.Payload == wire.TypeGet && l.nearest(r.To.ID) == n {
			reached[r.RPC] = true
		}
	}
	for i := range keys {
		key, from := l.id(), members[l.rng.IntN(len(members))]
		begin := time.Duration(l.rng.Int64N(int64(4 * time.Second)))
		for try, after := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond} {
			l.at(begin+after, func() {
				if !reached[i] {
					l.do(from, Route{To: wire.Target{ID: key}, RPC: uint32(i), Type: wire.TypeGet, Try: try})
					l.rearm(from)
				}
			})
		}
	}
	l.run(7 * time.Second)
	n := 0
	for _, ok := range reached {
		if ok {
			n++
		}
	}
	t.Logf("%d of %d keys reached in the first seconds after 30 %% died", n, keys)
	if n < keys*97/100 {
		t.Errorf("%d of %d keys reached", n, keys)
	}
}
