package apply

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/firstboot/plan"
	"gridappliance/floppy"
	"gridappliance/internal/need"
)

// ownBase makes the tree of a machine that somebody has; two of its files do
// not end in a line feed.
func ownBase(t testing.TB) string {
	t.Helper()
	root, err := os.MkdirTemp("/dev/shm", "apply")
	if err != nil {
		root = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	for name, content := range map[string]string{
		"etc/passwd":         "root:x:0:0:root:/root:/bin/bash\ncondor:x:101:103::/var/lib/condor:/usr/sbin/nologin\nowner:x:1000:1000::/home/owner:/bin/sh\n",
		"etc/group":          "root:x:0:\ncondor:x:103:\nowner:x:1000:",
		"etc/shadow":         "root:*:1:0:99999:7:::\nowner:$y$secret:1::::::\n",
		"etc/hosts":          "127.0.0.1 localhost\n127.0.1.1 desk",
		"etc/hostname":       "desk\n",
		"etc/exports.d/mine": "",
		"var/lib/misc/x":     "",
		"run/x":              "",
	} {
		writeIn(t, root, name, content)
	}
	for name, mode := range map[string]os.FileMode{"etc/shadow": 0o640, "etc/hosts": 0o664} {
		if err := os.Chmod(filepath.Join(root, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func ownPlan(t testing.TB, made ...string) *plan.Plan {
	t.Helper()
	config, err := floppy.DecodeConfig("GRID.TML", []byte("version = 1\n[machine]\nrole = \"worker\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	config.ApplyDefaults()
	accounts := map[string]int{"root": 0, "condor": 101, "owner": 1000}
	p, err := plan.Make(plan.Input{Config: config, Image: []byte("image")}, plan.Facts{Accounts: accounts,
		Own: &plan.Own{Groups: map[string]int{"root": 0, "condor": 103, "owner": 1000}, Made: made, CPUs: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// steps calls f with a tree that dies before step n, never when n < 0, and
// returns the number of steps begun.
func steps(t testing.TB, root string, n int, f func(*Tree) error) (begun int, err error) {
	t.Helper()
	tree, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	tree.Before = func(string, string) error {
		if begun == n {
			return errDied
		}
		begun++
		return nil
	}
	return begun, f(tree)
}

// join is what firstboot join and watch do to the files.
func join(t testing.TB) func(*Tree) error {
	p := ownPlan(t)
	return func(tree *Tree) error {
		before, err := Remember(tree)
		if err != nil {
			return err
		}
		if _, err := Apply(tree, p, Options{Before: before}); err != nil {
			return err
		}
		return SetHost(tree, Host{"C250000017.ipop", netip.MustParseAddr("10.250.0.17")}, "", nil)
	}
}

func leave(tree *Tree) error {
	if _, err := Undo(tree); err != nil {
		return err
	}
	return Forget(tree)
}

// TestLeaveDiesBeforeEveryStep: whenever joining ends, and whenever leaving
// does, leaving again gives the tree of before.
func TestLeaveDiesBeforeEveryStep(t *testing.T) {
	need.Root(t) // the plan gives folders to other accounts
	probe := ownBase(t)
	want := snapshot(t, probe)
	joining, err := steps(t, probe, -1, join(t))
	if err != nil {
		t.Fatal(err)
	}
	joined := snapshot(t, probe)
	for _, name := range []string{"etc/systemd/system/multi-user.target.wants/overlayd.service", "mnt/local", "var/lib/grid/condor/spool"} {
		if _, ok := joined[name]; !ok {
			t.Errorf("joining makes no %s", name)
		}
	}
	writeIn(t, probe, "var/lib/grid/condor/spool/job_queue.log", "jobs")
	writeIn(t, probe, "var/lib/overlayd/node.key", "key")
	leaving, err := steps(t, probe, -1, leave)
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string, n int, root string) {
		t.Helper()
		if diff := cmp.Diff(want, snapshot(t, root)); diff != "" {
			t.Errorf("%s before step %d:\n%s", what, n, diff)
		}
	}
	same("nothing dies", -1, probe)
	for n := range joining {
		root := ownBase(t)
		if _, err := steps(t, root, n, join(t)); !errors.Is(err, errDied) {
			t.Fatalf("joining died before step %d: %v", n, err)
		}
		if _, err := steps(t, root, -1, leave); err != nil {
			t.Fatal(err)
		}
		same("joining died", n, root)
	}
	for n := range leaving {
		root := ownBase(t)
		steps(t, root, joining/2, join(t)) // dies too, and what was there first counts
		if _, err := steps(t, root, -1, join(t)); err != nil {
			t.Fatal(err)
		}
		writeIn(t, root, "var/lib/overlayd/node.key", "key")
		if _, err := steps(t, root, n, leave); err != nil && !errors.Is(err, errDied) {
			t.Fatalf("leaving died before step %d: %v", n, err)
		}
		if _, err := steps(t, root, -1, leave); err != nil {
			t.Fatal(err)
		}
		same("leaving died", n, root)
	}
}

// TestOwnersChangesStay: what the owner does while the machine is in a grid.
func TestOwnersChangesStay(t *testing.T) {
	need.Root(t)
	root := ownBase(t)
	if _, err := steps(t, root, -1, join(t)); err != nil {
		t.Fatal(err)
	}
	add := func(name, text string) {
		f, err := os.OpenFile(filepath.Join(root, name), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	add("etc/passwd", "bob:x:1001:1001::/home/bob:/bin/sh\n")
	add("etc/group", "bob:x:1001:\n")
	add("etc/hosts", "192.0.2.7 scanner\n")
	writeIn(t, root, "etc/hostname", "table\n")
	writeIn(t, root, "mnt/local/results", "of bob")
	if _, err := steps(t, root, -1, leave); err != nil {
		t.Fatal(err)
	}
	now := snapshot(t, root)
	for name, want := range map[string]string{
		"etc/group":         "root:x:0:\ncondor:x:103:\nowner:x:1000:\nbob:x:1001:\n",
		"etc/hosts":         "127.0.0.1 localhost\n127.0.1.1 desk\n192.0.2.7 scanner\n",
		"etc/hostname":      "table\n",
		"mnt/local/results": "of bob",
	} {
		if !strings.HasSuffix(now[name], " "+want) {
			t.Errorf("%s is %q, want %q", name, now[name], want)
		}
	}
	if !strings.HasSuffix(now["etc/passwd"], "\nbob:x:1001:1001::/home/bob:/bin/sh\n") || strings.Contains(now["etc/passwd"], "slot") {
		t.Errorf("etc/passwd is %q", now["etc/passwd"])
	}
}

// TestUndoOfAnAppliance: an appliance, which has no Before, is not undone.
func TestUndoOfAnAppliance(t *testing.T) {
	root := base(t)
	mustApply(t, root, planA(t))
	want := snapshot(t, root)
	if _, err := steps(t, root, -1, func(tree *Tree) error { _, err := Undo(tree); return err }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, snapshot(t, root)); diff != "" {
		t.Error(diff)
	}
}
