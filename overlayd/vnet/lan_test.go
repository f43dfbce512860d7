package vnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
)

var (
	self  = nodeid.ID{1}
	peer2 = nodeid.ID{2, 2}
	peer3 = nodeid.ID{3, 3}
	start = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	mine  = netip.MustParseAddr("10.250.0.1")
	addr2 = netip.MustParseAddr("10.250.0.22")
	addr3 = netip.MustParseAddr("10.250.0.33")
)

// ip is a packet whose last byte is n.
func ip(from, to netip.Addr, size int, n byte) []byte {
	p := make([]byte, size)
	if from.Is4() {
		p[0] = 0x45
		binary.BigEndian.PutUint16(p[2:], uint16(size))
		copy(p[12:], from.AsSlice())
		copy(p[16:], to.AsSlice())
	} else {
		p[0] = 0x60
		binary.BigEndian.PutUint16(p[4:], uint16(size-ipv6Size))
		copy(p[8:], from.AsSlice())
		copy(p[24:], to.AsSlice())
	}
	p[size-1] = n
	return p
}

// bench drives a LAN and writes down what it does.
type bench struct {
	t   *testing.T
	l   *LAN
	now time.Time
}

func newBench(t *testing.T) *bench {
	b := &bench{t, NewLAN("archer", lan, self), start}
	b.do(Own{[]netip.Addr{mine, Address6("archer", self)}})
	return b
}

// do returns the actions as text, without Changed.
func (b *bench) do(e Event) string {
	var out []string
	for _, a := range b.l.Handle(b.now, e) {
		switch a := a.(type) {
		case Changed:
		case Ask:
			out = append(out, "ask "+a.Address.String())
		case Want:
			out = append(out, fmt.Sprintf("want %x", a.ID[0]))
		case Unwant:
			out = append(out, fmt.Sprintf("unwant %x", a.ID[0]))
		case Send:
			out = append(out, fmt.Sprintf("send %x %d", a.ID[0], a.Packet[len(a.Packet)-1]))
		case Deliver:
			out = append(out, fmt.Sprintf("deliver %d", a.Packet[len(a.Packet)-1]))
		case Drop:
			out = append(out, fmt.Sprintf("%s %d", a.Why, a.Packets))
		}
	}
	return strings.Join(out, ", ")
}

func (b *bench) want(e Event, want string) {
	b.t.Helper()
	if got := b.do(e); got != want {
		b.t.Errorf("%T: %q, want %q", e, got, want)
	}
}

// wait lets time pass, with what is due in it.
func (b *bench) wait(d time.Duration) string {
	var out []string
	for end := b.now.Add(d); ; {
		next := b.l.NextDeadline()
		if next.IsZero() || next.After(end) {
			b.now = end
			return strings.Join(out, ", ")
		}
		b.now = next
		if s := b.do(Tick{}); s != "" {
			out = append(out, s)
		}
	}
}

func TestFirstPacketsWaitInOrder(t *testing.T) {
	b := newBench(t)
	b.want(Out{ip(mine, addr2, 40, 1)}, "ask 10.250.0.22")
	b.want(Out{ip(mine, addr2, 40, 2)}, "")
	b.want(Who{Address: addr2, ID: peer2, Found: true}, "want 2")
	b.want(Out{ip(mine, addr2, 40, 3)}, "")
	b.want(Up{peer2, 1000}, "send 2 1, send 2 2, send 2 3")
	b.want(Out{ip(mine, addr2, 40, 4)}, "send 2 4")
	b.want(Out{ip(mine, addr2, 1200, 5)}, "") // longer than the ring carries
	b.want(Out{ip(mine, addr2, 40, 6)}, "send 2 6")
	b.want(Up{peer2, 1280}, "send 2 5")
	b.want(Down{ID: peer2}, "")
	b.want(Out{ip(mine, addr2, 40, 7)}, "want 2")
	b.want(Down{ID: peer2}, "") // in vain
	if got := b.wait(2 * time.Second); got != "want 2" {
		t.Errorf("after a session that did not come about: %q, want another", got)
	}
	b.want(Up{peer2, 1280}, "send 2 7")
}

