package stream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"gridappliance/overlayd/session"
	"gridappliance/overlayd/transport"
)

// serve returns a listener's Streams and where it listens.
func serve(t *testing.T) (*Streams, netip.AddrPort) {
	t.Helper()
	l, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	s := New()
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Error("Serve:", err)
		}
	})
	return s, l.Addr().(*net.TCPAddr).AddrPort()
}

func dial(t *testing.T, to netip.AddrPort) (*Streams, netip.AddrPort) {
	t.Helper()
	s := New()
	t.Cleanup(func() { s.Close() })
	end, err := s.Dial(context.Background(), to, "")
	if err != nil {
		t.Fatal(err)
	}
	return s, end
}

func read(t *testing.T, s *Streams) (string, netip.AddrPort) {
	t.Helper()
	b := make([]byte, MaxDatagram)
	n, from, err := s.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from
}

func TestDatagramsKeepTheirBounds(t *testing.T) {
	server, at := serve(t)
	x, toServer := dial(t, at)
	y, _ := dial(t, at)
	if session.VirtualKind(toServer.Addr()) != session.ByStream {
		t.Error(toServer)
	}
	long := string(bytes.Repeat([]byte{7}, MaxDatagram))
	for _, text := range []string{"a", long, "bc"} {
		if err := x.WriteTo([]byte(text), toServer); err != nil {
			t.Fatal(err)
		}
	}
	var back netip.AddrPort
	for _, want := range []string{"a", long, "bc"} {
		got, from := read(t, server)
		if got != want {
			t.Errorf("%d bytes, want %d", len(got), len(want))
		}
		back = from
	}
	if err := server.WriteTo([]byte("answer"), back); err != nil {
		t.Fatal(err)
	}
	if got, from := read(t, x); got != "answer" || from != toServer {
		t.Errorf("%q from %v", got, from)
	}
	if x.WriteTo(make([]byte, MaxDatagram+1), toServer) == nil || x.WriteTo(nil, toServer) == nil {
		t.Error("a datagram that cannot be carried is taken")
	}
	// One end goes: the endpoint stands for nothing, and the other lives on.
	server.Hang(back)
	deadline := time.Now().Add(5 * time.Second)
	for x.Open(toServer) {
		if time.Now().After(deadline) {
			t.Fatal("the other end does not notice")
		}
		<-time.After(time.Millisecond)
	}
	if err := x.WriteTo([]byte("lost"), toServer); err != nil {
		t.Error(err)
	}
	if n := server.Counters(); n.Accepted != 2 {
		t.Errorf("%+v", n)
	}
	y.Close()
	if _, _, err := y.ReadFrom(make([]byte, 1)); !errors.Is(err, transport.ErrClosed) {
		t.Error(err)
	}
}

// TestABurstFits: what vnet kept while there was no session, 3 s of 1,000 packets
// a second, leaves at once and arrives.
func TestABurstFits(t *testing.T) {
	server, at := serve(t)
	x, toServer := dial(t, at)
	const burst = 3000
	for i := range burst {
		if err := x.WriteTo(fmt.Appendf(make([]byte, 0, 250), "%0250d", i), toServer); err != nil {
			t.Fatal(err)
		}
	}
	for i := range burst {
		if got, _ := read(t, server); string(got) != fmt.Sprintf("%0250d", i) {
			t.Fatalf("datagram %d is %.20q", i, got)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := x.counters.Dropped; n != 0 || x.waiting != 0 {
		t.Errorf("%d dropped, %d bytes wait", n, x.waiting)
	}
}

// TestAllQueuesAreBounded: many connections that wait do not take memory without
// end. What is sent then is lost, and counted.
func TestAllQueuesAreBounded(t *testing.T) {
	_, at := serve(t)
	x, toServer := dial(t, at)
	for room, dropped := range []uint64{1, 1} { // none, then one byte
		x.mu.Lock()
		x.waiting = allBytes - room // as if others had filled their queues
		x.mu.Unlock()
		if err := x.WriteTo([]byte{1}, toServer); err != nil {
			t.Fatal(err)
		}
		if n := x.Counters().Dropped; n != dropped {
			t.Errorf("%d dropped with room for %d bytes, want %d", n, room, dropped)
		}
	}
}

// TestFullQueueLoses: who does not read is not waited for.
func TestFullQueueLoses(t *testing.T) {
	server, at := serve(t)
	x, toServer := dial(t, at)
	if err := x.WriteTo([]byte("hello"), toServer); err != nil {
		t.Fatal(err)
	}
	_, back := read(t, server)
	began := time.Now()
	for range 20000 {
		if err := server.WriteTo(make([]byte, 1200), back); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 5*time.Second || server.Counters().Dropped == 0 {
		t.Errorf("%v, %+v", took, server.Counters())
	}
}

// TestStrangers: who speaks no TLS, says nothing, or breaks the framing.
func TestStrangers(t *testing.T) {
	server, at := serve(t)
	plain, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	plain.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	broken, err := tls.Dial("tcp", at.String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	broken.Write([]byte{0xff, 0xff, 1, 2, 3})
	for _, c := range []net.Conn{plain, broken} {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		for {
			if _, err := c.Read(make([]byte, 64)); err != nil {
				var timeout net.Error
				if errors.As(err, &timeout) && timeout.Timeout() {
					t.Error("not hung up on")
				}
				break
			}
		}
	}
	if c := server.Counters(); c.Malformed != 1 || c.Failed != 1 {
		t.Errorf("%+v", c)
	}
	var silent []net.Conn
	for range maxPerSource + 3 {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	last := silent[len(silent)-1]
	last.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Error("one address takes more than its share:", err)
	}
	if c := server.Counters(); c.Refused < 3 {
		t.Errorf("%+v", c)
	}
}
