package device

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
)

var testConfig = Config{
	Name:         "tapipop",
	HardwareAddr: HardwareAddr(nodeid.ID{0xff, 1, 2, 3, 4, 5}),
	MTU:          DefaultMTU,
	Address:      netip.MustParsePrefix("10.250.0.2/16"),
}

// machine is what the conformance suite needs of a Host: to act as a program
// that sends and receives Ethernet frames through the device.
type machine interface {
	Host
	send(t *testing.T, frame []byte)
	receive(t *testing.T) []byte // nil when nothing comes for 2 s
}

func TestMemoryConforms(t *testing.T) {
	conform(t, func(*testing.T) machine { return &memoryMachine{} })
}

type memoryMachine struct{ Memory }

func (m *memoryMachine) send(_ *testing.T, frame []byte) { m.Send(testConfig.Name, frame) }
func (m *memoryMachine) receive(_ *testing.T) []byte     { return m.Received(testConfig.Name) }

// conform is what every Host must do.
func conform(t *testing.T, fresh func(t *testing.T) machine) {
	open := func(t *testing.T) (machine, Device) {
		t.Helper()
		m := fresh(t)
		d, err := m.Open(testConfig)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		if d.Name() != testConfig.Name {
			t.Errorf("Name() = %q, want %q", d.Name(), testConfig.Name)
		}
		return m, d
	}

	t.Run("frames go both ways whole", func(t *testing.T) {
		m, d := open(t)
		for _, payload := range []int{46, 500, testConfig.MTU} {
			out := frame(payload)
			m.send(t, out)
			got := readOwn(t, d)
			if !bytes.Equal(got, out) {
				t.Errorf("Read of a frame with %d bytes of payload: got %d bytes that differ", payload, len(got))
			}
			in := frame(payload)
			in[0] = 2 // to this machine
			n, err := d.Write(append(make([]byte, HeaderSize), in...))
			if err != nil || n != HeaderSize+len(in) {
				t.Errorf("Write of %d bytes = %d, %v", HeaderSize+len(in), n, err)
			}
			if got := m.receive(t); !bytes.Equal(got, in) {
				t.Errorf("the machine received %d bytes that differ from the %d written", len(got), len(in))
			}
		}
	})
	t.Run("a frame in pieces is one frame", func(t *testing.T) {
		m, d := open(t)
		m.send(t, frame(46)) // from now on the machine listens
		in := frame(900)
		in[0] = 2
		first := append(make([]byte, HeaderSize), in[:EthernetSize]...)
		n, err := d.Write(first, in[EthernetSize:100], nil, in[100:101], in[101:])
		if err != nil || n != HeaderSize+len(in) {
			t.Errorf("Write of %d bytes = %d, %v", HeaderSize+len(in), n, err)
		}
		if got := m.receive(t); !bytes.Equal(got, in) {
			t.Errorf("the machine received %d bytes that differ from the %d written", len(got), len(in))
		}
		for _, pieces := range [][][]byte{nil, {first[:HeaderSize], in}, make([][]byte, MaxPieces+1)} {
			if len(pieces) > MaxPieces {
				pieces[0] = first
			}
			if _, err := d.Write(pieces...); !errors.Is(err, ErrFrame) {
				t.Errorf("Write of %d pieces: %v, want ErrFrame", len(pieces), err)
			}
		}
	})
	t.Run("a look without waiting", func(t *testing.T) {
		m, d := open(t)
		if _, plain := d.(*plainDevice); plain {
			t.Log("water cannot tell")
			return
		}
		b := make([]byte, MaxRead)
		for {
			n, err := d.ReadNow(b)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break // what the kernel said by itself is read
			}
		}
		out := frame(500)
		m.send(t, out)
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			n, err := d.ReadNow(b)
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if n > HeaderSize && own(b[HeaderSize:n]) {
				if !bytes.Equal(b[HeaderSize:n], out) {
					t.Errorf("%d bytes that differ", n)
				}
				return
			}
		}
	})
	t.Run("a short write is refused", func(t *testing.T) {
		_, d := open(t)
		for _, n := range []int{0, HeaderSize, HeaderSize + EthernetSize - 1} {
			if _, err := d.Write(make([]byte, n)); !errors.Is(err, ErrFrame) {
				t.Errorf("Write of %d bytes: %v, want ErrFrame", n, err)
			}
		}
	})
	t.Run("one at a time", func(t *testing.T) {
		m, d := open(t)
		if _, err := m.Open(testConfig); !errors.Is(err, ErrBusy) {
			t.Errorf("second Open: %v, want ErrBusy", err)
		}
		d.Close()
		again, err := m.Open(testConfig)
		if err != nil {
			t.Fatalf("Open after Close: %v", err)
		}
		again.Close()
	})
	t.Run("close ends a read", func(t *testing.T) {
		_, d := open(t)
		ended := make(chan error)
		go func() {
			for {
				if _, err := d.Read(make([]byte, MaxRead)); err != nil {
					ended <- err
					return
				}
			}
		}()
		time.Sleep(20 * time.Millisecond)
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, ErrClosed) {
				t.Errorf("Read: %v, want ErrClosed", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("Read still waits 5 s after Close")
		}
		if _, err := d.Read(make([]byte, MaxRead)); !errors.Is(err, ErrClosed) {
			t.Errorf("Read after Close: %v, want ErrClosed", err)
		}
		if _, err := d.Write(make([]byte, 100)); !errors.Is(err, ErrClosed) {
			t.Errorf("Write after Close: %v, want ErrClosed", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("second Close: %v, want nil", err)
		}
	})
	t.Run("own routes are left out", func(t *testing.T) {
		m, _ := open(t)
		routes, err := m.Routes(testConfig.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Interface == testConfig.Name {
				t.Errorf("Routes(%q) has %s", testConfig.Name, r)
			}
		}
	})
}

