package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridappliance/condorconf/pool"
	"gridappliance/floppy"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// TestAutomount runs the real automounter on the generated maps: its own share
// appears at the first access, another's name leads to an NFS mount of that
// address, and whatever is no host name of the pool does not exist.
func TestAutomount(t *testing.T) {
	l := newLab(t, 1)
	m := l.person(floppy.RoleClient, "physics", "alice", "10.250.0.18")
	if _, err := os.Stat(filepath.Join(m.root, "usr/sbin/automount")); err != nil {
		t.Skip("the root has no automounter: " + err.Error())
	}
	m.condorconf("write")
	if err := os.MkdirAll(filepath.Join(m.root, "usr/lib/grid"), 0o755); err != nil {
		t.Fatal(err)
	}
	must(t, sysrun.Command{Name: need.Tool(t, "go"), Args: []string{"build", "-o", filepath.Join(m.root, "usr/lib/grid/condorconf"), "."},
		Env: append(os.Environ(), "CGO_ENABLED=0")})
	if got := m.inside("/"+pool.ProgramMap, "C250000017"); !strings.HasSuffix(got, " 10.250.0.17:/\n") {
		t.Errorf("the program map says %q", got)
	}
	for _, key := range []string{"-h", "--help", "help", "C251000017", "C250000017 x", "\n"} {
		if got, err := m.Try("chroot", m.root, "/"+pool.ProgramMap, key); err == nil {
			t.Errorf("the program map has an entry for %q: %q", key, got)
		}
	}

	if err := os.MkdirAll(filepath.Join(m.root, "mnt/local"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.put("mnt/local/hello", "from my own disk\n")
	p := m.Start("unshare", "--mount", "--pid", "--fork", "--mount-proc="+filepath.Join(m.root, "proc"), "chroot", m.root, "setsid", "--wait", "sh", "-c",
		"setsid automount --foreground & "+
			"for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1; cat /mnt/ganfs/C250000018/hello && break; done; "+
			"ls /mnt/ganfs/C251000017 /mnt/ganfs/etc; echo listed; kill %1; wait")
	t.Cleanup(func() { m.kill(p) })
	p.WaitFor("listed", 30*time.Second)
	for _, want := range []string{"from my own disk", "'/mnt/ganfs/C251000017': No such file", "'/mnt/ganfs/etc': No such file"} {
		if !strings.Contains(p.Output(), want) {
			t.Errorf("the automounter's shell has not said %q:\n%s", want, p.Output())
		}
	}
}
