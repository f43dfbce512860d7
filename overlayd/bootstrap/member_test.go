package bootstrap

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/flynn/noise"

	"gridappliance/credential"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/sim/standin"
	"gridappliance/overlayd/wire"
)

const port = 4242

// world is bootstraps with public addresses, and nodes of several grids that
// know nothing but them.
type world struct {
	t     *testing.T
	net   *sim.Net
	hosts []*host
	nodes []*node
}

// host is a simulated machine with a bootstrap.
type host struct {
	sim    *sim.Host
	server *Server
}

func (h *host) Receive(now time.Time, _, from netip.AddrPort, data []byte) {
	if to, out := h.server.Handle(now, from, data); out != nil {
		h.sim.Send(port, to, slices.Clone(out))
	}
}

func (h *host) Wake(time.Time) {}

func (w *world) server() *host {
	h := &host{sim: w.net.AddHost(w.net.Internet, w.net.Somewhere())}
	w.hosts = append(w.hosts, h)
	w.restart(h)
	return h
}

func (w *world) restart(h *host) {
	h.server = NewServer(ServerConfig{Random: rand.NewChaCha8([32]byte{byte(w.net.Rand.Uint32())}), Rand: w.net.Split()}, h.sim.Now())
	h.sim.Start(h)
}

func (h *host) endpoint() netip.AddrPort { return netip.AddrPortFrom(h.sim.Addr(), port) }

// node is core's node with the sessions and paths of the product, stand-ins
// for cryptography, and a Member: what package node does with both.
type node struct {
	w      *world
	grid   byte
	host   *sim.Host
	core   *core.Node
	links  *link.Machine
	member *Member
	table  *Table
	places map[netip.AddrPort]link.Place
	since  time.Duration
	on     time.Duration // until it was on the ring
	joined bool
	paths  map[nodeid.ID]link.State
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{t: t, net: sim.NewNet(sim.New(seed), sim.Usual)}
}

