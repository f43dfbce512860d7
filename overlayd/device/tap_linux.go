package device

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Linux is the Host that is the running kernel, in the calling thread's
// network namespace. It needs CAP_NET_ADMIN and /dev/net/tun, not root.
type Linux struct{}

var _ Host = Linux{}

// Open implements Host.
func (l Linux) Open(cfg Config) (Device, error) {
	d, err := openTAP(cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Name, explain(err))
	}
	if err := l.Configure(cfg); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Configure implements Host.
func (Linux) Configure(cfg Config) error {
	if err := configure(cfg); err != nil {
		return fmt.Errorf("configure %s: %w", cfg.Name, explain(err))
	}
	return nil
}

// openTAP makes the persistent TAP and attaches to it with offloads, or
// without where the kernel has none.
func openTAP(name string) (Device, error) {
	if len(name) == 0 || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("interface name of %d bytes: want 1 to %d", len(name), unix.IFNAMSIZ-1)
	}
	plain, err := openPlain(name)
	if err != nil {
		return nil, err
	}
	// A device with one queue takes one file: the plain one must be closed
	// before the other can attach.
	if err := plain.Close(); err != nil {
		return nil, err
	}
	d, err := openOffload(name)
	if errors.Is(err, errNoOffload) {
		return openPlain(name)
	}
	return d, err
}

// explain puts into words what the kernel means by its error numbers here.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w (%w)", ErrBusy, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("CAP_NET_ADMIN is missing: %w", err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the kernel has no tun driver: %w", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("an interface of that name exists that is no TAP, or was made with several queues: %w", err)
	}
	return err
}

var errNoOffload = errors.New("no vnet_hdr or no offloads in this kernel")

// offloadDevice carries the virtio_net_hdr as the kernel makes it.
type offloadDevice struct {
	name     string
	file     *os.File
	raw      syscall.RawConn
	offloads Offloads
	in       vector // of whoever reads
	writing  sync.Mutex
	out      vector // of who holds writing
}

// openOffload attaches to the TAP name. It returns errNoOffload when the
// kernel lacks what is needed.
func openOffload(name string) (Device, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open /dev/net/tun", err)
	}
	offloads, err := attach(fd, name)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	// The poller may learn of the file only now: before TUNSETIFF the kernel
	// reports a tun file as broken, and Go would never wake up again.
	d := &offloadDevice{name: name, file: os.NewFile(uintptr(fd), name), offloads: offloads}
	if d.raw, err = d.file.SyscallConn(); err != nil {
		d.file.Close()
		return nil, err
	}
	d.in.call, d.out.call = d.in.caller(unix.SYS_READV), d.out.caller(unix.SYS_WRITEV)
	return d, nil
}

func attach(fd int, name string) (Offloads, error) {
	features, err := unix.IoctlGetInt(fd, unix.TUNGETFEATURES)
	if err != nil || features&unix.IFF_VNET_HDR == 0 {
		return Offloads{}, errNoOffload
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return Offloads{}, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return Offloads{}, os.NewSyscallError("TUNSETIFF", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, HeaderSize); err != nil {
		return Offloads{}, errNoOffload
	}
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	const udp = unix.TUN_F_USO4 | unix.TUN_F_USO6 // from Linux 6.2
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp|udp) == nil {
		return Offloads{Checksum: true, TCP: true, UDP: true}, nil
	}
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp) == nil {
		return Offloads{Checksum: true, TCP: true}, nil
	}
	return Offloads{}, errNoOffload
}

// vector is the arguments and the result of readv(2) or writev(2). Its call is
// what RawConn runs when the file may be ready, made once.
type vector struct {
	pieces [MaxPieces]unix.Iovec
	count  int
	now    bool // do not wait
	n      int
	errno  syscall.Errno
	call   func(fd uintptr) bool
}

