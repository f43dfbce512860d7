package gossip

import (
	"container/heap"
	"crypto/ecdsa"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// authority signs descriptors and lists for tests.
type authority struct {
	t    testing.TB
	grid *credential.Grid
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	g, err := credential.NewGrid(credential.GridOptions{
		Name: "archer", Masters: 1, Namespaces: []credential.Namespace{{Name: "archer"}},
	}, start)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, g}
}

// amended returns the text of the descriptor after the current one.
func (a *authority) amended(bootstrap string) []byte {
	a.t.Helper()
	err := a.grid.Amend(func(d *credential.Descriptor) { d.Bootstrap = []string{bootstrap} }, start.Add(time.Minute))
	if err != nil {
		a.t.Fatal(err)
	}
	return a.grid.Descriptor.Text()
}

// twin returns an authority with the same keys, at the same point.
func (a *authority) twin() *authority {
	g := *a.grid
	return &authority{a.t, &g}
}

// member returns the chain of a new holder's node and the holder's serial.
func (a *authority) member(user string) (credential.Chain, string) {
	a.t.Helper()
	cert, key, err := a.grid.IssueHolder(credential.HolderRequest{
		User: user, Group: "physics", Roles: []credential.Role{credential.RoleWorker}, Valid: 30 * 24 * time.Hour,
	}, start)
	if err != nil {
		a.t.Fatal(err)
	}
	identity, err := credential.Open(a.grid.Descriptor.Text(), cert, []byte(key), start)
	if err != nil {
		a.t.Fatal(err)
	}
	nodeKey, err := credential.NewKey()
	if err != nil {
		a.t.Fatal(err)
	}
	node, err := identity.MakeNode(request(&nodeKey.PublicKey), start)
	if err != nil {
		a.t.Fatal(err)
	}
	return node.Chain, node.Node.Holder.Serial
}

func request(key *ecdsa.PublicKey) credential.NodeRequest {
	return credential.NodeRequest{Key: key, X25519: [32]byte{1}, Instance: "machine-1"}
}

func (a *authority) revoke(serial string) []byte {
	a.t.Helper()
	if changed, err := a.grid.Revoke([]string{serial}, "stolen", nil, start.Add(time.Minute)); err != nil || !changed {
		a.t.Fatal(changed, err)
	}
	return a.grid.Revocations.Text()
}

func (a *authority) trust(texts ...[]byte) *credential.Trust {
	a.t.Helper()
	trust := new(credential.Trust)
	for _, text := range append([][]byte{a.grid.Descriptor.Text()}, texts...) {
		if _, err := trust.AcceptDescriptor(text); err != nil {
			a.t.Fatal(err)
		}
	}
	return trust
}

// swarm is nodes with links, in virtual time.
type swarm struct {
	t     testing.TB
	rand  *rand.Rand
	now   time.Time
	loss  float64
	nodes []*member
	queue queue
	seq   int
	sent  int // messages
	// tamper breaks a machine after each event
	tamper func(*Machine)
	bytes  int
}

// member is one node: honest, with a machine, or evil.
type member struct {
	id      nodeid.ID
	machine *Machine
	trust   *credential.Trust
	links   []int
	far     map[int]bool // pinged every 15 s, not every 5 s
	evil    func(s *swarm, me int, from int, e Received)
	claims  wire.Versions // of an evil node
	changed []time.Time
	alarms  []error
	onTrust func(now time.Time)
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

func newSwarm(t testing.TB, seed uint64, loss float64) *swarm {
	return &swarm{t: t, rand: rand.New(rand.NewPCG(seed, 7)), now: start, loss: loss}
}

func (s *swarm) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.queue, job{s.now.Add(d), s.seq, do})
}

func (s *swarm) run(until time.Time) {
	for len(s.queue) > 0 && !s.queue[0].at.After(until) {
		j := heap.Pop(&s.queue).(job)
		s.now = j.at
		j.do()
	}
	s.now = until
}

func (s *swarm) add(trust *credential.Trust) int {
	n := len(s.nodes)
	id := nodeid.ID{0: byte(s.rand.Uint32()), 14: byte(n >> 8), 15: byte(n)}
	s.nodes = append(s.nodes, &member{
		id: id, trust: trust, far: map[int]bool{},
		machine: New(Config{Trust: trust}),
	})
	return n
}

func (s *swarm) link(a, b int, far bool) {
	if a == b || slices.Contains(s.nodes[a].links, b) {
		return
	}
	for _, e := range [][2]int{{a, b}, {b, a}} {
		m := s.nodes[e[0]]
		m.links = append(m.links, e[1])
		m.far[e[1]] = far
		s.handle(e[0], PeerUp{s.nodes[e[1]].id, s.versions(e[1])})
		s.ping(e[0], e[1])
	}
}

