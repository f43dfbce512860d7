package squashfs

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

var epoch = time.Unix(1_700_000_000, 0).UTC()

func file(p string, mode uint32, b []byte) *Entry {
	return &Entry{Path: p, Mode: Regular | mode, Size: int64(len(b)), Time: epoch,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// sample has every kind of entry, and content of every awkward length.
func sample() []*Entry {
	r := rand.New(rand.NewSource(1))
	random := func(n int) []byte { b := make([]byte, n); r.Read(b); return b }
	es := []*Entry{
		{Path: "usr", Mode: Dir | 0o755, Time: epoch},
		{Path: "usr/bin", Mode: Dir | 0o755, Time: epoch, Xattrs: map[string]string{OpaqueXattr: "y"}},
		file("usr/bin/empty", 0o644, nil),
		file("usr/bin/tool", 0o4755, []byte("#!/bin/sh\n")),
		file("usr/block", 0o644, random(blockSize)),
		file("usr/blocks", 0o600, random(3*blockSize+1)),
		file("usr/sparse", 0o600, append(make([]byte, 2*blockSize), "end"...)),
		{Path: "usr/link", Mode: Symlink | 0o777, Target: "../../outside", Time: epoch},
		{Path: "usr/hard", Link: "usr/bin/tool"},
		{Path: "gone", Mode: Char, Time: epoch},
		{Path: "fifo", Mode: FIFO | 0o600, Time: epoch, UID: 7, GID: 7},
		{Path: "deep/er/still", Mode: Dir | 0o700, UID: 70000, GID: 9, Time: epoch},
	}
	es[3].UID, es[3].GID = 105, 105
	es[3].Xattrs = map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	for i := range 700 { // more than one header, more than one metadata block
		es = append(es, file(fmt.Sprintf("many/%04d", i), 0o644, random(i)))
	}
	return es
}

func write(t testing.TB, entries []*Entry) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.squashfs")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(f, entries, epoch); err != nil {
		t.Fatal(err)
	}
	return name
}

func open(t testing.TB, name string) *Image {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	im, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// lines describes a file system, a line an entry.
func lines(t testing.TB, im *Image) []string {
	t.Helper()
	var out []string
	for _, e := range im.Entries() {
		line := fmt.Sprintf("%s %o %d:%d %d,%d %s|%s|%v", e.Path, e.Mode, e.UID, e.GID, e.Major, e.Minor, e.Target, e.Link, e.Xattrs)
		if e.Type() == Regular {
			b, err := im.ReadFile(e.Path, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %d %x", len(b), b[:min(len(b), 8)])
		}
		out = append(out, line)
	}
	return out
}

// TestRoundTrip: what is written is read again, and writing what was read
// gives the same bytes.
func TestRoundTrip(t *testing.T) {
	first := write(t, sample())
	im := open(t, first)
	for _, e := range sample() {
		got := im.Lookup(e.Path)
		if got == nil {
			t.Fatalf("%s is lost", e.Path)
		}
		if e.Type() != Regular || e.Link != "" || got.Link != "" {
			continue
		}
		r, _ := e.Open()
		want, _ := io.ReadAll(r)
		b, err := im.ReadFile(e.Path, 1<<30)
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: other content: %v", e.Path, err)
		}
	}
	second := write(t, im.Entries())
	a, _ := os.ReadFile(first)
	b, _ := os.ReadFile(second)
	if !bytes.Equal(a, b) {
		t.Error("written again, the bytes differ")
	}
	if got := im.Lookup("usr/hard"); got.Link != "usr/bin/tool" {
		t.Errorf("hard link: %+v", got)
	}
	if !im.Lookup("gone").Whiteout() || im.Lookup("usr/bin").Xattrs[OpaqueXattr] != "y" {
		t.Error("the whiteout or the opaque directory is lost")
	}
}

// TestOracle: unsquashfs reads what Write wrote, and Open what mksquashfs wrote.
func TestOracle(t *testing.T) {
	need.Root(t)
	need.Tool(t, "unsquashfs", "mksquashfs")
	dir := filepath.Join(t.TempDir(), "tree")
	ours := write(t, sample())
	run(t, "unsquashfs", "-d", dir, ours)
	theirs := filepath.Join(t.TempDir(), "theirs")
	run(t, "mksquashfs", dir, theirs, "-comp", "zstd", "-noappend", "-no-progress")
	if diff := cmp.Diff(lines(t, open(t, ours)), lines(t, open(t, theirs))); diff != "" {
		t.Errorf("ours, then unsquashfs and mksquashfs:\n%s", diff)
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := sysrun.Output(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestReown changes user 105 but not group 105, and is read so by another
// program.
func TestReown(t *testing.T) {
	name := write(t, sample())
	at, data, err := open(t, name).Reown(map[uint32]uint32{105: 4001}, map[uint32]uint32{9: 4002})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
	im := open(t, name)
	if e := im.Lookup("usr/bin/tool"); e.UID != 4001 || e.GID != 105 {
		t.Errorf("owner %d:%d", e.UID, e.GID)
	}
	if e := im.Lookup("deep/er/still"); e.UID != 70000 || e.GID != 4002 {
		t.Errorf("owner %d:%d", e.UID, e.GID)
	}
	need.Tool(t, "unsquashfs")
	if out := run(t, "unsquashfs", "-lln", name); !strings.Contains(out, "4001/105") {
		t.Errorf("unsquashfs sees no 4001/105:\n%.2000s", out)
	}
}

func TestRefused(t *testing.T) {
	for name, es := range map[string][]*Entry{
		"climbs":         {file("../x", 0o644, nil)},
		"absolute":       {file("/x", 0o644, nil)},
		"twice":          {file("x", 0o644, nil), file("x", 0o644, nil)},
		"below a file":   {file("x", 0o644, nil), file("x/y", 0o644, nil)},
		"link to no one": {{Path: "x", Link: "y"}},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Write(f, es, epoch); err == nil {
			t.Errorf("%s: written", name)
		}
		f.Close()
	}
}

// FuzzOpen: bytes from anywhere never panic, loop or take memory without end.
func FuzzOpen(f *testing.F) {
	b, err := os.ReadFile(write(f, sample()[:12]))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		im, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, e := range im.Entries() {
			if !Clean(e.Path) {
				t.Fatalf("path %q", e.Path)
			}
			if e.Type() == Regular {
				im.ReadFile(e.Path, 1<<20)
			}
		}
	})
}
