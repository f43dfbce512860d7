package watch

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gridappliance/firstboot/plan"
)

// step is one event, the time it comes at and what must be done. Reports are
// compared by their state and detail, which is what a person sees.
type step struct {
	at    time.Duration // since the start
	event Event
	want  []Action
	state State         // after it
	next  time.Duration // the deadline after it, since the start; 0 for none
}

var start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const s = time.Second

var (
	address   = netip.MustParseAddr("10.250.0.2")
	elsewhere = netip.MustParseAddr("10.250.7.9")
	lo        = netip.MustParseAddr("127.0.0.1")
	boot      = Units{Start: []string{"grid-firewall.service", "overlayd.service"}}
	condor    = Units{Start: []string{"condor.service"}}
	again     = Units{Restart: []string{"condor.service"}, Start: []string{"condor.service"}}
	master    = Applied{Plan: "p1", Role: "master", Grid: "archer", Group: "infra", Hostname: "head", Overlay: true, Units: boot}
	worker    = Applied{Plan: "p2", Role: "worker", Grid: "archer", Group: "physics", Overlay: true, Units: boot}
	alone     = Applied{Plan: "p3", Role: "standalone", Units: Units{Start: []string{"grid-firewall.service"}}}
	node      = Node{Session: 1, Address: address, Name: "C250000002.ipop", Masters: "m1"}
	moved     = Node{Session: 1, Address: elsewhere, Name: "C250007009.ipop", Masters: "m1"}
	lost      = Node{Session: 1, Detail: "waiting for overlayd"}
	errBroken = errors.New("condor.service is failed")
	none      []Action
)

func host(n Node, alias string) Host { return Host{n.Name, n.Address, alias, n.Masters} }

func probeOf(a netip.Addr) Probe {
	return Probe{Units: []string{"condor.service"}, Collector: netip.AddrPortFrom(a, 9618)}
}

func ready(n Node) Announce {
	return Announce{"grid-appliance: READY name=" + n.Name + " address=" + n.Address.String() + " role=master grid=archer group=infra"}
}

// toReady is a master's way from boot to READY, the beginning of many stories.
func toReady() []step {
	return []step{
		{0, master, []Action{boot}, StateApplied, 0},
		{1 * s, UnitsDone{}, none, StateJoining, 0},
		{2 * s, node, []Action{host(node, "head")}, StateStarting, 0},
		{2 * s, HostDone{}, []Action{Configure{}}, StateStarting, 0},
		{3 * s, Configured{Units: condor, Renew: start.Add(time.Hour)}, []Action{condor}, StateStarting, 0},
		{4 * s, UnitsDone{}, []Action{probeOf(address)}, StateStarting, 0},
		{4 * s, Probed{errBroken}, none, StateStarting, 5 * s},
		{5 * s, Tick{}, []Action{probeOf(address)}, StateStarting, 0},
		{6 * s, Probed{}, []Action{ready(node)}, StateReady, time.Hour},
	}
}

