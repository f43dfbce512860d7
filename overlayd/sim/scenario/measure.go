package scenario

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"time"

	"gridappliance/overlayd/core"
	"gridappliance/overlayd/nodeid"
)

// Durations is a sample of times.
type Durations struct {
	all    []time.Duration
	sorted bool
}

// Add adds one.
func (d *Durations) Add(t time.Duration) { d.all, d.sorted = append(d.all, t), false }

// Len returns how many there are.
func (d *Durations) Len() int { return len(d.all) }

// At returns the quantile q of 1, 0 of an empty sample.
func (d *Durations) At(q float64) time.Duration {
	if len(d.all) == 0 {
		return 0
	}
	if !d.sorted {
		slices.Sort(d.all)
		d.sorted = true
	}
	return d.all[min(int(q*float64(len(d.all))), len(d.all)-1)]
}

// Seconds returns a copy of the sample, the least first.
func (d *Durations) Seconds() []float64 {
	d.At(0) // sorts
	all := make([]float64, len(d.all))
	for i, t := range d.all {
		all[i] = t.Seconds()
	}
	return all
}

// String gives p50, p90, p99.
func (d *Durations) String() string {
	ms := func(q float64) string { return fmt.Sprintf("%.0f", float64(d.At(q))/float64(time.Millisecond)) }
	return ms(0.5) + "/" + ms(0.9) + "/" + ms(0.99) + " ms"
}

// Lookup is one that has ended.
type Lookup struct {
	From nodeid.ID
	Key  nodeid.ID
	Node nodeid.ID // who answered; zero: nobody
	Hops int
	Took time.Duration
	// Right says that the answer came from the member nearest to the key,
	// when the question was asked or when it was answered.
	Right bool
}

// Lookups sums lookups up.
type Lookups struct {
	Asked, Answered, Right int
	Orphaned               int // the asking node died first
	Took                   Durations
	Hops                   []int // how many answers took so many hops
}

// MeanHops returns the mean of the answers' hops.
func (l *Lookups) MeanHops() float64 {
	sum, n := 0, 0
	for hops, k := range l.Hops {
		sum, n = sum+hops*k, n+k
	}
	return float64(sum) / max(1, float64(n))
}

// HopsAt returns the quantile q of the answers' hops.
func (l *Lookups) HopsAt(q float64) int {
	n := 0
	for _, k := range l.Hops {
		n += k
	}
	seen := 0
	for hops, k := range l.Hops {
		if seen += k; float64(seen) > q*float64(n) {
			return hops
		}
	}
	return len(l.Hops)
}

// Success returns the share of right answers among lookups whose asker lived.
func (l *Lookups) Success() float64 {
	return float64(l.Right) / max(1, float64(l.Asked-l.Orphaned))
}

type question struct {
	from    *Machine
	node    *core.Node
	key     nodeid.ID
	nearest nodeid.ID
}

// Look lets a random member look a random key up, n times evenly over a time.
func (w *World) Look(n int, over time.Duration) {
	for range n {
		w.After(time.Duration(w.chance.Int64N(int64(over))), w.look)
	}
}

func (w *World) look() {
	if len(w.members) == 0 {
		return
	}
	m := w.members[w.chance.IntN(len(w.members))]
	key := w.newID()
	w.token++
	w.asked[w.token] = question{from: m, node: m.Node, key: key, nearest: w.nearest(m, key)}
	w.Lookups.Asked++
	m.handle(core.Lookup{Token: w.token, Key: key})
}

func (w *World) found(m *Machine, a core.Found) {
	q, ok := w.asked[a.Token]
	if !ok {
		return
	}
	delete(w.asked, a.Token)
	l := Lookup{From: m.Node.ID(), Key: q.key, Took: a.Took}
	if a.Err == nil {
		l.Node, l.Hops = a.Node.ID, a.Hops
		l.Right = l.Node == q.nearest || l.Node == w.nearest(m, q.key)
		w.Lookups.Answered++
		w.Lookups.Took.Add(a.Took)
		for len(w.Lookups.Hops) <= a.Hops {
			w.Lookups.Hops = append(w.Lookups.Hops, 0)
		}
		w.Lookups.Hops[a.Hops]++
		if l.Right {
			w.Lookups.Right++
		}
	}
	w.record(func(r Recorder) { r.Looked(w.Now(), l) })
}

// settleLookups counts the questions whose asker is gone.
func (w *World) settleLookups() {
	for token, q := range w.asked {
		if q.from.Node != q.node {
			w.Lookups.Orphaned++
			delete(w.asked, token)
		}
	}
}

// forget lets lookups begin anew: what was asked before counts no more.
func (w *World) forget() { w.Lookups, w.asked = Lookups{}, map[uint64]question{} }

