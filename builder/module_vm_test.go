package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridappliance/floppy"
	"gridappliance/internal/qemu"
	"gridappliance/internal/vmlab"
)

// greeter packs a module with a program and a system account of its own.
func greeter(t *testing.T, baseDir string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"tree/usr/bin/greet": "#!/bin/sh\necho greetings\n",
		"tree/etc/passwd": "greetd:x:100:100::/nonexistent:/usr/sbin/nologin\n", "tree/etc/group": "greetd:x:100:\n"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	module := filepath.Join(dir, "greet.module")
	must(t, "module", "pack", filepath.Join(dir, "tree"), "--owner", "root", "--base", baseDir, "-o", module)
	return module
}

// changes is what a person does on a machine: a package, a setting, a tool,
// secrets of three kinds.
const changes = `cd; mkdir -p p/DEBIAN p/usr/bin && ` +
	`printf 'Package: mine\nVersion: 1.0\nArchitecture: all\nMaintainer: me <me@example.org>\nDescription: mine\n' > p/DEBIAN/control && ` +
	`printf '#!/bin/sh\necho mine\n' > p/usr/bin/mine && chmod 755 p/usr/bin/mine && ` +
	`dpkg-deb --root-owner-group -b p mine.deb >/dev/null && sudo dpkg -i mine.deb >/dev/null 2>&1 && ` +
	`echo 'tune = 7' | sudo tee /etc/mine.conf >/dev/null && ` +
	`echo x | sudo tee /etc/mine.key >/dev/null && ` +
	`printf '%s\n' '-----BEGIN OPENSSH PRIVATE KEY-----' | sudo tee /usr/local/share/notes >/dev/null && ` +
	`sudo install -m 4755 /usr/bin/id /usr/local/bin/id2 && ` +
	`mkdir -p .ssh && echo secret > .ssh/id_ed25519 && echo griduser:changed | sudo chpasswd`

// TestVMModules boots an image of 40 GiB whose floppy names a module, beside a
// blank disk: the module's program and account are there, the user layer has
// the room, the blank disk is /mnt/local. Then what a person did is exported,
// on the machine and from the image, and shows in a new image.
func TestVMModules(t *testing.T) {
	t.Parallel()
	lab := vmlab.New(t, 1)
	module := greeter(t, lab.Base)
	flp := filepath.Join(t.TempDir(), "modules.img")
	b, err := floppy.WriteImage([]floppy.File{{Name: floppy.ConfigFile, Data: []byte("version = 1\n[machine]\nrole = \"standalone\"\n[[modules]]\nsource = \"" +
		module + "\"\nsha256 = \"" + sum(t, module) + "\"\n")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(flp, b, 0o600); err != nil {
		t.Fatal(err)
	}
	image := bootable(t, lab, "qcow2", "--floppy", flp, "--disk", "40G")[0]
	blank := filepath.Join(t.TempDir(), "blank.raw")
	if err := os.WriteFile(blank, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(blank, 1<<30); err != nil {
		t.Fatal(err)
	}
	m := lab.Boot(qemu.Config{Disk: image, Persistent: true, Disks: []string{blank}, NICs: outside})
	m.Ready()
	if got := m.Run("greet; id -un $(id -u greetd); cut -d' ' -f1 /run/grid/layers"); got != "greetings\ngreetd\nchanges\ngridglue\ngridmod1\ngridbase" {
		t.Errorf("the module: %s", got)
	}
	if got := number(t, m.Run("df --output=size -B1 / | tail -1")); got < 38<<30 {
		t.Errorf("the user layer of a disk of 40 GiB has %d bytes", got)
	}
	m.Run("for i in $(seq 60); do findmnt -n -t ext4 -M /mnt/local >/dev/null && break; sleep 1; done")
	if got := m.Run("findmnt -no FSTYPE /mnt/local | tail -1; stat -c %a /mnt/local; lsblk -dno LABEL /dev/vdb"); got != "ext4\n1777\ngridlocal" {
		t.Errorf("the blank disk: %s\n%s", got, m.Run("journalctl -b -u 'grid-local@*' -u mnt-local.mount --no-pager | tail -20"))
	}
	m.Run(changes)
	list := m.Run("sudo builder module export --name mine -o mine.module")
	checkExport(t, list)
	m.PowerOff()

	out := filepath.Join(t.TempDir(), "mine.module")
	fromImage := must(t, "module", "export", "--image", image, "--name", "mine", "-o", out)
	checkExport(t, fromImage)
	if code, _, stderr := builder(t, "redact", image); code != 3 || !strings.Contains(stderr, "its machine has run") {
		t.Errorf("redact of a machine that has run: exit %d, %s", code, stderr)
	}
	showsInANewImage(t, lab.Base, module, out)
}

// checkExport: software and settings go, secrets and the identity stay.
func checkExport(t *testing.T, list string) {
	t.Helper()
	for _, want := range []string{"/usr/bin/mine\n", "/etc/mine.conf\n", "leave  /etc/mine.key: has the name of a credential", "leave  /usr/local/share/notes: holds a private key",
		"leave  /usr/local/bin/id2: runs with another's rights", "packages  mine 1.0"} {
		if !strings.Contains(strings.ReplaceAll(list, "\r", ""), want) {
			t.Errorf("the list lacks %q", want)
		}
	}
	for _, line := range strings.Split(list, "\n") {
		for _, never := range []string{"shadow", "/etc/passwd", "/etc/group", "id_ed25519", "machine-id", "ssh_host", "/etc/hostname", "grid-role", "mine.key"} {
			if strings.HasPrefix(line, "take") && strings.Contains(line, never) {
				t.Errorf("taken: %s", line)
			}
		}
	}
	if t.Failed() {
		t.Log(list)
	}
}

// showsInANewImage stacks the layers of an image with both modules, as its
// machine would, and looks.
func showsInANewImage(t *testing.T, baseDir string, modules ...string) {
	t.Helper()
	s := stacked(t, t.TempDir(), imageLayers(t, baseDir, modules...)...)
	if got := s.run("mine; greet; cat /etc/mine.conf; dpkg-query -W mine; dpkg --audit; ls /etc/mine.key /usr/local/share/notes /usr/local/bin/id2 2>&1 | grep -c cannot"); got != "mine\ngreetings\ntune = 7\nmine\t1.0\n3" {
		t.Errorf("in a new image: %s", got)
	}
}
