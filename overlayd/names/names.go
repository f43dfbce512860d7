// Package names is the DNS server of the virtual network: it answers for the
// domain ipop and for the reverse zones of the pool, and for nothing else.
//
//	                    question
//	   ".ipop", the pool's reverse zones │ anything else: REFUSED
//	                                     ▼
//	C250003007.ipop      A      the address itself, without asking anybody
//	                     AAAA   of the node that holds it     ── Resolver
//	pc.ipop              A AAAA of the node that holds the name ─ Resolver
//	_web._tcp.ipop       SRV    of the service's records      ── Resolver
//	7.3.250.10.in-addr.arpa  PTR    C250003007.ipop
//	(address6).ip6.arpa      PTR    of the node with that key ── Resolver
//
// That an address has a name does not say that somebody holds it: HTCondor and
// NFS ask for names both ways all the time, also while the overlay is cut in
// two, and always get one answer at once, as in the first generation.
//
// Invariants: an answer is for the question's own letters (RFC 1035 §2.3.3; a
// resolver may check them); a name that exists with other types is answered
// NOERROR without answer (RFC 2308 §2.2), one that does not NXDOMAIN, and both
// are forgotten after NegativeTTL; when the Resolver does not know whether a
// name exists, SERVFAIL says so. No answer is longer than the client takes, and
// none over UDP than maxUDP. Who is neither this machine nor a member of the
// virtual network gets no answer at all.
//
// Concurrency: one goroutine a query, at most maxQueries; a Server is safe for
// concurrent use.
//
// Limits on purpose: no recursion, no forwarding, no transfer, no DNSSEC (the
// domain ipop is in nobody's root zone).
//
// Sources: RFC 1034, 1035 (DNS), 2308 (negative answers), 2782 (SRV), 3596
// (AAAA, ip6.arpa), 6891 (EDNS), 8020 (NXDOMAIN: there really is nothing
// underneath), 8482 (ANY), 9619 (one question).
package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"gridappliance/credential"
)

// Protocol: what others rely on.
const (
	NegativeTTL = 5    // s, of a name that does not exist (yet)
	addressTTL  = 300  // s, of the name that stands for an address, which never changes
	hostTTL     = 30   // s, of what may move to another node
	maxUDP      = 1232 // bytes: fits the least MTU of IPv6 (DNS flag day 2020)
)

// domain is the zone's name as DNS writes it.
var domain = strings.TrimPrefix(credential.Domain, ".") + "."

// ErrNotFound is what a Resolver returns, wrapped or not, for what is known
// not to exist. Any other error means that it is not known.
var ErrNotFound = errors.New("no such name")

// Host is a machine of the virtual network.
type Host struct {
	Address  netip.Addr // IPv4; always there
	Address6 netip.Addr // zero: it has none that this machine reaches
}

// Offer is one node's record of a service.
type Offer struct {
	Host  Host
	Value []byte // see ParseService
}

// Resolver is what a Server asks of the node. Its methods are called from many
// goroutines at once and return early when ctx ends.
type Resolver interface {
	// Host returns the machine of a label in lower case: a chosen name, or
	// c250003007.
	Host(ctx context.Context, label string) (Host, error)
	// HostOf returns the machine with an IPv6 address of the virtual network.
	HostOf(ctx context.Context, address6 netip.Addr) (Host, error)
	// Services returns the offers of a service; none is no error.
	Services(ctx context.Context, service string) ([]Offer, error)
}

// Service is how an Offer is reached.
type Service struct {
	Protocol string // "tcp" or "udp"
	Port     uint16
	Priority uint16 // RFC 2782: lower ones first
	Weight   uint16
}

// fixed are the services whose port the grid's design says, so that their
// records need not: HTCondor's shared port and the issuing service.
var fixed = map[string]Service{
	"collector":  {Protocol: "tcp", Port: 9618},
	"negotiator": {Protocol: "tcp", Port: 9618},
	"schedd":     {Protocol: "tcp", Port: 9618},
	"startd":     {Protocol: "tcp", Port: 9618},
	"issuer":     {Protocol: "tcp", Port: 4243},
}

