// Package plan decides what a machine should be: from a floppy and what is
// known of the machine to files, accounts and units. It is pure: equal inputs
// give equal plans, nothing is read, written or asked.
//
//	floppy ─┐
//	        ├─> Make ─> Plan ─> text for people, JSON for scripts
//	facts  ─┘             └───> apply makes a root match it
//
// A Plan is complete: what it does not name and an earlier plan did is to be
// removed. Files belong to the plan as a whole; files of the image are never
// in a plan (but for the time zone's two, which every plan has), so that
// removing one cannot hide the image's own. Accounts are lines in files that
// others write too, and are therefore named one by one. A machine that is
// somebody's own has no image: see Own.
//
// Units carries for each unit a key over everything that it reads from the
// floppy: a unit is restarted when its key changes, and only then.
//
// What depends on the virtual address (host name, HTCondor, autofs, NFS) is
// not planned here: it is known only later, and condorconf's to decide.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"

	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// Input is the floppy, as far as this machine is made from it.
type Input struct {
	Config  *floppy.Config
	Image   []byte // floppy.Size bytes
	SSHKeys []byte // authorized_keys, nil without

	// Of the verified credential; zero for standalone.
	Grid  string
	Group string
	User  string
	Pools []netip.Prefix // of every namespace of the grid

	// Overlay is everything that overlayd reads from the floppy besides its
	// configuration: descriptor, certificates, keys.
	Overlay []byte
}

// Facts is what the plan needs to know of the machine.
type Facts struct {
	TimezoneKnown bool           // the image has the floppy's time zone
	Accounts      map[string]int // accounts of the machine: name -> uid
	Modules       []string       // SHA-256 of the modules in the image, hex
	Own           *Own           // of a machine that is somebody's own; nil on an appliance
}

// Plan is what the machine should be.
type Plan struct {
	Floppy string      `json:"floppy"` // sha256 of its image, hex
	Role   floppy.Role `json:"role"`
	Grid   string      `json:"grid"`
	Group  string      `json:"group"`
	User   string      `json:"user"`
	// Hostname is the additional name of [network] hostname, "" without.
	Hostname string `json:"hostname,omitempty"`
	// Device is the virtual network's, of an own machine, which is left
	// without it.
	Device string `json:"device,omitempty"`

	Entries []Entry `json:"entries"` // by path
	Users   []User  `json:"users"`   // by name
	Units   []Unit  `json:"units"`   // in the order to start them
	// Folders must be there, on an own machine: the image has them.
	Folders []Folder `json:"folders,omitempty"`
}

// Overlay says whether the machine has a virtual network.
func (p *Plan) Overlay() bool { return p.Role != floppy.RoleStandalone }

// Kind is what stands at an Entry's path.
type Kind string

// The kinds of entries.
const (
	KindFile Kind = "file"
	KindDir  Kind = "dir"
	KindLink Kind = "link"
)

// Entry is one path of the machine as it should be. A folder that a later plan
// does not name goes only when it is empty.
type Entry struct {
	Path    string      // relative to the root: "etc/localtime"
	Kind    Kind        //
	Mode    fs.FileMode // permission bits; 0 for links
	UID     int         // owner
	GID     int         // group
	Content []byte      // of a file
	Target  string      // of a link
	Secret  bool        // contents are never printed
	Why     string      // for people
}

// Hash identifies what the entry should be: kind, mode, owner and contents.
func (e Entry) Hash() string {
	h := sha256.New()
	h.Write([]byte(string(e.Kind) + "\n" + e.Mode.String() + "\n" + e.Target + "\n"))
	fmt.Fprintf(h, "%d %d\n", e.UID, e.GID)
	h.Write(e.Content)
	return hex.EncodeToString(h.Sum(nil))
}

// User is a further account, its own group included.
type User struct {
	Name string `json:"name"`
	UID  int    `json:"uid"` // also the gid
	Home string `json:"home"`
	// Comment is that of an account which nobody logs in to; "" for a person's.
	Comment string `json:"comment,omitempty"`
}

// Unit is a systemd unit that the role needs.
type Unit struct {
	Name string `json:"name"`
	Key  string `json:"key"` // changes with anything it reads from the floppy
	// Reload says that a changed key is taken in by a reload: others that
	// depend on the unit keep running.
	Reload bool `json:"reload,omitempty"`
}

// Paths that other parts of the project know.
const (
	FloppyPath     = "var/lib/grid/floppy.img"
	AuthorizedKeys = "var/lib/grid/ssh/authorized_keys"
	RulesPath      = "etc/nftables.d/grid.nft"
	ConsolePath    = "etc/grid/console"
)