// add boots a node of a grid behind a translator of its own.
func (w *world) add(grid byte, nat *sim.Behaviour, founder bool) *node {
	w.t.Helper()
	place := w.net.Somewhere()
	n := &node{w: w, grid: grid, host: w.net.AddHost(w.net.AddNAT(w.net.Internet, *nat, place).Inside, place),
		table: &Table{}, places: map[netip.AddrPort]link.Place{}, since: w.net.Now(), paths: map[nodeid.ID]link.State{}}
	seed := sha256.Sum256(fmt.Appendf(nil, "%d", len(w.nodes)))
	random := rand.NewChaCha8(seed)
	static, err := noise.DH25519.GenerateKeypair(random)
	if err != nil {
		w.t.Fatal(err)
	}
	id := nodeid.ID(seed[:16])
	chain := standin.Chain(standin.Claim{ID: credential.NodeID(id), X25519: [32]byte(static.Public), Holder: seed, Namespace: "one", NotAfter: sim.Start.Add(24 * time.Hour)})
	root := sha256.Sum256([]byte{grid})
	links, err := link.New(link.Config{Rand: w.net.Split(), Spray: true, Session: session.Config{ID: id, Static: static, Chain: chain,
		Roots: [][32]byte{root}, Purposes: []string{session.LinkPurpose}, AES: true, Random: random, Crypto: standin.Crypto()}}, n.host.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	n.links = links
	n.core = core.New(core.Config{ID: id, Holder: wire.Holder(seed[:8]), Links: links, Rand: w.net.Split(), Founder: founder})
	n.member = NewMember(MemberConfig{ID: id, Tags: []Tag{TagOf(root)}, Random: random, Rand: w.net.Split()})
	w.nodes = append(w.nodes, n)
	n.host.Start(n)
	lan, _ := n.host.Addr().Prefix(24)
	n.handle(core.Addresses{Host: []netip.AddrPort{netip.AddrPortFrom(n.host.Addr(), port)}, Attached: []netip.Prefix{lan}})
	n.handle(core.Start{})
	n.enrol(Want{MaxContacts})
	for _, h := range w.hosts {
		n.enrol(Add{h.endpoint()})
	}
	return n
}

func (n *node) Receive(now time.Time, to, from netip.AddrPort, data []byte) {
	if Ours(data) {
		at, carried, ok := n.table.Unwrap(data, from)
		if !ok {
			n.enrol(Datagram{from, data})
			return
		}
		from, data = at, carried
	}
	n.handle(core.Datagram{From: from, Socket: to.Port() - port, Data: data})
}

func (n *node) Wake(now time.Time) {
	if d := n.member.NextDeadline(); !d.IsZero() && !now.Before(d) {
		n.enrol(Tick{})
	}
	n.handle(core.Tick{})
}

func (n *node) wake() {
	d := n.core.NextDeadline()
	if e := n.member.NextDeadline(); d.IsZero() || !e.IsZero() && e.Before(d) {
		d = e
	}
	n.host.WakeAt(d)
}

func (n *node) handle(e core.Event) {
	for _, a := range n.core.Handle(n.host.Now(), e) {
		switch a := a.(type) {
		case core.Send:
			to, data := a.To, a.Data
			if session.VirtualKind(to.Addr()) != session.NotVirtual {
				var ok bool
				if to, data, ok = n.table.Wrap(nil, data, to); !ok {
					continue
				}
			}
			n.host.Send(port+a.Socket, to, slices.Clone(data))
		case core.Member:
			if !n.joined && a.On {
				n.joined, n.on = true, n.w.net.Now()-n.since
			}
		case core.Connected:
			n.paths[a.ID] = a.Path
		case core.Disconnected:
			delete(n.paths, a.ID)
		}
	}
	n.wake()
}

func (n *node) enrol(e Event) {
	var events []core.Event
	for _, a := range n.member.Handle(n.host.Now(), e) {
		switch a := a.(type) {
		case Send:
			n.host.Send(port, a.To, a.Data)
		case Enrolled:
			place := link.Place{Place: a.Place, Kind: Kind(a.At), Number: n.table.Number(a.At)}
			if n.places[a.At] != place {
				n.places[a.At] = place
				events = append(events, core.Places{List: slices.Collect(maps.Values(n.places))})
			}
			if a.Seen.IsValid() {
				events = append(events, core.Observed{By: a.At, Endpoint: a.Seen})
			}
			var cs []wire.Contact
			for _, c := range a.Contacts {
				cs = append(cs, wire.Contact{ID: c.ID, Endpoints: []netip.AddrPort{n.table.Endpoint(a.At, c.Handle)}})
			}
			if len(cs) > 0 {
				events = append(events, core.Start{Contacts: cs})
			}
		}
	}
	for _, e := range events {
		n.handle(e)
	}
	n.wake()
}

func (w *world) run(d time.Duration) { w.net.Run(w.net.Now() + d) }

// check holds a grid's nodes against the truth: all are on one ring, nobody
// has met another grid, and the nodes next to each other are connected.
func (w *world) check(grid byte) (direct, relayed int) {
	w.t.Helper()
	var ids []nodeid.ID
	byID := map[nodeid.ID]*node{}
	for _, n := range w.nodes {
		byID[n.core.ID()] = n
		if n.grid == grid {
			ids = append(ids, n.core.ID())
		}
	}
	slices.SortFunc(ids, nodeid.ID.Compare)
	for i, id := range ids {
		n := byID[id]
		if !n.joined {
			w.t.Errorf("grid %d: %s is not on the ring; %+v %v", grid, id, n.member.Counters(), n.paths)
		}
		if next := ids[(i+1)%len(ids)]; n.paths[next] == link.None && len(ids) > 1 {
			w.t.Errorf("grid %d: %s has no link with the next", grid, id)
		}
		for peer, path := range n.paths {
			if byID[peer].grid != grid {
				w.t.Errorf("grid %d: %s has met another grid", grid, id)
			}
			if path == link.Direct {
				direct++
			} else {
				relayed++
			}
		}
	}
	return direct, relayed
}

// TestTwoGridsFormThroughOneBootstrap: every machine is behind a translator of
// its own and knows one bootstrap, which belongs to neither grid.
func TestTwoGridsFormThroughOneBootstrap(t *testing.T) {
	kinds := map[string][]*sim.Behaviour{
		"home":      {&sim.Home},
		"symmetric": {&sim.Symmetric},
		"mixed":     {&sim.Home, &sim.Symmetric, &sim.FullCone},
	}
	for _, name := range []string{"home", "symmetric", "mixed"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 11)
			b := w.server()
			for i := range 12 {
				for grid := range byte(2) {
					w.add(grid, kinds[name][i%len(kinds[name])], i == 0)
				}
			}
			w.run(40 * time.Second)
			var slowest time.Duration
			for _, n := range w.nodes {
				slowest = max(slowest, n.on)
			}
			late := w.add(1, kinds[name][0], false)
			w.run(20 * time.Second)
			for grid := range byte(2) {
				direct, relayed := w.check(grid)
				t.Logf("grid %d: %d ends direct, %d through the bootstrap or a relay", grid, direct, relayed)
				if name == "home" && relayed*20 > direct || name == "symmetric" && direct > 0 {
					t.Error("not what the translators allow")
				}
			}
			t.Logf("on the ring: all at once after at most %v, a late one after %v; the bootstrap: %+v", slowest, late.on, b.server.Counters())
			if slowest > 30*time.Second || late.on > 5*time.Second {
				t.Error("slow")
			}
		})
	}
}

