package base

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files")

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// testTree writes a tar as an installation leaves it, in no good order.
func testTree(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "tree.tar"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := tar.NewWriter(f)
	old, young := epoch.Add(-time.Hour), epoch.Add(time.Hour)
	add := func(h tar.Header, data string) {
		h.Size = int64(len(data))
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, data)
	}
	dir := func(name string) {
		add(tar.Header{Name: "./" + name, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: young, Uname: "root"}, "")
	}
	file := func(name, data string) {
		add(tar.Header{Name: "./" + name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: old, AccessTime: young}, data)
	}
	for _, d := range []string{"", "usr/", "usr/bin/", "etc/", "var/", "var/log/", "dev/", "usr/share/", "usr/share/doc/", "usr/share/doc/a/", "opt/"} {
		dir(d)
	}
	file("var/log/dpkg.log", "2026 noise")
	file("etc/passwd", "root:x:0:0::/root:/bin/sh\ngriduser:x:1000:1000::/:/bin/sh\n")
	file("etc/group", "root:x:0:\ncondor:x:808:\n")
	file("usr/share/doc/a/copyright", "a licence")
	file("usr/share/doc/a/changelog", "history")
	file("usr/share/doc/a/example", "sources")
	file("etc/sudoers.new", "x")
	add(tar.Header{Name: "./usr/bin/ping", Typeflag: tar.TypeReg, Mode: 0o4755, ModTime: young, PAXRecords: map[string]string{
		xattrCapability: "\x01\x00", "SCHILY.xattr.user.noise": "x"}}, "ELF")
	file("opt/zz", "linked")
	add(tar.Header{Name: "./usr/bin/aa", Typeflag: tar.TypeLink, Linkname: "./opt/zz", Mode: 0o644}, "")
	add(tar.Header{Name: "./var/log/linked", Typeflag: tar.TypeLink, Linkname: "./opt/zz", Mode: 0o644}, "")
	add(tar.Header{Name: "./usr/bin/sh", Typeflag: tar.TypeSymlink, Linkname: "dash", Mode: 0o777, ModTime: old}, "")
	add(tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, "")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f.Seek(0, io.SeekStart)
	return f
}

const testLayout = `
r /dev/*
r /var/log/*
r /opt/zz
r /usr/share/doc/*/*
k /usr/share/doc/*/copyright
C /etc/sources /usr/share/doc/a/example
L /etc/mtab /proc/self/mounts
M noisy.service
d /etc/condor/grid 0750 root condor
d /home/griduser 0700 griduser root
f /etc/sudoers.new 0440 root root
`

// listing is a tar for reading: one line an entry.
func listing(t *testing.T, text []byte) string {
	t.Helper()
	var b strings.Builder
	r := tar.NewReader(bytes.NewReader(text))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(r)
		fmt.Fprintf(&b, "%c %04o %d:%d %s %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.ModTime.UTC().Format(time.RFC3339), h.Name)
		if h.Linkname != "" {
			fmt.Fprintf(&b, " -> %s", h.Linkname)
		}
		if len(data) > 0 {
			fmt.Fprintf(&b, " %q", data)
		}
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY") {
				fmt.Fprintf(&b, " %s=%q", k, v)
			}
		}
		if h.Uname != "" || !h.AccessTime.IsZero() {
			t.Errorf("%s: has names or access times", h.Name)
		}
		b.WriteString("\n")
	}
}

func normalise(t *testing.T, layoutText string) []byte {
	t.Helper()
	img, err := readImage(testTree(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := parseLayout("layout", []byte(layoutText))
	if err != nil {
		t.Fatal(err)
	}
	if err := img.drop(l); err != nil {
		t.Fatal(err)
	}
	img.addFile("usr/lib/grid/program", 0o755, []byte("ours"))
	img.addLink("usr/bin/program", "../lib/grid/program")
	if err := img.arrange(l); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := img.write(&out, epoch); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestNormalise(t *testing.T) {
	out := normalise(t, testLayout)
	if !bytes.Equal(out, normalise(t, testLayout)) {
		t.Error("the second time differs")
	}
	golden(t, "normalise.golden", listing(t, out))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}

func TestArrangeErrors(t *testing.T) {
	for text, want := range map[string]string{
		"d /x 0755 nobody root":        "no account nobody",
		"d /x 0755 root nobody":        "group nobody",
		"f /etc/none 0644 root root":   "no such file",
		"d /etc/passwd 0755 root root": "it is there and no directory",
	} {
		img, err := readImage(testTree(t))
		if err != nil {
			t.Fatal(err)
		}
		l, err := parseLayout("layout", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := img.arrange(l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", text, err)
		}
	}
}

func TestWriteOrphan(t *testing.T) {
	img, err := readImage(testTree(t))
	if err != nil {
		t.Fatal(err)
	}
	delete(img.entries, "usr/bin")
	if err := img.write(io.Discard, epoch); err == nil || !strings.Contains(err.Error(), "has no directory above it") {
		t.Errorf("error %v", err)
	}
}

func TestParseLayoutErrors(t *testing.T) {
	_, err := parseLayout("layout", []byte("x /a\nd /a 0755 root\nd a 0755 root root\nL /a/../b c\nM a/b\nr /[\nd /a 9 root root\nr /\n# fine\n"))
	golden(t, "layout-errors.golden", err.Error()+"\n")
}

func FuzzParseLayout(f *testing.F) {
	f.Add([]byte(testLayout), "usr/share/doc/a/b")
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		l, err := parseLayout("layout", text)
		if err != nil || name == "" || name[0] == '/' || filepath.Clean(name) != name {
			return
		}
		l.keeps(name)
		for _, r := range l.make {
			if strings.HasPrefix(r.path, "/") || strings.HasPrefix(r.path, "..") {
				t.Errorf("rule makes %q", r.path)
			}
		}
	})
}

// FuzzReadImage feeds hostile archives; mmdebstrap's are not, but a tree in the
// store is a file like any other.
func FuzzReadImage(f *testing.F) {
	var small bytes.Buffer
	w := tar.NewWriter(&small)
	w.WriteHeader(&tar.Header{Name: "./a", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644})
	w.Write([]byte("x"))
	w.WriteHeader(&tar.Header{Name: "./b", Typeflag: tar.TypeLink, Linkname: "a"})
	w.Close()
	f.Add(small.Bytes())
	f.Fuzz(func(t *testing.T, text []byte) {
		name := filepath.Join(t.TempDir(), "t")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		img, err := readImage(file)
		if err != nil {
			return
		}
		img.write(io.Discard, epoch)
	})
}
