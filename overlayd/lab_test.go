package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/lease"
)

// world is one grid's machines on an internet of their own. Every site has a
// line of siteDelay to the middle, the masters' place one of hubDelay, so that
// a direct path between sites is told from a relayed one by its delay.
//
//	machine ── site (NAT) ~~ siteDelay ~~┐
//	machine ── site (NAT) ~~ siteDelay ~~┼─ wan 203.0.113.0/24 ~~ hubDelay ~~ master-1 203.0.113.1
//	machine ── site (NAT) ~~ siteDelay ~~┘
type world struct {
	t      *testing.T
	grid   *grid
	net    *netlab.Lab
	wan    *netlab.Switch
	dir    string // has the grid's folder and one for each machine
	sites  int
	master *station
	opened []*station // by open
}

// Delays of the lab: one way, so the round trip between two sites is 40 ms and
// by the master 160 ms.
const (
	siteDelay    = 10 * time.Millisecond
	hubDelay     = 30 * time.Millisecond
	directOneWay = 2 * siteDelay
	relayOneWay  = 2 * (siteDelay + hubDelay)
)

const masterEndpoint = "203.0.113.1:4242"

// tools builds overlayd and builder once.
var tools = sync.OnceValues(func() (dir string, err error) {
	overlayd, err := program()
	if err != nil {
		return "", err
	}
	dir = filepath.Dir(overlayd)
	_, err = sysrun.Run(context.Background(), sysrun.Command{Name: "go", Args: []string{"build", "-o", dir + "/", "../builder"}})
	return dir, err
})

// grid is one whose master has been up. A grid's only witness waits a minute
// before its first vote, for machines that may hold leases of before; so the
// tests found their grids once, and each world gets a copy of the grid's and of
// its master's folder. OVERLAYD_GRIDS names a folder that keeps them from one
// run of the tests to the next.
type grid struct {
	name string
	make func(t *testing.T, w *world)
	dir  string // once it is founded
}

var (
	// ordinary is a grid as builder makes it.
	ordinary = &grid{name: "ordinary", make: func(t *testing.T, w *world) {
		w.builder("grid", "new", w.dir+"/archer", "--masters", "1", "--bootstrap", masterEndpoint)
	}}
	// hurried is one whose leases end after a minute, with which nobody should
	// live: builder has no option for it.
	hurried = &grid{name: "hurried", make: func(t *testing.T, w *world) {
		g, err := credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 1, Bootstrap: []string{masterEndpoint},
			Namespaces: []credential.Namespace{{Name: "archer", LeaseTime: 60, HoldTime: 60}}}, time.Now())
		must(t, err)
		must(t, g.Save(w.dir+"/archer"))
		writeMaster(t, w.dir+"/archer/master-1.img", g)
	}}

	founding  sync.Once
	foundedIn []string // folders, for TestMain to remove
)

// found founds both grids at once.
func found(t *testing.T) {
	t.Helper()
	var worlds []*world
	for _, g := range []*grid{ordinary, hurried} {
		if dir := os.Getenv("OVERLAYD_GRIDS") + "/" + g.name; exists(dir + "/master-1") {
			g.dir = dir
			continue
		}
		w := &world{t: t, grid: g, net: netlab.New(t), dir: t.TempDir()}
		g.make(t, w)
		w.begin()
		worlds = append(worlds, w)
	}
	if len(worlds) > 0 {
		time.Sleep(lease.RecoverWait)
	}
	for _, w := range worlds {
		w.open().start()
	}
	for _, w := range worlds {
		w.opened[0].waitStatus("running", foundingTime, running)
		w.master.process.Signal(syscall.SIGTERM)
		w.master.process.Wait(patience)
		dir := os.Getenv("OVERLAYD_GRIDS") + "/" + w.grid.name
		if dir == "/"+w.grid.name {
			var err error
			dir, err = os.MkdirTemp("", "overlayd-grid-")
			must(t, err)
			foundedIn = append(foundedIn, dir)
		}
		copyTree(t, dir+"/archer", w.dir+"/archer")
		copyTree(t, dir+"/master-1", w.master.dir+"/state")
		w.grid.dir = dir
	}
}