func TestStories(t *testing.T) {
	stories := map[string][]step{
		"master boots": toReady(),
		"standalone needs no address": {
			{0, alone, []Action{alone.Units}, StateStarting, 0},
			{1 * s, UnitsDone{}, []Action{Host{"standalone", lo, "", ""}}, StateStarting, 0},
			{1 * s, HostDone{}, []Action{Configure{}}, StateStarting, 0},
			{2 * s, Configured{Units: condor}, []Action{condor}, StateStarting, 0},
			{3 * s, UnitsDone{}, []Action{probeOf(lo)}, StateStarting, 0},
			{3 * s, Probed{}, []Action{Announce{"grid-appliance: READY name=standalone address=127.0.0.1 role=standalone grid=none group=none"}}, StateReady, 0},
		},
		"worker waits for its credential, and is ready when the pool knows it": {
			{0, worker, []Action{boot}, StateApplied, 0},
			{1 * s, UnitsDone{}, none, StateJoining, 0},
			{2 * s, node, []Action{host(node, "")}, StateStarting, 0},
			{2 * s, HostDone{}, []Action{Configure{}}, StateStarting, 0},
			{3 * s, Configured{Waiting: "no certificate yet"}, none, StateStarting, 4 * s},
			{4 * s, Tick{}, []Action{Configure{}}, StateStarting, 0},
			{5 * s, Configured{Waiting: "no certificate yet"}, none, StateStarting, 7 * s},
			{13 * s, Tick{}, []Action{Configure{}}, StateStarting, 0},
			{14 * s, Configured{Units: condor}, []Action{condor}, StateStarting, 0},
			{15 * s, UnitsDone{}, []Action{Probe{Units: []string{"condor.service"}, Machine: "C250000002.ipop"}}, StateStarting, 0},
			{15 * s, Probed{}, []Action{Announce{"grid-appliance: READY name=C250000002.ipop address=10.250.0.2 role=worker grid=archer group=physics"}}, StateReady, 0},
		},
		"same address again does nothing": append(toReady(),
			step{9 * s, node, none, StateReady, time.Hour}),
		"another address goes through everything": append(toReady(),
			step{10 * s, moved, []Action{host(moved, "head")}, StateStarting, 0},
			step{10 * s, HostDone{}, []Action{Configure{}}, StateStarting, 0},
			step{11 * s, Configured{Units: again}, []Action{again}, StateStarting, 0},
			step{13 * s, UnitsDone{}, []Action{probeOf(elsewhere)}, StateStarting, 0},
			step{14 * s, Probed{}, []Action{ready(moved)}, StateReady, 0}),
		"address lost and back is probed, not restarted or announced": append(toReady(),
			step{10 * s, lost, none, StateJoining, time.Hour},
			step{12 * s, node, []Action{probeOf(address)}, StateStarting, 0},
			step{12 * s, Probed{}, none, StateReady, time.Hour}),
		"another roster configures again": append(toReady(),
			step{10 * s, Node{1, address, node.Name, "m1 m2", ""}, []Action{Host{node.Name, address, "head", "m1 m2"}}, StateReady, 0},
			step{10 * s, HostDone{}, []Action{Configure{}}, StateReady, 0},
			step{11 * s, Configured{Units: again}, []Action{again}, StateStarting, 0}),
		"renewal restarts nothing": append(toReady(),
			step{time.Hour, Tick{}, []Action{Configure{}}, StateReady, 0},
			step{time.Hour, Configured{Units: condor, Renew: start.Add(2 * time.Hour)}, []Action{condor}, StateReady, 0},
			step{time.Hour, UnitsDone{}, none, StateReady, 2 * time.Hour}),
		"a master that works says so, again after overlayd's restart, and takes it back": {
			{0, master, []Action{boot}, StateApplied, 0},
			{1 * s, UnitsDone{}, none, StateJoining, 0},
			{2 * s, node, []Action{host(node, "head")}, StateStarting, 0},
			{2 * s, HostDone{}, []Action{Configure{}}, StateStarting, 0},
			{3 * s, Configured{Units: condor, Offer: "I"}, []Action{condor}, StateStarting, 0},
			{4 * s, UnitsDone{}, []Action{probeOf(address)}, StateStarting, 0},
			{4 * s, Probed{}, []Action{ready(node), Offer{"I"}}, StateReady, 0},
			{5 * s, Offered{errBroken}, none, StateReady, 15 * s},
			{15 * s, Tick{}, []Action{Offer{"I"}}, StateReady, 0},
			{16 * s, Offered{}, none, StateReady, 0},
			{20 * s, lost, none, StateJoining, 0},
			{22 * s, Node{Session: 2, Address: address, Name: node.Name, Masters: "m1"}, []Action{probeOf(address)}, StateStarting, 0},
			{22 * s, Probed{}, []Action{Offer{"I"}}, StateReady, 0},
			{23 * s, Offered{}, none, StateReady, 0},
			{30 * s, Offers{"others"}, []Action{Configure{}}, StateReady, 0},
			{31 * s, Configured{Units: condor}, []Action{condor}, StateReady, 0},
			{31 * s, UnitsDone{}, []Action{Offer{""}}, StateReady, 0},
			{32 * s, Offered{}, none, StateReady, 0},
		},
		"failure is tried again, later and later, and at once when something changes": {
			{0, master, []Action{boot}, StateApplied, 0},
			{1 * s, UnitsDone{errBroken}, none, StateFailed, 2 * s},
			{2 * s, Tick{}, []Action{boot}, StateFailed, 0},
			{3 * s, UnitsDone{errBroken}, none, StateFailed, 5 * s},
			{4 * s, node, []Action{boot}, StateFailed, 0},
			{5 * s, UnitsDone{errBroken}, none, StateFailed, 9 * s},
			{9 * s, Tick{}, []Action{boot}, StateFailed, 0},
			{9 * s, UnitsDone{}, []Action{host(node, "head")}, StateStarting, 0},
			{9 * s, HostDone{errBroken}, none, StateFailed, 10 * s},
			{10 * s, Tick{}, []Action{host(node, "head")}, StateFailed, 0},
			{10 * s, HostDone{}, []Action{Configure{}}, StateStarting, 0},
			{10 * s, Configured{Err: errBroken}, none, StateFailed, 11 * s},
			{11 * s, Tick{}, []Action{Configure{}}, StateFailed, 0},
		},
		"services that never answer are called failed in the end": append(toReady()[:7],
			step{93 * s, Tick{}, []Action{probeOf(address)}, StateStarting, 0},
			// A probe that took a second is followed by two without one.
			step{94 * s, Probed{errBroken}, none, StateFailed, 96 * s},
			step{96 * s, Tick{}, []Action{probeOf(address)}, StateFailed, 0},
			step{97 * s, Probed{}, []Action{ready(node)}, StateReady, time.Hour}),
		"floppy put in later": {
			{0, NoFloppy{}, none, StateWaiting, 0},
			{5 * s, MediaChanged{}, []Action{Look{}}, StateWaiting, 0},
			{6 * s, Unchanged{}, none, StateWaiting, 0},
			{7 * s, MediaChanged{}, []Action{Look{}}, StateWaiting, 0},
			{8 * s, Refused{"GRID.TML:1:1: unknown key"}, none, StateRefused, 0},
			{9 * s, MediaChanged{}, []Action{Look{}}, StateRefused, 0},
			{10 * s, master, []Action{boot}, StateApplied, 0},
		},
		"floppy refused at boot, taken out": {
			{0, Refused{"bad"}, none, StateRefused, 0},
			{1 * s, MediaChanged{}, []Action{Look{}}, StateRefused, 0},
			{2 * s, Unchanged{}, none, StateWaiting, 0},
		},
		"broken floppy put into a working machine changes nothing": append(toReady(),
			step{10 * s, MediaChanged{}, []Action{Look{}}, StateReady, 0},
			step{11 * s, Refused{"bad"}, none, StateReady, time.Hour},
			step{12 * s, MediaChanged{}, []Action{Look{}}, StateReady, 0},
			step{13 * s, Unchanged{}, none, StateReady, time.Hour}),
		"another role: the old overlayd's last words do not count": append(toReady(),
			step{10 * s, MediaChanged{}, []Action{Look{}}, StateReady, 0},
			step{11 * s, Applied{Plan: "p4", Role: "worker", Grid: "archer", Group: "physics", Overlay: true,
				Units: Units{Restart: []string{"overlayd.service"}}}, []Action{Units{Restart: []string{"overlayd.service"}}}, StateApplied, 0},
			step{11 * s, node, none, StateApplied, 0},
			step{12 * s, UnitsDone{}, none, StateJoining, time.Hour},
			step{12 * s, lost, none, StateJoining, time.Hour},
			step{13 * s, Node{2, elsewhere, "C250007009.ipop", "m1", ""}, []Action{host(moved, "")}, StateStarting, 0}),
		"media change while a job is under way is not forgotten": {
			{0, master, []Action{boot}, StateApplied, 0},
			{1 * s, MediaChanged{}, none, StateApplied, 0},
			{2 * s, UnitsDone{}, []Action{Look{}}, StateJoining, 0},
			{3 * s, Unchanged{}, none, StateJoining, 0},
		},
	}
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			m := New("")
			state := StateWaiting
			for i, st := range story {
				var got []Action
				for _, a := range m.Handle(start.Add(st.at), st.event) {
					if tell, ok := a.(Tell); ok {
						state = tell.State
						continue
					}
					got = append(got, a)
				}
				where := fmt.Sprintf("step %d, %v, %T", i, st.at, st.event)
				if diff := cmp.Diff(st.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()); diff != "" {
					t.Fatalf("%s: actions:\n%s", where, diff)
				}
				if state != st.state {
					t.Fatalf("%s: state %s, want %s", where, state, st.state)
				}
				var next time.Duration
				if d := m.NextDeadline(); !d.IsZero() {
					next = d.Sub(start)
				}
				if next != st.next {
					t.Fatalf("%s: deadline %v, want %v", where, next, st.next)
				}
			}
		})
	}
}

