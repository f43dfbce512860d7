package base

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/diag"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

func examplePackageLock() *PackageLock {
	sum := strings.Repeat("0a", 32)
	return &PackageLock{Base: sum, Asked: strings.Repeat("1b", 32), Time: time.Date(2026, 11, 24, 2, 12, 15, 0, time.UTC),
		Packages: []Package{{"cowsay", "3.03+dfsg2-8", "all", sum, 21372, "pool/main/c/cowsay/cowsay_3.03+dfsg2-8_all.deb", ""},
			{"hello", "2.10-5", "amd64", sum, 53228, "pool/main/h/hello/hello_2.10-5_amd64.deb", "lab"}}}
}

func TestPackageLock(t *testing.T) {
	want := examplePackageLock()
	got, err := ParsePackageLock("l", want.Text())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	text := string(want.Text())
	for _, tt := range []struct{ from, to, want string }{
		{"grid-packages-lock 1", "grid-packages-lock 2", `l:1: the first line is not "grid-packages-lock 1"`},
		{"base 0a", "base 0", `l:2: not a line "base" and 64 hex digits`},
		{"asked", "base", `l:3: not a line "asked" and 64 hex digits`},
		{"time 2026", "time 26", `l:4: not a line "time`},
		{"[packages]", "[base]", "l:5: not the line [packages]"},
		{".deb lab", ".deb Lab", `l:7: "Lab" is not the name of a source`},
		{".deb lab", ".deb lab x", "l:7: 8 fields instead of"},
		{"hello 2.10", "bash 2.10", `l:7: "bash" does not come after "cowsay"`},
		{text[strings.Index(text, "[packages]"):], "", "ends before its [packages] section"},
	} {
		damaged := strings.Replace(text, tt.from, tt.to, 1)
		if damaged == text {
			t.Fatalf("%s: the case changes nothing", tt.from)
		}
		_, err := ParsePackageLock("l", []byte(damaged))
		if got := diag.Of(err).Format(); !strings.Contains(got, tt.want) || !strings.Contains(got, "--update") {
			t.Errorf("%s -> %s:\n%s", tt.from, tt.to, got)
		}
	}
}

func FuzzParsePackageLock(f *testing.F) {
	f.Add(examplePackageLock().Text())
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := ParsePackageLock("l", text)
		if err != nil {
			return
		}
		again, err := ParsePackageLock("l", l.Text())
		if err != nil || !bytes.Equal(again.Text(), l.Text()) {
			t.Fatalf("its own text is refused or read otherwise: %v", err)
		}
	})
}

// tree makes an image of entries: path -> "kind[mode] content".
func tree(entries map[string]tar.Header, data map[string]string) *image {
	img := &image{entries: map[string]*entry{}}
	for name, h := range entries {
		h.Name = name
		e := &entry{Header: h}
		if h.Typeflag == tar.TypeReg {
			e.data = []byte(data[name])
			e.Size = int64(len(e.data))
		}
		img.entries[name] = e
	}
	return img
}