// nearest returns the member nearest to a key, of those on the asker's side
// of a cut: the truth.
func (w *World) nearest(asker *Machine, key nodeid.ID) nodeid.ID {
	n := len(w.members)
	i, _ := slices.BinarySearchFunc(w.members, key, func(m *Machine, id nodeid.ID) int { return m.Node.ID().Compare(id) })
	var ends [2]nodeid.ID // the first after the key, and the first before
	for end, step := range [2]int{1, -1} {
		at := (i + n*2 + min(0, step)) % max(1, n)
		for range n {
			if m := w.members[at]; w.side == nil || w.side(m) == w.side(asker) {
				ends[end] = m.Node.ID()
				break
			}
			at = (at + n + step) % n
		}
	}
	if nodeid.Distance(key, ends[1]).Compare(nodeid.Distance(key, ends[0])) < 0 {
		return ends[1]
	}
	return ends[0]
}

// Consistent returns the share of members whose first successor is the member
// that follows in truth.
func (w *World) Consistent() float64 {
	right := 0
	for i, m := range w.members {
		succs := m.Node.Ring().List().Succs
		next := w.members[(i+1)%len(w.members)]
		if len(succs) > 0 && succs[0].ID == next.Node.ID() || len(w.members) == 1 {
			right++
		}
	}
	return float64(right) / max(1, float64(len(w.members)))
}

// running calls f with every machine that runs.
func (w *World) running(f func(*Machine)) {
	for _, ms := range [][]*Machine{w.Bootstraps, w.Machines} {
		for _, m := range ms {
			if m.Node != nil {
				f(m)
			}
		}
	}
}

// Running returns how many machines run.
func (w *World) Running() (n int) {
	w.running(func(*Machine) { n++ })
	return n
}

// add returns a + b, and with a sign of -1 a - b.
func add(a, b core.Counters, sign int64) core.Counters {
	for _, c := range []struct{ to, by *uint64 }{
		{&a.Forwarded, &b.Forwarded}, {&a.Diverted, &b.Diverted}, {&a.Repeated, &b.Repeated}, {&a.Unacknowledged, &b.Unacknowledged}, {&a.Delivered, &b.Delivered}, {&a.Relayed, &b.Relayed}, {&a.Malformed, &b.Malformed},
		{&a.Unknown, &b.Unknown}, {&a.NoRoute, &b.NoRoute}, {&a.Expired, &b.Expired}, {&a.TooLong, &b.TooLong},
	} {
		*c.to += uint64(sign) * *c.by
	}
	return a
}

// Report is what a phase found. Figures that a phase does not ask for
// are zero.
type Report struct {
	Name       string
	Config     Config `json:"-"`
	Members    int
	Running    int
	Joins      Durations
	Attaches   Durations
	Lookups    Lookups
	Counters   core.Counters
	Net        string
	Invariants Invariants

	Consistent     float64       // share of right successors in the end
	Recovered      time.Duration // from the event to all successors right
	BytesPerSec    float64       // sent by a node, UDP payload, without lookups
	PktsPerSec     float64
	LoadMaxMean    float64   // payloads forwarded: the busiest node to the mean
	CarriedMaxMean float64   // the same with datagrams that were relayed for others
	Load           []float64 // what each node forwarded, the least first
	Degree         float64   // mean connections of a node
	DegreeMax      int
	HeapPerNode    int // bytes

	Virtual, Real time.Duration
	Events        uint64
	HeapMiB       int
	Trace         string
	Notes         []string
}

// Note adds a line.
func (r *Report) Note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// baseline is the heap before a world is made.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// run is a World under way, and the report of the phase that it is in.
type run struct {
	*World
	*Report
	heap uint64 // before the World was made

	since   time.Time // when the phase, or growing before the first, began
	virtual time.Duration
	events  uint64
	counts  core.Counters
}

func begin(name string, cfg Config) *run {
	r := &run{heap: heap(), since: time.Now()}
	r.World, r.Report = Make(cfg), &Report{Name: name, Config: cfg}
	return r
}

// end fills in what every report has, and begins the next.
func (r *run) end() *Report {
	r.settleLookups()
	p, w := r.Report, r.World
	p.Real, p.Virtual, p.Events = time.Since(r.since), w.Now()-r.virtual, w.Steps-r.events
	p.Members, p.Running, p.Consistent = len(w.members), w.Running(), w.Consistent()
	p.Joins, p.Attaches, p.Lookups = w.Joins, w.Attaches, w.Lookups
	p.Invariants, w.Invariants = w.Invariants, Invariants{}
	counts := w.moved
	w.running(func(m *Machine) { counts = add(counts, m.Node.Counters(), 1) })
	p.Counters = add(counts, r.counts, -1)
	w.running(func(m *Machine) {
		n := m.Node.Connections()
		p.Degree, p.DegreeMax = p.Degree+float64(n)/float64(p.Running), max(p.DegreeMax, n)
	})
	p.Net = fmt.Sprintf("%+v", w.Stats)
	p.Trace = w.Trace.Sum()
	used := heap() - r.heap
	p.HeapMiB, p.HeapPerNode = int(used>>20), int(used)/max(1, p.Running)
	r.Report = &Report{Config: p.Config}
	r.since, r.virtual, r.events, r.counts = time.Now(), w.Now(), w.Steps, counts
	return p
}

