// Package watch decides what has to be done after the boot, when the address
// comes or changes and when a floppy is put in: a pure state machine, handed
// events and the time, answering with actions.
//
//	            no floppy         Refused
//	waiting <──────────── start ──────────> refused
//	   │ MediaChanged: Look                    │
//	   └──────────────> Applied <──────────────┘
//	                       │ Units (overlayd)
//	                    joining      until Node has an address (standalone: at once)
//	                       │ Host · Configure · Units
//	                    starting     Probe, once a second
//	                       │ Announce
//	                     ready ──> another address, renewal, floppy: from there again
//
// A job that fails makes the state failed, with the reason, and is tried again
// after 1, 2, 4 ... 60 s, or at once when anything changes. Without what
// HTCondor cannot run without, Configure comes again after 1, 2, 4 ... 10 s.
//
// Invariants: at most one job (Look, Host, Configure, Units, Probe) is under
// way, and its result is the only event that ends it. A job is done again only
// when what it depends on differs: equal bytes restart nothing. A line is
// announced once. A floppy refused while another is applied changes nothing
// but the report.
//
// There is no goroutine, clock or I/O here.
package watch

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gridappliance/firstboot/plan"
)

// State is how far the machine is.
type State string

// The states, as firstboot status shows them.
const (
	StateWaiting  State = "waiting"  // for a floppy
	StateRefused  State = "refused"  // the floppy is wrong; no service of a role runs
	StateApplied  State = "applied"  // files are as the floppy says; services are being started
	StateJoining  State = "joining"  // for an address from overlayd
	StateStarting State = "starting" // HTCondor and file sharing
	StateReady    State = "ready"    // everything works
	StateFailed   State = "failed"   // something does not, and is tried again
)

// Report is what there is to say to people.
type Report struct {
	State   State  `json:"state"`
	Detail  string `json:"detail,omitempty"` // what is waited for, or wrong and what to do
	Role    string `json:"role,omitempty"`
	Grid    string `json:"grid,omitempty"`
	Group   string `json:"group,omitempty"`
	Name    string `json:"name,omitempty"`    // C250000002.ipop
	Address string `json:"address,omitempty"` // 10.250.0.2
}

// Event is what happened: Applied, Refused, NoFloppy, Unchanged, MediaChanged,
// Node, Offers, HostDone, Configured, UnitsDone, Probed, Offered or Tick.
type Event any

// Applied says that a plan holds in full: at the start, and as Look's result.
type Applied struct {
	Plan     string // hash of the plan
	Role     string
	Grid     string
	Group    string
	Hostname string // additional name, "" without
	Overlay  bool   // there is a virtual network
	Units    Units  // to bring in line with the plan
}

// Refused says that the floppy is wrong: at the start, and as Look's result.
type Refused struct{ Reason string }

// NoFloppy says that no source holds anything, at the start.
type NoFloppy struct{}

// Unchanged is Look's result when no new floppy is there.
type Unchanged struct{}

// MediaChanged says that a disk was put in or taken out.
type MediaChanged struct{}

// Node is what overlayd says of itself. Session counts connections to its
// control socket, from 1: a restarted overlayd has a new one.
type Node struct {
	Session int
	Address netip.Addr // invalid while it has none
	Name    string
	Masters string // the roster: name=address, blanks between
	Detail  string // why there is no address
}

// Offers is what masters say of themselves in the grid's store, in any form
// that changes when it changes.
type Offers struct{ Text string }

// HostDone is Host's result.
type HostDone struct{ Err error }

// Configured is Configure's result.
type Configured struct {
	Units Units
	Renew time.Time // when to configure again; zero for never
	// Waiting says why HTCondor cannot run yet, "" when it can.
	Waiting string
	Offer   string // to be published while this machine works; "" none
	Err     error
}

// UnitsDone is Units' result.
type UnitsDone struct{ Err error }

// Probed is Probe's result: nil when everything works.
type Probed struct{ Err error }

// Offered is Offer's result.
type Offered struct{ Err error }

// Tick says that NextDeadline has come.
type Tick struct{}

// Action is what is to be done: Look, Host, Configure, Units, Probe, Offer
// (jobs, each answered by one event), Announce or Tell.
type Action any

// Look is to look for a floppy among what can be put in, and to apply it.
type Look struct{}