func TestNobodyHasIt(t *testing.T) {
	b := newBench(t)
	b.want(Out{ip(mine, addr2, 40, 1)}, "ask 10.250.0.22")
	b.want(Who{Address: addr2}, "")
	if got := b.wait(time.Second); got != "ask 10.250.0.22" {
		t.Errorf("a second later: %q, want that it is asked again", got)
	}
	b.want(Who{Address: addr2}, "")
	got := b.wait(3 * time.Second)
	if !strings.HasSuffix(got, "drop/nobody 1") {
		t.Errorf("after three seconds: %q, want the packet dropped", got)
	}
	if !b.l.NextDeadline().IsZero() {
		t.Error("an idle LAN wants to be woken")
	}
}

func TestSourcesAreThePeers(t *testing.T) {
	b := newBench(t)
	six2, six3 := Address6("archer", peer2), Address6("archer", peer3)
	b.do(Up{peer2, 1280})
	b.want(In{peer2, ip(addr2, mine, 40, 1)}, "ask 10.250.0.22")
	b.want(In{peer3, ip(addr2, mine, 40, 2)}, "")
	b.want(Who{Address: addr2, ID: peer2, Found: true}, "deliver 1, drop/source 1")
	b.want(In{peer2, ip(addr2, mine, 40, 3)}, "deliver 3")
	b.want(In{peer2, ip(six2, Address6("archer", self), 60, 4)}, "deliver 4")
	b.want(In{peer2, ip(six3, Address6("archer", self), 60, 5)}, "drop/source 1")
	b.want(In{peer2, ip(mine, mine, 40, 6)}, "drop/source 1")
	b.want(In{peer2, ip(netip.MustParseAddr("192.0.2.7"), mine, 40, 7)}, "drop/source 1")
	b.want(In{peer2, ip(addr2, addr3, 40, 8)}, "drop/destination 1")

	// The address gets another holder: what it sends is not lost.
	b.now = b.now.Add(time.Second)
	b.want(In{peer3, ip(addr2, mine, 40, 9)}, "ask 10.250.0.22")
	b.want(Who{Address: addr2, ID: peer3, Found: true}, "deliver 9")
	b.want(In{peer2, ip(addr2, mine, 40, 10)}, "")
	if got := b.wait(4 * time.Second); !strings.Contains(got, "drop/source 1") {
		t.Errorf("of the holder before: %q, want its packet dropped", got)
	}
}

func TestRosterCannotBeClaimed(t *testing.T) {
	b := newBench(t)
	b.do(Fixed{map[netip.Addr]nodeid.ID{addr2: peer2, mine: self}})
	b.want(Out{ip(mine, addr2, 40, 1)}, "want 2")
	b.want(In{peer3, ip(addr2, mine, 40, 2)}, "drop/source 1")
	b.want(Who{Address: addr2, ID: peer3, Found: true}, "")
	b.want(In{peer2, ip(addr2, mine, 40, 3)}, "deliver 3")
	if got := b.l.Holdings()[peer2]; !slices.Contains(got, addr2) {
		t.Errorf("addresses %v", got)
	}
	b.do(Fixed{nil})
	if got := b.l.Holdings()[peer2]; slices.Contains(got, addr2) {
		t.Errorf("addresses %v after the roster changed", got)
	}
}

func TestLeaseEnds(t *testing.T) {
	b := newBench(t)
	b.do(Up{peer2, 1280})
	b.do(Out{ip(mine, addr2, 40, 1)})
	b.want(Who{Address: addr2, ID: peer2, Until: start.Add(10 * time.Second), Found: true}, "send 2 1")
	b.now = start.Add(11 * time.Second)
	b.want(Out{ip(mine, addr2, 40, 2)}, "ask 10.250.0.22")
	if got := b.l.Holdings()[peer2]; len(got) != 0 {
		t.Errorf("addresses %v after the lease's end", got)
	}
	b.want(Who{Address: addr2, ID: peer3, Until: start.Add(time.Hour), Found: true}, "want 3")
	b.want(Up{peer3, 1280}, "send 3 2")
}