// etherType marks the suite's own frames (IEEE 802 local experimental 1).
const etherType = 0x88b5

// frame returns a broadcast frame of the suite with payload bytes.
func frame(payload int) []byte {
	b := make([]byte, EthernetSize+payload)
	copy(b, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, etherType >> 8, etherType & 0xff})
	for i := range payload {
		b[EthernetSize+i] = byte(i)
	}
	return b
}

func own(frame []byte) bool {
	return len(frame) >= EthernetSize && frame[12] == etherType>>8 && frame[13] == etherType&0xff
}

// readOwn reads the suite's next frame, past what a kernel says by itself.
func readOwn(t *testing.T, d Device) []byte {
	t.Helper()
	b := make([]byte, MaxRead)
	for {
		n, err := d.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		h, f, err := ParseHeader(b[:n])
		if err != nil {
			t.Fatal(err)
		}
		if own(f) {
			if h != (Header{}) {
				t.Errorf("a plain frame came with header %+v", h)
			}
			return f
		}
	}
}

func TestParseHeader(t *testing.T) {
	for n := range HeaderSize + EthernetSize {
		if _, _, err := ParseHeader(make([]byte, n)); !errors.Is(err, ErrFrame) {
			t.Errorf("%d bytes: %v, want ErrFrame", n, err)
		}
	}
	b := make([]byte, HeaderSize+EthernetSize)
	b[0], b[1] = 1, 4
	h, f, err := ParseHeader(b)
	if err != nil || h.Flags != 1 || h.GSOType != 4 || len(f) != EthernetSize {
		t.Errorf("ParseHeader = %+v, %d bytes, %v", h, len(f), err)
	}
}

func TestHardwareAddrIsLocalUnicast(t *testing.T) {
	for first, want := range map[byte]byte{0x00: 0x02, 0x01: 0x02, 0xff: 0xfe, 0xfe: 0xfe, 0x54: 0x56} {
		got := HardwareAddr(nodeid.ID{first, 1, 2, 3, 4, 5, 6})
		if !bytes.Equal(got, net.HardwareAddr{want, 1, 2, 3, 4, 5}) {
			t.Errorf("first byte %#x: %s", first, got)
		}
	}
}

func TestCheckOverlap(t *testing.T) {
	pool := netip.MustParsePrefix("10.250.0.0/16")
	route := func(to, via string) Route {
		r := Route{To: netip.MustParsePrefix(to), Interface: "eth0"}
		if via != "" {
			r.Via = netip.MustParseAddr(via)
		}
		return r
	}
	address := func(a string) Route {
		return Route{To: netip.MustParsePrefix(a + "/32"), Interface: "eth0", Address: true}
	}
	for _, c := range []struct {
		name   string
		routes []Route
		solved int
		refuse int
	}{
		{"no network", nil, 0, 0},
		{"home network", []Route{address("192.168.1.10"), route("192.168.1.0/24", ""), route("0.0.0.0/0", "192.168.1.1")}, 0, 0},
		{"wider route", []Route{address("10.1.2.3"), route("10.0.0.0/8", ""), route("0.0.0.0/0", "10.0.0.1")}, 1, 0},
		{"wider route, own address inside", []Route{address("10.250.2.3"), route("10.0.0.0/8", "")}, 0, 1},
		{"wider route, gateway inside", []Route{address("10.1.2.3"), route("10.0.0.0/8", ""), route("0.0.0.0/0", "10.250.0.1")}, 0, 1},
		{"same", []Route{route("10.250.0.0/16", "")}, 0, 1},
		{"inside", []Route{route("10.250.3.0/24", "192.168.1.1")}, 0, 1},
		{"half route", []Route{route("0.0.0.0/1", "192.168.1.1")}, 1, 0},
		{"all of it", []Route{address("10.250.3.1"), route("10.250.3.0/24", ""), route("0.0.0.0/0", "10.250.3.254")}, 0, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			solved, err := CheckOverlap(pool, c.routes)
			if len(solved) != c.solved {
				t.Errorf("solved %v, want %d", solved, c.solved)
			}
			var overlap *OverlapError
			switch errors.As(err, &overlap) {
			case false:
				if err != nil || c.refuse > 0 {
					t.Errorf("error %v, want %d routes refused", err, c.refuse)
				}
			case true:
				if len(overlap.Routes) != c.refuse {
					t.Errorf("refused %v, want %d routes", overlap.Routes, c.refuse)
				}
			}
		})
	}
}

func TestOverlapErrorNamesRouteAndRemedy(t *testing.T) {
	_, err := CheckOverlap(netip.MustParsePrefix("10.250.0.0/16"), []Route{
		{To: netip.MustParsePrefix("10.250.3.0/24"), Via: netip.MustParseAddr("192.168.1.1"), Interface: "eth0"},
		{To: netip.MustParsePrefix("10.250.4.5/32"), Interface: "eth1", Address: true},
	})
	want := "the pool 10.250.0.0/16 is in use on the underlay: route 10.250.3.0/24 via 192.168.1.1 on eth0, address 10.250.4.5/32 on eth1 (give that network other addresses, or make the grid with another pool: builder grid new --pool)"
	if err == nil || err.Error() != want {
		t.Errorf("error\n got %v\nwant %s", err, want)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(make([]byte, HeaderSize+EthernetSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, frame, err := ParseHeader(b); err == nil && len(frame)+HeaderSize != len(b) {
			t.Errorf("%d bytes gave a frame of %d", len(b), len(frame))
		}
	})
}
