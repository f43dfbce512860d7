package ring

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// nearest returns the member nearest to a key.
func (l *lab) nearest(key nodeid.ID) *node {
	members := l.members()
	return slices.MinFunc(members, func(a, b *node) int {
		return nodeid.Distance(a.id, key).Compare(nodeid.Distance(b.id, key))
	})
}

// ended is where a payload was delivered and after how many hops.
type ended struct {
	at   *node
	hops int
}

// lookups routes payloads, all at once, and returns where each ended.
func (l *lab) lookups(routes []Route, from func(i int) *node) []ended {
	all := make([]ended, len(routes))
	l.delivered = func(n *node, r wire.Routed, hops int) {
		if r.Payload == wire.TypeGet {
			all[r.RPC] = ended{n, hops}
		}
	}
	for i, r := range routes {
		r.RPC, r.Type = uint32(i), wire.TypeGet
		l.do(from(i), r)
	}
	l.run(3 * time.Second)
	l.delivered = nil
	return all
}

func TestRoutingEndsAtTheNearest(t *testing.T) {
	l := grown(t, 21, runs(150, 300))
	l.run(30 * time.Second) // for far links
	members := l.members()
	routes := make([]Route, 1500)
	want := make([]*node, len(routes))
	for i := range routes {
		routes[i] = Route{To: wire.Target{ID: l.id()}, Try: i % ways}
		if want[i] = l.nearest(routes[i].To.ID); i%2 == 0 {
			want[i] = members[l.rng.IntN(len(members))]
			routes[i].To = wire.Target{ID: want[i].id, Exact: true}
		}
	}
	sum, most := 0, 0
	for i, e := range l.lookups(routes, func(i int) *node { return members[i%len(members)] }) {
		if e.at != want[i] {
			t.Errorf("%v did not end at %s", routes[i].To, want[i].id)
		}
		sum, most = sum+e.hops, max(most, e.hops)
	}
	mean := float64(sum) / float64(len(routes))
	t.Logf("%d nodes: %.2f hops on average, %d at most", len(members), mean, most)
	if mean > 4 {
		t.Errorf("%.2f hops on average, want at most 4", mean)
	}
	nobody := []Route{{To: wire.Target{ID: l.id(), Exact: true}}}
	if e := l.lookups(nobody, func(int) *node { return members[0] }); e[0].at != nil {
		t.Error("an exact destination that does not exist was delivered")
	}
}

// TestRetriesLeaveByOtherPeers: attempts of one request share no first hop.
func TestRetriesLeaveByOtherPeers(t *testing.T) {
	l := grown(t, 22, 100)
	l.run(30 * time.Second)
	distinct := 0
	for range 100 {
		from := l.members()[l.rng.IntN(100)]
		key := l.id()
		first := map[nodeid.ID]bool{}
		ends := false
		for try := range ways {
			h := wire.Header{To: wire.Target{ID: key}, Payload: wire.TypeGet}
			next, verdict := from.FirstHop(&h, try)
			ends = ends || verdict == Deliver || from.id == l.nearest(key).id
			first[next] = true
		}
		if ends || len(first) == ways {
			distinct++
		}
	}
	if distinct < 95 {
		t.Errorf("%d of 100 requests had three different first hops, want 95", distinct)
	}
}

// TestJoinerIsAnsweredThroughItsVia: who is not on the ring gets answers
// through the peer it is connected to.
func TestJoinerIsAnsweredThroughItsVia(t *testing.T) {
	l := grown(t, 23, 30)
	id := l.id()
	cfg := Config{ID: id, Rand: rand.New(rand.NewPCG(1, 1))}
	n := &node{Machine: New(cfg), id: id, alive: true, sessions: map[nodeid.ID]nodeid.ID{}}
	l.nodes[id] = n
	via := l.members()[3]
	n.sessions[via.id], via.sessions[id] = via.id, id
	n.phase = Attached
	n.Handle(l.now, LinkUp{Contact: l.contact(via.id)}) // its actions are lost: it stays outside
	l.handle(via, LinkUp{Contact: l.contact(id)})
	var header wire.Header
	answered := false
	l.delivered = func(at *node, r wire.Routed, _ int) {
		if r.Payload == wire.TypeGet {
			header = r.Header
			l.do(at, Route{To: back(header), RPC: header.RPC, Type: wire.TypeRecords})
		}
		answered = answered || at == n && r.Payload == wire.TypeRecords
	}
	l.do(n, Route{To: wire.Target{ID: l.members()[20].id, Exact: true}, RPC: 1, Type: wire.TypeGet})
	l.run(time.Second)
	if header.SrcVia != via.id || !answered {
		t.Errorf("asked with via %s, want %s; answered %v", header.SrcVia, via.id, answered)
	}
}

