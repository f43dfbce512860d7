package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestQueueOrder(t *testing.T) {
	e := New(1)
	var got []int
	var want []int
	type due struct {
		at time.Duration
		i  int
	}
	var all []due
	for i := range 5000 {
		d := due{time.Duration(e.Rand.IntN(300)), i}
		all = append(all, d)
		e.At(d.at, func() { got = append(got, d.i) })
	}
	slices.SortStableFunc(all, func(a, b due) int { return int(a.at - b.at) })
	for _, d := range all {
		want = append(want, d.i)
	}
	e.Run(time.Hour)
	if !slices.Equal(got, want) {
		t.Error("events did not happen in the order (time, sequence)")
	}
	if e.Now() != time.Hour || e.Steps != 5000 {
		t.Errorf("now %v after %d steps", e.Now(), e.Steps)
	}
}

func TestScheduleInThePast(t *testing.T) {
	e := New(1)
	e.Run(time.Second)
	var at time.Duration
	e.At(time.Millisecond, func() { at = e.Now() })
	e.Run(2 * time.Second)
	if at != time.Second {
		t.Errorf("happened at %v, want at once", at)
	}
}

// TestClock: When is the first time at which At has reached a reading, for
// clocks that run up to 3 % wrong and jump.
func TestClock(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		c := NewClock(time.Duration(r.Int64N(1e12))-5e11, r.Int64N(60_000)-30_000)
		c.SetRate(time.Duration(r.Int64N(1e12)), r.Int64N(60_000)-30_000)
		c.Jump(c.since+time.Duration(r.Int64N(1e12)), time.Duration(r.Int64N(1e12))-5e11)
		want := c.read.Add(time.Duration(r.Int64N(1e15)))
		at := c.When(want)
		if c.At(at).Before(want) || c.At(at-1).Compare(want) >= 0 {
			t.Fatalf("%+v: reads %v at %d for %v", c, c.At(at), at, want)
		}
	}
	c := NewClock(0, 20_000)
	if got := c.At(100 * time.Second).Sub(Start); got != 102*time.Second {
		t.Errorf("a clock 2 %% fast reads %v after 100 s", got)
	}
}

// waker notes when it is woken and may ask again.
type waker struct {
	host  *Host
	every time.Duration
	at    []time.Duration
	got   int
}

func (w *waker) Receive(time.Time, netip.AddrPort, netip.AddrPort, []byte) { w.got++ }

func (w *waker) Wake(now time.Time) {
	w.at = append(w.at, w.host.net.now)
	if w.every > 0 {
		w.host.WakeAt(now.Add(w.every))
	}
}

func TestWake(t *testing.T) {
	l := newLab(t)
	w := &waker{host: l.AddHost(l.Internet, Place{})}
	w.host.Start(w)
	w.host.WakeAt(Start.Add(10 * time.Second))
	w.host.WakeAt(Start.Add(2 * time.Second)) // sooner
	w.host.WakeAt(Start.Add(5 * time.Second)) // later again
	l.wait(time.Minute)
	w.host.WakeAt(Start.Add(90 * time.Second))
	w.host.WakeAt(time.Time{}) // never
	l.wait(time.Minute)
	w.host.SetRate(1_000_000) // twice as fast
	w.host.WakeAt(w.host.Now().Add(10 * time.Second))
	w.host.Jump(4 * time.Second)
	l.wait(time.Minute)
	want := []time.Duration{5 * time.Second, 123 * time.Second}
	if !slices.Equal(w.at, want) {
		t.Errorf("woken at %v, want %v", w.at, want)
	}
}

func TestPauseAndCrash(t *testing.T) {
	l := newLab(t)
	w := &waker{host: l.AddHost(l.Internet, Place{}), every: time.Second}
	w.host.Start(w)
	w.host.WakeAt(Start.Add(time.Second))
	s := l.host(l.Internet)
	to := netip.AddrPortFrom(w.host.Addr(), 1)
	l.At(3500*time.Millisecond, w.host.Pause)
	l.At(5*time.Second, func() {
		for range 300 {
			s.host.Send(1, to, nil)
		}
	})
	l.At(8500*time.Millisecond, func() {
		if w.got != 0 {
			t.Error("a paused host was given datagrams")
		}
		w.host.Resume()
	})
	l.Run(10 * time.Second)
	want := []time.Duration{1e9, 2e9, 3e9, 8.5e9, 9.5e9}
	if !slices.Equal(w.at, want) || w.got != socketBuffer {
		t.Errorf("woken at %v with %d datagrams, want %v with %d", w.at, w.got, want, socketBuffer)
	}
	s.host.Send(1, to, nil)
	w.host.Crash()
	l.wait(time.Minute)
	if len(w.at) != len(want) || w.got != socketBuffer || w.host.Up() {
		t.Error("a crashed host went on")
	}
}

