package sim

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// inbox is a handler that keeps what arrived.
type inbox struct {
	host *Host
	got  []letter
	// reply answers every datagram, if set.
	reply bool
}

type letter struct {
	to, from netip.AddrPort
	text     string
}

func (b *inbox) Receive(_ time.Time, to, from netip.AddrPort, data []byte) {
	b.got = append(b.got, letter{to, from, string(data)})
	if b.reply {
		b.host.Send(to.Port(), from, []byte("re:"+string(data)))
	}
}

func (b *inbox) Wake(time.Time) {}

// take returns what arrived since the last take, at a local port.
func (b *inbox) take(port uint16) (got []letter) {
	for _, l := range b.got {
		if l.to.Port() == port {
			got = append(got, l)
		}
	}
	b.got = nil
	return got
}

// lab is a network without chance, with hosts that keep what they get.
type lab struct {
	*Net
	t *testing.T
}

func newLab(t *testing.T) *lab { return &lab{NewNet(New(1), Config{}), t} }

func (l *lab) host(r *Realm) *inbox {
	b := &inbox{host: l.AddHost(r, Place{})}
	b.host.Start(b)
	return b
}

// settle lets everything under way arrive.
func (l *lab) settle() { l.Run(l.Now() + time.Second) }

func (l *lab) wait(d time.Duration) { l.Run(l.Now() + d) }

func (b *inbox) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(b.host.Addr(), port) }

// seen returns the endpoint that b sees when a sends from one port to another.
func (l *lab) seen(a *inbox, from uint16, b *inbox, to uint16) netip.AddrPort {
	l.t.Helper()
	a.host.Send(from, b.at(to), []byte("look"))
	l.settle()
	got := b.take(to)
	if len(got) != 1 {
		l.t.Fatalf("server got %d datagrams, want 1", len(got))
	}
	return got[0].from
}

// passes says whether a datagram from a server's port reaches the host.
func (l *lab) passes(server *inbox, from uint16, to netip.AddrPort, host *inbox) bool {
	host.got = nil
	server.host.Send(from, to, []byte("in"))
	l.settle()
	return len(host.got) == 1
}

// TestBehaviour asks each kind of box what RFC 5780 §4.3 and §4.4 ask, and
// compares the answers with RFC 4787's definitions.
func TestBehaviour(t *testing.T) {
	for mapping := EndpointIndependent; mapping <= AddressAndPortDependent; mapping++ {
		for filtering := EndpointIndependent; filtering <= AddressAndPortDependent; filtering++ {
			t.Run(fmt.Sprintf("mapping %v, filtering %v", mapping, filtering), func(t *testing.T) {
				l := newLab(t)
				nat := l.AddNAT(l.Internet, Behaviour{Mapping: mapping, Filtering: filtering}, Place{})
				in, s1, s2 := l.host(nat.Inside), l.host(l.Internet), l.host(l.Internet)

				first := l.seen(in, 4242, s1, 1)
				if first.Addr() != nat.Addr() {
					t.Fatalf("server sees %v, want the outer address %v", first, nat.Addr())
				}
				// Filtering first: only S1's port 1 has been sent to.
				if got := l.passes(s1, 1, first, in); !got {
					t.Error("the answer of the endpoint sent to is dropped")
				}
				if got, want := l.passes(s1, 2, first, in), filtering <= AddressDependent; got != want {
					t.Errorf("same address, other port passes: %v, want %v", got, want)
				}
				if got, want := l.passes(s2, 1, first, in), filtering == EndpointIndependent; got != want {
					t.Errorf("other address passes: %v, want %v", got, want)
				}
				if got := l.seen(in, 4242, s1, 1); got != first {
					t.Errorf("mapping changed for one destination: %v, then %v", first, got)
				}
				if got, want := l.seen(in, 4242, s1, 2) == first, mapping <= AddressDependent; got != want {
					t.Errorf("mapping reused for another port: %v, want %v", got, want)
				}
				if got, want := l.seen(in, 4242, s2, 1) == first, mapping == EndpointIndependent; got != want {
					t.Errorf("mapping reused for another address: %v, want %v", got, want)
				}
			})
		}
	}
}

