package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/builder/base"
	"gridappliance/builder/layer"
	"gridappliance/builder/manifest"
	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// system is a root stacked of layers as a machine's /init stacks it, in which
// commands run in a container.
type system struct {
	t    *testing.T
	root string
	user string // changes/ work/ state/
}

// stacked mounts changes over layers, the topmost first.
func stacked(t *testing.T, user string, lower ...string) *system {
	t.Helper()
	s := &system{t: t, root: t.TempDir(), user: user}
	for _, d := range []string{"changes", "work", "state"} {
		if err := os.MkdirAll(filepath.Join(user, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/changes,workdir=%s/work,index=off,xino=auto,redirect_dir=off,metacopy=off", strings.Join(lower, ":"), user, user)
	if err := unix.Mount("overlay", s.root, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.unmount)
	return s
}

func (s *system) unmount() { unix.Unmount(s.root, unix.MNT_DETACH) }

// try runs a shell line in the container.
func (s *system) try(line string) (string, error) {
	s.t.Helper()
	setup := "mkdir -p /run/systemd/resolve; cp /run/resolv.conf /run/systemd/resolve/stub-resolv.conf; export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8; "
	out, err := sysrun.Output(s.t.Context(), need.Tool(s.t, "systemd-nspawn"), "--quiet", "--directory="+s.root, "--pipe", "--register=no", "--keep-unit",
		"--machine="+filepath.Base(filepath.Dir(s.root))+filepath.Base(s.root), "--bind-ro=/etc/resolv.conf:/run/resolv.conf", "--", "/bin/sh", "-c", setup+line)
	return strings.TrimSpace(string(out)), err
}

func (s *system) run(line string) string {
	s.t.Helper()
	out, err := s.try(line)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

const aptInstall = "apt-get -qq update && apt-get -qq -y --no-install-recommends install "

// mountAt mounts a squashfs that begins at an offset of a file.
func mountAt(t *testing.T, file string, offset, size int64) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"-t", "squashfs", "-o", fmt.Sprintf("ro,loop,offset=%d", offset)}
	if size > 0 {
		args[3] += fmt.Sprintf(",sizelimit=%d", size)
	}
	tool(t, "mount", append(args, file, dir)...)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// imageLayers builds an image of a base and modules and mounts its layers, the
// topmost first: what a machine that boots it would see.
func imageLayers(t *testing.T, baseDir string, modules ...string) []string {
	t.Helper()
	args := []string{"build", "--base", baseDir, "--target", "raw", "-o", t.TempDir()}
	for _, m := range modules {
		args = append(args, "--module", m+"?checksum=sha256:"+sum(t, m))
	}
	image := strings.TrimSpace(must(t, args...))
	var layers []string
	for _, p := range partitions(t, image) {
		if p.name == "gridbase" || strings.HasPrefix(p.name, "gridmod") || p.name == "gridglue" {
			layers = append([]string{mountAt(t, image, p.start, p.size)}, layers...)
		}
	}
	return layers
}

type partition struct {
	name        string
	start, size int64
}

var sgdiskLine = regexp.MustCompile(`(?m)^\s+\d+\s+(\d+)\s+(\d+)\s+\S+ \S+\s+\S+\s+(\S+)`)

// partitions reads an image's table by another program than ours.
func partitions(t *testing.T, image string) []partition {
	t.Helper()
	var out []partition
	for _, m := range sgdiskLine.FindAllStringSubmatch(tool(t, "sgdisk", "-p", image), -1) {
		first, last := number(t, m[1]), number(t, m[2])
		out = append(out, partition{m[3], first * 512, (last - first + 1) * 512})
	}
	return out
}

// packed installs a Debian package over a base and packs what that changed.
func packed(t *testing.T, baseDir, system, name string) string {
	t.Helper()
	user := t.TempDir()
	s := stacked(t, user, system)
	s.run(aptInstall + name)
	s.unmount()
	module := filepath.Join(t.TempDir(), name+".module")
	out := must(t, "module", "pack", filepath.Join(user, "changes"), "--base", baseDir, "--version", "1", "-o", module)
	if !strings.Contains(out, "packages  ") || !strings.Contains(out, name+" ") {
		t.Errorf("the module of %s says\n%s", name, out)
	}
	t.Log(out)
	return module
}

// newerBase makes a base beside another that has one package more, whose
// account takes the number that modules' accounts had where they were made.
func newerBase(t *testing.T, baseDir, root, name string) string {
	t.Helper()
	user := t.TempDir()
	s := stacked(t, user, root)
	s.run(aptInstall + name + " && apt-get clean && rm -rf /var/lib/apt/lists/*")
	entries, err := layer.ReadDir(s.root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	old, err := base.Open(baseDir)
	if err != nil {
		t.Fatal(err)
	}
	m := *old.Manifest
	m.ID, m.Time = strings.Repeat("b2", 16), m.Time.Add(24*time.Hour)
	f, err := os.Create(filepath.Join(dir, base.Squashfs))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := squashfs.Write(f, entries, m.Time); err != nil {
		t.Fatal(err)
	}
	m.Files = append([]manifest.File{}, m.Files...)
	for i, file := range m.Files {
		if file.Name == base.Squashfs {
			info, _ := f.Stat()
			m.Files[i].Size, m.Files[i].SHA256 = info.Size(), sum(t, f.Name())
		} else if err := os.Symlink(old.Path(file.Name), filepath.Join(dir, file.Name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, base.Manifest), m.Text(), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// checkSystem holds what must be true of any stack.
func (s *system) check(packages ...string) {
	s.t.Helper()
	if got := s.run("dpkg --audit"); got != "" {
		s.t.Errorf("dpkg --audit: %s", got)
	}
	if got := s.run("apt-get -s check 2>&1 | grep -i -e unmet -e error; true"); got != "" {
		s.t.Errorf("apt-get check: %s", got)
	}
	for _, p := range packages {
		if got, err := s.try("dpkg-query -W -f '${db:Status-Status}' " + p); err != nil || got != "installed" {
			s.t.Errorf("dpkg says of %s: %s, %v", p, got, err)
		}
		if got, err := s.try("dpkg --verify " + p); err != nil {
			s.t.Errorf("dpkg --verify %s: %v\n%s", p, err, got)
		}
	}
	for _, file := range []string{"passwd", "group"} {
		if got := s.run("cut -d: -f3 /etc/" + file + " | sort | uniq -d; cut -d: -f1 /etc/" + file + " | sort | uniq -d"); got != "" {
			s.t.Errorf("/etc/%s has twice: %s", file, got)
		}
	}
	if got := s.run("pwck -rq; grpck -r; true"); strings.Contains(got, "invalid") || strings.Contains(got, "no matching") {
		s.t.Errorf("accounts: %s", got)
	}
}

// TestModulesOnANewerBase: the newer base has one package more.
// TestOlderAndNewerBase does the same with two real bases.
func TestModulesOnANewerBase(t *testing.T) {
	baseDir := need.Container(t)
	carriedOver(t, baseDir, func(root string) string { return newerBase(t, baseDir, root, "memcached") }, func(s *system) {
		s.check("memcached")
		s.run("memcached -V")
		// The machine's own account had the number that the newer base gives memcache.
		if got := s.run("id -u memcache; stat -c %U:%G /var/lib/locals"); got != "100\nlocal:local" {
			t.Errorf("the number of memcache, the owner of /var/lib/locals: %s", got)
		}
	})
}

// carriedOver: two modules, each of a Debian package with a system account, on
// their base and on a newer one; a third package and a person's account on the
// machine; and the machine's changes on the newer base, where more is checked.
func carriedOver(t *testing.T, baseDir string, newerThan func(root string) string, more func(*system)) {
	t.Helper()
	need.Tool(t, "sgdisk", "mount")
	root := mountAt(t, filepath.Join(baseDir, base.Squashfs), 0, 0)
	redis, mosquitto := packed(t, baseDir, root, "redis-server"), packed(t, baseDir, root, "mosquitto")

	user := t.TempDir()
	first := imageLayers(t, baseDir, redis, mosquitto)
	if _, err := compose.Carry(user, first, "first"); err != nil {
		t.Fatal(err)
	}
	s := stacked(t, user, first...)
	s.check("redis-server", "mosquitto")
	programs := "redis-server --version; mosquitto -h 2>&1 | head -1"
	if got := s.run(programs); !strings.Contains(got, "Redis server") || !strings.Contains(got, "mosquitto version") {
		t.Errorf("programs: %s", got)
	}
	owners := "stat -c '%U:%G %a' /var/lib/redis /var/lib/mosquitto /etc/redis/redis.conf"
	wantOwners := "redis:redis 750\nmosquitto:root 755\nredis:redis 640"
	if got := s.run(owners); got != wantOwners {
		t.Errorf("owners: %s", got)
	}
	ids := s.run("id -u redis; id -u mosquitto")
	s.run(aptInstall + "tinyproxy-bin && useradd -m carol && echo carol:secret | chpasswd && touch /var/lib/carols && chown carol /var/lib/carols && " +
		"useradd -r -u 100 -U local && touch /var/lib/locals && chown local:local /var/lib/locals")
	s.check("redis-server", "mosquitto", "tinyproxy-bin")
	s.unmount()

	newer := newerThan(root)
	second := imageLayers(t, newer, redis, mosquitto)
	if changed, err := compose.Carry(user, second, "second"); err != nil || !changed {
		t.Fatalf("carry: %v, %v", changed, err)
	}
	s = stacked(t, user, second...)
	s.check("redis-server", "mosquitto", "tinyproxy-bin")
	more(s)
	if got := s.run(programs + "; tinyproxy -v"); strings.Count(got, "\n") != 2 {
		t.Errorf("programs on the newer base: %s", got)
	}
	if got := s.run(owners); got != wantOwners {
		t.Errorf("owners on the newer base: %s", got)
	}
	if got := s.run("id -u redis; id -u mosquitto"); got != ids {
		t.Errorf("numbers of accounts were %s, on the newer base they are %s", ids, got)
	}
	if got := s.run("stat -c %U /var/lib/carols; getent shadow carol | grep -c '\\$'; stat -c %U:%G /var/lib/locals"); got != "carol\n1\nlocal:local" {
		t.Errorf("accounts on the newer base: %s", got)
	}
	s.run("apt-get -qq -y --no-install-recommends install hello && hello")
	s.check("hello")
}
