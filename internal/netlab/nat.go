package netlab

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/vishvananda/netlink"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// Dependence is on what of the other end a translator's decision depends
// (RFC 4787 §4.1 for mapping, §5 for filtering).
type Dependence uint8

// The three behaviours of RFC 4787.
const (
	EndpointIndependent Dependence = iota
	AddressDependent
	AddressAndPortDependent
)

// String returns the words of RFC 4787.
func (d Dependence) String() string {
	return [...]string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}[d]
}

// Behaviour is what a NAT does, in the terms of RFC 4787.
type Behaviour struct {
	// Mapping is EndpointIndependent, and then keeps ports, or
	// AddressAndPortDependent, and then draws one for each destination.
	Mapping Dependence
	// Filtering may be less than AddressAndPortDependent only where mapping
	// is endpoint-independent.
	Filtering Dependence
	// Timeout ends a mapping that nothing uses; 0 is the kernel's 30 s, and
	// 120 s once there was an answer.
	Timeout time.Duration
	// Hairpin carries between two inner machines that use outer endpoints
	// (REQ-9). Mapping must be endpoint-independent.
	Hairpin bool
	// BlockUDP lets nothing out but TCP to port 443, as some offices do.
	BlockUDP bool
}

// The NATs people have. Where two machines behind one of them use one port,
// the kernel maps the second one's to another port at some destinations:
// what home routers do that are made of it.
var (
	Home       = Behaviour{Filtering: AddressAndPortDependent} // once called port-restricted cone
	Restricted = Behaviour{Filtering: AddressDependent}        // restricted cone
	FullCone   = Behaviour{Filtering: EndpointIndependent}
	Symmetric  = Behaviour{Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent}
	Office     = Behaviour{Filtering: AddressAndPortDependent, BlockUDP: true}
)

// NAT is a router that translates.
type NAT struct {
	*Node
	Outside, Inside Port
}

// rules is a NAT's ruleset.
//
// What comes to the outside unasked is dropped in input: a router that lets
// such packets come to itself makes a connection entry for an early hole
// punch, with the very ports the inside needs, and punching then fails in a
// way no real router shows. The chain prerouting is there even when it is
// empty, or the kernel does not translate answers at once.
//
// Connections alone give endpoint-independent mapping (masquerade keeps a
// port as long as it is free) with the strictest filtering. What is less
// strict looks inner endpoints up in mapped, which every outgoing datagram
// refreshes; sent remembers which address each outer port has sent to.
var rules = template.Must(template.New("nat").Parse(`
table ip nat {
	map mapped { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; size 65535; }
	set sent { type ipv4_addr . inet_service; flags dynamic,timeout; size 65535; }

	chain learn {
		type filter hook postrouting priority srcnat - 1;
{{- if .Lenient}}
		oifname "{{.Out}}" meta l4proto udp update @sent { ip daddr . udp sport timeout {{.Seconds}}s }
		oifname "{{.Out}}" meta l4proto udp update @mapped { udp sport timeout {{.Seconds}}s : ip saddr . udp sport }
{{- end}}
{{- if .Hairpin}}
		oifname "{{.In}}" ct status dnat ip saddr {{.Inner}} meta l4proto udp update @mapped { udp sport timeout {{.Seconds}}s : ip saddr . udp sport }
{{- end}}
	}
	chain prerouting {
		type nat hook prerouting priority dstnat;
{{- if eq .Filtering 0}}
		iifname "{{.Out}}" meta l4proto udp dnat ip to udp dport map @mapped
{{- else if eq .Filtering 1}}
		iifname "{{.Out}}" meta l4proto udp ip saddr . udp dport @sent dnat ip to udp dport map @mapped
{{- end}}
{{- if .Hairpin}}
		iifname "{{.In}}" ip daddr {{.Outer}} meta l4proto udp dnat ip to udp dport map @mapped
{{- end}}
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
{{- if eq .Mapping 2}}
		oifname "{{.Out}}" meta l4proto udp masquerade fully-random
{{- end}}
		oifname "{{.Out}}" masquerade
{{- if .Hairpin}}
		oifname "{{.In}}" ct status dnat ip saddr {{.Inner}} snat ip to {{.Outer}}
{{- end}}
	}
	chain input {
		type filter hook input priority filter;
		iifname "{{.Out}}" ct state new drop
	}
	set cut { type ipv4_addr; }
	chain forward {
		type filter hook forward priority filter;
		ip saddr @cut drop
		ip daddr @cut drop
{{- if .BlockUDP}}
		oifname "{{.Out}}" meta l4proto udp drop
		oifname "{{.Out}}" tcp dport != 443 drop
{{- end}}
		iifname "{{.Out}}" ct state new ct status dnat accept
		iifname "{{.Out}}" ct state new drop
	}
}
`))

