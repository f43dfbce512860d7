package link

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/wire"
)

// told lists states without repetitions.
func told(states []State) string {
	var out []string
	for _, s := range states {
		if len(out) == 0 || out[len(out)-1] != s.String() {
			out = append(out, s.String())
		}
	}
	return strings.Join(out, " ")
}

// cutOff loses every datagram between the two, or their translators.
func (w *world) cutOff(x, y *node) {
	reach := func(n *node) []netip.Addr {
		e, _ := n.m.own.reflexive()
		return []netip.Addr{n.host.Addr(), e.Addr()}
	}
	ax, ay := reach(x), reach(y)
	w.wire = func(from *node, to netip.AddrPort, data []byte) bool {
		for _, a := range ay {
			if from == x && to.Addr() == a {
				return false
			}
		}
		for _, a := range ax {
			if from == y && to.Addr() == a {
				return false
			}
		}
		return true
	}
}

// TestArrows walks every arrow of the drawing.
func TestArrows(t *testing.T) {
	home, symmetric := &sim.Home, &sim.Symmetric
	for _, tt := range []struct {
		name string
		a, b *sim.Behaviour
		walk func(w *world, x, y *node)
		want string
	}{
		{"none ring punching direct none", home, home, func(w *world, x, y *node) {
			w.run(2 * time.Second)
			x.do(Unwant{y.id, "one"})
		}, "ring punching direct none"},
		{"punching fails: relay, and the relay goes: ring", symmetric, symmetric, func(w *world, x, y *node) {
			x.m.cfg.Spray = false
			w.run(8 * time.Second)
			if x.state(y, "one") != Relay2 {
				t.Error("no relay", x.state(y, "one"))
			}
			w.noRelay = true
			for _, p := range w.nodes[:3] { // all that could relay
				x.do(Unwant{ID: p.id})
			}
		}, "ring punching relay ring"},
		{"punching fails without a relay: ring", symmetric, symmetric, func(w *world, x, y *node) {
			w.noRelay = true
			w.run(8 * time.Second)
		}, "ring punching ring"},
		{"relay punching direct", symmetric, symmetric, func(w *world, x, y *node) {
			x.m.cfg.Spray = false
			w.run(8 * time.Second)
			x.nat().Behaviour, y.nat().Behaviour = sim.FullCone, sim.FullCone // somebody changed the router
			x.nat().Flush()
			y.nat().Flush()
			w.run(80 * time.Second)
		}, "ring punching relay punching direct"},
		{"relay none", symmetric, symmetric, func(w *world, x, y *node) {
			w.run(8 * time.Second)
			y.do(Unwant{x.id, "one"})
			w.run(time.Second)
		}, "ring punching relay none"},
		{"punching none", symmetric, symmetric, func(w *world, x, y *node) {
			w.run(time.Second)
			if x.state(y, "one") != Punching {
				t.Error("not punching", x.state(y, "one"))
			}
			x.do(Unwant{y.id, "one"})
		}, "ring punching none"},
		{"ring none", symmetric, symmetric, func(w *world, x, y *node) {
			w.noRelay = true
			w.run(8 * time.Second)
			x.do(Unwant{y.id, "one"})
		}, "ring punching ring none"},
		{"direct relay: the path dies while the relay is warm", home, home, func(w *world, x, y *node) {
			w.cutOff(x, y)
			cut := w.wire
			w.chat(x, y, 7*time.Second)
			w.wire = nil
			w.chat(x, y, 15*time.Second)
			w.wire = cut
			w.chat(x, y, 2500*time.Millisecond)
			if got := x.m.byKey[key{y.id, "one"}].onPath(); got != Relay2 {
				t.Error("records go by", got)
			}
			w.chat(x, y, 6*time.Second)
		}, "ring punching relay punching direct relay"},
		{"direct ring: the path dies and there is no relay", home, home, func(w *world, x, y *node) {
			w.noRelay = true
			w.run(2 * time.Second)
			w.cutOff(x, y)
			w.chat(x, y, 15*time.Second)
		}, "ring punching direct ring punching ring"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, x, y := scene(t, 3, tt.a, tt.b)
			x.want(y, "one")
			tt.walk(w, x, y)
			// A round of checks in vain on a relay may come once more or less.
			if got := strings.ReplaceAll(told(x.path), "relay punching relay", "relay"); !strings.HasPrefix(got, tt.want) {
				t.Errorf("%q, want %q; %v", got, tt.want, x.log)
			}
		})
	}
}