// foundingTime is what machines wait for their address, at most, on a machine
// that is busy otherwise.
const foundingTime = 60 * time.Second

// newWorld makes a world of a grid with one master, which has a public
// address, runs and gives out leases.
func newWorld(t *testing.T, g *grid) *world {
	t.Helper()
	w := &world{t: t, grid: g, net: netlab.New(t), dir: t.TempDir()}
	founding.Do(func() { found(t) })
	if g.dir == "" {
		t.Fatal("the grid could not be founded: see the first test that failed")
	}
	copyTree(t, w.dir+"/archer", g.dir+"/archer")
	copyTree(t, w.dir+"/master-1/state", g.dir+"/master-1")
	w.begin()
	return w
}

// begin starts the master.
func (w *world) begin() {
	w.t.Helper()
	w.wan = w.net.Switch("wan")
	node := w.net.Node("master-1")
	w.wan.PlugLine(node, "203.0.113.1/24", netlab.Line{Delay: hubDelay})
	w.master = w.machine(node, w.dir+"/archer/master-1.img")
	w.master.public = netip.MustParseAddr("203.0.113.1")
	w.master.start("--listen-tcp", ":443")
	w.master.waitRunning()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// copyTree copies files that are secret.
func copyTree(t *testing.T, to, from string) {
	t.Helper()
	must(t, os.CopyFS(to, os.DirFS(from)))
	must(t, filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	}))
}

func running(s control.Status) bool { return s.State == control.StateRunning }

// builder runs a builder command.
func (w *world) builder(args ...string) {
	w.t.Helper()
	dir, err := tools()
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := sysrun.Output(w.t.Context(), dir+"/builder", args...); err != nil {
		w.t.Fatal(err)
	}
}

// floppy makes a worker's floppy for one user.
func (w *world) floppy(user string, more ...string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, user+".img")
	if _, err := os.Stat(path); err != nil {
		w.builder(append([]string{"floppy", "new", "--grid", w.dir + "/archer", "--role", "worker", "--group", "physics", "--user", user, "-o", path}, more...)...)
	}
	return path
}

// site is machines behind a NAT.
type site struct {
	w        *world
	home     *netlab.Switch
	nat      *netlab.NAT // the outermost of those it is behind
	public   netip.Addr  // where the underlay sees its machines
	net      string      // "192.168.7."
	machines int
}

// site makes a place behind a NAT.
func (w *world) site(b netlab.Behaviour) *site {
	w.t.Helper()
	w.sites++
	public := netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + w.sites)})
	s := &site{w: w, public: public, net: fmt.Sprintf("192.168.%d.", w.sites), home: w.net.Switch(fmt.Sprintf("home-%d", w.sites))}
	s.nat = w.net.NAT(fmt.Sprintf("nat-%d", w.sites), b, netlab.Line{Delay: siteDelay}, w.wan, public.String()+"/24", s.home, s.net+"1/24")
	return s
}

// below makes a place behind another NAT that stands in this one.
func (s *site) below(b netlab.Behaviour) *site {
	s.w.t.Helper()
	s.w.sites++
	s.machines++
	in := &site{w: s.w, public: s.public, nat: s.nat, net: fmt.Sprintf("192.168.%d.", s.w.sites), home: s.w.net.Switch(fmt.Sprintf("home-%d", s.w.sites))}
	nat := s.w.net.NAT(fmt.Sprintf("nat-%d", s.w.sites), b, netlab.Line{}, s.home, fmt.Sprintf("%s%d/24", s.net, 9+s.machines), in.home, in.net+"1/24")
	nat.Outside.Default(s.net + "1")
	return in
}

// machine puts a machine with a floppy of its own into the site.
func (s *site) machine() *station {
	s.w.t.Helper()
	s.machines++
	n := s.w.net.Node(fmt.Sprintf("m%d-%d", s.w.sites, s.machines))
	s.home.Plug(n, fmt.Sprintf("%s%d/24", s.net, 9+s.machines)).Default(s.net + "1")
	m := s.w.machine(n, s.w.floppy(n.Name))
	m.site, m.public = s, s.public
	return m
}