func (v *vector) caller(number uintptr) func(fd uintptr) bool {
	return func(fd uintptr) bool {
		for {
			// Raw: the file never blocks, and Go's scheduler would take a call of
			// more than 20 µs, as a superpacket's is, for one that does and give
			// its processor to another thread.
			n, _, errno := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(&v.pieces)), uintptr(v.count))
			v.n, v.errno = int(n), errno
			switch errno {
			case 0:
				return true
			case unix.EINTR:
				continue
			}
			v.n = 0
			return errno != unix.EAGAIN || v.now
		}
	}
}

func (v *vector) set(i int, b []byte) {
	v.pieces[i].Base = unsafe.SliceData(b)
	v.pieces[i].SetLen(len(b))
}

func (d *offloadDevice) Name() string { return d.name }

func (d *offloadDevice) Offloads() Offloads { return d.offloads }

func (d *offloadDevice) Read(b []byte) (int, error) { return d.read(b, false) }

func (d *offloadDevice) ReadNow(b []byte) (int, error) { return d.read(b, true) }

func (d *offloadDevice) read(b []byte, now bool) (int, error) {
	v := &d.in
	v.set(0, b)
	v.count, v.now = 1, now
	if d.raw.Read(v.call) != nil { // without deadlines, that is all it can be
		return 0, ErrClosed
	}
	switch v.errno {
	case 0, unix.EAGAIN:
		return v.n, nil
	}
	return 0, fmt.Errorf("read %s: %w", d.name, v.errno)
}

func (d *offloadDevice) Write(pieces ...[]byte) (int, error) {
	if err := checkPieces(pieces); err != nil {
		return 0, fmt.Errorf("write %s: %w", d.name, err)
	}
	d.writing.Lock()
	defer d.writing.Unlock()
	v := &d.out
	v.count = len(pieces)
	for i, p := range pieces {
		v.set(i, p)
	}
	if d.raw.Write(v.call) != nil {
		return 0, ErrClosed
	}
	if v.errno != 0 {
		return 0, fmt.Errorf("write %s: %w", d.name, v.errno)
	}
	return v.n, nil
}

func (d *offloadDevice) Close() error { return closeOnce(d.file.Close()) }

// plainDevice is water's TAP: one frame a call, no header.
type plainDevice struct {
	tap *water.Interface
}

func openPlain(name string) (*plainDevice, error) {
	cfg := water.Config{DeviceType: water.TAP}
	cfg.Name, cfg.Persist = name, true
	tap, err := water.New(cfg)
	if err != nil {
		return nil, err
	}
	return &plainDevice{tap: tap}, nil
}

func (d *plainDevice) Name() string { return d.tap.Name() }

func (d *plainDevice) Read(b []byte) (int, error) {
	if len(b) < HeaderSize+EthernetSize {
		return 0, fmt.Errorf("read %s: buffer of %d bytes: %w", d.Name(), len(b), ErrFrame)
	}
	clear(b[:HeaderSize])
	n, err := closedError(d.tap.Read(b[HeaderSize:]))
	if err != nil {
		return 0, err
	}
	return HeaderSize + n, nil
}

func (d *plainDevice) ReadNow([]byte) (int, error) { return 0, nil }

func (d *plainDevice) Offloads() Offloads { return Offloads{} }

