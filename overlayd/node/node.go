// Package node is one running overlayd: it owns the event loop and joins the
// packages below it.
//
//	floppy ──> identity ──> node certificate ──(renewal)──> core, status
//
//	underlay ─> datapath ── what is no record of a known key ─> ┌────────────┐ <─ control socket
//	tapipop  ─>          ── what has no known destination ────> │ event loop │ <─ files written
//	                     <── Table, Send, Deliver ───────────── └────────────┘ <─ underlay's addresses
//	                                                     core, link, vnet.LAN
//
// The loop drives package core (ring, store, gossip, leases) and package
// vnet's LAN (who has which address, packets that wait); one link.Machine has
// the sessions of both. After each event it makes what has changed known: a
// Table to the data path, a Status to the control socket.
//
// A master appears on the virtual LAN with its fixed address; any other node
// with the address that the witnesses lease it.
//
// Invariants: a node without a valid certificate ends; the device comes up
// only while no route of the underlay claims the pool; the status names an
// address only while the device carries it; nothing is sent or delivered after
// the lease's end; what a witness has promised is on disk before its vote
// leaves; nothing is logged per packet.
//
// Concurrency: Run's goroutine is the event loop and owns every field but the
// counters and the control server. The data path's goroutines, one that writes
// files, those that find first contacts, the control server's and the DNS
// server's end before Run returns.
package node

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/datapath"
	"gridappliance/overlayd/device"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/discover"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/relay"
	"gridappliance/overlayd/state"
	"gridappliance/overlayd/transport"
	"gridappliance/overlayd/underlay"
	"gridappliance/overlayd/vnet"
)

// maxSleep bounds how long the loop waits, so that a jump of the wall clock is
// noticed within a minute.
const maxSleep = time.Minute

// publishPause is how long the status may lag behind while much happens.
const publishPause = 50 * time.Millisecond

// farewell is how long a node that is one of the grid no more tells others of
// the descriptor or list that says so. It carries no packets meanwhile.
const farewell = 10 * time.Second

// burst is how many events of one kind the loop takes before it looks at the
// others and makes a new Table. Implementation.
const burst = 64

// leaveMargin is for what core does at the end of its LeaveTime.
const leaveMargin = 50 * time.Millisecond

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

	// Look returns how this machine is connected, but for the interface named
	// except; Watch calls changed when that may have changed, until ctx ends
	// (nil: it is looked at now and then). They are package underlay's.
	Look  func(except string) (underlay.State, error)
	Watch func(ctx context.Context, changed func()) (wait func(), err error)

	// First contact: see package discover.
	Resolver  discover.Resolver // nil: the system's
	LAN       bool              // peers are looked for on the LAN
	TCP       bool              // TCP is tried where UDP is silent
	ListenTCP netip.AddrPort    // zero: nothing listens on TCP
	MapPort   bool              // the router is asked for a port

	// Clock counts while the machine sleeps: CLOCK_BOOTTIME.
	Clock func() time.Duration
	// Generation calls changed whenever this machine has become a copy or was
	// put back to an earlier moment, until ctx ends; nil: nobody can tell.
	Generation func(ctx context.Context, changed func()) error

	// Names says whether the node answers DNS at its virtual address.
	Names bool

	Notify   func(state string) // told READY=1 and so on, as sd_notify(3)
	Watchdog time.Duration      // Notify is told WATCHDOG=1 twice in this time; 0: never
}

