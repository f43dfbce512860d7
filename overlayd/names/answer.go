package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"gridappliance/credential"
)

func parseUint16(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%.20q is not a number from 0 to 65535", text)
	}
	return uint16(n), nil
}

// reply is one answer as it is made. Its question's name is kept in its own
// letters for the answer; name is the one to compare.
type reply struct {
	zone Zone
	ask  Resolver
	msg  *dns.Msg
	q    dns.Question
	name string // lower case, with the root's dot
}

// answer fills msg with what the zone has to say to its only question.
func answer(ctx context.Context, zone Zone, ask Resolver, msg *dns.Msg) {
	q := msg.Question[0]
	r := &reply{zone: zone, ask: ask, msg: msg, q: q, name: strings.ToLower(q.Name)}
	switch {
	case q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		msg.Rcode = dns.RcodeRefused
	case dns.IsSubDomain(domain, r.name):
		msg.Authoritative = true
		r.forward(ctx)
	default:
		for _, apex := range zone.Reverse() {
			if dns.IsSubDomain(apex+".", r.name) {
				msg.Authoritative = true
				r.reverse(ctx, apex+".")
				return
			}
		}
		msg.Rcode = dns.RcodeRefused
	}
}

// forward answers a question about a name in domain.
func (r *reply) forward(ctx context.Context) {
	if r.name == domain {
		r.apex(domain)
		return
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(r.name, domain))
	switch {
	case len(labels) == 1 && (labels[0] == "_tcp" || labels[0] == "_udp"):
		r.nothing(domain, dns.RcodeSuccess) // there may be services underneath
	case len(labels) == 2 && strings.HasPrefix(labels[0], "_") && (labels[1] == "_tcp" || labels[1] == "_udp"):
		r.services(ctx, labels[0][1:], labels[1][1:])
	case len(labels) == 1 && isLabel(labels[0]):
		r.host(ctx, labels[0])
	default:
		r.nothing(domain, dns.RcodeNameError)
	}
}

// isLabel says whether s can be a host's name: a-z 0-9 - (RFC 1123 §2.1).
func isLabel(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-'
}

// host answers for a host's name.
func (r *reply) host(ctx context.Context, label string) {
	if addr, err := credential.ParseHostName(label, r.zone.Pool); err == nil {
		r.addressName(ctx, label, addr)
		return
	}
	if isAddressName(label) { // of no address of the pool
		r.nothing(domain, dns.RcodeNameError)
		return
	}
	h, err := r.ask.Host(ctx, label)
	if err != nil {
		r.unknown(domain, err)
		return
	}
	r.addresses(h, hostTTL)
}

// isAddressName says whether a label has the form of an address's name, which
// nobody can choose.
func isAddressName(label string) bool {
	return len(label) == 10 && label[0] == 'c' && strings.Trim(label[1:], "0123456789") == ""
}

// addressName answers for the name that stands for addr. The name exists
// whoever holds the address; only its IPv6 address has to be asked for.
func (r *reply) addressName(ctx context.Context, label string, addr netip.Addr) {
	if !r.zone.unicast(addr) {
		r.nothing(domain, dns.RcodeNameError)
		return
	}
	h := Host{Address: addr}
	if r.q.Qtype == dns.TypeAAAA && r.zone.Pool6.IsValid() {
		ctx, cancel := context.WithTimeout(ctx, ask6Time)
		defer cancel()
		known, err := r.ask.Host(ctx, label)
		if err == nil && known.Address == addr {
			h.Address6 = known.Address6
		}
	}
	r.addresses(h, addressTTL)
}

// addresses answers with a machine's addresses of the type asked for. ANY is
// A (RFC 8482 §4.1).
func (r *reply) addresses(h Host, ttl uint32) {
	switch {
	case r.q.Qtype == dns.TypeA || r.q.Qtype == dns.TypeANY:
		r.msg.Answer = append(r.msg.Answer, &dns.A{Hdr: r.header(dns.TypeA, ttl), A: h.Address.AsSlice()})
	case r.q.Qtype == dns.TypeAAAA && h.Address6.IsValid():
		r.msg.Answer = append(r.msg.Answer, &dns.AAAA{Hdr: r.header(dns.TypeAAAA, hostTTL), AAAA: h.Address6.AsSlice()})
	default:
		r.nothing(domain, dns.RcodeSuccess)
	}
}

