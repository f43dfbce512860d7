package scenario

import (
	"os"
	"slices"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/sim"
)

// seq is the fencing number of a machine's lease.
func seq(m *Machine) (seq, epoch uint64) {
	_, l := m.Node.Lease(ClaimAddress)
	return l.Certificate.Seq, l.Certificate.Epoch
}

// TestChanges: on one small grid with short leases, one after the other, a
// revocation, another roster of witnesses and a partition.
func TestChanges(t *testing.T) {
	s := NewSite(found(t, 3, 60, 3600), Config{Seed: 12, Machines: 17, Bootstraps: 3, Net: sim.Usual, NAT: Wild, Drift: 100}, false)
	s.Start(5, 190*time.Second)
	s.distinct(t)
	s.revokes(t, s.World.Machines[3], s.World.Machines[0])
	s.changesRoster(t, s.World.Machines[1])
	s.parts(t)
}

// revokes publishes at one machine that another's floppy is revoked.
func (s *Site) revokes(t *testing.T, victim, at *Machine) {
	t.Helper()
	before, _ := seq(victim)
	floppy, err := s.floppy(s.Disks[victim].user)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Grid.Revoke([]string{floppy.Holder.Serial}, "stolen", nil, at.Host.Now()); err != nil {
		t.Fatal(err)
	}
	connected := func() (n int) {
		for _, m := range s.All() {
			if m != victim && m.Node.ConnectedTo(victim.Node.ID()) {
				n++
			}
		}
		return n
	}
	if connected() == 0 {
		t.Fatal("the machine to be revoked has no connections")
	}
	began, peers := s.Now(), connected()
	at.handle(core.Publish{Text: s.Grid.Revocations.Text()})
	for connected() > 0 && s.Now() < began+10*time.Second {
		s.Run(s.Now() + 100*time.Millisecond)
	}
	if n := connected(); n > 0 {
		t.Errorf("%d connections to a revoked machine after 10 s", n)
	}
	t.Logf("revoked: %d connections closed within %v", peers, s.Now()-began)
	s.Run(began + 3*time.Minute)
	if after, _ := seq(victim); after != before && after != before+1 {
		t.Errorf("a revoked machine's lease was renewed: seq %d, before %d", after, before)
	}
	if n := connected(); n > 0 {
		t.Errorf("%d connections to a revoked machine after 3 min", n)
	}
	s.Kill(victim)
}

// changesRoster replaces the last witness by a machine.
func (s *Site) changesRoster(t *testing.T, witness *Machine) {
	t.Helper()
	list := slices.Clone(s.Grid.Descriptor.Witnesses)
	list[2] = credential.Witness{Name: s.Disks[witness].user, ID: credential.NodeID(witness.Node.ID())}
	if err := s.Grid.Amend(func(d *credential.Descriptor) { d.ChangeWitnesses(list, nil, false, nil) }, witness.Host.Now()); err != nil {
		t.Fatal(err)
	}
	began := s.Now()
	s.World.Machines[7].handle(core.Publish{Text: s.Grid.Descriptor.Text()})
	behind := func() (n int) {
		for _, m := range s.All() {
			if s.Trusted[m].Descriptor != s.Grid.Descriptor.Version {
				n++
			}
		}
		return n
	}
	for behind() > 0 && s.Now() < began+10*time.Second {
		s.Run(s.Now() + 100*time.Millisecond)
	}
	if n := behind(); n > 0 {
		t.Errorf("%d machines do not have the descriptor after 10 s", n)
	}
	t.Logf("descriptor at all within %v", s.Now()-began)
	s.Run(began + 3*time.Minute)
	s.distinct(t)
	for _, m := range s.All() {
		if epoch, stopped := m.Node.Roster(); epoch != 2 || !stopped {
			t.Errorf("machine %d: roster %d, the one before has stopped: %v", m.Host.Name, epoch, stopped)
		}
		if _, epoch := seq(m); s.master(m) < 0 && epoch != 2 {
			t.Errorf("machine %d: lease of epoch %d", m.Host.Name, epoch)
		}
	}
	if is, votes := witness.Node.Witness(); !is || !votes {
		t.Errorf("the new witness: %v, votes %v", is, votes)
	}
}

// parts cuts the internet in halves for five minutes: two witnesses on one
// side, one on the other.
func (s *Site) parts(t *testing.T) {
	t.Helper()
	sides := make([]uint8, s.Hosts())
	for i, m := range s.All() {
		sides[m.Host.Name] = uint8(i & 1)
	}
	before := s.distinct(t)
	s.Partition(sides)
	s.Run(s.Now() + 5*time.Minute)
	during := s.distinct(t)
	for a, m := range before {
		if during[a] != m {
			t.Errorf("%v is no longer machine %d's", a, m.Host.Name)
		}
	}
	s.Heal()
	s.Run(s.Now() + 90*time.Second)
	for a, m := range s.distinct(t) {
		if before[a] != m {
			t.Errorf("machine %d has another address, %v", m.Host.Name, a)
		}
		if !m.OnRing {
			t.Errorf("machine %d is not on the ring", m.Host.Name)
		}
	}
	s.resolve(t, len(s.All()))
}

// TestClone copies a running machine's disk into two others: one that does not
// notice, and one whose daemon did, and began with a new key and instance. Of
// three seeds, with LONG set of forty.
func TestClone(t *testing.T) {
	seeds := uint64(3)
	if os.Getenv("LONG") != "" {
		seeds = 40
	}
	for seed := range seeds {
		s := NewSite(found(t, 3, 60, 3600), Config{Seed: seed, Machines: 6, Bootstraps: 3, Net: sim.Usual, NAT: Wild, Drift: 100}, false)
		s.clone(t)
	}
}

func (s *Site) clone(t *testing.T) {
	s.Start(5, 190*time.Second)
	s.distinct(t)
	m := s.World.Machines[5]
	blind, aware := s.machine(false), s.machine(false)
	s.World.Machines = append(s.World.Machines, blind, aware)
	s.Disks[blind], s.Disks[aware] = s.Disks[m].Copy(), s.Disks[m].Copy()
	s.Disks[aware].key, s.Disks[aware].keyName = nil, "clone"
	s.Up(aware)
	s.Run(s.Now() + time.Minute)
	s.distinct(t)
	if len(s.Told) != 0 {
		t.Errorf("seed %d: alarms before there is a copy: %v", s.Seed, s.Told)
	}
	began := s.Now()
	s.Up(blind)
	told := func(m *Machine) bool {
		return slices.ContainsFunc(s.Told[m], func(a core.Alarm) bool { return a.Node == m.Node.ID() })
	}
	for !(told(m) && told(blind)) && s.Now() < began+2*time.Minute {
		s.Run(s.Now() + time.Second)
	}
	if !told(m) || !told(blind) {
		t.Errorf("seed %d: after %v the machine was told: %v, its copy: %v", s.Seed, s.Now()-began, told(m), told(blind))
	}
	t.Logf("seed %d: machine and copy both told after %v", s.Seed, s.Now()-began)
}
