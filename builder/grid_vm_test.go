package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gridappliance/internal/need"
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
	g := newVMGrid(t, vmlab.New(t, 2))
	master, alice := g.master(), g.person("client", "alice")
	m, a := master.Ready(), alice.Ready()

	if got := master.Run("condor_status -autoformat Machine"); !strings.Contains(got, a["name"]) {
		t.Errorf("the client %s is READY, and the pool knows %q; all that it knows:\n%s", a["name"], got,
			master.Run("condor_status -any -autoformat MyType Name LastHeardFrom; date +%s"))
	}
	short, _, _ := strings.Cut(m["name"], ".")
	alice.Run("ping -c 3 " + short)
	alice.Run("getent hosts " + m["address"])

	// A job of the console's user, with its output back.
	queue(alice, "hostname", "request_memory = 32")
	alice.Run("condor_wait -wait 240 job.log")
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

// TestVMWorker is the same with a worker, and what only the kernel of a real
// machine shows: a job reads the client's file, of which no more comes over the
// network than it reads, and nothing the second time; a job's memory is bounded,
// and all its processes end with it; a machine that was suspended has the right
// time and is back in the pool.
func TestVMWorker(t *testing.T) {
	need.Long(t)
	g := newVMGrid(t, vmlab.New(t, 3), "--disk", "8G")
	master, alice, worker := g.master(), g.person("client", "alice"), g.person("worker", "bob")
	m, a, w := master.Ready(), alice.Ready(), worker.Ready()
	there := fmt.Sprintf("requirements = Machine == \"%s\"", w["name"])

	t.Run("one hundredth of a file of 2 GiB", func(t *testing.T) {
		alice.Run("sudo fallocate -l 2G /mnt/local/big && sudo dd if=/dev/urandom of=/mnt/local/big bs=1M seek=1000 count=20 conv=notrunc status=none && sync")
		const read = "dd if=%s/big bs=1M skip=1000 count=20 status=none | sha256sum"
		want := alice.Run(fmt.Sprintf(read, "/mnt/local"))
		received := func() int {
			n, err := strconv.Atoi(worker.Run("cat /sys/class/net/tapipop/statistics/rx_bytes"))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := received()
		queue(alice, fmt.Sprintf(read, "/mnt/ganfs/"+a["name"]), "request_memory = 32", there)
		alice.Run("condor_wait -wait 100 job.log")
		first := received() - before
		if got := alice.Run("cat job.out job.err"); got != want {
			t.Errorf("the job read %q, want %q", got, want)
		}
		worker.Run("sync; echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null") // not the pages: the disk
		before = received()
		if got := worker.Run(fmt.Sprintf(read, "/mnt/ganfs/"+a["name"])); got != want {
			t.Errorf("read again: %q, want %q", got, want)
		}
		again := received() - before
		t.Logf("%.1f MiB came for the first reading of 20 MiB, %.3f MiB for the second", float64(first)/(1<<20), float64(again)/(1<<20))
		if first >= 40<<20 || again >= first/100 {
			t.Errorf("want less than 40 MiB, and then less than a hundredth of that")
		}
	})
	t.Run("a job's memory is bounded", func(t *testing.T) {
		queue(alice, "head -c 400m /dev/zero | tail >/dev/null", "request_memory = 64", there)
		held := until(alice, "condor_q -constraint 'JobStatus == 5' -autoformat HoldReasonCode HoldReason", "memory")
		t.Logf("held: %s", held)
		alice.Run("condor_rm -all")
	})
	t.Run("all processes of a job end with it", func(t *testing.T) {
		queue(alice, "setsid sleep 4001 & setsid nohup sleep 4002 & sleep 4003", "request_memory = 32", there)
		until(worker, "pgrep -c -f '^sleep 400[123]'", "3")
		alice.Run("condor_rm -all")
		until(worker, "pgrep -f '^sleep 400[123]' || echo none", "none")
	})
	t.Run("suspended", func(t *testing.T) {
		offset := func() time.Duration {
			text, now := worker.Run("date +%s.%N"), time.Now()
			seconds, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return now.Sub(time.UnixMicro(int64(seconds * 1e6)))
		}
		if d := offset(); d.Abs() > 5*time.Second {
			t.Fatalf("the clock is %v behind before anything", d)
		}
		const still = time.Minute
		worker.Suspend(still)
		if d := offset(); d < still/2 {
			t.Errorf("the clock is only %v behind right after: nothing to put right", d)
		}
		time.Sleep(10 * time.Second)
		if d := offset(); d.Abs() > 5*time.Second {
			t.Errorf("ten seconds later the clock is %v behind", d)
		}
		// An hour, as the guest sees one: its real-time clock is ahead by that.
		worker.Run(`sudo python3 -c 'import fcntl,struct,time; t=time.gmtime(time.time()+3600); fcntl.ioctl(open("/dev/rtc0","rb"), 0x4024700a, struct.pack("9i", t.tm_sec, t.tm_min, t.tm_hour, t.tm_mday, t.tm_mon-1, t.tm_year-1900, 0, 0, 0))'`)
		time.Sleep(10 * time.Second)
		if d := offset() + time.Hour; d.Abs() > 10*time.Second {
			t.Errorf("ten seconds after an hour the clock is %v behind", d)
		}
		start := time.Now()
		worker.Run("ping -c 1 -W 60 " + m["address"])
		until(master, "condor_status -constraint 'time() - LastHeardFrom < 40' -autoformat Machine", w["name"])
		t.Logf("heard of in the pool %.1f s later", time.Since(start).Seconds())
		queue(alice, "echo after", "request_memory = 32", there)
		alice.Run("condor_wait -wait 100 job.log")
		if got := alice.Run("cat job.out"); got != "after" {
			t.Errorf("a job says %q", got)
		}
	})
}

// until runs a command until what it writes contains text.
func until(m *vmlab.Machine, command, text string) string {
	for end := time.Now().Add(4 * time.Minute); ; time.Sleep(time.Second) {
		out, _ := m.Try(command)
		if strings.Contains(out, text) {
			return out
		}
		if time.Now().After(end) {
			m.Run(command + "; condor_q -better-analyze; cat job.log; echo want: " + text + "; false")
		}
	}
}

// vmGrid is a grid of real machines, each behind a translator of its own.
type vmGrid struct {
	t             *testing.T
	lab           *vmlab.Lab
	folder, image string
}

func newVMGrid(t *testing.T, lab *vmlab.Lab, options ...string) *vmGrid {
	t.Helper()
	g := &vmGrid{t: t, lab: lab, folder: filepath.Join(t.TempDir(), "home")}
	must(t, "grid", "new", "--masters", "1", "--bootstrap", fmt.Sprintf("%s:%d", host, firstContact(t)), g.folder)
	g.image = bootable(t, lab, "qcow2", append(options, "--no-floppy")...)[0]
	return g
}

func (g *vmGrid) master() *vmlab.Machine { return g.boot(filepath.Join(g.folder, "master-1.img")) }

func (g *vmGrid) person(role, user string) *vmlab.Machine {
	g.t.Helper()
	floppy := filepath.Join(g.folder, user+".img")
	must(g.t, "floppy", "new", "--grid", g.folder, "--role", role, "--group", "physics", "--user", user, "-o", floppy)
	return g.boot(floppy)
}

func (g *vmGrid) boot(floppy string) *vmlab.Machine {
	return g.lab.Boot(qemu.Config{Disk: g.lab.Overlay(g.image), Persistent: true, Floppy: floppy, NICs: []qemu.NIC{{Open: true}}})
}

// queue submits a job of the console's user that runs a shell command without
// quotation marks.
func queue(m *vmlab.Machine, command string, more ...string) {
	m.Run("rm -f job.log")
	m.Run(fmt.Sprintf(`printf '%%s\n' 'executable = /bin/sh' 'arguments = "-c '"'"'%s'"'"'"' 'transfer_executable = false' 'output = job.out' 'error = job.err' 'log = job.log' '%s' queue >job.sub && condor_submit job.sub`,
		command, strings.Join(more, "' '")))
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
