// Package device is the seam between overlayd and the virtual LAN's network
// device, tapipop: the interface, its Linux driver, a twin in memory, and the
// check that the LAN's addresses are not those of the network outside.
//
//	applications            HTCondor, ssh, NFS
//	     |                       |
//	  tapipop  =================================  kernel
//	     |  frames, each after a virtio_net_hdr
//	  Device.Read / Device.Write
//	     |
//	  overlayd
//
// tapipop is an Ethernet device (TAP): it broadcasts, multicasts and has a
// hardware address, cut from the node ID, so that stock software works on it.
// Read and Write carry one frame each, behind a Header that says which work
// the kernel left to the device (checksum, segmentation):
//
//	offset size field        meaning (virtio 1.2 §5.1.6, host byte order)
//	 0     1    flags        1: the checksum at csum_start+csum_offset is to do
//	 1     1    gso_type     0: one frame; else a superpacket to cut
//	 2     2    hdr_len      bytes of Ethernet, IP and TCP/UDP header
//	 4     2    gso_size     payload bytes of each segment
//	 6     2    csum_start   where summing begins, from the frame's start
//	 8     2    csum_offset  where the sum goes, from csum_start
//	10          frame        Ethernet, no FCS
//
// The driver reads and writes by readv(2) and writev(2) on a file that Go's
// poller waits for; it allocates nothing a frame.
//
// The Linux driver makes the TAP persistent: it, its address and its route
// stay when overlayd stops or is killed. Connections and sockets bound to the
// device live through a restart, and in between nothing meant for the virtual
// LAN leaves by the underlay; the lack of a carrier shows that nobody is
// behind it. The next Open replaces whatever address it finds. Whoever wants
// it gone says "ip link delete tapipop".
//
// The kernel makes no link-local address on the device: IPv6 is what the
// overlay gives it. The package keeps no global state. Limits on purpose: one queue
// a device; IPv4 routes only.
package device

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"gridappliance/overlayd/nodeid"
)

const (
	// HeaderSize is the length of a Header in front of a frame, in bytes.
	HeaderSize = 10
	// EthernetSize is the length of an Ethernet header, in bytes.
	EthernetSize = 14
	// MaxRead is the longest Header and frame that Read returns, in bytes: the
	// kernel's superpackets carry at most a 64 KiB IP packet.
	MaxRead = HeaderSize + EthernetSize + 65535

	// MaxPieces is how many pieces a Write takes.
	MaxPieces = 128

	// MaxSuperpacket is the longest superpacket that the kernel is asked for
	// (gso_max_size, which counts 321 bytes for headers): 49 segments at MTU
	// 1280, each sealed in a record and marked for a relay, are 65,268 bytes, and
	// the kernel takes at most 65,507 to cut in one call.
	MaxSuperpacket = 60500

	// MinMTU and MaxMTU bound a configured MTU, in bytes: below 1280 IPv6 is
	// impossible (RFC 8200 §5), above 65521 a frame is longer than MaxRead's.
	MinMTU = 1280
	MaxMTU = 65521
	// DefaultMTU is 1280 because every path carries it whole: 1280 + 14
	// (Ethernet) + 16 + 16 (record header and tag) + 48 (a relay's header) + 8
	// (UDP) + 40 (IPv6) = 1422, below PPPoE's 1492 and most tunnels' 1420 for
	// a direct path. A larger value saves little where superpackets travel.
	DefaultMTU = 1280
)

// Errors that callers branch on; all are returned wrapped.
var (
	ErrBusy   = errors.New("another program, probably a second overlayd, has it open")
	ErrClosed = net.ErrClosed
	ErrFrame  = errors.New("no whole header and frame")
)

