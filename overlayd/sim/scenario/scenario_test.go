package scenario

import (
	"iter"
	"os"
	"runtime"
	"testing"
	"time"

	"gridappliance/overlayd/sim"
)

// small is a world that a test can afford.
func small(seed uint64) Config {
	return Config{Seed: seed, Machines: 44, Bootstraps: 4, Net: sim.Usual, NAT: NAT70, Drift: 100}
}

// show prints a report when the test is asked to be verbose.
func show(t *testing.T, r *Report) *Report {
	if testing.Verbose() {
		r.Print(os.Stdout)
	}
	unbroken(t, r)
	if r.Counters.Malformed > 0 {
		t.Errorf("%d malformed messages", r.Counters.Malformed)
	}
	return r
}

// first returns the report of the first phase.
func first(reports iter.Seq2[int, *Report]) *Report {
	for _, r := range reports {
		return r
	}
	return nil
}

// whole wants one ring of all that run.
func whole(t *testing.T, r *Report) {
	t.Helper()
	if r.Members != r.Running || r.Consistent != 1 {
		t.Errorf("%d members of %d, successors right %.3f", r.Members, r.Running, r.Consistent)
	}
}

func success(t *testing.T, r *Report, want float64) {
	t.Helper()
	if s := r.Lookups.Success(); s < want || r.Lookups.Asked == 0 {
		t.Errorf("lookups: success %.4f of %d, want %.3f", s, r.Lookups.Asked, want)
	}
}

func TestQuiet(t *testing.T) {
	r := show(t, first(Run(small(1), Quiet())))
	whole(t, r)
	lasting(t, r, 0)
	success(t, r, 0.995)
	if p := r.Joins.At(0.5); p > 1500*time.Millisecond {
		t.Errorf("join p50 %v, want 1.5 s", p)
	}
	if p := r.Lookups.Took.At(0.99); p > 1500*time.Millisecond {
		t.Errorf("lookup p99 %v, want 1.5 s", p)
	}
	if r.BytesPerSec > 600 || r.LoadMaxMean > 8 || r.Counters.TooLong > 0 {
		t.Errorf("idle %.0f bytes/s, load max/mean %.1f, %d payloads too long; want at most 600, 8, 0", r.BytesPerSec, r.LoadMaxMean, r.Counters.TooLong)
	}
}

func TestChurn(t *testing.T) {
	success(t, show(t, first(Run(small(2), Churn(10*time.Minute, 1, 2*time.Minute)))), 0.98)
}

func TestMassacre(t *testing.T) {
	r := show(t, first(Run(small(3), Massacre(0.3))))
	whole(t, r)
	lasting(t, r, 20*time.Second)
	success(t, r, 0.99)
	if r.Recovered > 30*time.Second {
		t.Errorf("one ring again after %v, want 30 s", r.Recovered)
	}
}

func TestSplit(t *testing.T) {
	r := show(t, first(Run(small(4), Split(5*time.Minute))))
	whole(t, r)
	success(t, r, 0.99)
	if r.Recovered > 60*time.Second {
		t.Errorf("one ring again after %v, want a minute", r.Recovered)
	}
}

func TestFlash(t *testing.T) {
	r := show(t, first(Run(small(5), Flash())))
	whole(t, r)
	lasting(t, r, 10*time.Second)
	success(t, r, 0.98)
}

// TestReplay: equal Configs, equal traces, on one processor and on two.
func TestReplay(t *testing.T) {
	run := func(seed uint64, procs int) string {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		cfg := small(seed)
		cfg.Machines = 20
		return first(Run(cfg, Flash())).Trace
	}
	one := run(6, 1)
	if two := run(6, 2); one != two {
		t.Errorf("one processor %s, two %s", one, two)
	}
	if one == run(7, 2) {
		t.Error("another seed gave the same trace")
	}
}

// TestReal runs what the product runs: certificates, handshakes, records,
// checks, relays.
func TestReal(t *testing.T) {
	g, err := NewGrid()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Seed: 8, Machines: 12, Bootstraps: 3, Net: sim.Usual, NAT: NAT70, Identify: g.Identify}
	r := show(t, first(Run(cfg, Quiet())))
	whole(t, r)
	success(t, r, 0.98)
}
