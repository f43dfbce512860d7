package scenario

import (
	"fmt"
	"time"

	"gridappliance/overlayd/core"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/wire"
)

// checkEvery is how often the invariants of every node are looked at in a World
// that has grown.
const checkEvery = 10 * time.Second

// maxReserve is how many connections a node has above its budget at most:
// neighbours, first contacts, and calls that crossed.
const maxReserve = 16

// Invariants is what was seen when they were looked at.
//
// Broken ones may never be: a list that is not ordered, or names its node or
// somebody twice; more connections than the bound. That a live member is skipped
// by its predecessor happens when somebody dies or joins, and has to pass.
type Invariants struct {
	Checks  int
	Broken  []string      // the first few
	Skipped float64       // most members at once that their predecessor did not list first, as a share
	Longest time.Duration // that one member was seen so; a multiple of checkEvery
}

// maxBroken bounds the texts of a report.
const maxBroken = 8

func (v *Invariants) broken(at time.Duration, id nodeid.ID, err error) {
	if err != nil && len(v.Broken) < maxBroken {
		v.Broken = append(v.Broken, fmt.Sprintf("after %v, node %s: %v", at.Round(time.Second), id, err))
	}
}

// watchInvariants looks every checkEvery from now on.
func (w *World) watchInvariants() {
	w.skipped = map[*core.Node]time.Duration{}
	var look func()
	look = func() {
		w.checkInvariants()
		w.After(checkEvery, look)
	}
	w.After(checkEvery, look)
}

func (w *World) checkInvariants() {
	v := &w.Invariants
	v.Checks++
	w.running(func(m *Machine) {
		id := m.Node.ID()
		l := m.Node.Ring().List()
		v.broken(w.Now(), id, ordered(id, l.Succs, nodeid.Clockwise))
		v.broken(w.Now(), id, ordered(id, l.Preds, func(a, b nodeid.ID) nodeid.ID { return nodeid.Clockwise(b, a) }))
		budget := ring.BudgetAppliance
		if m.Founder {
			budget = ring.BudgetBootstrap
		}
		if n := m.Node.Connections(); n > budget+maxReserve {
			v.broken(w.Now(), id, fmt.Errorf("%d connections, at most %d and %d", n, budget, maxReserve))
		}
	})
	now := map[*core.Node]time.Duration{}
	n := len(w.members)
	for i, m := range w.members {
		p := w.members[(i+n-1)%n]
		for k := 2; w.side != nil && w.side(p) != w.side(m) && k <= n; k++ {
			p = w.members[(i+n-k+n)%n]
		}
		if succs := p.Node.Ring().List().Succs; p == m || len(succs) > 0 && succs[0].ID == m.Node.ID() {
			continue
		}
		since, ok := w.skipped[m.Node]
		if !ok {
			since = w.Now()
		}
		now[m.Node] = since
		v.Longest = max(v.Longest, w.Now()-since)
	}
	w.skipped = now
	v.Skipped = max(v.Skipped, float64(len(now))/float64(max(1, n)))
}

// ordered says what is wrong with one side of a node's list.
func ordered(self nodeid.ID, side []wire.Peer, away func(from, to nodeid.ID) nodeid.ID) error {
	last := nodeid.ID{}
	for i, p := range side {
		d := away(self, p.ID)
		switch {
		case p.ID == self:
			return fmt.Errorf("place %d of a list is the node itself", i)
		case d.Compare(last) <= 0:
			return fmt.Errorf("place %d of a list is %s, not behind the one before", i, p.ID)
		}
		last = d
	}
	return nil
}
