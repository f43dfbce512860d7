package lease_test

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"
	"time"

	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
)

// sound are the variants in which TRUST.md's promise holds: every kind of
// fault alone, and all of them.
var sound = []variant{
	{name: "loss, duplication, delays to 8 s, clocks", share: 32},
	{name: "crashes without disk", share: 32, amnesia: true, crashes: true},
	{name: "copied witnesses that notice", share: 32, clones: true, partitions: true},
	{name: "roster changes", share: 32, changes: true, partitions: true},
	parted, stormy, contended, splitting,
	everything("everything"),
	withWitnesses(everything("everything, 3 witnesses"), 3),
	withWitnesses(everything("everything, 5 witnesses"), 5),
	withWitnesses(everything("everything, 7 witnesses, 5 a key"), 7),
}

func everything(name string) variant {
	return variant{name: name, share: 24, partitions: true, pauses: true, crashes: true, amnesia: true, clones: true, changes: true, revokes: true}
}

func withWitnesses(v variant, n int) variant {
	v.witnesses = n
	return v
}

// mutant is a variant that breaks one rule, and how many seeds catch it.
type mutant struct {
	variant
	seeds int
}

var mutants = []mutant{
	{broken("no drift margin", contended, func(v *variant) { v.rules.Hold = func(t time.Duration) time.Duration { return t } }), 3000},
	{broken("no recovery after a restart", stormy, func(v *variant) { v.noRecovery = true }), 400},
	{broken("lease counted from the answer", contended, func(v *variant) { v.fromAnswer = true }), 3000},
	{broken("quorum 2 of 5", parted, func(v *variant) { v.witnesses, v.rules.Quorum = 5, func(n int) int { return min(n, 2) } }), 400},
	{broken("witnesses from the local view", parted, func(v *variant) { v.localView = true }), 400},
	{broken("RELEASE on failed renewal", parted, func(v *variant) { v.releaseRenewal = true }), 400},
	{broken("fence by time only", splitting, func(v *variant) { v.fenceByTime = true }), 400},
	{broken("epoch skipped", splitting, func(v *variant) { v.skipEpoch = true }), 400},
	{broken("hold shorter than lease", contended, func(v *variant) { v.rules.Hold = func(t time.Duration) time.Duration { return t / 2 } }), 400},
	{broken("seq chosen by the holder", parted, func(v *variant) { v.rules.AnySeq = true }), 400},
	{broken("clone not noticed", variant{hidden: "clone", duration: 130 * time.Second}, func(v *variant) { v.deaf, v.witnesses = true, 3 }), 400},
}

// The scenes of the mutants: sound rules pass them, too.
var (
	contended = variant{name: "rivals, slow answers, single holders cut off", share: 8, contend: true, witnesses: 3, duration: 130 * time.Second}
	stormy    = variant{name: "one witness after the other forgets", share: 16, storm: true, partitions: true, witnesses: 3, duration: 130 * time.Second}
	parted    = variant{name: "partitions, pauses, crashes", share: 32, partitions: true, pauses: true, crashes: true}
	splitting = variant{name: "new rosters on one side only", share: 8, split: true, witnesses: 3, duration: 180 * time.Second}
)

func broken(name string, v variant, change func(*variant)) variant {
	change(&v)
	v.name = name
	return v
}

// longRuns is how many runs TestExclusion plays with LONG=1, over all variants.
var longRuns = flag.Int("runs", 100_000, "runs of a long simulation")

// TestExclusion plays seeds of every sound variant: 576 runs, or
// 100,000 with LONG=1. Each variant prints a line of the table in
// docs/protocol.md.
func TestExclusion(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	total := 0
	for _, v := range sound {
		total += v.share
	}
	for _, v := range sound {
		runs := 2 * v.share
		if os.Getenv("LONG") != "" {
			runs = *longRuns*v.share/total + 1
		}
		t.Run(v.name, func(t *testing.T) { playSound(t, v, runs) })
	}
}

func playSound(t *testing.T, v variant, runs int) {
	start := time.Now()
	var sum stats
	bad := 0
	for seed := range uint64(runs) {
		w := run(seed, v)
		sum.add(w.stats)
		if len(w.violations) > 0 {
			if bad++; bad < 4 {
				t.Errorf("seed %d: %v", seed, w.violations[0])
			}
		}
	}
	if sum.grants < runs*5 {
		t.Errorf("only %d grants in %d runs", sum.grants, runs)
	}
	t.Logf("| %s | %d | %d | %d | %d | %d | %d | %d | %.0f |", v.name, runs, bad, sum.grants-sum.renewals, sum.renewals,
		sum.crashes, sum.changes, sum.clones, time.Since(start).Seconds())
}

// TestMutantsAreCaught: each broken rule is found by the same checker.
func TestMutantsAreCaught(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	for _, m := range mutants {
		t.Run(m.name, m.play)
	}
}

func (m mutant) play(t *testing.T) {
	bad, played := 0, 0
	for ; played < m.seeds && (bad < 1 || os.Getenv("LONG") != ""); played++ {
		if w := run(uint64(played), m.variant); len(w.violations) > 0 {
			if bad++; bad == 1 {
				t.Logf("seed %d: %s", played, w.violations[0])
			}
		}
	}
	if bad == 0 {
		t.Errorf("not caught in %d runs", played)
	}
	t.Logf("| %s | %d | %d |", m.name, played, bad)
}

// TestSameSeedSameTrace: a seed replays exactly.
func TestSameSeedSameTrace(t *testing.T) {
	for seed := range uint64(5) {
		a, b := run(seed, everything("")), run(seed, everything(""))
		if a.trace != b.trace || a.messages != b.messages {
			t.Errorf("seed %d: traces %x and %x of %d and %d messages", seed, a.trace, b.trace, a.messages, b.messages)
		}
		if c := run(seed+100, everything("")); c.trace == a.trace {
			t.Errorf("seeds %d and %d: one trace", seed, seed+100)
		}
	}
}

// TestHiddenCopiesAreNoticed: what TRUST.md's promise excludes is noticed once
// the machines can talk: of a copied witness at most one still votes, and an
// alarm was raised.
func TestHiddenCopiesAreNoticed(t *testing.T) {
	for _, hidden := range []string{"clone", "rollback"} {
		noticed, copies := 0, 0
		for seed := range uint64(60) {
			w := run(seed, variant{name: hidden, hidden: hidden, partitions: true, witnesses: 3, duration: 330 * time.Second})
			if w.stats.clones == 0 {
				continue
			}
			copies++
			// One record less, and the Show of it lost, is not noticed.
			alarms := w.alarms[lease.AlarmForgot] + w.alarms[lease.AlarmTwinWitness]
			if alarms > 0 {
				noticed++
			}
			votes := map[nodeid.ID]int{}
			for _, h := range w.hosts {
				if h.witness != nil && h.up && h.witness.Voting() {
					if votes[h.id]++; votes[h.id] > 1 {
						t.Errorf("%s: seed %d: two copies of %s vote", hidden, seed, h.name)
					}
				}
			}
		}
		if copies < 30 || noticed*100 < copies*95 {
			t.Errorf("%s: only %d of %d copies noticed", hidden, noticed, copies)
		}
		t.Logf("%s: %d of %d noticed", hidden, noticed, copies)
	}
}

func (s *stats) add(o stats) {
	s.grants += o.grants
	s.renewals += o.renewals
	s.changes += o.changes
	s.recoveries += o.recoveries
	s.crashes += o.crashes
	s.clones += o.clones
	s.suspended += o.suspended
}
