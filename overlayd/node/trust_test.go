package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/state"
)

// descriptorInUse starts a node on the floppy and returns the version of the
// descriptor it goes by.
func descriptorInUse(t *testing.T, w *world, cfg Config) uint64 {
	t.Helper()
	n, stop := w.start(cfg)
	version := n.Status().Descr
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	return version
}

func TestAnOlderFloppyRunsUnderTheNewestDescriptor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g := newWorld(t), newTestGrid(t)
		older := g.master(0)
		if got := descriptorInUse(t, w, w.config(older)); got != 1 {
			t.Fatalf("first floppy: descriptor %d in use, want 1", got)
		}
		if err := g.grid.Amend(func(d *credential.Descriptor) { d.Bootstrap = []string{"192.0.2.9:4242"} }, time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := descriptorInUse(t, w, w.config(g.master(0))); got != 2 {
			t.Fatalf("newer floppy: descriptor %d in use, want 2", got)
		}
		if got := descriptorInUse(t, w, w.config(older)); got != 2 {
			t.Errorf("older floppy again: descriptor %d in use, want the newest seen, 2", got)
		}
	})
}

func TestOfTwoDescriptorsOfOneVersionNeitherCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g := newWorld(t), newTestGrid(t)
		first := g.grid.Descriptor
		original := g.master(0)
		amend := func(endpoint string) {
			t.Helper()
			g.grid.Descriptor = first
			if err := g.grid.Amend(func(d *credential.Descriptor) { d.Bootstrap = []string{endpoint} }, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		amend("192.0.2.9:4242")
		one := g.master(0)
		amend("192.0.2.10:4242")
		twin := g.master(0)

		if got := descriptorInUse(t, w, w.config(one)); got != 2 {
			t.Fatalf("descriptor %d in use, want 2", got)
		}
		for _, f := range []Config{w.config(twin), w.config(one)} {
			_, stop := w.start(f)
			if err := stop(); !errors.Is(err, credential.ErrConflict) {
				t.Errorf("got %v, want both of the twins refused", err)
			}
		}

		w = newWorld(t) // a machine that knows the descriptor before them
		for _, f := range []Config{w.config(original), w.config(one), w.config(twin), w.config(one)} {
			descriptorInUse(t, w, f)
		}
		if got := descriptorInUse(t, w, w.config(twin)); got != 1 {
			t.Errorf("descriptor %d in use, want the one before the twins, 1", got)
		}
	})
}

func TestAnotherGridsFloppyBeginsANewMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, g := range []*testGrid{newTestGrid(t), newTestGrid(t)} { // of one name, with other roots
			if got := descriptorInUse(t, w, w.config(g.master(0))); got != 1 {
				t.Errorf("descriptor %d in use, want 1", got)
			}
		}
	})
}

func TestADamagedMemoryIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g := newWorld(t), newTestGrid(t)
		if err := os.WriteFile(filepath.Join(w.state, state.TrustFile), []byte("{ damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		descriptorInUse(t, w, w.config(g.master(0)))
		text, err := os.ReadFile(filepath.Join(w.state, state.TrustFile))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := credential.ParseTrust(text); err != nil {
			t.Errorf("the memory is still damaged: %v", err)
		}
	})
}
