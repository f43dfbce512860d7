package netlab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridappliance/internal/need"
)

// TestContainer boots the base to its default target and stops it in order.
func TestContainer(t *testing.T) {
	root := Root(t, need.Container(t))
	before, err := os.ReadDir(filepath.Join(root, "etc"))
	check(t, err)

	const mark = "/etc/netlab-was-here"
	c := Boot(t, root, func(root string) {
		check(t, os.WriteFile(root+mark, []byte("yes\n"), 0o644))
	})
	if state := c.WaitBooted(3 * time.Minute); state == "degraded" {
		t.Logf("degraded:\n%s", c.Run("systemctl", "--failed", "--no-legend", "--plain"))
	}
	c.WaitUnit("multi-user.target", "active", 10*time.Second)

	if got := c.Run("cat", mark); got != "yes\n" {
		t.Errorf("%s inside: %q", mark, got)
	}
	if got := c.Run("readlink", "/proc/1/exe"); !strings.Contains(got, "systemd") {
		t.Errorf("process 1 is %q, want systemd", got)
	}
	if _, err := c.Try("false"); err == nil {
		t.Error("a failing program inside gave no error")
	}
	if links := c.Run("ls", "/sys/class/net"); strings.TrimSpace(links) != "lo" {
		t.Errorf("interfaces inside: %q, want lo alone", links)
	}
	c.Run("test", "-c", "/dev/net/tun")
	c.Run("ip", "tuntap", "add", "tap9", "mode", "tap") // CAP_NET_ADMIN and a tun device that works

	if !c.Shutdown() {
		t.Errorf("no orderly end within %v:\n%s", shutdownTime, c.Output())
	}
	after, err := os.ReadDir(filepath.Join(root, "etc"))
	check(t, err)
	if len(after) != len(before) {
		t.Errorf("the root was changed: %d files in etc, before %d", len(after), len(before))
	}
}

// TestContainerOnANode: a system booted on a node has the node's interfaces
// and reaches what the node reaches.
func TestContainerOnANode(t *testing.T) {
	root := Root(t, need.Container(t))
	lab := New(t)
	pc, other := lab.Node("pc"), lab.Node("other")
	lab.Cable(pc, "192.0.2.1/24", other, "192.0.2.2/24")
	c := pc.Boot(root, func(root string) {
		check(t, os.WriteFile(root+"/etc/systemd/network/05-lab.network", []byte("[Match]\nName=eth0\n[Network]\nAddress=192.0.2.1/24\n"), 0o644))
	})
	c.WaitBooted(3 * time.Minute)
	c.Run("ping", "-c", "1", "-W", "5", "192.0.2.2")
}
