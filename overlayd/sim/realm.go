package sim

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// endpoint is an address and port in one word, which maps hash quickly.
type endpoint uint64

func endpointOf(addr uint32, port uint16) endpoint { return endpoint(addr)<<16 | endpoint(port) }

func (e endpoint) addr() uint32 { return uint32(e >> 16) }
func (e endpoint) port() uint16 { return uint16(e) }

func (e endpoint) addrPort() netip.AddrPort {
	return netip.AddrPortFrom(addrOf(e.addr()), e.port())
}

func addrOf(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}

// toEndpoint says false for what is no IPv4 address.
func toEndpoint(ap netip.AddrPort) (endpoint, bool) {
	a := ap.Addr()
	if !a.Is4() {
		return 0, false
	}
	b := a.As4()
	return endpointOf(binary.BigEndian.Uint32(b[:]), ap.Port()), true
}

// Realm is a set of addresses that reach each other: the Internet, or what is
// behind one translator. Addresses of different private realms are the same
// ones, as at people's homes.
type Realm struct {
	gateway *NAT // nil for the Internet
	base    uint32
	at      []attached // by address - base
}

// attached is what has an address in a realm: a host or a translator.
type attached struct {
	host *Host
	nat  *NAT
}

const (
	internetBase = 1 << 24           // 1.0.0.0
	privateBase  = 192<<24 | 168<<16 // 192.168.0.0
	carrierBase  = 100<<24 | 64<<16  // 100.64.0.0
)

// attach gives the next address of the realm. The first is left out, so that
// no address is the network's own.
func (r *Realm) attach(a attached) uint32 {
	if len(r.at) == 0 {
		r.at = append(r.at, attached{})
	}
	r.at = append(r.at, a)
	return r.base + uint32(len(r.at)-1)
}

func (r *Realm) find(addr uint32) (attached, bool) {
	i := addr - r.base
	if i >= uint32(len(r.at)) {
		return attached{}, false
	}
	a := r.at[i]
	return a, a.host != nil || a.nat != nil
}

// detach leaves the address unused for ever: late datagrams reach nobody.
func (r *Realm) detach(addr uint32) { r.at[addr-r.base] = attached{} }

// Place is where on the earth something is: a row of the latency matrix, and
// what its access line adds in each direction.
type Place struct {
	Row    int
	Access time.Duration
}

func (a attached) place() Place {
	if a.host != nil {
		return a.host.place
	}
	return a.nat.place
}

// Matrix is the one-way delay between places without their access lines.
type Matrix [][]time.Duration

func (m Matrix) oneWay(a, b Place) time.Duration {
	return m[a.Row][b.Row] + a.Access + b.Access
}

// Regions is a world of five: western Europe, eastern and western North
// America, eastern Asia, South America.
var Regions = func() Matrix {
	ms := [5][5]int{
		{7, 40, 70, 110, 95},
		{40, 7, 32, 90, 60},
		{70, 32, 6, 55, 85},
		{110, 90, 55, 12, 140},
		{95, 60, 85, 140, 10},
	}
	m := make(Matrix, len(ms))
	for i, row := range ms {
		for _, v := range row {
			m[i] = append(m[i], time.Duration(v)*time.Millisecond)
		}
	}
	return m
}()

// regionShare is how many of a hundred hosts live in each of Regions.
var regionShare = [5]int{38, 26, 16, 14, 6}

// Somewhere draws a place of Regions by where machines are, with an access
// line of 0.5 to 8 ms.
func (n *Net) Somewhere() Place {
	draw, row := n.Rand.IntN(100), 0
	for draw >= regionShare[row] {
		draw -= regionShare[row]
		row++
	}
	access := 500*time.Microsecond + time.Duration(n.Rand.Int64N(int64(7500*time.Microsecond)))
	return Place{Row: row, Access: access}
}
