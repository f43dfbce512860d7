package base

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// builtTools returns the tools that the store of the default place holds; a
// base that was built left them there.
func builtTools(t *testing.T) *tools {
	t.Helper()
	dir := need.Base(t)
	text, err := os.ReadFile(filepath.Join(dir, LockFile))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := ParseLock(LockFile, text)
	if err != nil {
		t.Fatal(err)
	}
	store, err := OpenStore(filepath.Dir(filepath.Dir(dir)))
	if err != nil {
		t.Fatal(err)
	}
	tl, err := openTools(t.Context(), store, lock.Tools, nil)
	if err != nil {
		t.Skipf("the base does not lie in its store: %v", err)
	}
	return tl
}

// TestMakeUser: the template is clean, sparse, the same every time, and has
// three empty trees that belong to root.
func TestMakeUser(t *testing.T) {
	tl := builtTools(t)
	e2fsck := need.Tool(t, "e2fsck")
	debugfs := need.Tool(t, "debugfs")
	var first []byte
	for range 2 {
		dir := t.TempDir()
		if err := makeUser(t.Context(), tl, dir, epoch); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, User)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = data
		} else if !bytes.Equal(first, data) {
			t.Error("the second one differs")
		}
		if _, err := sysrun.Output(t.Context(), e2fsck, "-fn", name); err != nil {
			t.Error(err)
		}
		out, err := sysrun.Output(t.Context(), debugfs, "-R", "ls -l /", name)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"40755 (2)      0      0    4096  2-Jan-2026 03:04 changes",
			"40700 (2)      0      0    4096  2-Jan-2026 03:04 work", "40700 (2)      0      0    4096  2-Jan-2026 03:04 state"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	}
}

// TestMakeGRUB: boot sector and cores are where the assembler expects them.
func TestMakeGRUB(t *testing.T) {
	tl := builtTools(t)
	dir := t.TempDir()
	if err := makeGRUB(t.Context(), tl, dir, epoch.Unix()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if b := read(GRUBBoot); len(b) != 512 || b[510] != 0x55 || b[511] != 0xAA {
		t.Errorf("boot sector of %d bytes", len(b))
	}
	if b := read(GRUBCore); len(b) > 1<<20 || len(b) < 50_000 {
		t.Errorf("core of %d bytes; the partition for it has 1 MiB", len(b))
	}
	if b := read(GRUBEFI); !bytes.HasPrefix(b, []byte("MZ")) {
		t.Error("the UEFI loader is no PE program")
	}
}
