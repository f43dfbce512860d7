package plan

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gridappliance/floppy"
)

// rulesInput is what the packet filter depends on.
type rulesInput struct {
	overlay bool           // the role has a virtual network
	device  string         // its device
	pools   []netip.Prefix // its addresses, every namespace's
	jobs    []int          // accounts that jobs run in
	// own are the TCP ports of an own machine that the virtual network reaches,
	// and nothing else of it does; nil on an appliance, whose filter is ours
	// alone.
	own []int
}

// Interfaces and ports the rules name.
const (
	outside     = "eth0" // the NIC to the internet (net.ifnames=0)
	overlayPort = 4242   // UDP, DESIGN.md "Names and places"
	beaconPort  = 4244   // UDP, from the LAN only
	issuerPort  = 4243   // TCP on the virtual network
	condorPort  = 9618   // TCP on the virtual network, all of HTCondor
	nfsPort     = 2049   // TCP on the virtual network
)

// metadata are the addresses at which clouds serve a machine's secrets:
// link-local of nearly all, Amazon's for containers and over IPv6, Alibaba's,
// Oracle's first generation, Azure's wire server.
var metadata = struct{ four, six string }{
	"169.254.169.254, 169.254.170.2, 100.100.100.200, 192.0.0.192, 168.63.129.16",
	"fd00:ec2::254, fd00:ec2::23",
}

// firewall returns the rules of TRUST.md, "On the machine", for nft -f. The
// text replaces the table in one transaction.
func firewall(in rulesInput) []byte {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`# Made by firstboot from the floppy; the next boot writes it again.`)
	line(`table inet grid`)
	line(`delete table inet grid`)
	line(`table inet grid {`)
	writeSets(line, in)
	inside := `"lo"`
	if in.overlay {
		inside = fmt.Sprintf(`{ "lo", "%s" }`, in.device)
	}

	if in.own == nil {
		writeInput(line, in, inside)
	} else {
		writeOwnInput(line, in, inside)
	}
	line(``)
	line(`	chain output {`)
	line(`		type filter hook output priority filter; policy accept;`)
	if in.overlay {
		line(`		oifname != %s ip daddr @pool counter drop comment "virtual addresses leave through %s only"`, inside, in.device)
		line(`		oifname != %s ip saddr @pool counter drop`, inside)
		where := ""
		if in.own != nil {
			where = "ip daddr @pool " // elsewhere the port is the owner's to use
		}
		line(`		meta skuid != 0 %stcp dport %d counter reject comment "the issuer serves machines, not people"`, where, issuerPort)
	}
	if in.own == nil { // jobs reach none of them anyway, and the owner's programs are the owner's
		line(`		meta skuid != 0 ip daddr @metadata counter reject`)
		line(`		meta skuid != 0 ip6 daddr @metadata6 counter reject`)
	}
	if len(in.jobs) > 0 {
		line(`		meta skuid @jobs jump jobs`)
	}
	line(`	}`)
	if len(in.jobs) > 0 {
		line(``)
		line(`	chain jobs {`)
		line(`		tcp dport { 22, 2049, %d } counter reject comment "of any machine, this one too"`, issuerPort)
		line(`		udp dport 2049 counter reject`)
		line(`		oifname != %s counter reject comment "loopback and the virtual network only"`, inside)
		line(`	}`)
	}
	line(`}`)
	return []byte(b.String())
}

