package credential

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"gridappliance/internal/diag"
)

// Defaults of a namespace (DESIGN, TRUST "Leases") and the limits of a grid.
const (
	DefaultLeaseTime = 3600
	DefaultHoldTime  = 7 * 24 * 3600

	minLeaseTime, maxLeaseTime = 60, 30 * 24 * 3600
	maxHoldTime                = 365 * 24 * 3600

	widestPool    = 8 // host names are C + the last three octets
	narrowestPool = 28
	maxMasters    = 9
	maxWitnesses  = 9
	maxRoots      = 2
	maxBootstrap  = 64
	maxNamespaces = 16
	maxReserved   = 32
)

// DefaultPool is the virtual network of a grid that names none.
var DefaultPool = netip.MustParsePrefix("10.250.0.0/16")

// EveryDotOne is the first generation's reservation: x.x.x.1 of every subnet.
var EveryDotOne = Reserved{Address: netip.MustParseAddr("0.0.0.1"), Mask: netip.MustParseAddr("0.0.0.255")}

// privateRanges are where a pool may lie: addresses that nobody is given on
// the internet (RFC 1918, RFC 6598, RFC 2544).
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("198.18.0.0/15"),
}

func bits(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func fromBits(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// Matches reports whether the pattern covers addr; false for IPv6.
func (r Reserved) Matches(addr netip.Addr) bool {
	return addr.Is4() && r.Address.Is4() && r.Mask.Is4() && (bits(addr)^bits(r.Address))&bits(r.Mask) == 0
}

// Usable reports whether a machine may have addr in the namespace, leased or
// fixed: inside the pool, neither the network's nor the broadcast address, and
// not reserved.
func (n Namespace) Usable(addr netip.Addr) bool {
	if !addr.Is4() || !n.Pool.Contains(addr) {
		return false
	}
	host := uint32(1)<<(32-n.Pool.Bits()) - 1
	if h := bits(addr) & host; h == 0 || h == host {
		return false
	}
	return !slices.ContainsFunc(n.Reserved, func(r Reserved) bool { return r.Matches(addr) })
}

// firstAddresses returns the first count addresses a machine may have, from
// the pool's .2 upwards: the first generation kept .0 and .1.
func (n Namespace) firstAddresses(count int) []netip.Addr {
	var list []netip.Addr
	for addr := fromBits(bits(n.Pool.Addr()) + 2); n.Pool.Contains(addr) && len(list) < count; addr = addr.Next() {
		if n.Usable(addr) {
			list = append(list, addr)
		}
	}
	return list
}

// validate returns everything that is wrong with the namespace.
func (n Namespace) validate() diag.List {
	var l diag.List
	add := func(key, message, remedy string) {
		l.Add(diag.Problem{Path: "namespace " + n.Name + "." + key, Message: message, Remedy: remedy})
	}
	if err := CheckNamespace(n.Name); err != nil {
		add("name", err.Error(), "choose another name")
	}
	if !n.Pool.IsValid() || !n.Pool.Addr().Is4() {
		add("pool", fmt.Sprintf("%v is not an IPv4 network", n.Pool), "write it as 10.250.0.0/16")
		return l
	}
	if n.Pool != n.Pool.Masked() {
		add("pool", fmt.Sprintf("%v has bits beyond its mask", n.Pool), fmt.Sprintf("did you mean %v?", n.Pool.Masked()))
	}
	if n.Pool.Bits() < widestPool {
		add("pool", fmt.Sprintf("the mask of %v is too wide: names such as C250000002 hold three octets", n.Pool), "use /8 or narrower; /16 is usual")
	}
	if n.Pool.Bits() > narrowestPool {
		add("pool", fmt.Sprintf("%v is too small: %d addresses", n.Pool, 1<<(32-n.Pool.Bits())), "use /28 or wider; /16 is usual")
	}
	if !slices.ContainsFunc(privateRanges, func(p netip.Prefix) bool { return p.Bits() <= n.Pool.Bits() && p.Contains(n.Pool.Addr()) }) {
		add("pool", fmt.Sprintf("%v overlaps addresses that are used on the internet", n.Pool), "choose a network inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 or 198.18.0.0/15")
	}
	if len(n.Reserved) > maxReserved {
		add("reserved", fmt.Sprintf("%d reserved ranges, at most %d allowed", len(n.Reserved), maxReserved), "")
	}
	for _, r := range n.Reserved {
		if !r.Address.Is4() || !r.Mask.Is4() || bits(r.Mask) == 0 {
			add("reserved", fmt.Sprintf("%v / %v reserves nothing or everything", r.Address, r.Mask), "write an address and a mask, such as 0.0.0.1 / 0.0.0.255")
		}
	}
	if n.LeaseTime < minLeaseTime || n.LeaseTime > maxLeaseTime {
		add("lease_time", fmt.Sprintf("%d s is not between %d and %d s", n.LeaseTime, minLeaseTime, maxLeaseTime), "3600 is usual")
	}
	if n.HoldTime < n.LeaseTime || n.HoldTime > maxHoldTime {
		add("hold_time", fmt.Sprintf("%d s is not between the lease time, %d s, and %d s", n.HoldTime, n.LeaseTime, maxHoldTime), "604800 (7 days) is usual")
	}
	return l
}

// validate returns everything that is wrong with the descriptor, and parses
// its roots.
func (d *Descriptor) validate() diag.List {
	var l diag.List
	add := func(path, format string, values ...any) {
		l.Add(diag.Problem{Path: path, Message: fmt.Sprintf(format, values...)})
	}
	if err := CheckGrid(d.Grid); err != nil {
		add("grid", "%v", err)
	}
	if d.Version == 0 || d.Epoch == 0 {
		add("version", "version %d and epoch %d count from 1", d.Version, d.Epoch)
	}
	if d.Issued != d.Issued.UTC().Truncate(time.Second) {
		add("issued", "%v is not in UTC and whole seconds", d.Issued)
	}
	if len(d.Namespaces) == 0 || len(d.Namespaces) > maxNamespaces {
		add("namespaces", "%d namespaces, 1 to %d allowed", len(d.Namespaces), maxNamespaces)
	}
	for i, n := range d.Namespaces {
		l = append(l, n.validate()...)
		for _, m := range d.Namespaces[:i] {
			if m.Name == n.Name {
				add("namespaces", "%q is there twice", n.Name)
			}
			if m.Pool.IsValid() && n.Pool.IsValid() && m.Pool.Overlaps(n.Pool) {
				add("namespaces", "the pools of %s, %v, and %s, %v, overlap", m.Name, m.Pool, n.Name, n.Pool)
			}
		}
	}
	l = append(l, d.validateRoster()...)
	l = append(l, d.validateChange()...)
	if len(d.Bootstrap) > maxBootstrap {
		add("bootstrap", "%d endpoints, at most %d allowed", len(d.Bootstrap), maxBootstrap)
	}
	for _, b := range d.Bootstrap {
		if err := checkEndpoint(b); err != nil {
			l.Add(diag.Problem{Path: "bootstrap", Message: err.Error(), Remedy: "write it as host.example.org:4242"})
		}
	}
	if b, err := hex.DecodeString(d.PolicyHash); err != nil || d.PolicyHash != hex.EncodeToString(b) || len(b) != 0 && len(b) != 32 {
		add("policy_hash", "%.70q is not empty or 64 lower-case hexadecimal digits", d.PolicyHash)
	}
	return append(l, d.validateRoots()...)
}

func (d *Descriptor) validateRoster() diag.List {
	var l diag.List
	add := func(path, format string, values ...any) {
		l.Add(diag.Problem{Path: path, Message: fmt.Sprintf(format, values...)})
	}
	if len(d.Masters) == 0 || len(d.Masters) > maxMasters {
		add("masters", "%d masters, 1 to %d allowed", len(d.Masters), maxMasters)
	}
	if len(d.Witnesses) == 0 || len(d.Witnesses) > maxWitnesses {
		add("witnesses", "%d witnesses, 1 to %d allowed", len(d.Witnesses), maxWitnesses)
	}
	names, addresses := map[string]NodeID{}, map[netip.Addr]bool{}
	ids := map[NodeID]string{}
	enter := func(path, name string, id NodeID) {
		if err := CheckUser(name); err != nil {
			add(path, "%v", err)
		}
		if other, ok := ids[id]; ok && other != name {
			add(path, "%s and %s have one key", other, name)
		}
		if other, ok := names[name]; ok && other != id {
			add(path, "%s has two keys", name)
		}
		names[name], ids[id] = id, name
	}
	for _, m := range d.Masters {
		if _, twice := names[m.Name]; twice || addresses[m.Address] {
			add("masters", "%s at %v is there twice", m.Name, m.Address)
		}
		enter("masters", m.Name, m.ID)
		addresses[m.Address] = true
		n, ok := d.Namespace(m.Namespace)
		if !ok {
			add("masters", "%s is in namespace %q, which is not in the descriptor", m.Name, m.Namespace)
		} else if n.Pool.IsValid() && !n.Usable(m.Address) {
			add("masters", "the address of %s, %v, is not usable in %v", m.Name, m.Address, n.Pool)
		}
	}
	seen := map[NodeID]bool{}
	for _, w := range d.Witnesses {
		if seen[w.ID] {
			add("witnesses", "%s is there twice", w.Name)
		}
		seen[w.ID] = true
		enter("witnesses", w.Name, w.ID)
	}
	return l
}

func (d *Descriptor) validateRoots() diag.List {
	var l diag.List
	if len(d.Roots) == 0 || len(d.Roots) > maxRoots {
		l.Add(diag.Problem{Path: "roots", Message: fmt.Sprintf("%d roots, 1 to %d allowed", len(d.Roots), maxRoots)})
	}
	d.roots = nil
	for _, r := range append(slices.Clone(d.Roots), d.CondorRoot) {
		c, err := parseCertificate(r)
		if err == nil {
			err = checkRoot(c)
		}
		if err != nil {
			l.Add(diag.Problem{Path: "roots", Message: err.Error()})
			continue
		}
		d.roots = append(d.roots, c)
	}
	if len(l) > 0 {
		return l
	}
	d.roots = d.roots[:len(d.Roots)]
	condor, _ := parseCertificate(d.CondorRoot)
	for i, c := range d.roots {
		if keyIDOfCert(c) == keyIDOfCert(condor) {
			l.Add(diag.Problem{Path: "condor_root", Message: "is one of the grid's roots: HTCondor must trust a root of its own"})
		}
		for _, o := range d.roots[:i] {
			if keyIDOfCert(c) == keyIDOfCert(o) {
				l.Add(diag.Problem{Path: "roots", Message: "a root is there twice"})
			}
		}
	}
	return l
}

func checkEndpoint(endpoint string) error {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil || host == "" || len(endpoint) > 255 {
		return fmt.Errorf("%.70q is not a host and port", endpoint)
	}
	if p, err := strconv.Atoi(port); err != nil || p < 1 || p > 65535 {
		return fmt.Errorf("%.70q: %q is not a port", endpoint, port)
	}
	return nil
}
