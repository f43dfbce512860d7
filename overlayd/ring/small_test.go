package ring

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// smallRun lets up to nine nodes join, fail, leave and come back while
// messages are lost, doubled and overtaken, checks the invariants after every
// event, then leaves the ring in peace and wants it whole. The error names
// what was broken first.
type smallRun struct {
	*lab
	listed map[nodeid.ID]bool // has been a member's first successor in this life
	broken error
	steps  int
}

func (r *smallRun) fail(format string, args ...any) {
	if r.broken == nil {
		r.broken = fmt.Errorf(format, args...)
	}
}

func newSmallRun(t testing.TB, seed uint64, rules rules) *smallRun {
	r := &smallRun{lab: newLab(t, seed), listed: map[nodeid.ID]bool{}}
	r.rules = rules
	r.rules.list = []int{minList, 7}[r.rng.IntN(2)] // 7: with a part that is only told
	r.loss = []float64{0, 0.01, 0.05}[r.rng.IntN(3)]
	r.dup = []float64{0, 0.05}[r.rng.IntN(2)]
	r.jitter = []time.Duration{time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond}[r.rng.IntN(3)]
	r.after = r.check
	r.on = func(n *node, a Action) {
		if m, ok := a.(Member); ok && m.On && len(n.sessions) > 0 && !r.listed[n.id] {
			r.fail("%s declares itself a member before a member has it as first successor", n.id)
		}
	}
	return r
}

func (r *smallRun) do() error {
	first := r.id()
	r.add(first, holderOf(first), true)
	kills := 0
	for range 4 + r.rng.IntN(12) {
		r.run(time.Duration(r.rng.Int64N(int64(8 * time.Second))))
		live := r.members()
		switch what := r.rng.IntN(10); {
		case r.broken != nil:
			return r.broken
		case what < 5 && len(r.order) < 9:
			r.birth(r.id(), first)
		case what < 7 && len(live) > minList+1 && kills < minList-1:
			// one of the contacts is always there
			if n := live[r.rng.IntN(len(live))]; n.id != first {
				r.kill(n)
				kills++
			}
		case what < 8 && len(live) > minList+1:
			if n := live[r.rng.IntN(len(live))]; n.id != first {
				r.handle(n, Leave{})
				r.kill(n)
			}
		case what < 9:
			for _, id := range r.order {
				if !r.nodes[id].alive {
					r.birth(id, first)
					break
				}
			}
		default:
			r.run(20 * time.Second)
			kills = 0
		}
	}
	r.loss, r.dup = 0, 0
	r.run(100 * time.Second)
	if r.broken == nil {
		r.broken = r.ideal()
	}
	return r.broken
}

func (r *smallRun) birth(id, contact nodeid.ID) {
	r.listed[id] = false
	r.add(id, holderOf(id), false, contact)
}

// check is the invariants of the package comment.
func (r *smallRun) check() {
	if r.broken != nil {
		return
	}
	r.steps++
	members := r.members()
	for _, n := range members {
		if l := n.List(); len(l.Succs) > 0 {
			r.listed[l.Succs[0].ID] = true
		}
		r.checkOrder(n)
		if len(members) > 1 && len(n.sessions) > 0 && r.best(n) == nil {
			r.fail("%s has no living successor in its list of %d", n.id, len(n.List().Succs))
		}
	}
	r.checkRing(members)
}

func (r *smallRun) checkOrder(n *node) {
	for _, clockwise := range []bool{true, false} {
		side := n.List().Succs
		if !clockwise {
			side = n.List().Preds
		}
		last := nodeid.ID{}
		for _, p := range side {
			d := nodeid.Clockwise(n.id, p.ID)
			if !clockwise {
				d = nodeid.Clockwise(p.ID, n.id)
			}
			if d.Compare(last) <= 0 {
				r.fail("%s: list out of order at %s (clockwise %v)", n.id, p.ID, clockwise)
			}
			last = d
		}
	}
}

// best is a node's first living successor.
func (r *smallRun) best(n *node) *node {
	for _, p := range n.List().Succs {
		if b := r.nodes[p.ID]; b.alive && b.member {
			return b
		}
	}
	return nil
}

// checkRing follows best successors: there is one cycle, it goes round once.
func (r *smallRun) checkRing(members []*node) {
	if len(members) < 2 {
		return
	}
	var cycle []*node
	for _, start := range members {
		seen := map[*node]bool{}
		n := start
		for n != nil && !seen[n] {
			seen[n] = true
			n = r.best(n)
		}
		if n == nil {
			continue // alone for now: its sessions are not up yet
		}
		if cycle == nil {
			for c := n; len(cycle) == 0 || c != n; c = r.best(c) {
				cycle = append(cycle, c)
			}
		} else if !slices.Contains(cycle, n) {
			r.fail("two rings: %s is on one, %s on another", cycle[0].id, n.id)
			return
		}
	}
	wraps := 0
	for i, n := range cycle {
		if n.id.Compare(cycle[(i+1)%len(cycle)].id) >= 0 {
			wraps++
		}
	}
	if len(cycle) > 1 && wraps != 1 {
		r.fail("the ring goes round %d times", wraps)
	}
}

// runs is how often a randomised test runs: short in CI, long under LONG=1.
func runs(short, long int) int {
	if os.Getenv("LONG") != "" {
		return long
	}
	return short
}

func TestInvariantsInSmallRings(t *testing.T) {
	steps := 0
	n := runs(60, 20000)
	for seed := range uint64(n) {
		r := newSmallRun(t, seed, sound)
		if err := r.do(); err != nil {
			t.Fatalf("seed %d after %d steps: %v", seed, r.steps, err)
		}
		steps += r.steps
	}
	t.Logf("%d runs, %d steps checked", n, steps)
}

// TestInvariantCheckerCatchesMutants breaks one rule at a time; the checker
// that passed above must notice.
func TestInvariantCheckerCatchesMutants(t *testing.T) {
	for _, c := range []struct {
		name string
		with func(*rules)
		want string
	}{
		{"no rectify", func(r *rules) { r.rectify = false }, ""},
		{"list not read atomically", func(r *rules) { r.atomic = false }, ""},
		{"member before it is listed", func(r *rules) { r.listed = false }, "declares itself a member"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules := sound
			c.with(&rules)
			for seed := range uint64(60) {
				if err := newSmallRun(t, seed, rules).do(); err != nil {
					if !strings.Contains(err.Error(), c.want) {
						t.Errorf("seed %d: %v, want %q", seed, err, c.want)
					}
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not caught in 60 runs")
		})
	}
}

var _ = wire.MaxList
