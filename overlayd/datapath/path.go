package datapath

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gridappliance/overlayd/device"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/packet"
	"gridappliance/overlayd/transport"
	"gridappliance/overlayd/vnet"
)

// Implementation: tunable at will.
const (
	datagramQueue = 1024 // for the loop, from the underlay
	packetQueue   = 512  // for the loop, from the device or opened
)

// Config is what a Path is made of. All fields are required.
type Config struct {
	Underlay transport.Underlay
	Listen   netip.AddrPort       // of socket 0
	Clock    func() time.Duration // counts while the machine sleeps: CLOCK_BOOTTIME
	Count    func(Counter, int)   // safe for concurrent use
}

// Counter is what is counted, under its name in the status.
type Counter string

// The counters of this package.
const (
	RxDatagrams Counter = "rx/datagrams" // from the underlay
	TxDatagrams Counter = "tx/datagrams" // to the underlay
	RxFrames    Counter = "rx/frames"    // from the device
	TxFrames    Counter = "tx/frames"    // to the device
	Relayed     Counter = "tx/relayed"   // of tx/datagrams: for two others, of the own namespace

	DropDatagramQueue Counter = "drop/datagram-queue" // the loop had too many
	DropPacketQueue   Counter = "drop/packet-queue"   // the loop had too many
	DropUnsent        Counter = "drop/unsent"         // the kernel refused it
	DropFrameShort    Counter = "drop/frame-short"    // no whole Ethernet header
	DropFrameType     Counter = "drop/frame-type"     // neither IP nor what vnet answers
	DropSource        Counter = "drop/source"         // from an address that is not the sender's
	DropLease         Counter = "drop/lease"          // the right to the address has ended
	DropRecord        Counter = "drop/record"         // forged, replayed or under dead keys
	DropNoDevice      Counter = "drop/no-device"      // for a device that is not up
	DropDestination   Counter = "drop/destination"    // to an address that is not this node's
	DropSuperpacket   Counter = "drop/superpacket"    // the kernel's, of a kind that cannot be cut
	DropTooBig        Counter = "drop/too-big"        // longer than the path carries; its sender was told
	DropKeys          Counter = "drop/keys"           // the keys died meanwhile
	DropUnwritten     Counter = "drop/unwritten"      // the kernel refused what was to go to the device
)

// Counters are all counters of this package.
func Counters() []Counter {
	return []Counter{RxDatagrams, TxDatagrams, RxFrames, TxFrames, Relayed, DropDatagramQueue, DropPacketQueue, DropUnsent,
		DropFrameShort, DropFrameType, DropSource, DropLease, DropRecord, DropNoDevice, DropDestination, DropSuperpacket,
		DropTooBig, DropKeys, DropUnwritten}
}

// Datagram is one of the underlay that the loop is to handle. The loop owns
// Data.
type Datagram struct {
	From   netip.AddrPort
	Socket uint16
	Data   []byte
}

// Packet is one IP packet that the loop is to handle. From is zero for one
// from the device, whose destination is in no Table; else it is the peer that
// sent it, whose source is not known yet. The loop owns Data.
type Packet struct {
	From nodeid.ID
	Data []byte
}

// Path is the data path. See the package comment for who may call what.
type Path struct {
	cfg       Config
	table     atomic.Pointer[Table]
	datagrams chan Datagram
	packets   chan Packet
	failed    chan error
	running   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	sockets map[uint16]transport.Batch
	closed  bool

	dev atomic.Pointer[attached]
}

type attached struct {
	device.Device
	hardware [6]byte
}

// Open opens socket 0 and receives from it. The error is the Underlay's.
func Open(cfg Config) (*Path, error) {
	p := &Path{cfg: cfg, datagrams: make(chan Datagram, datagramQueue), packets: make(chan Packet, packetQueue),
		failed: make(chan error, 1), sockets: map[uint16]transport.Batch{}}
	p.table.Store(&Table{})
	conn, err := cfg.Underlay.Listen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	p.add(0, transport.Batched(conn))
	return p, nil
}

// Datagrams are for the loop.
func (p *Path) Datagrams() <-chan Datagram { return p.datagrams }

// Packets are for the loop.
func (p *Path) Packets() <-chan Packet { return p.packets }

// Failed delivers at most one error: a socket or the device is lost.
func (p *Path) Failed() <-chan error { return p.failed }

