package link

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/session"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/wire"
)

// detour is what a virtual endpoint of from's stands for.
type detour struct {
	from, to *node
	seen     netip.AddrPort // from's own, at to
}

// detour makes virtual endpoints for two nodes that are at one bootstrap, and
// returns the one for y that x has. They lose nothing and take 40 ms.
func (w *world) detour(x, y *node, kind session.Virtual) netip.AddrPort {
	return w.virtual(x, y, kind, 1)
}

// connection is detour for a TCP connection of the two.
func (w *world) connection(x, y *node) netip.AddrPort { return w.virtual(x, y, session.ByStream, 0) }

func (w *world) virtual(x, y *node, kind session.Virtual, bootstrap uint16) netip.AddrPort {
	if w.detours == nil {
		w.detours = map[netip.AddrPort]detour{}
	}
	n := uint32(len(w.detours))
	forX, forY := session.VirtualEndpoint(kind, bootstrap, n+1), session.VirtualEndpoint(kind, bootstrap, n+2)
	w.detours[forX], w.detours[forY] = detour{x, y, forY}, detour{y, x, forX}
	return forX
}

// virtually carries a datagram for a virtual endpoint.
func (w *world) virtually(n *node, a SendDatagram) {
	d, ok := w.detours[a.To]
	if !ok || d.from != n || w.wire != nil && !w.wire(n, a.To, a.Data) {
		return
	}
	w.net.After(40*time.Millisecond, func() {
		if d.to.host.Up() {
			d.to.do(Datagram{From: d.seen, Data: a.Data})
		}
	})
}

// strangers are two nodes behind translators that know nobody; each knows from
// a bootstrap how it is seen.
func strangers(t *testing.T, seed uint64, a, b *sim.Behaviour) (w *world, x, y *node) {
	w = newWorld(t, seed)
	w.noRing = true
	mirror := w.add("mirror", w.net.Internet, sim.Place{Row: 2})
	add := func(name string, nat *sim.Behaviour, region int) *node {
		box := w.net.AddNAT(w.net.Internet, *nat, sim.Place{Row: region})
		n := w.add(name, box.Inside, sim.Place{Row: region})
		w.nats[n] = box
		return n
	}
	x, y = add("x", a, 0), add("y", b, 1)
	w.wire = func(from *node, to netip.AddrPort, _ []byte) bool { return to.Addr() != mirror.host.Addr() }
	by := netip.AddrPortFrom(mirror.host.Addr(), port)
	for _, n := range []*node{x, y} {
		n.do(Observed{By: by, Endpoint: w.mapped(n, by)})
	}
	return w, x, y
}

// mapped is where a datagram of n's arrives to come from.
func (w *world) mapped(n *node, at netip.AddrPort) (seen netip.AddrPort) {
	listener := &eavesdropper{}
	var host *node
	for _, o := range w.nodes {
		if o.host.Addr() == at.Addr() {
			host = o
		}
	}
	host.host.Start(listener)
	n.host.Send(port, at, []byte{0})
	w.run(2 * time.Second)
	host.host.Start(host)
	return listener.from
}

type eavesdropper struct{ from netip.AddrPort }

func (e *eavesdropper) Receive(_ time.Time, _, from netip.AddrPort, _ []byte) { e.from = from }
func (*eavesdropper) Wake(time.Time)                                          {}

