package main

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gridappliance/firstboot/source"
	"gridappliance/firstboot/units"
	"gridappliance/firstboot/watch"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
)

// bootPatience is for a whole system on a busy machine.
const bootPatience = 4 * time.Minute

// lab boots the base with this tree's programs and units, and disk as the
// floppy accepted before: a container has no drive.
func lab(t *testing.T, disk []byte) *netlab.Container {
	t.Helper()
	c := netlab.Boot(t, netlab.Root(t, need.Container(t)), func(root string) { install(t, root, disk) })
	c.WaitBooted(bootPatience)
	return c
}

// install lays this tree's programs and units, and a floppy, into a root.
func install(t *testing.T, root string, disk []byte) {
	t.Helper()
	copyInto(t, os.DirFS(programs(t)), filepath.Join(root, "usr/lib/grid"), 0o755)
	copyInto(t, units.FS, filepath.Join(root, units.Dir), 0o644)
	put(t, root, source.Accepted, string(disk))
	for name, target := range units.Links() {
		link := filepath.Join(root, "etc/systemd/system", name)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
}

// programs returns a folder with this tree's programs, built once.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "firstboot-test-")
	if err != nil {
		return "", err
	}
	builtIn = dir
	_, err = sysrun.Run(context.Background(), sysrun.Command{Name: "go", Dir: "..", Env: append(os.Environ(), "CGO_ENABLED=0"),
		Args: []string{"build", "-o", dir, "./firstboot", "./overlayd", "./condorconf", "./grid", "./builder"}})
	return dir, err
})

var builtIn string // programs' folder

func TestMain(m *testing.M) {
	code := m.Run()
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

func copyInto(t *testing.T, from fs.FS, to string, mode fs.FileMode) {
	t.Helper()
	err := fs.WalkDir(from, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(from, path)
		if err != nil {
			return err
		}
		put(t, to, path, string(content))
		return os.Chmod(filepath.Join(to, path), mode)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// waitState waits until firstboot status inside says want.
func waitState(t *testing.T, c *netlab.Container, want watch.State) status {
	t.Helper()
	var s status
	for deadline := time.Now().Add(bootPatience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		out, _ := c.Try("cat", "/"+statusPath)
		json.Unmarshal([]byte(out), &s)
		if s.State == want {
			return s
		}
	}
	journal, _ := c.Try("journalctl", "--no-pager", "--output=short-monotonic", "--unit=grid-firstboot", "--unit=grid-firewall", "--unit=grid-watch", "--unit=overlayd", "--unit=condor")
	t.Fatalf("status is %+v, want %s\n%s", s, want, journal)
	return s
}

// A master's floppy becomes a master: units in order, address, name, HTCondor,
// READY; then a floppy that differs in one thing restarts nothing else.
func TestMasterUnderSystemd(t *testing.T) {
	c := lab(t, masterDisk(t, grid(t, time.Now())))
	s := waitState(t, c, watch.StateReady)
	if s.Name != "C250000002.ipop" || s.Address != "10.250.0.2" || s.Source != "/var/lib/grid/floppy.img (accepted before)" {
		t.Errorf("status %+v", s)
	}
	want := "grid-appliance: READY name=C250000002.ipop address=10.250.0.2 role=master grid=archer group=infra\n"
	if got := c.Run("cat", "/"+readyPath); got != want {
		t.Errorf("announced %q", got)
	}
	if got := c.Run("hostname", "-f"); got != "C250000002.ipop\n" {
		t.Errorf("hostname -f is %q", got)
	}
	if got := c.Run("condor_status", "-collector", "-af", "Machine"); got != "C250000002.ipop\n" {
		t.Errorf("condor_status -collector says %q", got)
	}
	if rules := c.Run("nft", "list", "table", "inet", "grid"); !strings.Contains(rules, "10.250.0.0/16") {
		t.Errorf("rules:\n%s", rules)
	}
	if failed := c.Run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "grid-*", "overlayd*", "condor*"); failed != "" {
		t.Errorf("failed: %s", failed)
	}

	if got := c.Run("stat", "--format=%a", "/"+statusPath, "/var/lib/grid/floppy.img", "/var/lib/grid/stamp.json"); got != "644\n600\n600\n" {
		t.Errorf("modes of status, floppy and stamp: %q", got)
	}

	// The same floppy by hand changes nothing.
	if out := c.Run("/usr/lib/grid/firstboot", "apply"); !strings.HasSuffix(out, ": nothing to change\n") {
		t.Errorf("apply again: %s", out)
	}
	// grid-watch restarted: everything is as it should be, so nothing restarts.
	since := func(unit string) string {
		return c.Run("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", unit)
	}
	condor, overlay := since("condor"), since("overlayd")
	c.Run("systemctl", "restart", "grid-watch")
	waitState(t, c, watch.StateReady)
	if since("condor") != condor || since("overlayd") != overlay {
		t.Error("a restart of grid-watch restarted others")
	}

	// Names, by the C library through systemd-resolved: overlayd's user may not
	// tell it, grid-watch does, and takes it back.
	waitOutput(t, c, "10.250.3.7", "getent", "ahostsv4", "c250003007")
	waitOutput(t, c, "10.250.0.2", "getent", "ahostsv4", "master-1")
	waitOutput(t, c, "C250003007.ipop", "getent", "hosts", "10.250.3.7")
	waitOutput(t, c, "systemd-resolved asks 10.250.0.2 about .ipop", "/usr/lib/grid/overlayd", "status")
	c.Run("systemctl", "stop", "overlayd")
	for deadline := time.Now().Add(bootPatience); strings.Contains(c.Run("resolvectl", "domain", "tapipop"), "ipop ~"); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("resolved still knows a server that is gone")
		}
	}
}

