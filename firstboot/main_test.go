package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/credential"
	"gridappliance/firstboot/apply"
	"gridappliance/firstboot/watch"
	"gridappliance/floppy"
)

// newTree makes a root as the image has it, with a drive that holds disk.
func newTree(t testing.TB, disk []byte) string {
	t.Helper()
	root := t.TempDir()
	put(t, root, "etc/passwd", "root:x:0:0::/root:/bin/bash\nslot1:*:901:901::/:/usr/sbin/nologin\n")
	put(t, root, "etc/group", "root:x:0:\n")
	put(t, root, "etc/shadow", "root:*:1::::::\n")
	put(t, root, "usr/share/zoneinfo/Etc/UTC", "TZif")
	put(t, root, "usr/share/zoneinfo/Europe/Berlin", "TZif")
	put(t, root, "usr/lib/grid/build-time", "2026-01-01T00:00:00Z\n")
	put(t, root, "var/lib/overlayd/node.key", "of this machine")
	put(t, root, "var/lib/overlayd/trust.json", "versions seen")
	put(t, root, "sys/class/dmi/id/product_uuid", "11111111-2222-3333-4444-555555555555\n")
	if disk != nil {
		put(t, root, "dev/fd0", string(disk))
	}
	return root
}

func put(t testing.TB, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, root, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exists(root, name string) bool {
	_, err := os.Lstat(filepath.Join(root, name))
	return err == nil
}

// command runs firstboot as a user would.
func command(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// grid makes a grid with one master as of now.
func grid(t testing.TB, now time.Time) *credential.Grid {
	t.Helper()
	g, err := credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 1, Namespaces: []credential.Namespace{{Name: "archer"}}}, now)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func imageOf(t testing.TB, files ...floppy.File) []byte {
	t.Helper()
	img, err := floppy.WriteImage(files)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func file(name string, text []byte) floppy.File { return floppy.File{Name: name, Data: text} }

// masterDisk returns the floppy of the grid's master, with more files.
func masterDisk(t testing.TB, g *credential.Grid, more ...floppy.File) []byte {
	m := g.Material[0]
	return imageOf(t, append([]floppy.File{
		file(floppy.ConfigFile, []byte("version = 1\n[machine]\nrole = \"master\"\n")),
		file(floppy.DescriptorFile, g.Descriptor.Text()),
		file(floppy.HolderCertFile, m.HolderCert), file(floppy.HolderKeyFile, m.HolderKey),
		file(floppy.NodeKeyFile, m.NodeKey), file(floppy.IssuerCertFile, m.IssuerCert), file(floppy.IssuerKeyFile, m.IssuerKey),
	}, more...)...)
}

// workerDisk returns the floppy of a worker whose credential lasts for valid.
func workerDisk(t testing.TB, g *credential.Grid, now time.Time, valid time.Duration) []byte {
	t.Helper()
	cert, key, err := g.IssueHolder(credential.HolderRequest{User: "alice", Group: "physics",
		Roles: []credential.Role{"worker"}, Namespaces: []string{"archer"}, Valid: valid}, now)
	if err != nil {
		t.Fatal(err)
	}
	return imageOf(t, file(floppy.ConfigFile, []byte("version = 1\n[machine]\nrole = \"worker\"\n")),
		file(floppy.DescriptorFile, g.Descriptor.Text()), file(floppy.HolderCertFile, cert), file(floppy.HolderKeyFile, key))
}

var standaloneDisk = func(t testing.TB, more string) []byte {
	return imageOf(t, file(floppy.ConfigFile, []byte("version = 1\n[machine]\nrole = \"standalone\"\n"+more)))
}

const sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvUsdgMjlPBQ58m/W7fGAfj5CcCHY6AmEcNCJoLYFiW alice@home\n"

// A master's life: applied, the same floppy again, a changed one, another role.
func TestDiskInDiskOut(t *testing.T) {
	now := time.Now()
	g := grid(t, now)
	root := newTree(t, masterDisk(t, g))
	if code, out, errs := command(t, "--root", root, "check"); code != 0 || out != "/dev/fd0: good: role master\n" {
		t.Fatalf("check: %d %s%s", code, out, errs)
	}
	if exists(root, "var/lib/grid") {
		t.Error("check wrote something")
	}
	if code, out, errs := command(t, "--root", root, "plan"); code != 0 || !strings.Contains(out, "role master of grid archer, group infra") {
		t.Fatalf("plan: %d %s%s", code, out, errs)
	}
	code, out, errs := command(t, "--root", root, "apply")
	if code != 0 || !strings.HasPrefix(out, "identity new\n") {
		t.Fatalf("apply: %d %s%s", code, out, errs)
	}
	for _, name := range []string{apply.AppliedMark, apply.OverlayMark, apply.StampPath, "etc/ssh/keys/ssh_host_ed25519_key.pub", "var/lib/grid/machine-id"} {
		if !exists(root, name) {
			t.Errorf("%s is missing", name)
		}
	}
	if get(t, root, "var/lib/grid/floppy.img") != get(t, root, "dev/fd0") {
		t.Error("the floppy kept is not the one in the drive")
	}
	if exists(root, "var/lib/overlayd/node.key") || !exists(root, "var/lib/overlayd/trust.json") {
		t.Error("a new machine keeps another's node key, or forgets versions seen")
	}
	if code, out, _ := command(t, "--root", root, "apply"); code != 0 || out != "/dev/fd0: nothing to change\n" {
		t.Errorf("the same floppy: %d %s", code, out)
	}

	put(t, root, "dev/fd0", string(masterDisk(t, g, file(floppy.SSHKeysFile, []byte(sshKey)))))
	code, out, errs = command(t, "--root", root, "apply")
	want := "wrote /var/lib/grid/floppy.img\nwrote /var/lib/grid/ssh/authorized_keys\n"
	if code != 0 || out != want {
		t.Errorf("a floppy with an ssh key: %d\n%s%s", code, cmp.Diff(want, out), errs)
	}

	put(t, root, "dev/fd0", string(standaloneDisk(t, "timezone = \"Europe/Berlin\"\n")))
	code, out, errs = command(t, "--root", root, "apply")
	if code != 0 || !strings.Contains(out, "removed /var/lib/grid/ssh/authorized_keys\n") {
		t.Errorf("another role: %d %s%s", code, out, errs)
	}
	if exists(root, apply.OverlayMark) || !exists(root, apply.AppliedMark) {
		t.Error("standalone has an overlay, or is not applied")
	}
}

// status returns what firstboot status --json says.
func statusOf(t testing.TB, root string) (int, status) {
	t.Helper()
	code, out, errs := command(t, "--root", root, "status", "--json")
	var s status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	return code, s
}

func TestBootWithoutFloppy(t *testing.T) {
	root := newTree(t, nil)
	if code, _, _ := command(t, "--root", root, "status"); code != 5 {
		t.Errorf("status before the boot: %d, want 5", code)
	}
	code, _, errs := command(t, "--root", root, "apply", "--boot")
	if code != 0 || !strings.Contains(errs, "no floppy found: attach one") {
		t.Fatalf("%d %s", code, errs)
	}
	code, s := statusOf(t, root)
	if code != 5 || s.State != watch.StateWaiting || len(s.Passed) != 5 {
		t.Errorf("status %d %+v", code, s)
	}
	if exists(root, apply.AppliedMark) || !exists(root, apply.StampPath) {
		t.Error("services would start, or the identity is not stamped")
	}
	if code, _, _ := command(t, "--root", root, "apply"); code != 5 {
		t.Errorf("apply: %d, want 5", code)
	}
}

// A broken floppy changes nothing, says why, and does not fall back to the one
// accepted before.
func TestBootWithBrokenFloppy(t *testing.T) {
	root := newTree(t, standaloneDisk(t, ""))
	if code, _, errs := command(t, "--root", root, "apply", "--boot"); code != 0 {
		t.Fatal(errs)
	}
	if err := os.RemoveAll(filepath.Join(root, "run")); err != nil { // the next boot
		t.Fatal(err)
	}
	stamp := get(t, root, apply.StampPath)
	put(t, root, "dev/fd0", string(imageOf(t, file(floppy.ConfigFile, []byte("version = 1\n[machine]\nrole = \"standalone\"\n[network]\nmtv = 1280\n")))))
	code, _, errs := command(t, "--root", root, "apply", "--boot")
	if code != 3 || !strings.Contains(errs, "/dev/fd0/GRID.TML:5:1: network.mtv: unknown key") || !strings.Contains(errs, `did you mean "mtu"?`) {
		t.Errorf("%d %s", code, errs)
	}
	if exists(root, apply.AppliedMark) || get(t, root, apply.StampPath) != stamp {
		t.Error("services would start, or the stamp has changed")
	}
	code, s := statusOf(t, root)
	if code != 3 || s.State != watch.StateRefused || len(s.Errors) != 1 || !strings.Contains(s.Detail, "network.mtv") {
		t.Errorf("status %d %+v", code, s)
	}
}

// Certificates are judged by a clock that is not below the build time nor the
// newest signed object.
func TestClock(t *testing.T) {
	now := time.Now()
	old := now.Add(-100 * 24 * time.Hour)
	ahead := now.Add(100 * 24 * time.Hour)
	tests := map[string]struct {
		disk  func(*testing.T) []byte
		build time.Time
		code  int
		says  string
	}{
		"valid":                          {func(t *testing.T) []byte { return workerDisk(t, grid(t, now), now, 24*time.Hour) }, old, 0, ""},
		"expired":                        {func(t *testing.T) []byte { return workerDisk(t, grid(t, old), old, 24*time.Hour) }, old, 3, "expired"},
		"expired by the build time":      {func(t *testing.T) []byte { return workerDisk(t, grid(t, now), now, 24*time.Hour) }, ahead, 3, "expired"},
		"made later than the clock says": {func(t *testing.T) []byte { return workerDisk(t, grid(t, ahead), ahead, 24*time.Hour) }, old, 0, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			root := newTree(t, test.disk(t))
			put(t, root, "usr/lib/grid/build-time", test.build.UTC().Format(time.RFC3339))
			code, out, errs := command(t, "--root", root, "apply")
			if code != test.code || !strings.Contains(errs, test.says) {
				t.Errorf("%d, want %d with %q\n%s%s", code, test.code, test.says, out, errs)
			}
		})
	}
}

// The newest signed object seen stays in the stamp: a clock that goes back
// does not bring an expired credential to life.
func TestNewestSeenIsKept(t *testing.T) {
	now := time.Now()
	ahead := now.Add(100 * 24 * time.Hour)
	root := newTree(t, workerDisk(t, grid(t, ahead), ahead, 24*time.Hour))
	if code, _, errs := command(t, "--root", root, "apply"); code != 0 {
		t.Fatal(errs)
	}
	put(t, root, "dev/fd0", string(workerDisk(t, grid(t, now), now, 24*time.Hour)))
	if code, _, errs := command(t, "--root", root, "apply"); code != 3 || !strings.Contains(errs, "expired") {
		t.Errorf("%d %s", code, errs)
	}
}

// A copy of the disk on another machine gets its own identity, and says so;
// the same machine keeps its.
func TestCopiedMachine(t *testing.T) {
	root := newTree(t, standaloneDisk(t, ""))
	if code, _, errs := command(t, "--root", root, "apply", "--boot"); code != 0 {
		t.Fatal(errs)
	}
	put(t, root, "var/lib/overlayd/node.key", "the original's")
	put(t, root, "run/machine-id", get(t, root, "var/lib/grid/machine-id"))
	identity := func() []string {
		return []string{get(t, root, "var/lib/grid/machine-id"), get(t, root, "etc/ssh/keys/ssh_host_ed25519_key")}
	}
	original := identity()
	_, _, errs := command(t, "--root", root, "apply", "--boot")
	if diff := cmp.Diff(original, identity()); diff != "" || strings.Contains(errs, "copied") {
		t.Errorf("the same machine has another identity: %s%s", diff, errs)
	}
	put(t, root, "sys/class/dmi/id/product_uuid", "99999999-2222-3333-4444-555555555555\n")
	_, _, errs = command(t, "--root", root, "apply", "--boot")
	if !strings.Contains(errs, "this disk was copied from another machine") {
		t.Errorf("said: %s", errs)
	}
	for i, part := range identity() {
		if part == original[i] {
			t.Errorf("the copy shares %q", part)
		}
	}
	if exists(root, "var/lib/overlayd/node.key") {
		t.Error("the copy has the original's node key")
	}
	if get(t, root, "run/machine-id") != get(t, root, "var/lib/grid/machine-id") {
		t.Error("the running machine-id is the original's")
	}
	// The same VM, restored from a snapshot: QEMU's generation ID says so.
	table := make([]byte, 4096)
	for i, generation := range []string{"AAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBB"} {
		copy(table[40:], generation)
		put(t, root, "sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw", string(table))
		_, _, errs = command(t, "--root", root, "apply", "--boot")
		if copied := strings.Contains(errs, "copied"); copied != (i == 1) {
			t.Errorf("generation %s: said %s", generation, errs)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"aply"}, {"apply", "--bot"}, {"apply", "x"}} {
		if code, _, errs := command(t, args...); code != 2 || !strings.Contains(errs, "firstboot --help") {
			t.Errorf("%v: %d %s", args, code, errs)
		}
	}
	if code, _, _ := command(t, "--root", t.TempDir(), "watch"); code != 2 {
		t.Errorf("watch on a tree: %d, want 2", code)
	}
	for _, verb := range []string{"check", "plan", "apply", "status", "watch"} {
		if code, out, _ := command(t, verb, "--help"); code != 0 || !strings.Contains(out, "Examples:") {
			t.Errorf("%s --help: %d, without an example", verb, code)
		}
	}
}

func TestParseConfigured(t *testing.T) {
	got, err := parseConfigured([]byte(`{"changed": ["/etc/x"], "restart": ["condor.service"], "start": ["condor.service", "autofs.service"], "stop": [], "renew": "2026-11-22T00:00:00Z", "waiting": "w"}`))
	want := watch.Configured{Units: watch.Units{Stop: []string{}, Restart: []string{"condor.service"}, Start: []string{"condor.service", "autofs.service"}},
		Renew: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), Waiting: "w"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, bad := range []string{"", "x", `{"renew": "soon"}`} {
		if _, err := parseConfigured([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// What an earlier floppy made of the accounts goes with it; a person's
// password stays.
func TestAccounts(t *testing.T) {
	root := newTree(t, standaloneDisk(t, "[users]\nnames = [\"alice\", \"bob\"]\n"))
	command(t, "--root", root, "apply")
	shadow := get(t, root, "etc/shadow")
	put(t, root, "etc/shadow", strings.Replace(shadow, "alice:*:", "alice:secret:", 1))
	put(t, root, "dev/fd0", string(standaloneDisk(t, "[users]\nnames = [\"alice\"]\n")))
	code, out, errs := command(t, "--root", root, "apply")
	if code != 0 {
		t.Fatal(out, errs)
	}
	if s := get(t, root, "etc/shadow"); !strings.Contains(s, "alice:secret:") || strings.Contains(s, "bob") {
		t.Errorf("shadow:\n%s", s)
	}
	for _, name := range []string{"etc/passwd", "etc/group"} {
		lines := strings.Split(get(t, root, name), "\n")
		if slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "bob:") }) {
			t.Errorf("%s still has bob", name)
		}
	}
}
