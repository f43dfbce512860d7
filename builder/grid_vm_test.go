package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridappliance/internal/qemu"
	"gridappliance/internal/sysrun"
	"gridappliance/internal/vmlab"
)

// host is this machine as guests of QEMU's user network see it.
const host = "10.0.2.2"

// TestVMGrid is docs/one-machine.md with the real image: two machines, each
// behind a translator of its own that lets nothing in, find each other through
// a first contact that is no member, become one pool, run a user's job and
// read each other's files.
//
//	master ── user network (NAT) ─┐
//	                              overlayd bootstrap on this host
//	client ── user network (NAT) ─┘
func TestVMGrid(t *testing.T) {
	t.Parallel()
	lab := vmlab.New(t, 2)
	port := firstContact(t)
	grid := filepath.Join(t.TempDir(), "home")
	must(t, "grid", "new", "--masters", "1", "--bootstrap", fmt.Sprintf("%s:%d", host, port), grid)
	client := filepath.Join(grid, "alice.img")
	must(t, "floppy", "new", "--grid", grid, "--role", "client", "--group", "physics", "--user", "alice", "-o", client)
	image := bootable(t, lab, "qcow2", "--no-floppy")[0]

	boot := func(floppy string) *vmlab.Machine {
		return lab.Boot(qemu.Config{Disk: lab.Overlay(image), Persistent: true, Floppy: floppy, NICs: []qemu.NIC{{Open: true}}})
	}
	master := boot(filepath.Join(grid, "master-1.img"))
	alice := boot(client)
	m, a := master.Ready(), alice.Ready()

	if got := master.Run("condor_status -autoformat Machine"); !strings.Contains(got, a["name"]) {
		t.Errorf("the client %s is READY, and the pool knows %q; all that it knows:\n%s", a["name"], got,
			master.Run("condor_status -any -autoformat MyType Name LastHeardFrom; date +%s"))
	}
	short, _, _ := strings.Cut(m["name"], ".")
	alice.Run("ping -c 3 " + short)
	alice.Run("getent hosts " + m["address"])

	// A job of the console's user, with its output back.
	alice.Run(`printf 'executable = /bin/sh\narguments = "-c hostname"\ntransfer_executable = false\noutput = job.out\nerror = job.err\nlog = job.log\nrequest_memory = 32\nqueue\n' >job.sub`)
	alice.Run("condor_submit job.sub && condor_wait -wait 240 job.log")
	if got := alice.Run("cat job.out"); got != a["name"] {
		t.Errorf("the job said %q, want %s", got, a["name"])
	}

	// What the client shares is on the master, by the client's name.
	alice.Run("echo from alice | sudo tee /mnt/local/greeting")
	if got := master.Run("cat /mnt/ganfs/" + a["name"] + "/greeting"); got != "from alice" {
		t.Errorf("the master reads %q from the client's share", got)
	}
	t.Logf("%s", alice.Run("sudo overlayd why "+m["address"]+"; sudo overlayd peers"))
}

// firstContact runs overlayd bootstrap on this host's loopback, where guests
// find it at host, and returns its port.
func firstContact(t *testing.T) int {
	t.Helper()
	free, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	port := free.LocalAddr().(*net.UDPAddr).Port
	free.Close()
	done := make(chan error, 1)
	go func() {
		_, err := sysrun.Run(t.Context(), sysrun.Command{Name: filepath.Join(programs(t), "overlayd"),
			Args: []string{"bootstrap", "--listen", fmt.Sprintf("127.0.0.1:%d", port)}, Stderr: os.Stderr, Tied: true})
		done <- err
	}()
	t.Cleanup(func() { <-done })
	return port
}
