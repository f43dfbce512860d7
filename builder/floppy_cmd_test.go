package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// mustBuild is builder that has to succeed.
func mustBuild(t *testing.T, args ...string) (out, errs string) {
	t.Helper()
	code, out, errs := builder(t, args...)
	if code != diag.ExitDone {
		t.Fatalf("builder %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out, errs
}

// newGridFolder makes a grid in a folder and changes into the folder's parent.
func newGridFolder(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	g, err := credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 1, Namespaces: []credential.Namespace{{Name: "archer"}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Save("archer"); err != nil {
		t.Fatal(err)
	}
}

// filesOf returns the files of a floppy by name.
func filesOf(t *testing.T, path string) map[string]string {
	t.Helper()
	_, image, _, err := loadFloppy(path)
	if err != nil {
		t.Fatal(err)
	}
	files, err := floppy.ReadImage(image)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, f := range files {
		m[f.Name] = string(f.Data)
	}
	return m
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestFloppyNewStandalone(t *testing.T) {
	t.Chdir(t.TempDir())
	mustBuild(t, "floppy", "new", "--role", "standalone", "-o", "try.img")
	info, err := os.Stat("try.img")
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != floppy.Size {
		t.Fatalf("try.img: %v, %v", info, err)
	}
	if out, _ := mustBuild(t, "floppy", "check", "try.img"); out != "try.img: good: standalone\n" {
		t.Errorf("check says %q", out)
	}
	first := readFile(t, "try.img")
	if code, _, errs := builder(t, "floppy", "new", "--role", "standalone", "--set", "condor.slots=3", "-o", "try.img"); code != diag.ExitFailed || !strings.Contains(errs, "--force") {
		t.Errorf("overwriting: exit %d, %s", code, errs)
	}
	if readFile(t, "try.img") != first {
		t.Error("the file was overwritten")
	}
	mustBuild(t, "floppy", "new", "--role", "standalone", "--force", "-o", "try.img")
	if readFile(t, "try.img") != first {
		t.Error("equal content, other bytes")
	}
}

// TestFloppyShow: what a person and a script read. The keys of the JSON are
// fixed: scripts use them.
func TestFloppyShow(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "own.toml", "version = 1\nmachine.role = \"standalone\"\n[[modules]]\nsource = \"/m\"\nsha256 = \""+strings.Repeat("0", 64)+"\"\n")
	mustBuild(t, "floppy", "new", "--role", "standalone", "--config", "own.toml", "-o", "try.img")
	out, _ := mustBuild(t, "floppy", "show", "--json", "try.img")
	const wantJSON = `{
  "floppy": "try.img",
  "files": [
    {
      "name": "GRID.TML",
      "bytes": 142,
      "secret": false
    }
  ],
  "config": {
    "condor.flock": true,
    "condor.group": "",
    "condor.masters": "discover",
    "condor.owner-preempts": true,
    "condor.serves": [],
    "condor.slots": 0,
    "condor.user": "",
    "machine.console": "login",
    "machine.role": "standalone",
    "machine.timezone": "Etc/UTC",
    "modules": [
      {
        "sha256": "0000000000000000000000000000000000000000000000000000000000000000",
        "source": "/m"
      }
    ],
    "network.bootstrap": [],
    "network.device": "tapipop",
    "network.hostname": "",
    "network.lan-interface": "",
    "network.mode": "host",
    "network.mtu": 0,
    "network.multicast": true,
    "network.namespace": "",
    "share.autofs": true,
    "share.export": "/mnt/local",
    "users.names": [],
    "version": 1
  },
  "credential": null,
  "problems": []
}
`
	if d := cmp.Diff(wantJSON, out); d != "" {
		t.Errorf("--json (-want +got):\n%s", d)
	}
	out, _ = mustBuild(t, "floppy", "show", "try.img")
	for _, line := range []string{"  GRID.TML  142 bytes  ", `  machine.timezone       "Etc/UTC"`, "  modules[1]             /m  000000"} {
		if !strings.Contains(out, line) {
			t.Errorf("no line %q in\n%s", line, out)
		}
	}
}

func TestFloppyNewForGrid(t *testing.T) {
	newGridFolder(t)
	writeFile(t, "key.pub", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me\n")
	_, errs := mustBuild(t, "floppy", "new", "--grid", "archer", "--role", "client,worker", "--group", "physics", "--user", "alice",
		"--valid", "30d", "--router", "--set", "network.hostname=oak", "--set", "condor.slots=2", "--ssh-key", "key.pub", "-o", "alice.img")
	if !strings.Contains(errs, "client in grid archer, namespace archer, group physics, user alice, until ") {
		t.Errorf("says %q", errs)
	}
	out, _ := mustBuild(t, "floppy", "show", "--json", "alice.img")
	var r floppyReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	c := r.Credential
	if c == nil || len(r.Problems) > 0 {
		t.Fatalf("credential %v, problems %v", c, r.Problems)
	}
	if days := time.Until(c.NotAfter).Hours() / 24; days < 29.9 || days > 30 {
		t.Errorf("good for %.2f days, want 30", days)
	}
	got := []any{c.Grid, c.User, c.Group, c.Roles, c.Namespaces, c.Router, r.Config["machine.role"], r.Config["network.hostname"], r.Config["condor.slots"]}
	want := []any{"archer", "alice", "physics", []string{"client", "worker"}, []string{"archer"}, true, "client", "oak", 2.0}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	g, err := credential.LoadGrid("archer")
	if err != nil {
		t.Fatal(err)
	}
	if last := g.Ledger[len(g.Ledger)-1]; last.User != "alice" || last.Serial != c.Serial {
		t.Errorf("the ledger ends in %+v, not in alice's %s", last, c.Serial)
	}
	for _, args := range [][]string{{"show", "alice.img"}, {"show", "--json", "alice.img"}, {"check", "alice.img"}} {
		out, errs := mustBuild(t, append([]string{"floppy"}, args...)...)
		for _, line := range strings.Split(filesOf(t, "alice.img")[floppy.HolderKeyFile], "\n")[1:3] {
			if strings.Contains(out+errs, line) {
				t.Errorf("%v shows the key", args)
			}
		}
	}
	if out, _ := mustBuild(t, "floppy", "show", "alice.img"); !strings.Contains(out, "network.hostname") || !strings.Contains(out, `"oak"`) || !strings.Contains(out, "secret") {
		t.Errorf("show:\n%s", out)
	}
	mustBuild(t, "floppy", "new", "--grid", "archer", "--role", "worker", "--group", "physics", "--user", "bob", "-o", "bob.zip")
	if info, err := os.Stat("bob.zip"); err != nil || info.Size() > floppy.MaxZip || info.Mode().Perm() != 0o600 {
		t.Errorf("bob.zip: %v, %v", info, err)
	}
	mustBuild(t, "floppy", "check", "bob.zip", "alice.img")
}

// TestFloppyNewSignsNothingInVain: no credential is entered for a floppy that
// cannot be made.
func TestFloppyNewSignsNothingInVain(t *testing.T) {
	newGridFolder(t)
	before := readFile(t, "archer/issued.json")
	base := []string{"floppy", "new", "--grid", "archer", "--role", "worker", "--group", "physics", "--user", "alice", "-o", "a.img"}
	for _, c := range []struct {
		more []string
		code int
		says string
	}{
		{[]string{"--set", "network.mtv=1"}, diag.ExitInvalid, `did you mean "mtu"?`},
		{[]string{"--set", "condor.group=biology"}, diag.ExitInvalid, `is "biology", but the credential is for group "physics"`},
		{[]string{"--set", "machine.role=client"}, diag.ExitUsage, `the configuration says role = "client"`},
		{[]string{"--set", "nonsense"}, diag.ExitUsage, "not key=value"},
		{[]string{"--valid", "soon"}, diag.ExitUsage, "such as 90d"},
		{[]string{"--group", "infra"}, diag.ExitFailed, "reserved"},
		{[]string{"--namespace", "other"}, diag.ExitFailed, "namespace"},
		{[]string{"--ssh-key", "archer/root.key"}, diag.ExitInvalid, "holds a private key"},
		{[]string{"--config", "missing.toml"}, diag.ExitFailed, "read missing.toml"},
		{[]string{"--grid", "elsewhere"}, diag.ExitFailed, "elsewhere"},
	} {
		code, _, errs := builder(t, append(append([]string{}, base...), c.more...)...)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%v: exit %d, want %d and %q; it says\n%s", c.more, code, c.code, c.says, errs)
		}
	}
	if readFile(t, "archer/issued.json") != before {
		t.Error("the ledger has changed")
	}
	if _, err := os.Stat("a.img"); err == nil {
		t.Error("a floppy was written")
	}
}

func TestFloppyUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		args string
		says string
	}{
		{"floppy new -o x.img", "role"},
		{"floppy new --role standalone", "output"},
		{"floppy new --role wroker -o x.img", `did you mean "worker"?`},
		{"floppy new --role master -o x.img", "builder grid new"},
		{"floppy new --role worker -o x.img", "needs --grid"},
		{"floppy new --role standalone --grid g -o x.img", "stands alone"},
		{"floppy check", "at least 1 arg"},
		{"floppy check --at yesterday x", "2027-02-19"},
		{"floppy show a b", "accepts 1 arg"},
	} {
		code, _, errs := builder(t, strings.Fields(c.args)...)
		if code != diag.ExitUsage || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit %d, want %d and %q; it says\n%s", c.args, code, diag.ExitUsage, c.says, errs)
		}
	}
}

func TestFloppyCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	image, err := floppy.WriteImage([]floppy.File{
		{Name: "GRID.TML", Data: []byte("version = 1\r\n[machine]\r\nrole = \"standalon\"\r\nmood = 1\r\n")},
		{Name: "NOTES.TXT", Data: []byte("x")},
	})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, "bad.img", string(image))
	writeFile(t, "short.img", string(image[:99]))
	zipped, err := floppy.Zip(image)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, "grid.cfg", string(floppy.EncodeCredential(zipped)))
	mustBuild(t, "floppy", "new", "--role", "standalone", "-o", "good.img")

	const want = `bad.img/GRID.TML:3:8: machine.role: "standalon" is not known
    role = "standalon"
           ^
  remedy: did you mean "standalone"?
bad.img/GRID.TML:4:1: machine.mood: unknown key
    mood = 1
    ^
  remedy: the keys here are role, timezone, console
bad.img/NOTES.TXT: unknown file
  remedy: delete it; a floppy holds GRID.TML, GRID.DSC, HOLDER.CRT, HOLDER.KEY, NODE.KEY, ISSUER.CRT, ISSUER.KEY, SSHKEYS, IPOP.XML, DHCP.XML
`
	code, out, errs := builder(t, "floppy", "check", "bad.img")
	if code != diag.ExitInvalid || out != "" {
		t.Errorf("exit %d, stdout %q", code, out)
	}
	if d := cmp.Diff(want, errs); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if code, _, errs := builder(t, "floppy", "check", "grid.cfg"); code != diag.ExitInvalid || errs != strings.ReplaceAll(want, "bad.img", "grid.cfg") {
		t.Errorf("base64 of a zip: exit %d\n%s", code, errs)
	}
	code, out, errs = builder(t, "floppy", "check", "short.img", "good.img")
	if code != diag.ExitInvalid || out != "good.img: good: standalone\n" || !strings.Contains(errs, "short.img: cut off in the boot sector") {
		t.Errorf("two floppies: exit %d, %q, %q", code, out, errs)
	}
	code, out, _ = builder(t, "floppy", "check", "--json", "bad.img")
	var r checkReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != diag.ExitInvalid {
		t.Fatalf("--json: exit %d, %v in %s", code, err, out)
	}
	wantProblem := problemReport{File: "bad.img/GRID.TML", Line: 3, Column: 8, Path: "machine.role", Message: `"standalon" is not known`, Remedy: `did you mean "standalone"?`}
	if r.Good || len(r.Problems) != 3 || r.Problems[0] != wantProblem {
		t.Errorf("--json: %+v", r)
	}
	if code, _, errs := builder(t, "floppy", "check", "none.img"); code != diag.ExitFailed || !strings.Contains(errs, "read none.img: no such file") {
		t.Errorf("missing file: exit %d, %s", code, errs)
	}
	if code, _, errs := builder(t, "floppy", "check", "."); code != diag.ExitFailed || !strings.Contains(errs, "not a file") {
		t.Errorf("a folder: exit %d, %s", code, errs)
	}
}