func TestPortPreservation(t *testing.T) {
	l := newLab(t)
	nat := l.AddNAT(l.Internet, Home, Place{})
	a, b, s := l.host(nat.Inside), l.host(nat.Inside), l.host(l.Internet)
	if got := l.seen(a, 4242, s, 1).Port(); got != 4242 {
		t.Errorf("first host's outer port %d, want its own", got)
	}
	if got := l.seen(b, 4242, s, 1).Port(); got == 4242 {
		t.Error("two hosts share one outer endpoint")
	}
	plain := l.AddNAT(l.Internet, Behaviour{}, Place{})
	if got := l.seen(l.host(plain.Inside), 4242, s, 1).Port(); got == 4242 {
		t.Error("a box that does not preserve ports did")
	}
}

// TestTimeout is REQ-5 and REQ-6: outward datagrams renew, inward ones only
// where the box says so.
func TestTimeout(t *testing.T) {
	for _, tc := range []struct {
		name             string
		outward, inbound bool // what crosses every 20 s
		b                Behaviour
		open             bool
	}{
		{"silence ends it", false, false, Behaviour{Timeout: 30 * time.Second}, false},
		{"outward renews", true, false, Behaviour{Timeout: 30 * time.Second}, true},
		{"inward does not", false, true, Behaviour{Timeout: 30 * time.Second}, false},
		{"inward does where it may", false, true, Behaviour{Timeout: 30 * time.Second, RefreshInbound: true}, true},
		{"so do permissions", false, true, Behaviour{Filtering: AddressAndPortDependent, Timeout: 30 * time.Second, RefreshInbound: true}, true},
		{"which end alone", false, true, Behaviour{Filtering: AddressAndPortDependent, Timeout: 30 * time.Second}, false},
		{"two minutes unless told", false, false, Behaviour{}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			nat := l.AddNAT(l.Internet, tc.b, Place{})
			in, s := l.host(nat.Inside), l.host(l.Internet)
			outer := l.seen(in, 4242, s, 1)
			for range 4 {
				l.wait(20 * time.Second)
				if tc.outward {
					in.host.Send(4242, s.at(1), nil)
				}
				if tc.inbound {
					s.host.Send(1, outer, nil)
				}
				l.settle()
			}
			if got := l.passes(s, 1, outer, in); got != tc.open {
				t.Errorf("open after 80 s: %v, want %v", got, tc.open)
			}
		})
	}
}

// TestExpiredPortIsReused: a table that filled long ago serves new hosts.
func TestExpiredPortIsReused(t *testing.T) {
	l := newLab(t)
	nat := l.AddNAT(l.Internet, Behaviour{Timeout: time.Minute}, Place{})
	in, s := l.host(nat.Inside), l.host(l.Internet)
	for round := range 20 {
		for port := range uint16(100) {
			in.host.Send(1000+port, s.at(1), nil)
		}
		l.wait(2 * time.Minute)
		if got := len(nat.in); got > 300 || got != len(nat.out) {
			t.Fatalf("round %d: %d mappings by port, %d by flow", round, got, len(nat.out))
		}
	}
}

// TestHairpin is REQ-9: inside to inside by outer endpoints, which are also
// what the receiver sees.
func TestHairpin(t *testing.T) {
	for _, hairpin := range []bool{true, false} {
		l := newLab(t)
		nat := l.AddNAT(l.Internet, Behaviour{Hairpin: hairpin}, Place{})
		a, b, s := l.host(nat.Inside), l.host(nat.Inside), l.host(l.Internet)
		outerA, outerB := l.seen(a, 1, s, 1), l.seen(b, 1, s, 1)
		a.host.Send(1, outerB, []byte("hi"))
		l.settle()
		got := b.take(1)
		if !hairpin && len(got) != 0 {
			t.Error("a box without hairpinning carried it")
		}
		if hairpin && (len(got) != 1 || got[0].from != outerA) {
			t.Errorf("hairpinned: %v, want one from %v", got, outerA)
		}
	}
}