// Device is an open network device. One goroutine may Read while another
// Writes; Close may be called from a third and more than once.
type Device interface {
	// Name is the interface's name as the kernel has it.
	Name() string

	// Read waits for the next frame that the kernel sends and puts Header and
	// frame into b. What does not fit b is cut off: MaxRead bytes hold all.
	// After Close, or when Close is called meanwhile, it returns ErrClosed.
	Read(b []byte) (n int, err error)

	// ReadNow is Read, but returns 0 at once when no frame waits, or when the
	// device cannot tell.
	ReadNow(b []byte) (n int, err error)

	// Write hands the kernel Header and frame, one after the other in pieces
	// of which the first holds at least both headers; it keeps none. It returns
	// ErrFrame when that is shorter or there are more than MaxPieces, and
	// ErrClosed after Close.
	Write(pieces ...[]byte) (n int, err error)

	// Offloads says which work the kernel leaves to the device and takes from
	// it.
	Offloads() Offloads

	// Close ends Read and lets go of the device.
	Close() error
}

// Offloads is what may be in a Header. Without Checksum it is always zero.
type Offloads struct {
	Checksum bool // checksums to do
	TCP, UDP bool // superpackets of these, over IPv4 and IPv6
}

// Config is what a device should be.
type Config struct {
	Name         string           // interface name: at most 15 bytes
	HardwareAddr net.HardwareAddr // 6 bytes
	MTU          int              // bytes, MinMTU to MaxMTU
	Address      netip.Prefix     // IPv4 address with the pool's mask; zero: what the device has stays
	Address6     netip.Prefix     // IPv6 address with its network; zero: none
}

// Host is where devices are: the running kernel (Linux) or a twin (Memory).
type Host interface {
	// Open makes the device if it is not there, configures it as cfg says,
	// brings it up and attaches to it. Errors: ErrBusy when somebody else is
	// attached; fs.ErrPermission when CAP_NET_ADMIN is missing.
	Open(cfg Config) (Device, error)

	// Configure makes an open device as cfg says.
	Configure(cfg Config) error

	// Routes returns the IPv4 addresses and routes of every interface but
	// the one named except.
	Routes(except string) ([]Route, error)
}

// Header is a decoded virtio_net_hdr; its fields are in the package comment.
type Header struct {
	Flags, GSOType                         uint8
	HdrLen, GSOSize, CsumStart, CsumOffset uint16
}

// Values of Header's fields (virtio 1.2 §5.1.6).
const (
	NeedsChecksum = 1 // Flags

	GSONone = 0 // GSOType
	GSOTCP4 = 1
	GSOTCP6 = 4
	GSOUDP  = 5
	GSOECN  = 0x80 // with GSOTCP4 and GSOTCP6
)

// Put writes h to the first HeaderSize bytes of b.
func (h Header) Put(b []byte) {
	b[0], b[1] = h.Flags, h.GSOType
	binary.NativeEndian.PutUint16(b[2:], h.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], h.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], h.CsumOffset)
}

// checkPieces reports whether a Write may take these.
func checkPieces(pieces [][]byte) error {
	if len(pieces) == 0 || len(pieces) > MaxPieces || len(pieces[0]) < HeaderSize+EthernetSize {
		return ErrFrame
	}
	return nil
}

// ParseHeader splits what Read returned into header and frame, which aliases
// b. It returns ErrFrame when b is shorter than both headers.
func ParseHeader(b []byte) (h Header, frame []byte, err error) {
	if len(b) < HeaderSize+EthernetSize {
		return Header{}, nil, ErrFrame
	}
	h = Header{
		Flags:      b[0],
		GSOType:    b[1],
		HdrLen:     binary.NativeEndian.Uint16(b[2:]),
		GSOSize:    binary.NativeEndian.Uint16(b[4:]),
		CsumStart:  binary.NativeEndian.Uint16(b[6:]),
		CsumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
	return h, b[HeaderSize:], nil
}

// HardwareAddr returns the hardware address of a node: the first 48 bits of
// its ID with the bits set that make it unicast and locally administered
// (IEEE 802 §8.2.2).
func HardwareAddr(id nodeid.ID) net.HardwareAddr {
	a := net.HardwareAddr(append([]byte(nil), id[:6]...))
	a[0] = a[0]&^1 | 2
	return a
}