// Host is to give the machine its name, and to make the masters' names known.
type Host struct {
	Name    string
	Address netip.Addr
	Alias   string
	Masters string // as Node has them
}

// Configure is to write the role's configuration.
type Configure struct{}

// Units is what systemd is to do, in this order; each list in its own order.
type Units struct{ Stop, Reload, Restart, Start []string }

// Empty says whether there is nothing to do.
func (u Units) Empty() bool {
	return len(u.Stop)+len(u.Reload)+len(u.Restart)+len(u.Start) == 0
}

// after returns u for a machine on which undone was never finished: what should
// have been reloaded or restarted still is.
func (u Units) after(undone Units) Units {
	var start []string
	for _, name := range u.Start {
		switch {
		case slices.Contains(undone.Reload, name):
			u.Reload = append(slices.Clone(u.Reload), name)
		case slices.Contains(undone.Restart, name):
			u.Restart = append(slices.Clone(u.Restart), name)
		default:
			start = append(start, name)
		}
	}
	u.Start = start
	return u
}

// Probe is to find out whether the role works: its units run and, where
// Collector is valid, an HTCondor collector answers there; where Machine is not
// empty, a collector of the pool knows the machine of that name.
type Probe struct {
	Units     []string
	Collector netip.AddrPort
	Machine   string
}

// Offer is to publish what this master says of itself; "" is to withdraw it.
type Offer struct{ Text string }

// Announce is to write a line on every console.
type Announce struct{ Line string }

// Tell is to make a report the status.
type Tell struct{ Report }

const (
	condorPort = 9618             // TCP, HTCondor's shared port
	patience   = 90 * time.Second // before services that do not answer are called failed
	probeEvery = time.Second
	probeShare = 3                // a probe runs at most one part in so many of the time: HTCondor's tools are slow, and what starts needs the processor
	maxWait    = 10 * time.Second // for what HTCondor cannot run without
	maxBackoff = time.Minute
)

// overlayd's unit: it gives the address.
const overlayUnit = "overlayd.service"

// Machine is the state machine. It is not safe for concurrent use.
type Machine struct {
	busy bool // a job is under way

	look    bool     // a floppy may have been put in
	applied *Applied // nil without a floppy
	wrong   string   // why the last floppy was refused, "" otherwise
	units   Units    // still to be done
	node    Node     //
	stale   int      // sessions up to this one are of an overlayd that has ended

	host       Host      // done
	configured string    // what the configuration was written for
	renew      time.Time // when to write it again
	waiting    string    // why HTCondor cannot run yet
	waits      int       // answers in a row that it cannot
	runs       []string  // units that the configuration wants to run
	works      bool      // probed
	offers     string    // what masters say of themselves
	offer      string    // what this one has to say, "" for nothing
	offered    offered   // what it has said
	offerAgain time.Time // not to be said before
	since      time.Time // of the first probe after a change
	asked      time.Time // of the last probe
	announced  string    // the last line

	failure string    // of the last job, "" when it was done
	fails   int       // jobs failed in a row
	retry   time.Time // no job before
	told    Report
}

// offered is an Offer and the overlayd that has it: one that is restarted has
// none.
type offered struct {
	text    string
	session int
}

// New returns a machine that has announced a line already in this boot, ""
// for none.
func New(announced string) *Machine { return &Machine{announced: announced} }

// NextDeadline returns when to send a Tick at the latest, zero for never.
func (m *Machine) NextDeadline() time.Time {
	if m.busy {
		return time.Time{}
	}
	if !m.retry.IsZero() {
		return m.retry
	}
	if m.renew.IsZero() || !m.offerAgain.IsZero() && m.offerAgain.Before(m.renew) {
		return m.offerAgain
	}
	return m.renew
}

// Handle takes one event and returns what to do.
func (m *Machine) Handle(now time.Time, event Event) []Action {
	m.take(now, event)
	return m.next(now)
}

