package dht

import (
	"bytes"
	"container/heap"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// standIn is crypto for runs with many nodes: a chain is its owner as JSON, a
// signature a hash of owner and digest. It keeps who is who, not secrets.
type standIn struct {
	owner   *credential.Node
	revoked map[credential.NodeID]bool
}

func (s standIn) chain() credential.Chain {
	text, err := json.Marshal(s.owner)
	if err != nil {
		panic(err)
	}
	return credential.Chain{text, bytes.Repeat([]byte{7}, 1500)}
}

func fakeSignature(id credential.NodeID, digest [32]byte) []byte {
	hash := sha256.Sum256(append(id[:], digest[:]...))
	return hash[:]
}

func (s standIn) Sign(digest [32]byte) ([]byte, error) { return fakeSignature(s.owner.ID, digest), nil }

func (s standIn) VerifyChain(chain credential.Chain, now time.Time) (*credential.Node, error) {
	var n credential.Node
	if len(chain) != 2 || json.Unmarshal(chain[0], &n) != nil || n.Holder == nil {
		return nil, errors.New("no chain")
	}
	if s.revoked[n.ID] {
		return nil, credential.ErrRevoked
	}
	return &n, nil
}

func (s standIn) Verify(owner *credential.Node, digest [32]byte, signature []byte) bool {
	return bytes.Equal(signature, fakeSignature(owner.ID, digest))
}

// network is nodes on a ring, in virtual time. It routes ideally: to the live
// node nearest, or the one named; what it does not do is tell the truth sooner
// than a ring would.
type network struct {
	t         testing.TB
	rand      *rand.Rand
	now       time.Time
	loss      float64
	nodes     []*node
	queue     queue
	seq       int
	witnesses []nodeid.ID
	revoked   map[credential.NodeID]bool
	results   map[uint64]Result
	lookups   uint64
	rules     *rules
	sent      int
	bytes     int
}

type node struct {
	id        nodeid.ID
	holder    wire.Holder
	machine   *Machine
	alive     bool
	crypto    standIn
	evil      func(n *network, me *node, e Received) bool // true: it has dealt with it
	published []Published
}

type job struct {
	at  time.Time
	seq int
	do  func()
}

type queue []job

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(job)) }
func (q *queue) Pop() any     { j := (*q)[len(*q)-1]; *q = (*q)[:len(*q)-1]; return j }

func newNetwork(t testing.TB, seed uint64) *network {
	return &network{
		t: t, rand: rand.New(rand.NewPCG(seed, 11)), now: start, loss: 0.01,
		revoked: map[credential.NodeID]bool{}, results: map[uint64]Result{},
	}
}

func (n *network) after(d time.Duration, do func()) {
	n.seq++
	heap.Push(&n.queue, job{n.now.Add(d), n.seq, do})
}

func (n *network) run(d time.Duration) {
	until := n.now.Add(d)
	for len(n.queue) > 0 && !n.queue[0].at.After(until) {
		j := heap.Pop(&n.queue).(job)
		n.now = j.at
		j.do()
	}
	n.now = until
}

func (n *network) randomID() (id nodeid.ID) {
	for i := range id {
		id[i] = byte(n.rand.Uint32())
	}
	return id
}

// add makes a node of a holder and puts it on the ring.
func (n *network) add(id nodeid.ID, holder int, change func(*credential.Node)) *node {
	owner := &credential.Node{
		ID: credential.NodeID(id), Namespace: "archer", Role: credential.RoleWorker, NotAfter: start.Add(240 * time.Hour),
		Holder: &credential.Holder{Key: credential.KeyID{0: byte(holder >> 8), 1: byte(holder)}, NotAfter: start.Add(240 * time.Hour)},
	}
	if change != nil {
		change(owner)
	}
	m := &node{id: id, holder: wire.Holder{byte(holder >> 8), byte(holder)}, crypto: standIn{owner, n.revoked}, alive: true}
	n.nodes = append(n.nodes, m)
	n.boot(m)
	return m
}

// boot starts a node, with nothing stored.
func (n *network) boot(m *node) {
	m.alive = true
	m.machine = New(Config{
		Self: m.id, Holder: m.holder, Rand: n.rand, Crypto: m.crypto,
		Witnesses: func(nodeid.ID) []nodeid.ID { return n.witnesses },
	})
	if n.rules != nil {
		m.machine.rules = *n.rules
	}
	n.handle(m, Identity{m.crypto.chain()})
	n.changed(m.id)
}

func (n *network) kill(m *node) {
	m.alive = false
	n.changed(m.id)
}

// live returns the live nodes in ring order.
func (n *network) live() []*node {
	var live []*node
	for _, m := range n.nodes {
		if m.alive {
			live = append(live, m)
		}
	}
	slices.SortFunc(live, func(a, b *node) int { return a.id.Compare(b.id) })
	return live
}

// changed tells the nodes around a place, within 6 s, what is around them.
func (n *network) changed(place nodeid.ID) {
	live := n.live()
	slices.SortFunc(live, func(a, b *node) int { return nearer(place, a.id, b.id) })
	for _, m := range live[:min(12, len(live))] {
		n.after(time.Duration(n.rand.IntN(6000))*time.Millisecond, func() {
			if m.alive {
				n.handle(m, Near{n.around(m)})
			}
		})
	}
}