// Local is the endpoint of socket 0.
func (p *Path) Local() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sockets[0].LocalAddr()
}

// Publish makes a Table the one that counts.
func (p *Path) Publish(t *Table) { p.table.Store(t) }

// Attach begins to carry the device's packets; Detach ends it and closes the
// device. hardware is the device's address.
func (p *Path) Attach(dev device.Device, hardware [6]byte) {
	a := &attached{Device: dev, hardware: hardware}
	p.dev.Store(a)
	p.running.Go(func() { p.fail(p.transmit(a)) })
}

// Detach closes the device, if there is one.
func (p *Path) Detach() {
	if a := p.dev.Swap(nil); a != nil {
		a.Close()
	}
}

// Close closes everything and returns when no goroutine is left.
func (p *Path) Close() {
	p.mu.Lock()
	p.closed = true
	for _, c := range p.sockets {
		c.Close()
	}
	p.mu.Unlock()
	p.Detach()
	p.running.Wait()
}

// Send sends a datagram that the loop made. Sockets but 0 are opened by their
// first use, on any port.
func (p *Path) Send(to netip.AddrPort, socket uint16, data []byte) {
	conn := p.socket(socket)
	if conn == nil || conn.WriteTo(data, to) != nil {
		p.cfg.Count(DropUnsent, 1)
		return
	}
	p.cfg.Count(TxDatagrams, 1)
}

// CloseSockets closes all sockets but 0 and those in keep.
func (p *Path) CloseSockets(keep []uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, c := range p.sockets {
		if n != 0 && !slices.Contains(keep, n) {
			c.Close()
			delete(p.sockets, n)
		}
	}
}

// Deliver hands the device a packet that came by the loop, whose source the
// loop has checked. A segment of a superpacket, whose checksum is 0 then, gets
// a right one; the memory is Deliver's for so long.
func (p *Path) Deliver(b []byte) {
	if t := p.table.Load(); p.cfg.Clock() >= t.Until {
		p.cfg.Count(DropLease, 1)
		return
	}
	a := p.dev.Load()
	if a == nil {
		p.cfg.Count(DropNoDevice, 1)
		return
	}
	ip, err := packet.Parse(b)
	if err != nil {
		p.cfg.Count(DropFrameType, 1)
		return
	}
	if ip.Plain && ip.Unsummed(b) {
		ip.Checksum(b)
	}
	frame := make([]byte, device.HeaderSize, device.HeaderSize+device.EthernetSize)
	if _, err := a.Write(vnet.AppendEthernet(frame, a.hardware, b), b); err != nil {
		p.cfg.Count(DropUnwritten, 1)
		return
	}
	p.cfg.Count(TxFrames, 1)
}

// sending returns a socket that is open, or nil.
func (p *Path) sending(n uint16) transport.Batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sockets[n]
}

func (p *Path) socket(n uint16) transport.Batch {
	p.mu.Lock()
	conn, closed := p.sockets[n], p.closed
	p.mu.Unlock()
	if conn != nil || closed {
		return conn
	}
	local := netip.AddrPortFrom(p.cfg.Listen.Addr(), 0)
	opened, err := p.cfg.Underlay.Listen(local)
	if err != nil {
		return nil
	}
	return p.add(n, transport.Batched(opened))
}

func (p *Path) add(n uint16, conn transport.Batch) transport.Batch {
	p.mu.Lock()
	p.sockets[n] = conn
	p.mu.Unlock()
	p.running.Go(func() { p.fail(p.receive(n, conn)) })
	return conn
}

func (p *Path) fail(err error) {
	if err != nil {
		select {
		case p.failed <- err:
		default: // one is enough
		}
	}
}

// forLoop gives the loop a copy of a datagram, if it has room: a flood costs no
// memory.
func (p *Path) forLoop(d Datagram) {
	if len(p.datagrams) < cap(p.datagrams) {
		d.Data = slices.Clone(d.Data)
		select {
		case p.datagrams <- d:
			return
		default:
		}
	}
	p.cfg.Count(DropDatagramQueue, 1)
}

// packetForLoop does the same with a packet.
func (p *Path) packetForLoop(k Packet) {
	if len(p.packets) < cap(p.packets) {
		k.Data = slices.Clone(k.Data)
		select {
		case p.packets <- k:
			return
		default:
		}
	}
	p.cfg.Count(DropPacketQueue, 1)
}
