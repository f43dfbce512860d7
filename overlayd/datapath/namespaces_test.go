package datapath

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/overlayd/device"
	"gridappliance/overlayd/packet"
	"gridappliance/overlayd/transport"
)

// underlayIn is an Underlay in a namespace.
type underlayIn struct{ *netlab.Node }

func (n underlayIn) Listen(local netip.AddrPort) (c transport.Conn, err error) {
	n.Do(func() { c, err = transport.UDP{}.Listen(local) })
	return c, err
}

// hostIn is a Host that opens its devices in a namespace.
type hostIn struct {
	device.Linux
	node *netlab.Node
}

func (h hostIn) Open(cfg device.Config) (d device.Device, err error) {
	h.node.Do(func() { d, err = h.Linux.Open(cfg) })
	return d, err
}

// TestTheKernelCutsAlike gives joined superpackets to a kernel that has to cut
// them in software, and compares what it sends with what was sent to us.
//
//	receiver ── tapipop ── bridge ── eth0, no offloads ──── packet socket
func TestTheKernelCutsAlike(t *testing.T) {
	need.Tool(t, "ethtool")
	lab := netlab.New(t)
	node, outside := lab.Node("node"), lab.Node("outside")
	lab.Cable(node, "", outside, "")
	node.Run("ethtool", "-K", "eth0", "tx", "off", "gso", "off", "tso", "off", "tx-udp-segmentation", "off")

	x := newBench(t, all, false)
	dev, err := hostIn{node: node}.Open(device.Config{Name: "tapipop", HardwareAddr: []byte{2, 0, 0, 0, 0, 2}, MTU: 1280, Address: netip.MustParsePrefix("10.250.0.3/16")})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if o := dev.Offloads(); !o.TCP || !o.UDP {
		t.Skipf("this kernel's TAP takes %+v", o)
	}
	// The bridge sends on what is not for itself.
	x.b.dev.Store(&attached{Device: dev, hardware: [6]byte{2, 0, 0, 0, 0, 0x77}})
	node.Run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	node.Run("ip", "link", "set", "tapipop", "master", "br0")
	node.Run("ip", "link", "set", "eth0", "master", "br0")
	node.Run("ip", "link", "set", "br0", "up")
	heard := listen(t, outside, "eth0")
	// A bridge's port learns before it forwards, unless the time for it is 0.
	time.Sleep(100 * time.Millisecond)

	r := rand.New(rand.NewPCG(7, 7))
	for i := range 60 {
		from, to := addrA, addrB
		if r.IntN(2) == 1 {
			from, to = addrA6, addrB6
		}
		payload := 1 + r.IntN(60000)
		var h device.Header
		var p []byte
		if r.IntN(3) == 0 {
			h, p = udp(from, to, payload, 100+max(payload/60, r.IntN(1100)))
		} else {
			h, p = tcp(from, to, payload, 1220)
		}
		size := device.DefaultMTU
		ip, err := packet.Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		segment := size - ip.Headers()
		if ip.Protocol == packet.UDP && h.GSOSize > 0 {
			segment = int(h.GSOSize)
		}
		if ip.Protocol == packet.UDP && h.GSOSize == 0 && ip.Length > size {
			continue
		}
		var want [][]byte
		var cut packet.Cut
		copied := bytes.Clone(p)
		cut.Begin(copied, &ip, segment)
		for s := cut.Next(); s != nil; s = cut.Next() {
			one := bytes.Clone(s)
			q, err := packet.Parse(one)
			if err != nil {
				t.Fatal(err)
			}
			q.Checksum(one)
			want = append(want, one)
		}
		x.across(h, p)
		for k, w := range want {
			got := heard(w[0] >> 4)
			if !bytes.Equal(got, w) {
				t.Fatalf("superpacket %d of %d bytes, protocol %d, IPv6 %v: the kernel sent another packet %d of %d; counted %v\n got %x\nwant %x", i, len(p),
					ip.Protocol, ip.Is6(), k, len(want), x.b.counts.all(), got[:min(len(got), 60)], w[:min(len(w), 60)])
			}
		}
	}
}

// listen returns a function that waits for the next TCP or UDP packet of an IP
// version with a test's ports on an interface.
func listen(t *testing.T, n *netlab.Node, name string) func(version byte) []byte {
	t.Helper()
	var file *os.File
	n.Do(func() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		const protocol = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file = os.NewFile(uintptr(fd), "packet")
		t.Cleanup(func() { file.Close() })
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Attrs().Index}); err != nil {
			t.Fatal(err)
		}
	})
	b := make([]byte, 70000)
	return func(version byte) []byte {
		file.SetReadDeadline(time.Now().Add(3 * time.Second))
		for {
			k, err := file.Read(b)
			if err != nil {
				return nil
			}
			if k > device.EthernetSize && b[device.EthernetSize]>>4 == version {
				p, err := packet.Parse(b[device.EthernetSize:k])
				if err == nil && p.Plain && (p.Dst == addrB || p.Dst == addrB6) {
					return bytes.Clone(b[device.EthernetSize:][:p.Length])
				}
			}
		}
	}
}

