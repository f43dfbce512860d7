package layer

import (
	"archive/tar"
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/diag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var epoch = time.Unix(1_700_000_000, 0).UTC()

// golden compares with a file of testdata. Paths of this machine are cut.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// message is what a person is told, with the folder of the test left out.
func message(err error, dir string) string {
	text := "accepted\n"
	if l := diag.Of(err); l != nil {
		text = l.Format()
	} else if err != nil {
		text = "error: " + err.Error() + "\n"
	}
	return strings.ReplaceAll(text, dir+"/", "")
}

type member struct {
	name string
	h    tar.Header
	data string
}

// tarball writes a tar and returns its path.
func tarball(t *testing.T, dir string, members ...member) string {
	t.Helper()
	name := filepath.Join(dir, "x.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := m.h
		h.Name, h.Size = m.name, int64(len(m.data))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, m.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func link(kind byte, to string) tar.Header { return tar.Header{Typeflag: kind, Linkname: to} }

// TestRefusedTars: what must not get into a module, each with what a person
// is told.
func TestRefusedTars(t *testing.T) {
	tests := []struct {
		name    string
		members []member
	}{
		{"climbs", []member{{name: "opt/../../etc/cron.d/x", data: "x"}}},
		{"hard-link-out", []member{{name: "opt/x", h: link(tar.TypeLink, "../../etc/shadow")}}},
		{"hard-link-to-nothing", []member{{name: "opt/x", h: link(tar.TypeLink, "etc/shadow")}}},
		{"link-out", []member{{name: "opt/x", h: link(tar.TypeSymlink, "../../../etc/shadow")}}},
		{"behind-a-link", []member{{name: "opt/x", h: link(tar.TypeSymlink, "/etc")}, {name: "opt/x/passwd", data: "x"}}},
		{"device", []member{{name: "dev2/sda", h: tar.Header{Typeflag: tar.TypeBlock, Devmajor: 8}}}},
		{"of-the-appliance", []member{{name: "usr/lib/grid/firstboot", data: "x"}}},
		{"nameless-owner", []member{{name: "opt/x", h: tar.Header{Uid: 1234}, data: "x"}}},
		{"not-a-tar", nil},
		{"accepted", []member{{name: "./opt/", h: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}, {name: "./opt/x", data: "x"}, {name: "lib/x86/y.so", data: "y"},
			{name: "opt/l", h: link(tar.TypeSymlink, "../usr/lib")}, {name: "gone", h: tar.Header{Typeflag: tar.TypeChar}}}},
	}
	var all strings.Builder
	for _, tt := range tests {
		dir := t.TempDir()
		name := tarball(t, dir, tt.members...)
		if tt.members == nil {
			os.WriteFile(name, bytes.Repeat([]byte("no tar "), 200), 0o644)
		}
		err := pack(filepath.Join(dir, "x.module"), Manifest{Name: "x", Version: "1"}, name)
		if _, statErr := os.Stat(filepath.Join(dir, "x.module")); (err == nil) != (statErr == nil) {
			t.Errorf("%s: error %v, module: %v", tt.name, err, statErr)
		}
		all.WriteString("--- " + tt.name + "\n" + message(err, dir))
	}
	golden(t, "refused-tars", all.String())
}

func pack(out string, m Manifest, source string) error {
	s, err := OpenSource(source)
	if err != nil {
		return err
	}
	defer s.Close()
	return Pack(out, m, source, s.Entries, nil, epoch)
}

// raw writes a squashfs that Pack would not, with a manifest.
func raw(t *testing.T, dir, name string, entries ...*squashfs.Entry) string {
	t.Helper()
	m := Manifest{Format: Format, Name: name, Version: "1"}
	entries = append(entries, fileEntry(Dir+"/"+name+"/module.json", m.text(), epoch))
	out := filepath.Join(dir, name+".module")
	if err := write(out, out, entries, epoch); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRefusedModules: modules from elsewhere are checked as what is packed here.
func TestRefusedModules(t *testing.T) {
	dir := t.TempDir()
	whole := raw(t, dir, "whole", fileEntry("opt/x", []byte("x"), epoch))
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut.module")
	os.WriteFile(cut, b[:300], 0o644)
	climb := filepath.Join(dir, "climb.module")
	os.WriteFile(climb, renamed(t, dir), 0o644)
	none := filepath.Join(dir, "none.module")
	if err := write(none, none, []*squashfs.Entry{fileEntry("opt/x", nil, epoch)}, epoch); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range []string{
		whole, cut, climb, none,
		raw(t, dir, "device", &squashfs.Entry{Path: "opt/sda", Mode: squashfs.Block | 0o600, Major: 8}),
		raw(t, dir, "shadow", fileEntry("etc/shadow", []byte("root::::::::\n"), epoch)),
		raw(t, dir, "linkout", &squashfs.Entry{Path: "x", Mode: squashfs.Symlink | 0o777, Target: "../x"}),
		raw(t, dir, "opaque", &squashfs.Entry{Path: ".", Mode: squashfs.Dir | 0o755, Xattrs: map[string]string{squashfs.OpaqueXattr: "y"}}),
	} {
		m, err := Open(name)
		if err == nil {
			m.Close()
		}
		all.WriteString("--- " + filepath.Base(name) + "\n" + message(err, dir))
	}
	m, err := Open(whole)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.SHA256 = strings.Repeat("ab", 32)
	all.WriteString("--- checksum\n" + message(m.Verify(strings.Repeat("0", 64)), dir))
	golden(t, "refused-modules", all.String())
}

// renamed is a file system whose one file is called "..": it climbs out, as no
// writer of ours would let it.
func renamed(t *testing.T, dir string) []byte {
	t.Helper()
	name := filepath.Join(dir, "renamed")
	if err := write(name, name, []*squashfs.Entry{fileEntry("QQ", []byte("x"), epoch)}, epoch); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte("QQ")); n != 1 { // a list of one name is too short to be compressed
		t.Fatalf("the name stands %d times in the file", n)
	}
	return bytes.Replace(b, []byte("QQ"), []byte(".."), 1)
}

// TestOrder: needs decide, else the order given; what is wrong is said at once.
func TestOrder(t *testing.T) {
	m := func(name string, needs ...string) *Module {
		return &Module{Manifest: Manifest{Name: name, Needs: needs}, File: name + ".module"}
	}
	got, err := Order([]*Module{m("top", "low", "mid"), m("low"), m("mid", "low"), m("free")})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range got {
		names = append(names, g.Name)
	}
	if diff := cmp.Diff([]string{"low", "mid", "top", "free"}, names); diff != "" {
		t.Error(diff)
	}
	var all strings.Builder
	for _, tt := range []struct {
		name    string
		modules []*Module
	}{
		{"missing", []*Module{m("a", "b", "c"), m("c")}},
		{"loop", []*Module{m("z", "a"), m("a", "b"), m("b", "c"), m("c", "a")}},
		{"itself", []*Module{m("a", "a")}},
		{"twice", []*Module{m("a"), m("a")}},
	} {
		_, err := Order(tt.modules)
		all.WriteString("--- " + tt.name + "\n" + message(err, "."))
	}
	golden(t, "order", all.String())
}

// system returns a base's squashfs of entries.
func system(t *testing.T, entries ...*squashfs.Entry) *squashfs.Image {
	t.Helper()
	name := filepath.Join(t.TempDir(), "base")
	if err := write(name, name, entries, epoch); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	im, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return im
}

const (
	basePasswd = "root:x:0:0::/root:/bin/sh\ncondor:x:808:808::/:/bin/false\n"
	baseGroup  = "root:x:0:\ncondor:x:808:\n"
)

func baseSystem(t *testing.T, extra ...*squashfs.Entry) *squashfs.Image {
	return system(t, append(extra, fileEntry("etc/passwd", []byte(basePasswd), epoch), fileEntry("etc/group", []byte(baseGroup), epoch),
		&squashfs.Entry{Path: "lib", Mode: squashfs.Symlink | 0o777, Target: "usr/lib"})...)
}

// module packs a file of the account name, numbered 100, on the base.
func module(t *testing.T, name string) *Module {
	t.Helper()
	f := fileEntry("opt/"+name, []byte(name), epoch)
	f.UID, f.GID = 100, 100
	out := filepath.Join(t.TempDir(), name+".module")
	below := compose.Files{"etc/passwd": []byte(basePasswd), "etc/group": []byte(baseGroup)}
	err := Pack(out, Manifest{Name: name, Version: "1"}, "tree", []*squashfs.Entry{f,
		fileEntry("etc/passwd", []byte(basePasswd+name+":x:100:100::/:/bin/false\n"), epoch),
		fileEntry("etc/group", []byte(baseGroup+name+":x:100:\n"), epoch),
		fileEntry("etc/shadow", []byte(name+":$6$hash:1::::::\n"), epoch)}, below, epoch)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// TestGlueAccounts: two accounts that were 100 where they were made are two
// accounts in the stack, and each owns its file; passwords stay behind.
func TestGlueAccounts(t *testing.T) {
	a, b := module(t, "aaa"), module(t, "bbb")
	if s := string(a.Shared["etc/shadow"]); s != "aaa:!:1::::::\n" {
		t.Errorf("the module's shadow: %q", s)
	}
	out := filepath.Join(t.TempDir(), "glue")
	patches, err := Glue(out, baseSystem(t), []*Module{a, b}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(out)
	glue, err := squashfs.Open(bytes.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	passwd, err := glue.ReadFile("etc/passwd", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	accounts := compose.ParseAccounts(passwd, nil).Users
	if accounts["aaa"] == accounts["bbb"] || accounts["aaa"] < 200 || accounts["condor"] != 808 {
		t.Errorf("accounts %v", accounts)
	}
	for i, m := range []*Module{a, b} {
		moved, _ := os.ReadFile(m.File)
		copy(moved[patches[i].Offset:], patches[i].Data)
		im, err := squashfs.Open(bytes.NewReader(moved), int64(len(moved)))
		if err != nil {
			t.Fatal(err)
		}
		e := im.Lookup("opt/" + m.Name)
		if e.UID != accounts[m.Name] || e.GID != accounts[m.Name] {
			t.Errorf("/opt/%s belongs to %d:%d, its account is %d", m.Name, e.UID, e.GID, accounts[m.Name])
		}
	}
	again := filepath.Join(t.TempDir(), "glue")
	if _, err := Glue(again, baseSystem(t), []*Module{a, b}, epoch); err != nil {
		t.Fatal(err)
	}
	if other, _ := os.ReadFile(again); !bytes.Equal(text, other) {
		t.Error("the glue of equal layers differs")
	}
}

// TestGlueRefuses a module whose directory would hide the base's link.
func TestGlueRefuses(t *testing.T) {
	dir := t.TempDir()
	m, err := Open(raw(t, dir, "hides", fileEntry("lib/x.so", nil, epoch)))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	_, err = Glue(filepath.Join(dir, "glue"), baseSystem(t), []*Module{m}, epoch)
	golden(t, "hides", message(err, dir))
}

// TestAlternativesBelowLinks: an alternative that is named below one of the
// base's links to /usr goes to where it leads, and makes no directory in its
// place.
func TestAlternativesBelowLinks(t *testing.T) {
	g := &glue{base: &squashfs.Image{}}
	g.links(map[string]string{"lib/cpp": "/etc/alternatives/cpp", "usr/bin/editor": "/etc/alternatives/editor"})
	g.parents()
	for _, e := range g.entries {
		if e.Path == "lib" || strings.HasPrefix(e.Path, "lib/") {
			t.Errorf("the glue has %s", e.Path)
		}
	}
	if g.entries[0].Path != "usr/lib/cpp" || g.entries[0].Target != "/etc/alternatives/cpp" {
		t.Errorf("%+v", g.entries[0])
	}
}
