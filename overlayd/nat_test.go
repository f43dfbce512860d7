package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gridappliance/internal/netlab"
	"gridappliance/overlayd/control"
)

// natPair is two machines that have never met, and what is promised of them.
type natPair struct {
	name   string
	make   func(w *world) (a, b *station)
	ends   control.Path  // the path they come to
	within time.Duration // of the first packet; 0: as DESIGN.md promises
	long   bool          // only under LONG=1
	chance bool          // they meet by chance, 98 times of 100: one of two such pairs must
}

const (
	directPromise = 5 * time.Second        // first packet -> direct; the goal, 1 s for 90 of 100, is for docs/nat.md
	relayPromise  = 2 * time.Second        // direct path dead -> packets arrive again
	streamRate    = 1000                   // packets a second
	steady        = time.Second            // watched before the break and after it
	maxStall      = 400 * time.Millisecond // of the machine that runs the lab
	settling      = 3 * time.Second        // of the ring, after all have joined at once
)

// behind makes one machine behind each of two NATs.
func behind(a, b netlab.Behaviour) func(*world) (*station, *station) {
	return func(w *world) (*station, *station) { return w.site(a).machine(), w.site(b).machine() }
}

// together makes two machines behind one NAT, on networks of their own below
// it if it is a carrier's.
func together(carrier netlab.Behaviour) func(*world) (*station, *station) {
	return func(w *world) (*station, *station) {
		street := w.site(carrier)
		a, b := street.below(netlab.Home).machine(), street.below(netlab.Home).machine()
		b.listen = ":4243" // or the carrier's NAT maps it as a symmetric one does
		return a, b
	}
}

func hairpinning(b netlab.Behaviour) netlab.Behaviour {
	b.Hairpin = true
	return b
}

// forgetful is a NAT with an eighth of the patience that RFC 4787 §4.3 wants.
var forgetful = netlab.Behaviour{Filtering: netlab.AddressAndPortDependent, Timeout: 15 * time.Second}

// natPairs is the matrix of research/overlay.md §3.3, and more.
var natPairs = []natPair{
	{name: "open, home", ends: control.PathDirect, make: func(w *world) (*station, *station) { return w.open(), w.site(netlab.Home).machine() }},
	{name: "home, home", ends: control.PathDirect, make: behind(netlab.Home, netlab.Home)},
	{name: "home, full cone", ends: control.PathDirect, make: behind(netlab.Home, netlab.FullCone)},
	{name: "full cone, full cone", ends: control.PathDirect, make: behind(netlab.FullCone, netlab.FullCone), long: true},
	{name: "restricted, home", ends: control.PathDirect, make: behind(netlab.Restricted, netlab.Home), long: true},
	{name: "restricted, symmetric", ends: control.PathDirect, make: behind(netlab.Restricted, netlab.Symmetric)},
	{name: "full cone, symmetric", ends: control.PathDirect, make: behind(netlab.FullCone, netlab.Symmetric)},
	{name: "home, symmetric", ends: control.PathDirect, within: 15 * time.Second, chance: true, make: behind(netlab.Home, netlab.Symmetric)},
	{name: "symmetric, symmetric", ends: control.PathRelay, make: behind(netlab.Symmetric, netlab.Symmetric)},
	{name: "home, home behind home", ends: control.PathDirect, make: func(w *world) (*station, *station) {
		return w.site(netlab.Home).machine(), w.site(netlab.Home).below(netlab.Home).machine()
	}},
	{name: "two homes behind one carrier, hairpinning", ends: control.PathDirect, make: together(hairpinning(netlab.Home))},
	{name: "two homes behind one carrier, no hairpinning", ends: control.PathRelay, make: together(netlab.Home)},
	{name: "two machines on one network", ends: control.PathDirect, make: func(w *world) (*station, *station) {
		s := w.site(netlab.Home)
		a, b := s.machine(), s.machine()
		b.listen = ":4243"
		return a, b
	}},
}

// natResult is what was measured of a pair.
type natResult struct {
	Pair       string
	FirstReply time.Duration // of the first ping; 0: lost
	Direct     time.Duration // since the first packet; 0: never
	Path       control.Path  // at the end of the first part
	Count      netlab.Count  // until the break
	BreakLost  int           // in the first relayPromise after it
	BreakGap   time.Duration
	Broken     bool // the direct path was cut
	Stall      time.Duration
	Trace      []time.Duration
	Faults     []string // what was promised and did not hold
}

