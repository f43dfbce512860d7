// Package pool decides what one machine should be in the grid's HTCondor pool,
// and writes that down as files and units.
//
//	Input (role, address, identity, roster, machine) -> New -> Machine -> Files, Units
//
// New knows the rules; Machine is their outcome, plain data a person can read;
// Files turns it into the bytes of
//
//	/etc/condor/config.d/10-grid-network.conf   where the daemons listen
//	/etc/condor/config.d/15-grid-masters.conf   where the pool is, and which others there are
//	/etc/condor/config.d/20-grid-security.conf  who is who and who may do what
//	/etc/condor/config.d/30-grid-role.conf      the daemons of the role
//	/etc/condor/config.d/40-grid-policy.conf    whose jobs come first, slots, accounts
//	/etc/condor/config.d/50-grid-tune.conf      intervals: joining in seconds
//	/etc/condor/grid/mapfile                    certificate subject -> HTCondor identity
//	/etc/auto.master.d/ganfs.autofs             /mnt/ganfs
//	/etc/auto.ganfs                             host name -> mount, a program map
//	/etc/exports.d/grid.exports                 what this machine shares
//	/etc/nfs.conf.d/grid.conf                   where its NFS server listens
//
// Roles (HTCondor: execution point, access point, central manager):
//
//	worker      startd
//	client      startd, schedd; exports its share
//	master      collector, negotiator; with other masters of its pool also the
//	            high-availability daemons
//	standalone  all four on loopback, no overlay, no certificate
//
// Identities are <role>-<name>@<group>, read from certificates alone; a user
// is <account>@<group>. The group infra is the masters'.
//
// The package is pure: no file, socket, program, goroutine or clock. Equal
// inputs give equal bytes, and whatever reaches the configuration has gone
// through package knob.
//
// Limits on purpose: machines are IPv4 in the pool, because HTCondor speaks
// one address family here; the user of the floppy is told apart from others of
// the group only by what a stock schedd writes into jobs (see policy.go).
//
// Sources: HTCondor 23.9 manual, "Security", "Policy Configuration for
// Execution Points", "High Availability"; auto.master(5), autofs(5),
// exports(5), nfs.conf(5).
package pool

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
)

// MasterGroup is the group whose masters everyone obeys. No holder of a worker
// or client floppy can be of it.
const MasterGroup = "infra"

// Input is all that decides what a machine is.
type Input struct {
	Role   floppy.Role
	Grid   string       // name of the grid
	Group  string       // group of the machine and of its jobs
	User   string       // the person whose floppy it runs on
	Name   string       // virtual host name: C250000002.ipop
	NodeID string       // text form of the node ID; stable over address changes
	Device string       // virtual device: tapipop
	Net    netip.Prefix // virtual address with the pool's mask
	Roster []string     // names of the grid's masters, in the descriptor's order

	Offers  []Offer  // of the masters that say they live; none: nothing is known
	Current []string // masters of the pool that the machine is in; none: of no one

	Masters       floppy.Choice // masters of this machine's pool
	Serves        []string      // a master's: groups that are to take its pool before others
	Flock         floppy.Choice // masters outside it that take its jobs, too
	OwnerPreempts bool          // the owner's jobs, then the group's, preempt others
	Slots         int           // static slots; 0: one slot that is divided as jobs need
	Export        string        // absolute path that is shared; "": none
	Autofs        bool          // /mnt/ganfs

	Modules  []string // names of the image's modules
	CPUs     int      // processors of the machine, at least 1
	Accounts int      // job accounts slot1 .. slotN that exist

	Own bool // the machine is somebody's own: HTCondor may have had jobs there before
}

