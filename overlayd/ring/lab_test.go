package ring

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// lab carries messages between ring machines in virtual time: the least that
// stands in for links and core. One seed gives one run.
type lab struct {
	t     testing.TB
	rng   *rand.Rand
	now   time.Time
	queue queue
	seq   int
	nodes map[nodeid.ID]*node
	order []nodeid.ID // of birth
	cut   map[[2]nodeid.ID]bool
	part  map[nodeid.ID]int // which side of a partition; 0 by default
	rules rules
	delay func(a, b nodeid.ID) time.Duration
	loss  float64
	dup   float64

	tamper   func(from *node, data []byte) []byte // what liars send instead; nil: nothing
	loseJury float64                              // share of ProbeFor and ProbeResult lost
	jitter   time.Duration                        // of each message's delay, so that they overtake
	after    func()                               // every event
	on       func(n *node, a Action)

	opens     int // sessions made
	sent      int // link messages
	expired   func()
	delivered func(n *node, r wire.Routed, hops int)
}

type node struct {
	*Machine
	id       nodeid.ID
	alive    bool
	sessions map[nodeid.ID]nodeid.ID // peer -> relay, or itself if direct
	member   bool
	tickAt   time.Time
	bytes    int
	dead     []nodeid.ID // whom it closed as dead
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func newLab(t testing.TB, seed uint64) *lab {
	return &lab{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), now: time.Unix(1_000_000, 0),
		nodes: map[nodeid.ID]*node{}, cut: map[[2]nodeid.ID]bool{}, part: map[nodeid.ID]int{}, rules: sound,
		delay:  func(a, b nodeid.ID) time.Duration { return 20 * time.Millisecond },
		jitter: 20 * time.Millisecond,
	}
}

func (l *lab) id() (id nodeid.ID) {
	binary.BigEndian.PutUint64(id[:], l.rng.Uint64())
	binary.BigEndian.PutUint64(id[8:], l.rng.Uint64())
	return id
}

// holder gives every node one of its own unless a test says otherwise.
func holderOf(id nodeid.ID) (h wire.Holder) {
	copy(h[:], id[:8])
	return h
}

// add starts a node that knows some contacts.
func (l *lab) add(id nodeid.ID, holder wire.Holder, founder bool, contacts ...nodeid.ID) *node {
	cfg := Config{ID: id, Holder: holder, Founder: founder, Degree: l.degree(founder), Rand: rand.New(rand.NewPCG(l.rng.Uint64(), l.rng.Uint64()))}
	n := &node{Machine: New(cfg), id: id, alive: true, sessions: map[nodeid.ID]nodeid.ID{}}
	n.rules = l.rules
	l.nodes[id] = n
	if !slices.Contains(l.order, id) {
		l.order = append(l.order, id)
	}
	var list []wire.Contact
	for _, c := range contacts {
		list = append(list, l.contact(c))
	}
	l.handle(n, Bootstrap{Contacts: list})
	return n
}

func (l *lab) degree(founder bool) int {
	if founder {
		return BudgetBootstrap
	}
	return BudgetAppliance
}

func (l *lab) contact(id nodeid.ID) wire.Contact {
	c := wire.Contact{ID: id, Holder: holderOf(id)}
	if n := l.nodes[id]; n != nil {
		c.Holder = n.cfg.Holder
	}
	c.Endpoints = append(c.Endpoints, endpointOf(id))
	return c
}

func (l *lab) kill(n *node) { n.alive = false }

func (l *lab) at(d time.Duration, do func()) {
	l.seq++
	heap.Push(&l.queue, event{at: l.now.Add(d), seq: l.seq, do: do})
}

// run runs for a while.
func (l *lab) run(d time.Duration) {
	end := l.now.Add(d)
	for len(l.queue) > 0 && !l.queue[0].at.After(end) {
		e := heap.Pop(&l.queue).(event)
		l.now = e.at
		e.do()
		if l.after != nil {
			l.after()
		}
	}
	l.now = end
}

func (l *lab) reach(a, b nodeid.ID) bool {
	return !l.cut[[2]nodeid.ID{a, b}] && l.part[a] == l.part[b]
}

func (l *lab) handle(n *node, e Event) {
	if !n.alive {
		return
	}
	actions := slices.Clone(n.Handle(l.now, e))
	for i, a := range actions { // the machine's bytes hold until the next Handle only
		switch a := a.(type) {
		case SendLink:
			a.Data = slices.Clone(a.Data)
			actions[i] = a
		case Route:
			a.Body = slices.Clone(a.Body)
			actions[i] = a
		}
	}
	for _, a := range actions {
		if l.on != nil {
			l.on(n, a)
		}
		l.do(n, a)
	}
	l.rearm(n)
}