// A line announced before a restart of watch is not announced again.
func TestAnnouncedBefore(t *testing.T) {
	m := New(ready(node).Line)
	for _, st := range toReady() {
		for _, a := range m.Handle(start.Add(st.at), st.event) {
			if _, ok := a.(Announce); ok {
				t.Fatalf("announced again: %v", a)
			}
		}
	}
}

// Whatever happens, one job at a time, no line twice in a row, and restarts
// only when condorconf or a floppy asked for one.
func TestInvariantsOverRandomHistories(t *testing.T) {
	announced := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		m := New("")
		now := start
		var job Action
		line, asked := "", 1
		for range 400 {
			now = now.Add(time.Duration(rng.IntN(3000)) * time.Millisecond)
			event := randomEvent(rng, &job, &asked)
			for _, a := range m.Handle(now, event) {
				switch a := a.(type) {
				case Tell:
				case Announce:
					if a.Line == line {
						t.Fatalf("seed %d: %q twice in a row", seed, line)
					}
					line = a.Line
					announced++
				case Units:
					if len(a.Restart) > 0 && asked == 0 {
						t.Fatalf("seed %d: a restart nobody asked for", seed)
					}
					job = a
				default:
					if job != nil {
						t.Fatalf("seed %d: %T while %T is under way", seed, a, job)
					}
					job = a
				}
			}
		}
	}
	if announced < 100 {
		t.Errorf("only %d announcements: the histories go nowhere", announced)
	}
}

