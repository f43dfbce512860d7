package layer

import (
	"fmt"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
)

func modeFile(p string, mode uint32, text string) *squashfs.Entry {
	e := fileEntry(p, []byte(text), epoch)
	e.Mode = squashfs.Regular | mode
	return e
}

// machine is what somebody did on a machine: software, settings, secrets and
// an identity.
func machine() *Changes {
	dir := func(p string) *squashfs.Entry { return &squashfs.Entry{Path: p, Mode: squashfs.Dir | 0o755} }
	return &Changes{
		Managed: map[string]bool{"etc/chrony/conf.d/site.conf": true},
		Below:   compose.Files{"etc/passwd": []byte(basePasswd), "etc/group": []byte(baseGroup), "var/lib/dpkg/status": []byte("Package: base\nArchitecture: amd64\nVersion: 1\n\n")},
		Entries: []*squashfs.Entry{
			dir("etc"), dir("usr"), dir("usr/bin"), dir("opt"), dir("opt/empty"), dir("var"), dir("var/lib"), dir("var/lib/cad"),
			modeFile("usr/bin/cad", 0o755, "#!/bin/sh\n"),
			modeFile("usr/bin/sudo2", 0o4755, "x"),
			{Path: "usr/bin/removed", Mode: squashfs.Char},
			modeFile("etc/cad.conf", 0o644, "threads = 4\n"),
			modeFile("etc/cad-login.conf", 0o644, "password = hunter22\n"),
			modeFile("etc/cad.key", 0o644, "x"),
			modeFile("etc/private.conf", 0o640, "x"),
			modeFile("opt/notes.txt", 0o644, "-----BEGIN OPENSSH PRIVATE KEY-----\n"),
			modeFile("opt/deploy", 0o644, "GITHUB_AUTH_TOKEN=ghp_0123456789abcdefghij0123456789abcdef\n"),
			{Path: "opt/again", Link: "opt/notes.txt"},
			modeFile("etc/shadow", 0o640, "root:$6$x:1::::::\ncad:!:1::::::\ncarol:$6$y:1::::::\n"),
			modeFile("etc/passwd", 0o644, basePasswd+"cad:x:100:100:Carol's CAD:/:/usr/sbin/nologin\ncarol:x:1001:1001:Carol:/home/carol:/bin/bash\n"),
			modeFile("etc/group", 0o644, "root:x:0:carol\ncondor:x:808:\ncad:x:100:carol,cad\ncarol:x:1001:\n"),
			modeFile("etc/hostname", 0o644, "C250000002\n"),
			modeFile("etc/ssh/ssh_host_ed25519_key", 0o600, "x"),
			modeFile("etc/condor/config.d/30-grid-role.conf", 0o644, "x"),
			modeFile("etc/chrony/conf.d/site.conf", 0o644, "x"),
			modeFile("home/griduser/.bashrc", 0o644, "x"),
			modeFile("var/lib/cad/db", 0o644, "x"),
			modeFile("var/lib/dpkg/status", 0o644, "Package: base\nArchitecture: amd64\nVersion: 1\n\nPackage: cad\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2\n\n"),
			modeFile("var/lib/dpkg/info/cad.list", 0o644, "/.\n"),
		},
	}
}

func listing(choices []Choice) string {
	var out []string
	for _, c := range choices {
		word := "take "
		if c.Reason != "" {
			word = "leave"
		}
		if c.Entry.Type() != squashfs.Dir || c.Entry.Link != "" {
			out = append(out, fmt.Sprintf("%s /%s  %s", word, c.Entry.Path, c.Reason))
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n") + "\n"
}

// TestExport: the list says what leaves and why not, and the module has just
// that: software and settings, no secret, no identity, no person.
func TestExport(t *testing.T) {
	choices, err := Choose(machine(), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := listing(choices)
	with, err := Choose(machine(), []string{"/var/lib/cad", "/etc/cad.key", "/usr/bin/sudo2"})
	if err != nil {
		t.Fatal(err)
	}
	text += "--- with /var/lib/cad, /etc/cad.key, /usr/bin/sudo2\n" + listing(with)
	for _, never := range []string{"/etc/shadow", "/etc/passwd", "/etc/group", "/etc/ssh/ssh_host_ed25519_key", "/home/griduser/.bashrc", "/etc/hostname",
		"/etc/condor/config.d/30-grid-role.conf", "/nowhere"} {
		_, err := Choose(machine(), []string{never})
		text += "--- " + never + "\n" + message(err, ".")
	}
	golden(t, "export", text)

	out := filepath.Join(t.TempDir(), "cad.module")
	c := machine()
	if err := Pack(out, Manifest{Name: "cad", Version: "1"}, "this machine", Export(c, choices), c.Below, epoch); err != nil {
		t.Fatal(err)
	}
	m, err := Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var all strings.Builder
	for _, e := range m.Image.Entries() {
		fmt.Fprintf(&all, "%s\n", e.Path)
		if e.Type() == squashfs.Regular {
			b, err := m.Image.ReadFile(e.Path, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString("    " + strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "\n    ") + "\n")
		}
	}
	golden(t, "exported", all.String())
	for _, secret := range []string{"carol", "Carol", "hunter22", "PRIVATE", "ghp_", "$6$", "C250000002"} {
		if strings.Contains(all.String(), secret) {
			t.Errorf("the module holds %q", secret)
		}
	}
}
