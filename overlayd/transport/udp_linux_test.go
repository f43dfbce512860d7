package transport

import (
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutSegmentation makes b send as if its network device could not cut.
func withoutSegmentation(b Batch) { b.(*udpBatch).plain = true }

func loopback(t testing.TB) *udpBatch {
	t.Helper()
	c, err := UDP{}.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*udpBatch)
}

// TestLinuxCarriesRunsWhole: what goes out as one message comes in as one, and
// nothing is allocated on the way.
func TestLinuxCarriesRunsWhole(t *testing.T) {
	a, b := loopback(t), loopback(t)
	sent := []Message{{Data: make([]byte, 44*1400+7), Segment: 1400, Peer: b.LocalAddr()}}
	got := []Message{{Data: make([]byte, MaxDatagram)}, {Data: make([]byte, MaxDatagram)}}
	// The first Receive turns UDP_GRO on.
	if err := a.WriteTo([]byte("x"), b.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Receive(got); err != nil {
		t.Fatal(err)
	}
	run := func() {
		if refused, err := a.Transmit(sent); refused != 0 || err != nil {
			t.Fatal(refused, err)
		}
		n, err := b.Receive(got)
		if n != 1 || err != nil || got[0].Segment != 1400 || len(got[0].Data) != len(sent[0].Data) {
			t.Fatalf("%d messages, %v, the first of %d bytes in segments of %d", n, err, len(got[0].Data), got[0].Segment)
		}
	}
	run()
	if n := testing.AllocsPerRun(20, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSocketBuffers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SO_RCVBUFFORCE needs CAP_NET_ADMIN")
	}
	err := loopback(t).raw.Control(func(fd uintptr) {
		for name, option := range map[string]int{"SO_RCVBUF": unix.SO_RCVBUF, "SO_SNDBUF": unix.SO_SNDBUF} {
			// The kernel says twice what was asked for (socket(7)).
			if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option); n != 2*socketBuffer || err != nil {
				t.Errorf("%s is %d, %v, want %d", name, n, err, 2*socketBuffer)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