func TestFloppyCheckAtAnotherTime(t *testing.T) {
	newGridFolder(t)
	mustBuild(t, "floppy", "new", "--grid", "archer", "--role", "worker", "--group", "physics", "--user", "alice", "-o", "a.img")
	mustBuild(t, "floppy", "check", "--at", time.Now().AddDate(0, 0, 89).Format(time.DateOnly), "a.img")
	for at, says := range map[string]string{time.Now().AddDate(0, 0, 92).Format(time.DateOnly): "expired", "2020-01-01T00:00:00Z": "not yet valid"} {
		if code, _, errs := builder(t, "floppy", "check", "--at", at, "a.img"); code != diag.ExitInvalid || !strings.Contains(errs, says) {
			t.Errorf("at %s: exit %d, %s", at, code, errs)
		}
	}
}

func TestFloppyZip(t *testing.T) {
	t.Chdir(t.TempDir())
	mustBuild(t, "floppy", "new", "--role", "standalone", "-o", "try.img")
	mustBuild(t, "floppy", "zip", "try.img")
	mustBuild(t, "floppy", "zip", "--credential", "try.img")
	out, _ := mustBuild(t, "floppy", "zip", "try.img", "-o", "-")
	if out != readFile(t, "try.zip") {
		t.Error("two zips of one floppy differ")
	}
	for _, name := range []string{"try.zip", "try.cfg"} {
		_, image, zipped, err := loadFloppy(name)
		if err != nil || !zipped || string(image) != readFile(t, "try.img") {
			t.Errorf("%s does not give the image back: %v", name, err)
		}
		if info, _ := os.Stat(name); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if code, _, errs := builder(t, "floppy", "zip", "try.img"); code != diag.ExitFailed || !strings.Contains(errs, "--force") {
		t.Errorf("overwriting: exit %d, %s", code, errs)
	}
}

func TestFloppyEditSet(t *testing.T) {
	newGridFolder(t)
	mustBuild(t, "floppy", "new", "--grid", "archer", "--role", "worker", "--group", "physics", "--user", "alice", "-o", "a.zip")
	before := filesOf(t, "a.zip")
	mustBuild(t, "floppy", "edit", "a.zip", "--set", "network.hostname=oak", "--set", "condor.slots=4")
	after := filesOf(t, "a.zip")
	want := strings.Replace(strings.Replace(before["GRID.TML"], `#hostname = "oak"`, `hostname = "oak"`, 1), "#slots = 2", "slots = 4", 1)
	if d := cmp.Diff(want, after["GRID.TML"]); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	before["GRID.TML"], after["GRID.TML"] = "", ""
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("another file has changed:\n%s", d)
	}
	if !strings.HasPrefix(readFile(t, "a.zip"), "PK") {
		t.Error("the zip has become an image")
	}
	bytesBefore := readFile(t, "a.zip")
	for _, set := range []string{"machine.role=client", "condor.slots=none", "network.hostname=master-1", "x.y=1"} {
		if code, _, _ := builder(t, "floppy", "edit", "a.zip", "--set", set); code != diag.ExitInvalid {
			t.Errorf("--set %s: exit %d", set, code)
		}
		if readFile(t, "a.zip") != bytesBefore {
			t.Fatalf("--set %s was refused, and the floppy has changed", set)
		}
	}
	if left, _ := filepath.Glob(".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestFloppyEditWithEditor uses a script as the person.
func TestFloppyEditWithEditor(t *testing.T) {
	t.Chdir(t.TempDir())
	editor := func(script string) {
		if err := os.WriteFile("editor", []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		dir, _ := os.Getwd()
		t.Setenv("VISUAL", filepath.Join(dir, "editor")+" --wait")
	}
	mustBuild(t, "floppy", "new", "--role", "standalone", "-o", "a.img")
	before := readFile(t, "a.img")

	editor(":")
	if _, errs := mustBuild(t, "floppy", "edit", "a.img"); !strings.Contains(errs, "not changed") || readFile(t, "a.img") != before {
		t.Errorf("an editor that does nothing: %s", errs)
	}
	editor(`echo 'slots = 2' >> "$2"; sed -i 's/^slots/[condor]\nslots/' "$2"`)
	mustBuild(t, "floppy", "edit", "a.img")
	if got := filesOf(t, "a.img")["GRID.TML"]; !strings.HasSuffix(got, "[condor]\nslots = 2\n") {
		t.Errorf("after the editor:\n%s", got)
	}
	good := readFile(t, "a.img")
	editor(`echo 'slotz = 2' >> "$2"`)
	code, _, errs := builder(t, "floppy", "edit", "a.img")
	if code != diag.ExitInvalid || !strings.Contains(errs, `did you mean "slots"?`) || !strings.Contains(errs, "a.img.rejected.toml") {
		t.Errorf("exit %d, %s", code, errs)
	}
	if readFile(t, "a.img") != good {
		t.Error("a floppy that does not pass was written")
	}
	kept := readFile(t, "a.img.rejected.toml")
	if !strings.HasSuffix(kept, "slotz = 2\n") {
		t.Errorf("what was typed is lost:\n%s", kept)
	}
	writeFile(t, "a.img.rejected.toml", strings.TrimSuffix(kept, "slotz = 2\n")+"owner-preempts = false\n")
	mustBuild(t, "floppy", "edit", "--config", "a.img.rejected.toml", "a.img")
	editor("exit 7")
	if code, _, _ := builder(t, "floppy", "edit", "a.img"); code != diag.ExitFailed {
		t.Errorf("an editor that fails: exit %d", code)
	}
}

// TestFloppyFirstGeneration: a user of the first generation brings their two
// files along.
func TestFloppyFirstGeneration(t *testing.T) {
	newGridFolder(t)
	writeFile(t, "IpopConfig.xml", "<IpopConfig>\n  <IpopNamespace>archer</IpopNamespace>\n  <VirtualNetworkDevice>tap0</VirtualNetworkDevice>\n</IpopConfig>\n")
	mustBuild(t, "floppy", "new", "--grid", "archer", "--role", "worker", "--group", "physics", "--user", "alice", "--ipop-xml", "IpopConfig.xml", "-o", "a.img")
	out, _ := mustBuild(t, "floppy", "show", "--json", "a.img")
	if !strings.Contains(out, `"network.device": "tap0"`) {
		t.Errorf("show:\n%s", out)
	}
}
