package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

// site is a NAT with two machines behind it, and two servers outside, each
// with two ports that answer a datagram with the sender's endpoint.
//
//	pc 192.168.1.10 ─┐                       ┌─ 192.0.2.9:1000, :1001
//	                 ├─ NAT 192.0.2.1 ─ wan ─┤
//	tv 192.168.1.11 ─┘                       └─ 192.0.2.10:1000, :1001
type site struct {
	t       *testing.T
	pc, tv  *Node
	nat     *NAT
	servers [2][2]*net.UDPConn
}

const quiet = 300 * time.Millisecond // what has not come by then does not come

func newSite(t *testing.T, lab *Lab, b Behaviour) *site {
	t.Helper()
	wan, home := lab.Switch("wan"), lab.Switch("home")
	s := &site{t: t, pc: lab.Node("pc"), tv: lab.Node("tv")}
	s.nat = lab.NAT("nat", b, Line{}, wan, "192.0.2.1/24", home, "192.168.1.1/24")
	s.inside(home, "192.168.1.1")
	s.outside(wan, lab)
	return s
}

func (s *site) inside(home *Switch, gateway string) {
	home.Plug(s.pc, "192.168.1.10/24").Default(gateway)
	home.Plug(s.tv, "192.168.1.11/24").Default(gateway)
}

func (s *site) outside(wan *Switch, lab *Lab) {
	for i := range s.servers {
		n := lab.Node(fmt.Sprintf("server-%d", i))
		address := fmt.Sprintf("192.0.2.%d", 9+i)
		wan.Plug(n, address+"/24")
		for j := range s.servers[i] {
			s.servers[i][j] = s.socket(n, fmt.Sprintf("%s:%d", address, 1000+j))
		}
	}
}

