package netlab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

const (
	leaderTime   = 20 * time.Second // for systemd-nspawn to start its init
	shutdownTime = 90 * time.Second // for the system to stop, as systemd gives a unit
	pollTime     = 100 * time.Millisecond
)

// Root returns the root of a base (a folder with base.squashfs) as a folder
// that must not be changed. It is unpacked once for each content, into the
// cache.
func Root(t testing.TB, base string) string {
	t.Helper()
	need.Tool(t, "unsquashfs")
	squashfs := filepath.Join(base, "base.squashfs")
	f, err := os.Open(squashfs)
	check(t, err)
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	check(t, err)

	cache, err := os.UserCacheDir()
	check(t, err)
	dir := filepath.Join(cache, "grid-appliance", "netlab", hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	check(t, os.MkdirAll(filepath.Dir(dir), 0o700))
	unpacking, err := os.MkdirTemp(filepath.Dir(dir), "unpacking-*")
	check(t, err)
	defer os.RemoveAll(unpacking)
	_, err = sysrun.Output(t.Context(), "unsquashfs", "-no-progress", "-quiet", "-dest", unpacking+"/root", squashfs)
	check(t, err)
	if err := os.Rename(unpacking+"/root", dir); err != nil && !os.IsExist(err) { // another test was faster
		check(t, err)
	}
	return dir
}

// Container is a Debian system that systemd-nspawn has booted. Its Process is
// nspawn, whose output is the system's console.
type Container struct {
	*Process
	leader string // pid of the system's init, out here
}

// Boot boots the system in the folder root, which stays as it is: changes go
// to memory and end with the test. prepare, which may be nil, is called with
// the folder of the system to be booted, and may change it. The system has a
// network of its own with nothing but lo, CAP_NET_ADMIN and /dev/net/tun.
//
// Boot returns once the system's init runs; WaitBooted waits for the rest. The
// system is shut down when the test ends.
func Boot(t testing.TB, root string, prepare func(root string)) *Container {
	t.Helper()
	return boot(t, root, prepare, "--private-network")
}

// Boot is the function Boot for a system whose network is n: its interfaces,
// cables and addresses, as they are and as they change.
func (n *Node) Boot(root string, prepare func(root string)) *Container {
	n.t.Helper()
	return boot(n.t, root, prepare, fmt.Sprintf("--network-namespace-path=/proc/%d/fd/%d", os.Getpid(), int(n.ns)))
}

func boot(t testing.TB, root string, prepare func(root string), network string) *Container {
	t.Helper()
	need.Root(t)
	need.Tool(t, "systemd-nspawn", "nsenter")
	c := &Container{}
	privateMounts(t, func() {
		// nspawn registers nowhere and keeps its files in a /run of its own, so
		// that it needs no systemd out here.
		check(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"))
		lab := "/run/netlab"
		for _, dir := range []string{"/upper", "/work", "/root"} {
			check(t, os.MkdirAll(lab+dir, 0o755))
		}
		check(t, unix.Mount("overlay", lab+"/root", "overlay", 0, "lowerdir="+root+",upperdir="+lab+"/upper,workdir="+lab+"/work"))
		if prepare != nil {
			prepare(lab + "/root")
		}
		c.Process = start(t, []string{"systemd-nspawn", "--boot", "--directory=" + lab + "/root", "--machine=netlab",
			"--register=no", "--keep-unit", network, "--capability=CAP_NET_ADMIN", "--bind=/dev/net/tun"})
	})
	t.Cleanup(func() { c.Shutdown() })
	c.leader = c.findLeader()
	return c
}

// findLeader waits for nspawn's child that is process 1 of its namespace.
func (c *Container) findLeader() string {
	c.t.Helper()
	for deadline := time.Now().Add(leaderTime); time.Now().Before(deadline); time.Sleep(pollTime) {
		tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(c.Pid()) + "/task/*/children")
		for _, task := range tasks {
			children, _ := os.ReadFile(task)
			for _, pid := range strings.Fields(string(children)) {
				if inner := namespacePids(pid); len(inner) > 1 && inner[len(inner)-1] == "1" {
					return pid
				}
			}
		}
		select {
		case <-c.done:
			c.t.Fatalf("systemd-nspawn ended:\n%s", c.Output())
		default:
		}
	}
	c.t.Fatalf("systemd-nspawn has no init after %v:\n%s", leaderTime, c.Output())
	return ""
}

// namespacePids returns a process's ids from the outermost pid namespace to
// its own.
func namespacePids(pid string) []string {
	status, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.Fields(rest)
		}
	}
	return nil
}

// Try runs a program inside, as root, and returns its standard output.
func (c *Container) Try(argv ...string) (string, error) {
	args := append([]string{"--target", c.leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/", "--"}, argv...)
	out, err := sysrun.Output(context.Background(), "nsenter", args...)
	return string(out), err
}

// Run is Try for a program that must not fail.
func (c *Container) Run(argv ...string) string {
	c.t.Helper()
	out, err := c.Try(argv...)
	check(c.t, err)
	return out
}

// WaitBooted waits until systemd has done all it starts at boot, and returns
// the state: "running", or "degraded" when units failed.
func (c *Container) WaitBooted(patience time.Duration) string {
	c.t.Helper()
	return c.poll(patience, func(state string) bool { return state == "running" || state == "degraded" },
		"systemctl", "is-system-running")
}

// WaitUnit waits until a unit is in an active state such as "active",
// "inactive" or "failed".
func (c *Container) WaitUnit(unit, state string, patience time.Duration) {
	c.t.Helper()
	c.poll(patience, func(s string) bool { return s == state }, "systemctl", "show", "--property=ActiveState", "--value", unit)
}

// poll runs argv inside until done accepts what it printed, and returns that.
func (c *Container) poll(patience time.Duration, done func(string) bool, argv ...string) (last string) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollTime) {
		out, _ := c.Try(argv...) // an exit status says less than the word
		if last = strings.TrimSpace(out); done(last) {
			return last
		}
		select {
		case <-c.done:
			c.t.Fatalf("the system stopped while %s was %q:\n%s", argv[len(argv)-1], last, c.Output())
		default:
		}
	}
	c.t.Fatalf("%s is still %q after %v:\n%s", strings.Join(argv, " "), last, patience, c.Output())
	return last
}

// Kill ends the system at once, as a power cut does.
func (c *Container) Kill() {
	c.t.Helper()
	pid, err := strconv.Atoi(c.leader)
	check(c.t, err)
	check(c.t, syscall.Kill(pid, syscall.SIGKILL))
	<-c.done
}

// Shutdown stops the system in order and waits for its end; it says whether
// that came in time. What does not stop is killed.
func (c *Container) Shutdown() bool {
	c.Signal(syscall.SIGTERM) // nspawn passes it on as SIGRTMIN+3: halt
	select {
	case <-c.done:
		return true
	case <-time.After(shutdownTime):
	}
	if pid, err := strconv.Atoi(c.leader); err == nil {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	return false
}
