// Package transport is the seam between overlayd and the underlay: datagrams
// to and from endpoints, over UDP or over a twin in memory.
//
//	node --- Conn.ReadFrom / Conn.WriteTo --- endpoint <-> endpoint
//	     --- Batch.Receive / Batch.Transmit    many datagrams a call
//
// A Message is a run of datagrams for one endpoint, all of one length but the
// last, which Linux takes and gives in one piece: UDP_SEGMENT and UDP_GRO
// (udp(7)), several of them by sendmmsg(2) and recvmmsg(2). Where a network
// device or the kernel refuses segmentation (EIO, EINVAL), the same run goes
// out datagram by datagram from then on.
//
//	Data  ┌─────────┬─────────┬─────────┬────┐
//	      │ Segment │ Segment │ Segment │    │
//	      └─────────┴─────────┴─────────┴────┘
//
// IPv4 endpoints are always plain netip addresses, never IPv4-mapped IPv6, so
// that an endpoint has one form. A UDP socket asks for buffers of 8 MiB: with
// the kernel's 208 KiB, which three such runs fill, nebula loses half of its
// speed to retransmissions. The package knows no protocol and keeps no global
// state. Limit on purpose: answers leave from the address the kernel's route
// chooses.
package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// MaxDatagram is the longest datagram there is, in bytes (RFC 768: the
// length field, less UDP's and IPv4's headers).
const MaxDatagram = 65507

// ErrClosed is returned, wrapped, by a Conn after Close.
var ErrClosed = net.ErrClosed

// Conn is one open endpoint. Its methods are safe for concurrent use.
type Conn interface {
	// ReadFrom waits for a datagram, puts it into b and returns where it came
	// from. What does not fit b is cut off. After Close, or when Close is
	// called meanwhile, it returns ErrClosed; any other error is final too.
	ReadFrom(b []byte) (n int, from netip.AddrPort, err error)

	// WriteTo sends b, which it does not keep. That it returns nil says
	// nothing about delivery.
	WriteTo(b []byte, to netip.AddrPort) error

	// LocalAddr is the endpoint; its address is unspecified when it is open on
	// every address.
	LocalAddr() netip.AddrPort

	// Close ends ReadFrom. Closing twice is no error.
	Close() error
}

// Message is a run of datagrams to or from one endpoint.
type Message struct {
	Data    []byte         // datagrams of Segment bytes, the last may be shorter
	Segment int            // 0, or at least len(Data): Data is one datagram
	Peer    netip.AddrPort // who sent them, or is to get them
}

// Next cuts the first datagram off rest, which is a message's Data at first.
func (m *Message) Next(rest []byte) (datagram, after []byte) {
	if m.Segment <= 0 || m.Segment >= len(rest) {
		return rest, nil
	}
	return rest[:m.Segment], rest[m.Segment:]
}

// MaxSegments is how many datagrams a message to be transmitted may have: what
// every Linux with UDP_SEGMENT takes.
const MaxSegments = 64

// Batch is a Conn that carries many datagrams a call. From its first Receive
// on, nobody may call ReadFrom.
type Batch interface {
	Conn

	// Receive waits until something has come and returns how many messages,
	// in ms from the first. Their Data is in the memory that Data had, up to its
	// capacity: MaxDatagram bytes lose nothing. One goroutine may call it. After
	// Close it returns ErrClosed; any other error is final too.
	Receive(ms []Message) (n int, err error)

	// Transmit sends messages and returns how many datagrams the kernel has
	// refused. Its error is ErrClosed. It keeps nothing.
	Transmit(ms []Message) (refused int, err error)
}

// Batched returns c itself if it is a Batch, and one around it if it is not.
func Batched(c Conn) Batch {
	if b, ok := c.(Batch); ok {
		return b
	}
	return oneByOne{c}
}

// oneByOne is a Batch for a Conn that carries a datagram a call.
type oneByOne struct{ Conn }

func (c oneByOne) Receive(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	room := ms[0].Data[:cap(ms[0].Data)]
	n, from, err := c.ReadFrom(room)
	if err != nil {
		return 0, err
	}
	ms[0] = Message{Data: room[:n], Peer: from}
	return 1, nil
}

func (c oneByOne) Transmit(ms []Message) (refused int, err error) {
	for i := range ms {
		m := &ms[i]
		for d, rest := m.Next(m.Data); ; d, rest = m.Next(rest) {
			if err := c.WriteTo(d, m.Peer); errors.Is(err, ErrClosed) {
				return refused, err
			} else if err != nil {
				refused++
			}
			if rest == nil {
				break
			}
		}
	}
	return refused, nil
}

