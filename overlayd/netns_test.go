package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pion/stun/v3"

	"gridappliance/internal/diag"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
)

const patience = 20 * time.Second

// program builds overlayd once and returns its path, in a folder that any
// user may enter.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "overlayd-test-")
	if err != nil {
		return "", err
	}
	builtIn = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlayd")
	_, err = sysrun.Run(context.Background(), sysrun.Command{Name: "go", Args: []string{"build", "-o", path, "."}})
	return path, err
})

var builtIn string // program's folder

func TestMain(m *testing.M) {
	code := m.Run()
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	for _, dir := range foundedIn {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// master is a machine with a master's floppy, and a cable to another.
//
//	master 192.0.2.1 ---- 192.0.2.2 other
type master struct {
	t           *testing.T
	node, other *netlab.Node
	dir, socket string
}

func newMaster(t *testing.T) *master {
	t.Helper()
	lab := netlab.New(t)
	m := &master{t: t, node: lab.Node("master"), other: lab.Node("other"), dir: t.TempDir()}
	lab.Cable(m.node, "192.0.2.1/24", m.other, "192.0.2.2/24")
	m.socket = filepath.Join(m.dir, "control.sock")
	masterFloppy(t, filepath.Join(m.dir, "master.img"))
	machineID(t, filepath.Join(m.dir, "machine-id"))
	return m
}

func (m *master) args(more ...string) []string {
	m.t.Helper()
	path, err := program()
	if err != nil {
		m.t.Fatal(err)
	}
	return append([]string{path, "run", "--floppy", m.dir + "/master.img", "--machine-id", m.dir + "/machine-id",
		"--state", m.dir + "/state", "--control", m.socket}, more...)
}

// start starts overlayd and waits until it has its address.
func (m *master) start() *netlab.Process {
	m.t.Helper()
	p := m.node.Start(m.args()...)
	p.WaitFor("address taken", patience)
	return p
}

// status returns what overlayd status prints.
func (m *master) status() control.Status {
	m.t.Helper()
	code, stdout, stderr := command("status", "--json", "--control", m.socket)
	if code != diag.ExitDone {
		m.t.Fatalf("status: exit %d: %s", code, stderr)
	}
	var s control.Status
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		m.t.Fatal(err)
	}
	return s
}

// waitRunning waits until the status says running.
func (m *master) waitRunning() control.Status {
	m.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		s := m.status()
		if s.State == control.StateRunning {
			return s
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("state %s: %s", s.State, s.Reason)
		}
	}
}

func TestMasterInANamespace(t *testing.T) {
	need.Tool(t, "ss")
	m := newMaster(t)
	p := m.start()

	link := m.node.Run("ip", "address", "show", "tapipop")
	for _, want := range []string{"inet 10.250.0.2/16 brd 10.250.255.255", "mtu 1280", "BROADCAST,MULTICAST,UP,LOWER_UP", "link/ether"} {
		if !strings.Contains(link, want) {
			t.Errorf("tapipop lacks %q:\n%s", want, link)
		}
	}
	if !strings.Contains(link, "inet6 fd") || strings.Contains(link, "inet6 fe80") {
		t.Errorf("tapipop has not the IPv6 address of its key alone:\n%s", link)
	}
	sockets := strings.Split(strings.TrimSpace(m.node.Run("ss", "--no-header", "--listening", "--numeric", "--tcp", "--udp", "--raw")), "\n")
	for i, socket := range sockets {
		fields := strings.Fields(socket)
		sockets[i] = fields[0] + " " + fields[4]
	}
	slices.Sort(sockets)
	if diff := cmp.Diff([]string{"tcp 10.250.0.2:53", "udp *:4242", "udp 0.0.0.0:4244", "udp 10.250.0.2:53", "udp [::]:4244"}, sockets); diff != "" {
		t.Errorf("open sockets (-want +got):\n%s", diff)
	}

	s := m.waitRunning()
	if s.Address.String() != "10.250.0.2/16" || s.Name != "C250000002.ipop" || s.Role != "master" || s.Group != "infra" {
		t.Errorf("status %+v", s)
	}
	code, stdout, stderr := command("whois", "10.250.0.2", "--control", m.socket)
	if code != diag.ExitDone || !strings.Contains(stdout, s.NodeID) || !strings.Contains(stdout, "master-1") {
		t.Errorf("whois of the own address: exit %d\n%s%s", code, stdout, stderr)
	}
	if got := askSTUN(t, m.other, "192.0.2.1:4242"); !strings.HasPrefix(got, "192.0.2.2:") {
		t.Errorf("STUN says %q, want 192.0.2.2 and a port", got)
	}
	m.node.Do(func() { // nobody is there
		conn, err := net.Dial("udp4", "10.250.0.3:9")
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("hello"))
		conn.Close()
	})
	for deadline := time.Now().Add(patience); m.status().Counters["drop/nobody"] == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the packet to nobody was not counted: %v", m.status().Counters)
		}
	}
	if got := m.status().Counters["tx/stun-answers"]; got != 1 {
		t.Errorf("%d STUN answers counted, want 1", got)
	}

	p.Signal(syscall.SIGTERM)
	if code := p.Wait(patience); code != diag.ExitDone {
		t.Errorf("exit %d after SIGTERM:\n%s", code, p.Output())
	}
	if _, err := os.Stat(m.socket); !os.IsNotExist(err) {
		t.Errorf("control socket after the end: %v", err)
	}
}