// socket opens a UDP socket in n.
func (s *site) socket(n *Node, address string) *net.UDPConn {
	s.t.Helper()
	var conn *net.UDPConn
	n.Do(func() {
		var err error
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		check(s.t, err)
	})
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

func endpoint(c *net.UDPConn) netip.AddrPort {
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// arrives sends a datagram and returns where it says it is from when it
// arrives, zero when it does not.
func arrives(t *testing.T, from *net.UDPConn, to netip.AddrPort, at *net.UDPConn) netip.AddrPort {
	t.Helper()
	text := fmt.Sprintf("%v to %v at %v", endpoint(from), to, time.Now().UnixNano())
	_, err := from.WriteToUDPAddrPort([]byte(text), to)
	check(t, err)
	buffer := make([]byte, 200)
	at.SetReadDeadline(time.Now().Add(quiet))
	for {
		n, source, err := at.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return netip.AddrPort{}
		}
		if string(buffer[:n]) == text {
			return source
		}
	}
}

// mapping measures as RFC 5780 §4.3 does.
func (s *site) mapping() (d Dependence, outer netip.AddrPort) {
	s.t.Helper()
	c := s.socket(s.pc, "192.168.1.10:4242")
	defer c.Close()
	seen := func(i, j int) netip.AddrPort {
		server := s.servers[i][j]
		return arrives(s.t, c, endpoint(server), server)
	}
	outer = seen(0, 0)
	switch other, port := seen(1, 0), seen(0, 1); {
	case other == outer && port == outer:
		return EndpointIndependent, outer
	case port == outer:
		return AddressDependent, outer
	default:
		return AddressAndPortDependent, outer
	}
}

// filtering measures as RFC 5780 §4.4 does.
func (s *site) filtering() Dependence {
	s.t.Helper()
	c := s.socket(s.pc, "192.168.1.10:4243")
	defer c.Close()
	outer := arrives(s.t, c, endpoint(s.servers[0][0]), s.servers[0][0])
	switch {
	case arrives(s.t, s.servers[1][0], outer, c).IsValid():
		return EndpointIndependent
	case arrives(s.t, s.servers[0][1], outer, c).IsValid():
		return AddressDependent
	default:
		if !arrives(s.t, s.servers[0][0], outer, c).IsValid() {
			s.t.Error("not even the answer comes in")
		}
		return AddressAndPortDependent
	}
}

// hairpins says whether two inner machines reach each other by outer
// endpoints, and what the source then is.
func (s *site) hairpins() (source, outer netip.AddrPort) {
	s.t.Helper()
	pc, tv := s.socket(s.pc, "192.168.1.10:4244"), s.socket(s.tv, "192.168.1.11:4245")
	defer pc.Close()
	defer tv.Close()
	server := s.servers[0][0]
	target := arrives(s.t, pc, endpoint(server), server)
	outer = arrives(s.t, tv, endpoint(server), server)
	return arrives(s.t, tv, target, pc), outer
}

// punches says whether a machine behind the NAT and a peer that has a fixed
// endpoint reach each other both ways when the peer's first datagram comes
// before the machine has sent one to it.
func (s *site) punches() bool {
	s.t.Helper()
	c := s.socket(s.pc, "192.168.1.10:4246")
	defer c.Close()
	outer := arrives(s.t, c, endpoint(s.servers[0][0]), s.servers[0][0])
	peer := s.servers[1][1]
	_, err := peer.WriteToUDPAddrPort([]byte("early"), outer)
	check(s.t, err)
	time.Sleep(20 * time.Millisecond)
	return arrives(s.t, c, endpoint(peer), peer) == outer && arrives(s.t, peer, outer, c) == endpoint(peer)
}

// TestNATBehaves measures every kind of NAT with sockets, as RFC 5780 does.
func TestNATBehaves(t *testing.T) {
	hairpin := func(b Behaviour) Behaviour { b.Hairpin = true; return b }
	for _, c := range []struct {
		name string
		b    Behaviour
	}{
		{"home", Home},
		{"home with hairpinning", hairpin(Home)},
		{"restricted", Restricted},
		{"full cone", FullCone},
		{"full cone with hairpinning", hairpin(FullCone)},
		{"symmetric", Symmetric},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, New(t), c.b)
			mapping, outer := s.mapping()
			if mapping != c.b.Mapping || outer.Addr() != netip.MustParseAddr("192.0.2.1") {
				t.Errorf("mapping %s, outside %s; want %s, outside 192.0.2.1", mapping, outer, c.b.Mapping)
			}
			if keeps := outer.Port() == 4242; keeps != (c.b.Mapping == EndpointIndependent) {
				t.Errorf("port 4242 is mapped to %d", outer.Port())
			}
			if f := s.filtering(); f != c.b.Filtering {
				t.Errorf("filtering %s, want %s", f, c.b.Filtering)
			}
			if source, outer := s.hairpins(); source.IsValid() != c.b.Hairpin {
				t.Errorf("hairpinning %v, want %v", source.IsValid(), c.b.Hairpin)
			} else if c.b.Hairpin && source != outer {
				t.Errorf("hairpinned from %s, want the outer endpoint %s", source, outer)
			}
			if p := s.punches(); p != (c.b.Mapping == EndpointIndependent) {
				t.Errorf("punching works: %v", p)
			}
		})
	}
}

// TestNATBlocksUDP has TCP to port 443 as the only way out.
func TestNATBlocksUDP(t *testing.T) {
	s := newSite(t, New(t), Office)
	c := s.socket(s.pc, "192.168.1.10:4242")
	if from := arrives(t, c, endpoint(s.servers[0][0]), s.servers[0][0]); from.IsValid() {
		t.Errorf("UDP came through from %s", from)
	}
	for port, want := range map[int]bool{443: true, 80: false} {
		s.pc.Do(func() {
			// Nobody listens, so an answer is a refusal.
			_, err := net.DialTimeout("tcp4", fmt.Sprintf("192.0.2.9:%d", port), quiet)
			if answered := errors.Is(err, syscall.ECONNREFUSED); answered != want {
				t.Errorf("TCP to port %d: %v; answered %v, want %v", port, err, answered, want)
			}
		})
	}
}

// TestNATForgets has mappings end by time and by a restart.
func TestNATForgets(t *testing.T) {
	const timeout = 2 * time.Second
	for _, c := range []struct {
		name   string
		b      Behaviour
		forget func(*NAT)
	}{
		{"home, by time", Behaviour{Filtering: AddressAndPortDependent, Timeout: timeout}, func(*NAT) { time.Sleep(timeout + time.Second) }},
		{"full cone, by time", Behaviour{Timeout: timeout}, func(*NAT) { time.Sleep(timeout + time.Second) }},
		{"home, restart", Home, (*NAT).Forget},
		{"full cone, restart", FullCone, (*NAT).Forget},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, New(t), c.b)
			inner, server := s.socket(s.pc, "192.168.1.10:4242"), s.servers[0][0]
			outer := arrives(t, inner, endpoint(server), server)
			if !arrives(t, server, outer, inner).IsValid() {
				t.Fatal("the answer does not come in")
			}
			c.forget(s.nat)
			if arrives(t, server, outer, inner).IsValid() {
				t.Error("the mapping is still there")
			}
		})
	}
}

