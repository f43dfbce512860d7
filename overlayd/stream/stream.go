// Package stream carries datagrams over TCP for machines whose network drops
// UDP: a member to a bootstrap, or to a node that listens on TCP.
//
//	WriteTo(b, 100::2:0:7) ─> queue ─> TLS ─> TCP 443 ─> TLS ─> ReadFrom: b from 100::2:0:9
//
//	offset size field, in the stream
//	0      2    n, length of the datagram, 1 to 16,384
//	2      n    the datagram
//
// Each end knows a connection by a virtual endpoint (package session), so what
// is above sees one more Conn whose endpoints come and go. A datagram that
// does not fit the queue is lost, as on any network: TCP's own queue would only
// make it late.
//
// TLS is a look: middle boxes pass it on port 443 and little else. Nothing
// rests on it. The certificate is the listener's own and nobody checks it, for
// the sessions inside prove who the peer is and keep what they carry secret.
//
// Concurrency: everything is safe for concurrent use. Each connection has two
// goroutines, which Close waits for.
//
// Limits on purpose: no proxy (RFC 9110 CONNECT), no resumption.
//
// Sources: RFC 8446; RFC 4571 §2 for the framing.
package stream

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gridappliance/overlayd/session"
	"gridappliance/overlayd/transport"
)

// MaxDatagram is the longest datagram that is carried, in bytes.
const MaxDatagram = 16384

// Implementation: tunable at will.
const (
	handshakeTime = 10 * time.Second
	idleTime      = 2 * time.Minute // nothing has come: members of a bootstrap say something every 25 s
	writeTime     = 10 * time.Second
	arrived       = 256  // datagrams that ReadFrom has not taken
	maxAccepted   = 1024 // connections
	maxPerSource  = 16   // of them from one IPv4 address or IPv6 /64

	// Datagrams that wait for a connection. What has waited for a session leaves
	// in one burst (vnet.Queue), which is to fit: 3 s of 1,000 packets a second.
	queued      = 4096
	queuedBytes = 1 << 20  // for one
	allBytes    = 64 << 20 // for all
)

// Counters counts what happened.
type Counters struct {
	Dialed, Accepted, Refused, Failed, Dropped, Malformed uint64
}

// Streams is all TCP connections of a process. It is a transport.Conn whose
// endpoints are virtual.
type Streams struct {
	arriving chan datagram
	done     chan struct{}
	working  sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	last     uint32
	byEnd    map[netip.AddrPort]*stream
	sources  map[netip.Addr]int
	accepted int
	waiting  int // bytes in all queues
	counters Counters
}

var _ transport.Conn = (*Streams)(nil)

type datagram struct {
	from netip.AddrPort
	data []byte
}

// stream is one connection.
type stream struct {
	end    netip.AddrPort
	conn   net.Conn
	queue  chan []byte
	closed chan struct{}
	once   sync.Once

	waiting int // bytes in queue; under Streams' mu
}

// New returns Streams without connections.
func New() *Streams {
	return &Streams{arriving: make(chan datagram, arrived), done: make(chan struct{}), byEnd: map[netip.AddrPort]*stream{}, sources: map[netip.Addr]int{}}
}

// Counters returns what happened so far.
func (s *Streams) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters
}

// Dial connects to a listener and returns the virtual endpoint of the
// connection, which lives until either end closes it. Name is what TLS says
// the server is called; it may be empty.
func (s *Streams) Dial(ctx context.Context, to netip.AddrPort, name string) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		s.count(func(c *Counters) { c.Failed++ })
		return netip.AddrPort{}, err
	}
	// Nobody checks the certificate: see the package's comment.
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: name, MinVersion: tls.VersionTLS13, NextProtos: protocols})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		s.count(func(c *Counters) { c.Failed++ })
		return netip.AddrPort{}, fmt.Errorf("connect %s: %w", to, err)
	}
	x, ok := s.add(conn)
	if !ok {
		conn.Close()
		return netip.AddrPort{}, fmt.Errorf("connect %s: %w", to, transport.ErrClosed)
	}
	s.count(func(c *Counters) { c.Dialed++ })
	return x.end, nil
}

// protocols is what browsers and servers say on port 443.
var protocols = []string{"http/1.1"}

// Listen opens a TCP port for Serve.
func Listen(at netip.AddrPort) (net.Listener, error) {
	addr := at.String()
	if at.Addr().IsUnspecified() {
		addr = fmt.Sprintf(":%d", at.Port())
	}
	return net.Listen("tcp", addr)
}

// Serve accepts connections until the listener or s is closed.
func (s *Streams) Serve(l net.Listener) error {
	cert, err := ownCertificate(time.Now())
	if err != nil {
		return err
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: protocols}
	go func() {
		<-s.done
		l.Close()
	}()
	for {
		raw, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// The kernel is short of something, or the peer has gone already.
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-s.done:
				return nil
			}
		}
		from := source(raw.RemoteAddr())
		if !s.admit(from) {
			raw.Close()
			continue
		}
		s.working.Go(func() {
			defer s.leave(from)
			s.accept(tls.Server(raw, cfg))
		})
	}
}