func (l *lab) rearm(n *node) {
	d := n.NextDeadline()
	if d.IsZero() || d.Equal(n.tickAt) {
		return
	}
	n.tickAt = d
	l.at(max(d.Sub(l.now), 0), func() {
		if n.alive && l.nodes[n.id] == n && n.tickAt.Equal(d) {
			n.tickAt = time.Time{}
			l.handle(n, Tick{})
		}
	})
}

func (l *lab) do(n *node, a Action) {
	switch a := a.(type) {
	case SendLink:
		if a.Data[0] == byte(wire.TypeRouted) {
			l.t.Fatal("the machine sent a Routed message itself")
		}
		l.send(n, a.ID, a.Data)
	case Open:
		l.open(n, a)
	case Close:
		if a.Why == WhyDead {
			n.dead = append(n.dead, a.ID)
		}
		if _, ok := n.sessions[a.ID]; ok {
			delete(n.sessions, a.ID)
			if peer := l.nodes[a.ID]; peer != nil && l.reach(n.id, a.ID) {
				l.at(l.delay(n.id, a.ID), func() { l.down(peer, n.id) })
			}
		}
	case Route:
		h := wire.Header{To: a.To, SrcVia: a.SrcVia, RPC: a.RPC, Payload: a.Type}
		next, verdict := n.FirstHop(&h, a.Try)
		came := h
		came.TTL, came.Promise = wire.MaxTTL, wire.NoPromise
		l.forward(n, wire.Routed{Header: h, Body: a.Body}, came, nil, next, verdict, 0)
	case Member:
		n.member = a.On
	}
}

func (l *lab) down(n *node, peer nodeid.ID) {
	if _, ok := n.sessions[peer]; ok && n.alive {
		delete(n.sessions, peer)
		l.handle(n, LinkDown{ID: peer})
	}
}

// open makes a session, direct if the two reach each other, else through the
// Via if that has sessions with both.
func (l *lab) open(n *node, a Open) {
	id := a.Contact.ID
	if id == (nodeid.ID{}) {
		for _, o := range l.order {
			if endpointOf(o) == a.Contact.Endpoints[0] {
				id = o
			}
		}
	}
	asked := a.Contact
	rtt := 2 * l.delay(n.id, id)
	l.at(rtt*3/2, func() {
		peer := l.nodes[id]
		relay := id
		ok := peer != nil && peer.alive && n.alive && l.nodes[n.id] == n
		if ok && !(l.reach(n.id, id) && l.reach(id, n.id)) {
			relay = a.Via
			via := l.nodes[relay]
			ok = via != nil && via.alive && has(via, id) && has(via, n.id) && l.reach(relay, id) && l.reach(relay, n.id)
		}
		if !ok {
			if n.alive && l.nodes[n.id] == n {
				f := LinkFailed{ID: asked.ID}
				if asked.ID == (nodeid.ID{}) {
					f.Asked = asked.Endpoints[0]
				}
				l.at(time.Second, func() { l.handle(n, f) })
			}
			return
		}
		l.opens++
		n.sessions[id], peer.sessions[n.id] = relay, relay
		if relay == id {
			peer.sessions[n.id] = n.id
		}
		up := LinkUp{Contact: l.contact(id), RTT: rtt}
		if asked.ID == (nodeid.ID{}) {
			up.Asked = asked.Endpoints[0]
		}
		l.handle(n, up)
		l.handle(peer, LinkUp{Contact: l.contact(n.id), RTT: rtt})
	})
}

func has(n *node, id nodeid.ID) bool { _, ok := n.sessions[id]; return ok }

// overhead of a datagram: IPv4 20, UDP 8, and about 32 of a record.
const overhead = 60