// traffic measures what nodes send over a time in which nothing is asked.
func (r *run) traffic(over time.Duration) {
	type sent struct{ bytes, pkts uint64 }
	before := map[*Machine]sent{}
	r.running(func(m *Machine) { before[m] = sent{m.Host.SentBytes, m.Host.Sent} })
	r.Run(r.Now() + over)
	var bytes, pkts, n float64
	r.running(func(m *Machine) {
		if b, ok := before[m]; ok {
			bytes += float64(m.Host.SentBytes - b.bytes)
			pkts += float64(m.Host.Sent - b.pkts)
			n++
		}
	})
	r.BytesPerSec, r.PktsPerSec = bytes/n/over.Seconds(), pkts/n/over.Seconds()
}

// relayed counts the datagrams of others.
func (m *Machine) relayed() uint64 {
	c := m.Node.Counters().Relayed
	if p, ok := m.links.(*plain); ok {
		c += p.carried
	}
	return c
}

// load measures who forwards how much, and relays besides, while members look up.
func (r *run) load(lookups int, over time.Duration) {
	type done struct{ forwarded, relayed uint64 }
	of := func(m *Machine) done { return done{m.Node.Counters().Forwarded, m.relayed()} }
	before := map[*core.Node]done{}
	r.running(func(m *Machine) { before[m.Node] = of(m) })
	r.Look(lookups, over)
	r.Run(r.Now() + over + core.LookupTime)
	var forwarded, all []float64
	r.running(func(m *Machine) {
		if b, ok := before[m.Node]; ok {
			d := of(m)
			forwarded = append(forwarded, float64(d.forwarded-b.forwarded))
			all = append(all, float64(d.forwarded-b.forwarded+d.relayed-b.relayed))
		}
	})
	slices.Sort(forwarded)
	r.Load, r.LoadMaxMean, r.CarriedMaxMean = forwarded, maxMean(forwarded), maxMean(all)
}

func maxMean(all []float64) float64 {
	sum := 0.0
	for _, x := range all {
		sum += x
	}
	if sum == 0 {
		return 0
	}
	return slices.Max(all) / (sum / float64(len(all)))
}

// recover runs on until every successor is right, up to a limit, and notes how
// long that took since the event. It looks every step.
func (r *run) recover(since, limit, step time.Duration) {
	for r.Now() < since+limit {
		r.Run(r.Now() + step)
		if r.World.Consistent() == 1 && r.allMembers() {
			r.Recovered = r.Now() - since
			return
		}
	}
	r.Recovered = time.Duration(math.MaxInt64)
}

func (r *run) allMembers() bool { return len(r.members) == r.World.Running() }

// Print writes the report for people.
func (p *Report) Print(to io.Writer) {
	f := func(format string, args ...any) { fmt.Fprintf(to, format+"\n", args...) }
	f("%s: %d machines, %d bootstrap nodes, seed %d", p.Name, p.Config.Machines, p.Config.Bootstraps, p.Config.Seed)
	f("  run      %v virtual in %.1f s (%.1f times real time), %d events, %.2f M/s; heap %d MiB, %d bytes a node",
		p.Virtual.Round(time.Second), p.Real.Seconds(), p.Virtual.Seconds()/p.Real.Seconds(), p.Events,
		float64(p.Events)/p.Real.Seconds()/1e6, p.HeapMiB, p.HeapPerNode)
	f("  members  %d of %d running; successors right %.4f", p.Members, p.Running, p.Consistent)
	f("  join     attached p50/p90/p99 %v; member %v (%d)", &p.Attaches, &p.Joins, p.Joins.Len())
	if p.Lookups.Asked > 0 {
		f("  lookup   %d asked, %d answered, %d right: success %.4f; round trip p50/p90/p99 %v; hops mean %.2f, p99 %d",
			p.Lookups.Asked, p.Lookups.Answered, p.Lookups.Right, p.Lookups.Success(), &p.Lookups.Took, p.Lookups.MeanHops(), p.Lookups.HopsAt(0.99))
	}
	if p.BytesPerSec > 0 {
		f("  idle     %.0f bytes/s, %.2f datagrams/s sent by a node", p.BytesPerSec, p.PktsPerSec)
	}
	f("  degree   mean %.1f, most %d", p.Degree, p.DegreeMax)
	if p.LoadMaxMean > 0 {
		f("  load     forwarded max/mean %.1f, with what is relayed %.1f", p.LoadMaxMean, p.CarriedMaxMean)
	}
	if p.Recovered > 0 {
		f("  healed   %v after", p.Recovered.Round(time.Second))
	}
	for _, n := range p.Notes {
		f("  note     %s", n)
	}
	f("  checked  %d times: %d broken; live members skipped by their predecessor: at most %.4f at once, %v the longest",
		p.Invariants.Checks, len(p.Invariants.Broken), p.Invariants.Skipped, p.Invariants.Longest)
	for _, b := range p.Invariants.Broken {
		f("  BROKEN   %s", b)
	}
	f("  counted  %+v", p.Counters)
	f("  network  %s", p.Net)
	f("  trace    %s", p.Trace)
}