// askSTUN asks server for the endpoint it sees, from n.
func askSTUN(t *testing.T, n *netlab.Node, server string) string {
	t.Helper()
	var conn net.Conn
	n.Do(func() {
		var err error
		if conn, err = net.Dial("udp4", server); err != nil {
			t.Fatal(err)
		}
	})
	client, err := stun.NewClient(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var mapped stun.XORMappedAddress
	err = client.Do(stun.MustBuild(stun.TransactionID, stun.BindingRequest), func(e stun.Event) {
		if e.Error != nil {
			t.Error(e.Error)
		} else if err := mapped.GetFrom(e.Message); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return mapped.String()
}

func TestKilledAndStartedAgain(t *testing.T) {
	m := newMaster(t)
	first := m.start()
	before := m.waitRunning()
	first.Signal(syscall.SIGKILL)
	first.Wait(patience)
	link := m.node.Run("ip", "address", "show", "tapipop")
	if !strings.Contains(link, "NO-CARRIER") || !strings.Contains(link, "10.250.0.2/16") {
		t.Errorf("tapipop without its daemon, want the address and no carrier:\n%s", link)
	}
	m.start()
	if after := m.waitRunning(); after.NodeID != before.NodeID || after.Address != before.Address {
		t.Errorf("after: node %s, %s; before: node %s, %s", after.NodeID, after.Address, before.NodeID, before.Address)
	}
	if link := m.node.Run("ip", "address", "show", "tapipop"); strings.Contains(link, "NO-CARRIER") {
		t.Errorf("no carrier after the restart:\n%s", link)
	}
}

func TestSecondInstanceIsRefused(t *testing.T) {
	m := newMaster(t)
	m.start()
	for _, c := range []struct {
		name, says string
		args       []string
	}{
		{"same control socket", "another overlayd answers", nil},
		{"same state", "another overlayd is running", []string{"--control", m.dir + "/2.sock"}},
		{"same port", "address already in use", []string{"--control", m.dir + "/2.sock", "--state", m.dir + "/state2"}},
		{"same device", "open tapipop: another program, probably a second overlayd, has it open",
			[]string{"--control", m.dir + "/2.sock", "--state", m.dir + "/state2", "--listen", ":4243"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			second := m.node.Start(m.args(c.args...)...)
			if code := second.Wait(patience); code != diag.ExitFailed || !strings.Contains(second.Output(), c.says) {
				t.Errorf("exit %d, want %d and %q:\n%s", code, diag.ExitFailed, c.says, second.Output())
			}
		})
	}
	if s := m.waitRunning(); s.Address.String() != "10.250.0.2/16" {
		t.Errorf("the first now has %s", s.Address)
	}
}

func TestUnderlayOverlap(t *testing.T) {
	m := newMaster(t)
	m.node.Run("ip", "route", "add", "10.250.7.0/24", "via", "192.0.2.2")
	p := m.node.Start(m.args()...)
	p.WaitFor("10.250.7.0/24 via 192.0.2.2 on eth0", patience)
	s := m.status()
	if s.State != control.StateJoining || !strings.Contains(s.Reason, "builder grid new --pool") {
		t.Errorf("state %s, reason %q; want joining with the remedy", s.State, s.Reason)
	}
	if out := m.node.Run("ip", "address", "show", "tapipop"); strings.Contains(out, "inet ") {
		t.Errorf("the device has an IPv4 address:\n%s", out)
	}
	m.node.Run("ip", "route", "del", "10.250.7.0/24")
	p.WaitFor("address taken", patience)
	if s := m.waitRunning(); s.Reason != "" {
		t.Errorf("reason %q once the route is gone", s.Reason)
	}
}

// TestWiderUnderlayRoute has an underlay that the longest prefix sorts out.
func TestWiderUnderlayRoute(t *testing.T) {
	m := newMaster(t)
	m.node.Run("ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.2")
	p := m.start()
	p.WaitFor("wider route", patience)
	m.waitRunning()
	for addr, want := range map[string]string{"10.250.7.7": "dev tapipop", "10.1.7.7": "dev eth0"} {
		if got := m.node.Run("ip", "route", "get", addr); !strings.Contains(got, want) {
			t.Errorf("%s goes %q, want by %s", addr, got, want)
		}
	}
}

func TestDeviceTakenAway(t *testing.T) {
	m := newMaster(t)
	p := m.start()
	m.node.Run("ip", "link", "delete", "tapipop")
	if code := p.Wait(patience); code != diag.ExitFailed || !strings.Contains(p.Output(), "device lost: read tapipop") {
		t.Errorf("exit %d, want %d and the device's name:\n%s", code, diag.ExitFailed, p.Output())
	}
}

// TestOrdinaryUser runs overlayd as nobody: with CAP_NET_ADMIN it works,
// without it says what is missing.
func TestOrdinaryUser(t *testing.T) {
	need.Tool(t, "setpriv")
	const nobody = 65534
	for _, c := range []struct {
		name, capabilities string
		works              bool
	}{
		{"CAP_NET_ADMIN", "-all,+net_admin", true},
		{"no capability", "-all", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMaster(t)
			// t.TempDir is inside a folder that is root's alone.
			for _, dir := range []string{filepath.Dir(m.dir), m.dir} {
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, path := range []string{m.dir, m.dir + "/master.img"} {
				if err := os.Chown(path, nobody, nobody); err != nil {
					t.Fatal(err)
				}
			}
			tun := filepath.Join(m.dir, "tun") // as udev makes it on Debian: open to all
			if err := syscall.Mknod(tun, syscall.S_IFCHR|0o666, 10<<8|200); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(tun, 0o666); err != nil {
				t.Fatal(err)
			}
			p := m.node.StartMounted(map[string]string{"/dev/net/tun": tun}, append([]string{"setpriv", "--reuid=65534", "--regid=65534",
				"--clear-groups", "--no-new-privs", "--inh-caps=" + c.capabilities, "--ambient-caps=" + c.capabilities, "--bounding-set=" + c.capabilities}, m.args()...)...)
			if !c.works {
				if code := p.Wait(patience); code != diag.ExitDenied || !strings.Contains(p.Output(), "CAP_NET_ADMIN is missing") {
					t.Errorf("exit %d, want %d and the capability's name:\n%s", code, diag.ExitDenied, p.Output())
				}
				return
			}
			p.WaitFor("address taken", patience)
			m.waitRunning()
			info, err := os.Stat(m.socket)
			if err != nil || info.Sys().(*syscall.Stat_t).Uid != nobody {
				t.Errorf("control socket %v, %v; want it to be nobody's", info, err)
			}
		})
	}
}
