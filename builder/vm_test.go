package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/builder/descriptor/descriptortest"
	"gridappliance/builder/plan"
	"gridappliance/internal/need"
	"gridappliance/internal/qemu"
	"gridappliance/internal/sysrun"
	"gridappliance/internal/vmlab"
)

// demoGrid makes a grid with one master and returns its folder.
func demoGrid(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "demo")
	must(t, "grid", "new", "--masters", "1", dir)
	return dir
}

// bootable builds an image on the base that machines of tests boot, and returns
// its files, the disk first.
//
// Every form of a disk is booted to READY, each on the controller and with the
// card that its descriptor names, as far as QEMU has them:
//
//	kvm         TestVMMaster        qcow2, virtio
//	vmware      TestVMStandalone    growing VMDK, pvscsi, vmxnet3 (Debian 12's OVMF has no pvscsi)
//	virtualbox  TestVMBrokenFloppy  VDI, AHCI, e1000
//	raw         TestVMDamagedUserLayer  IDE, UEFI
//	ova, xen    TestVMForms         streamed VMDK, AHCI, e1000; kernel and initrd
func bootable(t *testing.T, lab *vmlab.Lab, target string, args ...string) []string {
	t.Helper()
	args = append([]string{"build", "--base", lab.Base, "--target", target, "-o", t.TempDir()}, args...)
	return strings.Split(strings.TrimSpace(must(t, args...)), "\n")
}

// outside is one card that reaches nothing but QEMU's DHCP server.
var outside = []qemu.NIC{{}}

// TestVMMaster is the thread: a master's floppy in a real drive, tried first
// by the firmware, wins over another floppy inside the image; the machine
// becomes what it says and stays so.
func TestVMMaster(t *testing.T) {
	t.Parallel()
	lab := vmlab.New(t, 1)
	floppy := filepath.Join(demoGrid(t), "master-1.img")
	image := bootable(t, lab, "kvm", "--floppy", standalone(t))[0]
	m := lab.Boot(qemu.Config{Disk: lab.Overlay(image), Persistent: true, Floppy: floppy, BootFloppy: true, NICs: outside})
	m.WaitFor(`taken: the floppy of [^\r\n]*fd0[^\r\n]*, role master`)
	want := map[string]string{"name": "C250000002.ipop", "address": "10.250.0.2", "role": "master", "grid": "demo", "group": "infra"}
	if diff := cmp.Diff(want, m.Ready()); diff != "" {
		t.Errorf("READY -want +got:\n%s", diff)
	}
	checkMaster(t, m)

	before := m.Run(appliedFiles)
	m.Run("echo kept > ~/marker; sudo touch /usr/local/marker")
	m.Reboot()
	m.Ready()
	if got := m.Run("cat ~/marker; ls /usr/local/marker"); got != "kept\n/usr/local/marker" {
		t.Errorf("after a reboot the user layer has %q", got)
	}
	if diff := cmp.Diff(before, m.Run(appliedFiles)); diff != "" {
		t.Errorf("the same floppy changed files:\n%s", diff)
	}
	if got := m.Run("sudo firstboot apply"); !strings.Contains(got, "nothing to change") {
		t.Errorf("applying again: %s", got)
	}
	checkChangedFloppy(t, m, floppy)
	m.PowerOff()
}

// appliedFiles prints what firstboot and condorconf wrote, with the time of
// the last change.
const appliedFiles = `sudo find /etc/condor/config.d /etc/nftables.d /etc/systemd/network /etc/hosts /etc/hostname /etc/exports.d -newer /etc/os-release -type f -printf '%p %T@\n' | sort`

