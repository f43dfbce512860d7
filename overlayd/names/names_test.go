package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// world is a Resolver with a few machines; "lost" is not known for certain.
type world struct{}

var (
	errLost = errors.New("not on the ring")
	zone    = Zone{Own: host("10.250.0.2", "fd12:3456:789a::2"), Pool: netip.MustParsePrefix("10.250.0.0/16"),
		Pool6: netip.MustParsePrefix("fd12:3456:789a::/64")}
)

func host(addr, addr6 string) (h Host) {
	h.Address = netip.MustParseAddr(addr)
	if addr6 != "" {
		h.Address6 = netip.MustParseAddr(addr6)
	}
	return h
}

var hosts = map[string]Host{
	"c250000002": zone.Own,
	"pc":         host("10.250.3.7", "fd12:3456:789a::7"),
	"c250003007": host("10.250.3.7", "fd12:3456:789a::7"),
	"old":        host("10.250.3.8", ""),
}

func (world) Host(ctx context.Context, label string) (Host, error) {
	if label == "c250004004" { // whom nobody can be asked about now
		<-ctx.Done()
		return Host{}, ctx.Err()
	}
	if label == "lost" {
		return Host{}, errLost
	}
	if h, ok := hosts[label]; ok {
		return h, nil
	}
	return Host{}, fmt.Errorf("%s: %w", label, ErrNotFound)
}

func (world) HostOf(_ context.Context, addr netip.Addr) (Host, error) {
	for _, h := range hosts {
		if h.Address6 == addr {
			return h, nil
		}
	}
	return Host{}, ErrNotFound
}

func (world) Services(ctx context.Context, service string) ([]Offer, error) {
	switch service {
	case "lost":
		return nil, errLost
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	case "collector":
		return []Offer{{zone.Own, []byte("tcp 9618 0 5\nversion 23.9")}, {hosts["pc"], []byte("udp 53")}}, nil
	case "issuer", "notes":
		return []Offer{{hosts["old"], []byte(`{"name": "not an address"}`)}}, nil
	case "many":
		var offers []Offer
		for i := range 60 {
			offers = append(offers, Offer{host(fmt.Sprintf("10.250.1.%d", i+1), ""), []byte("tcp 80")})
		}
		return offers, nil
	}
	return nil, nil
}

// serve runs a Server on the loopback address and returns its endpoint.
func serve(t *testing.T) (*Server, string) {
	t.Helper()
	s := New(world{})
	l, err := s.Listen(t.Context(), zone, netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.udp[0].LocalAddr().String()
}

// exchange asks one question.
func exchange(t *testing.T, network, server string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 10 * time.Second}
	answer, _, err := c.Exchange(m, server)
	if err != nil {
		t.Fatalf("%v: %v", m.Question, err)
	}
	answer.Compress = true // as it came, for Len
	return answer
}

// sections is an answer in one line a record: "answer pc.ipop. 30 A 10.250.3.7".
func sections(m *dns.Msg) (lines []string) {
	for name, rrs := range map[string][]dns.RR{"answer": m.Answer, "authority": m.Ns, "additional": m.Extra} {
		for _, rr := range rrs {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			lines = append(lines, name+" "+strings.Join(strings.Fields(strings.ReplaceAll(rr.String(), "\tIN\t", " ")), " "))
		}
	}
	slices.Sort(lines)
	return lines
}

const (
	soaIpop = "authority ipop. 5 SOA C250000002.ipop. hostmaster.ipop. 1 3600 600 86400 5"
	soa4    = "authority 250.10.in-addr.arpa. 5 SOA C250000002.ipop. hostmaster.ipop. 1 3600 600 86400 5"
	soa6    = "authority 0.0.0.0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa. 5 SOA C250000002.ipop. hostmaster.ipop. 1 3600 600 86400 5"
)

// address6 of pc, below the zone of soa6.
const pc6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa."

