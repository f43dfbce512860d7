package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Implementation: tunable at will.
const (
	socketBuffer = 8 << 20 // bytes, each way
	maxReceive   = 64      // messages a call
	maxTransmit  = 64      // messages a call
)

// controlSize is the space of one control message with a 16-bit (UDP_SEGMENT)
// or 32-bit (UDP_GRO) number.
const controlSize = unix.SizeofCmsghdr + 8

// udpBatch is a UDP socket with segmentation and batches.
type udpBatch struct {
	udpConn
	raw syscall.RawConn
	is6 bool // the socket is IPv6, for IPv4 too

	in *vector // of Receive; made at its first call, as are the others

	mu       sync.Mutex // guards what follows
	plain    bool       // the kernel does not segment
	out, one *vector    // of Transmit, and of a message that is sent singly
}

// vector is the arguments of recvmmsg and sendmmsg and their result.
type vector struct {
	headers []mmsghdr
	pieces  []unix.Iovec
	names   []unix.RawSockaddrInet6
	control [][controlSize]byte

	first, count int // what the next call takes
	done         int
	errno        syscall.Errno
	call         func(fd uintptr) bool // made once: a new closure a call would be an allocation
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

func newUDP(conn *net.UDPConn) (Conn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &udpBatch{udpConn: udpConn{conn}, raw: raw}
	var domain int
	controlErr := raw.Control(func(fd uintptr) {
		if domain, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
			return
		}
		for forced, asked := range map[int]int{unix.SO_RCVBUFFORCE: unix.SO_RCVBUF, unix.SO_SNDBUFFORCE: unix.SO_SNDBUF} {
			// Without CAP_NET_ADMIN: as much as net.core.rmem_max allows.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, forced, socketBuffer) != nil {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, asked, socketBuffer))
			}
		}
		_, before418 := unix.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT)
		c.plain = before418 != nil
	})
	if err = errors.Join(controlErr, err); err != nil {
		conn.Close()
		return nil, fmt.Errorf("configure UDP socket: %w", err)
	}
	c.is6 = domain == unix.AF_INET6
	return c, nil
}

// newVector returns a vector for n messages a call of recvmmsg or sendmmsg.
// Its call is what RawConn runs when the socket may be ready: it reports
// whether there is a result, or the socket must be waited for.
func newVector(n int, number uintptr) *vector {
	v := &vector{make([]mmsghdr, n), make([]unix.Iovec, n), make([]unix.RawSockaddrInet6, n), make([][controlSize]byte, n), 0, 0, 0, 0, nil}
	v.call = func(fd uintptr) bool {
		for {
			// Raw: the socket never blocks, and Go's scheduler would take a call of
			// more than 20 µs, as that for a whole run is, for one that does and
			// give its processor to another thread.
			n, _, errno := syscall.RawSyscall6(number, fd, uintptr(unsafe.Pointer(&v.headers[v.first])), uintptr(v.count), 0, 0, 0)
			v.done, v.errno = int(n), errno
			switch errno {
			case 0:
				return true
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				return false
			}
			v.done = 0
			return true
		}
	}
	return v
}

// Receive implements Batch.
func (c *udpBatch) Receive(ms []Message) (int, error) {
	if c.in == nil {
		c.in = newVector(maxReceive, unix.SYS_RECVMMSG)
		// A kernel before 5.0 has no UDP_GRO: then each datagram comes alone.
		c.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) })
	}
	v := c.in
	v.first, v.count = 0, min(len(ms), maxReceive)
	for i := range v.count {
		room := ms[i].Data[:cap(ms[i].Data)]
		v.pieces[i].Base = unsafe.SliceData(room)
		v.pieces[i].SetLen(len(room))
		h := &v.headers[i].header
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&v.names[i])), Namelen: unix.SizeofSockaddrInet6, Iov: &v.pieces[i], Control: &v.control[i][0]}
		h.SetIovlen(1)
		h.SetControllen(controlSize)
	}
	if err := c.raw.Read(v.call); err != nil {
		return 0, err
	}
	if v.errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", v.errno)
	}
	for i := range v.done {
		m, h := &ms[i], &v.headers[i]
		m.Data = m.Data[:h.length]
		m.Peer = endpoint(&v.names[i])
		m.Segment = 0
		if h.header.Controllen >= unix.SizeofCmsghdr+4 {
			b := &v.control[i]
			cmsg := (*unix.Cmsghdr)(unsafe.Pointer(b))
			if cmsg.Level == unix.SOL_UDP && cmsg.Type == unix.UDP_GRO {
				m.Segment = int(binary.NativeEndian.Uint32(b[unix.SizeofCmsghdr:]))
			}
		}
	}
	return v.done, nil
}