// Machine is what a machine should be.
type Machine struct {
	Role       floppy.Role  `json:"role"`
	Grid       string       `json:"grid,omitempty"`
	Group      string       `json:"group"`
	User       string       `json:"user,omitempty"`
	Name       string       `json:"name"`      // host name in the pool
	Interface  string       `json:"interface"` // device or address the daemons listen on
	Net        netip.Prefix `json:"net,omitzero"`
	Daemons    []string     `json:"daemons"`
	Masters    []string     `json:"masters"`              // CONDOR_HOST
	Flock      []string     `json:"flock,omitempty"`      // FLOCK_TO
	Redundant  bool         `json:"redundant,omitempty"`  // one of several masters of its pool
	Offer      *Offer       `json:"offer,omitempty"`      // a master's, to be published while it works
	ScheddName string       `json:"schedd,omitempty"`     // stable name of the job queue
	Preempt    bool         `json:"preempt,omitempty"`    // owner and group come first
	CPUs       int          `json:"cpus,omitempty"`       // processors given to jobs
	Limited    bool         `json:"limited,omitempty"`    // CPUs is not what HTCondor would find
	Slots      int          `json:"slots,omitempty"`      // static slots; 0: divided as jobs need
	Accounts   int          `json:"accounts,omitempty"`   // job accounts in use
	Export     string       `json:"export,omitempty"`     // shared directory
	Automount  bool         `json:"automount,omitempty"`  // /mnt/ganfs
	Credential bool         `json:"credential,omitempty"` // needs an HTCondor certificate
	Modules    []string     `json:"modules,omitempty"`    // software that jobs may ask for
	Own        bool         `json:"own,omitempty"`        // keeps the grid's jobs apart
}

// StandaloneName is the host name, group and grid of a machine without a grid.
const StandaloneName = "standalone"

// New applies the rules. The List holds every reason why the input makes no
// machine; the Machine is meaningful only when it is empty.
func New(in Input) (Machine, diag.List) {
	m := Machine{
		Role: in.Role, Grid: in.Grid, Group: in.Group, User: in.User,
		Name: in.Name, Interface: in.Device, Net: in.Net,
		Automount: in.Autofs, Credential: true,
	}
	var problems diag.List
	switch in.Role {
	case floppy.RoleWorker:
		m.Daemons = []string{"MASTER", "STARTD"}
	case floppy.RoleClient:
		m.Daemons = []string{"MASTER", "STARTD", "SCHEDD"}
		m.ScheddName = scheddName(in)
		m.Export = in.Export
	case floppy.RoleMaster:
		m.Daemons = []string{"MASTER", "COLLECTOR", "NEGOTIATOR"}
	case floppy.RoleStandalone:
		m = standalone(in)
	default:
		problems.Add(problem("machine.role", "there is no role %q", in.Role))
	}
	m.Own = in.Own
	if in.Role != floppy.RoleStandalone {
		problems = append(problems, m.join(in)...)
	}
	if m.executes() {
		problems = append(problems, m.divide(in)...)
	}
	return m, problems
}

// standalone is a grid of one: everything on loopback, trust by FS alone.
func standalone(in Input) Machine {
	return Machine{
		Role: in.Role, Group: StandaloneName, User: in.User,
		Name: "localhost", Interface: "127.0.0.1",
		Daemons: []string{"MASTER", "COLLECTOR", "NEGOTIATOR", "STARTD", "SCHEDD"},
		Masters: []string{"127.0.0.1"},
	}
}

// join fills in which masters m obeys and flocks to.
func (m *Machine) join(in Input) diag.List {
	problems := checkNames(in)
	if (in.Role == floppy.RoleMaster) != (in.Group == MasterGroup) {
		problems.Add(problem("condor.group", "a %s cannot be of the group %q", in.Role, in.Group))
	}
	if len(in.Roster) == 0 {
		problems.Add(problem("condor.masters", "the grid names no master"))
		return problems
	}
	m.Masters = chosen(in.Masters, in.Roster)
	problems = append(problems, known("condor.masters", m.Masters, in.Roster)...)
	if in.Masters.All && in.Role != floppy.RoleMaster {
		m.Masters = discover(in)
	}
	if in.Role == floppy.RoleMaster {
		m.Offer = &Offer{Master: in.Name, Pool: m.Masters, Serves: in.Serves}
		m.Redundant = len(m.Masters) > 1
		if m.Redundant {
			m.Daemons = append(m.Daemons, "HAD", "REPLICATION")
		}
		if !slices.Contains(m.Masters, in.Name) {
			problems.Add(problem("condor.masters", "this master, %s, is not among them", in.Name))
		}
	}
	if m.submits() {
		flock := chosen(in.Flock, in.Roster)
		problems = append(problems, known("condor.flock", flock, in.Roster)...)
		m.Flock = slices.DeleteFunc(slices.Clone(flock), func(name string) bool { return slices.Contains(m.Masters, name) })
	}
	return problems
}

