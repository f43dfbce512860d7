package pool

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/condorconf/knob"
	"gridappliance/floppy"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// variations are the machines of the golden tests, by name.
func variations() map[string]Input {
	all := floppy.Choice{All: true}
	worker := Input{
		Role: floppy.RoleWorker, Grid: "archer", Group: "physics", User: "alice",
		Name: "C250000007.ipop", NodeID: "7f3a9c02d1e4b5a6", Device: "tapipop",
		Net:     netip.MustParsePrefix("10.250.0.7/16"),
		Roster:  []string{"C250000002.ipop", "C250000003.ipop"},
		Masters: all, Flock: all, OwnerPreempts: true, Export: "/mnt/local", Autofs: true,
		CPUs: 2, Accounts: 128,
	}
	with := func(in Input, change func(*Input)) Input { change(&in); return in }
	client := with(worker, func(in *Input) { in.Role = floppy.RoleClient })
	master := with(worker, func(in *Input) {
		in.Role, in.Group, in.Name = floppy.RoleMaster, MasterGroup, "C250000002.ipop"
		in.Net, in.Roster = netip.MustParsePrefix("10.250.0.2/16"), []string{"C250000002.ipop"}
	})
	return map[string]Input{
		"worker":            worker,
		"worker-equal":      with(worker, func(in *Input) { in.OwnerPreempts = false }),
		"worker-slots":      with(worker, func(in *Input) { in.Slots = 4 }),
		"worker-limited":    with(worker, func(in *Input) { in.CPUs, in.Accounts = 64, 8 }),
		"worker-modules":    with(worker, func(in *Input) { in.Modules = []string{"open-mpi", "verilator"} }),
		"client":            client,
		"client-own":        with(client, func(in *Input) { in.Own = true }),
		"client-flock":      with(client, func(in *Input) { in.Masters = named("C250000003.ipop") }),
		"client-flock-none": with(client, func(in *Input) { in.Masters, in.Flock = named("C250000003.ipop"), floppy.Choice{} }),
		"client-private":    with(client, func(in *Input) { in.Export, in.Autofs = "", false }),
		"master":            master,
		"master-of-two":     with(master, func(in *Input) { in.Roster = worker.Roster }),
		"master-of-its-own": with(master, func(in *Input) { in.Roster, in.Masters = worker.Roster, named(in.Name) }),
		"standalone-own":    {Role: floppy.RoleStandalone, OwnerPreempts: true, Autofs: true, CPUs: 2, Accounts: 4, Own: true},
		"standalone":        {Role: floppy.RoleStandalone, OwnerPreempts: true, Export: "/mnt/local", Autofs: true, CPUs: 2, Accounts: 128},
	}
}

func named(names ...string) floppy.Choice { return floppy.Choice{Names: names} }

