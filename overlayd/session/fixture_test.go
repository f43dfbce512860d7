package session

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sort"
	"testing"
	"time"

	"github.com/flynn/noise"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// grid is a grid with its real certificates.
type grid struct {
	t        testing.TB
	grid     *credential.Grid
	verifier *credential.Verifier
	root     [32]byte
	seed     byte
}

func newGrid(t testing.TB, name string) *grid {
	t.Helper()
	g, err := credential.NewGrid(credential.GridOptions{Name: name, Masters: 1, Namespaces: []credential.Namespace{
		{Name: "one", Pool: netip.MustParsePrefix("10.250.0.0/16")}, {Name: "two", Pool: netip.MustParsePrefix("10.251.0.0/16")}}}, start)
	if err != nil {
		t.Fatal(err)
	}
	w := &grid{t: t, grid: g, root: sha256.Sum256([]byte(name))}
	w.trust()
	return w
}

// trust makes the verifier of everything published by now.
func (g *grid) trust() {
	var lists []*credential.RevocationList
	if g.grid.Revocations != nil {
		lists = append(lists, g.grid.Revocations)
	}
	var err error
	if g.verifier, err = credential.NewVerifier(g.grid.Descriptor, lists...); err != nil {
		g.t.Fatal(err)
	}
}

func (g *grid) verify(chain credential.Chain, now time.Time) (*credential.Node, error) {
	return g.verifier.VerifyNode(chain, now)
}

// holder issues a holder's credential.
func (g *grid) holder(user string, valid time.Duration, routes int) *credential.Identity {
	g.t.Helper()
	req := credential.HolderRequest{User: user, Group: "physics", Roles: []credential.Role{credential.RoleWorker},
		Namespaces: []string{"one", "two"}, Valid: valid}
	for i := range routes {
		req.Rights.Routes = append(req.Rights.Routes, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24))
	}
	cert, key, err := g.grid.IssueHolder(req, start)
	if err != nil {
		g.t.Fatal(err)
	}
	id, err := credential.Open(g.grid.Descriptor.Text(), cert, key, start)
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

// peer is one machine and what became of it.
type peer struct {
	*Machine
	name   string
	at     netip.AddrPort
	id     nodeid.ID
	static noise.DHKey
	chain  credential.Chain
	log    []string
	up     *Session
	got    [][]byte
	paused bool
}

// node makes a machine with a node certificate of a holder.
func (g *grid) node(name string, holder *credential.Identity, change func(*Config)) *peer {
	g.t.Helper()
	key, err := credential.NewKey()
	if err != nil {
		g.t.Fatal(err)
	}
	g.seed++
	random := rand.NewChaCha8([32]byte{g.seed, byte(len(name))})
	static, err := cipherSuite.GenerateKeypair(random)
	if err != nil {
		g.t.Fatal(err)
	}
	req := credential.NodeRequest{Key: &key.PublicKey, X25519: [32]byte(static.Public), Instance: "vm-" + name, Namespace: "one"}
	cert, err := holder.MakeNode(req, start)
	if err != nil {
		g.t.Fatal(err)
	}
	p := &peer{name: name, at: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, g.seed}), 4242), id: nodeid.ID(cert.Node.ID), static: static, chain: cert.Chain}
	cfg := Config{ID: p.id, Static: static, Chain: cert.Chain, Roots: [][32]byte{g.root},
		Descriptor: g.grid.Descriptor.Hash(), Purposes: []string{LinkPurpose, "one"}, AES: true,
		Offer: []byte("offer of " + name), Random: random, Crypto: Real(g.verify)}
	if change != nil {
		change(&cfg)
	}
	if p.Machine, err = New(cfg, start); err != nil {
		g.t.Fatal(err)
	}
	return p
}

// flight is a datagram on its way.
type flight struct {
	at       time.Time
	seq      int
	from, to netip.AddrPort
	ring     bool
	data     []byte
}

// net carries datagrams between machines in virtual time.
type net struct {
	t     testing.TB
	now   time.Time
	delay time.Duration
	peers []*peer
	queue []flight
	seq   int
	lose  func(f flight) bool
	sent  map[string]int // bytes by "from>to"
}

func newNet(t testing.TB, peers ...*peer) *net {
	return &net{t: t, now: start, delay: 20 * time.Millisecond, peers: peers, sent: map[string]int{}}
}

func (n *net) find(at netip.AddrPort) *peer {
	for _, p := range n.peers {
		if p.at == at {
			return p
		}
	}
	return nil
}

func (n *net) do(p *peer, e Event) { n.act(p, p.Handle(n.now, e)) }

func (n *net) act(p *peer, actions []Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case Send:
			to, ring := a.To.Endpoint, false
			if a.To.IsRing() {
				ring = true
				for _, q := range n.peers {
					if q.id == a.To.Node {
						to = q.at
					}
				}
			}
			if limit := a.To.limit(); len(a.Data) > limit {
				n.t.Fatalf("%s sends %d bytes, at most %d may be", p.name, len(a.Data), limit)
			}
			f := flight{n.now.Add(n.delay), n.seq, p.at, to, ring, a.Data}
			n.seq++
			n.sent[p.at.String()+">"+to.String()] += len(a.Data)
			if n.lose == nil || !n.lose(f) {
				n.queue = append(n.queue, f)
			}
		case Up:
			p.up = a.Session
			p.log = append(p.log, fmt.Sprintf("up %s", a.Offer))
		case Down:
			p.log = append(p.log, "down "+string(a.Reason))
		case Failed:
			p.log = append(p.log, "failed "+string(a.Reason))
		case Record:
			if a.Total > 0 {
				p.got = append(p.got, append([]byte{}, a.Plain...))
			}
		}
	}
}

// run lets virtual time pass.
func (n *net) run(d time.Duration) {
	end := n.now.Add(d)
	for {
		sort.SliceStable(n.queue, func(i, j int) bool { return n.queue[i].at.Before(n.queue[j].at) })
		at := end.Add(1)
		if len(n.queue) > 0 {
			at = n.queue[0].at
		}
		var tick *peer
		for _, p := range n.peers {
			if d := p.NextDeadline(); !p.paused && !d.IsZero() && d.Before(at) {
				at, tick = d, p
			}
		}
		if at.After(end) {
			n.now = end
			return
		}
		if at.After(n.now) {
			n.now = at
		}
		if tick != nil {
			n.do(tick, Tick{})
			continue
		}
		f := n.queue[0]
		n.queue = n.queue[1:]
		if q := n.find(f.to); q != nil && !q.paused {
			via := Direct(f.from)
			if f.ring {
				via = Ring(n.find(f.from).id, nodeid.ID{})
			}
			n.do(q, Datagram{via, append([]byte{}, f.data...)})
		}
	}
}

func (n *net) open(p, q *peer) { n.do(p, Open{Peer: q.id, Purpose: LinkPurpose, Via: Direct(q.at)}) }

// say sends a message and reports whether it arrives.
func (n *net) say(p, q *peer, text string) bool {
	n.t.Helper()
	s := p.Session(q.id, LinkPurpose)
	if s == nil {
		return false
	}
	b, err := s.Seal(nil, n.now, 0, []byte(text))
	if err != nil {
		return false
	}
	before := len(q.got)
	n.act(p, []Action{Send{Direct(q.at), b}})
	n.run(n.delay + time.Millisecond)
	return len(q.got) == before+1 && string(q.got[before]) == text
}

func (p *peer) drops(d Drop) uint64 { return p.Counters().Drops[d] }