// NAT makes a router that behaves as b says between two networks, by a line
// to the outside and a cable to the inside.
func (l *Lab) NAT(name string, b Behaviour, line Line, outside *Switch, outsideAddress string, inside *Switch, insideAddress string) *NAT {
	l.t.Helper()
	need.Tool(l.t, "nft")
	if b.Mapping == AddressDependent || b.Mapping != EndpointIndependent && (b.Filtering != AddressAndPortDependent || b.Hairpin) {
		l.t.Fatalf("NAT %s: no recipe for %s mapping with %s filtering", name, b.Mapping, b.Filtering)
	}
	n := &NAT{Node: l.Node(name)}
	n.Outside = outside.PlugLine(n.Node, outsideAddress, line)
	n.Inside = inside.Plug(n.Node, insideAddress)

	outer, err := netip.ParsePrefix(outsideAddress)
	l.check(err)
	inner, err := netip.ParsePrefix(insideAddress)
	l.check(err)
	timeout := b.Timeout
	if timeout == 0 {
		timeout = 120 * time.Second
	}
	var text strings.Builder
	l.check(rules.Execute(&text, struct {
		Behaviour
		Out, In string
		Outer   netip.Addr
		Inner   netip.Prefix
		Lenient bool
		Seconds int
	}{b, n.Outside.name, n.Inside.name, outer.Addr(), inner.Masked(), b.Filtering != AddressAndPortDependent || b.Hairpin, int(timeout.Seconds())}))
	n.nft(text.String())
	n.sysctl("ipv4/ip_forward", "1")
	if b.Timeout != 0 {
		seconds := strconv.Itoa(int(timeout.Seconds()))
		n.sysctl("netfilter/nf_conntrack_udp_timeout", seconds)
		n.sysctl("netfilter/nf_conntrack_udp_timeout_stream", seconds)
	}
	return n
}

func (n *NAT) nft(text string) {
	n.t.Helper()
	n.Do(func() {
		_, err := sysrun.Run(n.t.Context(), sysrun.Command{Name: "nft", Args: []string{"-f", "-"}, Stdin: strings.NewReader(text)})
		check(n.t, err)
	})
}

func (n *NAT) sysctl(name, value string) {
	n.t.Helper()
	n.Do(func() { check(n.t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0)) })
}

// Cut drops everything to and from outer addresses until Mend.
func (n *NAT) Cut(outer ...netip.Addr) {
	n.t.Helper()
	for _, a := range outer {
		n.nft(fmt.Sprintf("add element ip nat cut { %s }", a))
	}
}

// Mend ends every Cut.
func (n *NAT) Mend() {
	n.t.Helper()
	n.nft("flush set ip nat cut")
}

// Forget makes the router forget its mappings, as a restart does.
func (n *NAT) Forget() {
	n.t.Helper()
	n.nft("flush map ip nat mapped; flush set ip nat sent")
	n.Do(func() { check(n.t, netlink.ConntrackTableFlush(netlink.ConntrackTable)) })
}
