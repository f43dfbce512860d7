package plan

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"gridappliance/firstboot/units"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// Own is what the plan needs to know of a machine that is somebody's own and
// not an appliance: it has an owner, whose time zone, log-ins, ssh, name
// servers and packet filter stay as they are, and who may want all of it back.
//
// Of the floppy such a machine takes the role and what belongs to it. What the
// image has and it lacks becomes part of the plan, and so goes with it: system
// accounts with numbers that are free here, folders, which units start with the
// machine, and HTCondor's spool beside the owner's.
type Own struct {
	Groups map[string]int // groups of the machine: name -> gid
	Made   []string       // accounts that an earlier plan made
	CPUs   int            // processors
	// Taken are files by which the owner has configured HTCondor, and Shares
	// those by which NFS shares something already. Both are empty once the
	// machine has joined: what the owner adds then is added knowingly.
	Taken, Shares []string
}

// Numbers of system accounts: Debian policy §9.2.2. Those made by systemd begin
// at the end, those by adduser at the beginning; ours fill gaps from the end.
const (
	firstSystemUID = 100
	lastSystemUID  = 999
)

// Folder is one that must be there. It is made where it is missing, and one
// that was made goes again when it is empty; any other stays as it is.
type Folder struct {
	Path string      `json:"path"`
	Mode fs.FileMode `json:"mode"`
}

// CondorState is where HTCondor keeps jobs of the grid on an own machine: the
// queue of a pool that the machine was in before must neither run here nor be
// lost. condorconf knows it too.
const CondorState = "var/lib/grid/condor"

// cannotJoin returns why the plan cannot be this own machine.
func cannotJoin(c *floppy.Config, facts Facts) diag.List {
	var problems diag.List
	for _, file := range facts.Own.Taken {
		problems.Add(diag.Problem{File: file, Message: "HTCondor is configured on this machine already, and a machine is in one pool only",
			Remedy: "move the file elsewhere if that pool is given up, or use an appliance in a virtual machine"})
	}
	if c.Machine.Role == floppy.RoleClient && c.Share.Export != "" {
		for _, file := range facts.Own.Shares {
			problems.Add(diag.Problem{File: file, Message: "this machine shares files by NFS already, and its server can serve one network only",
				Remedy: `make the floppy with export = "" below [share]`})
		}
	}
	if _, ok := facts.Own.Groups["condor"]; !ok {
		problems.Add(diag.Problem{File: "/etc/group", Message: "has no group condor: HTCondor is not installed", Remedy: "apt-get install condor"})
	}
	return problems
}

// makeAccounts returns the accounts that the role needs and no person uses:
// overlayd's, and two a processor for jobs (condorconf/pool says why two).
func makeAccounts(c *floppy.Config, facts Facts) ([]User, diag.List) {
	var (
		users    []User
		problems diag.List
	)
	taken := map[int]bool{}
	for _, ids := range []map[string]int{facts.Accounts, facts.Own.Groups} {
		for _, id := range ids {
			taken[id] = true
		}
	}
	add := func(name, home, comment string) {
		uid, there := facts.Accounts[name]
		_, group := facts.Own.Groups[name]
		if (there || group) && !slices.Contains(facts.Own.Made, name) {
			problems.Add(diag.Problem{File: "/etc/passwd", Message: fmt.Sprintf("the name %s, which the grid needs, belongs to an account or group of this machine", name),
				Remedy: "rename that one (usermod --login, groupmod --new-name)"})
			return
		}
		if !there {
			for uid = lastSystemUID; taken[uid]; uid-- {
			}
		}
		if uid < firstSystemUID {
			problems.Add(diag.Problem{File: "/etc/passwd", Message: fmt.Sprintf("no number from %d to %d is free for %s", firstSystemUID, lastSystemUID, name),
				Remedy: "remove system accounts that nothing uses"})
			return
		}
		taken[uid] = true
		users = append(users, User{Name: name, UID: uid, Home: home, Comment: comment})
	}
	if c.Machine.Role != floppy.RoleStandalone {
		add("overlayd", "/var/lib/overlayd", "Overlay Node")
	}
	if c.Machine.Role != floppy.RoleMaster {
		for i := range max(2*facts.Own.CPUs, c.Condor.Slots, 2) {
			add(fmt.Sprintf("slot%d", i+1), "/nonexistent", fmt.Sprintf("HTCondor Slot %d", i+1))
		}
	}
	slices.SortFunc(users, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return users, problems
}

// NFSDropIn is there when the NFS server is the grid's, and not the owner's.
const NFSDropIn = "etc/systemd/system/nfs-server.service.d/grid.conf"

// addOwn adds what the image has by itself. shares says that the role shares
// files by NFS.
func (p *Plan) addOwn(facts Facts, shares bool) {
	const etc = "etc/systemd/system/"
	for name, target := range units.Links() {
		p.add(Entry{Path: etc + name, Kind: KindLink, Target: target, Why: "starts with the machine"})
	}
	gated := []string{"condor.service.d/grid.conf"}
	if shares {
		gated = append(gated, strings.TrimPrefix(NFSDropIn, etc))
	}
	for _, name := range gated {
		text, err := units.FS.ReadFile(name)
		if err != nil {
			panic(err) // embedded
		}
		if p.Overlay() {
			text = fmt.Appendf(text, "\n[Unit]\n# Debian has it start with the machine, when the address it is bound to is not there yet: grid-watch does.\n"+
				"ConditionPathExists=/proc/sys/net/ipv4/conf/%s\n", p.Device)
		}
		p.add(Entry{Path: etc + name, Kind: KindFile, Mode: 0o644, Content: text, Why: "starts when the machine has its address"})
	}
	// The owner's automounts must not depend on the grid: an order, no condition.
	p.add(Entry{Path: etc + "autofs.service.d/grid.conf", Kind: KindFile, Mode: 0o644,
		Content: []byte("[Unit]\nAfter=overlayd.service\n"), Why: "mounts are given back while the virtual network carries packets"})

	gid := facts.Own.Groups["condor"]
	p.add(Entry{Path: "etc/condor/grid", Kind: KindDir, Mode: 0o750, GID: gid, Why: "HTCondor's credential"})
	p.add(Entry{Path: CondorState, Kind: KindDir, Mode: 0o755, Why: "HTCondor's, of this grid"})
	for _, name := range []string{"execute", "spool"} {
		p.add(Entry{Path: CondorState + "/" + name, Kind: KindDir, Mode: 0o755, UID: facts.Accounts["condor"], GID: gid, Why: "HTCondor's, of this grid"})
	}
	for _, name := range []string{"passwords.d", "tokens.d"} {
		p.add(Entry{Path: CondorState + "/" + name, Kind: KindDir, Mode: 0o700, Why: "HTCondor's, of this grid"})
	}
	p.Folders = []Folder{{"etc/auto.master.d", 0o755}, {"etc/exports.d", 0o755}, {"etc/nfs.conf.d", 0o755},
		{"mnt/ganfs", 0o755}, {"mnt/local", fs.ModeSticky | 0o777}}
}
