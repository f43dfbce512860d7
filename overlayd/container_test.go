package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridappliance/firstboot/units"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/overlayd/control"
)

// TestUnderSystemd runs the program by its own unit, with all the unit takes
// away from it, in a booted base.
func TestUnderSystemd(t *testing.T) {
	root := netlab.Root(t, need.Container(t))
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	c := netlab.Boot(t, root, func(root string) {
		put := func(name string, data []byte, mode os.FileMode) {
			t.Helper()
			if err := os.MkdirAll(filepath.Dir(root+name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root+name, data, mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(root+name, mode); err != nil {
				t.Fatal(err)
			}
		}
		program, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		unit, err := units.FS.ReadFile("overlayd.service")
		if err != nil {
			t.Fatal(err)
		}
		put("/usr/lib/grid/overlayd", program, 0o755)
		put("/etc/systemd/system/overlayd.service", unit, 0o644)
		if err := os.MkdirAll(root+"/var/lib/grid", 0o755); err != nil {
			t.Fatal(err)
		}
		masterFloppy(t, root+"/var/lib/grid/floppy.img")
	})
	c.WaitBooted(3 * time.Minute)
	c.Run("mkdir", "-p", "/run/grid")
	c.Run("touch", "/run/grid/applied", "/run/grid/overlay") // as firstboot says it has done its work

	if _, err := c.Try("systemctl", "start", "overlayd.service"); err != nil {
		t.Fatalf("%v\n%s", err, c.Run("journalctl", "--unit=overlayd", "--no-pager"))
	}
	running := func() control.Status {
		t.Helper()
		var s control.Status
		for deadline := time.Now().Add(patience); s.State != control.StateRunning; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("state %q: %s\n%s", s.State, s.Reason, c.Run("journalctl", "--unit=overlayd", "--no-pager"))
			}
			out, err := c.Try("/usr/lib/grid/overlayd", "status", "--json")
			if err == nil {
				err = json.Unmarshal([]byte(out), &s)
			}
			if err != nil {
				t.Logf("status: %v", err)
			}
		}
		return s
	}
	before := running()
	if before.Address.String() != "10.250.0.2/16" {
		t.Errorf("address %s", before.Address)
	}
	if got := c.Run("ip", "-brief", "address", "show", "tapipop"); !strings.Contains(got, "10.250.0.2/16") {
		t.Errorf("tapipop: %s", got)
	}
	if got := c.Run("stat", "--format=%U:%G %a", "/run/overlayd/control.sock"); got != "overlayd:overlayd 660\n" {
		t.Errorf("control socket %q, want overlayd's, 660", got)
	}
	if got := show(c, "StatusText"); got != "running as C250000002.ipop 10.250.0.2/16" {
		t.Errorf("systemd's status line %q", got)
	}
	journal := c.Run("journalctl", "--unit=overlayd", "--no-pager", "--output=cat")
	if !strings.Contains(journal, `{"level":"INFO","msg":"address taken","addr":"10.250.0.2/16"`) {
		t.Errorf("no structured line in the journal:\n%s", journal)
	}

	for deadline := time.Now().Add(patience); !strings.Contains(running().DNS.State, "lets only root change it"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("names: %+v", running().DNS)
		}
	}

	c.Run("systemctl", "kill", "--signal=KILL", "overlayd.service")
	for deadline := time.Now().Add(patience); show(c, "NRestarts") != "1" || show(c, "ActiveState") != "active"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not restarted: %s", show(c, "ActiveState"))
		}
	}
	if after := running(); after.NodeID != before.NodeID || after.Address != before.Address {
		t.Errorf("after a kill: node %s at %s, before: %s at %s", after.NodeID, after.Address, before.NodeID, before.Address)
	}

	c.Run("systemctl", "stop", "overlayd.service")
	if got := show(c, "Result"); got != "success" {
		t.Errorf("result of a stop: %q", got)
	}
}

func show(c *netlab.Container, property string) string {
	out, _ := c.Try("systemctl", "show", "--property="+property, "--value", "overlayd.service")
	return strings.TrimSpace(out)
}