// TestDoubleNAT stacks two: the stricter one counts.
func TestDoubleNAT(t *testing.T) {
	for _, c := range []struct {
		name             string
		carrier, home    Behaviour
		mapping, filters Dependence
	}{
		{"home behind a full cone", FullCone, Home, EndpointIndependent, AddressAndPortDependent},
		{"home behind symmetric", Symmetric, Home, AddressAndPortDependent, AddressAndPortDependent},
		{"full cone twice", FullCone, FullCone, EndpointIndependent, EndpointIndependent},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab := New(t)
			wan, street, home := lab.Switch("wan"), lab.Switch("street"), lab.Switch("home")
			lab.NAT("carrier", c.carrier, Line{}, wan, "192.0.2.1/24", street, "100.64.0.1/24")
			s := &site{t: t, pc: lab.Node("pc"), tv: lab.Node("tv")}
			s.nat = lab.NAT("nat", c.home, Line{}, street, "100.64.0.2/24", home, "192.168.1.1/24")
			s.nat.Outside.Default("100.64.0.1")
			s.inside(home, "192.168.1.1")
			s.outside(wan, lab)
			if mapping, outer := s.mapping(); mapping != c.mapping || outer.Addr() != netip.MustParseAddr("192.0.2.1") {
				t.Errorf("mapping %s, outside %s; want %s, outside 192.0.2.1", mapping, outer, c.mapping)
			}
			if f := s.filtering(); f != c.filters {
				t.Errorf("filtering %s, want %s", f, c.filters)
			}
		})
	}
}

// TestCut drops one peer's datagrams in flows that are open, and no other's.
func TestCut(t *testing.T) {
	s := newSite(t, New(t), Home)
	c := s.socket(s.pc, "192.168.1.10:4242")
	both := func() (cut, other bool) {
		a, b := s.servers[0][0], s.servers[1][0]
		return arrives(t, c, endpoint(a), a).IsValid(), arrives(t, c, endpoint(b), b).IsValid()
	}
	if a, b := both(); !a || !b {
		t.Fatalf("before: %v %v", a, b)
	}
	s.nat.Cut(endpoint(s.servers[0][0]).Addr())
	if a, b := both(); a || !b {
		t.Errorf("cut: %v, the other %v", a, b)
	}
	s.nat.Mend()
	if a, b := both(); !a || !b {
		t.Errorf("mended: %v %v", a, b)
	}
}

// TestLine measures delay, order and loss of a line.
func TestLine(t *testing.T) {
	lab := New(t)
	const delay, loss, count = 30 * time.Millisecond, 0.2, 1000
	a, b := lab.Node("a"), lab.Node("b")
	lab.Line(Line{Delay: delay, Loss: loss}, a, "192.0.2.1/24", b, "192.0.2.2/24")
	s := &site{t: t}
	from, to := s.socket(a, "192.0.2.1:1000"), s.socket(b, "192.0.2.2:1000")
	var sender sync.WaitGroup
	start := time.Now()
	sender.Go(func() {
		for i := range count {
			b := binary.BigEndian.AppendUint64(nil, uint64(i))
			from.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(b, uint64(time.Since(start))), endpoint(to))
			time.Sleep(200 * time.Microsecond)
		}
	})
	defer sender.Wait()
	got, last := 0, -1
	buffer := make([]byte, 100)
	for {
		to.SetReadDeadline(time.Now().Add(quiet))
		if _, err := to.Read(buffer); err != nil {
			break
		}
		i, sent := int(binary.BigEndian.Uint64(buffer)), time.Duration(binary.BigEndian.Uint64(buffer[8:]))
		if i <= last {
			t.Errorf("datagram %d after %d", i, last)
		}
		if took := time.Since(start) - sent; took < delay || took > delay+quiet {
			t.Errorf("datagram %d took %v, want %v", i, took, delay)
		}
		got, last = got+1, i
	}
	if share := 1 - float64(got)/count; share < loss-0.06 || share > loss+0.06 {
		t.Errorf("%.3f lost, want %.3f", share, loss)
	}
}