// nat returns the translator that a node is behind.
func (n *node) nat() *sim.NAT { return n.w.nats[n] }

// chat lets both say ten things a second.
func (w *world) chat(x, y *node, d time.Duration) {
	for range int(d / (100 * time.Millisecond)) {
		x.say(y, "one", "to y")
		y.say(x, "one", "to x")
		w.run(100 * time.Millisecond)
	}
}

func TestABootstrapLinkIsDirectAtOnce(t *testing.T) {
	w := newWorld(t, 1)
	p, x := w.add("p", w.net.Internet, sim.Place{}), w.add("x", w.net.AddNAT(w.net.Internet, sim.Home, sim.Place{}).Inside, sim.Place{})
	x.boot(p)
	w.run(time.Second)
	if told(x.links) != "direct" || told(p.links) != "direct" || x.log[0] != "up p direct" {
		t.Error(x.log, p.log)
	}
	if e, mapping := x.m.own.reflexive(); e.Port() != port || e.Addr() == x.host.Addr() || mapping != wire.UnknownMapping {
		t.Error("reflexive", e, mapping)
	}
	nobody := wire.Contact{Endpoints: []netip.AddrPort{netip.MustParseAddrPort("1.2.3.4:4242")}}
	x.do(Want{Contact: nobody})
	w.run(5 * time.Second)
	if x.log[len(x.log)-1] != "failed no answer" {
		t.Error(x.log)
	}
}

// TestPingAsTheSessionComesUp sends a ping in the moment in which link looks at
// the new path itself: each has its own answer.
func TestPingAsTheSessionComesUp(t *testing.T) {
	w := newWorld(t, 1)
	p, x := w.add("p", w.net.Internet, sim.Place{}), w.add("x", w.net.AddNAT(w.net.Internet, sim.Home, sim.Place{}).Inside, sim.Place{})
	x.pingUp = 7
	x.boot(p)
	w.run(2 * time.Second)
	if len(x.pongs) != 1 || x.pongs[0].Token != 7 || x.pongs[0].ID != p.id || !x.pongs[0].Via.IsDirect() {
		t.Errorf("answers %+v, want one by the direct path", x.pongs)
	}
	x.do(Ping{ID: p.id, Token: 8})
	x.do(Ping{ID: p.id, Token: 9})
	w.run(time.Second)
	if len(x.pongs) != 3 || x.pongs[1].Token != 8 || x.pongs[2].Token != 9 {
		t.Errorf("answers %+v, want those of 8 and 9", x.pongs)
	}
}

// TestALinkNeverLivesOnTheRingAlone: a link of the ring that goes over the
// ring would lead the ring through itself.
func TestALinkNeverLivesOnTheRingAlone(t *testing.T) {
	w := newWorld(t, 1)
	x := w.add("x", w.net.AddNAT(w.net.Internet, sim.Symmetric, sim.Place{}).Inside, sim.Place{})
	y := w.add("y", w.net.AddNAT(w.net.Internet, sim.Symmetric, sim.Place{}).Inside, sim.Place{})
	x.want(y, "")
	w.run(5 * time.Second)
	if x.m.Session(y.id, "") == nil || len(x.ups) != 0 {
		t.Fatal("no session, or one that was told", x.log)
	}
	w.run(8 * time.Second)
	if x.m.Session(y.id, "") != nil || len(x.log) != 1 || !strings.HasPrefix(x.log[0], "failed") {
		t.Error(x.log)
	}
	// Through a relay it is a link.
	w2, x2, y2 := scene(t, 4, &sim.Symmetric, &sim.Symmetric)
	x2.want(y2, "")
	w2.run(5 * time.Second)
	if got := x2.log[len(x2.log)-1]; got != "up y punching" && got != "up y relay" {
		t.Error(x2.log)
	}
}