// ParseService reads the first line of a service record's value:
//
//	PROTOCOL PORT [PRIORITY [WEIGHT]]
//
// as in "tcp 9618". Other lines are the service's own.
func ParseService(value []byte) (Service, error) {
	line, _, _ := strings.Cut(string(value), "\n")
	fields := strings.Fields(line)
	s := Service{}
	if len(fields) < 2 || len(fields) > 4 || fields[0] != "tcp" && fields[0] != "udp" {
		return s, fmt.Errorf("service %.40q: want tcp or udp, a port, and perhaps priority and weight", line)
	}
	s.Protocol = fields[0]
	for i, to := range []*uint16{&s.Port, &s.Priority, &s.Weight} {
		if i+1 >= len(fields) {
			break
		}
		n, err := parseUint16(fields[i+1])
		if err != nil {
			return Service{}, fmt.Errorf("service %.40q: %w", line, err)
		}
		*to = n
	}
	if s.Port == 0 {
		return Service{}, fmt.Errorf("service %.40q: port 0", line)
	}
	return s, nil
}

// Zone is what a Server answers for.
type Zone struct {
	Own   Host         // this machine
	Pool  netip.Prefix // of IPv4
	Pool6 netip.Prefix // of the IPv6 addresses, on a multiple of 4 bits; zero: none
}

// Check returns an error for a zone that has no names.
func (z Zone) Check() error {
	switch {
	case !z.Pool.Addr().Is4() || z.Pool.Bits() < 8 || z.Pool.Bits() > 30 || z.Pool != z.Pool.Masked():
		return fmt.Errorf("names of pool %s: want an IPv4 network of /8 to /30", z.Pool)
	case !z.Pool.Contains(z.Own.Address):
		return fmt.Errorf("names of pool %s: own address %s is outside", z.Pool, z.Own.Address)
	case z.Pool6.IsValid() && (!z.Pool6.Addr().Is6() || z.Pool6.Bits() == 0 || z.Pool6.Bits()%4 != 0 || z.Pool6 != z.Pool6.Masked()):
		return fmt.Errorf("names of pool %s: want an IPv6 network on a multiple of 4 bits", z.Pool6)
	}
	return nil
}

// Search returns the domains that short names are tried with.
func (z Zone) Search() []string { return []string{trimRoot(domain)} }

// Reverse returns the names of the zone's reverse zones, in order, without the
// root's dot: one for each whole octet's worth of the pool (RFC 1034 §5.2.1,
// and RFC 2317's trouble spared: a pool of /26 has 64 zones of one address).
func (z Zone) Reverse() []string {
	octets := (z.Pool.Bits() + 7) / 8
	base := z.Pool.Addr().As4()
	var zones []string
	for i := range 1 << (8*octets - z.Pool.Bits()) {
		b := base
		b[octets-1] += byte(i)
		name := "in-addr.arpa"
		for _, o := range b[:octets] {
			name = fmt.Sprintf("%d.%s", o, name)
		}
		zones = append(zones, name)
	}
	if z.Pool6.IsValid() {
		arpa, _ := dns.ReverseAddr(z.Pool6.Addr().String())
		zones = append(zones, trimRoot(arpa[2*(32-z.Pool6.Bits()/4):]))
	}
	return zones
}

// unicast says whether addr is a host's address in the pool: not the network's
// and not the broadcast address.
func (z Zone) unicast(addr netip.Addr) bool {
	if !z.Pool.Contains(addr) || addr == z.Pool.Addr() {
		return false
	}
	next := addr.Next()
	return next.IsValid() && z.Pool.Contains(next)
}

func trimRoot(name string) string { return strings.TrimSuffix(name, ".") }