// waitOutput waits until a program inside prints text.
func waitOutput(t *testing.T, c *netlab.Container, text string, argv ...string) {
	t.Helper()
	for deadline := time.Now().Add(bootPatience); ; time.Sleep(200 * time.Millisecond) {
		out, err := c.Try(argv...)
		if strings.Contains(out, text) {
			return
		}
		if time.Now().After(deadline) {
			journal, _ := c.Try("journalctl", "--no-pager", "--unit=grid-watch", "--unit=overlayd")
			t.Fatalf("%v: %q, %v; want %q\n%s", argv, out, err, text, journal)
		}
	}
}

// A grid of one, without an overlay; then the mark is what keeps services from
// a half-applied floppy.
func TestStandaloneUnderSystemd(t *testing.T) {
	c := lab(t, standaloneDisk(t, ""))
	s := waitState(t, c, watch.StateReady)
	if s.Name != "standalone" || s.Address != "127.0.0.1" {
		t.Errorf("status %+v", s)
	}
	if got, _ := c.Try("systemctl", "is-active", "overlayd"); got != "inactive\n" {
		t.Errorf("overlayd is %q", got)
	}
	c.Run("rm", "/run/grid/applied")
	c.Run("systemctl", "restart", "condor")
	if got, _ := c.Try("systemctl", "is-active", "condor"); got == "active\n" {
		t.Error("condor runs without the mark")
	}
}

// A broken floppy: no service of a role, the line in the status, login stays.
func TestRefusedUnderSystemd(t *testing.T) {
	c := lab(t, []byte("no floppy"))
	s := waitState(t, c, watch.StateRefused)
	if !strings.Contains(s.Detail, "/var/lib/grid/floppy.img") {
		t.Errorf("status %+v", s)
	}
	for _, unit := range []string{"overlayd", "condor"} {
		if got, _ := c.Try("systemctl", "is-active", unit); got != "inactive\n" {
			t.Errorf("%s is %q", unit, got)
		}
	}
	if got := c.Run("systemctl", "is-active", "getty.target"); got != "active\n" {
		t.Errorf("getty.target is %q", got)
	}
}
