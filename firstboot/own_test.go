package main

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/firstboot/units"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// ownTree makes the root of somebody's machine with the package, and HTCondor
// as Debian ships it.
func ownTree(t *testing.T) string {
	t.Helper()
	root := newTree(t, nil)
	const config = "LOCAL_DIR = /var\n"
	put(t, root, ownMark, "somebody's own\n")
	put(t, root, "etc/condor/condor_config", config)
	put(t, root, "etc/condor/config.d/.swp", "x")
	put(t, root, "etc/condor/config.d/00-old.dpkg-old", "x")
	put(t, root, "etc/group", "root:x:0:\ncondor:x:103:\n")
	put(t, root, "etc/passwd", "root:x:0:0::/root:/bin/bash\ncondor:x:101:103::/var/lib/condor:/usr/sbin/nologin\n")
	put(t, root, "etc/exports", "# nothing is shared\n")
	put(t, root, "etc/hosts", "127.0.0.1 localhost\n")
	put(t, root, "var/lib/dpkg/status", fmt.Sprintf("Package: condor-doc\nStatus: install ok installed\n\n"+
		"Package: condor\nStatus: install ok installed\nConffiles:\n /etc/condor/condor_config %x\n /etc/blah.config 00\nDescription: x\n", md5.Sum([]byte(config))))
	if err := os.RemoveAll(filepath.Join(root, "var/lib/overlayd")); err != nil {
		t.Fatal(err)
	}
	return root
}

// What an own machine is refused for, before anything is written.
func TestOwnTreeRefused(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "alice.img")
	if err := os.WriteFile(disk, workerDisk(t, grid(t, time.Now()), time.Now(), time.Hour), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ file, text, want string }{
		"HTCondor's configuration is changed": {"etc/condor/condor_config", "LOCAL_DIR = /home/condor\n", "/etc/condor/condor_config: HTCondor is configured"},
		"and added to":                        {"etc/condor/config.d/10-mine", "CONDOR_HOST = x\n", "/etc/condor/config.d/10-mine: HTCondor is configured"},
		"a group has the name":                {"etc/group", "condor:x:103:\nslot2:x:1001:\n", "/etc/passwd: the name slot2"},
		"a worker shares nothing":             {"etc/exports", "/srv *(ro)\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := ownTree(t)
			put(t, root, c.file, c.text)
			code, _, errs := command(t, "--root", root, "check", "--floppy", disk)
			if c.want == "" && code != 0 || c.want != "" && (code != 3 || !strings.Contains(errs, c.want)) {
				t.Errorf("check: %d %s", code, errs)
			}
		})
	}
}

// A floppy in the drive is none of an own machine's business, and joining or
// leaving none of an appliance's.
func TestOwnTree(t *testing.T) {
	root := ownTree(t)
	put(t, root, "dev/fd0", string(standaloneDisk(t, "")))
	if code, _, errs := command(t, "--root", root, "apply"); code != 5 || !strings.Contains(errs, "no floppy found") {
		t.Errorf("apply: %d %s", code, errs)
	}
	for _, verb := range [][]string{{"leave"}, {"leave", "--plan"}, {"status"}} {
		if code, _, errs := command(t, append([]string{"--root", root}, verb...)...); code != 5 || !strings.Contains(errs, "this machine is in no grid") {
			t.Errorf("%v: %d %s", verb, code, errs)
		}
	}
	for args, want := range map[string]string{"join": "which floppy? firstboot join --floppy alice.img", "join --floppy x": "without --root"} {
		if code, _, errs := command(t, append([]string{"--root", root}, strings.Fields(args)...)...); code != 2 || !strings.Contains(errs, want) {
			t.Errorf("%s: %d %s", args, code, errs)
		}
	}
	if code, _, errs := command(t, "--root", newTree(t, nil), "leave"); code != 2 || !strings.Contains(errs, "grid-appliance") {
		t.Errorf("an appliance leaves: %d %s", code, errs)
	}
}

// A tree that a floppy was applied to is given back by leave.
func TestOwnTreeLeaves(t *testing.T) {
	need.Root(t) // the plan gives folders to HTCondor's account
	root := ownTree(t)
	disk := filepath.Join(t.TempDir(), "alone.img")
	if err := os.WriteFile(disk, standaloneDisk(t, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	before := get(t, root, "etc/passwd") + get(t, root, "etc/group") + get(t, root, "etc/shadow")
	if code, _, errs := command(t, "--root", root, "apply", "--floppy", disk); code != 0 {
		t.Fatalf("apply: %d %s", code, errs)
	}
	if !strings.Contains(get(t, root, "etc/passwd"), "\nslot1:x:999:999:HTCondor Slot 1:/nonexistent:/usr/sbin/nologin\n") {
		t.Errorf("accounts: %s", get(t, root, "etc/passwd"))
	}
	put(t, root, "etc/condor/config.d/40-grid-policy.conf", "of condorconf")
	program := filepath.Join(programs(t), "condorconf")
	if code, out, errs := command(t, "--root", root, "leave", "--condorconf", program); code != 0 ||
		!strings.Contains(out, "remove /etc/condor/config.d/40-grid-policy.conf\n") || !strings.Contains(out, "removed /var/lib/grid/floppy.img\n") {
		t.Errorf("leave: %d %s%s", code, out, errs)
	}
	if diff := cmp.Diff(before, get(t, root, "etc/passwd")+get(t, root, "etc/group")+get(t, root, "etc/shadow")); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"var/lib/grid", "run/grid", "etc/systemd", "etc/nftables.d", "etc/condor/grid", "mnt/local"} {
		if exists(root, name) {
			t.Errorf("/%s is left behind", name)
		}
	}
}

// TestPackage: equal sources make equal bytes, whoever makes them, and nothing
// of the package lies where its owner keeps things.
func TestPackage(t *testing.T) {
	dpkg := need.Tool(t, "dpkg-deb", "gzip", "md5sum")
	var made [2][]byte
	var file string
	for i, surroundings := range []string{"umask 022; export TZ=UTC LC_ALL=C", "umask 077; export TZ=Asia/Tokyo LC_ALL=C.UTF-8"} {
		r, err := sysrun.Run(t.Context(), sysrun.Command{Name: "sh", Dir: "..",
			Args: []string{"-c", surroundings + `; exec make/package "$0" "$1"`, programs(t), t.TempDir()}})
		if err != nil {
			t.Fatal(err)
		}
		file = strings.TrimSpace(string(r.Stdout))
		if made[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(made[0], made[1]) {
		t.Error("the package made twice is two packages")
	}
	contents, err := sysrun.Output(t.Context(), dpkg, "--contents", file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(contents)) {
		name := strings.Fields(line)[5]
		if name != "./" && !strings.HasPrefix(name, "./usr/") || strings.Contains(name, "getty") || strings.Contains(name, ".d/") || strings.Contains(name, "udev") {
			t.Errorf("has %s", name)
		}
		if !strings.Contains(line, " root/root ") {
			t.Errorf("not root's: %s", line)
		}
	}
	for _, unit := range units.Enabled {
		if !strings.Contains(string(contents), " ./"+units.Dir+"/"+unit+"\n") {
			t.Errorf("has no %s", unit)
		}
	}
}
