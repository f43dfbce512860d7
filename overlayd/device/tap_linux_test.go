package device

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gridappliance/internal/netlab"
)

func TestLinuxConforms(t *testing.T) {
	lab := netlab.New(t)
	conform(t, func(t *testing.T) machine { return newLinuxMachine(t, lab, Linux{}.Open) })
}

// TestWaterConforms is the driver for kernels without offloads.
func TestWaterConforms(t *testing.T) {
	lab := netlab.New(t)
	conform(t, func(t *testing.T) machine {
		return newLinuxMachine(t, lab, func(cfg Config) (Device, error) {
			d, err := openPlain(cfg.Name)
			if err != nil {
				return nil, explain(err)
			}
			return d, configure(cfg)
		})
	})
}

// linuxMachine is the kernel inside one namespace; its programs speak through
// a packet socket.
type linuxMachine struct {
	node   *netlab.Node
	open   func(Config) (Device, error)
	packet *os.File
}

func newLinuxMachine(t *testing.T, lab *netlab.Lab, open func(Config) (Device, error)) *linuxMachine {
	return &linuxMachine{node: lab.Node(t.Name()), open: open}
}

func (m *linuxMachine) Open(cfg Config) (d Device, err error) {
	m.node.Do(func() { d, err = m.open(cfg) })
	return d, err
}

func (m *linuxMachine) Configure(cfg Config) (err error) {
	m.node.Do(func() { err = Linux{}.Configure(cfg) })
	return err
}

func (m *linuxMachine) Routes(except string) (r []Route, err error) {
	m.node.Do(func() { r, err = Linux{}.Routes(except) })
	return r, err
}

// socket returns the packet socket on the device, opened at the first use.
func (m *linuxMachine) socket(t *testing.T) *os.File {
	t.Helper()
	if m.packet != nil {
		return m.packet
	}
	m.node.Do(func() {
		link, err := net.InterfaceByName(testConfig.Name)
		if err != nil {
			t.Fatal(err)
		}
		proto := uint16(etherType>>8 | etherType&0xff<<8)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(proto))
		if err != nil {
			t.Fatal(err)
		}
		m.packet = os.NewFile(uintptr(fd), "packet")
		t.Cleanup(func() { m.packet.Close() })
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: link.Index}); err != nil {
			t.Fatal(err)
		}
	})
	return m.packet
}

func (m *linuxMachine) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := m.socket(t).Write(frame); err != nil {
		t.Fatal(err)
	}
}

func (m *linuxMachine) receive(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, MaxRead)
	m.packet.SetReadDeadline(time.Now().Add(2 * time.Second))
	for {
		n, err := m.packet.Read(b)
		if err != nil {
			return nil
		}
		if b[0] == 2 { // not the suite's own, which the socket hears as well
			return b[:n]
		}
	}
}

func TestLinuxConfigures(t *testing.T) {
	m := newLinuxMachine(t, netlab.New(t), Linux{}.Open)
	check := func(t *testing.T, address string) {
		t.Helper()
		m.node.Do(func() {
			link, err := netlink.LinkByName(testConfig.Name)
			if err != nil {
				t.Fatal(err)
			}
			a := link.Attrs()
			if a.MTU != testConfig.MTU || !slices.Equal(a.HardwareAddr, testConfig.HardwareAddr) {
				t.Errorf("MTU %d, hardware address %s", a.MTU, a.HardwareAddr)
			}
			if want := net.FlagUp | net.FlagBroadcast | net.FlagMulticast; a.Flags&want != want {
				t.Errorf("flags %s, want at least %s", a.Flags, want)
			}
			v4, _ := netlink.AddrList(link, netlink.FAMILY_V4)
			if len(v4) != 1 || v4[0].IPNet.String() != address {
				t.Errorf("addresses %v, want %s alone", v4, address)
			}
			v6, _ := netlink.AddrList(link, netlink.FAMILY_V6)
			if len(v6) != 0 {
				t.Errorf("IPv6 addresses %v, want none", v6)
			}
		})
	}
	d, err := m.Open(testConfig)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := d.(*offloadDevice); !ok {
		t.Errorf("device is a %T; this kernel should have vnet_hdr and offloads", d)
	}
	check(t, "10.250.0.2/16")
	d.Close()
	check(t, "10.250.0.2/16") // persistent

	other := testConfig
	other.Address = netip.MustParsePrefix("10.251.0.9/24")
	d, err = m.Open(other)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	check(t, "10.251.0.9/24")
}

// TestLinuxReadsSuperpackets sends 20,000 bytes of UDP with segmentation left
// to the device: they must arrive in one Read with the header that says so.
func TestLinuxReadsSuperpackets(t *testing.T) {
	m := newLinuxMachine(t, netlab.New(t), Linux{}.Open)
	d, err := m.Open(testConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const segment, total = 1000, 20000
	m.node.Run("ip", "neigh", "add", "10.250.0.3", "lladdr", "02:00:00:00:00:03", "dev", testConfig.Name)
	m.node.Do(func() {
		conn, err := net.Dial("udp4", "10.250.0.3:9")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, _ := conn.(*net.UDPConn).SyscallConn()
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment) })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(make([]byte, total)); err != nil {
			t.Fatal(err)
		}
	})
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
		if f[0] != 2 { // multicast the kernel sends by itself
			continue
		}
		if len(f) != EthernetSize+20+8+total || h.GSOSize != segment || h.GSOType != unix.VIRTIO_NET_HDR_GSO_UDP_L4 || h.Flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 {
			t.Errorf("Read gave %d bytes with %+v, want one superpacket with %d in segments of %d", len(f), h, total, segment)
		}
		return
	}
}

func TestLinuxRefusesAnInterfaceOfAnotherKind(t *testing.T) {
	m := newLinuxMachine(t, netlab.New(t), Linux{}.Open)
	m.node.Run("ip", "link", "add", testConfig.Name, "type", "bridge")
	if _, err := m.Open(testConfig); err == nil || !strings.Contains(err.Error(), "no TAP") {
		t.Errorf("Open over a bridge: %v", err)
	}
	long := testConfig
	long.Name = strings.Repeat("x", 16)
	if _, err := m.Open(long); err == nil {
		t.Error("a name of 16 bytes was taken")
	}
}

func TestLinuxRoutes(t *testing.T) {
	lab := netlab.New(t)
	m := newLinuxMachine(t, lab, Linux{}.Open)
	lab.Cable(m.node, "192.0.2.1/24", lab.Node("other"), "192.0.2.2/24")
	m.node.Run("ip", "route", "add", "default", "via", "192.0.2.2")
	m.node.Run("ip", "route", "add", "10.250.3.0/24", "via", "192.0.2.2")
	routes, err := m.Routes(testConfig.Name)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, r := range routes {
		texts = append(texts, r.String())
	}
	slices.Sort(texts)
	want := []string{
		"address 127.0.0.1/32 on lo",
		"address 192.0.2.1/32 on eth0",
		"route 0.0.0.0/0 via 192.0.2.2 on eth0",
		"route 10.250.3.0/24 via 192.0.2.2 on eth0",
		"route 192.0.2.0/24 on eth0",
	}
	if !slices.Equal(texts, want) {
		t.Errorf("routes\n got %q\nwant %q", texts, want)
	}
}