func (s *swarm) versions(n int) wire.Versions {
	if m := s.nodes[n]; m.evil != nil {
		return m.claims
	}
	return s.nodes[n].machine.Versions()
}

// ping tells the other end every 5 s, or 15 s on a far link, ±20 %, what this
// one has.
func (s *swarm) ping(from, to int) {
	period := 5 * time.Second
	if s.nodes[from].far[to] {
		period *= 3
	}
	s.after(time.Duration(float64(period)*(0.8+0.4*s.rand.Float64())), func() {
		if !slices.Contains(s.nodes[from].links, to) {
			return
		}
		v := s.versions(from)
		s.carry(func() { s.handle(to, Heard{s.nodes[from].id, v}) })
		s.ping(from, to)
	})
}

// carry runs do after a delay, unless what it stands for is lost.
func (s *swarm) carry(do func()) {
	if s.rand.Float64() >= s.loss {
		s.after(time.Duration(10+s.rand.IntN(140))*time.Millisecond, do)
	}
}

func (s *swarm) index(id nodeid.ID) int {
	return slices.IndexFunc(s.nodes, func(m *member) bool { return m.id == id })
}

func (s *swarm) deliver(from, to int, typ wire.Type, body []byte) {
	s.sent++
	s.bytes += len(body)
	s.carry(func() {
		e := Received{s.nodes[from].id, typ, body}
		if m := s.nodes[to]; m.evil != nil {
			m.evil(s, to, from, e)
			return
		}
		s.handle(to, e)
	})
}

func (s *swarm) handle(n int, e Event) (published error) {
	m := s.nodes[n]
	if m.evil != nil {
		return nil
	}
	actions := m.machine.Handle(s.now, e)
	if s.tamper != nil {
		s.tamper(m.machine)
		actions = m.machine.actions
	}
	for _, a := range slices.Clone(actions) {
		switch a := a.(type) {
		case Send:
			if len(a.Body) > wire.MaxPayload {
				s.t.Fatalf("%v of %d bytes", a.Type, len(a.Body))
			}
			if to := s.index(a.To); slices.Contains(m.links, to) {
				s.deliver(n, to, a.Type, a.Body)
			}
		case Changed:
			m.changed = append(m.changed, s.now)
			if a.Versions != m.machine.Versions() {
				s.t.Fatal("Changed names other versions")
			}
			if m.onTrust != nil {
				m.onTrust(s.now)
			}
		case Alarm:
			m.alarms = append(m.alarms, a.Err)
		case Published:
			published = a.Err
		}
	}
	checkBounds(s.t, m.machine)
	if at := m.machine.NextDeadline(); !at.IsZero() {
		if !at.After(s.now) {
			s.t.Fatalf("node %d: due again at once, %v ago, after %T", n, s.now.Sub(at), e)
		}
		s.after(at.Sub(s.now), func() {
			if d := m.machine.NextDeadline(); !d.IsZero() && !d.After(s.now) {
				s.handle(n, Tick{})
			}
		})
	}
	return published
}

// checkBounds holds at every step of every test.
func checkBounds(t testing.TB, m *Machine) {
	t.Helper()
	if len(m.peers) > maxPeers || len(m.bad) > maxBad || len(m.twins) > maxTwins || len(m.recent) > 2 || len(m.alarmed) > maxTwins {
		t.Fatalf("%d peers, %d bad, %d twins, %d recent, %d alarmed", len(m.peers), len(m.bad), len(m.twins), len(m.recent), len(m.alarmed))
	}
	if n := m.fetcher.Len(); n > perPeer*max(1, len(m.peers))+perPeer*4 || m.fetcher.Bytes() > n*(piece.MaxObject+piece.Size) {
		t.Fatalf("%d objects of %d peers being fetched, %d bytes", n, len(m.peers), m.fetcher.Bytes())
	}
	for _, p := range m.peers {
		if len(p.queue) > maxQueue || p.pushes > maxPushes {
			t.Fatalf("queue of %d, %d pushes", len(p.queue), p.pushes)
		}
	}
}

// ringed makes n nodes that trust the same, each linked with 2 on either side
// and about 4 far ones.
func (s *swarm) ringed(a *authority, n int) {
	base := a.trust().Append(nil)
	for range n {
		trust, err := credential.ParseTrust(base)
		if err != nil {
			s.t.Fatal(err)
		}
		s.add(trust)
	}
	for i := range n {
		s.link(i, (i+1)%n, false)
		s.link(i, (i+2)%n, false)
		s.link(i, s.rand.IntN(n), true)
		s.link(i, s.rand.IntN(n), true)
	}
}

func (s *swarm) publish(n int, text []byte) {
	s.t.Helper()
	if err := s.handle(n, Publish{text}); err != nil {
		s.t.Fatal(err)
	}
}