func checkMaster(t *testing.T, m *vmlab.Machine) {
	t.Helper()
	if got := m.Run("hostname -f"); got != "C250000002.ipop" {
		t.Errorf("hostname -f: %s", got)
	}
	if got := m.Run("ip -4 -o address show dev tapipop"); !strings.Contains(got, "10.250.0.2/16") {
		t.Errorf("tapipop: %s", got)
	}
	if got := m.Run("ip link show dev tapipop"); !strings.Contains(got, "BROADCAST,MULTICAST") || !strings.Contains(got, "LOWER_UP") {
		t.Errorf("tapipop: %s", got)
	}
	if got := m.Run("findmnt -no FSTYPE,OPTIONS /"); !strings.HasPrefix(got, "overlay") || !strings.Contains(got, "lowerdir=") || !strings.Contains(got, "/changes") {
		t.Errorf("findmnt /: %s", got)
	}
	if got := m.Run("cat /run/grid/layers"); !strings.Contains(got, "gridbase") {
		t.Errorf("/run/grid/layers: %s", got)
	}
	if got := m.Run("condor_status -collector -af Machine"); got != "C250000002.ipop" {
		t.Errorf("condor_status -collector: %q", got)
	}
	if got := m.Run("systemctl is-system-running || systemctl --failed --no-legend"); got != "running" {
		t.Errorf("the system is %s", got)
	}
	for _, line := range openOutside(m.Run("sudo ss -Hlntup")) {
		t.Errorf("open on the outside: %s", line)
	}
}

