package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gridappliance/internal/diag"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
)

// builderProgram builds builder once, beside overlayd.
var builderProgram = sync.OnceValues(func() (string, error) {
	overlayd, err := program()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(overlayd), "builder")
	_, err = sysrun.Output(context.Background(), "go", "build", "-o", path, "gridappliance/builder")
	return path, err
})

// pair is a master and a worker with a cable between them, and their floppies
// as a user makes them.
//
//	master 192.0.2.1 ---- 192.0.2.2 worker
type pair struct {
	t              *testing.T
	master, worker *machine
}

// machine is one node of a test's grid.
type machine struct {
	*netlab.Node
	t      *testing.T
	name   string
	dir    string
	floppy string
	daemon *netlab.Process
}

func newPair(t *testing.T) *pair {
	t.Helper()
	lab := netlab.New(t)
	builder, err := builderProgram()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	make := func(args ...string) {
		t.Helper()
		if out, err := sysrun.Output(t.Context(), builder, args...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	make("grid", "new", dir+"/archer", "--masters", "1", "--bootstrap", "192.0.2.1:4242")
	config := dir + "/GRID.TML"
	if err := os.WriteFile(config, []byte("version = 1\n[machine]\nrole = \"worker\"\n[network]\nhostname = \"alices-pc\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	make("floppy", "new", "--grid", dir+"/archer", "--role", "worker", "--group", "physics", "--user", "alice", "--config", config, "-o", dir+"/alice.img")
	p := &pair{t: t}
	p.master = newMachine(t, lab.Node("master"), "master", dir+"/archer/master-1.img")
	p.worker = newMachine(t, lab.Node("worker"), "worker", dir+"/alice.img")
	lab.Cable(p.master.Node, "192.0.2.1/24", p.worker.Node, "192.0.2.2/24")
	return p
}

func newMachine(t *testing.T, node *netlab.Node, name, floppy string) *machine {
	t.Helper()
	m := &machine{Node: node, t: t, name: name, dir: t.TempDir(), floppy: floppy}
	id := fmt.Sprintf("%032x\n", time.Now().UnixNano())
	if err := os.WriteFile(filepath.Join(m.dir, "machine-id"), []byte(id), 0o644); err != nil {
		t.Fatal(err)
	}
	return m
}

// boot starts overlayd.
func (m *machine) boot() {
	m.t.Helper()
	path, err := program()
	if err != nil {
		m.t.Fatal(err)
	}
	m.daemon = m.Start(path, "run", "--floppy", m.floppy, "--machine-id", m.dir+"/machine-id", "--state", m.dir+"/state", "--control", m.dir+"/sock")
}

func (m *machine) status() (s control.Status) {
	m.t.Helper()
	code, stdout, stderr := command("status", "--json", "--control", m.dir+"/sock")
	if code != diag.ExitDone {
		m.t.Fatalf("%s: status: exit %d: %s\n%s", m.name, code, stderr, m.daemon.Output())
	}
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		m.t.Fatal(err)
	}
	return s
}

// running waits until the node has an address.
func (m *machine) running() control.Status {
	m.t.Helper()
	m.daemon.WaitFor("address taken", 140*time.Second) // a witness that is new and alone waits a minute before it votes
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		s := m.status()
		if s.State == control.StateRunning {
			return s
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: %s: %s\n%s", m.name, s.State, s.Reason, m.daemon.Output())
		}
	}
}

// ping sends count packets and fails the test unless each is answered.
func (m *machine) ping(addr string, count int, more ...string) string {
	m.t.Helper()
	args := append([]string{"ping", "-n", "-c", fmt.Sprint(count), "-i", "0.2", "-W", "3"}, more...)
	out, err := m.Try(append(args, addr)...)
	if err != nil || !strings.Contains(out, fmt.Sprintf("%d packets transmitted, %d received", count, count)) {
		m.t.Errorf("%s: ping %s: %v\n%s", m.name, addr, err, out)
	}
	return out
}

// TestPair is the whole way of a packet: two floppies, two machines, and not
// even the first packet of either is lost.
func TestPair(t *testing.T) {
	need.Tool(t, "ping")
	p := newPair(t)
	began := time.Now()
	p.master.boot()
	first := p.master.running()
	p.worker.boot()
	s := p.worker.running()
	t.Logf("both have addresses %v after the first start", time.Since(began).Round(time.Millisecond))
	if s.Lease.State != "holding" || s.Role != "worker" || s.Name == "" || s.Address6.Addr() == first.Address6.Addr() {
		t.Errorf("worker's status %+v", s)
	}
	addr := s.Address.Addr().String()
	for _, c := range []struct {
		from *machine
		to   string
		more []string
	}{
		{p.worker, "10.250.0.2", nil},
		{p.master, addr, nil},
		{p.worker, "10.250.0.2", []string{"-s", "1252", "-M", "do"}},
		{p.master, s.Address6.Addr().String(), nil},
		{p.worker, first.Address6.Addr().String(), nil},
	} {
		c.from.ping(c.to, 5, c.more...)
	}

	for _, c := range []struct{ args, says string }{
		{"ping 10.250.0.2", "192.0.2.1:4242"},
		{"ping " + addr, ""},
		{"peers", "direct 192.0.2.1:4242"},
		{"why 10.250.0.2", "direct"},
		{"whois 10.250.0.2", "master-1"},
		{"whois " + first.NodeID, "master-1"},
		{"whois master-1", "10.250.0.2"},
		{"lookup " + first.NodeID, first.NodeID},
		{"put service/test hello", ""},
		{"get service/test", "hello"},
		{"crawl", first.NodeID},
		{"metrics", "overlayd_ring_member 1"},
	} {
		args := append(strings.Fields(c.args), "--control", p.worker.dir+"/sock")
		if code, stdout, stderr := command(args...); code != diag.ExitDone || !strings.Contains(stdout, c.says) {
			t.Errorf("overlayd %s: exit %d, want %q in:\n%s%s", c.args, code, c.says, stdout, stderr)
		}
	}

	p.checkNames(first, p.worker.status())

	for _, m := range []*machine{p.worker, p.master} {
		m.daemon.Signal(syscall.SIGTERM)
		if code := m.daemon.Wait(patience); code != diag.ExitDone {
			t.Errorf("%s: exit %d:\n%s", m.name, code, m.daemon.Output())
		}
	}
}