// TestStrangersMeetThroughABootstrap: all are behind translators and nobody is
// known but by a virtual endpoint. A link comes up there at once, and is direct
// where the translators allow; where not, it stays, and checks go on.
func TestStrangersMeetThroughABootstrap(t *testing.T) {
	kinds := []struct {
		name string
		nat  *sim.Behaviour
	}{{"EIM+EIF", &sim.FullCone}, {"EIM+APDF", &sim.Home}, {"EDM+APDF", &sim.Symmetric}}
	for i, a := range kinds {
		for k, b := range kinds {
			for _, kind := range []session.Virtual{session.ByBootstrap, session.ByStream} {
				t.Run(fmt.Sprintf("%s %s %s", kind, a.name, b.name), func(t *testing.T) {
					w, x, y := strangers(t, uint64(i*10+k), a.nat, b.nat)
					x.do(Want{Contact: wire.Contact{ID: y.id, Endpoints: []netip.AddrPort{w.detour(x, y, kind)}}})
					w.run(time.Second)
					if x.ups[y.id].IsZero() || y.ups[x.id].IsZero() {
						t.Fatal("no link", x.log, y.log)
					}
					w.run(20 * time.Second)
					strict := func(n *sim.Behaviour) bool { return n != &sim.FullCone }
					hard := func(n *sim.Behaviour) bool { return n == &sim.Symmetric }
					got := [2]State{x.state(y, ""), y.state(x, "")}
					if hard(a.nat) && strict(b.nat) || hard(b.nat) && strict(a.nat) {
						if got != [2]State{Relay2, Relay2} {
							t.Errorf("%v", got)
						}
						if e, _ := x.m.Why(y.id, ""); e.Rounds < 2 || e.Virtual != kind || len(e.Candidates) == 0 {
							t.Errorf("%+v", e)
						}
					} else if got != [2]State{Direct, Direct} {
						t.Errorf("%v: %v", got, x.log)
					}
					for _, n := range []*node{x, y} {
						c := n.m.candidates()
						if slices.ContainsFunc(c.List, func(c wire.Candidate) bool {
							return session.VirtualKind(c.Endpoint.Addr()) != session.NotVirtual
						}) || len(c.Relays) > 0 != (got[0] == Direct) {
							t.Errorf("%s names %v", n.name, c)
						}
					}
				})
			}
		}
	}
}

// TestOrderOfPaths: a relay is preferred to a bootstrap, a bootstrap to TCP,
// and all to the ring; what stops to answer is left 1.6 s later.
func TestOrderOfPaths(t *testing.T) {
	w, x, y := scene(t, 3, &sim.Symmetric, &sim.Symmetric)
	x.m.cfg.Spray, y.m.cfg.Spray = false, false
	byBootstrap, byStream := w.detour(x, y, session.ByBootstrap), w.detour(x, y, session.ByStream)
	lost := map[string]bool{"relay": true, "bootstrap": true, "tcp": true}
	w.wire = func(from *node, to netip.AddrPort, data []byte) bool {
		if kind := session.VirtualKind(to.Addr()); kind != session.NotVirtual {
			return !lost[kind.String()]
		}
		return !(lost["relay"] && session.IsRelayed(data))
	}
	lost["tcp"] = false
	x.do(Want{Contact: wire.Contact{ID: y.id, Endpoints: []netip.AddrPort{byStream}}})
	way := func() string {
		p := x.m.byKey[key{y.id, session.LinkPurpose}]
		switch {
		case p == nil || p.best == nil:
			return "none"
		case p.best.via.Channel != 0:
			return "relay"
		case p.best.via.IsRing():
			return "ring"
		}
		return p.best.via.Virtual().String()
	}
	chat := func(d time.Duration) {
		for end := w.net.Now() + d; w.net.Now() < end; {
			x.say(y, "", "hello")
			y.say(x, "", "hello")
			w.run(200 * time.Millisecond)
		}
	}
	expect := func(want string) {
		t.Helper()
		if got := way(); got != want {
			t.Errorf("goes by %s, want %s", got, want)
		}
	}
	chat(time.Second)
	expect("tcp")
	lost["bootstrap"] = false
	p := x.m.byKey[key{y.id, session.LinkPurpose}]
	p.detour = session.Direct(byBootstrap)
	chat(11 * time.Second)
	expect("bootstrap")
	lost["relay"] = false
	chat(11 * time.Second)
	expect("relay")
	lost["relay"] = true
	chat(5 * time.Second) // two relays may be on trial, one after the other
	expect("bootstrap")
	lost["bootstrap"], lost["tcp"] = true, true
	chat(5 * time.Second)
	expect("ring")
}