// TestVMForms boots what no other test does, side by side: the disk inside an
// OVA, and a kernel and initrd as xl would start them.
func TestVMForms(t *testing.T) {
	t.Parallel()
	lab := vmlab.New(t, 2)
	floppy := standalone(t)

	disk := filepath.Join(t.TempDir(), "disk.vmdk")
	unpackOVA(t, bootable(t, lab, "ova", "--floppy", floppy)[0], disk)
	ova := lab.Boot(qemu.Config{Disk: disk, Bus: qemu.AHCI, NICs: []qemu.NIC{{Model: "e1000"}, {Model: "e1000"}}})

	files := bootable(t, lab, "xen", "--floppy", floppy)
	folder := filepath.Dir(files[0])
	text, err := os.ReadFile(filepath.Join(folder, "grid-private.pvh.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := descriptortest.XL(string(text))
	if err != nil {
		t.Fatal(err)
	}
	disks, err := descriptortest.XLDisks(cfg["disk"])
	if err != nil {
		t.Fatal(err)
	}
	here := func(path string) string { return filepath.Join(folder, filepath.Base(path)) }
	xen := lab.Boot(qemu.Config{Kernel: here(cfg["kernel"][0]), Initrd: here(cfg["ramdisk"][0]), CommandLine: cfg["cmdline"][0],
		Disk: here(disks["xvda"]), Disks: []string{here(disks["xvdb"])}, NICs: []qemu.NIC{{}, {}}})

	ova.WaitFor(`taken: the floppy of [^\r\n]*gridcfg[^\r\n]*, role standalone`)
	xen.WaitFor(`taken: the floppy of [^\r\n]*, role standalone`)
	for _, m := range []*vmlab.Machine{ova, xen} {
		m.WaitFor(`grid-appliance: READY name=standalone`)
	}
}

// openOutside returns the lines of ss -Hlntup that are open to the outside
// beside the overlay's port and the DHCP client's own (UDP 68, 546).
func openOutside(ss string) []string {
	var open []string
	for _, line := range strings.Split(strings.TrimSpace(ss), "\n") {
		f := strings.Fields(line)
		if len(f) < 5 {
			open = append(open, line)
			continue
		}
		i := strings.LastIndexByte(f[4], ':')
		host, port := f[4][:i], f[4][i+1:]
		_, device, _ := strings.Cut(strings.Trim(host, "[]"), "%")
		switch {
		case strings.HasPrefix(host, "127."), host == "[::1]", device == "lo", device == "tapipop", strings.HasPrefix(host, "10.250."):
		case f[0] == "udp" && (port == "4242" || port == "4244"): // the overlay, and its beacons on the LAN
		case f[0] == "udp" && device == "eth0" && (port == "68" || port == "546"):
		default:
			open = append(open, line)
		}
	}
	return open
}

func TestOpenOutside(t *testing.T) {
	ss := `udp UNCONN 0 0 127.0.0.1:323 0.0.0.0:* users:(("chronyd",pid=1,fd=5))
udp UNCONN 0 0 10.0.2.15%eth0:68 0.0.0.0:* users:(("systemd-network",pid=1,fd=5))
udp UNCONN 0 0 *:4242 *:*
udp UNCONN 0 0 [fe80::1]%eth0:546 [::]:*
tcp LISTEN 0 128 0.0.0.0%tapipop:22 0.0.0.0:*
tcp LISTEN 0 128 10.250.0.2:9618 0.0.0.0:*
tcp LISTEN 0 128 0.0.0.0:4242 0.0.0.0:*
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:*
tcp LISTEN 0 128 [::]:111 [::]:*
tcp LISTEN 0 128 10.0.2.15:9618 0.0.0.0:*
udp UNCONN 0 0 0.0.0.0:68 0.0.0.0:*`
	var ports []string
	for _, line := range openOutside(ss) {
		ports = append(ports, strings.Fields(line)[4])
	}
	if diff := cmp.Diff([]string{"0.0.0.0:4242", "0.0.0.0:22", "[::]:111", "10.0.2.15:9618", "0.0.0.0:68"}, ports); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// checkChangedFloppy puts a floppy into the running machine that differs in
// one key, and sees that just this is applied.
func checkChangedFloppy(t *testing.T, m *vmlab.Machine, floppy string) {
	t.Helper()
	b, err := os.ReadFile(floppy)
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "changed.img")
	if err := os.WriteFile(changed, b, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "floppy", "edit", changed, "--set", "network.hostname=oak")
	const units = "systemctl show -p ActiveEnterTimestampMonotonic overlayd condor grid-firewall"
	before := m.Run(units)
	if err := m.EjectFloppy(); err != nil {
		t.Fatal(err)
	}
	if err := m.InsertFloppy(changed); err != nil {
		t.Fatal(err)
	}
	if out, exit := m.Try("for i in $(seq 60); do getent hosts oak && exit 0; sleep 1; done; sudo firstboot status; exit 1"); exit != 0 {
		t.Fatalf("the changed floppy was not applied:\n%s", out)
	}
	if got := m.Run("getent hosts oak; hostname -f"); !strings.Contains(got, "10.250.0.2") || !strings.HasSuffix(got, "C250000002.ipop") {
		t.Errorf("names after the change: %s", got)
	}
	if diff := cmp.Diff(before, m.Run(units)); diff != "" {
		t.Errorf("another host name restarted services:\n%s", diff)
	}
}

// TestVMStandalone boots from the floppy inside the image, without
// one in the drive, and runs a job of the console's user.
func TestVMStandalone(t *testing.T) {
	t.Parallel()
	lab := vmlab.New(t, 1)
	image := bootable(t, lab, "vmware", "--floppy", standalone(t))[0]
	m := lab.Boot(qemu.Config{Disk: image, Bus: qemu.PVSCSI, NICs: []qemu.NIC{{Model: "vmxnet3"}}})
	m.WaitFor(`taken: the floppy of [^\r\n]*gridcfg[^\r\n]*, role standalone`)
	want := map[string]string{"name": "standalone", "address": "127.0.0.1", "role": "standalone", "grid": "none", "group": "none"}
	if diff := cmp.Diff(want, m.Ready()); diff != "" {
		t.Errorf("READY -want +got:\n%s", diff)
	}
	if got := m.Run("id -un"); got != "griduser" {
		t.Errorf("console: %q", got)
	}
	m.Run(`cd && printf 'executable = /usr/bin/id\narguments = -un\noutput = out\nerror = err\nlog = log\nqueue\n' > job && condor_submit job`)
	if _, exit := m.Try("condor_wait -wait 110 log"); exit != 0 {
		out, _ := m.Try("cat log; condor_q -better-analyze; condor_status")
		t.Fatalf("the job did not end:\n%s", out)
	}
	t.Logf("the job ran as %s", m.Run("cat out"))
	if got := m.Run("cat err; grep -c 'return value 0' log"); got != "1" {
		t.Errorf("job: %s", got)
	}
	for _, line := range openOutside(m.Run("sudo ss -Hlntup")) {
		t.Errorf("open on the outside: %s", line)
	}
	// The drive is empty: looking for a floppy now and then must not fill the log.
	if got := number(t, m.Run("sudo dmesg | grep -c 'I/O error, dev fd0'; true")); got > 5 {
		t.Errorf("the kernel complained %d times of the empty drive", got)
	}
}

// identity prints what must differ between a machine and its copy.
const identity = `cat /etc/machine-id; sudo sh -c "cut -d' ' -f2 /etc/ssh/keys/*.pub"; sudo overlayd status --json | grep -o -m1 '"node": *"[^"]*"'`

// TestVMCopy copies the disk of a worker that has run, boots original and
// copy beside each other, the copy with another UUID and a larger disk.
func TestVMCopy(t *testing.T) {
	t.Parallel()
	lab := vmlab.New(t, 2)
	grid := demoGrid(t)
	worker := filepath.Join(t.TempDir(), "worker.img")
	must(t, "floppy", "new", "--grid", grid, "--role", "worker", "--group", "physics", "--user", "alice", "-o", worker)
	image := bootable(t, lab, "qcow2", "--floppy", worker)[0]
	original := lab.Overlay(image)
	boot := func(disk, uuid string) *vmlab.Machine {
		return lab.Boot(qemu.Config{Disk: disk, Persistent: true, UUID: uuid, NICs: outside})
	}
	const uuid1, uuid2 = "7f3c1a52-0d5b-4c6e-9a51-64c1a1d80001", "7f3c1a52-0d5b-4c6e-9a51-64c1a1d80002"

	m := boot(original, uuid1)
	m.WaitFor(`taken: the floppy of [^\r\n]*, role worker`)
	m.Login()
	first := m.Run(waitOverlay + identity)
	size := number(t, m.Run("df --output=size -B1 / | tail -1"))
	m.Run("echo kept > ~/marker")
	m.PowerOff()

	copied := lab.Copy(original)
	lab.Grow(copied, "+2G")
	m, c := boot(original, uuid1), boot(copied, uuid2)
	c.WaitFor(`this disk was copied from another machine`)
	c.Login()
	m.Login()
	if got := m.Run(waitOverlay + identity); got != first {
		t.Errorf("the original changed its identity:\n%s\nto\n%s", first, got)
	}
	if strings.Contains(m.Console.Transcript(), "was copied") {
		t.Error("the original believes that it was copied")
	}
	second := c.Run(waitOverlay + identity)
	for _, line := range strings.Split(first, "\n") {
		if strings.Contains(second, line) {
			t.Errorf("the copy has the original's %s", line)
		}
	}
	if strings.Count(first, "\n") != strings.Count(second, "\n") {
		t.Errorf("the copy's identity is\n%s\nthe original's\n%s", second, first)
	}
	if got := c.Run("cat ~/marker"); got != "kept" {
		t.Errorf("the copy lost the user's file: %q", got)
	}
	if got := number(t, c.Run("df --output=size -B1 / | tail -1")); got < size+2_000_000_000 {
		t.Errorf("the user layer of a disk 2 GiB larger has %d bytes, before %d", got, size)
	}
	c.PowerOff()
	grown := filepath.Join(t.TempDir(), "grown.raw")
	tool(t, "qemu-img", "convert", "-O", "raw", copied, grown)
	if out := tool(t, "sgdisk", "-v", grown); !strings.Contains(out, "No problems found") {
		t.Errorf("partition table after growing: %s", out)
	}
}

// tool runs a program of the host that must succeed.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := sysrun.Output(t.Context(), need.Tool(t, name), args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// waitOverlay waits until overlayd answers.
const waitOverlay = "for i in $(seq 60); do sudo overlayd status --json 2>/dev/null | grep -q node && break; sleep 1; done; "

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestVMDamagedUserLayer overwrites the head of griduser: the machine says so,
// works from memory, and leaves the partition as it is.
func TestVMDamagedUserLayer(t *testing.T) {
	t.Parallel()
	lab := vmlab.New(t, 1)
	args := []string{"--floppy", standalone(t), "--disk", "3GiB"}
	image := bootable(t, lab, "raw", args...)[0]
	var p planReport
	if err := json.Unmarshal([]byte(must(t, append([]string{"plan", "--base", lab.Base, "--json"}, args...)...)), &p); err != nil {
		t.Fatal(err)
	}
	user := p.Partitions[len(p.Partitions)-1]
	if user.Name != "griduser" {
		t.Fatalf("the last partition is %s", user.Name)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte("damaged!"), 1<<17), int64(user.FirstLBA)*plan.SectorSize); err != nil {
		t.Fatal(err)
	}
	m := lab.Boot(qemu.Config{Disk: image, Firmware: qemu.UEFI, Bus: qemu.IDE, NICs: outside})
	m.WaitFor(`grid-appliance: warning: [^\r\n]*griduser[^\r\n]*runs in memory`)
	m.Ready()
	if got := m.Run("test -d /sys/firmware/efi && echo uefi; ls /run/grid/volatile; echo x > ~/x; cat ~/x"); got != "uefi\n/run/grid/volatile\nx" {
		t.Errorf("in memory: %q", got)
	}
	if got := m.Run("lsblk -no MOUNTPOINTS /dev/disk/by-partlabel/griduser"); got != "" {
		t.Errorf("the damaged partition is mounted on %s", got)
	}
}

// TestVMBrokenFloppy: the machine says what is wrong in one line, lets one log
// in, starts no service of a role, and goes on when the floppy is mended.
func TestVMBrokenFloppy(t *testing.T) {
	t.Parallel()
	lab := vmlab.New(t, 1)
	image := bootable(t, lab, "virtualbox")[0]
	good := standalone(t)
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken.img")
	if err := os.WriteFile(broken, bytes.Replace(b, []byte("role ="), []byte("rule ="), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	m := lab.Boot(qemu.Config{Disk: image, Bus: qemu.AHCI, Floppy: broken, NICs: []qemu.NIC{{Model: "e1000"}}})
	line := m.WaitFor(`grid-appliance: ([^\r\n]*GRID\.TML:3:1: machine\.rule: unknown key[^\r\n]*)[\r\n]`)[1]
	if !strings.Contains(line, `did you mean "role"?`) {
		t.Errorf("the line is no help: %s", line)
	}
	m.Login()
	if got, exit := m.Try("sudo firstboot status"); exit != 3 || !strings.Contains(got, "unknown key") {
		t.Errorf("firstboot status: exit %d\n%s", exit, got)
	}
	for _, unit := range []string{"overlayd", "condor", "autofs", "nfs-server"} {
		if got, _ := m.Try("systemctl is-active " + unit); got != "inactive" {
			t.Errorf("%s is %s", unit, got)
		}
	}
	m.Run("sudo test ! -e /var/lib/grid/stamp.json")
	if err := m.EjectFloppy(); err != nil {
		t.Fatal(err)
	}
	if err := m.InsertFloppy(good); err != nil {
		t.Fatal(err)
	}
	m.Console.Skip()
	if got := m.WaitFor(regexp.QuoteMeta("grid-appliance: READY name=standalone"))[0]; got == "" {
		t.Error("not ready with the mended floppy")
	}
}