// TestABootstrapIsStartedAnew: members of a grid whose links all go through
// it are back on one ring soon after.
func TestABootstrapIsStartedAnew(t *testing.T) {
	w := newWorld(t, 12)
	b := w.server()
	for i := range 5 {
		w.add(1, &sim.Symmetric, i == 0)
	}
	w.run(40 * time.Second)
	w.check(1)
	w.restart(b)
	w.run(40 * time.Second)
	w.check(1)
	if n, _ := b.server.Len(); n != 5 {
		t.Errorf("%d members", n)
	}
}

// TestTwoFoundersWithOneBootstrapMakeOneRing: two that may found a ring and
// start at once have each begun one by the time they hear of each other.
func TestTwoFoundersWithOneBootstrapMakeOneRing(t *testing.T) {
	w := newWorld(t, 13)
	b := w.server()
	b.sim.Crash()
	for range 2 {
		w.add(1, &sim.Home, true)
		w.add(1, &sim.Home, false)
	}
	w.run(10 * time.Second)
	w.restart(b)
	w.run(90 * time.Second)
	w.check(1)
}

func TestMemberAsksLessAndLess(t *testing.T) {
	m := NewMember(MemberConfig{Tags: []Tag{{1}}, Random: rand.NewChaCha8([32]byte{}), Rand: rand.New(rand.NewPCG(1, 1))})
	count := func(actions []Action) (asked, lost int) {
		for _, a := range actions {
			switch a.(type) {
			case Send:
				asked++
			case Lost:
				lost++
			}
		}
		return asked, lost
	}
	m.Handle(noon, Want{10})
	asked, _ := count(m.Handle(noon, Add{v4}))
	lost := 0
	for now := noon; now.Before(noon.Add(10 * time.Minute)); now = m.NextDeadline() {
		a, l := count(m.Handle(now, Tick{}))
		asked, lost = asked+a, lost+l
	}
	if asked < 15 || asked > 22 || lost != 1 {
		t.Errorf("%d questions and %d losses in 10 minutes of silence", asked, lost)
	}
	if a, _ := count(m.Handle(noon.Add(10*time.Minute), Again{})); a != 1 {
		t.Error("not asked again at once")
	}
	if sent, _ := count(m.Handle(noon.Add(time.Hour), Tags{[]Tag{{1}, {2}}})); sent != 2 || len(m.places) != 2 {
		t.Errorf("a second tag: %d questions, %d places", sent, len(m.places))
	}
	if m.Handle(noon, Tags{[]Tag{{2}}}); len(m.places) != 1 || m.places[0].tag != (Tag{2}) {
		t.Error("the old tag is asked for on")
	}
	m.Handle(noon, Remove{v4})
	if !m.NextDeadline().IsZero() {
		t.Error("asks what was removed")
	}
}

