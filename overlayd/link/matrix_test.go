package link

import (
	"fmt"
	"testing"
	"time"

	"gridappliance/overlayd/sim"
)

// scene is two nodes that want each other and three that both know.
func scene(t testing.TB, seed uint64, a, b *sim.Behaviour) (w *world, x, y *node) {
	return populate(t, newWorld(t, seed), a, b)
}

func populate(t testing.TB, w *world, a, b *sim.Behaviour) (_ *world, x, y *node) {
	var public []*node
	for i := range 3 {
		public = append(public, w.add(fmt.Sprintf("p%d", i), w.net.Internet, sim.Place{Row: i}))
	}
	behind := func(name string, nat *sim.Behaviour, region int) *node {
		if nat == nil {
			return w.add(name, w.net.Internet, sim.Place{Row: region})
		}
		box := w.net.AddNAT(w.net.Internet, *nat, sim.Place{Row: region})
		n := w.add(name, box.Inside, sim.Place{Row: region})
		w.nats[n] = box
		return n
	}
	x, y = behind("x", a, 0), behind("y", b, 1)
	x.boot(public...)
	y.boot(public...)
	w.run(3 * time.Second)
	for _, n := range []*node{x, y} {
		if len(n.ups) != 3 {
			t.Fatalf("%s has %d links: %v", n.name, len(n.ups), n.log)
		}
	}
	return w, x, y
}

// TestPairsOfTranslators is the table of research/overlay.md §3.3: who reaches
// whom, and how. Traffic of ten messages a second goes both ways meanwhile.
func TestPairsOfTranslators(t *testing.T) {
	cone, home, symmetric := &sim.FullCone, &sim.Home, &sim.Symmetric
	kinds := []struct {
		name string
		nat  *sim.Behaviour
	}{{"public", nil}, {"EIM+EIF", cone}, {"EIM+APDF", home}, {"EDM+APDF", symmetric}}
	for i, a := range kinds {
		for k, b := range kinds {
			t.Run(a.name+" "+b.name, func(t *testing.T) {
				direct, sprayed, relayed := 0, 0, 0
				var slowest time.Duration
				for seed := range uint64(3) {
					w, x, y := scene(t, seed*100+uint64(i*10+k), a.nat, b.nat)
					began := x.host.Now()
					x.want(y, "one")
					for range 150 {
						w.run(100 * time.Millisecond)
						x.say(y, "one", "to y")
						y.say(x, "one", "to x")
						if x.state(y, "one") == Direct && y.state(x, "one") == Direct && slowest < x.host.Now().Sub(began) {
							slowest = x.host.Now().Sub(began)
							break
						}
					}
					switch {
					case x.state(y, "one") == Direct && y.state(x, "one") == Direct:
						direct++
						if x.m.counters.Sprays+y.m.counters.Sprays > 0 {
							sprayed++
						}
					case x.m.byKey[key{y.id, "one"}].hasRelay():
						relayed++
					}
				}
				t.Logf("direct %d of 3 (%d by spraying), relayed %d, at most %v", direct, sprayed, relayed, slowest)
				hard := func(n *sim.Behaviour) bool { return n == symmetric }
				strict := func(n *sim.Behaviour) bool { return n == home }
				switch {
				case hard(a.nat) && hard(b.nat):
					if relayed != 3 {
						t.Error("not relayed")
					}
				case hard(a.nat) && strict(b.nat) || hard(b.nat) && strict(a.nat):
					if sprayed < 2 {
						t.Error("the birthday did not come")
					}
				default:
					if direct != 3 || sprayed != 0 || slowest > 1500*time.Millisecond {
						t.Error("not direct at once")
					}
				}
			})
		}
	}
}

func TestOneTranslatorForBoth(t *testing.T) {
	w := newWorld(t, 5)
	p0, p1 := w.add("p0", w.net.Internet, sim.Place{}), w.add("p1", w.net.Internet, sim.Place{})
	lan := w.net.AddNAT(w.net.Internet, sim.Home, sim.Place{}).Inside
	x, y := w.add("x", lan, sim.Place{}), w.add("y", lan, sim.Place{})
	x.boot(p0, p1)
	y.boot(p0, p1)
	w.run(2 * time.Second)
	x.want(y, "one")
	w.run(2 * time.Second)
	if x.state(y, "one") != Direct {
		t.Fatal(x.log)
	}
	e, _ := x.m.Why(y.id, "one")
	if e.RTT > 2*time.Millisecond {
		t.Errorf("round trip %v: not by the LAN", e.RTT)
	}
}

// TestSameSeedSameTrace runs a pair through everything twice.
func TestSameSeedSameTrace(t *testing.T) {
	var traces [3]string
	for i := range traces {
		w := newWorld(t, uint64(7+i/2))
		w.cheap = true
		w, x, y := populate(t, w, &sim.Symmetric, &sim.Home)
		x.want(y, "one")
		w.chat(x, y, 20*time.Second)
		if x.state(y, "one") != Direct {
			t.Fatal(x.state(y, "one"), x.log)
		}
		traces[i] = fmt.Sprintf("%x", w.net.Trace.Sum())
	}
	if traces[0] != traces[1] || traces[1] == traces[2] {
		t.Error(traces)
	}
}
