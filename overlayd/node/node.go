// Package node is one running overlayd: it owns the event loop and joins the
// packages below it.
//
//	floppy ──> identity ──> node certificate ──(renewal)──> status
//	                              │
//	 underlay ── receive ──> STUN answer, or drop and count      control socket
//	                                                                   │
//	   event loop: renewal, presence, watchdog ── publish ──> Status, Whois
//	                              │
//	tapipop ── frames ───> drop and count (nobody else exists yet)
//
// What this version carries is a grid's own master: a node whose key the
// descriptor's roster names appears on the virtual LAN with its fixed address
// and no peer. A worker or client proves who it is, answers STUN, and stays in
// the state joining with the reason; there is no ring, lease or session yet.
//
// Invariants: a node without a valid certificate ends; the device comes up
// only while no route of the underlay claims the pool; the status names an
// address only while the device carries it; nothing is logged per packet.
//
// Concurrency: Run's goroutine is the event loop and owns every field but the
// counters, the control server and the whois answer. Two readers, one for the
// underlay and one for the device, count and answer by themselves; they end
// before Run returns. The decisions (renewal, presence, answerSTUN) are pure
// and are handed the time.
package node

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v3"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/device"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/transport"
)

// maxSleep bounds how long the loop waits, so that a jump of the wall clock is
// noticed within a minute.
const maxSleep = time.Minute

// reasonNoPeers is why a node that needs an address lease has none.
const reasonNoPeers = "no overlay peers: this version carries only a grid's own masters, which have fixed addresses"

// Config is what a node is made of. All fields but Device, Notify and Watchdog
// are required.
type Config struct {
	Floppy   *floppy.Floppy // with which Check finds nothing wrong
	StateDir string         // made if need be
	Control  net.Listener   // of the control socket; Run closes it
	Listen   netip.AddrPort // underlay endpoint; see transport.Underlay
	Device   string         // "" is the floppy's
	Instance string         // of the machine; a node key from another is not used
	Version  string         // for the status
	Log      *slog.Logger
	Host     device.Host
	Underlay transport.Underlay

	Notify   func(state string) // told READY=1 and so on, as sd_notify(3)
	Watchdog time.Duration      // Notify is told WATCHDOG=1 twice in this time; 0: never
}

// Node is one node of the overlay.
type Node struct {
	cfg      Config
	log      *slog.Logger
	counters counters
	server   *control.Server
	whois    atomic.Pointer[control.Whois] // of the own address; nil before it is there

	identity *credential.Identity
	key      *ecdsa.PrivateKey
	session  *ecdh.PrivateKey // X25519; new in every process, as session keys must be
	cert     *credential.NodeCertificate
	renewal  renewal

	address netip.Prefix // fixed address with the pool's mask; zero: none
	lan     presence     // meaningful with an address
	since   time.Time    // when the device came up
	dev     device.Device
	pinged  time.Time // last WATCHDOG=1
	reason  string    // of the last status
	told    string    // summary of the last status

	readers sync.WaitGroup
	failed  chan error // what a reader ended with
}

// New returns a node that Run will start. It reads no file; the error says why
// the floppy makes no node: diag.ErrNothing for a standalone machine.
func New(cfg Config) (*Node, error) {
	f := cfg.Floppy.Config
	if f.Machine.Role == floppy.RoleStandalone {
		return nil, fmt.Errorf("start node: a standalone machine has no virtual network: %w", diag.ErrNothing)
	}
	if cfg.Device == "" {
		cfg.Device = f.Network.Device
	}
	if cfg.Notify == nil {
		cfg.Notify = func(string) {}
	}
	n := &Node{cfg: cfg, log: cfg.Log, counters: newCounters(), failed: make(chan error, 3)}
	n.server = control.NewServer(n, control.Status{
		State: control.StateStarting, Version: cfg.Version, Device: cfg.Device,
		Role: string(f.Machine.Role), Masters: []control.Master{},
	})
	return n, nil
}

// Run runs the node until ctx ends and then returns nil, or until something
// that a node cannot be without is lost. When it returns, the control socket
// and the underlay's endpoint are closed, the device is let go of (it stays
// with its address: see package device) and no goroutine is left. A Node runs
// once.
func (n *Node) Run(ctx context.Context) error {
	defer n.cfg.Control.Close()
	lock, err := lockState(n.cfg.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := n.prove(time.Now()); err != nil {
		return err
	}
	conn, err := n.cfg.Underlay.Listen(n.cfg.Listen)
	if err != nil {
		return fmt.Errorf("open underlay: %w", err)
	}

	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	n.readers.Go(func() { n.fail(n.server.Serve(serving, n.cfg.Control)) })
	n.readers.Go(func() { n.fail(n.receive(conn)) })
	defer func() {
		n.publish(control.StateStopping)
		n.cfg.Notify("STOPPING=1")
		if n.dev != nil {
			n.dev.Close()
		}
		conn.Close()
		stopServing()
		n.readers.Wait()
	}()
	n.publish(control.StateStarting)
	n.cfg.Notify("READY=1")
	n.log.Info("node started", "node", n.cert.Node.ID, "endpoint", conn.LocalAddr(), "namespace", n.cert.Node.Namespace)
	return n.loop(ctx)
}

// loop is the event loop.
func (n *Node) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-n.failed:
			return err
		case <-timer.C:
		}
		now := time.Now()
		if err := n.step(now); err != nil {
			return err
		}
		timer.Reset(n.nextWake(now).Sub(now))
	}
}