// TestTwoBoxes is a home behind a carrier's translator.
func TestTwoBoxes(t *testing.T) {
	l := newLab(t)
	carrier := l.AddNAT(l.Internet, Behaviour{Hairpin: true}, Place{})
	home1, home2 := l.AddNAT(carrier.Inside, Home, Place{}), l.AddNAT(carrier.Inside, Home, Place{})
	a, b, s := l.host(home1.Inside), l.host(home2.Inside), l.host(l.Internet)
	outerA, outerB := l.seen(a, 1, s, 1), l.seen(b, 1, s, 1)
	if outerA.Addr() != carrier.Addr() || outerB.Addr() != carrier.Addr() {
		t.Fatalf("server sees %v and %v, want the carrier's %v", outerA, outerB, carrier.Addr())
	}
	if !l.passes(s, 1, outerA, a) {
		t.Error("an answer does not descend through both boxes")
	}
	// Both homes filter by endpoint, so both must send; the carrier hairpins.
	a.host.Send(1, outerB, []byte("early"))
	l.settle()
	b.host.Send(1, outerA, []byte("late"))
	l.settle()
	if len(b.take(1)) != 0 || len(a.take(1)) == 0 {
		t.Error("punching through one carrier: want the first lost, the second through")
	}
}

func TestBlockedAndRebooted(t *testing.T) {
	l := newLab(t)
	office := l.AddNAT(l.Internet, Blocking, Place{})
	in, s := l.host(office.Inside), l.host(l.Internet)
	in.host.Send(1, s.at(1), nil)
	l.settle()
	if len(s.got) != 0 || l.Stats.Filtered != 1 {
		t.Errorf("a blocking box let %d through, filtered %d", len(s.got), l.Stats.Filtered)
	}
	nat := l.AddNAT(l.Internet, FullCone, Place{})
	in = l.host(nat.Inside)
	outer := l.seen(in, 1, s, 1)
	nat.Flush()
	if l.passes(s, 1, outer, in) {
		t.Error("a rebooted box kept its mappings")
	}
}

// TestSameAddresses: two homes use one private address, and a datagram to it
// reaches the neighbour, never the other home.
func TestSameAddresses(t *testing.T) {
	l := newLab(t)
	home1, home2 := l.AddNAT(l.Internet, Home, Place{}), l.AddNAT(l.Internet, Home, Place{})
	a1, a2 := l.host(home1.Inside), l.host(home1.Inside)
	b1, b2 := l.host(home2.Inside), l.host(home2.Inside)
	if a2.host.Addr() != b2.host.Addr() {
		t.Fatal("the homes number differently")
	}
	a1.host.Send(1, b2.at(1), nil)
	l.settle()
	if len(a2.got) != 1 || len(b2.got) != 0 || len(b1.got) != 0 {
		t.Error("a private address left its realm")
	}
}

// TestPunching is the table of research/overlay.md §3.3 and its reasons: both
// send to what a third host sees of the other.
func TestPunching(t *testing.T) {
	for _, tc := range []struct {
		a, b   Behaviour
		direct bool
	}{
		{Home, Home, true},
		{Home, FullCone, true},
		{FullCone, FullCone, true},
		{Symmetric, FullCone, true},
		{Symmetric, Home, false},
		{Symmetric, Symmetric, false},
		{Symmetric, Behaviour{Filtering: AddressDependent}, true},
		{Home, Blocking, false},
	} {
		l := newLab(t)
		na, nb := l.AddNAT(l.Internet, tc.a, Place{}), l.AddNAT(l.Internet, tc.b, Place{})
		a, b, s := l.host(na.Inside), l.host(nb.Inside), l.host(l.Internet)
		reflexive := func(h *inbox) netip.AddrPort {
			h.host.Send(1, s.at(1), nil)
			l.settle()
			if got := s.take(1); len(got) == 1 {
				return got[0].from
			}
			return netip.AddrPortFrom(s.host.Addr(), 9)
		}
		toA, toB := reflexive(a), reflexive(b)
		a.reply, b.reply = true, true
		for range 3 {
			a.host.Send(1, toB, []byte("check"))
			b.host.Send(1, toA, []byte("check"))
			l.wait(20 * time.Millisecond)
		}
		l.settle()
		if got := len(a.got) > 0 && len(b.got) > 0; got != tc.direct {
			t.Errorf("%+v with %+v: direct %v, want %v", tc.a, tc.b, got, tc.direct)
		}
	}
}