// TestANamespaceSessionTakesTheLinksDetour: where no member can relay, data
// does not go over the ring when the link goes through a bootstrap.
func TestANamespaceSessionTakesTheLinksDetour(t *testing.T) {
	w, x, y := strangers(t, 4, &sim.Symmetric, &sim.Symmetric)
	w.noRing = false
	x.do(Want{Contact: wire.Contact{ID: y.id, Endpoints: []netip.AddrPort{w.detour(x, y, session.ByBootstrap)}}})
	w.run(time.Second)
	x.want(y, "one")
	w.run(2 * time.Second)
	for _, n := range []*node{x, y} {
		o := map[*node]*node{x: y, y: x}[n]
		p := n.m.byKey[key{o.id, "one"}]
		if p == nil || p.best == nil || p.best.via.Virtual() != session.ByBootstrap {
			t.Errorf("%s: %+v", n.name, p)
		}
	}
}

// TestARelayOverTCP: a node whose network drops UDP reaches nobody but one peer,
// over TCP. That one relays for it, also to another of its kind.
func TestARelayOverTCP(t *testing.T) {
	w := newWorld(t, 7)
	relay, x, y, z := w.add("relay", w.net.Internet, sim.Place{}), w.add("x", w.net.Internet, sim.Place{Row: 1}),
		w.add("y", w.net.Internet, sim.Place{Row: 2}), w.add("z", w.net.Internet, sim.Place{Row: 3})
	blocked := func(n *node) bool { return n == x || n == z }
	w.wire = func(from *node, to netip.AddrPort, _ []byte) bool {
		return session.VirtualKind(to.Addr()) != session.NotVirtual ||
			!blocked(from) && to.Addr() != x.host.Addr() && to.Addr() != z.host.Addr()
	}
	for _, n := range []*node{x, z} {
		n.do(Want{Contact: wire.Contact{ID: relay.id, Endpoints: []netip.AddrPort{w.connection(n, relay)}}})
	}
	y.boot(relay)
	w.run(2 * time.Second)
	x.want(y, "one")
	x.want(z, "one")
	w.run(3 * time.Second)
	for _, o := range []*node{y, z} {
		for _, pair := range [2][2]*node{{x, o}, {o, x}} {
			p := pair[0].m.byKey[key{pair[1].id, "one"}]
			if p == nil || p.best == nil || p.best.via.Channel == 0 || p.best.via.Node != relay.id {
				t.Errorf("%s to %s does not go by the relay", pair[0].name, pair[1].name)
			}
		}
		o.got = nil
		x.say(o, "one", "hello")
		w.run(time.Second)
		if len(o.got) != 1 {
			t.Errorf("%s got %q", o.name, o.got)
		}
	}
}

// TestVirtualEndpointsComeFromNobody: a candidate, an observer's word and a
// bootstrap's word in the reserved prefix count for nothing.
func TestVirtualEndpointsComeFromNobody(t *testing.T) {
	w, x, y := scene(t, 6, &sim.Home, &sim.Home)
	x.want(y, "one")
	w.run(2 * time.Second)
	evil := session.VirtualEndpoint(session.ByBootstrap, 1, 7)
	filtered := x.m.counters.Filtered
	p := x.m.byKey[key{y.id, "one"}]
	x.m.called(x.host.Now(), p, wire.Candidates{List: []wire.Candidate{{Kind: wire.HostCandidate, Endpoint: evil}}})
	if x.m.counters.Filtered != filtered+1 {
		t.Error("not filtered")
	}
	before, _ := x.m.own.reflexive()
	for i := range 4 {
		x.m.own.observe(wire.Holder{byte(i)}, netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 1), evil)
	}
	x.do(Observed{By: netip.MustParseAddrPort("198.51.100.9:1"), Endpoint: evil})
	if after, _ := x.m.own.reflexive(); after != before {
		t.Error("taken for the own endpoint:", after)
	}
	w.run(10 * time.Second)
	if n := x.sent[evil.Addr()]; n != 0 {
		t.Errorf("%d datagrams sent there", n)
	}
}