// send carries a link message over the session, if it arrives.
func (l *lab) send(n *node, to nodeid.ID, data []byte) {
	relay, ok := n.sessions[to]
	if !ok {
		return
	}
	if l.tamper != nil {
		if data = l.tamper(n, data); data == nil {
			return
		}
	}
	l.sent++
	n.bytes += len(data) + overhead
	if p := l.nodes[to]; p != nil {
		p.bytes += len(data) + overhead
	}
	if len(data) > wire.MaxMessage {
		l.t.Fatalf("message of %d bytes", len(data))
	}
	if relay == to && !l.reach(n.id, to) || relay != to && !(l.reach(n.id, relay) && l.reach(relay, to) && l.nodes[relay].alive) {
		return
	}
	copies := 1
	if t := wire.Type(data[0]); (t == wire.TypeProbeFor || t == wire.TypeProbeResult) && l.rng.Float64() < l.loseJury {
		return
	}
	if l.rng.Float64() < l.loss {
		copies = 0
	} else if l.rng.Float64() < l.dup {
		copies = 2
	}
	for range copies {
		d := l.delay(n.id, to)
		if l.jitter > 0 {
			d += time.Duration(l.rng.Int64N(int64(l.jitter)))
		}
		from := n.id
		l.at(d, func() {
			peer := l.nodes[to]
			if peer == nil || !peer.alive || !has(peer, from) {
				return
			}
			if data[0] != byte(wire.TypeRouted) {
				l.handle(peer, FromLink{ID: from, Data: data})
				return
			}
			r, err := wire.ParseRouted(data[1:])
			if err != nil {
				l.t.Fatal(err)
			}
			came := r.Header
			next, verdict := peer.NextHop(&r.Header)
			l.forward(peer, r, came, nil, next, verdict, wire.MaxTTL-int(r.TTL))
			l.rearm(peer)
		})
	}
}

// forward does what core does with a verdict: what a dead next hop does not
// acknowledge goes another way, past those in tried.
func (l *lab) forward(n *node, r wire.Routed, came wire.Header, tried []nodeid.ID, next nodeid.ID, verdict Verdict, hops int) {
	again := func(after time.Duration, tried []nodeid.ID) {
		l.at(after, func() {
			if n.alive {
				r.Header = came
				next, verdict := n.Divert(&r.Header, tried)
				l.forward(n, r, came, tried, next, verdict, hops)
				l.rearm(n)
			}
		})
	}
	switch verdict {
	case Forward:
		l.send(n, next, wire.AppendMessage(nil, r))
		if p := l.nodes[next]; (p == nil || !p.alive) && len(tried) < 3 {
			wait := n.HopTimeout(next)
			l.at(wait, func() { l.handle(n, Unheard{ID: next}) })
			again(wait, append(slices.Clone(tried), next))
		}
	case Unsure:
		again(150*time.Millisecond, nil)
	case Expired:
		if l.expired != nil {
			l.expired()
		}
	case Deliver:
		if l.delivered != nil {
			l.delivered(n, r, hops)
		}
		l.at(0, func() { l.handle(n, Routed{Header: r.Header, Body: r.Body}) })
	}
}

// members returns the living members in ring order.
func (l *lab) members() []*node {
	var list []*node
	for _, id := range l.order {
		if n := l.nodes[id]; n != nil && n.alive && n.member {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *node) int { return a.id.Compare(b.id) })
	return list
}

// ideal says what is wrong with the ring as it should be when nothing happens:
// everybody alive is a member and each has as many true neighbours on each side
// as a list holds, with sessions to the first four.
func (l *lab) ideal() error {
	members := l.members()
	alive := 0
	for _, n := range l.nodes {
		if n.alive {
			alive++
		}
	}
	if len(members) != alive {
		for _, id := range l.order {
			if n := l.nodes[id]; n.alive && !n.member {
				return fmt.Errorf("%s is %s, not a member", id, n.Phase())
			}
		}
	}
	for i, n := range members {
		want := min(len(members)-1, minList)
		for _, clockwise := range []bool{true, false} {
			side := n.List().Succs
			if !clockwise {
				side = n.List().Preds
			}
			if len(side) < want {
				return fmt.Errorf("%s lists %d on one side, want %d", n.id, len(side), want)
			}
			for k := range side {
				j := (i + 1 + k) % len(members)
				if !clockwise {
					j = ((i-1-k)%len(members) + len(members)) % len(members)
				}
				if side[k].ID != members[j].id {
					return fmt.Errorf("%s (clockwise %v) place %d: lists %s, is %s", n.id, clockwise, k, side[k].ID, members[j].id)
				}
				if k < want && !has(n, side[k].ID) {
					return fmt.Errorf("%s has no session with its neighbour %s", n.id, side[k].ID)
				}
			}
		}
	}
	return nil
}

// grow starts n nodes, the first a founder, over the given time, and lets them
// join.
func (l *lab) grow(n int, over time.Duration) []*node {
	var nodes []*node
	first := l.id()
	nodes = append(nodes, l.add(first, holderOf(first), true))
	for i := 1; i < n; i++ {
		id := l.id()
		l.at(over*time.Duration(i)/time.Duration(n), func() { nodes = append(nodes, l.add(id, holderOf(id), false, first)) })
	}
	l.run(over)
	return nodes
}
