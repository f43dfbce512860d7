package scenario

import (
	"testing"
	"time"

	"gridappliance/overlayd/core"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/sim"
)

// TestServices: on a ring of real nodes a record that one publishes is found by
// all others, and a revocation list given to one node is everybody's within
// ten seconds and ends the connections of whom it names.
func TestServices(t *testing.T) {
	g, err := NewGrid()
	if err != nil {
		t.Fatal(err)
	}
	found := map[*Machine]int{}
	changed := map[*Machine]time.Duration{}
	cfg := Config{Seed: 9, Machines: 10, Bootstraps: 3, Net: sim.Usual, Identify: g.Identify}
	var r *run
	cfg.Told = func(m *Machine, a core.Action) {
		switch a := a.(type) {
		case core.Records:
			if len(a.Records) == 1 && string(a.Records[0].Value) == "here" {
				found[m]++
			}
		case core.Trusted:
			changed[m] = r.Now()
		}
	}
	r = begin("services", cfg)
	r.grow()
	machines := r.World.Machines
	owner := machines[0]
	name := dht.Name{Kind: dht.KindLocator, Name: owner.Node.ID().String(), Namespace: "one"}
	owner.handle(core.Put{Name: name, Value: []byte("here")})
	r.Run(r.Now() + 10*time.Second)
	for i, m := range machines[1:] {
		m.handle(core.Get{Token: uint64(i), Name: name})
	}
	r.Run(r.Now() + 10*time.Second)
	if len(found) != len(machines)-1 {
		t.Errorf("%d of %d found the record", len(found), len(machines)-1)
	}

	victim := machines[1]
	list, err := g.Revoke(victim)
	if err != nil {
		t.Fatal(err)
	}
	if victim.Node.Connections() == 0 {
		t.Fatal("the node to be revoked has no connections to lose")
	}
	at := r.Now()
	machines[2].handle(core.Publish{Text: list})
	r.Run(at + 15*time.Second)
	r.running(func(m *Machine) {
		if m != victim && (changed[m] == 0 || changed[m]-at > 10*time.Second) {
			t.Errorf("machine %d has the revocation list after %v", m.Host.Name, changed[m]-at)
		}
	})
	r.running(func(m *Machine) {
		if m != victim && m.Node.ConnectedTo(victim.Node.ID()) {
			t.Errorf("machine %d is connected to the revoked node", m.Host.Name)
		}
	})
}