// around returns 4 nodes on either side.
func (n *network) around(m *node) []wire.Replica {
	live := n.live()
	i := slices.Index(live, m)
	var near []wire.Replica
	for d := -4; d <= 4; d++ {
		o := live[((i+d)%len(live)+len(live))%len(live)]
		r := wire.Replica{ID: o.id, Holder: o.holder}
		if o != m && !slices.Contains(near, r) {
			near = append(near, r)
		}
	}
	return near
}

// settle tells every node at once, as after a long quiet time.
func (n *network) settle() {
	for _, m := range n.live() {
		n.handle(m, Near{n.around(m)})
	}
}

func (n *network) nearest(id nodeid.ID) *node {
	var best *node
	for _, m := range n.nodes {
		if m.alive && (best == nil || nearer(id, m.id, best.id) < 0) {
			best = m
		}
	}
	return best
}

func (n *network) route(from *node, r Route) {
	if len(r.Body) > wire.MaxPayload {
		n.t.Fatalf("%v of %d bytes", r.Type, len(r.Body))
	}
	n.sent++
	n.bytes += len(r.Body)
	if n.rand.Float64() < n.loss {
		return
	}
	n.after(time.Duration(20+n.rand.IntN(230))*time.Millisecond, func() {
		to := n.nearest(r.To.ID)
		if to == nil || r.To.Exact && to.id != r.To.ID {
			return
		}
		e := Received{from.id, r.RPC, r.Type, r.Body}
		if to.evil != nil && to.evil(n, to, e) {
			return
		}
		n.handle(to, e)
	})
}

func (n *network) handle(m *node, e Event) {
	machine := m.machine
	for _, a := range slices.Clone(machine.Handle(n.now, e)) {
		switch a := a.(type) {
		case Route:
			n.route(m, a)
		case Result:
			n.results[a.ID] = a
		case Published:
			m.published = append(m.published, a)
		}
	}
	checkBounds(n.t, machine)
	if at := machine.NextDeadline(); !at.IsZero() {
		if !at.After(n.now) {
			n.t.Fatalf("due again at once, %v ago, after %T", n.now.Sub(at), e)
		}
		n.after(at.Sub(n.now), func() {
			if d := machine.NextDeadline(); m.alive && m.machine == machine && !d.IsZero() && !d.After(n.now) {
				n.handle(m, Tick{})
			}
		})
	}
}

// checkBounds holds at every step of every test.
func checkBounds(t testing.TB, m *Machine) {
	t.Helper()
	limits := []struct {
		what      string
		have, max int
	}{
		{"RPCs", len(m.rpcs), maxRPCs},
		{"stored records", len(m.store.entries), maxStored},
		{"stored bytes", m.store.bytes, maxStoreBytes},
		{"chains", len(m.chains.list), maxChains},
		{"chain bytes", m.chains.bytes, maxChainBytes},
		{"objects", m.fetcher.Len(), maxObjects},
		{"candidates", len(m.candidates), maxPending + maxCandidates*len(m.lookups) + 1},
		{"publications", len(m.publications), maxPublications},
		{"lookups", len(m.lookups), maxLookups},
		{"cached", len(m.cache), maxCached},
		{"offers", len(m.handover.offers), maxOffers},
		{"near", len(m.near), maxNear},
	}
	for _, l := range limits {
		if l.have > l.max {
			t.Fatalf("%d %s, at most %d allowed", l.have, l.what, l.max)
		}
	}
	if m.rules.perHolder {
		for holder, u := range m.store.usage {
			if u.records > HolderRecords || u.bytes > HolderBytes || u.records < 1 {
				t.Fatalf("holder %v has %d records, %d bytes", holder, u.records, u.bytes)
			}
		}
	}
	if len(m.store.byID) != len(m.store.entries) {
		t.Fatalf("%d records, %d by ID", len(m.store.entries), len(m.store.byID))
	}
}

// ask looks up a name from a node and runs until the answer.
func (n *network) ask(m *node, name Name) Result {
	n.t.Helper()
	return n.lookup(m, Lookup{Name: name})
}

// lookup is ask, with more to say.
func (n *network) lookup(m *node, e Lookup) Result {
	n.t.Helper()
	n.lookups++
	id := n.lookups
	e.ID = id
	n.handle(m, e)
	for range 60 {
		if r, ok := n.results[id]; ok {
			delete(n.results, id)
			return r
		}
		n.run(100 * time.Millisecond)
	}
	n.t.Fatal("no answer to a lookup within 6 s")
	return Result{}
}

func service(name string) Name { return Name{KindService, "archer", name} }

// stores returns the live nodes that have a record of the name.
func (n *network) stores(name Name) []*node {
	var stores []*node
	for _, m := range n.live() {
		if len(m.machine.store.under(name.Key())) > 0 {
			stores = append(stores, m)
		}
	}
	return stores
}

// build makes a settled ring of n nodes of holders holders.
func (n *network) build(nodes, holders int) {
	for i := range nodes {
		n.add(n.randomID(), i%holders, nil)
	}
	n.run(10 * time.Second)
	n.settle()
	n.run(5 * time.Second)
}

func (n *network) total() (c Counters) {
	for _, m := range n.nodes {
		o := m.machine.Counters()
		c.Stored += o.Stored
		c.Quota += o.Quota
		c.Timeouts += o.Timeouts
		c.HandedOver += o.HandedOver
		c.Expired += o.Expired
		c.Lost += o.Lost
	}
	return c
}

func values(r Result) string {
	var s []string
	for _, rec := range r.Records {
		s = append(s, string(rec.Value))
	}
	return fmt.Sprint(s)
}
func prefixes(texts ...string) (list []netip.Prefix) {
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}