// take changes the state by one event.
func (m *Machine) take(now time.Time, event Event) {
	switch e := event.(type) {
	case Applied:
		m.busy = false
		m.retry, m.fails, m.failure = time.Time{}, 0, ""
		m.applied, m.wrong = &e, ""
		m.units = e.Units.after(m.units)
		m.doubt()
		if slices.Contains(slices.Concat(e.Units.Restart, e.Units.Stop), overlayUnit) {
			m.stale, m.node = m.node.Session, Node{}
		}
	case Refused:
		m.busy, m.wrong = false, e.Reason
	case NoFloppy:
		m.busy = false
	case Unchanged:
		m.busy, m.wrong = false, ""
	case MediaChanged:
		m.look = true
	case Node:
		m.takeNode(e)
	case Offers:
		m.offers = e.Text
	case Offered:
		m.busy = false
		if e.Err != nil {
			m.offered, m.offerAgain = offered{}, now.Add(maxWait)
		}
	case HostDone:
		m.done(now, e.Err)
		if e.Err != nil {
			m.host = Host{}
		}
	case Configured:
		m.done(now, e.Err)
		m.takeConfigured(now, e)
	case UnitsDone:
		m.done(now, e.Err)
		if e.Err == nil {
			m.units = Units{}
		}
	case Probed:
		m.takeProbed(now, e)
	case Tick:
	}
}

// done ends a job.
func (m *Machine) done(now time.Time, err error) {
	m.busy = false
	m.retry, m.failure = time.Time{}, ""
	if err == nil {
		m.fails = 0
		return
	}
	m.failure = err.Error()
	m.retry = now.Add(min(time.Second<<min(m.fails, 10), maxBackoff))
	m.fails++
}

func (m *Machine) takeNode(n Node) {
	if n.Session <= m.stale {
		return
	}
	if n.Address != m.node.Address || n.Masters != m.node.Masters {
		m.retry = time.Time{} // what failed may work now
	}
	if n.Address != m.node.Address {
		m.doubt()
	}
	m.node = n
}

func (m *Machine) takeConfigured(now time.Time, e Configured) {
	if e.Err != nil {
		m.configured = ""
		return
	}
	m.renew, m.waiting, m.offer = e.Renew, e.Waiting, e.Offer
	m.units = e.Units
	m.runs = slices.DeleteFunc(slices.Concat(e.Units.Start, e.Units.Restart),
		func(u string) bool { return slices.Contains(e.Units.Stop, u) })
	slices.Sort(m.runs)
	m.runs = slices.Compact(m.runs)
	if e.Waiting == "" {
		m.waits = 0
	} else {
		m.renew = now.Add(min(time.Second<<min(m.waits, 10), maxWait))
		m.waits++
	}
	if e.Waiting != "" || len(e.Units.Restart) > 0 {
		m.doubt()
	}
}

// doubt has the role probed again.
func (m *Machine) doubt() { m.works, m.since = false, time.Time{} }

func (m *Machine) takeProbed(now time.Time, e Probed) {
	m.busy, m.works = false, e.Err == nil
	m.retry, m.failure, m.fails = time.Time{}, "", 0
	if e.Err == nil {
		m.since = time.Time{}
		return
	}
	m.retry = now.Add(max(probeEvery, (probeShare-1)*now.Sub(m.asked)))
	if now.Sub(m.since) >= patience {
		m.failure = e.Err.Error()
	}
}

// next returns the next job, if any may begin, and what is new to say.
func (m *Machine) next(now time.Time) []Action {
	var actions []Action
	if !m.busy {
		if job := m.job(now); job != nil {
			m.busy = true
			actions = append(actions, job)
		} else if line := m.line(); line != "" && line != m.announced {
			m.announced = line
			actions = append(actions, Announce{line})
		}
		if !m.busy && m.applied != nil {
			if job := m.offerJob(now); job != nil {
				m.busy = true
				actions = append(actions, job)
			}
		}
	}
	if r := m.report(); r != m.told {
		m.told = r
		actions = append(actions, Tell{r})
	}
	return actions
}

// job returns the first thing that is not as it should be, nil when all is
// done or has to wait. Looking for a floppy comes last: it may take seconds,
// and there is always a moment for it, because nothing is tried without pause.
func (m *Machine) job(now time.Time) Action {
	if job := m.roleJob(now); job != nil || !m.look {
		return job
	}
	m.look = false
	return Look{}
}

