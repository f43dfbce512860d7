// Package vmlab lets tests boot machines (internal/qemu) and ask them things.
// Only tests import it.
//
//	lab := vmlab.New(t, 1)                          // skips where there is no QEMU or base
//	m := lab.Boot(qemu.Config{Disk: lab.Overlay(image)})
//	m.Ready()                                       // waits for the READY line, logs in
//	m.Run("hostname -f")                            // fails the test unless it exits with 0
//
// At most two machines run at once on this host, whatever tests run beside
// each other: a Lab holds a place for each of its machines until the test
// ends. A test that wants more has all places, and the host for itself. Everything a machine wrote is in the log of a test that failed. A
// helper that cannot do its work ends the test.
package vmlab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"gridappliance/internal/need"
	"gridappliance/internal/qemu"
	"gridappliance/internal/sysrun"
)

// Limits, generous because emulated machines share a loaded host.
const (
	bootLimit     = 6 * time.Minute
	runLimit      = 2 * time.Minute
	shutdownLimit = 3 * time.Minute
	places        = 2 // machines at once on this host
	logLines      = 150
)

// Lab is the machines of one test.
type Lab struct {
	t    testing.TB
	Base string // folder of the base that the environment names

	free int // machines it may still start
}

// New waits for room for n machines and skips the test where machines
// cannot run. A test has one Lab: a second could wait for the first for ever.
func New(t testing.TB, n int) *Lab {
	t.Helper()
	l := &Lab{t: t, Base: need.VM(t), free: n}
	reserve(t, min(n, places))
	return l
}

// reserve locks n of the host's places until the test ends. One test at a
// time waits for places, so that two that want two each cannot block each
// other.
func reserve(t testing.TB, n int) {
	t.Helper()
	gate := lock(t, "gate", true)
	defer gate.Close()
	for got := 0; got < n; {
		for i := 0; i < places && got < n; i++ {
			if f := lock(t, fmt.Sprint(i), false); f != nil {
				t.Cleanup(func() { f.Close() })
				got++
			}
		}
		if got < n {
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// lock locks a file all tests of this host know; nil when it is taken.
func lock(t testing.TB, name string, wait bool) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "grid-vmlab-"+name), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err == nil {
			return f
		}
		if err == syscall.EINTR {
			continue
		}
		f.Close()
		if wait {
			t.Fatal(err)
		}
		return nil
	}
}

// Overlay returns a new qcow2 file on top of image: what machines write goes
// there. It is the test's own.
func (l *Lab) Overlay(image string) string {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "overlay.qcow2")
	format := "raw"
	if strings.HasSuffix(image, ".qcow2") {
		format = "qcow2"
	}
	l.qemuImg("create", "-q", "-f", "qcow2", "-F", format, "-b", image, path)
	return path
}

// Copy returns a copy of an overlay, as copying a machine's folder makes it.
func (l *Lab) Copy(overlay string) string {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "copy.qcow2")
	b, err := os.ReadFile(overlay)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// Grow makes a disk larger by so much, "+1G".
func (l *Lab) Grow(path, by string) {
	l.t.Helper()
	l.qemuImg("resize", "-q", "-f", "qcow2", path, by)
}

func (l *Lab) qemuImg(args ...string) {
	l.t.Helper()
	if out, err := sysrun.Output(l.t.Context(), "qemu-img", args...); err != nil {
		l.t.Fatalf("%v\n%s", err, out)
	}
}

// Machine is a machine of a test.
type Machine struct {
	*qemu.Machine
	t   testing.TB
	lab *Lab
}

// Boot starts a machine. Its disk keeps what it writes when c.Persistent says
// so; give it an Overlay then.
func (l *Lab) Boot(c qemu.Config) *Machine {
	l.t.Helper()
	if l.free == 0 {
		l.t.Fatal("vmlab: the lab has no place for another machine")
	}
	l.free--
	if os.Getenv("VMLAB_LIVE") != "" { // to watch a test that hangs
		c.Live = os.Stderr
	}
	start := time.Now()
	m, err := qemu.Start(l.t.Context(), c)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		m.Close()
		if l.t.Failed() {
			l.t.Logf("console of the machine with disk %s (%s, started %v before):\n%s",
				c.Disk, m.Accelerator(), time.Since(start).Round(time.Second), m.Console.Tail(logLines))
		}
	})
	return &Machine{Machine: m, t: l.t, lab: l}
}

// WaitFor waits for a match of expr on the console and returns it and its
// groups.
func (m *Machine) WaitFor(expr string) []string {
	m.t.Helper()
	groups, err := m.Console.WaitFor(regexp.MustCompile(expr), bootLimit)
	if err != nil {
		m.t.Fatal(err)
	}
	return groups
}

var readyWord = regexp.MustCompile(`([a-z]+)=(\S+)`)

// Ready waits for the READY line, logs in, and returns the line's words:
// name, address, role, grid, group.
func (m *Machine) Ready() map[string]string {
	m.t.Helper()
	start := time.Now()
	line := m.WaitFor(`grid-appliance: READY ([^\r\n]*)[\r\n]`)[1]
	m.t.Logf("READY after %.1f s (%s): %s", time.Since(start).Seconds(), m.Accelerator(), line)
	m.Login()
	words := map[string]string{}
	for _, w := range readyWord.FindAllStringSubmatch(line, -1) {
		words[w[1]] = w[2]
	}
	return words
}

// Login waits for the console's own login and makes its shell ready for Run:
// the kernel no longer writes between what commands write.
func (m *Machine) Login() {
	m.t.Helper()
	if err := m.Console.Login(bootLimit); err != nil {
		m.t.Fatal(err)
	}
	m.Run("sudo dmesg --console-level alert")
}

// Run runs a command line as the console's user and returns what it wrote,
// without the white space at the end. It must exit with 0.
func (m *Machine) Run(command string) string {
	m.t.Helper()
	out, exit := m.Try(command)
	if exit != 0 {
		m.t.Fatalf("%s: exit %d\n%s", command, exit, out)
	}
	return out
}

// Try runs a command line and returns what it wrote and its exit status.
func (m *Machine) Try(command string) (string, int) {
	m.t.Helper()
	out, exit, err := m.Console.Run(command, runLimit)
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimRight(out, " \n"), exit
}

// Suspend has the machine stand still for a time, as a laptop whose lid is shut
// does with its guests: its clock stops, the real-time clock goes on.
func (m *Machine) Suspend(d time.Duration) {
	m.t.Helper()
	if err := m.Stop(); err != nil {
		m.t.Fatal(err)
	}
	select {
	case <-time.After(d):
	case <-m.t.Context().Done():
	}
	if err := m.Continue(); err != nil {
		m.t.Fatal(err)
	}
}

// Reboot asks the guest to start again; wait for what it then writes.
func (m *Machine) Reboot() {
	m.t.Helper()
	if err := m.Console.Send("sudo systemctl reboot\r"); err != nil {
		m.t.Fatal(err)
	}
}

// PowerOff presses the power button, waits until the guest is off, and gives
// the machine's place back to the lab.
func (m *Machine) PowerOff() {
	m.t.Helper()
	if err := m.Shutdown(shutdownLimit); err != nil {
		m.t.Fatal(err)
	}
	m.lab.free++
}
