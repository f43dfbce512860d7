package transport

import (
	"bytes"
	"errors"
	"net/netip"
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