func TestPartitionAndUnreachable(t *testing.T) {
	l := newLab(t)
	nat := l.AddNAT(l.Internet, FullCone, Place{})
	a, b, c, d := l.host(nat.Inside), l.host(nat.Inside), l.host(l.Internet), l.host(l.Internet)
	sides := make([]uint8, l.Hosts())
	sides[c.host.Name] = 1
	l.Partition(sides)
	a.host.Send(1, c.at(1), nil)
	a.host.Send(1, d.at(1), nil)
	a.host.Send(1, b.at(1), nil)
	l.settle()
	if len(c.got) != 0 || len(d.got) != 1 || len(b.got) != 1 || l.Stats.Cut != 1 {
		t.Errorf("cut %d; across %d, same side %d, same home %d", l.Stats.Cut, len(c.got), len(d.got), len(b.got))
	}
	l.Heal()
	a.host.Send(1, c.at(1), nil)
	l.settle()
	if len(c.got) != 1 {
		t.Error("still cut after Heal")
	}

	net := NewNet(New(3), Config{Unreachable: 0.023})
	cut := 0
	const pairs = 200_000
	for i := range uint32(pairs) {
		x, y := i%631, 1000+i/631
		if net.cut(x, y) != net.cut(y, x) {
			t.Fatal("one way only")
		}
		if net.cut(x, y) {
			cut++
		}
	}
	if share := float64(cut) / pairs; share < 0.021 || share > 0.025 {
		t.Errorf("%.4f of pairs unreachable, want 0.023", share)
	}
}

func TestMoveAndNowhere(t *testing.T) {
	l := newLab(t)
	a, b := l.host(l.Internet), l.host(l.Internet)
	old := a.at(1)
	b.host.Send(1, old, nil) // under way while a moves
	nat := l.AddNAT(l.Internet, Home, Place{})
	a.host.Move(nat.Inside, Place{Row: 3})
	l.settle()
	b.host.Send(1, old, nil)
	b.host.Send(1, netip.MustParseAddrPort("[::1]:1"), nil)
	b.host.Send(1, old, make([]byte, MaxDatagram+1))
	l.settle()
	if len(a.got) != 0 || l.Stats.Nowhere != 3 || l.Stats.Oversize != 1 {
		t.Errorf("got %d, stats %+v", len(a.got), l.Stats)
	}
	a.host.Send(1, b.at(1), []byte("moved"))
	sent := l.Now()
	for len(b.got) == 0 && l.Step() {
	}
	if took := l.Now() - sent; took != Regions[0][3] {
		t.Errorf("took %v from the new place, want %v", took, Regions[0][3])
	}
}

// chatter sends to a random other host every time it is woken, and answers.
type chatter struct {
	host  *Host
	all   []*chatter
	rand  *rand.Rand
	every time.Duration
}

func (c *chatter) Receive(_ time.Time, to, from netip.AddrPort, data []byte) {
	if data[0] == 0 {
		var b [64]byte
		copy(b[:], data)
		b[0] = 1
		c.host.Send(to.Port(), from, b[:])
	}
}

func (c *chatter) Wake(now time.Time) {
	var b [64]byte
	b[1] = byte(c.rand.Uint64())
	to := c.all[c.rand.IntN(len(c.all))]
	c.host.Send(4242, netip.AddrPortFrom(to.host.Addr(), 4242), b[:])
	c.host.WakeAt(now.Add(c.every/2 + time.Duration(c.rand.Int64N(int64(c.every)))))
}

func crowd(seed uint64, hosts int, every time.Duration) *Net {
	n := NewNet(New(seed), Usual)
	all := make([]*chatter, hosts)
	for i := range all {
		realm := n.Internet
		place := n.Somewhere()
		if i%3 == 1 {
			realm = n.AddNAT(realm, Home, place).Inside
		}
		all[i] = &chatter{host: n.AddHost(realm, place), all: all, rand: n.Split(), every: every}
		all[i].host.Clock = NewClock(0, n.Rand.Int64N(200)-100)
		all[i].host.Start(all[i])
		all[i].host.WakeAt(Start.Add(time.Duration(n.Rand.Int64N(int64(every)))))
	}
	return n
}

// TestReplay: equal seeds give equal traces on one processor and on two, and
// the trace is the one written here, with or without the race detector and on
// every machine.
func TestReplay(t *testing.T) {
	run := func(seed uint64) string {
		n := crowd(seed, 60, time.Second)
		n.Run(20 * time.Second)
		return n.Trace.Sum()
	}
	const golden = "339aa8f3dfb51a8eb8c1514fd29623af39b011d2f6ae709d1286b23c00fd5d98"
	for _, procs := range []int{1, 2} {
		old := runtime.GOMAXPROCS(procs)
		got := run(7)
		runtime.GOMAXPROCS(old)
		if got != golden {
			t.Errorf("on %d processors the trace is %s, want %s", procs, got, golden)
		}
	}
	if run(8) == golden {
		t.Error("another seed gave the same trace")
	}
}

// TestUsual holds the network's chance against what it was told.
func TestUsual(t *testing.T) {
	n := crowd(5, 300, 200*time.Millisecond)
	n.Run(time.Minute)
	s := n.Stats
	lost := float64(s.Lost) / float64(s.Sent)
	doubled := float64(s.Doubled) / float64(s.Sent)
	if lost < 0.002 || lost > 0.006 || doubled < 0.0004 || doubled > 0.0015 {
		t.Errorf("lost %.4f, doubled %.4f of %d", lost, doubled, s.Sent)
	}
	if s.Sent+s.Doubled < s.Delivered+s.Lost+s.Cut+s.Filtered+s.Nowhere {
		t.Errorf("more became of datagrams than were sent: %+v", s)
	}
}

func BenchmarkEngine(b *testing.B) {
	for _, hosts := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			n := crowd(1, hosts, time.Second/4)
			n.Run(time.Second)
			start := n.Steps
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				n.Step()
			}
			b.ReportMetric(float64(n.Steps-start)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
