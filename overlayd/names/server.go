package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"
)

// Port is DNS's.
const Port = 53

// Implementation: bounds and times.
const (
	maxQueries  = 256 // under way at once
	maxConns    = 32  // TCP connections, on each address
	maxSources  = 1024
	askTime     = 2 * time.Second        // for the Resolver; stub resolvers ask again after 5 s
	ask6Time    = 500 * time.Millisecond // for the IPv6 address of a name whose IPv4 address is known: clients wait for both
	idleTime    = 5 * time.Second        // of a TCP connection
	bindTime    = 5 * time.Second        // for an address that has just come
	bindAgain   = 50 * time.Millisecond
	ownRate     = 2000 // queries/s of this machine, in bursts as long
	memberRate  = 50   // of another member
	memberBurst = 200
)

// Counters counts queries since New, by what became of them.
type Counters struct {
	Answered  uint64
	Failed    uint64 // SERVFAIL: the Resolver did not know
	Refused   uint64 // not this server's zones
	Malformed uint64 // no query, or not one question
	Strange   uint64 // from no member of the virtual network; not answered
	TooMany   uint64 // beyond a bound; not answered
}

// Server answers what its Resolver knows.
type Server struct {
	resolver Resolver
	slots    chan struct{}

	answered, failed, refused, malformed, strange, tooMany atomic.Uint64
}

// New returns a Server that asks resolver.
func New(resolver Resolver) *Server {
	return &Server{resolver: resolver, slots: make(chan struct{}, maxQueries)}
}

// Counters returns what was counted.
func (s *Server) Counters() Counters {
	return Counters{s.answered.Load(), s.failed.Load(), s.refused.Load(), s.malformed.Load(), s.strange.Load(), s.tooMany.Load()}
}

// Listener is a Server on the addresses of one zone.
type Listener struct {
	server *Server
	zone   Zone
	udp    []net.PacketConn
	tcp    []net.Listener

	mu     sync.Mutex
	limits map[netip.Addr]*rate.Limiter // by source
}

// Listen opens UDP and TCP sockets on each of addrs. An address that is not
// there yet is waited for a little, while ctx runs. Serve must follow.
func (s *Server) Listen(ctx context.Context, zone Zone, addrs ...netip.AddrPort) (*Listener, error) {
	if err := zone.Check(); err != nil {
		return nil, err
	}
	l := &Listener{server: s, zone: zone, limits: map[netip.Addr]*rate.Limiter{}}
	for _, addr := range addrs {
		if err := l.bind(ctx, addr); err != nil {
			l.close()
			return nil, fmt.Errorf("answer names: %w", err)
		}
	}
	return l, nil
}

// bind opens both sockets of an address.
func (l *Listener) bind(ctx context.Context, addr netip.AddrPort) error {
	deadline := time.Now().Add(bindTime)
	for {
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		if err == nil {
			l.udp = append(l.udp, memberConn{udp, l})
			// With port 0, as in tests, TCP takes UDP's.
			port := udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			tcp, err := net.Listen("tcp", netip.AddrPortFrom(addr.Addr(), port).String())
			if err != nil {
				return err
			}
			l.tcp = append(l.tcp, netutil.LimitListener(memberListener{tcp, l}, maxConns))
			return nil
		}
		if !errors.Is(err, syscall.EADDRNOTAVAIL) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(bindAgain):
		}
	}
}

func (l *Listener) close() {
	for _, c := range l.udp {
		c.Close()
	}
	for _, c := range l.tcp {
		c.Close()
	}
}

// Serve answers until ctx ends and then returns nil; any other end is an
// error. Everything is closed by then, and no query is under way.
func (l *Listener) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { l.serve(ctx, w, m) })
	invalid := func([]byte, error) { l.server.malformed.Add(1) }
	var servers []*dns.Server
	for _, c := range l.udp {
		servers = append(servers, &dns.Server{PacketConn: c, Handler: handler, MsgAcceptFunc: l.accept, MsgInvalidFunc: invalid, UDPSize: maxUDP})
	}
	for _, c := range l.tcp {
		servers = append(servers, &dns.Server{Listener: c, Handler: handler, MsgAcceptFunc: l.accept, MsgInvalidFunc: invalid,
			ReadTimeout: idleTime, WriteTimeout: idleTime, IdleTimeout: func() time.Duration { return idleTime }})
	}
	var running sync.WaitGroup
	errs := make(chan error, len(servers))
	for _, srv := range servers {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		running.Go(func() { errs <- srv.ActivateAndServe() })
		<-started // before that, Shutdown would be refused
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-errs:
	}
	cancel()
	for _, srv := range servers {
		srv.Shutdown() // waits for the queries under way, which ctx ends
	}
	l.close()
	running.Wait()
	if err != nil {
		return fmt.Errorf("answer names: %w", err)
	}
	return nil
}

