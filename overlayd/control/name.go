package control

import (
	"net/netip"

	"gridappliance/credential"
)

// Domain is the DNS suffix of every virtual host name.
const Domain = credential.Domain

// HostName returns the host name of a virtual address, as
// credential.HostName.
func HostName(addr netip.Addr) string { return credential.HostName(addr) }

// ParseHostName returns the virtual address that name stands for in pool, as
// credential.ParseHostName.
func ParseHostName(name string, pool netip.Prefix) (netip.Addr, error) {
	return credential.ParseHostName(name, pool)
}