func TestAnswers(t *testing.T) {
	s, server := serve(t)
	for _, c := range []struct {
		name, question string
		rcode          int
		want           []string
	}{
		{"address", "C250003007.ipop. A", 0, []string{"answer C250003007.ipop. 300 A 10.250.3.7"}},
		{"address, letters kept", "c250003007.IPOP. A", 0, []string{"answer c250003007.IPOP. 300 A 10.250.3.7"}},
		{"address that nobody holds", "C250009009.ipop. A", 0, []string{"answer C250009009.ipop. 300 A 10.250.9.9"}},
		{"its IPv6", "C250003007.ipop. AAAA", 0, []string{"answer C250003007.ipop. 30 AAAA fd12:3456:789a::7"}},
		{"IPv6 of nobody", "C250009009.ipop. AAAA", 0, []string{soaIpop}},
		{"any", "C250003007.ipop. ANY", 0, []string{"answer C250003007.ipop. 300 A 10.250.3.7"}},
		{"other type", "C250003007.ipop. MX", 0, []string{soaIpop}},
		{"network's address", "C250000000.ipop. A", dns.RcodeNameError, []string{soaIpop}},
		{"broadcast address", "C250255255.ipop. A", dns.RcodeNameError, []string{soaIpop}},
		{"outside the pool", "C251000002.ipop. A", dns.RcodeNameError, []string{soaIpop}},
		{"not an octet", "C250000256.ipop. A", dns.RcodeNameError, []string{soaIpop}},

		{"chosen name", "PC.ipop. A", 0, []string{"answer PC.ipop. 30 A 10.250.3.7"}},
		{"its IPv6", "pc.ipop. AAAA", 0, []string{"answer pc.ipop. 30 AAAA fd12:3456:789a::7"}},
		{"host without IPv6", "old.ipop. AAAA", 0, []string{soaIpop}},
		{"chosen name, other type", "pc.ipop. TXT", 0, []string{soaIpop}},
		{"nobody", "nobody.ipop. A", dns.RcodeNameError, []string{soaIpop}},
		{"nobody, other type", "nobody.ipop. TXT", dns.RcodeNameError, []string{soaIpop}},
		{"below a host", "a.pc.ipop. A", dns.RcodeNameError, []string{soaIpop}},
		{"no host's name", `a\046b.ipop. A`, dns.RcodeNameError, []string{soaIpop}},
		{"not known", "lost.ipop. A", dns.RcodeServerFailure, nil},

		{"apex SOA", "ipop. SOA", 0, []string{"answer ipop. 5 SOA C250000002.ipop. hostmaster.ipop. 1 3600 600 86400 5"}},
		{"apex NS", "ipop. NS", 0, []string{"answer ipop. 300 NS C250000002.ipop."}},
		{"apex A", "ipop. A", 0, []string{soaIpop}},

		{"service", "_collector._tcp.ipop. SRV", 0, []string{
			"additional C250000002.ipop. 300 A 10.250.0.2", "additional C250000002.ipop. 30 AAAA fd12:3456:789a::2",
			"answer _collector._tcp.ipop. 30 SRV 0 5 9618 C250000002.ipop."}},
		{"service by UDP", "_COLLECTOR._udp.ipop. SRV", 0, []string{
			"additional C250003007.ipop. 300 A 10.250.3.7", "additional C250003007.ipop. 30 AAAA fd12:3456:789a::7",
			"answer _COLLECTOR._udp.ipop. 30 SRV 0 0 53 C250003007.ipop."}},
		{"service without its port", "_issuer._tcp.ipop. SRV", 0, []string{
			"additional C250003008.ipop. 300 A 10.250.3.8", "answer _issuer._tcp.ipop. 30 SRV 0 0 4243 C250003008.ipop."}},
		{"service whose record says nothing", "_notes._tcp.ipop. SRV", dns.RcodeNameError, []string{soaIpop}},
		{"service, other type", "_collector._tcp.ipop. A", 0, []string{soaIpop}},
		{"no service", "_web._tcp.ipop. SRV", dns.RcodeNameError, []string{soaIpop}},
		{"service not known", "_lost._tcp.ipop. SRV", dns.RcodeServerFailure, nil},
		{"above services", "_tcp.ipop. SRV", 0, []string{soaIpop}},
		{"no protocol", "_collector._sctp.ipop. SRV", dns.RcodeNameError, []string{soaIpop}},

		{"reverse", "7.3.250.10.in-addr.arpa. PTR", 0, []string{"answer 7.3.250.10.in-addr.arpa. 300 PTR C250003007.ipop."}},
		{"reverse, other letters", "7.3.250.10.IN-ADDR.arpa. PTR", 0, []string{"answer 7.3.250.10.IN-ADDR.arpa. 300 PTR C250003007.ipop."}},
		{"reverse, other type", "7.3.250.10.in-addr.arpa. A", 0, []string{soa4}},
		{"reverse of the network", "0.0.250.10.in-addr.arpa. PTR", dns.RcodeNameError, []string{soa4}},
		{"reverse, leading zero", "07.3.250.10.in-addr.arpa. PTR", dns.RcodeNameError, []string{soa4}},
		{"reverse, below an address", "1.7.3.250.10.in-addr.arpa. PTR", dns.RcodeNameError, []string{soa4}},
		{"above addresses", "3.250.10.in-addr.arpa. PTR", 0, []string{soa4}},
		{"reverse apex", "250.10.in-addr.arpa. SOA", 0, []string{"answer 250.10.in-addr.arpa. 5 SOA C250000002.ipop. hostmaster.ipop. 1 3600 600 86400 5"}},
		{"reverse IPv6", pc6 + " PTR", 0, []string{"answer " + pc6 + " 30 PTR C250003007.ipop."}},
		{"reverse IPv6 of nobody", strings.Replace(pc6, "7", "8", 1) + " PTR", dns.RcodeNameError, []string{soa6}},
		{"above IPv6 addresses", pc6[2:] + " PTR", 0, []string{soa6}},

		{"the root", ". NS", dns.RcodeRefused, nil},
		{"another domain", "example.com. A", dns.RcodeRefused, nil},
		{"nearly ours", "notipop. A", dns.RcodeRefused, nil},
		{"another network", "1.0.0.127.in-addr.arpa. PTR", dns.RcodeRefused, nil},
		{"above the pool", "10.in-addr.arpa. SOA", dns.RcodeRefused, nil},
		{"transfer", "ipop. AXFR", dns.RcodeRefused, nil},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(c.name+" "+network, func(t *testing.T) {
				name, rrtype, _ := strings.Cut(c.question, " ")
				m := new(dns.Msg).SetQuestion(name, dns.StringToType[rrtype])
				got := exchange(t, network, server, m)
				if got.Rcode != c.rcode {
					t.Errorf("%s, want %s", dns.RcodeToString[got.Rcode], dns.RcodeToString[c.rcode])
				}
				slices.Sort(c.want)
				if diff := cmp.Diff(c.want, sections(got)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				ours := c.rcode != dns.RcodeRefused
				if got.Authoritative != ours || got.RecursionAvailable || !got.RecursionDesired || got.IsEdns0() != nil {
					t.Errorf("header or EDNS wrong:\n%v", got)
				}
			})
		}
	}
	if n := s.Counters(); n.Refused != 12 || n.Failed != 4 || n.Malformed+n.Strange+n.TooMany != 0 {
		t.Errorf("counters %+v", n)
	}
}