// writeInput writes what reaches an appliance and passes through it.
func writeInput(line func(string, ...any), in rulesInput, inside string) {
	line(``)
	line(`	chain input {`)
	line(`		type filter hook input priority filter; policy drop;`)
	writeSpoofed(line, in, inside)
	line(`		iifname %s accept`, inside)
	line(`		ct state established,related accept`)
	line(`		ct state invalid drop`)
	line(`		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } ip6 hoplimit 255 accept`)
	line(`		udp sport 67 udp dport 68 accept comment "DHCP"`)
	line(`		ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept comment "DHCPv6"`)
	if in.overlay {
		line(`		udp dport %d accept comment "the overlay"`, overlayPort)
		line(`		ip ttl 255 udp dport %d accept comment "beacons of the LAN: no router has passed them"`, beaconPort)
		line(`		ip6 hoplimit 255 udp dport %d accept`, beaconPort)
	}
	line(`		iifname != "%s" tcp dport 22 accept comment "ssh on host-only networks"`, outside)
	line(`		iifname != "%s" icmp type echo-request accept`, outside)
	line(`		iifname != "%s" icmpv6 type echo-request accept`, outside)
	line(`	}`)

	line(``)
	line(`	chain forward {`)
	line(`		type filter hook forward priority filter; policy drop;`)
	line(`	}`)

}

// writeOwnInput writes it for an own machine. Other networks are the owner's
// matter, and its own tables' (docs/decisions/0087); of the virtual one nothing
// reaches what the owner runs here, and nothing passes on.
func writeOwnInput(line func(string, ...any), in rulesInput, inside string) {
	if !in.overlay {
		return
	}
	var ports []string
	for _, p := range in.own {
		ports = append(ports, fmt.Sprint(p))
	}
	line(``)
	line(`	chain input {`)
	line(`		type filter hook input priority filter; policy accept;`)
	writeSpoofed(line, in, inside)
	line(`		iifname "%s" jump virtual`, in.device)
	line(`	}`)
	line(``)
	line(`	chain virtual {`)
	line(`		ct state established,related accept`)
	line(`		icmp type echo-request accept`)
	line(`		meta l4proto ipv6-icmp accept`)
	line(`		tcp dport { %s } accept`, strings.Join(ports, ", "))
	line(`		counter drop comment "the machine is its owner's"`)
	line(`	}`)
	line(``)
	line(`	chain forward {`)
	line(`		type filter hook forward priority filter; policy accept;`)
	line(`		iifname "%s" counter drop`, in.device)
	line(`		oifname "%s" counter drop`, in.device)
	line(`	}`)
}

// writeSpoofed writes that virtual addresses are the device's alone.
func writeSpoofed(line func(string, ...any), in rulesInput, inside string) {
	if in.overlay {
		line(`		iifname != %s ip saddr @pool counter drop comment "virtual addresses come through %s only"`, inside, in.device)
		line(`		iifname != %s ip daddr @pool counter drop`, inside)
	}
}

// services returns the TCP ports by which other machines of the grid reach one
// of the role.
func services(c *floppy.Config) []int {
	ports := []int{condorPort}
	if c.Machine.Role == floppy.RoleClient && c.Share.Export != "" {
		ports = append(ports, nfsPort)
	}
	if c.Machine.Role == floppy.RoleMaster {
		ports = append(ports, issuerPort)
	}
	return ports
}

// writeSets writes the named sets that the rules use.
func writeSets(line func(string, ...any), in rulesInput) {
	if in.overlay {
		var pools []string
		for _, p := range in.pools {
			pools = append(pools, p.Masked().String())
		}
		slices.Sort(pools)
		line(`	set pool { type ipv4_addr; flags interval; auto-merge; elements = { %s } }`, strings.Join(slices.Compact(pools), ", "))
	}
	if len(in.jobs) > 0 {
		var uids []string
		for _, uid := range in.jobs {
			uids = append(uids, fmt.Sprint(uid))
		}
		line(`	set jobs { type uid; elements = { %s } }`, strings.Join(uids, ", "))
	}
	if in.own == nil {
		line(`	set metadata { type ipv4_addr; elements = { %s } }`, metadata.four)
		line(`	set metadata6 { type ipv6_addr; elements = { %s } }`, metadata.six)
	}
}

// networkText returns n in a form whose bytes change when it changes.
func networkText(n floppy.Network) []byte {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings, numbers and lists of them
	}
	return b
}
