package discover

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"gridappliance/overlayd/bootstrap"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Beacon is what a node says of itself on its LAN. Its first byte is none of
// the overlay's own port's.
//
//	offset size field
//	0      1    0x98
//	1      1    version, 1
//	2      1    1: who hears it shall answer; 0
//	3      1    number of endpoints, at most 4
//	4      8    tag of the grid (package bootstrap)
//	12     16   node ID
//	28     ...  endpoints: 1 length of address (4 or 16), address, 2 port
type Beacon struct {
	Asks      bool
	Tag       bootstrap.Tag
	ID        nodeid.ID
	Endpoints []netip.AddrPort
}

// Protocol of the beacon.
const (
	beaconType    = 0x98
	beaconVersion = 1
	beaconHead    = 28
	beaconPort    = 4244
)

// The groups: local scope (RFC 2365 §6.1) and transient link-local (RFC 4291
// §2.7).
var (
	group4 = netip.MustParseAddr("239.255.71.68")
	group6 = netip.MustParseAddr("ff12::4752:4944")
)

var errBeacon = errors.New("no beacon")

// Append appends the beacon.
func (x Beacon) Append(b []byte) []byte {
	asks := byte(0)
	if x.Asks {
		asks = 1
	}
	b = append(b, beaconType, beaconVersion, asks, byte(len(x.Endpoints)))
	b = append(b, x.Tag[:]...)
	b = append(b, x.ID[:]...)
	for _, e := range x.Endpoints {
		b = wire.AppendEndpoint(b, e)
	}
	return b
}

// ParseBeacon reads exactly one beacon.
func ParseBeacon(b []byte) (x Beacon, err error) {
	if len(b) < beaconHead || b[0] != beaconType || b[1] != beaconVersion || b[2] > 1 || b[3] > wire.MaxEndpoints {
		return x, errBeacon
	}
	x.Asks = b[2] == 1
	n := int(b[3])
	copy(x.Tag[:], b[4:])
	copy(x.ID[:], b[12:])
	b = b[beaconHead:]
	for range n {
		if len(b) < 1 || b[0] != 4 && b[0] != 16 || len(b) < 1+int(b[0])+2 {
			return x, errBeacon
		}
		size := int(b[0])
		addr, _ := netip.AddrFromSlice(b[1 : 1+size])
		if addr.Is4In6() {
			return x, errBeacon
		}
		x.Endpoints = append(x.Endpoints, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[1+size:])))
		b = b[3+size:]
	}
	if len(b) > 0 {
		return x, errBeacon
	}
	return x, nil
}