// step does everything that is due at now.
func (n *Node) step(now time.Time) error {
	if err := n.renew(now); err != nil {
		return err
	}
	if n.address.IsValid() && !now.Before(n.lan.NextDeadline()) {
		if err := n.appear(now); err != nil {
			return err
		}
	}
	if n.cfg.Watchdog > 0 && now.Sub(n.pinged) >= n.cfg.Watchdog/2 {
		n.cfg.Notify("WATCHDOG=1")
		n.pinged = now
	}
	state := control.StateJoining
	if n.dev != nil {
		state = control.StateRunning
	}
	n.publish(state)
	return nil
}

func (n *Node) nextWake(now time.Time) time.Time {
	wake := now.Add(maxSleep)
	deadlines := []time.Time{n.renewal.NextDeadline()}
	if n.address.IsValid() {
		deadlines = append(deadlines, n.lan.NextDeadline())
	}
	if n.cfg.Watchdog > 0 {
		deadlines = append(deadlines, n.pinged.Add(n.cfg.Watchdog/2))
	}
	for _, d := range deadlines {
		if d.Before(wake) && d.After(now) {
			wake = d
		}
	}
	return wake
}

// prove makes of the floppy who this node is: identity, key, first
// certificate, and the address if it is a master.
func (n *Node) prove(now time.Time) error {
	f := n.cfg.Floppy
	var err error
	if n.identity, err = n.identify(now); err != nil {
		return fmt.Errorf("verify floppy: %w", err)
	}
	if f.NodeKey != nil {
		n.key, err = credential.ParseKey(f.NodeKey)
	} else {
		n.key, err = loadKey(n.cfg.StateDir, n.cfg.Instance, n.log)
	}
	if err != nil {
		return err
	}
	if n.session, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		return err
	}
	if err := n.renew(now); err != nil {
		return err
	}
	return n.takeFixedAddress()
}

// takeFixedAddress looks this node's key up in the roster.
func (n *Node) takeFixedAddress() error {
	node := n.cert.Node
	for _, m := range n.identity.Descriptor.Masters {
		if m.ID != node.ID || m.Namespace != node.Namespace {
			continue
		}
		space, ok := n.identity.Descriptor.Namespace(m.Namespace)
		if !ok {
			return fmt.Errorf("take address %s: the descriptor has no namespace %q", m.Address, m.Namespace)
		}
		n.address = netip.PrefixFrom(m.Address, space.Pool.Bits())
		n.lan.pool = space.Pool
		return nil
	}
	if node.Role == credential.RoleMaster {
		return fmt.Errorf("take address: the grid's roster has no master with node ID %s in namespace %s (use the newest floppy of this master)", node.ID, node.Namespace)
	}
	return nil
}

// renew makes a certificate when one is due. It returns an error only when
// none is left that is valid.
func (n *Node) renew(now time.Time) error {
	wall := now.Round(0) // certificates know wall clocks only
	if n.renewal.Handle(wall, tick{}) != makeCertificate {
		return nil
	}
	f := n.cfg.Floppy.Config
	cert, err := n.identity.MakeNode(credential.NodeRequest{
		Key:       &n.key.PublicKey,
		X25519:    [32]byte(n.session.PublicKey().Bytes()),
		Instance:  n.cfg.Instance,
		Role:      credential.Role(f.Machine.Role),
		Namespace: f.Network.Namespace,
		Router:    f.Network.Mode == "router",
	}, wall)
	if err != nil {
		if n.renewal.Handle(wall, notMade{}) == end {
			return fmt.Errorf("renew certificate: %w", err)
		}
		n.log.Warn("certificate not renewed", "err", err, "after", retryDelay)
		return nil
	}
	n.cert = cert
	n.renewal.Handle(wall, made{begin: cert.Node.NotBefore, renew: cert.Renew, end: cert.Node.NotAfter})
	return nil
}

