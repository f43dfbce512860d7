package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/lease"
)

// meeting is an internet on which only a bootstrap has a public address.
//
//	machine ── NAT ──┐
//	machine ── NAT ──┼── 203.0.113.0/24 ── bootstrap 203.0.113.1, UDP 4242 and TCP 443
//	machine ── NAT ──┘
type meeting struct {
	t    *testing.T
	lab  *netlab.Lab
	wan  *netlab.Switch
	boot *netlab.Process
	nats int
}

func newMeeting(t *testing.T) *meeting {
	t.Helper()
	need.Netns(t)
	need.Tool(t, "nft", "ping")
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	m := &meeting{t: t, lab: netlab.New(t)}
	m.wan = m.lab.Switch("wan")
	b := m.lab.Node("bootstrap")
	m.wan.Plug(b, "203.0.113.1/24")
	m.boot = b.Start(path, "bootstrap", "--listen-tcp", ":443", "--metrics", "127.0.0.1:9465")
	m.boot.WaitFor("bootstrap started", patience)
	return m
}

// home is a network behind a translator of its own.
func (m *meeting) home(b netlab.Behaviour) (s *netlab.Switch, prefix string) {
	m.t.Helper()
	m.nats++
	prefix = fmt.Sprintf("192.168.%d.", m.nats)
	s = m.lab.Switch(fmt.Sprintf("home-%d", m.nats))
	m.lab.NAT(fmt.Sprintf("nat-%d", m.nats), b, netlab.Line{Delay: 5 * time.Millisecond}, m.wan, fmt.Sprintf("203.0.113.%d/24", 10+m.nats), s, prefix+"1/24")
	return s, prefix
}

// guild is a grid and its machines.
type guild struct {
	*meeting
	name string
	grid *credential.Grid
	all  []*fellow
}

func (m *meeting) guild(name string, bootstrap ...string) *guild {
	m.t.Helper()
	g, err := credential.NewGrid(credential.GridOptions{Name: name, Masters: 1, Bootstrap: bootstrap, Namespaces: []credential.Namespace{{Name: name}}}, time.Now())
	if err != nil {
		m.t.Fatal(err)
	}
	return &guild{meeting: m, name: name, grid: g}
}

// fellow is a machine of a grid.
type fellow struct {
	*netlab.Node
	g       *guild
	port    netlab.Port
	dir     string
	process *netlab.Process
	address netip.Addr // virtual
}

// add starts a machine: the grid's first is its master.
func (g *guild) add(s *netlab.Switch, address, gateway string) *fellow {
	g.t.Helper()
	name := fmt.Sprintf("%s-%d", g.name, len(g.all))
	f := &fellow{Node: g.lab.Node(name), g: g, dir: filepath.Join(g.t.TempDir(), name)}
	f.port = s.Plug(f.Node, address).Default(gateway)
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		g.t.Fatal(err)
	}
	id := sha256.Sum256([]byte(name))
	if err := os.WriteFile(f.dir+"/machine-id", []byte(hex.EncodeToString(id[:16])+"\n"), 0o644); err != nil {
		g.t.Fatal(err)
	}
	if len(g.all) == 0 {
		m := g.grid.Material[0]
		writeFloppy(g.t, f.dir+"/floppy.img", "master", g.grid,
			floppy.File{Name: floppy.HolderCertFile, Data: m.HolderCert}, floppy.File{Name: floppy.HolderKeyFile, Data: m.HolderKey}, floppy.File{Name: floppy.NodeKeyFile, Data: m.NodeKey},
			floppy.File{Name: floppy.IssuerCertFile, Data: m.IssuerCert}, floppy.File{Name: floppy.IssuerKeyFile, Data: m.IssuerKey})
	} else {
		cert, key, err := g.grid.IssueHolder(credential.HolderRequest{User: name, Group: "physics", Roles: []credential.Role{credential.RoleWorker}}, time.Now())
		if err != nil {
			g.t.Fatal(err)
		}
		writeFloppy(g.t, f.dir+"/floppy.img", "worker", g.grid, floppy.File{Name: floppy.HolderCertFile, Data: cert}, floppy.File{Name: floppy.HolderKeyFile, Data: key})
	}
	g.all = append(g.all, f)
	f.start()
	return f
}

func (f *fellow) start() {
	f.g.t.Helper()
	path, err := program()
	if err != nil {
		f.g.t.Fatal(err)
	}
	f.process = f.Start(path, "run", "--floppy", f.dir+"/floppy.img", "--machine-id", f.dir+"/machine-id", "--state", f.dir+"/state", "--control", f.dir+"/sock")
}

// wait waits until the machine has its virtual address, and returns when it did.
func (f *fellow) wait(patience time.Duration) time.Time {
	f.g.t.Helper()
	var s control.Status
	var err error
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		if s, err = control.Dial(f.dir + "/sock").Status(f.g.t.Context()); err == nil && s.State == control.StateRunning {
			f.address = s.Address.Addr()
			return time.Now()
		}
		if time.Now().After(deadline) {
			text, _ := json.Marshal(s)
			f.g.t.Fatalf("%s: not running within %v: %v %s\n%s", f.Name, patience, err, text, f.process.Output())
		}
	}
}

// path returns how packets to another machine go.
func (f *fellow) path(to *fellow) control.Path {
	return pathTo(f.g.t, control.Dial(f.dir+"/sock"), to.address)
}