// liars makes machines whose peers tell arbitrary lists: far from what is
// there, and as near to the destination as they like.
func liars(rng *rand.Rand, n int, rules rules, target nodeid.ID) []*Machine {
	id := func() (id nodeid.ID) {
		binary.BigEndian.PutUint64(id[:], rng.Uint64())
		return id
	}
	ms := make([]*Machine, n)
	for i := range ms {
		ms[i] = New(Config{ID: id(), Rand: rng})
		ms[i].phase, ms[i].rules = OnRing, rules
	}
	for _, m := range ms {
		for range 3 + rng.IntN(8) {
			p := ms[rng.IntN(n)]
			if p == m || m.conn(p.cfg.ID) != nil {
				continue
			}
			at, _ := m.find(p.cfg.ID)
			c := &conn{peer: wire.Peer{ID: p.cfg.ID}, cw: nodeid.Clockwise(m.cfg.ID, p.cfg.ID), prefix: p.prefix}
			c.status.Flags = wire.StatusMember
			m.conns = slices.Insert(m.conns, at, c)
			lie(rng, c, target)
		}
	}
	return ms
}

func lie(rng *rand.Rand, c *conn, target nodeid.ID) {
	c.told = c.told[:0]
	for range rng.IntN(20) {
		c.told = append(c.told, target.Prefix()+rng.Uint64()>>rng.IntN(64))
	}
}

// wander carries one message among liars, without counting hops down but those of
// a second opinion, and returns how many it made and whether it came back to a
// node with the same promise, before a second opinion or after.
func wander(rng *rand.Rand, ms []*Machine, target nodeid.ID, exact, changing bool) (hops int, loop bool) {
	at := ms[rng.IntN(len(ms))]
	h := wire.Header{To: wire.Target{ID: target, Exact: exact}, Payload: wire.TypeGet}
	next, verdict := at.FirstHop(&h, 0)
	type state struct {
		at      nodeid.ID
		promise uint64
		opinion bool
	}
	seen := map[state]bool{}
	for verdict == Forward && hops < 1000 {
		hops++
		opinion := h.TTL < opinionTTL
		if !opinion {
			h.TTL = wire.MaxTTL
		}
		at = ms[slices.IndexFunc(ms, func(m *Machine) bool { return m.cfg.ID == next })]
		if changing {
			for _, c := range at.conns {
				lie(rng, c, target)
			}
		}
		s := state{at.cfg.ID, h.Promise, opinion}
		loop = loop || seen[s]
		seen[s] = true
		next, verdict = at.NextHop(&h)
	}
	return hops, loop || hops == 1000
}

func TestLiesMakeNoLoops(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 7))
	mutant := sound
	mutant.promise = false
	caught, most, n := 0, 0, runs(2000, 200000)
	for i := range n {
		target := nodeid.ID{}
		binary.BigEndian.PutUint64(target[:], rng.Uint64())
		ms := liars(rng, 4+rng.IntN(20), sound, target)
		hops, loop := wander(rng, ms, target, i%2 == 0, i%3 == 0)
		if loop {
			t.Fatalf("run %d: the message came back with the same promise, or went on for ever", i)
		}
		if i%3 != 0 && hops > 2*len(ms)+opinionTTL {
			t.Errorf("run %d: %d hops among %d nodes whose lists do not change", i, hops, len(ms))
		}
		most = max(most, hops)
		for _, m := range ms {
			m.rules = mutant
		}
		if _, loop := wander(rng, ms, target, i%2 == 0, false); loop {
			caught++
		}
	}
	if caught == 0 {
		t.Error("the mutant without the promise was not caught")
	}
	t.Logf("%d runs: at most %d hops; the mutant looped in %d", n, most, caught)
}

// TestStaleListsMakeNoLoops kills and adds nodes while lookups are under way
// in a living ring, and looks that none uses up its hops.
func TestStaleListsMakeNoLoops(t *testing.T) {
	l := grown(t, 33, 100)
	expired, made := 0, 0
	l.expired = func() { expired++ }
	for i := range 200 {
		m := l.members()
		if i%5 == 0 {
			l.kill(m[1+l.rng.IntN(len(m)-1)])
			id := l.id()
			l.add(id, holderOf(id), false, l.order[0])
		}
		l.do(m[0], Route{To: wire.Target{ID: l.id()}, RPC: 9, Type: wire.TypeGet})
		made++
		l.run(200 * time.Millisecond)
	}
	if expired > 0 {
		t.Errorf("%d of %d lookups used up %d hops", expired, made, wire.MaxTTL)
	}
}

