package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"gridappliance/overlayd/underlay"
)

// heard is a beacon and where it came from.
type heard struct {
	from netip.AddrPort // with the zone, of a link-local address
	data []byte
}

// hops is the hop limit of every beacon: what arrives with it has passed no
// router (RFC 5082).
const hops = 255

// lan is the sockets of the beacon.
type lan struct {
	c4   *ipv4.PacketConn
	c6   *ipv6.PacketConn
	conn []net.PacketConn
	in   chan heard
	on   map[int]bool // interfaces that are listened on
}

// openLAN opens the beacon's sockets. Several nodes of one machine may have
// them at once. Either family may be missing, not both.
func openLAN() (*lan, error) {
	l := &lan{in: make(chan heard, 64), on: map[int]bool{}}
	cfg := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }), err)
	}}
	at := ":" + strconv.Itoa(beaconPort)
	c4, err4 := cfg.ListenPacket(context.Background(), "udp4", at)
	if err4 == nil {
		l.conn = append(l.conn, c4)
		l.c4 = ipv4.NewPacketConn(c4)
		l.c4.SetMulticastTTL(hops)
		l.c4.SetTTL(hops)
		l.c4.SetMulticastLoopback(true)
		l.c4.SetControlMessage(ipv4.FlagTTL, true)
	}
	c6, err6 := cfg.ListenPacket(context.Background(), "udp6", at)
	if err6 == nil {
		l.conn = append(l.conn, c6)
		l.c6 = ipv6.NewPacketConn(c6)
		l.c6.SetMulticastHopLimit(hops)
		l.c6.SetHopLimit(hops)
		l.c6.SetMulticastLoopback(true)
		l.c6.SetControlMessage(ipv6.FlagHopLimit, true)
	}
	if len(l.conn) == 0 {
		return nil, fmt.Errorf("listen on the LAN: %w", errors.Join(err4, err6))
	}
	return l, nil
}

// listen reads one family's socket until it is closed. What has passed a router
// is not from the LAN.
func (l *lan) listen(four bool) {
	b := make([]byte, 512)
	for {
		var n, left int
		var from net.Addr
		var err error
		if four {
			var cm *ipv4.ControlMessage
			if n, cm, from, err = l.c4.ReadFrom(b); cm != nil {
				left = cm.TTL
			}
		} else {
			var cm *ipv6.ControlMessage
			if n, cm, from, err = l.c6.ReadFrom(b); cm != nil {
				left = cm.HopLimit
			}
		}
		if err != nil {
			return
		}
		if left != hops {
			continue
		}
		at := from.(*net.UDPAddr).AddrPort()
		select {
		case l.in <- heard{netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), append([]byte{}, b[:n]...)}:
		default: // more than anybody needs
		}
	}
}

// join listens on the interfaces that there are now.
func (l *lan) join(interfaces []underlay.Interface) {
	now := map[int]bool{}
	for _, i := range interfaces {
		if !i.Multicast {
			continue
		}
		now[i.Index] = true
		if l.on[i.Index] {
			continue
		}
		ifi := &net.Interface{Index: i.Index, Name: i.Name}
		// An interface without the family, or gone meanwhile, is none to hear.
		if l.c4 != nil {
			l.c4.JoinGroup(ifi, &net.UDPAddr{IP: group4.AsSlice()})
		}
		if l.c6 != nil {
			l.c6.JoinGroup(ifi, &net.UDPAddr{IP: group6.AsSlice()})
		}
	}
	l.on = now
}

// ask sends a beacon to everybody on an interface.
func (l *lan) ask(i underlay.Interface, b []byte) {
	if l.c4 != nil {
		l.c4.WriteTo(b, &ipv4.ControlMessage{IfIndex: i.Index}, &net.UDPAddr{IP: group4.AsSlice(), Port: beaconPort})
	}
	if l.c6 != nil {
		l.c6.WriteTo(b, &ipv6.ControlMessage{IfIndex: i.Index, HopLimit: hops}, &net.UDPAddr{IP: group6.AsSlice(), Port: beaconPort, Zone: i.Name})
	}
}

// answer sends one back.
func (l *lan) answer(to netip.AddrPort, b []byte) {
	addr := net.UDPAddrFromAddrPort(to)
	if to.Addr().Is4() && l.c4 != nil {
		l.c4.WriteTo(b, nil, addr)
	} else if to.Addr().Is6() && l.c6 != nil {
		l.c6.WriteTo(b, nil, addr)
	}
}

func (l *lan) close() {
	for _, c := range l.conn {
		c.Close()
	}
}