// Make returns the plan, or a diag.List of everything the floppy asks for that
// this machine cannot be. in.Config has its defaults applied and is valid.
func Make(in Input, facts Facts) (*Plan, error) {
	p := &Plan{Floppy: hash(in.Image), Role: in.Config.Machine.Role, Grid: in.Grid, Group: in.Group, User: in.User,
		Hostname: in.Config.Network.Hostname}
	problems := cannotBe(in.Config, facts)
	var more diag.List
	if facts.Own == nil {
		p.Users, more = makeUsers(in.Config.Users.Names, facts.Accounts)
	} else {
		problems = append(problems, cannotJoin(in.Config, facts)...)
		p.Users, more = makeAccounts(in.Config, facts)
	}
	problems = append(problems, more...)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	p.addFloppy(in)
	filter := rulesInput{overlay: p.Overlay(), device: in.Config.Network.Device, pools: in.Pools}
	if facts.Own == nil {
		p.addKeys(in)
		p.addTimezone(in.Config.Machine.Timezone)
		p.addConsole(in.Config.Machine.Console)
		p.addUsers()
		filter.jobs = jobAccounts(facts.Accounts)
	} else {
		p.Device = in.Config.Network.Device
		filter.own = services(in.Config)
		p.addOwn(facts, slices.Contains(filter.own, nfsPort))
		filter.jobs = p.jobAccounts()
	}
	rules := firewall(filter)
	p.add(Entry{Path: RulesPath, Kind: KindFile, Mode: 0o644, Content: rules, Why: "what the packet filter lets through"})
	p.addUnits(in, rules)
	slices.SortFunc(p.Entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return p, nil
}

// cannotBe returns what the configuration asks for and this image cannot do.
func cannotBe(c *floppy.Config, facts Facts) diag.List {
	var problems diag.List
	if !facts.TimezoneKnown && facts.Own == nil {
		problems.Add(diag.Problem{File: floppy.ConfigFile, Path: "machine.timezone",
			Message: "the image has no time zone " + c.Machine.Timezone, Remedy: "timedatectl list-timezones prints those it has"})
	}
	if c.Network.Mode == floppy.ModeRouter {
		problems.Add(diag.Problem{File: floppy.ConfigFile, Path: "network.mode",
			Message: "this image cannot be a router yet", Remedy: `write mode = "host"`})
	}
	for i, m := range c.Modules {
		if !slices.Contains(facts.Modules, m.SHA256) {
			problems.Add(diag.Problem{File: floppy.ConfigFile, Path: fmt.Sprintf("modules[%d]", i+1),
				Message: "the module " + m.Source + " is not in this image",
				Remedy:  "make an image with it: builder build --floppy; or take its [[modules]] out"})
		}
	}
	return problems
}

func (p *Plan) add(e Entry) { p.Entries = append(p.Entries, e) }

// addFloppy adds the floppy itself.
func (p *Plan) addFloppy(in Input) {
	p.add(Entry{Path: "var/lib/grid", Kind: KindDir, Mode: 0o711, Why: "what firstboot keeps"})
	p.add(Entry{Path: FloppyPath, Kind: KindFile, Mode: 0o600, Content: in.Image, Secret: true,
		Why: "the floppy, for overlayd and condorconf"})
}

// addKeys adds the ssh keys that the floppy lets in.
func (p *Plan) addKeys(in Input) {
	p.add(Entry{Path: "var/lib/grid/ssh", Kind: KindDir, Mode: 0o755, Why: "keys of sshd, which reads them as the user who logs in"})
	if len(in.SSHKeys) > 0 {
		p.add(Entry{Path: AuthorizedKeys, Kind: KindFile, Mode: 0o644, Content: in.SSHKeys, Why: "who may log in by ssh"})
	}
}

// addTimezone adds the two files by which programs know the time zone.
func (p *Plan) addTimezone(zone string) {
	p.add(Entry{Path: "etc/localtime", Kind: KindLink, Target: path.Join("../usr/share/zoneinfo", zone), Why: "time zone"})
	p.add(Entry{Path: "etc/timezone", Kind: KindFile, Mode: 0o644, Content: []byte(zone + "\n"), Why: "time zone, for programs that ask for its name"})
}

// addConsole takes the automatic login from the local consoles; units/ has
// what reads the file.
func (p *Plan) addConsole(console string) {
	if console == floppy.ConsoleOff {
		p.add(Entry{Path: ConsolePath, Kind: KindFile, Mode: 0o644, Content: []byte("GRID_LOGIN=\n"),
			Why: "local consoles ask for a password"})
	}
}

// addUsers adds what the accounts of the floppy need beside their lines.
func (p *Plan) addUsers() {
	var names []string
	for _, u := range p.Users {
		names = append(names, u.Name)
		p.add(Entry{Path: u.Home[1:], Kind: KindDir, Mode: 0o700, UID: u.UID, GID: u.UID, Why: "home of " + u.Name})
	}
	if len(names) > 0 {
		p.add(Entry{Path: "etc/ssh/sshd_config.d/grid-users.conf", Kind: KindFile, Mode: 0o644,
			Content: []byte("AllowUsers " + strings.Join(names, " ") + "\n"), Why: "let in by ssh, beside griduser"})
	}
}

// addUnits adds the units of the role.
func (p *Plan) addUnits(in Input, rules []byte) {
	p.Units = []Unit{{Name: "grid-firewall.service", Key: hash(rules), Reload: true}}
	if p.Overlay() {
		n := in.Config.Network
		n.Hostname = "" // firstboot's own
		key := hash([]byte(in.Config.Machine.Role), networkText(n), in.Overlay)
		p.Units = append(p.Units, Unit{Name: "overlayd.service", Key: key})
		if p.Role == floppy.RoleMaster {
			p.Units = append(p.Units, Unit{Name: "grid-issuer.service", Key: key})
		}
	}
}

// hash returns the sha256 over the parts and their lengths, in hex.
func hash(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		if len(parts) > 1 {
			h.Write([]byte{byte(len(p) >> 24), byte(len(p) >> 16), byte(len(p) >> 8), byte(len(p))})
		}
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