// appear looks at the underlay's routes and brings the device up when they
// leave the pool alone.
func (n *Node) appear(now time.Time) error {
	routes, err := n.cfg.Host.Routes(n.cfg.Device)
	if err != nil {
		return err
	}
	if !n.lan.Handle(now, routes) {
		return nil
	}
	for _, r := range n.lan.solved {
		n.log.Warn("the underlay has a wider route: addresses of the pool are reached by the virtual network alone", "addr", n.lan.pool, "reason", r)
	}
	mtu := n.cfg.Floppy.Config.Network.MTU
	if mtu == 0 {
		mtu = device.DefaultMTU
	}
	dev, err := n.cfg.Host.Open(device.Config{
		Name:         n.cfg.Device,
		HardwareAddr: device.HardwareAddr(nodeid.ID(n.cert.Node.ID)),
		MTU:          mtu,
		Address:      n.address,
	})
	if err != nil {
		return err
	}
	n.dev, n.since = dev, now.Round(0)
	n.readers.Go(func() { n.fail(n.readFrames(dev)) })
	n.log.Info("address taken", "addr", n.address, "node", n.cert.Node.ID)
	return nil
}

// publish makes the status of the moment the one to be read.
func (n *Node) publish(state control.State) {
	d, node := n.identity.Descriptor, n.cert.Node
	s := control.Status{
		State: state, Version: n.cfg.Version, Grid: node.Grid, Namespace: node.Namespace,
		NodeID: node.ID.String(), Role: string(node.Role), User: node.User, Group: node.Group,
		Device: n.cfg.Device, Masters: []control.Master{}, Descr: d.Version,
		Cert: control.Certificate{Serial: node.Serial, NotBefore: node.NotBefore, NotAfter: node.NotAfter},
	}
	for _, m := range d.Masters {
		if m.Namespace == node.Namespace {
			s.Masters = append(s.Masters, control.Master{Name: control.HostName(m.Address), Address: m.Address})
		}
	}
	switch {
	case n.lan.conflict != nil:
		s.Reason = n.lan.conflict.Error()
	case state == control.StateJoining && !n.address.IsValid():
		s.Reason = reasonNoPeers
	}
	if n.dev != nil && state == control.StateRunning {
		s.Address, s.Name, s.Since = n.address, control.HostName(n.address.Addr()), n.since
		n.whois.Store(&control.Whois{
			Address: n.address.Addr(), Name: s.Name, NodeID: s.NodeID,
			User: node.User, Group: node.Group, Role: string(node.Role),
		})
	} else {
		n.whois.Store(nil)
	}
	n.server.Publish(s)
	if s.Reason != n.reason && s.Reason != "" {
		n.log.Warn("not running as it should", "reason", s.Reason)
	}
	n.reason = s.Reason
	if line := summary(s); line != n.told {
		n.cfg.Notify("STATUS=" + line)
		n.told = line
	}
}

// summary is the status in a line, for systemctl status.
func summary(s control.Status) string {
	line := string(s.State)
	if s.Address.IsValid() {
		line += " as " + s.Name + " " + s.Address.String()
	}
	if s.Reason != "" {
		line += ": " + s.Reason
	}
	return line
}

// Status returns what the control socket shows.
func (n *Node) Status() control.Status {
	s, _ := n.server.Status()
	return s
}

// Counters implements control.Backend.
func (n *Node) Counters() map[string]uint64 { return n.counters.snapshot() }

// Whois implements control.Backend: it knows this node's own address.
func (n *Node) Whois(_ context.Context, addr netip.Addr) (control.Whois, error) {
	if own := n.whois.Load(); own != nil && own.Address == addr.Unmap() {
		return *own, nil
	}
	return control.Whois{}, control.ErrUnknown
}

// receive reads the underlay until conn is closed.
func (n *Node) receive(conn transport.Conn) error {
	b := make([]byte, transport.MaxDatagram)
	for {
		k, from, err := conn.ReadFrom(b)
		if errors.Is(err, transport.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read underlay: %w", err)
		}
		n.counters.count(countDatagrams)
		if !stun.IsMessage(b[:k]) {
			n.counters.drop(dropNoSession)
			continue
		}
		answer, reason := answerSTUN(b[:k], from)
		switch {
		case reason != "":
			n.counters.drop(reason)
		case conn.WriteTo(answer, from) != nil:
			n.counters.drop(dropUnsent)
		default:
			n.counters.count(countSTUN)
		}
	}
}

// readFrames reads the device until it is closed. With no other node on the
// virtual LAN there is nobody to carry a frame to, or to answer ARP for.
func (n *Node) readFrames(dev device.Device) error {
	b := make([]byte, device.MaxRead)
	for {
		k, err := dev.Read(b)
		if errors.Is(err, device.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("device lost: %w", err)
		}
		n.counters.count(countFrames)
		if _, _, err := device.ParseHeader(b[:k]); err != nil {
			n.counters.drop(dropFrameShort)
			continue
		}
		n.counters.drop(dropNoPeer)
	}
}

// fail tells the loop that something ended with err; nil is no news.
func (n *Node) fail(err error) {
	if err != nil {
		n.failed <- err
	}
}
