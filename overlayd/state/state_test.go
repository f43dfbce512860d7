package state

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadKey(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, path string)
		again  string // instance of the second load
		same   bool   // the second load gives the same key
		refuse string // or is refused with this
	}{
		{name: "same machine", again: "m1", same: true},
		{name: "copied disk", again: "m2"},
		{name: "damaged", again: "m1", spoil: func(t *testing.T, path string) { overwrite(t, path, []byte("garbage")) }},
		{name: "key damaged inside its PEM", again: "m1", spoil: func(t *testing.T, path string) {
			text, _ := os.ReadFile(path)
			overwrite(t, path, []byte(strings.Replace(string(text), "\nM", "\nA", 1)))
		}},
		{name: "empty", again: "m1", spoil: func(t *testing.T, path string) { overwrite(t, path, nil) }},
		{name: "huge", again: "m1", spoil: func(t *testing.T, path string) { os.Truncate(path, 1<<30) }},
		{name: "open to others", again: "m1", refuse: "lets others read it", spoil: func(t *testing.T, path string) {
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "a folder", again: "m1", refuse: "node.key", spoil: func(t *testing.T, path string) {
			os.Remove(path)
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, KeyFile)
			first, err := LoadKey(dir, "m1", log)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Fatalf("key file: %v, %v; want mode 0600", info.Mode(), err)
			}
			if c.spoil != nil {
				c.spoil(t, path)
			}
			second, err := LoadKey(dir, c.again, log)
			if c.refuse != "" {
				if err == nil || !strings.Contains(err.Error(), c.refuse) {
					t.Errorf("error %v, want %q", err, c.refuse)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if second.Equal(first) != c.same {
				t.Errorf("same key %v, want %v", second.Equal(first), c.same)
			}
			third, err := LoadKey(dir, c.again, log)
			if err != nil || !third.Equal(second) {
				t.Errorf("the key did not stay: %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
				t.Errorf("files left behind: %q", left)
			}
		})
	}
}

func overwrite(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLockState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	first, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state folder %v, %v; want mode 0700", info.Mode(), err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrRunning) {
		t.Errorf("second lock: %v, want ErrRunning", err)
	}
	first.Close()
	second, err := Lock(dir)
	if err != nil {
		t.Fatalf("after the first let go: %v", err)
	}
	second.Close()
	if _, err := Lock("/proc/nothing"); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("where no folder can be: %v", err)
	}
}