// TestMemberBelievesOnlyAnswers: to its own question, from where it asked.
func TestMemberBelievesOnlyAnswers(t *testing.T) {
	m := NewMember(MemberConfig{ID: nodeid.ID{1}, Tags: []Tag{{1}}, Random: rand.NewChaCha8([32]byte{}), Rand: rand.New(rand.NewPCG(1, 1))})
	m.Handle(noon, Want{10})
	sent := m.Handle(noon, Add{v4})[0].(Send)
	e, err := parseEnrol(sent.Data)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(n nonce, from netip.AddrPort) int {
		a := enrolled{nonce: n, handle: 3, life: 75, seen: v6, contacts: []Contact{{4, nodeid.ID{1}}, {5, nodeid.ID{2}}}}
		for _, a := range slices.Clone(m.Handle(noon, Datagram{from, a.append(nil)})) {
			if a, ok := a.(Enrolled); ok {
				return len(a.Contacts)
			}
		}
		return -1
	}
	if answer(nonce{}, v4) != -1 || answer(e.nonce, v6) != -1 {
		t.Error("an answer that was not asked for counts")
	}
	if n := answer(e.nonce, v4); n != 1 {
		t.Errorf("%d contacts besides itself", n)
	}
	if answer(e.nonce, v4) != -1 {
		t.Error("an answer counts twice")
	}
	for range 5 { // who leads in circles by cookies is not followed
		c := cookie{nonce: m.places[0].nonce}
		m.Handle(noon, Datagram{v4, c.append(nil)})
	}
	if c := m.Counters(); c.Enrols > 1+maxTries || c.Unasked < 3 {
		t.Errorf("%+v", c)
	}
}

func TestTable(t *testing.T) {
	var table Table
	if _, _, ok := table.Unwrap(carried(typeCarried, 7, record(9)), v4); ok {
		t.Error("from where no place is")
	}
	e := table.Endpoint(v4, 7)
	if table.Endpoint(v4, 7) != e || table.Endpoint(v4, 8) == e || table.Endpoint(v6, 7) == e {
		t.Error("one way is not one endpoint")
	}
	if got := session.VirtualKind(e.Addr()); got != session.ByBootstrap {
		t.Error(got)
	}
	stream := session.VirtualEndpoint(session.ByStream, 0, 1)
	if over := table.Endpoint(stream, 1); session.VirtualKind(over.Addr()) != session.ByStream || over == stream {
		t.Error(over)
	}
	at, b, ok := table.Wrap(nil, record(20), e)
	if h, data, err := parseCarried(b, typeCarry); !ok || at != v4 || h != 7 || err != nil || len(data) != 20 {
		t.Errorf("%x %v", b, at)
	}
	for name, to := range map[string]netip.AddrPort{"no bootstrap": session.VirtualEndpoint(session.ByBootstrap, 9, 7), "a TCP connection": stream, "the underlay's": v6, "IPv4": v4} {
		if _, _, ok := table.Wrap(nil, record(20), to); ok {
			t.Errorf("%s: wrapped", name)
		}
	}
	if from, data, ok := table.Unwrap(carried(typeCarried, 7, record(9)), v4); !ok || from != e || len(data) != 9 {
		t.Error("not unwrapped", from)
	}
	for i := range 2 * 4 * maxServers {
		table.Number(netip.AddrPortFrom(v4.Addr(), uint16(i+1)))
	}
	if len(table.at) != 4*maxServers {
		t.Error("grows without bound")
	}
}

// FuzzMember gives a member what anybody can send.
func FuzzMember(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.bytes, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, right bool) {
		m := NewMember(MemberConfig{ID: nodeid.ID{1}, Tags: []Tag{{1}}, Random: rand.NewChaCha8([32]byte{}), Rand: rand.New(rand.NewPCG(1, 1))})
		m.Handle(noon, Add{v4})
		if right && len(data) > 12 {
			copy(data[4:12], m.places[0].nonce[:])
		}
		for range 8 {
			for _, a := range m.Handle(noon, Datagram{v4, data}) {
				if e, ok := a.(Enrolled); ok && len(e.Contacts) > MaxContacts {
					t.Errorf("%d contacts", len(e.Contacts))
				}
			}
		}
		if c := m.Counters(); c.Enrols > 2+maxTries || len(m.places) != 1 {
			t.Errorf("%+v", c)
		}
	})
}