// open puts a machine with a floppy of its own and a public address onto the
// internet.
func (w *world) open() *station {
	w.t.Helper()
	w.sites++
	n := w.net.Node(fmt.Sprintf("m%d", w.sites))
	public := netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + w.sites)})
	w.wan.PlugLine(n, public.String()+"/24", netlab.Line{Delay: siteDelay})
	m := w.machine(n, w.floppy(n.Name))
	m.public = public
	w.opened = append(w.opened, m)
	return m
}

// station is one machine with a floppy.
type station struct {
	*netlab.Node
	t       *testing.T
	site    *site // nil: in the open
	dir     string
	floppy  string
	public  netip.Addr // at which the underlay sees it
	listen  string     // --listen; "": the default
	process *netlab.Process

	Address netip.Addr // virtual, once it runs
}

func (w *world) machine(n *netlab.Node, floppy string) *station {
	w.t.Helper()
	m := &station{Node: n, t: w.t, dir: filepath.Join(w.dir, n.Name), floppy: floppy}
	must(w.t, os.MkdirAll(m.dir, 0o755))
	id := sha256.Sum256([]byte(n.Name))
	if err := os.WriteFile(m.dir+"/machine-id", []byte(hex.EncodeToString(id[:16])+"\n"), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (m *station) socket() string { return m.dir + "/sock" }

// start starts overlayd.
func (m *station) start(more ...string) {
	m.t.Helper()
	path, err := program()
	if err != nil {
		m.t.Fatal(err)
	}
	if m.listen != "" {
		more = append(more, "--listen", m.listen)
	}
	m.process = m.Start(append([]string{path, "run", "--floppy", m.floppy, "--machine-id", m.dir + "/machine-id",
		"--state", m.dir + "/state", "--control", m.socket()}, more...)...)
}

func (m *station) client() *control.Client { return control.Dial(m.socket()) }

func (m *station) status() (control.Status, error) { return m.client().Status(m.t.Context()) }

// waitStatus waits until the status is as wanted, and returns it.
func (m *station) waitStatus(what string, patience time.Duration, done func(control.Status) bool) control.Status {
	m.t.Helper()
	var s control.Status
	var err error
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if s, err = m.status(); err == nil && done(s) {
			return s
		}
		if time.Now().After(deadline) {
			text, _ := json.Marshal(s)
			m.t.Fatalf("%s: not %s within %v: %v %s\n%s", m.Name, what, patience, err, text, tail(m.process.Output()))
		}
	}
}

// waitRunning waits until the machine has its address and is on the ring.
func (m *station) waitRunning() control.Status {
	m.t.Helper()
	s := m.waitStatus("running", foundingTime, running)
	m.Address = s.Address.Addr()
	return s
}

// tail is the last lines of a log.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

// path is how packets to a peer go now.
func (m *station) path(to *station) control.Path { return pathTo(m.t, m.client(), to.Address) }

// pathTo asks a node how packets to an address go now.
func pathTo(t *testing.T, node *control.Client, address netip.Addr) control.Path {
	why, err := node.Why(t.Context(), control.Target{Address: address})
	if err != nil {
		return control.PathNone
	}
	for _, s := range why.Sessions {
		if s.Purpose != control.PurposeLink {
			return s.Path
		}
	}
	return control.PathNone
}

// waitPath waits until packets to a peer go so.
func (m *station) waitPath(to *station, want control.Path, patience time.Duration) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); m.path(to) != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: path to %s is %q after %v, want %q\n%s", m.Name, to.Name, m.path(to), patience, want, m.why(to))
		}
	}
}

// counters are the machine's counters.
func (m *station) counters() map[string]uint64 {
	m.t.Helper()
	s, err := m.status()
	if err != nil {
		m.t.Fatalf("%s: %v", m.Name, err)
	}
	return s.Counters
}

// needLab says what the tests with NATs need besides namespaces.
func needLab(t *testing.T) {
	t.Helper()
	need.Netns(t)
	need.Tool(t, "nft", "ping")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
