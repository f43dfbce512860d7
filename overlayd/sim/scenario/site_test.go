package scenario

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"gridappliance/overlayd/sim"
)

func found(t *testing.T, masters, leaseTime, holdTime int) *Founding {
	t.Helper()
	f, err := Found(masters, leaseTime, holdTime)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// distinct wants every machine that runs to hold an address and all of them to
// be different, and returns the owners.
func (s *Site) distinct(t *testing.T) map[netip.Addr]*Machine {
	t.Helper()
	owners := map[netip.Addr]*Machine{}
	for _, m := range s.All() {
		a, ok := s.Address(m)
		if !ok {
			state, _ := m.Node.Lease(ClaimAddress)
			t.Errorf("machine %d has no address at %v: %v", m.Host.Name, s.Now(), state)
			continue
		}
		if o := owners[a]; o != nil {
			t.Errorf("machines %d and %d both have %v", o.Host.Name, m.Host.Name, a)
		}
		owners[a] = m
	}
	for _, err := range s.errs {
		t.Error(err)
	}
	return owners
}

// TestGrid: machines behind all sorts of translators get addresses and names,
// all different, and resolve each other; one that restarts with its disk has
// its address again.
func TestGrid(t *testing.T) {
	machines := 27
	if os.Getenv("LONG") != "" {
		machines = 57
	}
	s := NewSite(found(t, 3, 3600, 7*86400), Config{Seed: 11, Machines: machines, Bootstraps: 3, Net: sim.Usual, NAT: Wild, Drift: 100}, false)
	s.Start(5, 190*time.Second)
	owners := s.distinct(t)
	var first, last time.Duration
	for _, m := range s.World.Machines {
		for _, at := range s.Leased[m] {
			last = max(last, at-m.Started)
			if first == 0 || at-m.Started < first {
				first = at - m.Started
			}
		}
		if !m.Node.MaySend(ClaimName, m.Host.Now()) {
			t.Errorf("machine %d has no name", m.Host.Name)
		}
	}
	t.Logf("%d of %d members, %d addresses; leases %v to %v after start", len(s.Members()), len(s.All()), len(owners), first, last)
	s.resolve(t, 8)

	m := s.World.Machines[4]
	before, _ := s.Address(m)
	s.Kill(m)
	s.Run(s.Now() + time.Minute)
	s.Up(m)
	s.Run(s.Now() + 20*time.Second)
	if after, ok := s.Address(m); !ok || after != before {
		t.Errorf("restarted: %v %v, before %v", after, ok, before)
	}
	t.Logf("restarted with %v after %v", before, s.Leased[m][ClaimAddress]-m.Started)
	if len(s.Told) > 0 {
		t.Errorf("alarms: %v", s.Told)
	}
}

// resolve wants a number of names to be found from everywhere, with the address
// and the user of their owner.
func (s *Site) resolve(t *testing.T, n int) {
	t.Helper()
	owner := map[string]*Machine{}
	var names []string
	for i := range n {
		m := s.All()[i*len(s.All())/n]
		names = append(names, s.Name(m))
		owner[s.Name(m)] = m
	}
	bad, asked := 0, s.Ask(names)
	for token, name := range asked {
		who, answered := s.Who[token]
		m := owner[name]
		addr, _ := s.Address(m)
		if !answered || who.Err != nil || who.Address != addr || who.ID != m.Node.ID() || who.Node == nil || who.Node.User != s.Disks[m].user {
			if bad++; bad < 5 {
				t.Errorf("%s is %v by %+v", name, addr, who)
			}
		}
	}
	t.Logf("%d of %d resolved", len(asked)-bad, len(asked))
	if bad > 0 {

		t.Errorf("%d of %d not resolved", bad, len(asked))
	}
}