// Underlay opens endpoints.
type Underlay interface {
	// Listen opens local. An invalid or unspecified address means every
	// address, of IPv6 and IPv4; port 0 means any.
	Listen(local netip.AddrPort) (Conn, error)
}

// UDP is the Underlay that is the internet.
type UDP struct{}

var _ Underlay = UDP{}

// Listen implements Underlay.
func (UDP) Listen(local netip.AddrPort) (Conn, error) {
	addr := &net.UDPAddr{Port: int(local.Port())}
	if local.Addr().IsValid() && !local.Addr().IsUnspecified() {
		addr = net.UDPAddrFromAddrPort(local)
	}
	conn, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, err
	}
	return newUDP(conn)
}

type udpConn struct{ conn *net.UDPConn }

func (c udpConn) ReadFrom(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.conn.ReadFromUDPAddrPort(b)
	return n, plain(from), err
}

func (c udpConn) WriteTo(b []byte, to netip.AddrPort) error {
	_, err := c.conn.WriteToUDPAddrPort(b, to)
	return err
}

func (c udpConn) LocalAddr() netip.AddrPort {
	return plain(c.conn.LocalAddr().(*net.UDPAddr).AddrPort())
}

func (c udpConn) Close() error {
	if err := c.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// plain takes an IPv4-mapped address to IPv4.
func plain(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Memory is an Underlay without a kernel, for tests in virtual time: it
// carries datagrams at once and in order between its own endpoints, and loses
// those to anywhere else. The zero Memory is ready.
type Memory struct {
	mu    sync.Mutex
	conns map[netip.AddrPort]*memoryConn
	lose  func(from, to netip.AddrPort) bool
}

// Lose sets which datagrams are lost; nil: none. It is called by the senders'
// goroutines, one at a time.
func (m *Memory) Lose(lose func(from, to netip.AddrPort) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lose = lose
}

// memoryQueue is how many datagrams wait at an endpoint before one is lost.
const memoryQueue = 256

type memoryConn struct {
	network *Memory
	local   netip.AddrPort
	queue   chan datagram
	closed  chan struct{}
}

type datagram struct {
	from netip.AddrPort
	data []byte
}

// Listen implements Underlay, but for "every address", which it does not
// have, and port 0.
func (m *Memory) Listen(local netip.AddrPort) (Conn, error) {
	if !local.Addr().IsValid() || local.Addr().IsUnspecified() || local.Port() == 0 {
		return nil, fmt.Errorf("listen %s: want an address and a port", local)
	}
	local = plain(local)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns[local] != nil {
		return nil, fmt.Errorf("listen %s: address already in use", local)
	}
	if m.conns == nil {
		m.conns = make(map[netip.AddrPort]*memoryConn)
	}
	c := &memoryConn{network: m, local: local, queue: make(chan datagram, memoryQueue), closed: make(chan struct{})}
	m.conns[local] = c
	return c, nil
}

func (c *memoryConn) ReadFrom(b []byte) (int, netip.AddrPort, error) {
	select {
	case <-c.closed:
		return 0, netip.AddrPort{}, fmt.Errorf("read %s: %w", c.local, ErrClosed)
	default:
	}
	select {
	case d := <-c.queue:
		return copy(b, d.data), d.from, nil
	case <-c.closed:
		return 0, netip.AddrPort{}, fmt.Errorf("read %s: %w", c.local, ErrClosed)
	}
}

func (c *memoryConn) WriteTo(b []byte, to netip.AddrPort) error {
	if len(b) > MaxDatagram {
		return fmt.Errorf("write %s: datagram of %d bytes, at most %d", to, len(b), MaxDatagram)
	}
	select {
	case <-c.closed:
		return fmt.Errorf("write %s: %w", to, ErrClosed)
	default:
	}
	c.network.mu.Lock()
	peer := c.network.conns[plain(to)]
	if c.network.lose != nil && c.network.lose(c.local, plain(to)) {
		peer = nil
	}
	c.network.mu.Unlock()
	if peer != nil {
		select {
		case peer.queue <- datagram{c.local, slices.Clone(b)}:
		default:
		}
	}
	return nil
}

func (c *memoryConn) LocalAddr() netip.AddrPort { return c.local }

func (c *memoryConn) Close() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.network.conns[c.local] == c {
		delete(c.network.conns, c.local)
		close(c.closed)
	}
	return nil
}