func TestGolden(t *testing.T) {
	for name, in := range variations() {
		t.Run(name, func(t *testing.T) {
			m, problems := New(in)
			if err := problems.Err(); err != nil {
				t.Fatal(err)
			}
			files, err := m.Files()
			if err != nil {
				t.Fatal(err)
			}
			run, stop := m.Units()
			text := fmt.Sprintf("run %v\nstop %v\n", run, stop)
			for _, f := range files {
				text += fmt.Sprintf("\n==> /%s %04o\n%s", f.Path, f.Mode, f.Data)
			}
			golden(t, filepath.Join("testdata", name+".golden"), text)
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestEveryFileIsOwned(t *testing.T) {
	for name, in := range variations() {
		m, _ := New(in)
		files, err := m.Files()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !slices.Contains(Owned(), f.Path) {
				t.Errorf("%s: %s is not owned, so that another role would leave it behind", name, f.Path)
			}
		}
	}
}

func TestEveryAllowedKnobIsUsed(t *testing.T) {
	used := map[string]bool{}
	for _, in := range variations() {
		m, _ := New(in)
		files, _ := m.Files()
		for _, f := range files {
			for line := range strings.Lines(string(f.Data)) {
				if name, _, ok := strings.Cut(line, " ="); ok {
					used[name] = true
				}
			}
		}
	}
	for _, name := range slices.Concat(knob.Names(knob.Plain), knob.Names(knob.Expression)) {
		if !used[strings.NewReplacer("%d", "1", "%s", "OpenMpi").Replace(name)] {
			t.Errorf("%s is in the allow-list and no machine sets it", name)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	cases := map[string]struct {
		base   string
		change func(*Input)
		want   string
	}{
		"unknown role":             {"worker", func(in *Input) { in.Role = "boss" }, `machine.role: there is no role "boss"`},
		"worker of infra":          {"worker", func(in *Input) { in.Group = "infra" }, `condor.group: a worker cannot be of the group "infra"`},
		"master of physics":        {"master", func(in *Input) { in.Group = "physics" }, `condor.group: a master cannot be of the group "physics"`},
		"hostile group":            {"worker", func(in *Input) { in.Group = "a\nALLOW_WRITE = *" }, `group "a\nALLOW_WRITE = *"`},
		"hostile user":             {"client", func(in *Input) { in.User = `bob" || "` }, `user "bob\" || \""`},
		"hostile grid":             {"client", func(in *Input) { in.Grid = `.*` }, `grid ".*"`},
		"hostile node ID":          {"client", func(in *Input) { in.NodeID = `$(HOME)` }, `node ID "$(HOME)"`},
		"hostile device":           {"worker", func(in *Input) { in.Device = "tap\\" }, `network.device: "tap\\"`},
		"hostile share":            {"client", func(in *Input) { in.Export = "/a *(rw)" }, `share.export: "/a *(rw)"`},
		"share above":              {"client", func(in *Input) { in.Export = "/mnt/../etc" }, `share.export: "/mnt/../etc"`},
		"relative share":           {"client", func(in *Input) { in.Export = "mnt" }, `share.export: "mnt"`},
		"no address":               {"worker", func(in *Input) { in.Net = netip.Prefix{} }, "is not an IPv4 address with its network"},
		"IPv6 address":             {"worker", func(in *Input) { in.Net = netip.MustParsePrefix("fd00::7/64") }, "is not an IPv4 address"},
		"name of another address":  {"worker", func(in *Input) { in.Name = "C250000002.ipop" }, `the host name "C250000002.ipop" is not that of 10.250.0.7`},
		"no master":                {"worker", func(in *Input) { in.Roster = nil }, "condor.masters: the grid names no master"},
		"unknown master":           {"worker", func(in *Input) { in.Masters = named("C250000022.ipop") }, `condor.masters: the grid has no master "C250000022.ipop" (did you mean "C250000002.ipop"?)`},
		"unknown flock":            {"client", func(in *Input) { in.Flock = named("elsewhere") }, `condor.flock: the grid has no master "elsewhere"`},
		"master that is not one":   {"master", func(in *Input) { in.Roster = []string{"C250000003.ipop"} }, "this master, C250000002.ipop, is not among them"},
		"more slots than accounts": {"worker", func(in *Input) { in.Slots, in.Accounts = 9, 8 }, "condor.slots: 9 slots need as many job accounts, the image has 8"},
		"no accounts":              {"worker", func(in *Input) { in.Accounts = 0 }, "jobs need the accounts slot1 and slot2"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			in := variations()[c.base]
			c.change(&in)
			_, problems := New(in)
			if !strings.Contains(problems.Error(), c.want) {
				t.Errorf("problems %q, want %q among them", problems.Error(), c.want)
			}
		})
	}
}

// FuzzHostile holds that a hostile identity becomes a problem or an error, or
// stands in the files without adding a line to them.
func FuzzHostile(f *testing.F) {
	f.Add("physics", "alice", "archer", "7f3a", "/mnt/local")
	f.Add("a\nSTART = False", "a$(b)", "x/y", "..", "/a b")
	f.Fuzz(func(t *testing.T, group, user, grid, node, export string) {
		count := func(in Input) (int, bool) {
			m, problems := New(in)
			files, err := m.Files()
			lines := 0
			for _, f := range files {
				lines += strings.Count(string(f.Data), "\n")
			}
			return lines, len(problems) == 0 && err == nil
		}
		in := variations()["client"]
		want, _ := count(in)
		in.Group, in.User, in.Grid, in.NodeID, in.Export = group, user, grid, node, export
		if got, ok := count(in); ok && export != "" && got != want {
			t.Errorf("%d lines, want %d", got, want)
		}
	})
}

func TestUnitsByRole(t *testing.T) {
	cases := map[string]string{
		"worker":         "grid-guard.service condor.service autofs.service",
		"client":         "grid-guard.service condor.service autofs.service nfs-server.service",
		"client-private": "grid-guard.service condor.service",
		"master":         "condor.service autofs.service",
		"standalone":     "condor.service",
	}
	for name, want := range cases {
		m, _ := New(variations()[name])
		run, stop := m.Units()
		if got := strings.Join(run, " "); got != want {
			t.Errorf("%s runs %q, want %q", name, got, want)
		}
		if len(run)+len(stop) != 4 {
			t.Errorf("%s: %v and %v leave a unit undecided", name, run, stop)
		}
	}
}
