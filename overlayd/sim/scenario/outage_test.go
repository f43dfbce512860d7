package scenario

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"gridappliance/overlayd/core"
	"gridappliance/overlayd/sim"
)

// TestMasterOff switches the only master off, with LONG set for two days: whoever has an
// address keeps it and reaches all others, and a machine that reboots in the
// middle has its old one.
func TestMasterOff(t *testing.T) {
	off := 4 * time.Hour
	if os.Getenv("LONG") != "" {
		off = 48 * time.Hour // 45 s of processor time
	}
	s := NewSite(found(t, 1, 3600, 7*86400), Config{Seed: 14, Machines: 4, Bootstraps: 2, Net: sim.Usual, NAT: AllNAT, Drift: 100}, true)
	s.Start(5, 190*time.Second)
	before := s.distinct(t)
	master := s.Bootstraps[0]
	s.Kill(master)
	s.Run(s.Now() + off/2)
	m := s.World.Machines[2]
	address, _ := s.Address(m)
	s.Kill(m)
	s.Run(s.Now() + time.Minute)
	s.Up(m)
	s.Run(s.Now() + 30*time.Second)
	if a, ok := s.Address(m); !ok || a != address {
		t.Errorf("rebooted without a master: %v %v, before %v", a, ok, address)
	}
	t.Logf("rebooted without a master: %v again after %v", address, s.Leased[m][ClaimAddress]-m.Started)
	s.Run(s.Now() + off/2)
	s.same(t, before, master)
	s.reach(t)

	s.Up(master)
	s.Run(s.Now() + 40*time.Minute)
	s.same(t, before, nil)
	for _, m := range s.All() {
		if _, l := m.Node.Lease(ClaimAddress); s.master(m) < 0 && l.Until().Sub(m.Host.Now()) < 6*24*time.Hour {
			t.Errorf("machine %d: the lease was not renewed: %v left", m.Host.Name, l.Until().Sub(m.Host.Now()))
		}
	}
	t.Logf("%d steps, %v of virtual time", s.Steps, s.Now())
}

// same wants every machine to have the address it had.
func (s *Site) same(t *testing.T, before map[netip.Addr]*Machine, but *Machine) {
	t.Helper()
	now := s.distinct(t)
	for a, m := range before {
		if m != but && now[a] != m {
			t.Errorf("%v is no longer machine %d's", a, m.Host.Name)
		}
	}
}

// reach wants a payload of every machine to find every other over the ring.
func (s *Site) reach(t *testing.T) {
	t.Helper()
	s.Lookups = Lookups{}
	all := s.All()
	for _, m := range all {
		for _, to := range all {
			if m == to {
				continue
			}
			id := to.Node.ID()
			s.token++
			s.asked[s.token] = question{from: m, node: m.Node, key: id, nearest: id}
			s.Lookups.Asked++
			m.handle(core.Lookup{Token: s.token, Key: id})
		}
	}
	s.Run(s.Now() + 5*time.Second)
	if s.Lookups.Right != s.Lookups.Asked {
		t.Errorf("%d of %d pairs reach each other", s.Lookups.Right, s.Lookups.Asked)
	}
	t.Logf("%d of %d pairs reach each other", s.Lookups.Right, s.Lookups.Asked)
}

// TestGridReplays: equal seeds, equal traces, of everything that a grid does.
func TestGridReplays(t *testing.T) {
	f := found(t, 2, 60, 3600)
	run := func(seed uint64) string {
		s := NewSite(f, Config{Seed: seed, Machines: 5, Bootstraps: 3, Net: sim.Usual, NAT: Wild, Drift: 100}, false)
		s.Start(5, 150*time.Second)
		names := []string{s.Name(s.All()[0]), s.Name(s.All()[4])}
		s.Ask(names)
		m := s.World.Machines[1]
		s.Kill(m)
		s.Run(s.Now() + 10*time.Second)
		s.Up(m)
		s.Run(s.Now() + 30*time.Second)
		if n := len(s.distinct(t)); n != 8 {
			t.Errorf("%d addresses", n)
		}
		return s.Trace.Sum()
	}
	one := run(15)
	if two := run(15); one != two {
		t.Errorf("one run %s, the other %s", one, two)
	}
	if other := run(16); other == one {
		t.Error("another seed gave the same trace")
	}
	t.Log(one)
}