// checkNames reports what cannot stand in the pool's configuration: names
// against the rules of credentials, and an address that is not the name's.
func checkNames(in Input) diag.List {
	var problems diag.List
	for _, err := range []error{
		credential.CheckGrid(in.Grid), credential.CheckGroup(in.Group), credential.CheckUser(in.User),
	} {
		if err != nil {
			problems.Add(problem("", "%v", err))
		}
	}
	if !nodeID.MatchString(in.NodeID) {
		problems.Add(problem("", "the node ID %q is not letters and digits, eight or more", in.NodeID))
	}
	if !device.MatchString(in.Device) {
		problems.Add(problem("network.device", "%q is not the name of a device", in.Device))
	}
	if in.Export != "" && !exportPath.MatchString(in.Export) {
		problems.Add(problem("share.export", "%q is not an absolute path of letters, digits and . _ + -", in.Export))
	}
	switch addr := in.Net.Addr(); {
	case !addr.Is4() || in.Net.Bits() >= 32:
		problems.Add(problem("", "the virtual address %s is not an IPv4 address with its network", in.Net))
	case in.Name != control.HostName(addr):
		problems.Add(problem("", "the host name %q is not that of %s", in.Name, addr))
	}
	return problems
}

var (
	nodeID = regexp.MustCompile(`^[A-Za-z0-9]{8,}$`)
	device = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,14}$`) // IFNAMSIZ - 1
)

// chosen returns the masters of the roster that c names.
func chosen(c floppy.Choice, roster []string) []string {
	if c.All {
		return roster
	}
	return c.Names
}

// divide fills in slots, processors and accounts of a machine that runs jobs.
//
// A job never shares an account with another, because HTCondor kills every
// process of the account when a job ends. A slot that is divided as jobs need
// has at most one part a processor, and while jobs are preempted the old part
// and the new one exist side by side, so it takes two accounts a processor.
func (m *Machine) divide(in Input) diag.List {
	var problems diag.List
	m.CPUs, m.Slots = max(1, in.CPUs), in.Slots
	m.Preempt = in.OwnerPreempts && m.Credential
	m.Modules = in.Modules
	if m.Slots > 0 {
		m.Accounts = m.Slots
		m.Limited = m.Slots > m.CPUs // a slot has one processor at least
		m.CPUs = max(m.CPUs, m.Slots)
		if in.Accounts < m.Slots {
			problems.Add(problem("condor.slots", "%d slots need as many job accounts, the image has %d", m.Slots, in.Accounts))
		}
		return problems
	}
	if in.Accounts < 2 {
		problems.Add(problem("", "jobs need the accounts slot1 and slot2, the image has %d of them", in.Accounts))
		return problems
	}
	m.Limited = m.CPUs > in.Accounts/2
	m.CPUs = min(m.CPUs, in.Accounts/2)
	m.Accounts = 2 * m.CPUs
	return problems
}

// executes says whether the machine runs jobs.
func (m Machine) executes() bool { return slices.Contains(m.Daemons, "STARTD") }

// submits says whether the machine has a job queue.
func (m Machine) submits() bool { return slices.Contains(m.Daemons, "SCHEDD") }

// scheddName is the user and the beginning of the node ID: it stays when the
// address changes, and differs on every machine of one floppy.
func scheddName(in Input) string {
	return in.User + "-" + strings.ToLower(in.NodeID[:min(8, len(in.NodeID))]) + "@" + in.Group
}

// known reports every name that is not a master of the roster.
func known(key string, names, roster []string) diag.List {
	var problems diag.List
	for _, n := range names {
		if !slices.Contains(roster, n) {
			p := problem(key, "the grid has no master %q", n)
			p.Remedy = diag.DidYouMean(n, roster, "the masters are "+strings.Join(roster, ", "))
			problems.Add(p)
		}
	}
	return problems
}

func problem(path, format string, args ...any) diag.Problem {
	return diag.Problem{Path: path, Message: fmt.Sprintf(format, args...)}
}