// endpoint reads a socket address.
func endpoint(name *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	if name.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr), port)
	}
	addr := netip.AddrFrom16(name.Addr).Unmap()
	if name.Scope_id != 0 && addr.IsLinkLocalUnicast() {
		if link, err := net.InterfaceByIndex(int(name.Scope_id)); err == nil {
			addr = addr.WithZone(link.Name)
		}
	}
	return netip.AddrPortFrom(addr, port)
}

// Transmit implements Batch.
func (c *udpBatch) Transmit(ms []Message) (refused int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil {
		c.out, c.one = newVector(maxTransmit, unix.SYS_SENDMMSG), newVector(maxTransmit, unix.SYS_SENDMMSG)
	}
	for len(ms) > 0 && err == nil {
		n := min(len(ms), maxTransmit)
		var k int
		k, err = c.transmit(ms[:n])
		refused += k
		ms = ms[n:]
	}
	return refused, err
}

func (c *udpBatch) transmit(ms []Message) (refused int, err error) {
	v := c.out
	for i := range ms {
		v.prepare(i, ms[i].Data, ms[i].Peer, c.is6)
		if s := ms[i].Segment; ms[i].several() {
			h, b := &v.headers[i].header, &v.control[i]
			cmsg := (*unix.Cmsghdr)(unsafe.Pointer(b))
			cmsg.Level, cmsg.Type = unix.SOL_UDP, unix.UDP_SEGMENT
			cmsg.SetLen(unix.SizeofCmsghdr + 2)
			binary.NativeEndian.PutUint16(b[unix.SizeofCmsghdr:], uint16(s))
			h.Control = &b[0]
			h.SetControllen(controlSize)
		}
	}
	for i := 0; i < len(ms); {
		n := 0
		for n < len(ms)-i && !c.singly(&ms[i+n]) {
			n++
		}
		if n > 0 {
			v.first, v.count = i, n
			if err := c.raw.Write(v.call); err != nil {
				return refused, err
			}
			i += v.done
			if v.errno == 0 {
				continue
			}
			// The first of what is left was refused.
			if !ms[i].several() {
				refused++
				i++
				continue
			}
			switch v.errno {
			case unix.EIO:
				c.plain = true // the network device cannot
			case unix.EMSGSIZE, unix.EINVAL:
				// A datagram is longer than this path carries; alone, it will
				// be fragmented.
			default:
				refused += (len(ms[i].Data) + ms[i].Segment - 1) / ms[i].Segment
				i++
				continue
			}
		}
		k, err := c.transmitSingly(&ms[i])
		if refused += k; err != nil {
			return refused, err
		}
		i++
	}
	return refused, nil
}

// several reports whether m is more than one datagram.
func (m *Message) several() bool { return m.Segment > 0 && m.Segment < len(m.Data) }

// singly reports whether sendmmsg cannot take m as it is.
func (c *udpBatch) singly(m *Message) bool {
	return c.plain && m.several() || m.Peer.Addr().Zone() != ""
}

// transmitSingly sends the datagrams of one message each by itself.
func (c *udpBatch) transmitSingly(m *Message) (refused int, err error) {
	if m.Peer.Addr().Zone() != "" {
		return oneByOne{c.udpConn}.Transmit([]Message{*m})
	}
	v := c.one
	for rest := m.Data; rest != nil; {
		n := 0
		for ; n < maxTransmit && rest != nil; n++ {
			var d []byte
			d, rest = m.Next(rest)
			v.prepare(n, d, m.Peer, c.is6)
		}
		for i := 0; i < n; {
			v.first, v.count = i, n-i
			if err := c.raw.Write(v.call); err != nil {
				return refused, err
			}
			if i += v.done; v.errno != 0 {
				refused++
				i++
			}
		}
	}
	return refused, nil
}

// prepare makes entry i send b to an endpoint.
func (v *vector) prepare(i int, b []byte, to netip.AddrPort, is6 bool) {
	v.pieces[i].Base = unsafe.SliceData(b)
	v.pieces[i].SetLen(len(b))
	name := &v.names[i]
	size := uint32(unix.SizeofSockaddrInet6)
	if is6 {
		*name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16()}
	} else {
		size = unix.SizeofSockaddrInet4
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		*four = unix.RawSockaddrInet4{Family: unix.AF_INET}
		if to.Addr().Is4() {
			four.Addr = to.Addr().As4()
		} else {
			four.Family = unix.AF_INET6 // refused: EAFNOSUPPORT
		}
	}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&name.Port))[:], to.Port())
	h := &v.headers[i].header
	*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(name)), Namelen: size, Iov: &v.pieces[i]}
	h.SetIovlen(1)
}
