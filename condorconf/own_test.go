package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/condorconf/pool"
	"gridappliance/floppy"
)

// put writes a file of the root.
func (b *box) put(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// Services that the owner of an own machine may use are not stopped for want
// of a role that needs them, and are when they were the grid's.
func TestOwnServices(t *testing.T) {
	b, grid := newBox(t), newGrid(t, 1)
	b.put(ownMark, "")
	for _, c := range []struct {
		role    floppy.Role
		address string
		stop    []string // but for HTCondor, and the guard, which is the grid's alone
	}{
		{floppy.RoleWorker, "10.250.0.18", nil},
		{floppy.RoleClient, "10.250.0.18", nil},
		{floppy.RoleWorker, "10.250.0.18", []string{pool.NFSUnit}},
		{floppy.RoleStandalone, "", []string{pool.AutofsUnit}},
		{floppy.RoleMaster, grid.Material[0].Address.String(), nil},
	} {
		b.insert(grid, c.role, c.address)
		stop := slices.DeleteFunc(b.write().Stop, func(u string) bool { return u == pool.CondorUnit || u == pool.GuardUnit })
		if !slices.Equal(stop, c.stop) {
			t.Errorf("%s: stops %v, want %v", c.role, stop, c.stop)
		}
		if !strings.Contains(b.read(pool.RoleFile), "\nSPOOL = /var/lib/grid/condor/spool\n") {
			t.Errorf("%s: HTCondor keeps the grid's jobs among others", c.role)
		}
	}
}

// TestRemove: what write made goes, what others made stays.
func TestRemove(t *testing.T) {
	b, grid := newBox(t), newGrid(t, 1)
	b.put("etc/condor/config.d/90-mine.conf", "START = True\n")
	b.put("etc/auto.master.d/mine.autofs", "/srv /etc/auto.srv\n")
	before := b.files()
	b.insert(grid, floppy.RoleMaster, grid.Material[0].Address.String())
	b.write()
	b.put("etc/condor/config.d/.10-grid-network.conf.new", "CONDOR_HO") // of a write that was cut short
	written := b.files()
	remove := func(more ...string) string {
		t.Helper()
		var out, errs strings.Builder
		if code := run(t.Context(), append([]string{"remove", "--root", b.root}, more...), strings.NewReader(""), &out, &errs); code != 0 {
			t.Fatalf("remove: exit %d: %s", code, errs.String())
		}
		return out.String()
	}
	planned := remove("--plan")
	if diff := cmp.Diff(written, b.files()); diff != "" {
		t.Errorf("the plan changes\n%s", diff)
	}
	if did := remove(); did != planned || !strings.Contains(did, "remove /"+pool.KeyFile+"\n") {
		t.Errorf("removed\n%swhere the plan was\n%s", did, planned)
	}
	if diff := cmp.Diff(before, b.files()); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
	if again := remove(); again != "" {
		t.Errorf("a second time: %q", again)
	}
}
