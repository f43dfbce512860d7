package scenario

import (
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/wire"
)

// unbroken wants no invariant broken, and at least one look.
func unbroken(t *testing.T, r *Report) {
	t.Helper()
	for _, b := range r.Invariants.Broken {
		t.Errorf("%s: %s", r.Name, b)
	}
	if r.Invariants.Checks == 0 {
		t.Errorf("%s: the invariants were never looked at", r.Name)
	}
}

// lasting wants no live member skipped by its predecessor for longer.
func lasting(t *testing.T, r *Report, limit time.Duration) {
	t.Helper()
	if r.Invariants.Longest > limit {
		t.Errorf("%s: a live member was skipped by its predecessor for %v, want %v", r.Name, r.Invariants.Longest, limit)
	}
}

func TestOrdered(t *testing.T) {
	peers := func(first ...byte) (l []wire.Peer) {
		for _, b := range first {
			l = append(l, wire.Peer{ID: nodeid.ID{b}})
		}
		return l
	}
	for _, tc := range []struct {
		name string
		side []wire.Peer
		ok   bool
	}{
		{"none", nil, true}, {"in order", peers(5, 9, 200), true}, {"past zero", peers(250, 1, 2), true},
		{"itself", peers(5, 4), false}, {"twice", peers(5, 5), false}, {"out of order", peers(9, 5), false}, {"once round", peers(200, 3, 5), false},
	} {
		if err := ordered(nodeid.ID{4}, tc.side, nodeid.Clockwise); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// TestSkippedIsSeen: the looks notice a live member that nobody reaches, and
// lists that are not in order.
func TestSkippedIsSeen(t *testing.T) {
	r := begin("skipped", Config{Seed: 3, Machines: 16, Bootstraps: 3, Net: sim.Usual})
	r.grow()
	r.Run(r.Now() + 30*time.Second)
	if v := r.World.Invariants; v.Longest > 0 || len(v.Broken) > 0 || v.Checks < 3 {
		t.Fatalf("nothing happened, and: %+v", v)
	}
	sides := make([]uint8, r.Hosts())
	sides[r.Bootstraps[1].Host.Name] = 1 // founders stay members, alone if need be
	r.Partition(sides)                   // behind the World's back: it still counts as a member of the whole
	r.Run(r.Now() + time.Minute)
	if v := r.World.Invariants; v.Longest < 30*time.Second || v.Skipped < 1.0/19 {
		t.Errorf("a member that nobody reaches for a minute: %+v", v)
	}
}
