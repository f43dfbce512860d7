package lease_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// stopped is the word of the witnesses of r.Previous that they stopped.
func stopped(r *lease.Roster, by ...nodeid.ID) *wire.Stopped {
	s := &wire.Stopped{Epoch: r.Epoch, Digest: r.Digest()}
	for _, id := range by {
		stop := wire.Stop{Witness: id, Epoch: s.Epoch, Digest: s.Digest}
		s.Stops = append(s.Stops, wire.StoppedWitness{Witness: id, Signature: fast{id}.Sign(stop.Signed(nil))})
	}
	return s
}

// TestEpochsFollow: a roster counts only when it follows from the one known.
func TestEpochsFollow(t *testing.T) {
	a, b, c, d := []nodeid.ID{{1}, {2}, {3}}, []nodeid.ID{{3}, {4}, {5}}, []nodeid.ID{{5}, {6}, {7}}, []nodeid.ID{{8}}
	one := lease.Roster{Epoch: 1, Witnesses: a}
	two := lease.Roster{Epoch: 2, Witnesses: b, Previous: a}
	three := func(f *wire.Stopped) lease.Roster {
		return lease.Roster{Epoch: 3, Witnesses: c, Previous: b, Follows: f}
	}
	good := stopped(&two, a[0], a[1])
	forged := stopped(&two, a[0], a[1])
	forged.Stops[1].Signature.Value[0]++
	for _, test := range []struct {
		name  string
		known []lease.Roster
		next  lease.Roster
		ok    bool
	}{
		{"the next", []lease.Roster{one}, two, true},
		{"the next, of other predecessors", []lease.Roster{one}, lease.Roster{Epoch: 2, Witnesses: b, Previous: d}, false},
		{"the third, with proof", []lease.Roster{one, two}, three(good), true},
		{"the third, without", []lease.Roster{one, two}, three(nil), false},
		{"the third, one of three stopped", []lease.Roster{one, two}, three(stopped(&two, a[0])), false},
		{"the third, one twice", []lease.Roster{one, two}, three(stopped(&two, a[0], a[0])), false},
		{"the third, a stranger's word", []lease.Roster{one, two}, three(stopped(&two, a[0], nodeid.ID{9})), false},
		{"the third, forged", []lease.Roster{one, two}, three(forged), false},
		{"the third, proof of another change", []lease.Roster{one, two}, three(stopped(&lease.Roster{Epoch: 2, Witnesses: c, Previous: a}, a[0], a[1])), false},
		{"the third, by force", []lease.Roster{one, two}, lease.Roster{Epoch: 3, Witnesses: c, Previous: b, Forced: true}, true},
		{"over the second, with proof", []lease.Roster{one}, three(good), true},
		{"over the second, without", []lease.Roster{one}, three(nil), false},
		{"far ahead, without", []lease.Roster{one}, lease.Roster{Epoch: 7, Witnesses: c, Previous: b}, false},
		{"the first that is known", nil, three(good), true},
	} {
		book := lease.NewBook(fast{})
		for _, r := range test.known {
			if _, err := book.Accept(r, epoch); err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
		}
		newer, err := book.Accept(test.next, epoch)
		if newer != test.ok || (err == nil) != test.ok || err != nil && !errors.Is(err, lease.ErrSkipped) {
			t.Errorf("%s: %v, %v", test.name, newer, err)
		}
		if newer, err := book.Accept(one, epoch); newer || err != nil {
			t.Errorf("%s: an older roster: %v, %v", test.name, newer, err)
		}
	}
}

// TestRosterOfDescriptor goes the whole way: signed by a root, read by a node.
func TestRosterOfDescriptor(t *testing.T) {
	g, err := credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 3, Namespaces: []credential.Namespace{{Name: "net"}}}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	first, err := lease.RosterOf(g.Descriptor)
	if err != nil || first.Epoch != 1 || len(first.Witnesses) != 3 || !slices.IsSortedFunc(first.Witnesses, nodeid.ID.Compare) {
		t.Fatalf("%+v, %v", first, err)
	}
	force := epoch.Add(time.Hour)
	if err := g.Amend(func(d *credential.Descriptor) { d.ChangeWitnesses(d.Witnesses[1:], nil, false, &force) }, epoch); err != nil {
		t.Fatal(err)
	}
	second, err := lease.RosterOf(g.Descriptor)
	if err != nil || !slices.Equal(second.Previous, first.Witnesses) || !second.ForceAfter.Equal(force) {
		t.Fatalf("%+v, %v", second, err)
	}
	proof := stopped(&second, first.Witnesses[:2]...)
	if err := g.Amend(func(d *credential.Descriptor) { d.ChangeWitnesses(d.Witnesses, proof.Append(nil), false, nil) }, epoch); err != nil {
		t.Fatal(err)
	}
	third, err := lease.RosterOf(g.Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	book := lease.NewBook(fast{})
	for _, r := range []lease.Roster{first, second, third} {
		if newer, err := book.Accept(r, epoch); !newer || err != nil {
			t.Errorf("epoch %d: %v, %v", r.Epoch, newer, err)
		}
	}
	policy := lease.PolicyOf(g.Descriptor)
	if l, h, ok := policy.Times("net"); l != time.Hour || h != 7*24*time.Hour || !ok {
		t.Errorf("times %v, %v, %v", l, h, ok)
	}
	if policy.Leasable("net", g.Descriptor.Masters[0].Address) {
		t.Error("a master's address can be leased")
	}
}

// TestKeepers: of many witnesses five keep a record, the same whatever the order
// of the roster; each keeps about as many as the others; of five all do.
func TestKeepers(t *testing.T) {
	var r lease.Roster
	for i := range byte(20) {
		r.Witnesses = append(r.Witnesses, nodeid.ID{0: i}) // close together on the ring
	}
	kept := map[nodeid.ID]int{}
	const keys = 4000
	for i := range keys {
		key := nodeid.ID{0: byte(i), 1: byte(i >> 8)}
		keepers := r.Keepers(key)
		if len(keepers) != wire.MaxVoters {
			t.Fatalf("%d keepers, want %d", len(keepers), wire.MaxVoters)
		}
		backwards := lease.Roster{Witnesses: slices.Clone(r.Witnesses)}
		slices.Reverse(backwards.Witnesses)
		if !slices.Equal(keepers, backwards.Keepers(key)) {
			t.Fatal("another order of the roster, other keepers")
		}
		for _, w := range keepers {
			kept[w]++
		}
	}
	for w, n := range kept {
		if mean := keys * wire.MaxVoters / 20; n < mean*8/10 || n > mean*12/10 {
			t.Errorf("%v keeps %d, the mean is %d", w, n, mean)
		}
	}
	if few := (lease.Roster{Witnesses: r.Witnesses[:5]}); len(few.Keepers(nodeid.ID{9})) != 5 {
		t.Error("of five witnesses not all keep a record")
	}
}
