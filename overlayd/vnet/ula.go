package vnet

import (
	"crypto/sha256"
	"net/netip"

	"gridappliance/overlayd/nodeid"
)

// Prefix6 is the IPv6 network of a namespace (RFC 4193): fd, 40 bits of its
// name's hash, subnet 0.
//
//	offset size
//	0      1    0xfd
//	1      5    first bytes of SHA-256 over "grid-appliance ula" || 0 || namespace
//	6      2    subnet: 0
//	8      8    first bytes of the node ID, which is a hash of the node's key
//
// So an address is a node's from its first moment, without anybody's vote, and
// says where on the ring the node is.
func Prefix6(namespace string) netip.Prefix {
	h := sha256.Sum256(append([]byte("grid-appliance ula\x00"), namespace...))
	b := [16]byte{0xfd}
	copy(b[1:6], h[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// Address6 is the IPv6 address of a node.
func Address6(namespace string, id nodeid.ID) netip.Addr {
	b := Prefix6(namespace).Addr().As16()
	copy(b[8:], id[:8])
	return netip.AddrFrom16(b)
}

// Position returns where on the ring the node of an IPv6 address is: at the
// node whose ID begins as it does.
func Position(addr netip.Addr) (id nodeid.ID) {
	b := addr.As16()
	copy(id[:], b[8:])
	return id
}