// Node is one node of the overlay.
type Node struct {
	cfg      Config
	log      *slog.Logger
	counters counters
	server   *control.Server
	requests chan func(now time.Time) // of other goroutines
	ended    chan struct{}            // closed when the loop has ended

	identity *credential.Identity
	trust    *credential.Trust
	key      *ecdsa.PrivateKey
	session  *ecdh.PrivateKey // X25519; new in every process, as session keys must be
	cert     *credential.NodeCertificate
	renewal  renewal

	core       *core.Node
	links      *links
	roots      func() [][32]byte // key IDs of the newest descriptor's roots
	lan        *vnet.LAN
	path       *datapath.Path
	files      *state.Writer
	persisted  chan uint64
	todo       []core.Event // while handling
	handling   bool
	later      []vnet.Event
	token      uint64
	answers    map[uint64]func(core.Action)
	publishing func(core.Published)
	storing    map[dht.Name][]func(copies int)
	pings      map[uint64]pinging
	tracks     map[trackKey]*tracked
	reportAt   time.Time
	stale      bool // the Table is
	carried    map[relay.Pair]*carriedOn
	// relayChanges is what Relaying().Changes() was when the Table was made.
	relayChanges uint64
	clocks       clocks

	member     bool
	reflexive  link.Reflexive
	alarms     []string
	refused    error     // why this node is one of the grid no more
	endAt      time.Time // when it ends because of that
	held       []string  // names
	leaseState lease.State
	outside    outside
	domain     domainState

	id          nodeid.ID
	namespace   string
	pool        netip.Prefix
	mtu         int
	address     netip.Prefix // with the pool's mask; zero: none
	fixed       bool         // by the roster
	presence    presence     // meaningful with an address
	deviceUp    bool
	since       time.Time // when the device came up
	unpublished bool      // something has happened since publishedAt
	publishedAt time.Time
	pinged      time.Time // last WATCHDOG=1
	reason      string    // of the last status
	told        string    // summary of the last status

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
	n := &Node{cfg: cfg, log: cfg.Log, counters: newCounters(), failed: make(chan error, 3),
		requests: make(chan func(time.Time)), ended: make(chan struct{}), persisted: make(chan uint64),
		answers: map[uint64]func(core.Action){}, tracks: map[trackKey]*tracked{}, storing: map[dht.Name][]func(int){}, pings: map[uint64]pinging{},
		mtu: device.DefaultMTU, stale: true}
	if f.Network.MTU != 0 {
		n.mtu = f.Network.MTU
	}
	n.domain = newDomain(n)
	n.server = control.NewServer(n, control.Status{
		State: control.StateStarting, Version: cfg.Version, Device: cfg.Device,
		Role: string(f.Machine.Role), Masters: []control.Master{},
	})
	return n, nil
}

// Run runs the node until ctx ends and then returns nil, or until something
// that a node cannot be without is lost. When it returns, the control socket
// and the underlay's endpoint are closed, the device is let go of (it stays
// with its address: see package device), what was to be written is written and
// no goroutine is left. A Node runs once.
func (n *Node) Run(ctx context.Context) error {
	defer n.cfg.Control.Close()
	lock, err := state.Lock(n.cfg.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := n.prove(time.Now()); err != nil {
		return err
	}
	n.path, err = datapath.Open(datapath.Config{Underlay: n.cfg.Underlay, Listen: n.cfg.Listen, Clock: n.cfg.Clock,
		Count: func(c datapath.Counter, k int) { n.counters.add(string(c), k) }})
	if err != nil {
		return fmt.Errorf("open underlay: %w", err)
	}

	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.files = state.NewWriter(n.cfg.StateDir, n.log, func(k uint64) {
		select {
		case n.persisted <- k:
		case <-running.Done():
		}
	})
	n.readers.Go(func() { n.fail(n.server.Serve(running, n.cfg.Control)) })
	n.readers.Go(func() { n.files.Run(running) })
	if n.cfg.Generation != nil {
		n.readers.Go(func() { n.watchGeneration(running) })
	}
	if n.cfg.Names {
		n.readers.Go(func() { n.serveNames(running) })
	}
	defer func() {
		n.publish(control.StateStopping)
		n.cfg.Notify("STOPPING=1")
		n.path.Close()
		stop()
		n.readers.Wait()
	}()
	if err := n.openOutside(running); err != nil {
		return err
	}
	n.publish(control.StateStarting)
	n.cfg.Notify("READY=1")
	n.log.Info("node started", "node", n.cert.Node.ID, "endpoint", n.path.Local(), "namespace", n.namespace)
	return n.loop(ctx, running)
}

// loop is the event loop.
func (n *Node) loop(ctx, running context.Context) error {
	defer close(n.ended)
	if err := n.openDevice(); err != nil {
		return err
	}
	n.begin(time.Now(), running)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			n.leave()
			return nil
		case err := <-n.failed:
			return err
		case err := <-n.path.Failed():
			return err
		case d := <-n.path.Datagrams():
			several(n, n.path.Datagrams(), d, n.datagram)
		case p := <-n.path.Packets():
			several(n, n.path.Packets(), p, n.packet)
		case f := <-n.requests:
			f(time.Now())
		case k := <-n.persisted:
			n.handle(time.Now(), core.Persisted{N: k})
		case <-timer.C:
		}
		now := time.Now()
		if err := n.step(now, running); err != nil {
			return err
		}
		timer.Reset(n.nextWake(now).Sub(now))
	}
}