// TestNothingIsLostInASwitch sends 1,000 numbered messages a second through
// RING, RELAY2, DIRECT, a cut, and RELAY2 again.
func TestNothingIsLostInASwitch(t *testing.T) {
	w, x, y := scene(t, 9, &sim.Home, &sim.Home)
	// Checks between the two are lost at first, so that the relay comes before.
	w.cutOff(x, y)
	block := w.wire
	x.want(y, "one")
	n := 0
	seen := map[State]int{}
	say := func(d time.Duration) {
		for range int(d / time.Millisecond) {
			if x.m.Session(y.id, "one") != nil {
				x.say(y, "one", fmt.Sprint("message ", n))
				n++
				seen[x.m.byKey[key{y.id, "one"}].onPath()]++
			}
			w.run(time.Millisecond)
		}
	}
	say(4 * time.Second)
	w.wire = nil
	say(15 * time.Second)
	if x.state(y, "one") != Direct {
		t.Fatal("not direct", told(x.path))
	}
	w.run(time.Second)
	lost := n - len(y.got)
	if lost != 0 || seen[Ring] < 100 || seen[Relay2] < 100 || seen[Direct] < 100 {
		t.Errorf("%d of %d lost; by path: %v", lost, n, seen)
	}
	unique := map[string]bool{}
	for _, m := range y.got {
		unique[m] = true
	}
	if len(unique) != len(y.got) {
		t.Error("messages came twice")
	}
	t.Logf("%d messages, by path %v, lost %d", n, seen, lost)

	// The cut: what is lost is what was sent before the silence was believed.
	w.wire = block
	cut := x.host.Now()
	n, y.got = 0, nil
	for x.state(y, "one") == Direct {
		say(10 * time.Millisecond)
		if x.host.Now().Sub(cut) > 3*time.Second {
			t.Fatal("still direct")
		}
	}
	silent := x.host.Now().Sub(cut)
	if silent > doubtful*probeEvery+50*time.Millisecond {
		t.Errorf("back on a relay after %v", silent)
	}
	before := n
	say(2 * time.Second)
	w.run(time.Second)
	if got := len(y.got); n-got > before || x.state(y, "one") == Direct {
		t.Errorf("%d of %d lost, %d before the switch", n-got, n, before)
	}
	t.Logf("cut: off the dead path after %v, %d of %d lost", silent, n-len(y.got), n)
}

// TestARelayDies: another one is asked for when the relay has left two checks
// unanswered, and takes over before the dead one is given up.
func TestARelayDies(t *testing.T) {
	w, x, y := scene(t, 3, &sim.Symmetric, &sim.Symmetric)
	x.m.cfg.Spray, y.m.cfg.Spray = false, false
	x.want(y, "one")
	w.run(8 * time.Second)
	relay := func() nodeid.ID { return x.m.byKey[key{y.id, "one"}].best.via.Node }
	dead := relay()
	if x.state(y, "one") != Relay2 || w.byID[dead] == nil {
		t.Fatal("no relay", x.log)
	}
	w.wire = func(from *node, to netip.AddrPort, _ []byte) bool {
		return from.id != dead && to.Addr() != w.byID[dead].host.Addr()
	}
	cut := x.host.Now()
	for x.state(y, "one") != Relay2 || relay() == dead {
		w.chat(x, y, 100*time.Millisecond)
		if x.host.Now().Sub(cut) > demoteSilent {
			t.Fatalf("still by the dead relay, or none: %v", x.log)
		}
	}
	y.got = nil
	w.chat(x, y, time.Second)
	if len(y.got) < 9 {
		t.Errorf("%d of 10 messages by the new relay", len(y.got))
	}
	t.Logf("by another relay after %v", x.host.Now().Sub(cut)-time.Second)
}

// onPath is the kind of path records take now.
func (p *peer) onPath() State {
	switch {
	case p.best.via.IsDirect():
		return Direct
	case p.best.via.IsRing():
		return Ring
	}
	return Relay2
}

