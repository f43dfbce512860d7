package scenario

import (
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/sim/report"
)

// simRun is one of the runs of make sim.
type simRun struct {
	name, what string
	event      string        // the mark from which its course is counted; "": the first lookup
	bin        time.Duration // of its course
	extra      bool          // only when it is named: the document does not show it
	config     Config
	phase      Phase
}

// simRuns are the runs of make sim at n machines: those of one world one after
// the other, each beginning with what the one before left. The one that kills
// is the last.
func simRuns(n int) (worlds [][]simRun) {
	world := func(mix Mix, runs ...simRun) {
		for i := range runs {
			runs[i].config = Config{Seed: 1, Machines: n, Bootstraps: max(4, n/20), Net: sim.Usual, NAT: mix, Drift: 100}
		}
		worlds = append(worlds, runs)
	}
	world(Public, simRun{name: "steady", what: "public addresses; nothing happens", bin: 5 * time.Second, phase: Quiet()})
	world(NAT70,
		simRun{name: "nat", what: "70 % behind NATs; nothing happens", bin: 5 * time.Second, phase: Quiet()},
		simRun{name: "flash", what: "a tenth more joins within 10 s", event: "flash", bin: time.Second, phase: Flash()},
		simRun{name: "split", what: "halves for 5 min, then whole", event: "heal", bin: 5 * time.Second, phase: Split(5 * time.Minute)},
		simRun{name: "churn-10m", what: "median session 10 min", bin: 10 * time.Second, phase: Churn(10*time.Minute, 1, 5*time.Minute)},
		simRun{name: "weibull", what: "as churn-10m, but the young die sooner", bin: 10 * time.Second, extra: true, phase: Churn(10*time.Minute, 0.5, 5*time.Minute)},
		simRun{name: "churn-84s", what: "median session 1.4 min", bin: 10 * time.Second, phase: Churn(84*time.Second, 1, 3*time.Minute)},
		simRun{name: "massacre", what: "30 % die at once", event: "massacre", bin: time.Second, phase: Massacre(0.3)})
	world(AllNAT, simRun{name: "all-nat", what: "everybody but the bootstrap nodes behind NATs", bin: 5 * time.Second, extra: true, phase: Quiet()})
	world(Wild, simRun{name: "wild", what: "90 % behind NATs, a third of them symmetric", bin: 5 * time.Second, extra: true, phase: Quiet()})
	return worlds
}

// TestSim is make sim: it makes the runs that are asked for, and leaves their
// results. Without make it makes the same runs with few machines, and wants a
// figure for every row of the document that is about them.
func TestSim(t *testing.T) {
	order, err := report.Ordered()
	if err != nil {
		t.Fatal(err)
	}
	small := order.Dir == ""
	if small {
		order.Dir, order.Nodes = t.TempDir(), 24
	}
	for _, runs := range simRuns(order.Nodes) {
		runs = slices.DeleteFunc(runs, func(s simRun) bool {
			return s.extra && !slices.Contains(order.Only, s.name) || !order.Wants(s.name, s.config.Machines, s.config.Seed)
		})
		if len(runs) == 0 {
			continue
		}
		c := &course{}
		cfg := runs[0].config
		cfg.Recorder = c
		var phases []Phase
		for _, s := range runs {
			phases = append(phases, s.phase)
		}
		for i, r := range Run(cfg, phases...) {
			if testing.Verbose() {
				r.Print(os.Stdout)
			}
			unbroken(t, r)
			if err := report.Save(order.Dir, result(runs[i], r, c)); err != nil {
				t.Fatal(err)
			}
			*c = course{}
		}
	}
	if !small {
		return
	}
	rs, err := report.Load(order)
	if err != nil {
		t.Fatal(err)
	}
	for _, lacking := range rs.Missing() {
		if lacking != "coarse: hops.mean" && lacking != "coarse: ks.ratio" { // the ring's own test
			t.Errorf("no figure for %s", lacking)
		}
	}
	for name, r := range rs {
		for _, key := range []string{"hops.mean", "success", "degree", "degree.max", "join.p50", "lookup.p99", "heap.node"} {
			if r.Figures[key] <= 0 && !(key == "join.p50" && (name == "split" || name == "massacre")) { // where nobody joins
				t.Errorf("%s: %s is %v", name, key, r.Figures[key])
			}
		}
	}
	if err := rs.Draw(t.TempDir()); err != nil {
		t.Error(err)
	}
}