func TestEDNSAndTruncation(t *testing.T) {
	_, server := serve(t)
	many := func() *dns.Msg { return new(dns.Msg).SetQuestion("_many._tcp.ipop.", dns.TypeSRV) }

	plain := exchange(t, "udp", server, many())
	if !plain.Truncated || plain.Len() > dns.MinMsgSize || plain.IsEdns0() != nil {
		t.Errorf("plain: truncated %v, %d bytes", plain.Truncated, plain.Len())
	}
	for asked, most := range map[uint16]int{100: 512, 800: 800, 65535: 1232} {
		m := many()
		m.SetEdns0(asked, false)
		got := exchange(t, "udp", server, m)
		if edns := got.IsEdns0(); edns == nil || edns.UDPSize() != maxUDP || !got.Truncated || got.Len() > most {
			t.Errorf("EDNS of %d: truncated %v, %d bytes, want at most %d", asked, got.Truncated, got.Len(), most)
		}
	}
	if got := exchange(t, "tcp", server, many()); got.Truncated || len(got.Answer) != 60 {
		t.Errorf("TCP: truncated %v, %d answers, want all 60", got.Truncated, len(got.Answer))
	}

	m := many()
	m.SetEdns0(1232, false)
	m.IsEdns0().SetVersion(1)
	if got := exchange(t, "udp", server, m); got.Rcode != dns.RcodeBadVers || len(got.Answer) != 0 || got.IsEdns0().Version() != 0 {
		t.Errorf("EDNS version 1: %v", got)
	}
}