// begin starts the protocol.
func (n *Node) begin(now time.Time, running context.Context) {
	n.lanEvent(now, vnet.Fixed{Holders: fixedHolders(n.identity.Descriptor, n.namespace)})
	n.lanEvent(now, vnet.Own{Addresses: n.own()})
	n.lookAtUnderlay(now)
	if !n.fixed {
		saved, err := state.Read(n.cfg.StateDir, state.LeaseFile(claimAddress))
		if err != nil {
			n.log.Warn("the lease of before is not read", "err", err)
		}
		n.handle(now, core.Acquire{Claim: claimAddress, Namespace: n.namespace, Saved: saved})
	}
	if name := n.cfg.Floppy.Config.Network.Hostname; name != "" {
		saved, err := state.Read(n.cfg.StateDir, state.LeaseFile(claimName))
		if err != nil {
			n.log.Warn("the lease of before is not read", "err", err)
		}
		n.handle(now, core.Acquire{Claim: claimName, Namespace: n.namespace, Name: name, Saved: saved})
	}
}

// leave says goodbye: what is stored for others goes to them.
func (n *Node) leave() {
	if n.core.Connections() == 0 {
		return
	}
	n.handle(time.Now(), core.Leave{})
	over := time.NewTimer(core.LeaveTime + leaveMargin)
	defer over.Stop()
	for {
		select {
		case <-over.C:
			return
		case <-time.After(max(0, time.Until(n.core.NextDeadline()))):
			n.handle(time.Now(), core.Tick{})
		case d := <-n.path.Datagrams(): // what they answer
			several(n, n.path.Datagrams(), d, n.datagram)
		}
	}
}

// several takes one of a queue and those behind it.
func several[T any](n *Node, queue <-chan T, first T, take func(now time.Time, v T)) {
	now := time.Now()
	take(now, first)
	for range burst - 1 {
		n.drain(now)
		select {
		case v := <-queue:
			take(now, v)
		default:
			return
		}
	}
	n.drain(now)
}

// packet takes one that the data path does not know what to do with.
func (n *Node) packet(now time.Time, p datapath.Packet) {
	if p.From == (nodeid.ID{}) {
		n.lanEvent(now, vnet.Out{Packet: p.Data})
	} else {
		n.lanEvent(now, vnet.In{From: p.From, Packet: p.Data})
	}
}

// drain gives the virtual LAN what waits for it.
func (n *Node) drain(now time.Time) {
	for len(n.later) > 0 {
		e := n.later[0]
		n.later = n.later[1:]
		n.lanEvent(now, e)
	}
	n.later = nil
}

// step does everything that is due at now.
func (n *Node) step(now time.Time, running context.Context) error {
	if n.clocks.jumped(now, n.cfg.Clock()) {
		n.resumed(now, "it was away, or its clock was set")
	}
	if n.refused != nil && !now.Before(n.endAt) {
		return n.refused
	}
	if err := n.renew(now); err != nil {
		return err
	}
	if !now.Before(n.outside.look) {
		n.lookAtUnderlay(now)
	}
	if d := n.core.NextDeadline(); !d.IsZero() && !d.After(now) {
		n.handle(now, core.Tick{})
	}
	if d := n.lan.NextDeadline(); !d.IsZero() && !d.After(now) {
		n.lanEvent(now, vnet.Tick{})
	}
	n.report(now)
	n.drain(now)
	if n.address.IsValid() && !now.Before(n.presence.NextDeadline()) {
		if err := n.appear(now); err != nil {
			return err
		}
	}
	if n.cfg.Names {
		n.followNames()
	}
	if n.stale || n.links.moved || n.relayChanges != n.core.Relaying().Changes() {
		n.stale, n.links.moved = false, false
		n.path.Publish(n.table())
	}
	if n.cfg.Watchdog > 0 && now.Sub(n.pinged) >= n.cfg.Watchdog/2 {
		n.cfg.Notify("WATCHDOG=1")
		n.pinged = now
	}
	if n.unpublished && now.Sub(n.publishedAt) >= publishPause {
		n.publishState(now)
	}
	return nil
}