// result turns a report into what is kept of it.
func result(s simRun, r *Report, c *course) report.Result {
	f := map[string]float64{
		"hops.mean": r.Lookups.MeanHops(), "hops.p99": float64(r.Lookups.HopsAt(0.99)), "success": r.Lookups.Success(),
		"consistent": r.Consistent, "members": float64(r.Members), "running": float64(r.Running), "heap.node": float64(r.HeapPerNode),
		"degree": r.Degree, "degree.max": float64(r.DegreeMax), "load": r.LoadMaxMean, "carried": r.CarriedMaxMean, "skipped": r.Invariants.Skipped, "skipped.longest": r.Invariants.Longest.Seconds(),
		"broken": float64(len(r.Invariants.Broken)), "checks": float64(r.Invariants.Checks), "bytes": r.BytesPerSec, "packets": r.PktsPerSec,
		"recovered": math.Ceil(r.Recovered.Seconds()),
	}
	for name, d := range map[string]*Durations{"join": &r.Joins, "attach": &r.Attaches, "lookup": &r.Lookups.Took} {
		f[name+".p50"], f[name+".p90"], f[name+".p99"] = d.At(0.5).Seconds(), d.At(0.9).Seconds(), d.At(0.99).Seconds()
	}
	switch s.name {
	case "massacre":
		f["success.first"] = c.success(c.marks["massacre"], c.marks["massacre"]+5*time.Second)
	case "split":
		f["success.cut"] = c.success(c.marks["cut"], c.marks["heal"])
	}
	return report.Result{
		Run: s.name, What: s.what, Nodes: s.config.Machines, Bootstraps: s.config.Bootstraps, Seed: s.config.Seed,
		Figures: f, Hops: r.Lookups.Hops, Course: c.points(s),
		Samples: map[string][]float64{"join": report.Thin(r.Joins.Seconds(), 500), "lookup": report.Thin(r.Lookups.Took.Seconds(), 500),
			"load": report.Thin(r.Load, 1000)},
		VirtualSeconds: r.Virtual.Seconds(), Seconds: r.Real.Seconds(), HeapMiB: r.HeapMiB, Events: r.Events, Trace: r.Trace, Notes: r.Notes,
	}
}

// course is a Recorder of when lookups were asked and which were right.
type course struct {
	asked []time.Duration
	right []bool
	marks map[string]time.Duration
}

func (c *course) Started(time.Duration, nodeid.ID, bool)                    {}
func (c *course) Member(time.Duration, nodeid.ID, bool)                     {}
func (c *course) Died(time.Duration, nodeid.ID)                             {}
func (c *course) Connected(time.Duration, nodeid.ID, nodeid.ID, link.State) {}
func (c *course) Disconnected(time.Duration, nodeid.ID, nodeid.ID)          {}

func (c *course) Looked(at time.Duration, l Lookup) {
	c.asked, c.right = append(c.asked, at-l.Took), append(c.right, l.Right)
}

func (c *course) Marked(at time.Duration, what string) {
	if c.marks == nil {
		c.marks = map[string]time.Duration{}
	}
	c.marks[what] = at
}

// success returns the share of right answers to lookups asked from from on,
// before to.
func (c *course) success(from, to time.Duration) float64 {
	right, n := 0, 0
	for i, at := range c.asked {
		if from <= at && at < to {
			n++
			if c.right[i] {
				right++
			}
		}
	}
	return float64(right) / float64(max(1, n))
}

// points sorts the lookups into pieces of time.
func (c *course) points(s simRun) (ps []report.Point) {
	if len(c.asked) == 0 {
		return nil
	}
	from := c.marks[s.event]
	if s.event == "" {
		from = slices.Min(c.asked)
	}
	piece := func(at time.Duration) int { return int(math.Floor(float64(at-from) / float64(s.bin))) }
	first, last := piece(slices.Min(c.asked)), piece(slices.Max(c.asked))
	for p := first; p <= last; p++ {
		ps = append(ps, report.Point{At: (float64(p) + 0.5) * s.bin.Seconds()})
	}
	for i, at := range c.asked {
		p := &ps[piece(at)-first]
		p.Asked++
		if c.right[i] {
			p.Right++
		}
	}
	return ps
}