// randomEvent ends the job under way, or makes something happen beside it.
func randomEvent(rng *rand.Rand, job *Action, asked *int) Event {
	var err error
	if rng.IntN(4) == 0 {
		err = errBroken
	}
	if *job != nil && rng.IntN(3) > 0 {
		was := *job
		*job = nil
		switch was.(type) {
		case Look:
			*asked++
			return []Event{master, worker, alone, Unchanged{}, Refused{"bad"}}[rng.IntN(5)]
		case Host:
			return HostDone{err}
		case Configure:
			u := []Units{condor, again}[rng.IntN(2)]
			*asked += len(u.Restart)
			return Configured{Units: u, Err: err, Offer: []string{"", "I"}[rng.IntN(2)]}
		case Units:
			if err == nil {
				*asked = 0
			}
			return UnitsDone{err}
		case Probe:
			return Probed{err}
		case Offer:
			return Offered{err}
		}
	}
	return []Event{Tick{}, node, moved, lost, MediaChanged{}, Offers{"one"}, Offers{"two"}}[rng.IntN(7)]
}

func TestDiff(t *testing.T) {
	unit := func(name, key string) plan.Unit { return plan.Unit{Name: name, Key: key} }
	firewall := func(key string) plan.Unit { return plan.Unit{Name: "fw", Key: key, Reload: true} }
	tests := map[string]struct {
		before, after []plan.Unit
		want          Units
	}{
		"first":   {nil, []plan.Unit{firewall("1"), unit("o", "1")}, Units{Start: []string{"fw", "o"}}},
		"same":    {[]plan.Unit{unit("o", "1")}, []plan.Unit{unit("o", "1")}, Units{Start: []string{"o"}}},
		"changed": {[]plan.Unit{firewall("1"), unit("o", "1")}, []plan.Unit{firewall("2"), unit("o", "2")}, Units{Reload: []string{"fw"}, Restart: []string{"o"}}},
		"gone":    {[]plan.Unit{firewall("1"), unit("o", "1")}, []plan.Unit{firewall("1")}, Units{Stop: []string{"o"}, Start: []string{"fw"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, Diff(test.before, test.after)); diff != "" {
				t.Error(diff)
			}
		})
	}
	// A reload that failed before the next floppy came is still done.
	got := Diff([]plan.Unit{firewall("2")}, []plan.Unit{firewall("2")}).after(Units{Reload: []string{"fw"}})
	if diff := cmp.Diff(Units{Reload: []string{"fw"}}, got); diff != "" {
		t.Error(diff)
	}
}
