package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/builder/base"
	"gridappliance/builder/manifest"
	"gridappliance/builder/plan"
	"gridappliance/builder/spec"
	"gridappliance/builder/squashfs"
	"gridappliance/internal/scratch"
)

// rootedBase is smallBase with a root file system that modules can be stacked on.
func rootedBase(t *testing.T) string {
	t.Helper()
	dir := smallBase(t)
	b, err := base.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var entries []*squashfs.Entry
	for _, d := range []string{"etc", "usr", "var", "var/lib", "var/lib/dpkg"} {
		entries = append(entries, &squashfs.Entry{Path: d, Mode: squashfs.Dir | 0o755, Time: b.Manifest.Time})
	}
	for path, text := range map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "var/lib/dpkg/status": ""} {
		entries = append(entries, &squashfs.Entry{Path: path, Mode: squashfs.Regular | 0o644, Time: b.Manifest.Time, Size: int64(len(text)),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }})
	}
	f, err := os.Create(b.Path(base.Squashfs))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := squashfs.Write(f, entries, b.Manifest.Time); err != nil {
		t.Fatal(err)
	}
	for i, file := range b.Manifest.Files {
		if file.Name == base.Squashfs {
			info, _ := f.Stat()
			b.Manifest.Files[i].Size, b.Manifest.Files[i].SHA256 = info.Size(), sum(t, f.Name())
		}
	}
	if err := os.WriteFile(b.Path(base.Manifest), b.Manifest.Text(), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// smallModule packs one file and returns the module and its SHA-256.
func smallModule(t *testing.T, baseDir string) (path, sha256 string) {
	t.Helper()
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "tool"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000, 0)
	for _, p := range []string{filepath.Join(tree, "tool"), tree} {
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(t.TempDir(), "cad.module")
	must(t, "module", "pack", tree, "--owner", "root", "--base", baseDir, "--version", "2.1", "-o", path)
	return path, sum(t, path)
}

// TestPlanSaysWhereThingsAre: golden texts, in which this machine's folders
// are left out.
func TestPlanSaysWhereThingsAre(t *testing.T) {
	baseDir, store := rootedBase(t), t.TempDir()
	module, hash := smallModule(t, baseDir)
	must(t, "base", "fetch", "--store", store, address(t, baseDir))
	def := definition(t, "modules = [\""+module+"?checksum=sha256:"+hash+"\"]\ntargets = [\"raw\", \"virtualbox\"]\ndisk = \"160MiB\"\n[[files]]\nsource = \"motd\"\npath = \"/etc/motd\"\n",
		map[string]string{"motd": "welcome\n"})
	for name, more := range map[string][]string{"plan.txt": nil, "plan.json": {"--json"}} {
		got := strings.ReplaceAll(must(t, append([]string{"plan", def, "--store", store}, more...)...), filepath.Dir(module)+"/", "")
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
	// Not in the store: the folder is named.
	if got := must(t, "plan", "--base", baseDir, "--store", store); !strings.Contains(got, ", 4.1 KB: "+baseDir+"\n") {
		t.Errorf("plan on a base in a folder:\n%s", got)
	}
}

// TestPlanOfPackagesNotMadeYet: what a build does first, and that sizes are
// guesses until then.
func TestPlanOfPackagesNotMadeYet(t *testing.T) {
	b, err := base.Open(rootedBase(t))
	if err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("0a", 32)
	lock := &base.PackageLock{Base: sum, Asked: sum, Time: b.Manifest.Time, Packages: []base.Package{
		{Name: "hello", Version: "2.10-5", Arch: "amd64", SHA256: sum, Size: 53_000, Path: "pool/hello.deb"},
		{Name: "lab-cad", Version: "2.1", Arch: "all", SHA256: sum, Size: 9_000_000, Path: "lab-cad.deb", Source: "lab"}}}
	s := &stack{lock: lock, store: "/store/", temp: &scratch.Dir{Path: "/tmp/x"}, download: 9_000_000,
		missing: &plan.Layer{Name: "gridmod1", Size: 14_600_000, What: "module site-packages" + aGuess}}
	im := &image{def: &spec.Definition{}, file: "lab/site.toml"}
	layers, err := s.plan([]plan.Layer{{Name: "gridbase", Size: 200_000_000}})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, i := range s.ingredients(im, b, layers)[1:] {
		fmt.Fprintln(&got, i)
	}
	want := `lock  site.lock, 2 packages, 0.4 KB: written by a build
gridmod1  module site-packages, about 14.6 MB: made by a build: 2 packages installed, 9.0 MB of them downloaded first, 0.1 MB are in the store
gridglue  what joins the layers, about 1.0 MB: made by each build
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestPlanTellsTheSizes: what is written is as large as was planned, exactly
// where the plan does not say that it is an estimate.
func TestPlanTellsTheSizes(t *testing.T) {
	baseDir, out := smallBase(t), t.TempDir()
	args := []string{"--base", baseDir, "--floppy", standalone(t), "--disk", "160MiB", "--target", allTargets, "--store", t.TempDir()}
	var p planReport
	if err := json.Unmarshal([]byte(must(t, append([]string{"plan", "--json"}, args...)...)), &p); err != nil {
		t.Fatal(err)
	}
	must(t, append([]string{"build", "-o", out}, args...)...)
	if len(p.Writes) != len(p.Files) || len(p.Files) < 20 {
		t.Fatalf("%d files, %d sizes", len(p.Files), len(p.Writes))
	}
	for _, w := range p.Writes {
		info, err := os.Stat(filepath.Join(out, filepath.FromSlash(w.File)))
		if err != nil {
			t.Fatal(err)
		}
		off := info.Size() - w.Bytes
		if !w.Estimate && off != 0 || max(off, -off) > 4<<10+info.Size()/3 { // of this small disk the tables are a large part
			t.Errorf("%s has %d bytes, planned were %d, estimate %v", w.File, info.Size(), w.Bytes, w.Estimate)
		}
	}
}

// TestModuleOverHTTP: a module comes from a server once, its checksum decides,
// and nothing is kept of one that is refused.
func TestModuleOverHTTP(t *testing.T) {
	baseDir, store := rootedBase(t), t.TempDir()
	module, hash := smallModule(t, baseDir)
	data, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/cad.module", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	mux.Handle("/away", http.RedirectHandler("file://"+module, http.StatusFound))
	s := httptest.NewServer(mux)
	defer s.Close()
	build := func(address string) (int, string) {
		out := t.TempDir()
		code, _, stderr := builder(t, "build", "--base", baseDir, "--store", store, "--disk", "160MiB", "--target", "raw", "--module", address, "-o", out)
		if code == 0 {
			must(t, "verify", out)
			text, err := os.ReadFile(filepath.Join(out, "grid"+manifest.ImageSuffix))
			if err != nil || !strings.Contains(string(text), hash) {
				t.Errorf("the image's manifest lacks the module: %v", err)
			}
		}
		return code, stderr
	}
	wrong := strings.Repeat("0", 64)
	for _, tt := range []struct{ address, want string }{
		{s.URL + "/cad.module?checksum=sha256:" + wrong, "Checksums did not match"},
		{s.URL + "/none?checksum=sha256:" + hash, "404"},
		{s.URL + "/away?checksum=sha256:" + hash, "redirected from http to file"},
		{s.URL + "/cad.module", "checksum"},
	} {
		if code, stderr := build(tt.address); code == 0 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d\n%s", tt.address, code, stderr)
		}
	}
	for _, dir := range []string{"modules", "tmp"} {
		if left, err := os.ReadDir(filepath.Join(store, dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", dir, left, err)
		}
	}
	address := s.URL + "/cad.module?checksum=sha256:" + hash
	if code, stderr := build(address); code != 0 {
		t.Fatalf("exit %d\n%s", code, stderr)
	}
	if got := must(t, "plan", "--base", baseDir, "--store", store, "--module", address); !strings.Contains(got, "module cad 2.1, ") || !strings.Contains(got, ": in the store\n") {
		t.Errorf("plan:\n%s", got)
	}
	before := asked.Load()
	s.Close()
	if code, stderr := build(address); code != 0 || asked.Load() != before {
		t.Errorf("again, without the server: exit %d\n%s", code, stderr)
	}
}