func TestWhatIsNoQuestion(t *testing.T) {
	s, server := serve(t)
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		rcode  int
	}{
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"no question":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"update":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"CHAOS": {func(m *dns.Msg) {
			m.Question[0] = dns.Question{Name: "version.bind.", Qtype: dns.TypeTXT, Qclass: dns.ClassCHAOS}
		}, dns.RcodeRefused},
	} {
		m := new(dns.Msg).SetQuestion("pc.ipop.", dns.TypeA)
		c.change(m)
		if got := exchange(t, "udp", server, m); got.Rcode != c.rcode {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[got.Rcode], dns.RcodeToString[c.rcode])
		}
	}
	if n := s.Counters(); n.Malformed != 3 || n.Refused != 1 {
		t.Errorf("counters %+v", n)
	}
}

// TestIPv6IsNotWaitedFor: a client waits for both addresses of a name, so the
// one that must be looked up may not keep the other.
func TestIPv6IsNotWaitedFor(t *testing.T) {
	_, server := serve(t)
	began := time.Now()
	got := exchange(t, "udp", server, new(dns.Msg).SetQuestion("C250004004.ipop.", dns.TypeAAAA))
	if diff := cmp.Diff([]string{soaIpop}, sections(got)); diff != "" || got.Rcode != dns.RcodeSuccess {
		t.Errorf("%s (-want +got):\n%s", dns.RcodeToString[got.Rcode], diff)
	}
	if took := time.Since(began); took > askTime-ask6Time {
		t.Errorf("no IPv6 address after %v", took)
	}
}

// TestStop has a query under way when the server is told to stop.
func TestStop(t *testing.T) {
	s := New(world{})
	l, err := s.Listen(t.Context(), zone, netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx) }()
	conn, err := dns.Dial("tcp", l.tcp[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion("_slow._tcp.ipop.", dns.TypeSRV)); err != nil {
		t.Fatal(err)
	}
	for len(s.slots) == 0 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > askTime/2 {
		t.Errorf("stopping took %v", took)
	}
}

func TestAddressThatIsNotThere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := New(world{}).Listen(ctx, zone, netip.MustParseAddrPort("192.0.2.1:53")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stopped while it waited: %v", err)
	}
}

func TestStrangersAndBudgets(t *testing.T) {
	l, err := New(world{}).Listen(t.Context(), zone)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.250.9.9": true, "fd12:3456:789a::9": true,
		"10.251.0.1": false, "192.0.2.1": false, "fd12:3456:789b::9": false, "fe80::1": false,
	} {
		if got := l.member(netip.MustParseAddr(addr)); got != want {
			t.Errorf("member(%s) = %v", addr, got)
		}
	}
	spend := func(addr netip.Addr) (n int) {
		for n < 10000 && l.within(addr) {
			n++
		}
		return n
	}
	member := spend(netip.MustParseAddr("10.250.9.9"))
	if member < memberBurst || member > memberBurst+memberRate {
		t.Errorf("a member got %d answers at once, want about %d", member, memberBurst)
	}
	if own := spend(zone.Own.Address); own < ownRate {
		t.Errorf("this machine got %d answers at once, want %d", own, ownRate)
	}
	for a, i := netip.MustParseAddr("10.250.16.0"), 0; i < 3*maxSources; i, a = i+1, a.Next() {
		l.within(a)
	}
	if len(l.limits) > maxSources {
		t.Errorf("%d sources are kept, want at most %d", len(l.limits), maxSources)
	}
}

func TestReverseZones(t *testing.T) {
	for pool, want := range map[string][]string{
		"10.250.0.0/16":   {"250.10.in-addr.arpa"},
		"242.0.0.0/8":     {"242.in-addr.arpa"},
		"10.1.2.0/23":     {"2.1.10.in-addr.arpa", "3.1.10.in-addr.arpa"},
		"192.168.1.64/30": {"64.1.168.192.in-addr.arpa", "65.1.168.192.in-addr.arpa", "66.1.168.192.in-addr.arpa", "67.1.168.192.in-addr.arpa"},
	} {
		if diff := cmp.Diff(want, (Zone{Pool: netip.MustParsePrefix(pool)}).Reverse()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", pool, diff)
		}
	}
	carrier := Zone{Pool: netip.MustParsePrefix("100.64.0.0/10"), Pool6: zone.Pool6}.Reverse()
	if len(carrier) != 65 || carrier[0] != "64.100.in-addr.arpa" || carrier[63] != "127.100.in-addr.arpa" || "authority "+carrier[64]+"." != strings.Fields(soa6)[0]+" "+strings.Fields(soa6)[1] {
		t.Errorf("100.64.0.0/10: %d zones, %v", len(carrier), carrier)
	}
}

