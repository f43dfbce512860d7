package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridappliance/floppy"
	"gridappliance/internal/qemu"
	"gridappliance/internal/sysrun"
	"gridappliance/internal/vmlab"
)

// TestFloppyPutInLater boots a real machine with an empty drive, and puts in a
// broken floppy, a good one, and one that differs in one thing.
func TestFloppyPutInLater(t *testing.T) {
	lab := vmlab.New(t, 1)
	dir := t.TempDir()
	builder := filepath.Join(dir, "builder")
	for _, command := range [][]string{
		{"go", "build", "-o", builder, "../builder"},
		{builder, "build", "--no-floppy", "--base", lab.Base, "--target", "qcow2", "-o", dir},
	} {
		if _, err := sysrun.Output(t.Context(), command[0], command[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	disk := func(name string, image []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	g := grid(t, time.Now())
	broken := disk("broken", imageOf(t, file(floppy.ConfigFile, []byte("version = 1\n[machine]\nrole = \"standalone\"\n[network]\nmtv = 1280\n"))))
	master := disk("master", masterDisk(t, g))
	withKey := disk("with-key", masterDisk(t, g, file(floppy.SSHKeysFile, []byte(sshKey))))

	m := lab.Boot(qemu.Config{Disk: lab.Overlay(filepath.Join(dir, "grid.qcow2"))})
	insert := func(path string) {
		t.Helper()
		if err := m.InsertFloppy(path); err != nil {
			t.Fatal(err)
		}
	}
	m.WaitFor(`passed over /dev/fd0: no disk in the drive`)
	m.WaitFor(`no floppy found: attach one`)
	insert(broken)
	m.WaitFor(`/dev/fd0/GRID.TML:5:1: network.mtv: unknown key`)
	insert(master)
	m.WaitFor(`taken: the floppy of /dev/fd0, role master`)
	if words := m.Ready(); words["name"] != "C250000002.ipop" || words["role"] != "master" {
		t.Errorf("ready as %v", words)
	}
	since := func() string {
		return m.Run("systemctl show --property=ActiveEnterTimestampMonotonic condor overlayd | tr '\\n' ' '")
	}
	before := since()
	insert(withKey)
	m.WaitFor(`taken: the floppy of /dev/fd0, role master`)
	if out := m.Run("sudo cat /var/lib/grid/ssh/authorized_keys"); out != strings.TrimSpace(sshKey) {
		t.Errorf("authorized_keys: %q", out)
	}
	if after := since(); after != before {
		t.Errorf("a new ssh key restarted services: %s, before %s", after, before)
	}
	if out := m.Run("sudo stat --format=%U:%G:%a /dev/fd0"); out != "root:root:600" {
		t.Errorf("/dev/fd0 is %s", out)
	}
	// The person at the console needs no privilege to ask. What runs is looked
	// at again after a change, so ready comes a moment later.
	if out := m.Run("for i in $(seq 90); do firstboot status | grep -q 'state *ready' && break; sleep 1; done; firstboot status"); !strings.Contains(out, "state     ready") {
		t.Errorf("status:\n%s", out)
	}
}