// services answers for a service of a protocol.
func (r *reply) services(ctx context.Context, service, protocol string) {
	if !isLabel(service) {
		r.nothing(domain, dns.RcodeNameError)
		return
	}
	offers, err := r.ask.Services(ctx, service)
	if err != nil {
		r.unknown(domain, err)
		return
	}
	found := false
	for _, o := range offers {
		s, err := ParseService(o.Value)
		if err != nil {
			s = fixed[service] // or none
		}
		if s.Protocol != protocol || !r.zone.unicast(o.Host.Address) {
			continue
		}
		found = true
		if r.q.Qtype != dns.TypeSRV && r.q.Qtype != dns.TypeANY {
			continue
		}
		target := credential.HostName(o.Host.Address) + "."
		r.msg.Answer = append(r.msg.Answer, &dns.SRV{Hdr: r.header(dns.TypeSRV, hostTTL),
			Priority: s.Priority, Weight: s.Weight, Port: s.Port, Target: target})
		r.msg.Extra = append(r.msg.Extra, &dns.A{
			Hdr: dns.RR_Header{Name: target, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: addressTTL}, A: o.Host.Address.AsSlice()})
		if o.Host.Address6.IsValid() {
			r.msg.Extra = append(r.msg.Extra, &dns.AAAA{
				Hdr: dns.RR_Header{Name: target, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: hostTTL}, AAAA: o.Host.Address6.AsSlice()})
		}
	}
	switch {
	case !found:
		r.nothing(domain, dns.RcodeNameError)
	case len(r.msg.Answer) == 0:
		r.nothing(domain, dns.RcodeSuccess)
	}
}

// reverse answers for a name of the reverse zone apex.
func (r *reply) reverse(ctx context.Context, apex string) {
	addr, whole, ok := parseReverse(r.name)
	switch {
	case r.name == apex && !whole:
		r.apex(apex)
	case !ok:
		r.nothing(apex, dns.RcodeNameError)
	case !whole:
		r.nothing(apex, dns.RcodeSuccess) // addresses lie underneath (RFC 8020)
	case addr.Is6():
		h, err := r.ask.HostOf(ctx, addr)
		if err != nil {
			r.unknown(apex, err)
			return
		}
		r.pointer(apex, h.Address, hostTTL)
	case r.zone.unicast(addr):
		r.pointer(apex, addr, addressTTL)
	default:
		r.nothing(apex, dns.RcodeNameError)
	}
}

func (r *reply) pointer(apex string, addr netip.Addr, ttl uint32) {
	switch r.q.Qtype {
	case dns.TypePTR, dns.TypeANY:
		r.msg.Answer = append(r.msg.Answer, &dns.PTR{Hdr: r.header(dns.TypePTR, ttl), Ptr: credential.HostName(addr) + "."})
	case dns.TypeSOA, dns.TypeNS:
		if r.name == apex { // the zone of a single address
			r.apex(apex)
			return
		}
		fallthrough
	default:
		r.nothing(apex, dns.RcodeSuccess)
	}
}

// parseReverse reads a name below in-addr.arpa or ip6.arpa. ok: it stands for
// an address, or (not whole) for a network of whole octets or digits.
func parseReverse(name string) (addr netip.Addr, whole, ok bool) {
	if rest, is4 := strings.CutSuffix(name, ".in-addr.arpa."); is4 {
		labels := strings.Split(rest, ".")
		var b [4]byte
		if len(labels) > len(b) {
			return addr, false, false
		}
		for i, l := range labels {
			n, err := strconv.ParseUint(l, 10, 8)
			if err != nil || strconv.FormatUint(n, 10) != l {
				return addr, false, false
			}
			b[len(labels)-1-i] = byte(n)
		}
		return netip.AddrFrom4(b), len(labels) == len(b), true
	}
	rest, is6 := strings.CutSuffix(name, ".ip6.arpa.")
	labels := strings.Split(rest, ".")
	var b [16]byte
	if !is6 || len(labels) > 2*len(b) {
		return addr, false, false
	}
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 16, 4)
		if err != nil || len(l) != 1 {
			return addr, false, false
		}
		at := len(labels) - 1 - i
		b[at/2] |= byte(n) << (4 * (1 - at%2))
	}
	return netip.AddrFrom16(b), len(labels) == 2*len(b), true
}

// apex answers for the name of a zone itself.
func (r *reply) apex(apex string) {
	switch r.q.Qtype {
	case dns.TypeSOA, dns.TypeANY:
		r.msg.Answer = append(r.msg.Answer, r.soa(r.q.Name))
	case dns.TypeNS:
		r.msg.Answer = append(r.msg.Answer, &dns.NS{Hdr: r.header(dns.TypeNS, addressTTL), Ns: r.self()})
	default:
		r.nothing(apex, dns.RcodeSuccess)
	}
}

// unknown answers for a name about which the Resolver had an error.
func (r *reply) unknown(apex string, err error) {
	if errors.Is(err, ErrNotFound) {
		r.nothing(apex, dns.RcodeNameError)
		return
	}
	r.msg.Rcode = dns.RcodeServerFailure
}

// nothing answers that there is no such name, or nothing of that type, with
// the SOA by which that is forgotten (RFC 2308 §3).
func (r *reply) nothing(apex string, rcode int) {
	r.msg.Rcode = rcode
	r.msg.Ns = append(r.msg.Ns, r.soa(apex))
}

func (r *reply) soa(name string) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: NegativeTTL},
		Ns:  r.self(), Mbox: "hostmaster." + domain, Serial: 1,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: NegativeTTL,
	}
}

// self is this machine's name.
func (r *reply) self() string { return credential.HostName(r.zone.Own.Address) + "." }

func (r *reply) header(rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: r.q.Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}