// TestDifference: what is new, changed or gone, and the folders above it, and
// nothing else.
func TestDifference(t *testing.T) {
	dir := tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}
	file := tar.Header{Typeflag: tar.TypeReg, Mode: 0o644}
	older := file
	older.ModTime = time.Unix(1, 0)
	private := file
	private.Mode = 0o600
	link := func(to string) tar.Header { return tar.Header{Typeflag: tar.TypeSymlink, Linkname: to} }
	hard := func(to string) tar.Header { return tar.Header{Typeflag: tar.TypeLink, Linkname: to} }
	below := tree(map[string]tar.Header{"etc": dir, "etc/same": file, "etc/content": file, "etc/mode": file, "etc/gone": file, "old": dir,
		"old/a": dir, "old/a/b": file, "was-dir": dir, "was-dir/x": file, "link": link("etc/same"), "moved": link("a"), "time": older,
		"one": file, "two": hard("one")}, map[string]string{"etc/content": "a", "one": "1"})
	above := tree(map[string]tar.Header{"etc": dir, "etc/same": file, "etc/content": file, "etc/mode": private, "was-dir": file,
		"link": link("etc/same"), "moved": link("b"), "time": file, "new": dir, "new/f": file, "one": file, "two": hard("one"), "three": hard("one")},
		map[string]string{"etc/content": "b", "one": "1"})
	layer, err := difference(below, above)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for name, e := range layer.entries {
		got = append(got, fmt.Sprintf("%s %c", name, e.Typeflag))
	}
	sort.Strings(got)
	want := []string{"etc 5", "etc/content 0", "etc/gone 3", "etc/mode 0", "moved 2", "new 5", "new/f 0", "old 3", "one 0", "three 1", "was-dir 0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// signedArchive makes an archive in dir, with the package lab-cad, signed by a
// key that it makes, and returns the public key.
func signedArchive(t *testing.T, dir, home string) []byte {
	t.Helper()
	gpg := func(stdin io.Reader, args ...string) []byte {
		r, err := sysrun.Run(t.Context(), sysrun.Command{Name: "gpg", Args: append([]string{"--homedir", home, "--batch", "--quiet"}, args...), Stdin: stdin})
		if err != nil {
			t.Fatal(err)
		}
		return r.Stdout
	}
	gpg(nil, "--passphrase", "", "--quick-gen-key", "archive@example.org", "ed25519", "sign", "never")
	control := "Package: lab-cad\nVersion: 2.1\nArchitecture: all\nMaintainer: Lab <lab@example.org>\nDescription: for a test\n"
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "DEBIAN"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "DEBIAN", "control"), []byte(control), 0o644); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(dir, "lab-cad_2.1_all.deb")
	if _, err := sysrun.Output(t.Context(), "dpkg-deb", "--build", root, deb); err != nil {
		t.Fatal(err)
	}
	debSum, size, err := hashFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	packages := fmt.Appendf(nil, "%sFilename: ./lab-cad_2.1_all.deb\nSize: %d\nSHA256: %s\n", control, size, debSum)
	if err := os.WriteFile(filepath.Join(dir, "Packages"), packages, 0o644); err != nil {
		t.Fatal(err)
	}
	release := fmt.Sprintf("Origin: example\nDate: %s\nSHA256:\n %x %d Packages\n",
		time.Now().UTC().Add(-time.Hour).Format("Mon, 02 Jan 2006 15:04:05 UTC"), sha256.Sum256(packages), len(packages))
	signed := gpg(strings.NewReader(release), "--clearsign")
	if err := os.WriteFile(filepath.Join(dir, "InRelease"), signed, 0o644); err != nil {
		t.Fatal(err)
	}
	return gpg(nil, "--armor", "--export")
}

// TestArchiveKeys: an archive is taken with its own key, and refused in a line
// that says why with another one, changed, or unsigned.
func TestArchiveKeys(t *testing.T) {
	need.Tool(t, "gpg", "gpgv", "apt-get")
	gnupg := func() string { // its sockets need a short path
		dir, err := os.MkdirTemp("/tmp", "grid-gpg-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			sysrun.Output(t.Context(), "gpgconf", "--homedir", dir, "--kill", "all")
			os.RemoveAll(dir)
		})
		return dir
	}
	good, other := t.TempDir(), t.TempDir()
	key, wrong := signedArchive(t, good, gnupg()), signedArchive(t, other, gnupg())
	var opened *apt
	read := func(dir string, key []byte) error {
		if err := CheckKey(key); err != nil {
			t.Fatalf("the key is refused: %v", err)
		}
		a, err := newAPT(t.Context(), filepath.Join(t.TempDir(), "apt"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		opened = a
		return a.useArchives(t.Context(), []Archive{{Name: "lab", URIs: []string{"file://" + dir}, Suites: []string{"./"}, Key: key, KeyName: "lab.asc"}})
	}
	if err := read(good, key); err != nil {
		t.Errorf("with its own key: %v", err)
	}
	if found, err := opened.closure(t.Context(), []string{"lab-cad"}); err != nil || len(found) != 1 || found[0].Source != "lab" {
		t.Errorf("its package: %+v, %v", found, err)
	} else if store, err := OpenStore(t.TempDir()); err != nil || opened.download(t.Context(), store, found, nil) != nil || len(store.lacks(found)) > 0 {
		t.Errorf("its package does not come into the store: %v", err)
	}
	refused := func(what, want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("with another key", "which lab.asc does not hold; nothing was taken from it", read(good, wrong))
	text, err := os.ReadFile(filepath.Join(good, "InRelease"))
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(text, []byte("Origin: example"), []byte("Origin: Example"), 1)
	if err := os.WriteFile(filepath.Join(good, "InRelease"), changed, 0o644); err != nil {
		t.Fatal(err)
	}
	refused("changed", "it was changed on the way", read(good, key))
	os.Remove(filepath.Join(good, "InRelease"))
	refused("unsigned", "there is no signed list of packages", read(good, key))
}

func TestCheckKey(t *testing.T) {
	for text, want := range map[string]string{
		armour + "\n\nmDMEZ": "", "\x98\x33": "", "\x99\x01": "",
		"-----BEGIN PGP PRIVATE KEY BLOCK-----\n": "it is a private key", "\x95\x01": "it is a private key",
		"ssh-ed25519 AAAA": "it is no OpenPGP public key", "": "it is no OpenPGP public key",
	} {
		err := CheckKey([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