// pair is two machines with a data path each, joined by a cable.
func pair(t testing.TB) (na, nb *netlab.Node, a, b *end) {
	lab := netlab.New(t)
	na, nb = lab.Node("a"), lab.Node("b")
	lab.Cable(na, "192.0.2.1/24", nb, "192.0.2.2/24")
	a, b = newEnd(t, underlayIn{na}, idA, atA, addrA), newEnd(t, underlayIn{nb}, idB, atB, addrB)
	a.attach(t, hostIn{node: na}, "tapipop")
	b.attach(t, hostIn{node: nb}, "tapipop")
	join(t, a, b)
	return na, nb, a, b
}

// TestTransfers moves bytes both ways at once over each kind of underlay, and
// datagrams of all lengths.
func TestTransfers(t *testing.T) {
	need.Tool(t, "ethtool")
	need.Tool(t, "nft")
	for _, c := range []struct {
		name string
		set  func(n *netlab.Node)
		size int
		lost bool
	}{
		{"whole", func(*netlab.Node) {}, 64 << 20, false},
		{"the kernel segments and groups", func(n *netlab.Node) {
			n.Run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off", "gro", "on")
		}, 32 << 20, false},
		{"singly, with losses", func(n *netlab.Node) {
			n.Run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off", "gro", "off")
			n.Run("nft", "add table netdev t")
			n.Run("nft", "add chain netdev t in { type filter hook ingress device eth0 priority 0; }")
			n.Run("nft", "add rule netdev t in numgen random mod 100 < 1 drop")
		}, 4 << 20, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			na, nb, a, b := pair(t)
			c.set(na)
			c.set(nb)
			done := make(chan error, 2)
			for i, way := range []struct {
				from, to *netlab.Node
				address  netip.Addr
			}{{na, nb, addrB}, {nb, na, addrA}} {
				go func() { done <- transfer(way.from, way.to, way.address, c.size, uint64(i)) }()
			}
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			for _, e := range []*end{a, b} {
				for k, n := range e.counts.all() {
					switch k {
					case RxDatagrams, TxDatagrams, RxFrames, TxFrames, DropSource, DropFrameType: // what a kernel says by itself is no packet of ours
					default:
						t.Errorf("counted %s %d", k, n)
					}
				}
			}
			if !c.lost {
				datagrams(t, na, nb)
			}
		})
	}
}

// transfer sends size random bytes by TCP and compares their digests.
func transfer(from, to *netlab.Node, address netip.Addr, size int, seed uint64) error {
	var l net.Listener
	var err error
	to.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String()) })
	if err != nil {
		return err
	}
	defer l.Close()
	got := make(chan [32]byte, 1)
	go func() {
		var sum [32]byte
		defer func() { got <- sum }()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		h := sha256.New()
		conn.SetDeadline(time.Now().Add(60 * time.Second))
		if _, err := io.Copy(h, conn); err == nil {
			h.Sum(sum[:0])
		}
	}()
	var conn net.Conn
	from.Do(func() { conn, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second) })
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	h := sha256.New()
	random := rand.NewChaCha8([32]byte{byte(seed)})
	if _, err := io.CopyN(io.MultiWriter(h, conn), random, int64(size)); err != nil {
		return err
	}
	conn.Close()
	if sum := <-got; !bytes.Equal(h.Sum(nil), sum[:]) {
		return errors.New("what arrived is not what was sent")
	}
	return nil
}

// datagrams sends UDP of every kind of length, singly and as superpackets, and
// wants all of it.
func datagrams(t *testing.T, from, to *netlab.Node) {
	t.Helper()
	var in, out *net.UDPConn
	var err error
	to.Do(func() { in, err = net.ListenUDP("udp", &net.UDPAddr{IP: addrB.AsSlice()}) })
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	from.Do(func() { out, err = net.DialUDP("udp", nil, in.LocalAddr().(*net.UDPAddr)) })
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	receive := func(n int) []byte {
		t.Helper()
		b := make([]byte, 2000)
		in.SetReadDeadline(time.Now().Add(5 * time.Second))
		k, err := in.Read(b)
		if err != nil || k != n {
			t.Fatalf("a datagram of %d bytes: %d arrived, %v", n, k, err)
		}
		return b[:k]
	}
	const longest = device.DefaultMTU - 28
	for n := 0; n <= longest; n += 61 {
		sent := bytes.Repeat([]byte{byte(n)}, n)
		if _, err := out.Write(sent); err != nil {
			t.Fatal(err)
		}
		if got := receive(n); !bytes.Equal(got, sent) {
			t.Fatalf("a datagram of %d bytes differs", n)
		}
	}
	raw, err := out.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const segment, count = 1000, 50
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment) })
	if err != nil {
		t.Skip("no UDP_SEGMENT in this kernel")
	}
	super := make([]byte, segment*count-7)
	for i := range super {
		super[i] = byte(i / segment)
	}
	if _, err := out.Write(super); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if got := receive(min(segment, len(super)-i*segment)); !bytes.Equal(got, super[i*segment:][:len(got)]) {
			t.Fatalf("segment %d differs", i)
		}
	}
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 0) })
	// Longer than the device's MTU: the kernel itself fragments it, whatever the
	// overlay does; with DF it is refused at once.
	if _, err := out.Write(make([]byte, 3000)); err != nil && !errors.Is(err, syscall.EMSGSIZE) {
		t.Error(err)
	}
}