// urgent has the status published at the end of this step: others act on it.
func (n *Node) urgent() { n.unpublished, n.publishedAt = true, time.Time{} }

// publishState publishes what is the case at now.
func (n *Node) publishState(now time.Time) {
	n.unpublished, n.publishedAt = false, now
	state := control.StateJoining
	if n.deviceUp {
		state = control.StateRunning
	}
	n.publish(state)
}

// resumed begins sessions and leases anew: no key may be used on two machines,
// or twice on one.
func (n *Node) resumed(now time.Time, why string) {
	n.log.Warn("this machine begins sessions and leases anew", "reason", why)
	n.handle(now, core.Resumed{})
	n.outside.finder.Tell(discover.Resumed{})
}

// watchGeneration follows the machine's generation until ctx ends.
func (n *Node) watchGeneration(ctx context.Context) {
	err := n.cfg.Generation(ctx, func() {
		n.inLoop(ctx, func(now time.Time) { n.resumed(now, "it is a copy, or was put back to an earlier moment") })
	})
	if err != nil {
		n.log.Warn("copies of this virtual machine are noticed by their clocks alone", "err", err)
	}
}

func (n *Node) nextWake(now time.Time) time.Time {
	wake := now.Add(maxSleep)
	sooner := func(d time.Time) {
		if !d.IsZero() && d.Before(wake) {
			wake = d
		}
	}
	sooner(n.core.NextDeadline())
	sooner(n.lan.NextDeadline())
	sooner(n.outside.look)
	if d := n.renewal.NextDeadline(); d.After(now) { // else it has been tried, and is tried again at the next look
		sooner(d)
	}
	if n.address.IsValid() {
		sooner(n.presence.NextDeadline())
	}
	if n.cfg.Watchdog > 0 {
		sooner(n.pinged.Add(n.cfg.Watchdog / 2))
	}
	if len(n.tracks) > 0 {
		sooner(n.reportAt)
	}
	sooner(n.endAt)
	if n.unpublished {
		sooner(n.publishedAt.Add(publishPause))
	}
	if wake.Before(now) {
		return now
	}
	return wake
}

// prove makes of the floppy who this node is: identity, key, first
// certificate, the address if it is a master, and the protocol's machines.
func (n *Node) prove(now time.Time) error {
	f := n.cfg.Floppy
	var err error
	if n.identity, err = n.identify(now); err != nil {
		return fmt.Errorf("verify floppy: %w", err)
	}
	if f.NodeKey != nil {
		n.key, err = credential.ParseKey(f.NodeKey)
	} else {
		n.key, err = state.LoadKey(n.cfg.StateDir, n.cfg.Instance, n.log)
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
	n.id, n.namespace = nodeid.ID(n.cert.Node.ID), n.cert.Node.Namespace
	if err := n.takeFixedAddress(); err != nil {
		return err
	}
	n.lan = vnet.NewLAN(n.namespace, n.pool, n.id)
	return n.newEngine(now)
}

// takeFixedAddress looks this node's key up in the roster.
func (n *Node) takeFixedAddress() error {
	node := n.cert.Node
	space, ok := n.identity.Descriptor.Namespace(node.Namespace)
	if !ok {
		return fmt.Errorf("take address: the descriptor has no namespace %q", node.Namespace)
	}
	n.pool, n.presence.pool = space.Pool, space.Pool
	if n.fixed {
		n.address, n.fixed = netip.Prefix{}, false
	}
	for _, m := range n.identity.Descriptor.Masters {
		if m.ID == node.ID && m.Namespace == node.Namespace {
			n.address, n.fixed = netip.PrefixFrom(m.Address, space.Pool.Bits()), true
			return nil
		}
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
	n.cert, n.unpublished = cert, true
	n.renewal.Handle(wall, made{begin: cert.Node.NotBefore, renew: cert.Renew, end: cert.Node.NotAfter})
	if n.core != nil {
		n.handle(now, core.Identity{Chain: cert.Chain})
		n.stale = true // the end of the right to send
	}
	return nil
}

// fail tells the loop that something ended with err; nil is no news.
func (n *Node) fail(err error) {
	if err != nil {
		n.failed <- err
	}
}