func TestWhoIsBarred(t *testing.T) {
	b := newBench(t)
	b.do(Out{ip(mine, addr2, 40, 1)})
	b.do(Who{Address: addr2, ID: peer2, Found: true})
	b.do(Up{peer2, 1280})
	b.do(Down{ID: peer2, Barred: true})
	b.now = b.now.Add(time.Second)
	b.want(Out{ip(mine, addr2, 40, 2)}, "ask 10.250.0.22")
	b.do(Who{Address: addr2, ID: peer2, Found: true}) // its record is about a while longer
	if id, barred := b.l.Barred(addr2); !barred || id != peer2 {
		t.Errorf("barred is %v, %v, want node 2", id, barred)
	}
	b.do(Who{Address: addr2, ID: peer3, Found: true})
	if id, barred := b.l.Barred(addr2); barred {
		t.Errorf("%v is barred from an address that another has by now", id)
	}
}

func TestIdleSessionsAreGivenUp(t *testing.T) {
	b := newBench(t)
	b.do(Out{ip(mine, addr2, 40, 1)})
	b.do(Who{Address: addr2, ID: peer2, Found: true})
	b.do(Up{peer2, 1280})
	for range 10 {
		if got := b.wait(time.Minute); strings.Contains(got, "unwant") {
			t.Fatalf("in use: %q", got)
		}
		b.do(Active{peer2})
	}
	if got := b.wait(7 * time.Minute); !strings.HasSuffix(got, "unwant 2") {
		t.Errorf("after %v without a packet: %q", idleAfter, got)
	}
}

func TestSixIsFoundByPosition(t *testing.T) {
	b := newBench(t)
	six := Address6("archer", peer2)
	b.want(Out{ip(Address6("archer", self), six, 60, 1)}, "ask "+six.String())
	if Position(six).Prefix() != peer2.Prefix() {
		t.Errorf("position %v of node %v", Position(six), peer2)
	}
	b.want(Who{Address: six, ID: peer2, Found: true}, "want 2")
	b.want(Up{peer2, 1280}, "send 2 1")
}

// TestBounds: what nobody answers takes bounded memory, whatever is sent.
func TestBounds(t *testing.T) {
	b := newBench(t)
	dropped := 0
	count := func(e Event) {
		for _, a := range b.l.Handle(b.now, e) {
			if d, ok := a.(Drop); ok {
				dropped += d.Packets
			}
		}
	}
	flood := func(to netip.Addr, packets int) {
		for range packets {
			count(Out{ip(mine, to, 40, 0)})
			count(In{peer2, ip(to, mine, 40, 0)})
		}
	}
	flood(addr2, queuePackets+1)
	for i := range 3 * queueKeys {
		flood(netip.AddrFrom4([4]byte{10, 250, byte(i >> 8), byte(i)}), 2)
	}
	if n := len(b.l.out.order); n > queueKeys {
		t.Errorf("%d addresses waited for", n)
	}
	if n := len(b.l.holders); n > maxHolders {
		t.Errorf("%d addresses known", n)
	}
	if dropped == 0 {
		t.Error("nothing was dropped")
	}
	b.wait(queueTime + time.Second)
	if len(b.l.out.order)+len(b.l.in.order) != 0 {
		t.Error("packets wait for ever")
	}
}

// TestAddress6 is the vector in docs/protocol.md; the hash was made by another
// program.
func TestAddress6(t *testing.T) {
	id, err := nodeid.Parse("0123456789abcdef0011223344556677")
	if err != nil {
		t.Fatal(err)
	}
	if got := Address6("archer", id).String(); got != vector6 {
		t.Errorf("%s, want %s", got, vector6)
	}
}

const vector6 = "fd13:61af:2f84:0:123:4567:89ab:cdef"