// accept looks at a message's header before the rest is read. What is no query
// is ignored; several questions, or another operation, are answered with an
// error (RFC 9619 §3).
func (l *Listener) accept(h dns.Header) dns.MsgAcceptAction {
	const response = 1 << 15
	switch {
	case h.Bits&response != 0:
		l.server.malformed.Add(1)
		return dns.MsgIgnore
	case h.Bits>>11&0xf != dns.OpcodeQuery:
		l.server.malformed.Add(1)
		return dns.MsgRejectNotImplemented
	case h.Qdcount != 1 || h.Ancount != 0 || h.Nscount > 1 || h.Arcount > 2: // IXFR has a SOA, EDNS and TSIG are additional
		l.server.malformed.Add(1)
		return dns.MsgReject
	}
	return dns.MsgAccept
}

// serve answers one query.
func (l *Listener) serve(ctx context.Context, w dns.ResponseWriter, m *dns.Msg) {
	s := l.server
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	if overTCP && !l.within(sourceOf(w.RemoteAddr())) {
		s.tooMany.Add(1)
		w.Close()
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		s.tooMany.Add(1)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	w.WriteMsg(s.respond(ctx, l.zone, m, overTCP))
}

// respond makes the answer to a query that accept has let through.
func (s *Server) respond(ctx context.Context, zone Zone, query *dns.Msg, overTCP bool) *dns.Msg {
	msg := new(dns.Msg).SetReply(query)
	msg.Compress = true
	size := dns.MinMsgSize
	if edns := query.IsEdns0(); edns != nil {
		size = min(max(int(edns.UDPSize()), dns.MinMsgSize), maxUDP)
		msg.SetEdns0(maxUDP, false)
		if edns.Version() != 0 {
			msg.SetRcode(query, dns.RcodeBadVers)
			s.malformed.Add(1)
			return msg
		}
	}
	answer(ctx, zone, s.resolver, msg)
	if overTCP {
		size = dns.MaxMsgSize
	}
	msg.Truncate(size)
	switch msg.Rcode {
	case dns.RcodeServerFailure:
		s.failed.Add(1)
	case dns.RcodeRefused:
		s.refused.Add(1)
	default:
		s.answered.Add(1)
	}
	return msg
}

// memberConn lets through what members send, within their budgets.
type memberConn struct {
	net.PacketConn
	l *Listener
}

func (c memberConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(b)
		if err != nil {
			return n, from, err
		}
		switch source := sourceOf(from); {
		case !c.l.member(source):
			c.l.server.strange.Add(1)
		case !c.l.within(source):
			c.l.server.tooMany.Add(1)
		default:
			return n, from, nil
		}
	}
}

// memberListener accepts members' connections and closes others.
type memberListener struct {
	net.Listener
	l *Listener
}

func (m memberListener) Accept() (net.Conn, error) {
	for {
		c, err := m.Listener.Accept()
		if err != nil || m.l.member(sourceOf(c.RemoteAddr())) {
			return c, err
		}
		m.l.server.strange.Add(1)
		c.Close()
	}
}

func sourceOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap().WithZone("")
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// member says whether a source is this machine or in the virtual network: the
// host's own filter keeps its addresses off other interfaces, but a plain
// Linux takes them from anywhere.
func (l *Listener) member(a netip.Addr) bool {
	return a.IsLoopback() || l.zone.Pool.Contains(a) || l.zone.Pool6.IsValid() && l.zone.Pool6.Contains(a)
}

// within takes a query from its source's budget and says whether there was one
// left.
func (l *Listener) within(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit, ok := l.limits[a]
	if !ok {
		if len(l.limits) >= maxSources {
			clear(l.limits) // everybody begins anew, which bounds the table and nothing else
		}
		limit = rate.NewLimiter(memberRate, memberBurst)
		if a.IsLoopback() || a == l.zone.Own.Address || a == l.zone.Own.Address6 {
			limit = rate.NewLimiter(ownRate, ownRate)
		}
		l.limits[a] = limit
	}
	return limit.Allow()
}
