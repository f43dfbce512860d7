package session

import (
	"encoding/binary"
	"net/netip"
)

// Virtual says what a virtual endpoint stands for.
type Virtual uint8

// Kinds of virtual endpoints.
const (
	NotVirtual  Virtual = iota // an endpoint of the underlay
	ByBootstrap                // the peer through a bootstrap that both are enrolled at
	ByStream                   // the peer, or a bootstrap between, over TCP
)

func (v Virtual) String() string { return [...]string{"", "bootstrap", "tcp"}[min(v, ByStream)] }

// virtualPrefix is discard-only (RFC 6666): a router drops what is sent there,
// so a virtual endpoint that reaches a socket by mistake does no harm.
var virtualPrefix = netip.MustParsePrefix("100::/64")

// VirtualEndpoint returns an endpoint that stands for a way to a peer which is
// not one UDP datagram from socket to socket: through a bootstrap, over TCP.
// What it stands for is known to whoever made it, on this machine only: it is
// told to nobody, and nobody's word makes one.
//
//	100::KK00:BBBB:NNNN:NNNN port 1
//
// K is the kind, B which of this node's bootstraps, from 1, and N whose handle
// there; or, with B 0, N is which TCP connection.
func VirtualEndpoint(kind Virtual, bootstrap uint16, n uint32) netip.AddrPort {
	a := virtualPrefix.Addr().As16()
	a[8] = byte(kind)
	binary.BigEndian.PutUint16(a[10:], bootstrap)
	binary.BigEndian.PutUint32(a[12:], n)
	return netip.AddrPortFrom(netip.AddrFrom16(a), 1)
}

// ParseVirtual takes a virtual endpoint apart; the kind is NotVirtual if it is
// none.
func ParseVirtual(e netip.AddrPort) (kind Virtual, bootstrap uint16, n uint32) {
	a := e.Addr().As16()
	return VirtualKind(e.Addr()), binary.BigEndian.Uint16(a[10:]), binary.BigEndian.Uint32(a[12:])
}

// VirtualKind returns what an address's endpoints stand for. What a socket
// says it received from a virtual endpoint is forged.
func VirtualKind(a netip.Addr) Virtual {
	if !virtualPrefix.Contains(a.WithZone("")) {
		return NotVirtual
	}
	return Virtual(a.As16()[8])
}

// Virtual returns what the path's endpoint stands for.
func (v Via) Virtual() Virtual { return VirtualKind(v.Endpoint.Addr()) }