func TestARebootedTranslatorIsNoticed(t *testing.T) {
	w, x, y := scene(t, 2, &sim.Home, nil)
	x.want(y, "one")
	w.run(2 * time.Second)
	if x.state(y, "one") != Direct {
		t.Fatal(x.log)
	}
	nat := w.nats[x]
	nat.PreservePorts = false // the new mapping is at another port
	nat.Flush()
	y.got = nil
	w.chat(x, y, 4*time.Second)
	if x.state(y, "one") != Direct || y.state(x, "one") != Direct || len(y.got) < 35 {
		t.Errorf("%v %v, %d of 40 messages", x.state(y, "one"), y.state(x, "one"), len(y.got))
	}
}

// TestANewSourceMustAnswerAChallenge: an attacker who sends on what it caught,
// from an address of its own or a victim's, does not move the path there.
func TestANewSourceMustAnswerAChallenge(t *testing.T) {
	w, x, y := scene(t, 2, nil, nil)
	x.want(y, "one")
	w.run(2 * time.Second)
	p := y.m.byKey[key{x.id, "one"}]
	best := p.best.via
	victim := netip.MustParseAddrPort("9.9.9.9:53")
	in, out := 0, 0
	w.wire = func(from *node, to netip.AddrPort, data []byte) bool {
		if from == y && to.Addr() == victim.Addr() {
			out += len(data)
		}
		if from == x && to == best.Endpoint {
			return true
		}
		if from == x && to.Addr() == y.host.Addr() { // caught, and sent on from the victim's address first
			in += len(data)
			y.do(Datagram{From: victim, Data: append([]byte{}, data...)})
			return false
		}
		return true
	}
	w.chat(x, y, 30*time.Second)
	if out > in {
		t.Errorf("%d bytes to the victim for %d from it", out, in)
	}
	if got := y.m.byKey[key{x.id, "one"}].best.via; got.Endpoint == victim {
		t.Error("the path moved to the victim")
	}
	if in == 0 {
		t.Error("nothing was caught")
	}
}

func TestKeepaliveAndIdle(t *testing.T) {
	w, x, y := scene(t, 2, &sim.Home, &sim.Home)
	x.want(y, "one")
	w.run(2 * time.Second)
	w.run(5 * time.Minute) // no traffic: nothing keeps the translators open for a namespace
	for _, p := range w.nodes[:3] {
		if x.state(p, "") != Direct {
			t.Error("a link was not kept", x.state(p, ""))
		}
	}
	y.got = nil
	w.chat(x, y, 5*time.Second)
	if len(y.got) < 25 || x.state(y, "one") != Direct {
		t.Errorf("%d of 50 arrived after a pause, %v", len(y.got), x.state(y, "one"))
	}
	if up := x.ups[y.id]; up.IsZero() || strings.Contains(fmt.Sprint(x.log), "down") {
		t.Error(x.log)
	}
}

func TestRoundsOfChecksBackOff(t *testing.T) {
	w, x, y := scene(t, 2, &sim.Symmetric, &sim.Symmetric)
	x.m.cfg.Spray, y.m.cfg.Spray = false, false
	e, _ := y.m.own.reflexive()
	var at []time.Duration
	w.wire = func(from *node, to netip.AddrPort, data []byte) bool {
		if from == x && to.Addr() == e.Addr() {
			at = append(at, w.net.Now())
		}
		return true
	}
	x.want(y, "one")
	w.run(10 * time.Minute)
	var pauses []time.Duration
	first := 0
	for i := 1; i < len(at); i++ {
		if d := at[i] - at[i-1]; d > 3*time.Second {
			pauses = append(pauses, d.Round(time.Second))
		} else if len(pauses) == 0 {
			first++
		}
	}
	if first+1 < 10 || first+1 > maxProbes || len(at) > maxProbes {
		t.Errorf("%d checks in the first round, %d in all; pauses %v", first+1, len(at), pauses)
	}
	t.Logf("%d checks in the first round, %d in ten minutes, pauses %v", first+1, len(at), pauses)
}