// between is a node on the ring with one member, which lists a node that is
// nearer to the returned key than both. The node itself is nearer than the member.
func between() (m *Machine, c *conn, listed, key nodeid.ID) {
	at := func(prefix uint64) (id nodeid.ID) {
		binary.BigEndian.PutUint64(id[:], prefix)
		return id
	}
	m = New(Config{ID: at(100), Rand: rand.New(rand.NewPCG(1, 1))})
	m.phase = OnRing
	c = &conn{peer: wire.Peer{ID: at(50)}, cw: nodeid.Clockwise(m.cfg.ID, at(50)), prefix: 50}
	c.status.Flags = wire.StatusMember
	m.conns = append(m.conns, c)
	return m, c, at(110), at(111)
}

// TestTheEndWaitsForWhoIsKnown: a node that knows of somebody nearer, whom it is
// not connected with yet, is not sure to be the end, unless that one is dead.
func TestTheEndWaitsForWhoIsKnown(t *testing.T) {
	for name, know := range map[string]func(m *Machine, p wire.Peer){
		"hint":        func(m *Machine, p wire.Peer) { m.hints = append(m.hints, p) },
		"successor":   func(m *Machine, p wire.Peer) { m.list.Succs = append(m.list.Succs, p) },
		"predecessor": func(m *Machine, p wire.Peer) { m.list.Preds = append(m.list.Preds, p) },
	} {
		m, _, listed, key := between()
		verdict := func() Verdict {
			h := wire.Header{TTL: 20, Promise: wire.NoPromise, To: wire.Target{ID: key}, Payload: wire.TypeGet}
			_, v := m.NextHop(&h)
			return v
		}
		if v := verdict(); v != Deliver {
			t.Fatalf("%s: verdict %v before anybody is known, want %v", name, v, Deliver)
		}
		know(m, wire.Peer{ID: listed})
		if v := verdict(); v != Unsure {
			t.Errorf("%s: verdict %v, want %v", name, v, Unsure)
		}
		m.bury(listed, deadTime)
		if v := verdict(); v != Deliver {
			t.Errorf("%s: verdict %v with the dead, want %v", name, v, Deliver)
		}
	}
}

// TestTheLastHopsFollowNoPromise: lists may name the dead; a payload that was led
// by them ends at the nearest node it came to, while it has hops left.
func TestTheLastHopsFollowNoPromise(t *testing.T) {
	m, c, listed, key := between()
	c.told = []uint64{listed.Prefix()}
	for ttl := uint8(1); ttl < 20; ttl++ {
		h := wire.Header{TTL: ttl, Promise: wire.NoPromise, To: wire.Target{ID: key}, Payload: wire.TypeGet}
		want := Forward
		if ttl <= greedyTTL {
			want = Deliver
		}
		if _, v := m.NextHop(&h); v != want {
			t.Errorf("%d hops left: verdict %v, want %v", ttl, v, want)
		}
	}
}

// TestALostNeighbourIsLookedPast: who gives up a neighbour looks for the rest of the
// ring soon; who gives up a far peer does not.
func TestALostNeighbourIsLookedPast(t *testing.T) {
	for _, roles := range []wire.Role{wire.RoleNear, wire.RoleFar} {
		m, c, _, _ := between()
		c.roles, c.out, m.mergeAt = roles, probes, m.now+mergeEvery
		m.judge(c)
		if soon := m.mergeAt <= m.now+mergeAgain*6/5; soon != (roles == wire.RoleNear) {
			t.Errorf("with role %v looked for in %v", roles, m.mergeAt-m.now)
		}
	}
}

// TestCallsGoByWhoAnswers: a call to a node in the lists goes by a peer that lists
// it, and not by one that has left a Ping unanswered.
func TestCallsGoByWhoAnswers(t *testing.T) {
	m, c, listed, _ := between()
	c.list.Succs = []wire.Peer{{ID: listed}}
	if got := m.lister(listed); got != c.peer.ID {
		t.Errorf("by %v, want %v", got, c.peer.ID)
	}
	c.out = 1
	if got := m.lister(listed); got != (nodeid.ID{}) {
		t.Errorf("by %v, which does not answer", got)
	}
}

func benchRing(tb testing.TB) (*Machine, []wire.Header) {
	l := grown(tb, 41, 100)
	var headers []wire.Header
	for range 256 {
		headers = append(headers, wire.Header{TTL: 20, Promise: wire.NoPromise, To: wire.Target{ID: l.id()}, Payload: wire.TypeGet})
	}
	return l.members()[7].Machine, headers
}

func TestNextHopDoesNotAllocate(t *testing.T) {
	m, headers := benchRing(t)
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		h := headers[i%len(headers)]
		m.NextHop(&h)
		i++
	}); n != 0 {
		t.Errorf("NextHop allocates %.1f times", n)
	}
}

func BenchmarkNextHop(b *testing.B) {
	m, headers := benchRing(b)
	b.ReportMetric(float64(len(m.conns)), "conns")
	b.ResetTimer()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h := headers[i%len(headers)]
		m.NextHop(&h)
	}
}