// roleJob is job for what the applied floppy asks for.
func (m *Machine) roleJob(now time.Time) Action {
	if m.applied == nil || now.Before(m.retry) {
		return nil
	}
	if !m.units.Empty() {
		return m.units
	}
	host, ok := m.wantHost()
	if !ok {
		return nil
	}
	if host != m.host {
		m.host = host
		return host
	}
	want := fmt.Sprint(m.applied.Plan, host.Address, host.Name, m.node.Masters, m.offers)
	if want != m.configured || !m.renew.IsZero() && !now.Before(m.renew) {
		m.configured = want
		return Configure{}
	}
	if !m.works && m.waiting == "" {
		if m.since.IsZero() {
			m.since = now
		}
		m.asked = now
		return m.probe(host)
	}
	return nil
}

// offerJob returns what is to be published or withdrawn, nil for nothing. It
// comes after everything else: nobody waits for it here, and the store may be
// slow or not there yet, which is no failure of this machine.
func (m *Machine) offerJob(now time.Time) Action {
	say := offered{m.offer, m.node.Session}
	if say == m.offered || m.offer == "" && m.offered.text == "" || !m.works || now.Before(m.offerAgain) {
		return nil
	}
	m.offered, m.offerAgain = say, time.Time{}
	return Offer{m.offer}
}

// wantHost returns the name and address the machine should have, and whether
// they are known yet.
func (m *Machine) wantHost() (Host, bool) {
	if !m.applied.Overlay {
		return Host{Name: "standalone", Address: netip.AddrFrom4([4]byte{127, 0, 0, 1}), Alias: m.applied.Hostname}, true
	}
	return Host{m.node.Name, m.node.Address, m.applied.Hostname, m.node.Masters}, m.node.Address.IsValid()
}

func (m *Machine) probe(host Host) Probe {
	p := Probe{Units: m.runs}
	if m.applied.Role == "master" || m.applied.Role == "standalone" {
		p.Collector = netip.AddrPortFrom(host.Address, condorPort)
	} else {
		p.Machine = host.Name
	}
	return p
}

// line returns the READY line, "" while the machine is not ready.
func (m *Machine) line() string {
	if m.applied == nil || !m.works {
		return ""
	}
	host, ok := m.wantHost()
	if !ok {
		return ""
	}
	orNone := func(s string) string {
		if s == "" {
			return "none"
		}
		return s
	}
	return fmt.Sprintf("grid-appliance: READY name=%s address=%s role=%s grid=%s group=%s",
		host.Name, host.Address, m.applied.Role, orNone(m.applied.Grid), orNone(m.applied.Group))
}

// report returns what there is to say now.
func (m *Machine) report() Report {
	if m.applied == nil {
		if m.wrong != "" {
			return Report{State: StateRefused, Detail: m.wrong}
		}
		return Report{State: StateWaiting, Detail: "no floppy found: attach one and it is picked up"}
	}
	a := m.applied
	r := Report{State: StateStarting, Role: a.Role, Grid: a.Grid, Group: a.Group}
	host, ok := m.wantHost()
	if ok {
		r.Name, r.Address = host.Name, host.Address.String()
	}
	switch {
	case m.failure != "":
		r.State, r.Detail = StateFailed, m.failure
	case ok && m.works:
		r.State = StateReady
	case !ok && !m.units.Empty():
		r.State = StateApplied
	case !ok:
		r.State, r.Detail = StateJoining, m.node.Detail
	default:
		r.Detail = m.waiting
	}
	if m.wrong != "" {
		r.Detail = "the floppy put in is refused, the machine stays as it is: " + m.wrong
	}
	return r
}

// Diff returns what systemd is to do to go from the units of one plan to
// those of the next: stop those that are gone, restart (or reload) those whose
// key differs, start all of the others, which is nothing for one that runs.
func Diff(before, after []plan.Unit) Units {
	var u Units
	old := map[string]string{}
	for _, b := range before {
		old[b.Name] = b.Key
		if !slices.ContainsFunc(after, func(a plan.Unit) bool { return a.Name == b.Name }) {
			u.Stop = append(u.Stop, b.Name)
		}
	}
	for _, a := range after {
		key, was := old[a.Name]
		switch {
		case !was || key == a.Key:
			u.Start = append(u.Start, a.Name)
		case a.Reload:
			u.Reload = append(u.Reload, a.Name)
		default:
			u.Restart = append(u.Restart, a.Name)
		}
	}
	return u
}
