package scratch

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestMain is the maker of the tests below when it is told so: it makes a
// folder and a file, says so, and waits to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SCRATCH_MAKER"); dir != "" {
		d, err := MkdirTemp(dir, "work-")
		if err == nil {
			err = os.WriteFile(d.Join("inside"), []byte("x"), 0o600)
		}
		if err == nil {
			_, err = CreateTemp(dir, "work-*.part")
		}
		if err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Stdout.WriteString("made\n")
		select {}
	}
	os.Exit(m.Run())
}

// TestKilledMaker kills a maker: while it lives nothing of it goes, afterwards
// all, and what others have is left alone.
func TestKilledMaker(t *testing.T) {
	dir := t.TempDir()
	for _, kept := range []string{"work.txt", "other-1"} {
		if err := os.WriteFile(filepath.Join(dir, kept), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "other-1"), filepath.Join(dir, "work-link")); err != nil {
		t.Fatal(err)
	}
	maker := exec.Command(os.Args[0])
	maker.Env = append(os.Environ(), "SCRATCH_MAKER="+dir)
	out, err := maker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := maker.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "made\n" {
		t.Fatalf("the maker says %q, %v", line, err)
	}
	Sweep(dir, "work-*", nil)
	if got := count(t, dir); got != 5 {
		t.Errorf("%d entries while the maker lives, want 5", got)
	}
	maker.Process.Kill()
	maker.Wait()
	Sweep(dir, "work-*", nil)
	if got := count(t, dir); got != 3 {
		t.Errorf("%d entries after the maker was killed, want work.txt, other-1 and the link", got)
	}
}

// TestMakersAndSweepers lets many of both run at once: every maker keeps what
// it made until it removes it.
func TestMakersAndSweepers(t *testing.T) {
	dir, whole := t.TempDir(), t.TempDir()
	done := make(chan struct{})
	var sweepers, makers sync.WaitGroup
	for range 2 {
		sweepers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					Sweep(dir, "*", nil)
				}
			}
		})
	}
	for range 4 {
		makers.Go(func() {
			for range 100 {
				d, err := MkdirTemp(dir, "d-")
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(d.Join("inside"), nil, 0o600); err != nil {
					t.Error(err)
				}
				if err := d.Remove(); err != nil {
					t.Error(err)
				}
				f, err := CreateTemp(dir, "f-")
				if err != nil {
					t.Error(err)
					return
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Millisecond) // as a close of a full file system
				if err := f.Rename(filepath.Join(whole, filepath.Base(f.Name()))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	makers.Wait()
	close(done)
	sweepers.Wait()
	if got := count(t, dir); got != 0 {
		t.Errorf("%d entries stayed", got)
	}
	if got := count(t, whole); got != 400 {
		t.Errorf("%d files have their own name, want 400", got)
	}
}

// TestRemoveAfterRename leaves alone what has got its own name.
func TestRemoveAfterRename(t *testing.T) {
	dir := t.TempDir()
	d, err := MkdirTemp(dir, "d-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d.Path, filepath.Join(dir, "whole")); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := count(t, dir); got != 1 {
		t.Errorf("%d entries, want the folder under its own name", got)
	}
}

func count(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