// reach pings until the path is as wanted; no ping may be lost.
func (f *fellow) reach(to *fellow, want control.Path, patience time.Duration) {
	f.g.t.Helper()
	began := time.Now()
	for first := true; ; first = false {
		out, err := f.Try("ping", "-c", "1", "-W", "3", to.address.String())
		if err != nil {
			f.g.t.Fatalf("%s does not reach %s: %s\n%s", f.Name, to.Name, out, f.process.Output())
		}
		if first {
			f.g.t.Logf("%s to %s: first answer after %v", f.Name, to.Name, time.Since(began).Round(time.Millisecond))
		}
		if f.path(to) == want {
			f.g.t.Logf("%s to %s: %s after %v", f.Name, to.Name, want, time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > patience {
			f.g.t.Fatalf("%s to %s: path %q after %v, want %q", f.Name, to.Name, f.path(to), patience, want)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// TestNobodyOwnsAPublicMachine: two grids with different roots, all of whose
// machines are behind translators, form through one bootstrap that belongs to
// neither; one machine's network drops UDP.
func TestNobodyOwnsAPublicMachine(t *testing.T) {
	m := newMeeting(t)
	a, b := m.guild("archer", "203.0.113.1:4242"), m.guild("bowman", "203.0.113.1:4242")
	began := time.Now()
	add := func(g *guild, nat netlab.Behaviour) *fellow {
		s, prefix := m.home(nat)
		return g.add(s, prefix+"10/24", prefix+"1")
	}
	// The grids' only witnesses wait a minute before their first votes.
	masterA, masterB := add(a, netlab.Home), add(b, netlab.Symmetric)
	homeA, officeA, homeB := add(a, netlab.Home), add(a, netlab.Office), add(b, netlab.Symmetric)
	for _, f := range []*fellow{masterA, masterB} {
		f.wait(patience)
	}
	for _, f := range []*fellow{homeA, officeA, homeB} {
		f.wait(lease.RecoverWait + 60*time.Second)
	}
	t.Logf("all have addresses %v after the first machine started", time.Since(began).Round(time.Second))
	homeA.reach(masterA, control.PathDirect, 10*time.Second)
	masterA.reach(homeA, control.PathDirect, 10*time.Second)
	officeA.reach(masterA, control.PathRelay, 10*time.Second)
	officeA.reach(homeA, control.PathRelay, 10*time.Second)
	homeB.reach(masterB, control.PathRelay, 10*time.Second)
	for _, g := range []*guild{a, b} {
		for _, f := range g.all {
			peers, err := control.Dial(f.dir + "/sock").Peers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(peers) == 0 {
				t.Errorf("%s has no peers", f.Name)
			}
		}
	}
	// One who comes late is there at once.
	late := add(a, netlab.FullCone)
	began = time.Now()
	t.Logf("a late machine has its address after %v", late.wait(patience).Sub(began).Round(time.Millisecond))
	late.reach(homeA, control.PathDirect, 10*time.Second)
	late.reach(officeA, control.PathRelay, 10*time.Second)

	// The bootstrap's end is noticed by nobody who has a path of its own.
	m.boot.Signal(15)
	m.boot.Wait(patience)
	homeA.reach(masterA, control.PathDirect, 5*time.Second)
	late.reach(homeA, control.PathDirect, 5*time.Second)
}

// TestALANNeedsNoFirstContact: machines on one switch whose descriptor names
// nobody, and one that comes back when the others have moved.
func TestALANNeedsNoFirstContact(t *testing.T) {
	m := newMeeting(t)
	g := m.guild("archer")
	lan := m.lab.Switch("lan")
	master, worker := g.add(lan, "192.168.77.10/24", "192.168.77.1"), g.add(lan, "192.168.77.11/24", "192.168.77.1")
	master.wait(patience)
	worker.wait(lease.RecoverWait + 60*time.Second)
	worker.reach(master, control.PathDirect, 10*time.Second)

	// The worker's underlay address changes: the connection lives.
	stream := worker.Start("ping", "-i", "0.1", "-D", master.address.String())
	stream.WaitFor("icmp_seq=5 ", patience)
	worker.Run("ip", "addr", "del", "192.168.77.11/24", "dev", worker.port.Name())
	worker.Run("ip", "addr", "add", "192.168.77.99/24", "dev", worker.port.Name())
	moved := strings.Count(stream.Output(), "icmp_seq=")
	stream.WaitFor(fmt.Sprintf("icmp_seq=%d ", moved+50), patience)
	stream.Signal(2)
	stream.Wait(patience)
	out := stream.Output()
	i := strings.Index(out, "packets transmitted")
	if i < 0 {
		t.Fatal(out)
	}
	t.Logf("roaming: %s", strings.TrimSpace(out[strings.LastIndex(out[:i], "\n")+1:]))
	if answers := strings.Count(out, "ttl="); answers < moved+20 {
		t.Errorf("%d answers to %d pings: the move took more than three seconds", answers, moved+50)
	}
	worker.process.Signal(15)
	worker.process.Wait(patience)
	if b, err := os.ReadFile(worker.dir + "/state/peers.json"); err != nil || !strings.Contains(string(b), "192.168.77.10:4242") {
		t.Errorf("peers of before: %s %v", b, err)
	}
}