// TestNATPairs lets machines behind every pair of NATs meet: no packet of a
// numbered stream is lost from the first one through the switch to a direct
// path, and when that dies, only those of the time until the relay has it.
func TestNATPairs(t *testing.T) {
	needLab(t)
	w := newWorld(t, ordinary)
	type met struct {
		natPair
		pairs [][2]*station
	}
	var all []met
	for _, p := range natPairs {
		if p.long && os.Getenv("LONG") == "" {
			continue
		}
		m, pairs := met{natPair: p}, 1
		if p.chance {
			pairs = 2
		}
		for range pairs {
			a, b := p.make(w)
			a.start()
			b.start()
			m.pairs = append(m.pairs, [2]*station{a, b})
		}
		all = append(all, m)
	}
	idleA, idleB := behind(forgetful, forgetful)(w)
	idleA.start()
	idleB.start()
	idleA.waitRunning()
	idleB.waitRunning()
	for _, m := range all {
		for _, pair := range m.pairs {
			pair[0].waitRunning()
			pair[1].waitRunning()
		}
	}

	time.Sleep(settling)
	idleA.reaches(t, idleB, patience)
	idleA.waitPath(idleB, control.PathDirect, directPromise)
	idleSince := time.Now()

	var mu sync.Mutex
	results := map[string]natResult{}
	t.Run("pairs", func(t *testing.T) {
		for _, m := range all {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				measured := make([]natResult, len(m.pairs))
				var measuring sync.WaitGroup
				for i, pair := range m.pairs {
					measuring.Go(func() { measured[i] = m.measure(t, w, pair[0], pair[1]) })
				}
				measuring.Wait()
				best := measured[0]
				for _, r := range measured[1:] {
					if len(r.Faults) < len(best.Faults) {
						best = r
					}
				}
				for _, fault := range best.Faults {
					t.Error(fault)
				}
				mu.Lock()
				defer mu.Unlock()
				results[m.name] = best
			})
		}
	})
	// What nobody has used for longer than the NATs remember, the overlay has
	// kept open: the first packet goes straight, and is answered.
	t.Run("idle behind NATs that forget", func(t *testing.T) {
		time.Sleep(time.Until(idleSince.Add(4 * forgetful.Timeout)))
		out, _ := idleA.Try("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", idleB.Address.String())
		if n := strings.Count(out, "ttl="); n != 3 || idleA.path(idleB) != control.PathDirect {
			t.Errorf("after %v without a packet, behind NATs that forget after %v: %d of 3 pings answered, path %q\n%s",
				time.Since(idleSince).Round(time.Second), forgetful.Timeout, n, idleA.path(idleB), out)
		}
	})
	var table []natResult
	stalled := 0
	for _, p := range natPairs {
		if r, ok := results[p.name]; ok {
			table = append(table, r)
			if r.Stall > maxStall {
				stalled++
			}
		}
	}
	t.Logf("\n%s", natTable(table))
	if 2*stalled > len(table) {
		t.Errorf("%d of %d pairs were not judged: nothing else may run beside this test", stalled, len(table))
	}
	if document := os.Getenv("NAT_DOCUMENT"); document != "" && !t.Failed() {
		if err := writeNATDocument(document, table); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUDPBlocked: two machines whose networks drop UDP reach nobody but the
// master, over TCP port 443, and one behind a home's NAT reaches others as well.
// The master relays between any two of them.
func TestUDPBlocked(t *testing.T) {
	needLab(t)
	w := newWorld(t, ordinary)
	a, b, c := w.site(netlab.Office).machine(), w.site(netlab.Office).machine(), w.site(netlab.Home).machine()
	for _, m := range []*station{a, b, c} {
		m.start()
	}
	for _, m := range []*station{a, b, c} {
		m.waitRunning()
	}
	for i, pair := range [][2]*station{{a, b}, {a, c}, {c, b}} {
		s := w.net.Stream(pair[0].Node, pair[1].Node, netipPort(pair[1].Address, 5000+uint16(i)), streamRate)
		took := pair[0].reaches(t, pair[1], patience)
		pair[0].waitPath(pair[1], control.PathRelay, patience)
		f := s.Stop(time.Second)
		t.Logf("%s reaches %s after %v; a stream from its first packet on: %+v", pair[0].Name, pair[1].Name, took.Round(time.Millisecond), f.Count())
		if n := f.Count(); n.Lost > 0 {
			t.Errorf("%d of %d packets lost: %s", n.Lost, n.Sent, lostOf(f))
		}
	}
}

func (p natPair) measure(t *testing.T, w *world, a, b *station) natResult {
	within := p.within
	if within == 0 {
		within = directPromise
	}
	r := natResult{Pair: p.name}
	pings := startPings(t, a, b)
	s := w.net.Stream(a.Node, b.Node, netipPort(b.Address, 5000), streamRate)
	defer s.Stop(0)

	// Until the path is what it shall be, and a while.
	for s.Now() < within+steady && a.path(b) != control.PathDirect {
		time.Sleep(50 * time.Millisecond)
	}
	if p.ends != control.PathDirect {
		time.Sleep(within)
	}
	time.Sleep(steady)
	// A machine that does other things shows late how short the path is.
	direct := func(f netlab.Flight) (time.Duration, bool) { return f.Within(directOneWay+siteDelay, 50) }
	for r.Path = a.path(b); r.Path == control.PathDirect && !r.sameLAN(a, b) && s.Now() < within; time.Sleep(steady / 4) {
		if _, seen := direct(s.Flight()); seen {
			break
		}
	}
	cut := s.Now()
	if r.Path == control.PathDirect && a.site != nil && a.public != b.public {
		r.Broken = true
		a.site.nat.Cut(b.public)
		cut = s.Now()
		time.Sleep(relayPromise + steady)
	}
	f := s.Stop(time.Second)
	r.FirstReply, r.Trace = pings.wait(t)

	if r.Stall = f.Stall(); r.Stall > maxStall {
		t.Logf("not judged: the machine that runs the lab was busy otherwise for %v", r.Stall)
		return r
	}
	// What was under way when the path was cut is lost with it.
	if r.Broken {
		cut -= relayOneWay
	}
	before := f.Between(0, cut)
	r.Count = before.Count()
	if at, found := direct(before); found && r.Path == control.PathDirect {
		r.Direct = at
	}
	// What has waited for more than a second leaves in one burst, of which the
	// buffers below may drop a part. A machine that does other things drops some
	// as well: only under LONG=1 none may be lost, and times count.
	long := os.Getenv("LONG") != ""
	burst := 0
	if r.FirstReply == 0 || r.FirstReply > time.Second {
		burst = r.Count.Sent / 20
	} else if !long {
		burst = r.Count.Sent / 100
	}
	fault := func(format string, args ...any) { r.Faults = append(r.Faults, fmt.Sprintf(format, args...)) }
	if r.Count.Lost > burst || r.Count.Duplicated != 0 {
		fault("from the first packet on: %+v, want all of them once; lost: %s", r.Count, lostOf(before))
	}
	if r.FirstReply == 0 && r.Count.Lost == 0 {
		fault("the first ping was lost")
	}
	if r.Path != p.ends {
		fault("path %q, want %q\n%s", r.Path, p.ends, a.why(b))
	} else if long && p.ends == control.PathDirect && (r.Direct == 0 && !r.sameLAN(a, b) || r.Direct > within) {
		fault("direct after %v, want within %v", r.Direct, within)
	}
	if r.Broken {
		broken := f.Between(cut, cut+relayPromise)
		r.BreakLost, r.BreakGap = broken.Count().Lost, f.Between(cut, cut+relayPromise+steady).Count().Gap
		if after := f.Between(cut+relayPromise, s.Now()).Count(); after.Lost > 0 && (long || after.Lost > after.Sent/100) {
			fault("%v after the break and later: %+v, want none lost", relayPromise, after)
		}
	}
	return r
}

// sameLAN says that a direct path is too short to be told by its delay.
func (natResult) sameLAN(a, b *station) bool { return a.site != nil && a.site == b.site }

// lostOf says when what was lost was sent.
func lostOf(f netlab.Flight) string {
	var b strings.Builder
	n := 0
	for _, p := range f {
		if p.Lost() {
			if n++; n <= 20 {
				fmt.Fprintf(&b, "%v ", p.Sent.Round(time.Millisecond))
			}
		}
	}
	return b.String()
}

// pings is ping at work, several a second.
type pings struct {
	process *netlab.Process
}

const (
	pingCount    = 25
	pingInterval = 200 * time.Millisecond
)

func startPings(t *testing.T, a, b *station) pings {
	return pings{a.Start("ping", "-n", "-i", fmt.Sprint(pingInterval.Seconds()), "-c", strconv.Itoa(pingCount), "-W", "2", b.Address.String())}
}

var pingLine = regexp.MustCompile(`icmp_seq=(\d+) .*time=([\d.]+) ms`)

// wait returns the first round trip and all of them, zero for what was lost.
func (p pings) wait(t *testing.T) (first time.Duration, all []time.Duration) {
	t.Helper()
	p.process.Wait(patience)
	all = make([]time.Duration, pingCount)
	for _, m := range pingLine.FindAllStringSubmatch(p.process.Output(), -1) {
		seq, _ := strconv.Atoi(m[1])
		ms, _ := strconv.ParseFloat(m[2], 64)
		if seq >= 1 && seq <= pingCount {
			all[seq-1] = time.Duration(ms * float64(time.Millisecond))
		}
	}
	return all[0], all
}

// why is what overlayd says about the path to a peer.
func (m *station) why(to *station) string {
	code, stdout, stderr := command("why", to.Address.String(), "--control", m.socket())
	if code != 0 {
		return stderr
	}
	return stdout
}