func (d *plainDevice) Write(pieces ...[]byte) (int, error) {
	err := checkPieces(pieces)
	b := slices.Concat(pieces...)
	h, frame, _ := ParseHeader(b)
	if err == nil && h != (Header{}) {
		err = errNoOffload
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", d.Name(), err)
	}
	if _, err := closedError(d.tap.Write(frame)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (d *plainDevice) Close() error { return closeOnce(d.tap.Close()) }

// closedError makes os.ErrClosed the package's ErrClosed.
func closedError(n int, err error) (int, error) {
	if errors.Is(err, os.ErrClosed) {
		return n, ErrClosed
	}
	return n, err
}

func closeOnce(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// configure sets address, MTU and hardware address and brings the link up.
// What is already so is left alone: setting it again would disturb those who
// watch the interface.
func configure(cfg Config) error {
	link, err := netlink.LinkByName(cfg.Name)
	if err != nil {
		return err
	}
	attrs := link.Attrs()
	if attrs.MTU != cfg.MTU {
		if err := netlink.LinkSetMTU(link, cfg.MTU); err != nil {
			return fmt.Errorf("MTU %d: %w", cfg.MTU, err)
		}
	}
	if !slices.Equal(attrs.HardwareAddr, cfg.HardwareAddr) {
		if err := netlink.LinkSetHardwareAddr(link, cfg.HardwareAddr); err != nil {
			return fmt.Errorf("hardware address %s: %w", cfg.HardwareAddr, err)
		}
	}
	if attrs.GSOMaxSize != MaxSuperpacket {
		// A limit for the device's own good: longer ones are cut in two.
		if err := netlink.LinkSetGSOMaxSize(link, MaxSuperpacket); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("gso_max_size %d: %w", MaxSuperpacket, err)
		}
	}
	if err := disableIPv6(link); err != nil {
		return err
	}
	if cfg.Address.IsValid() {
		if err := setAddress(link, netlink.FAMILY_V4, cfg.Address, 0); err != nil {
			return fmt.Errorf("address %s: %w", cfg.Address, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	if cfg.Address6.IsValid() {
		// It is unique by its making, so nobody is asked (RFC 4862 §5.4).
		err := setAddress(link, netlink.FAMILY_V6, cfg.Address6, unix.IFA_F_NODAD)
		if err != nil && !noIPv6(err) {
			return fmt.Errorf("address %s: %w", cfg.Address6, err)
		}
	}
	return nil
}

// noIPv6 says whether an error means that the kernel has no IPv6, or that it is
// off here: then the virtual LAN has IPv4 only.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES)
}

// disableIPv6 keeps the kernel from making a link-local address, without
// which it speaks no IPv6 on the link. A kernel without IPv6 is fine too.
func disableIPv6(link netlink.Link) error {
	const addrGenNone = 1 // IN6_ADDR_GEN_MODE_NONE
	err := netlink.LinkSetIP6AddrGenMode(link, addrGenNone)
	if err == nil || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return fmt.Errorf("IPv6 off: %w", err)
}

// setAddress makes address the only one of its family on link.
func setAddress(link netlink.Link, family int, address netip.Prefix, flags int) error {
	present, err := netlink.AddrList(link, family)
	if err != nil {
		return err
	}
	want, err := netlink.ParseAddr(address.String())
	if err != nil {
		return err
	}
	for _, a := range present {
		if a.IPNet.String() == want.IPNet.String() {
			continue
		}
		if a.IP.IsLinkLocalUnicast() {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return err
		}
	}
	want.Flags = flags
	return netlink.AddrReplace(link, want)
}

// Routes implements Host.
func (Linux) Routes(except string) ([]Route, error) {
	names := map[int]string{}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var found []Route
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && names[a.LinkIndex] != except {
			ip = ip.Unmap()
			found = append(found, Route{To: netip.PrefixFrom(ip, ip.BitLen()), Interface: names[a.LinkIndex], Address: true})
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		hops := []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
		if len(r.MultiPath) > 0 {
			hops = r.MultiPath
		}
		for _, hop := range hops {
			if names[hop.LinkIndex] == except && except != "" {
				continue
			}
			route := Route{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Interface: names[hop.LinkIndex]}
			if r.Dst != nil {
				ip, _ := netip.AddrFromSlice(r.Dst.IP)
				ones, _ := r.Dst.Mask.Size()
				route.To = netip.PrefixFrom(ip.Unmap(), ones)
			}
			if via, ok := netip.AddrFromSlice(hop.Gw); ok {
				route.Via = via.Unmap()
			}
			found = append(found, route)
		}
	}
	return found, nil
}