// accept runs one accepted connection to its end.
func (s *Streams) accept(conn *tls.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	unhook := s.whenClosed(func() { conn.Close() })
	err := conn.HandshakeContext(ctx)
	unhook()
	if err != nil {
		conn.Close()
		s.count(func(c *Counters) { c.Failed++ })
		return
	}
	if x, ok := s.add(conn); ok {
		<-x.closed
	} else {
		conn.Close()
	}
}

// whenClosed calls f when s is closed, unless the returned function is called
// before.
func (s *Streams) whenClosed(f func()) func() {
	stop := make(chan struct{})
	go func() {
		select {
		case <-s.done:
			f()
		case <-stop:
		}
	}()
	return func() { close(stop) }
}

func (s *Streams) admit(from netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.accepted >= maxAccepted || s.sources[from] >= maxPerSource {
		s.counters.Refused++
		return false
	}
	s.accepted++
	s.sources[from]++
	s.counters.Accepted++
	return true
}

func (s *Streams) leave(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted--
	if s.sources[from]--; s.sources[from] == 0 {
		delete(s.sources, from)
	}
}

func source(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if ip.Is6() {
		p, _ := ip.Prefix(64)
		ip = p.Addr()
	}
	return ip
}

// add begins to read and write a connection.
func (s *Streams) add(conn net.Conn) (*stream, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.last++
	x := &stream{end: session.VirtualEndpoint(session.ByStream, 0, s.last), conn: conn, queue: make(chan []byte, queued), closed: make(chan struct{})}
	s.byEnd[x.end] = x
	s.working.Go(func() { s.read(x) })
	s.working.Go(func() { s.write(x) })
	return x, true
}

// drop ends a connection.
func (s *Streams) drop(x *stream) {
	x.once.Do(func() {
		close(x.closed)
		x.conn.Close()
		s.mu.Lock()
		delete(s.byEnd, x.end)
		s.waiting -= x.waiting
		x.waiting = 0
		s.mu.Unlock()
	})
}

// taken notes that a datagram has left the queue.
func (s *Streams) taken(x *stream, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byEnd[x.end] == x {
		x.waiting -= n
		s.waiting -= n
	}
}

func (s *Streams) read(x *stream) {
	defer s.drop(x)
	r := bufio.NewReaderSize(x.conn, 32<<10)
	var head [2]byte
	for {
		x.conn.SetReadDeadline(time.Now().Add(idleTime))
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(head[:]))
		if n == 0 || n > MaxDatagram {
			s.count(func(c *Counters) { c.Malformed++ })
			return
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(r, data); err != nil {
			return
		}
		select {
		case s.arriving <- datagram{x.end, data}:
		case <-x.closed:
			return
		}
	}
}

func (s *Streams) write(x *stream) {
	defer s.drop(x)
	w := bufio.NewWriterSize(x.conn, 32<<10)
	for {
		select {
		case data := <-x.queue:
			s.taken(x, len(data))
			x.conn.SetWriteDeadline(time.Now().Add(writeTime))
			var head [2]byte
			binary.BigEndian.PutUint16(head[:], uint16(len(data)))
			w.Write(head[:])
			w.Write(data)
			if len(x.queue) == 0 && w.Flush() != nil {
				return
			}
		case <-x.closed:
			return
		}
	}
}

// ReadFrom implements transport.Conn: from is a virtual endpoint.
func (s *Streams) ReadFrom(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-s.arriving:
		return copy(b, d.data), d.from, nil
	case <-s.done:
		return 0, netip.AddrPort{}, fmt.Errorf("read streams: %w", transport.ErrClosed)
	}
}

// WriteTo implements transport.Conn. A datagram to an endpoint that is gone is
// lost.
func (s *Streams) WriteTo(b []byte, to netip.AddrPort) error {
	if len(b) == 0 || len(b) > MaxDatagram {
		return fmt.Errorf("write %s: datagram of %d bytes, want 1 to %d", to, len(b), MaxDatagram)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("write %s: %w", to, transport.ErrClosed)
	}
	x := s.byEnd[to]
	if x == nil {
		return nil
	}
	if x.waiting+len(b) > queuedBytes || s.waiting+len(b) > allBytes {
		s.counters.Dropped++
		return nil
	}
	select {
	case x.queue <- slices.Clone(b):
		x.waiting += len(b)
		s.waiting += len(b)
	default:
		s.counters.Dropped++
	}
	return nil
}

// Open reports whether a connection lives.
func (s *Streams) Open(end netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byEnd[end] != nil
}

// Hang ends a connection.
func (s *Streams) Hang(end netip.AddrPort) {
	s.mu.Lock()
	x := s.byEnd[end]
	s.mu.Unlock()
	if x != nil {
		s.drop(x)
	}
}

// LocalAddr implements transport.Conn: there is no one endpoint.
func (s *Streams) LocalAddr() netip.AddrPort { return netip.AddrPort{} }

// Close implements transport.Conn: it ends every connection and listener.
func (s *Streams) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.done)
	var all []*stream
	for _, x := range s.byEnd {
		all = append(all, x)
	}
	s.mu.Unlock()
	for _, x := range all {
		s.drop(x)
	}
	s.working.Wait()
	return nil
}

func (s *Streams) count(f func(*Counters)) {
	s.mu.Lock()
	f(&s.counters)
	s.mu.Unlock()
}

// ownCertificate makes the certificate that nobody checks.
func ownCertificate(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: serial, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
