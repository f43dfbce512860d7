package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gridappliance/builder/base"
	"gridappliance/builder/disk/disktest"
	"gridappliance/builder/manifest"
	"gridappliance/builder/spec"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// builder runs the command as a user would.
func builder(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// must runs the command and fails the test unless it exits with 0.
func must(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	code, stdout, stderr := builder(t, args...)
	if code != 0 {
		t.Fatalf("builder %s: exit %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

// smallBase makes a base of arbitrary bytes that builds in no time and does
// not boot.
func smallBase(t *testing.T) string {
	t.Helper()
	c := disktest.Files(t)
	dir := filepath.Dir(c.Kernel)
	if err := os.WriteFile(filepath.Join(dir, base.LockFile), []byte("lock"), 0o666); err != nil {
		t.Fatal(err)
	}
	m := manifest.Manifest{Version: manifest.Version, ID: strings.Repeat("5a", 16), Suite: "trixie", Time: time.Unix(1_700_000_000, 0).UTC(),
		Kernel: "6.12", Packages: []manifest.Package{}, Tools: []manifest.Package{}, Programs: []manifest.File{}}
	for _, name := range []string{base.LockFile, base.Squashfs, base.GRUBBoot, base.GRUBEFI, base.GRUBCore, base.Initrd, base.User, base.Kernel} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		m.Files = append(m.Files, manifest.File{Name: name, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])})
	}
	if err := os.WriteFile(filepath.Join(dir, base.Manifest), m.Text(), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

// standalone makes a floppy that needs no grid.
func standalone(t *testing.T) string {
	t.Helper()
	b, err := floppy.WriteImage([]floppy.File{{Name: floppy.ConfigFile, Data: []byte("version = 1\n[machine]\nrole = \"standalone\"\n")}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "standalone.img")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBuild builds from a definition: the right names, nothing else left.
func TestBuild(t *testing.T) {
	baseDir, flp := smallBase(t), standalone(t)
	defs := t.TempDir()
	def := filepath.Join(defs, "site.toml")
	rel, err := filepath.Rel(defs, flp)
	if err != nil {
		t.Fatal(err)
	}
	text := "version = 1\nname = \"site\"\nfloppy = \"" + rel + "\"\ntargets = [\"raw\", \"qcow2\"]\ndisk = \"512MiB\"\n"
	if err := os.WriteFile(def, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "new", "folder")
	stdout := must(t, "build", def, "--base", baseDir, "-o", out)
	if want := filepath.Join(out, "site-private.raw") + "\n" + filepath.Join(out, "site-private.qcow2") + "\n"; stdout != want {
		t.Errorf("stdout %q, want %q", stdout, want)
	}
	if entries, _ := os.ReadDir(out); len(entries) != 4 { // and the manifest and SPDX
		t.Errorf("the folder has %v", entries)
	}
	out = t.TempDir()
	must(t, "build", def, "--base", baseDir, "-o", out, "--no-floppy", "--target", "raw", "--name", "shared")
	if info, err := os.Stat(filepath.Join(out, "shared.raw")); err != nil || info.Mode() != 0o644 {
		t.Errorf("an image without a floppy: %v, %v", info, err)
	}
	raw, err := os.ReadFile(filepath.Join(out, "shared.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("standalone")) {
		t.Error("--no-floppy left the floppy inside")
	}
}

// TestBuildAsOrdinaryUser runs the real program as nobody and as root.
func TestBuildAsOrdinaryUser(t *testing.T) {
	need.Root(t)
	setpriv := need.Tool(t, "setpriv")
	dir, err := os.MkdirTemp("", "grid-build-") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "builder")
	if out, err := sysrun.Output(t.Context(), "go", "build", "-buildvcs=false", "-o", program, "."); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	baseDir := filepath.Join(dir, "base")
	if err := os.CopyFS(baseDir, os.DirFS(smallBase(t))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	args := []string{"build", "--base", baseDir, "--disk", "160MiB", "--target", allTargets, "-o"}
	if _, err := sysrun.Output(t.Context(), program, append(args, filepath.Join(dir, "root"))...); err != nil {
		t.Fatal(err)
	}
	nobody := append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", program}, args...)
	if _, err := sysrun.Output(t.Context(), setpriv, append(nobody, filepath.Join(dir, "nobody"))...); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"grid.raw", "grid.qcow2", "grid-vmware/grid.vmdk", "grid.ova"} {
		theirs := filepath.Join(dir, "nobody", name)
		if sum(t, theirs) != sum(t, filepath.Join(dir, "root", name)) {
			t.Errorf("%s differs", name)
		}
		if info, err := os.Stat(theirs); err != nil || info.Sys().(*syscall.Stat_t).Uid != 65534 {
			t.Errorf("%s was not written by the ordinary user: %v", theirs, err)
		}
	}
}

// TestOracles builds from a real base and has others judge the result.
func TestOracles(t *testing.T) {
	out := t.TempDir()
	args := []string{"--base", need.Base(t), "--floppy", standalone(t), "--target", allTargets, "--json"}
	var built buildReport
	if err := json.Unmarshal([]byte(must(t, append([]string{"build", "-o", out}, args...)...)), &built); err != nil {
		t.Fatal(err)
	}
	sizes := map[spec.Target]int64{}
	for _, b := range built.Targets {
		t.Logf("%-10s %.2f s, %d bytes", b.Target, b.Seconds, b.Bytes)
		sizes[b.Target] = b.Bytes
	}
	if sizes[spec.OVA]*100 > sizes[spec.QCOW2]*105 {
		t.Errorf("the OVA has %d bytes, the qcow2 %d", sizes[spec.OVA], sizes[spec.QCOW2])
	}
	raw := filepath.Join(out, "grid-private.raw")
	stream := filepath.Join(out, "disk1.vmdk")
	unpackOVA(t, filepath.Join(out, "grid-private.ova"), stream)
	for file, form := range map[string]string{
		filepath.Join(out, "grid-private.qcow2"): "qcow2", filepath.Join(out, "grid-kvm-private", "grid-private.qcow2"): "qcow2", stream: "vmdk",
		filepath.Join(out, "grid-vmware-private", "grid-private.vmdk"): "vmdk", filepath.Join(out, "grid-virtualbox-private", "grid-private.vdi"): "vdi",
		filepath.Join(out, "grid-xen-private", "grid-private.raw"): "raw",
	} {
		if form != "raw" {
			tool(t, "qemu-img", "check", "-q", "-f", form, file)
		}
		tool(t, "qemu-img", "compare", "-q", "-f", form, "-F", "raw", file, raw)
	}
	if out := tool(t, "sgdisk", "-v", raw); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v: %s", out)
	}
	var p planReport
	if err := json.Unmarshal([]byte(must(t, append([]string{"plan"}, args...)...)), &p); err != nil {
		t.Fatal(err)
	}
	disk, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	for name, judge := range map[string][]string{"esp": {"fsck.fat", "-n"}, "gridcfg": {"fsck.fat", "-n"}, "gridbase": {"unsquashfs", "-s"}, "griduser": {"e2fsck", "-fn"}} {
		i := slices.IndexFunc(p.Partitions, func(p partitionReport) bool { return p.Name == name })
		first, last := int64(p.Partitions[i].FirstLBA)*512, int64(p.Partitions[i].LastLBA+1)*512
		file := filepath.Join(out, name)
		extract(t, file, io.NewSectionReader(disk, first, min(last-first, 1<<30))) // griduser's file system ends before its partition
		tool(t, judge[0], append(judge[1:], file)...)
	}
}

// extract writes r to a file, leaving holes for zeros.
func extract(t *testing.T, path string, r io.Reader) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(buf)) {
		n, err := io.ReadFull(r, buf)
		if !bytes.Equal(buf[:n], make([]byte, n)) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				t.Fatal(err)
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if err := f.Truncate(at + int64(n)); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// TestBadFloppyWritesNothing: a floppy that firstboot would refuse stops the
// build before the output folder is made.
func TestBadFloppyWritesNothing(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.img")
	b, err := floppy.WriteImage([]floppy.File{{Name: floppy.ConfigFile, Data: []byte("version = 1\n[machine]\nrol = \"worker\"\n")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	code, stdout, stderr := builder(t, "build", "--floppy", bad, "--base", smallBase(t), "--target", "tape", "-o", out)
	if code != diag.ExitInvalid || stdout != "" {
		t.Errorf("exit %d, stdout %q", code, stdout)
	}
	for _, want := range []string{"bad.img", "rol", `--target: targets[0]: "tape" is not a target`} {
		if !strings.Contains(stderr, want) {
			t.Errorf("stderr lacks %q:\n%s", want, stderr)
		}
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("the output folder exists: %v", err)
	}
}

// TestCheckAndPlan: both do nothing, say what they found, and speak JSON.
func TestCheckAndPlan(t *testing.T) {
	baseDir, flp := smallBase(t), standalone(t)
	if out := must(t, "check", "--floppy", flp); !strings.Contains(out, "nothing wrong") {
		t.Errorf("check: %q", out)
	}
	if out := must(t, "check", "--json"); out != "{\n  \"valid\": true\n}\n" {
		t.Errorf("check --json: %q", out)
	}
	if out := must(t, "plan", "--base", baseDir, "--floppy", flp); !strings.Contains(out, "write grid-private.qcow2") || !strings.Contains(out, "griduser") {
		t.Errorf("plan: %q", out)
	}
	var p planReport
	if err := json.Unmarshal([]byte(must(t, "plan", "--base", baseDir, "--json", "--disk", "1GiB")), &p); err != nil {
		t.Fatal(err)
	}
	if p.DiskBytes != 1<<30 || len(p.Partitions) != 5 || p.Private || p.Files[0] != "grid.qcow2" {
		t.Errorf("plan --json: %+v", p)
	}
}

func TestExitStatus(t *testing.T) {
	empty := t.TempDir()
	tests := []struct {
		args []string
		code int
		want string
	}{
		{[]string{"bild"}, diag.ExitUsage, `builder has no verb "bild": did you mean "build"?`},
		{[]string{"floppy", "knew"}, diag.ExitUsage, `builder floppy has no verb "knew"`},
		{[]string{"build", "--flopy", "x"}, diag.ExitUsage, "unknown flag"},
		{[]string{"build", "a", "b"}, diag.ExitUsage, "accepts at most 1 arg"},
		{[]string{"build", "--disk", "8"}, diag.ExitUsage, `"8" is not a size`},
		{[]string{"build", "--floppy", "x", "--no-floppy"}, diag.ExitUsage, "if any flags in the group"},
		{[]string{"build", "--name", "a/b"}, diag.ExitInvalid, `--name: name: "a/b" is not a name`},
		{[]string{"build", "/nowhere.toml"}, diag.ExitFailed, "read definition: open /nowhere.toml"},
		{[]string{"build", "--floppy", "/nowhere.img"}, diag.ExitFailed, "read /nowhere.img: no such file"},
		{[]string{"build", "--base", empty}, diag.ExitFailed, "not a base"},
		{[]string{"build", "--store", empty}, diag.ExitFailed, "builder base build"},
		{[]string{"boot"}, diag.ExitUsage, "accepts 1 arg"},
		{[]string{"boot", "x", "--firmware", "coreboot"}, diag.ExitUsage, "neither bios nor uefi"},
		{[]string{"boot", "x", "--until", "("}, diag.ExitUsage, "--until"},
		{[]string{"boot", "x", "--json"}, diag.ExitUsage, "--json needs --until"},
	}
	for _, tt := range tests {
		code, stdout, stderr := builder(t, tt.args...)
		if code != tt.code || !strings.Contains(stderr, tt.want) || stdout != "" {
			t.Errorf("%v: exit %d, want %d; stdout %q, stderr:\n%s", tt.args, code, tt.code, stdout, stderr)
		}
	}
}

// TestEveryVerbIsDescribed: Short, Long and an example for every verb.
func TestEveryVerbIsDescribed(t *testing.T) {
	for _, c := range commands() {
		if c.HasSubCommands() {
			continue
		}
		if c.Short == "" || c.Long == "" || c.Example == "" || !strings.Contains(c.Example, "builder "+c.Name()) {
			t.Errorf("%s lacks Short, Long or an example of itself", c.Name())
		}
	}
}
