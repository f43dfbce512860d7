package base

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/builder/manifest"
	"gridappliance/images"
)

func hexSum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// smallBase makes a base of small files below dir and returns it.
func smallBase(t *testing.T, dir, id string) *Base {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := manifest.Manifest{Version: manifest.Version, ID: strings.Repeat(id, 32/len(id)), Suite: "trixie", Time: epoch, Kernel: "6.1"}
	for _, name := range files {
		data := []byte("content of " + name)
		if name == User {
			data = make([]byte, 1<<20)
			data[500_000] = 1
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		m.Files = append(m.Files, manifest.File{Name: name, Size: int64(len(data)), SHA256: hexSum(data)})
	}
	if err := os.WriteFile(filepath.Join(dir, Manifest), m.Text(), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenErrors(t *testing.T) {
	tests := []struct {
		name   string
		damage func(dir string) error
		want   string
	}{
		{"no manifest", func(d string) error { return os.Remove(filepath.Join(d, Manifest)) }, "not a base, or an unfinished one"},
		{"file is gone", func(d string) error { return os.Remove(filepath.Join(d, Initrd)) }, "no such file"},
		{"file is shorter", func(d string) error { return os.Truncate(filepath.Join(d, Squashfs), 3) }, "base.squashfs has 3 bytes, its manifest says 24"},
		{"manifest is no JSON", func(d string) error { return os.WriteFile(filepath.Join(d, Manifest), []byte("{"), 0o644) }, "read manifest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "base")
			smallBase(t, dir, "0a")
			if err := tt.damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	b := smallBase(t, t.TempDir(), "0a")
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.Path(Kernel), []byte("Content of vmlinuz"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(); err == nil || !strings.Contains(err.Error(), "vmlinuz is not what the manifest says") {
		t.Errorf("error %v", err)
	}
}

func TestListAndFind(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Find(s, ""); !errors.Is(err, ErrNoBase) {
		t.Errorf("error %v", err)
	}
	older := smallBase(t, s.path("bases", "old"), "0a")
	smallBase(t, s.path("bases", "new"), "1b")
	if err := os.MkdirAll(s.path("bases", "half"), 0o755); err != nil { // no base: not listed
		t.Fatal(err)
	}
	if err := os.Chtimes(older.Path(Manifest), epoch, epoch); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]string{"": "1b", "0a0": "0a"} {
		b, err := Find(s, prefix)
		if err != nil || !strings.HasPrefix(b.Manifest.ID, want) {
			t.Errorf("%q: %v, %v", prefix, b, err)
		}
	}
	all, err := List(s)
	if err != nil || len(all) != 2 {
		t.Errorf("%d bases, %v", len(all), err)
	}
}

func TestStoreSweep(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	killed := s.path("tmp", "killed-1"+held)
	if err := os.Mkdir(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	running, err := s.temp("running")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(dir); err != nil {
		t.Fatal(err)
	}
	if exists(killed) || !exists(running.Path) {
		t.Error("what was killed stayed, or what runs went")
	}
	if err := running.Remove(); err != nil || exists(running.Path) {
		t.Errorf("removing what is done: %v", err)
	}
}

// TestAdoptReplacesWhatIsBroken: a base that lost a file makes room, a whole
// one stays.
func TestAdoptReplacesWhatIsBroken(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	final := s.path("bases", "id")
	for _, damage := range []func(){func() {}, func() {}, func() { os.Remove(filepath.Join(final, Kernel)) }} {
		if exists(final) {
			damage()
		}
		work, err := s.temp("base")
		if err != nil {
			t.Fatal(err)
		}
		smallBase(t, work.Join("out"), "0a")
		if err := s.adopt(work.Join("out"), final, isBase); err != nil {
			t.Fatal(err)
		}
		if err := work.Remove(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(final); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(s.path("tmp")); len(left) != 0 {
		t.Errorf("tmp has %v", left)
	}
}

func TestFetch(t *testing.T) {
	served := t.TempDir()
	b := smallBase(t, served, "0a")
	text, err := os.ReadFile(b.Path(Manifest))
	if err != nil {
		t.Fatal(err)
	}
	sum := "?checksum=sha256:" + hexSum(text)
	server := httptest.NewServer(http.FileServer(http.Dir(served)))
	defer server.Close()
	for name, source := range map[string]string{"http": server.URL + "/" + Manifest + sum, "path": b.Path(Manifest) + sum} {
		t.Run(name, func(t *testing.T) {
			s, err := OpenStore(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			got, err := Fetch(t.Context(), s, source, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := got.Verify(); err != nil {
				t.Error(err)
			}
			if got.Dir != s.path("bases", b.Manifest.ID) {
				t.Errorf("in %s", got.Dir)
			}
			for _, f := range files {
				if info, err := os.Lstat(got.Path(f)); err != nil || !info.Mode().IsRegular() {
					t.Errorf("%s is no file of its own", f)
				}
			}
			if left, _ := os.ReadDir(s.path("tmp")); len(left) != 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestFetchErrors(t *testing.T) {
	served := t.TempDir()
	b := smallBase(t, served, "0a")
	text, err := os.ReadFile(b.Path(Manifest))
	if err != nil {
		t.Fatal(err)
	}
	sum := "?checksum=sha256:" + hexSum(text)
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(served)))
	mux.HandleFunc("/evil/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, Manifest) {
			w.Write(text)
			return
		}
		fmt.Fprint(w, strings.Repeat("other ", 1000))
	})
	mux.HandleFunc("/lure/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	tests := []struct{ name, source, want string }{
		{"no checksum", server.URL + "/" + Manifest, "does not end in ?checksum=sha256:"},
		{"md5", server.URL + "/" + Manifest + "?checksum=md5:" + sum[17:49], "does not end in ?checksum=sha256:"},
		{"more than a checksum", server.URL + "/" + Manifest + sum + "&archive=zip", "does not end in ?checksum=sha256:"},
		{"not a manifest", server.URL + "/" + Kernel + sum, "names no manifest.json"},
		{"other manifest", server.URL + "/" + Manifest + "?checksum=sha256:" + hexSum(nil), "fetch " + server.URL},
		{"not there", server.URL + "/none/" + Manifest + sum, "404"},
		{"other files", server.URL + "/evil/" + Manifest + sum, "base.lock"},
		{"redirected to a file", server.URL + "/lure/" + Manifest + sum, "redirected from http to file"},
		{"other protocol", "git::https://example.org/" + Manifest + sum, "fetch git::"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := OpenStore(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err = Fetch(ctx, s, tt.source, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if entries, _ := os.ReadDir(s.path("bases")); len(entries) != 0 {
				t.Error("something was kept")
			}
		})
	}
}

func TestCopyTo(t *testing.T) {
	b := smallBase(t, t.TempDir(), "0a")
	to := filepath.Join(t.TempDir(), "new", "copy")
	for range 2 { // over what is there, too
		c, err := b.CopyTo(to)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
	}
}

// TestImageData: what images says can be read by this package.
func TestImageData(t *testing.T) {
	if _, err := parseLayout("images/layout", images.File("layout")); err != nil {
		t.Error(err)
	}
	modules, preload := parseModules(images.File("modules"))
	want := []string{"crc32c-intel", "crc32c_generic", "ext4", "squashfs", "overlay"}
	if d := cmp.Diff(want, preload); d != "" || len(modules) < 20 {
		t.Errorf("%d modules, preloaded %s", len(modules), d)
	}
	for _, list := range []string{"base-packages", "tools-packages"} {
		for _, w := range images.Words(list) {
			if !namePattern.MatchString(w) {
				t.Errorf("%s: %q is not a package's name", list, w)
			}
		}
	}
}
