package credential

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Domain is the DNS suffix of every virtual host name.
const Domain = ".ipop"

// HostName returns the host name of a virtual address: "C", the last three
// octets in three digits each, and Domain, so that 10.250.0.2 is
// C250000002.ipop. It returns "" when addr is not an IPv4 address.
func HostName(addr netip.Addr) string {
	addr = addr.Unmap()
	if !addr.Is4() {
		return ""
	}
	b := addr.As4()
	return fmt.Sprintf("C%03d%03d%03d%s", b[1], b[2], b[3], Domain)
}

// ParseHostName returns the virtual address that name stands for in pool,
// whose first octet the name leaves out. Letter case, Domain and the root's
// dot may be missing or present, as a resolver leaves them. The error says
// whether the name has the wrong form or lies outside pool.
func ParseHostName(name string, pool netip.Prefix) (netip.Addr, error) {
	digits := strings.TrimSuffix(strings.ToLower(strings.TrimSuffix(name, ".")), Domain)
	digits, ok := strings.CutPrefix(digits, "c")
	if !ok || len(digits) != 9 {
		return netip.Addr{}, fmt.Errorf("parse host name %q: want C, nine digits and %s", name, Domain)
	}
	if !pool.Addr().Is4() || pool.Bits() < 8 {
		return netip.Addr{}, fmt.Errorf("parse host name %q: pool %s does not fix the first octet", name, pool)
	}
	octets := pool.Addr().As4()
	for i := range 3 {
		n, err := strconv.ParseUint(digits[3*i:3*i+3], 10, 8)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("parse host name %q: %q is not an octet", name, digits[3*i:3*i+3])
		}
		octets[i+1] = byte(n)
	}
	addr := netip.AddrFrom4(octets)
	if !pool.Contains(addr) {
		return netip.Addr{}, fmt.Errorf("parse host name %q: %s is outside the pool %s", name, addr, pool)
	}
	return addr, nil
}
