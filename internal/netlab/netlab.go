// Package netlab gives tests real networks and real machines without a
// virtual machine: network namespaces joined by cables, switches and NATs,
// and a Debian root booted by systemd-nspawn.
//
//	lab := netlab.New(t)
//	wan := lab.Switch("wan")
//	home := lab.Switch("home")
//	lab.NAT("router", netlab.Home, netlab.Line{Delay: 20 * time.Millisecond},
//		wan, "192.0.2.1/24", home, "192.168.1.1/24")
//	pc := lab.Node("pc")
//	home.Plug(pc, "192.168.1.10/24").Default("192.168.1.1")
//
//	   pc --- home --- router(NAT) ~~~ wan --- ...
//
// A cable (---) is a veth pair and as fast as the machine; a line (~~~) is a
// cable with a delay and a loss. A NAT behaves as a Behaviour says, in the
// terms of RFC 4787; a test measures every one. Stream sends numbered packets
// and counts what became of each.
//
// A namespace has no name in the file system: it lives as long as the lab or
// a process in it, so nothing is left behind when a test is killed. Processes
// are ended by the pid that the lab was given when it started them.
//
// Everything fails the test on an error. A Lab belongs to one test and is not
// safe for concurrent use, except Node.Do and Process methods. Needs root.
package netlab

import (
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// Lab is the networks of one test.
type Lab struct{ t testing.TB }

// New returns an empty Lab, or skips the test where it cannot be built.
func New(t testing.TB) *Lab {
	t.Helper()
	need.Netns(t)
	return &Lab{t: t}
}

// Node is one machine: a network namespace with its loopback up.
type Node struct {
	Name string
	t    testing.TB
	ns   netns.NsHandle
}

// Node makes a machine without a network.
func (l *Lab) Node(name string) *Node {
	l.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	l.check(err)
	defer home.Close()
	ns, err := netns.New()
	l.check(err)
	l.check(netns.Set(home))
	l.t.Cleanup(func() { ns.Close() })
	n := &Node{Name: name, t: l.t, ns: ns}
	n.Do(func() {
		lo, err := netlink.LinkByName("lo")
		l.check(err)
		l.check(netlink.LinkSetUp(lo))
	})
	return n
}

// Do calls f with the calling goroutine in n's namespace. Sockets that f opens
// stay in n; goroutines that it starts do not.
func (n *Node) Do(f func()) {
	n.t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		n.t.Fatal(err)
	}
	defer home.Close()
	if err := netns.Set(n.ns); err != nil {
		runtime.UnlockOSThread()
		n.t.Fatal(err)
	}
	defer func() {
		// A thread that cannot go home stays locked, and ends with the
		// goroutine.
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	f()
}

// Run runs a program in n to its end and returns its standard output.
func (n *Node) Run(argv ...string) string {
	n.t.Helper()
	out, err := n.Try(argv...)
	if err != nil {
		n.t.Fatalf("%s: %v", n.Name, err)
	}
	return out
}

// Try is Run for a program that may fail.
func (n *Node) Try(argv ...string) (stdout string, err error) {
	n.t.Helper()
	n.Do(func() {
		var out []byte
		out, err = sysrun.Output(n.t.Context(), argv[0], argv[1:]...)
		stdout = string(out)
	})
	return stdout, err
}

// Port is the end of a cable at a node.
type Port struct {
	node *Node
	name string
}

// Name is the interface's name in its node.
func (p Port) Name() string { return p.name }

// Default makes gateway the node's default route.
func (p Port) Default(gateway string) Port {
	p.node.t.Helper()
	p.node.Do(func() {
		link, err := netlink.LinkByName(p.name)
		check(p.node.t, err)
		check(p.node.t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)}))
	})
	return p
}

// Cable joins two nodes by a veth pair. Each end is called eth and the number
// of interfaces its node had; an address "" leaves its end without one.
func (l *Lab) Cable(a *Node, addressA string, b *Node, addressB string) (Port, Port) {
	l.t.Helper()
	pa, pb := Port{a, a.nextName()}, Port{b, b.nextName()}
	a.Do(func() {
		l.check(netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: pa.name},
			PeerName:      pb.name,
			PeerNamespace: netlink.NsFd(b.ns),
		}))
	})
	pa.up(addressA)
	pb.up(addressB)
	pa.waitCarrier()
	pb.waitCarrier()
	return pa, pb
}

// waitCarrier waits until the kernel's link watch has seen the other end: it
// may take a second, and drops what is sent before.
func (p Port) waitCarrier() {
	p.node.Do(func() {
		for range 500 {
			link, err := netlink.LinkByName(p.name)
			check(p.node.t, err)
			if link.Attrs().OperState == netlink.OperUp {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		p.node.t.Fatalf("%s of %s has no carrier after 5 s", p.name, p.node.Name)
	})
}

func (n *Node) nextName() (name string) {
	n.Do(func() {
		links, err := netlink.LinkList()
		check(n.t, err)
		count := 0
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "eth") {
				count++
			}
		}
		name = "eth" + strconv.Itoa(count)
	})
	return name
}

func (p Port) up(address string) {
	p.node.Do(func() {
		link, err := netlink.LinkByName(p.name)
		check(p.node.t, err)
		if address != "" {
			addr, err := netlink.ParseAddr(address)
			check(p.node.t, err)
			check(p.node.t, netlink.AddrAdd(link, addr))
		}
		check(p.node.t, netlink.LinkSetUp(link))
	})
}

// Switch is a network of any number of nodes.
type Switch struct {
	lab  *Lab
	node *Node // holds the bridge
}

const bridge = "br0"

// Switch makes an empty network.
func (l *Lab) Switch(name string) *Switch {
	l.t.Helper()
	n := l.Node(name)
	n.Do(func() {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
		l.check(netlink.LinkAdd(br))
		l.check(netlink.LinkSetUp(br))
	})
	return &Switch{lab: l, node: n}
}

// Plug joins n to the network by a cable, with an address and its mask.
func (s *Switch) Plug(n *Node, address string) Port {
	s.lab.t.Helper()
	port, end := s.lab.Cable(n, address, s.node, "")
	s.take(end)
	return port
}

// PlugLine is Plug by a line.
func (s *Switch) PlugLine(n *Node, address string, line Line) Port {
	s.lab.t.Helper()
	port, end := s.lab.Line(line, n, address, s.node, "")
	s.take(end)
	return port
}

// take makes a cable's end one of the bridge's.
func (s *Switch) take(end Port) {
	s.lab.t.Helper()
	s.node.Do(func() {
		link, err := netlink.LinkByName(end.name)
		s.lab.check(err)
		br, err := netlink.LinkByName(bridge)
		s.lab.check(err)
		s.lab.check(netlink.LinkSetMaster(link, br))
	})
}

func (l *Lab) check(err error) {
	l.t.Helper()
	check(l.t, err)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