func TestZoneCheck(t *testing.T) {
	change := func(f func(*Zone)) Zone { z := zone; f(&z); return z }
	for name, c := range map[string]struct {
		zone Zone
		ok   bool
	}{
		"whole":          {zone, true},
		"without IPv6":   {change(func(z *Zone) { z.Pool6 = netip.Prefix{} }), true},
		"no pool":        {change(func(z *Zone) { z.Pool = netip.Prefix{} }), false},
		"pool of all":    {change(func(z *Zone) { z.Pool = netip.MustParsePrefix("0.0.0.0/0") }), false},
		"not masked":     {change(func(z *Zone) { z.Pool = netip.MustParsePrefix("10.250.0.2/16") }), false},
		"elsewhere":      {change(func(z *Zone) { z.Own.Address = netip.MustParseAddr("10.251.0.2") }), false},
		"IPv6 at 3 bits": {change(func(z *Zone) { z.Pool6 = netip.MustParsePrefix("fd00::/50") }), false},
	} {
		if err := c.zone.Check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseService(t *testing.T) {
	for text, want := range map[string]Service{
		"tcp 9618":             {"tcp", 9618, 0, 0},
		"udp  53 10":           {"udp", 53, 10, 0},
		"tcp 80 1 2\nanything": {"tcp", 80, 1, 2},
		"":                     {}, "tcp": {}, "sctp 1": {}, "tcp 0": {}, "tcp 65536": {}, "tcp -1": {}, "tcp 1 2 3 4": {}, "TCP 1": {},
	} {
		got, err := ParseService([]byte(text))
		if got != want || (err == nil) != (want != Service{}) {
			t.Errorf("ParseService(%q) = %+v, %v", text, got, err)
		}
	}
}

// FuzzQuery has any bytes for a query: no panic, and what comes back is an
// answer to it that a client can read, no longer than it takes.
func FuzzQuery(f *testing.F) {
	for _, q := range []dns.Question{{Name: "pc.ipop.", Qtype: dns.TypeA, Qclass: 1}, {Name: "_many._tcp.ipop.", Qtype: dns.TypeSRV, Qclass: 1},
		{Name: pc6, Qtype: dns.TypePTR, Qclass: 1}, {Name: "7.3.250.10.in-addr.arpa.", Qtype: dns.TypeANY, Qclass: 255}} {
		m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: 7, RecursionDesired: true}, Question: []dns.Question{q}}
		m.SetEdns0(700, true)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b[:len(b)-11], true)
	}
	s := New(world{})
	f.Fuzz(func(t *testing.T, b []byte, overTCP bool) {
		query := new(dns.Msg)
		if query.Unpack(b) != nil || len(query.Question) != 1 || query.Response || query.Opcode != dns.OpcodeQuery {
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // the slow service is not waited for
		reply := s.respond(ctx, zone, query, overTCP)
		packed, err := reply.Pack()
		if err != nil {
			t.Fatalf("%v does not pack: %v\n%v", query.Question, err, reply)
		}
		most := dns.MaxMsgSize
		if !overTCP {
			most = maxUDP
		}
		if len(packed) > most {
			t.Fatalf("answer of %d bytes", len(packed))
		}
		back := new(dns.Msg)
		if err := back.Unpack(packed); err != nil {
			t.Fatalf("answer does not parse: %v", err)
		}
		if back.Id != query.Id || !back.Response || len(back.Question) != 1 || back.Question[0] != query.Question[0] {
			t.Fatalf("answer %v to %v", back, query)
		}
		for _, rr := range back.Answer {
			if rr.Header().Name != query.Question[0].Name {
				t.Fatalf("record of %s in an answer about %s", rr.Header().Name, query.Question[0].Name)
			}
		}
		ours := dns.IsSubDomain("ipop.", strings.ToLower(query.Question[0].Name)) || strings.HasSuffix(strings.ToLower(query.Question[0].Name), ".arpa.")
		if !ours && back.Rcode != dns.RcodeRefused && back.Rcode != dns.RcodeBadVers {
			t.Fatalf("%v answered: %s", query.Question, dns.RcodeToString[back.Rcode])
		}
	})
}
