package portmap

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// PCP (RFC 6887) is one question and one answer, for which there is no library
// that does not bring a program along.
//
//	offset size field of a MAP request / answer
//	0      1    version, 2
//	1      1    opcode MAP, 1 / with the bit 0x80
//	2      2    0 / 1 reserved, 1 result code
//	4      4    lifetime in s
//	8      16   address of the client, IPv4 mapped into IPv6 / 4 epoch, 12 reserved
//	24     12   nonce
//	36     1    protocol, 17: UDP
//	37     3    0
//	40     2    internal port
//	42     2    suggested external port / assigned
//	44     16   suggested external address / assigned
const (
	pcpPort     = 5351 // NAT-PMP has the same
	pcpVersion  = 2
	pcpMap      = 1
	pcpAnswer   = 0x80
	pcpSize     = 60
	pcpMaxSize  = 1100
	protocolUDP = 17
)

// errOldServer says that the router speaks NAT-PMP only.
var errOldServer = errors.New("the router speaks another version")

type pcpNonce [12]byte

// pcpRequest makes a MAP request; lifetime 0 ends the mapping.
func pcpRequest(client netip.Addr, nonce pcpNonce, port, external uint16, lifetime time.Duration) []byte {
	b := make([]byte, pcpSize)
	b[0], b[1] = pcpVersion, pcpMap
	binary.BigEndian.PutUint32(b[4:], uint32(lifetime/time.Second))
	a := client.As16()
	copy(b[8:], a[:])
	copy(b[24:], nonce[:])
	b[36] = protocolUDP
	binary.BigEndian.PutUint16(b[40:], port)
	binary.BigEndian.PutUint16(b[42:], external)
	any4 := netip.IPv4Unspecified().As16()
	copy(b[44:], any4[:])
	return b
}

// parsePCP reads an answer to a request with that nonce and port. ok is false
// for what answers another question.
func parsePCP(b []byte, nonce pcpNonce, port uint16) (external netip.AddrPort, lifetime time.Duration, ok bool, err error) {
	if len(b) >= 4 && b[0] != pcpVersion && b[1]&pcpAnswer != 0 {
		return external, 0, true, errOldServer // RFC 6887 §9
	}
	if len(b) < pcpSize || len(b) > pcpMaxSize || b[0] != pcpVersion || b[1] != pcpMap|pcpAnswer ||
		pcpNonce(b[24:36]) != nonce || b[36] != protocolUDP || binary.BigEndian.Uint16(b[40:]) != port {
		return external, 0, false, nil
	}
	if code := b[3]; code == 1 {
		return external, 0, true, errOldServer
	} else if code != 0 {
		return external, 0, true, fmt.Errorf("the router refuses with code %d (RFC 6887 §7.4)", code)
	}
	external = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[44:60])).Unmap(), binary.BigEndian.Uint16(b[42:]))
	return external, time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second, true, nil
}

// pcp asks a gateway for a mapping. It repeats the question as RFC 6887
// §8.1.1 says, but faster, because the gateway is one hop away.
func pcp(ctx context.Context, r request) (netip.AddrPort, time.Duration, error) {
	var d net.Dialer
	if r.source.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.source, 0))
	}
	conn, err := d.DialContext(ctx, "udp4", netip.AddrPortFrom(r.gateway, pcpPort).String())
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	question := pcpRequest(conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), r.nonce, r.port, r.external, r.lifetime)
	answer := make([]byte, pcpMaxSize+1)
	for wait := firstWait; wait <= lastWait; wait *= 2 {
		if _, err := conn.Write(question); err != nil {
			return netip.AddrPort{}, 0, err
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		for ctx.Err() == nil {
			n, err := conn.Read(answer)
			if err != nil {
				var timeout net.Error
				if errors.As(err, &timeout) && timeout.Timeout() {
					break
				}
				return netip.AddrPort{}, 0, err // refused: nobody listens there
			}
			if external, lifetime, ok, err := parsePCP(answer[:n], r.nonce, r.port); ok {
				return external, lifetime, err
			}
		}
		if err := ctx.Err(); err != nil {
			return netip.AddrPort{}, 0, err
		}
	}
	return netip.AddrPort{}, 0, errNoAnswer
}

func newNonce() (n pcpNonce) {
	rand.Read(n[:])
	return n
}
