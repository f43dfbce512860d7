package lease_test

import (
	"fmt"
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
	{name: "loss, duplication, delays to 8 s, clocks"},
	{name: "crashes without disk", amnesia: true, crashes: true},
	{name: "copied witnesses that notice", clones: true, partitions: true},
	{name: "roster changes", changes: true, partitions: true},
	contended, stormy, parted, splitting,
	everything("everything"),
	withWitnesses(everything("everything, 3 witnesses"), 3),
	withWitnesses(everything("everything, 5 witnesses"), 5),
	withWitnesses(everything("everything, 7 witnesses, 5 a key"), 7),
}

func everything(name string) variant {
	return variant{name: name, partitions: true, pauses: true, crashes: true, amnesia: true, clones: true, changes: true, revokes: true}
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
	contended = variant{name: "rivals, slow answers, single holders cut off", contend: true, witnesses: 3, duration: 130 * time.Second}
	stormy    = variant{name: "one witness after the other forgets", storm: true, partitions: true, witnesses: 3, duration: 130 * time.Second}
	parted    = variant{name: "partitions, pauses, crashes", partitions: true, pauses: true, crashes: true}
	splitting = variant{name: "new rosters on one side only", split: true, witnesses: 3, duration: 180 * time.Second}
)

func broken(name string, v variant, change func(*variant)) variant {
	change(&v)
	v.name = name
	return v
}

// TestExclusion plays seeds of every sound variant: a few thousand runs, or
// 100,000 with LONG=1 and a table for the documents.
func TestExclusion(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	runs := 120
	if os.Getenv("LONG") != "" {
		runs = 100_000/len(sound) + 1
	}
	for _, v := range sound {
		start := time.Now()
		var sum stats
		bad := 0
		for seed := range uint64(runs) {
			w := run(seed, v)
			sum.add(w.stats)
			if len(w.violations) > 0 {
				if bad++; bad < 4 {
					t.Errorf("%s: seed %d: %v", v.name, seed, w.violations[0])
				}
			}
		}
		if sum.grants < runs*5 {
			t.Errorf("%s: only %d grants and %d renewals in %d runs", v.name, sum.grants, sum.renewals, runs)
		}
		t.Logf("| %s | %d | %d | %d | %d | %d | %d | %d | %.0f |", v.name, runs, bad, sum.grants-sum.renewals, sum.renewals,
			sum.crashes, sum.changes, sum.clones, time.Since(start).Seconds())
	}
}

// TestMutantsAreCaught: each broken rule is found by the same checker.
func TestMutantsAreCaught(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	for _, m := range mutants {
		first, bad, played := -1, 0, 0
		for seed := range m.seeds {
			w := run(uint64(seed), m.variant)
			played++
			if len(w.violations) > 0 {
				bad++
				if first < 0 {
					first = seed
					t.Logf("%s: seed %d: %s", m.name, seed, w.violations[0])
				}
				if bad == 3 && os.Getenv("LONG") == "" {
					break
				}
			}
		}
		if bad == 0 {
			t.Errorf("%s: not caught in %d runs", m.name, played)
		}
		t.Logf("| mutant: %s | %d | %d |", m.name, played, bad)
	}
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
			alarms := w.alarms[lease.AlarmForgot] + w.alarms[lease.AlarmTwinWitness]
			if alarms > 0 {
				noticed++
			} else {
				t.Errorf("%s: seed %d: no alarm", hidden, seed)
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
		if copies < 30 {
			t.Errorf("%s: only %d copies", hidden, copies)
		}
		t.Log(fmt.Sprintf("%s: %d of %d noticed", hidden, noticed, copies))
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
