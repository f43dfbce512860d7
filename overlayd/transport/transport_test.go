package transport

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestUDPConforms(t *testing.T) {
	conform(t, UDP{}, netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("127.0.0.1:0"))
}

func TestMemoryConforms(t *testing.T) {
	conform(t, &Memory{}, netip.MustParseAddrPort("192.0.2.1:4242"), netip.MustParseAddrPort("192.0.2.2:4242"))
}

// conform is what every Underlay must do.
func conform(t *testing.T, u Underlay, addrA, addrB netip.AddrPort) {
	open := func(t *testing.T, addr netip.AddrPort) Conn {
		t.Helper()
		c, err := u.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}

	t.Run("datagrams keep their bounds and sender", func(t *testing.T) {
		a, b := open(t, addrA), open(t, addrB)
		buf := make([]byte, MaxDatagram)
		for _, size := range []int{1, 0, 1200, MaxDatagram} {
			sent := bytes.Repeat([]byte{7}, size)
			if err := a.WriteTo(sent, b.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			n, from, err := b.ReadFrom(buf)
			if err != nil || from != a.LocalAddr() || !bytes.Equal(buf[:n], sent) {
				t.Errorf("%d bytes: got %d from %s, %v", size, n, from, err)
			}
		}
		if err := a.WriteTo(make([]byte, MaxDatagram+1), b.LocalAddr()); err == nil {
			t.Errorf("a datagram of %d bytes was taken", MaxDatagram+1)
		}
	})
	t.Run("a long datagram is cut", func(t *testing.T) {
		a, b := open(t, addrA), open(t, addrB)
		if err := a.WriteTo([]byte("abcdef"), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 3)
		if n, _, err := b.ReadFrom(buf); err != nil || string(buf[:n]) != "abc" {
			t.Errorf("ReadFrom into 3 bytes = %q, %v", buf[:n], err)
		}
	})
	t.Run("an endpoint opens once", func(t *testing.T) {
		a := open(t, addrA)
		if _, err := u.Listen(a.LocalAddr()); err == nil {
			t.Errorf("%s opened twice", a.LocalAddr())
		}
		a.Close()
		open(t, a.LocalAddr())
	})
	t.Run("close ends a read", func(t *testing.T) {
		a := open(t, addrA)
		ended := make(chan error)
		go func() {
			_, _, err := a.ReadFrom(make([]byte, 10))
			ended <- err
		}()
		time.Sleep(20 * time.Millisecond)
		if err := a.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, ErrClosed) {
				t.Errorf("ReadFrom: %v, want ErrClosed", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("ReadFrom still waits 5 s after Close")
		}
		if err := a.WriteTo([]byte("x"), addrB); !errors.Is(err, ErrClosed) {
			t.Errorf("WriteTo after Close: %v, want ErrClosed", err)
		}
		if err := a.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// TestBatchConforms is what a Batch must do, whatever is below it.
func TestBatchConforms(t *testing.T) {
	memory := &Memory{}
	for _, c := range []struct {
		name string
		u    Underlay
		a, b string
		set  func(Batch)
	}{
		{"UDP", UDP{}, "127.0.0.1:0", "127.0.0.1:0", func(Batch) {}},
		{"UDP over IPv6", UDP{}, "[::1]:0", "[::1]:0", func(Batch) {}},
		{"UDP without segmentation", UDP{}, "127.0.0.1:0", "127.0.0.1:0", withoutSegmentation},
		{"memory", memory, "192.0.2.1:4242", "192.0.2.2:4242", func(Batch) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conns := [2]Batch{}
			for i, text := range []string{c.a, c.b} {
				conn, err := c.u.Listen(netip.MustParseAddrPort(text))
				if err != nil {
					t.Skip(err)
				}
				defer conn.Close()
				conns[i] = Batched(conn)
			}
			a, b := conns[0], conns[1]
			c.set(a)
			run := func(datagrams, size, last int) Message {
				m := Message{Segment: size, Peer: b.LocalAddr()}
				for i := range datagrams {
					n := size
					if i == datagrams-1 {
						n = last
					}
					m.Data = append(m.Data, bytes.Repeat([]byte{byte(datagrams), byte(i)}, n)[:n]...)
				}
				return m
			}
			nowhere := Message{Data: []byte("x"), Peer: netip.MustParseAddrPort("192.0.2.9:0")}
			if c.u == memory {
				nowhere.Data = make([]byte, MaxDatagram+1) // refused; port 0 is lost
			}
			sent := []Message{run(1, 10, 10), run(5, 100, 30), run(3, 1200, 1200), nowhere, run(40, 1300, 1), run(MaxSegments, 900, 900)}
			refused, err := a.Transmit(sent)
			if refused != 1 || err != nil {
				t.Errorf("Transmit: %d datagrams refused, %v; want the one to port 0", refused, err)
			}
			var want, got [][]byte
			for _, m := range slices.Delete(sent, 3, 4) {
				want = append(want, datagrams(m)...)
			}
			ms := make([]Message, 4)
			for i := range ms {
				ms[i].Data = make([]byte, MaxDatagram)
			}
			for len(got) < len(want) {
				n, err := b.Receive(ms)
				if err != nil || n < 1 {
					t.Fatal(n, err)
				}
				for _, m := range ms[:n] {
					if m.Peer != a.LocalAddr() {
						t.Errorf("from %s, want %s", m.Peer, a.LocalAddr())
					}
					for _, d := range datagrams(m) {
						got = append(got, bytes.Clone(d))
					}
				}
			}
			for i := range want {
				if !bytes.Equal(got[i], want[i]) {
					t.Fatalf("datagram %d: %d bytes, want %d", i, len(got[i]), len(want[i]))
				}
			}
			go func() { time.Sleep(20 * time.Millisecond); b.Close() }()
			if n, err := b.Receive(ms); !errors.Is(err, ErrClosed) {
				t.Errorf("Receive after Close: %d, %v, want ErrClosed", n, err)
			}
			a.Close()
			if _, err := a.Transmit(sent[:1]); !errors.Is(err, ErrClosed) {
				t.Errorf("Transmit after Close: %v, want ErrClosed", err)
			}
		})
	}
}

func datagrams(m Message) (all [][]byte) {
	for d, rest := m.Next(m.Data); ; d, rest = m.Next(rest) {
		if all = append(all, d); rest == nil {
			return all
		}
	}
}

func TestUDPOnEveryAddress(t *testing.T) {
	server, err := UDP{}.Listen(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	port := server.LocalAddr().Port()
	client, err := UDP{}.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.WriteTo([]byte("x"), netip.AddrPortFrom(client.LocalAddr().Addr(), port)); err != nil {
		t.Fatal(err)
	}
	_, from, err := server.ReadFrom(make([]byte, 10))
	if err != nil || from != client.LocalAddr() {
		t.Errorf("from %s, %v; want the plain IPv4 endpoint %s", from, err, client.LocalAddr())
	}
}
