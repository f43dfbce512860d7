package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/builder/base"
	"gridappliance/builder/manifest"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// patch writes b at an offset of a file.
func patch(t *testing.T, path string, at int64, b string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(b), at); err != nil {
		t.Fatal(err)
	}
}

// TestVerify builds, finds all as built, and then damages one thing after
// another: each is named, and nothing else.
func TestVerify(t *testing.T) {
	baseDir, out := smallBase(t), t.TempDir()
	must(t, "build", "--base", baseDir, "--disk", "160MiB", "--target", "raw,qcow2,virtualbox", "-o", out)
	if got := must(t, "verify", out); !strings.Contains(got, "as built (6 files, ") {
		t.Errorf("verify of a new build: %s", got)
	}
	text, err := os.ReadFile(filepath.Join(out, "grid.manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.ParseImage("m", text)
	if err != nil {
		t.Fatal(err)
	}
	region := func(name string) manifest.Region {
		r, ok := m.Region(name)
		if !ok {
			t.Fatalf("no region %s", name)
		}
		return r
	}
	raw, gridbase, user := filepath.Join(out, "grid.raw"), region("gridbase"), region("griduser")
	tests := []struct {
		name   string
		damage func()
		args   []string
		want   []string // parts of the lines, in order
	}{
		{"a byte of the base", func() { patch(t, raw, gridbase.Offset+5, "x") }, []string{out},
			[]string{"grid.raw: the part gridbase ("}},
		{"a byte behind a part", func() { patch(t, raw, gridbase.Offset+gridbase.Size+7, "x") }, []string{raw},
			[]string{"grid.raw: data at byte "}},
		{"the machine's own part", func() { patch(t, raw, user.Offset+2048, "x") }, []string{raw},
			[]string{"grid.raw: the part griduser ("}},
		{"the machine's own part, used", func() { patch(t, raw, user.Offset+2048, "x") }, []string{"--used", raw}, nil},
		{"the base of a used disk", func() { patch(t, raw, gridbase.Offset, "x") }, []string{"--used", raw},
			[]string{"grid.raw: the part gridbase ("}},
		{"a descriptor", func() { patch(t, filepath.Join(out, "grid-virtualbox/grid.vbox"), 0, "x") }, []string{out},
			[]string{"grid-virtualbox/grid.vbox: its sha256 is "}},
		{"a file is gone", func() { os.Remove(filepath.Join(out, "grid.qcow2")) }, []string{out}, []string{"grid.qcow2: is missing"}},
		{"a file is shorter", func() { os.Truncate(filepath.Join(out, "grid.spdx.json"), 3) }, []string{out},
			[]string{"grid.spdx.json: has 3 bytes, the manifest says "}},
		{"the disk is shorter", func() { os.Truncate(raw, 80<<20) }, []string{raw},
			[]string{"grid.raw: has 83886080 bytes", "grid.raw: a disk of 83886080 bytes"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			must(t, "build", "--base", baseDir, "--disk", "160MiB", "--target", "raw,qcow2,virtualbox", "-o", out)
			tt.damage()
			code, stdout, _ := builder(t, append([]string{"verify"}, tt.args...)...)
			if tt.want == nil {
				if code != 0 {
					t.Errorf("exit %d: %s", code, stdout)
				}
				return
			}
			lines := strings.Split(strings.TrimSpace(stdout), "\n")
			if code != 1 || len(lines) != len(tt.want) {
				t.Fatalf("exit %d, %d lines instead of %d:\n%s", code, len(lines), len(tt.want), stdout)
			}
			for i, w := range tt.want {
				if !strings.Contains(lines[i], w) {
					t.Errorf("line %q lacks %q", lines[i], w)
				}
			}
		})
	}
}

// TestVerifyDisksOfQEMU lets QEMU write into disks: what changed is found
// through the format's own tables.
func TestVerifyDisksOfQEMU(t *testing.T) {
	need.Tool(t, "qemu-io")
	baseDir, out := smallBase(t), t.TempDir()
	must(t, "build", "--base", baseDir, "--disk", "160MiB", "--target", "raw,qcow2", "-o", out)
	for _, disk := range []string{filepath.Join(out, "grid.qcow2"), filepath.Join(out, "grid.raw")} {
		format := filepath.Ext(disk)[1:]
		if _, err := sysrun.Output(t.Context(), "qemu-io", "-f", format, "-c", "write -P 7 150M 64k", disk); err != nil {
			t.Fatal(err)
		}
		if code, stdout, _ := builder(t, "verify", "--used", disk); code != 0 {
			t.Errorf("written to griduser, used: %s", stdout)
		}
		if _, err := sysrun.Output(t.Context(), "qemu-io", "-f", format, "-c", "write -P 7 68M 4k", disk); err != nil {
			t.Fatal(err)
		}
		code, stdout, _ := builder(t, "verify", "--used", disk)
		if code != 1 || !strings.Contains(stdout, "the part gridbase") {
			t.Errorf("%s, written to gridbase: exit %d\n%s", disk, code, stdout)
		}
	}
}

func TestVerifyBase(t *testing.T) {
	dir := smallBase(t)
	if got := must(t, "verify", dir); !strings.Contains(got, "as built (8 files") {
		t.Error(got)
	}
	patch(t, filepath.Join(dir, base.Kernel), 3, "x")
	os.Remove(filepath.Join(dir, base.GRUBEFI))
	code, stdout, _ := builder(t, "verify", dir)
	if code != 1 || !strings.Contains(stdout, base.GRUBEFI+": is missing\n") || !strings.Contains(stdout, base.Kernel+": its sha256 is ") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
	if code, _, stderr := builder(t, "verify", t.TempDir()); code != 5 || !strings.Contains(stderr, "no manifest.json and no NAME.manifest.json in it") {
		t.Errorf("an empty folder: exit %d, %s", code, stderr)
	}
}

// TestOneManifestForAllTargets: an image built for one target after another
// keeps one manifest of all its files; another image replaces it.
func TestOneManifestForAllTargets(t *testing.T) {
	baseDir, out := smallBase(t), t.TempDir()
	files := func() []string {
		text, err := os.ReadFile(filepath.Join(out, "grid.manifest.json"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.ParseImage("m", text)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range m.Files {
			names = append(names, f.Name)
		}
		return names
	}
	build := func(target, size string) {
		must(t, "build", "--base", baseDir, "--disk", size, "--target", target, "-o", out)
	}
	build("qcow2", "160MiB")
	build("raw", "160MiB")
	if diff := cmp.Diff([]string{"grid.qcow2", "grid.raw", "grid.spdx.json"}, files()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	must(t, "verify", out)
	build("raw", "161MiB")
	if diff := cmp.Diff([]string{"grid.raw", "grid.spdx.json"}, files()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var spdx struct{ SPDXVersion string }
	text, err := os.ReadFile(filepath.Join(out, "grid.spdx.json"))
	if err != nil || json.Unmarshal(text, &spdx) != nil || spdx.SPDXVersion != "SPDX-2.3" {
		t.Errorf("SPDX %+v, %v", spdx, err)
	}
}
