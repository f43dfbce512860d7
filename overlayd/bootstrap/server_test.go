package bootstrap

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func newServer(seed byte, limit int) *Server {
	return NewServer(ServerConfig{Limit: limit, Random: rand.NewChaCha8([32]byte{seed}), Rand: rand.New(rand.NewPCG(uint64(seed), 1))}, noon)
}

// client asks a server without a Member, to say what a Member would not.
type client struct {
	t    *testing.T
	s    *Server
	at   netip.AddrPort
	tag  Tag
	id   nodeid.ID
	last cookie
}

func (c *client) ask(now time.Time, want int, cookie [cookieSize]byte) []byte {
	c.t.Helper()
	e := enrol{want: uint8(want), nonce: nonce{1}, tag: c.tag, id: c.id, cookie: cookie}
	to, out := c.s.Handle(now, c.at, e.append(nil))
	if out != nil && (to != c.at || len(out) > EnrolSize) {
		c.t.Fatalf("%d bytes to %v", len(out), to)
	}
	return out
}

// enrol asks, shows the cookie and returns the place.
func (c *client) enrol(now time.Time, want int) enrolled {
	c.t.Helper()
	var err error
	if c.last, err = parseCookie(c.ask(now, want, [cookieSize]byte{})); err != nil {
		c.t.Fatal("no cookie:", err)
	}
	e, err := parseEnrolled(c.ask(now, want, c.last.cookie))
	if err != nil {
		c.t.Fatal("no place:", err, c.s.Counters())
	}
	return e
}

func newClient(t *testing.T, s *Server, n int, tag Tag) *client {
	return &client{t: t, s: s, at: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 4242), tag: tag, id: nodeid.ID{byte(n), byte(n >> 8), 1}}
}

func record(n int) []byte { return append([]byte{0x84}, make([]byte, n-1)...) }
func hello(n int) []byte  { return append([]byte{0x80}, make([]byte, n-1)...) }

func TestTwoMembersAndAStranger(t *testing.T) {
	s := newServer(1, 0)
	x, y, z := newClient(t, s, 1, Tag{1}), newClient(t, s, 2, Tag{1}), newClient(t, s, 3, Tag{2})
	ex := x.enrol(noon, 10)
	if ex.seen != x.at || len(ex.contacts) != 0 {
		t.Errorf("the first: %+v", ex)
	}
	ey, ez := y.enrol(noon, 10), z.enrol(noon, 10)
	if len(ey.contacts) != 1 || ey.contacts[0] != (Contact{ex.handle, x.id}) {
		t.Errorf("the second: %+v", ey)
	}
	if len(ez.contacts) != 0 {
		t.Errorf("another grid's member is told of %+v", ez.contacts)
	}
	to, out := s.Handle(noon, y.at, carried(typeCarry, ex.handle, record(100)))
	if h, data, err := parseCarried(out, typeCarried); err != nil || to != x.at || h != ey.handle || !bytes.Equal(data, record(100)) {
		t.Errorf("carried to %v from %d: %x, %v", to, h, data, err)
	}
	for name, from := range map[string]netip.AddrPort{"another grid's": z.at, "nobody": v4} {
		to, out := s.Handle(noon, from, carried(typeCarry, ex.handle, record(100)))
		if h, err := parseUnknown(out); err != nil || to != from || h != ex.handle {
			t.Errorf("%s: %x to %v", name, out, to)
		}
	}
	if _, out := s.Handle(noon, x.at, carried(typeCarry, ez.handle^1, record(100))); out == nil || out[0] != typeUnknown {
		t.Errorf("a handle that nobody has: %x", out)
	}
	for name, data := range map[string][]byte{"STUN": make([]byte, 20), "an ENROLL": (&enrol{}).append(nil), "a CARRY": carried(typeCarry, 1, record(9)), "too much": record(MaxCarried + 1), "nothing": {}} {
		if _, out := s.Handle(noon, y.at, carried(typeCarry, ex.handle, data)); out != nil {
			t.Errorf("%s is carried", name)
		}
	}
	if n, grids := s.Len(); n != 3 || grids != 2 {
		t.Error(n, grids)
	}
	// A place is lost when it is not asked for again; a cookie serves twice.
	if _, err := parseEnrolled(x.ask(noon.Add(50*time.Second), 0, x.last.cookie)); err != nil {
		t.Error("asked again with the same cookie:", err)
	}
	s.Handle(noon.Add(81*time.Second), v4, nil)
	if n, grids := s.Len(); n != 1 || grids != 1 {
		t.Error(n, "members of", grids)
	}
	if out := x.ask(noon.Add(200*time.Second), 0, x.last.cookie); out[0] != typeCookie {
		t.Errorf("an old cookie counts: %x", out)
	}
}

// TestACookieIsForOneAddressTagAndID.
func TestACookieIsForOneAddressTagAndID(t *testing.T) {
	s := newServer(2, 0)
	x := newClient(t, s, 1, Tag{1})
	x.enrol(noon, 0)
	for name, change := range map[string]func(*client){
		"port":    func(c *client) { c.at = netip.AddrPortFrom(c.at.Addr(), 4243) },
		"address": func(c *client) { c.at = v4 },
		"tag":     func(c *client) { c.tag = Tag{2} },
		"node ID": func(c *client) { c.id = nodeid.ID{9} },
	} {
		y := *x
		change(&y)
		if out := y.ask(noon, 0, x.last.cookie); out[0] != typeCookie {
			t.Errorf("another %s gets in", name)
		}
	}
	if n, _ := s.Len(); n != 1 {
		t.Errorf("%d members", n)
	}
}

// TestAFloodOfForgedAddresses gets no place, no byte more than it sent, and
// does not keep out who is in.
func TestAFloodOfForgedAddresses(t *testing.T) {
	s := newServer(3, 0)
	x := newClient(t, s, 1, Tag{1})
	x.enrol(noon, 0)
	in, out := 0, 0
	for i := range 100_000 {
		y := &client{t: t, s: s, tag: Tag{1}, id: nodeid.ID{byte(i)}, at: netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(1 + i>>16), byte(i >> 8), byte(i), 7}), 53)}
		in += EnrolSize
		out += len(y.ask(noon, 10, [cookieSize]byte{byte(i), 1}))
	}
	c := s.Counters()
	if n, _ := s.Len(); n != 1 || out*9 > in || c.Drops[DropBusy] < 79_000 {
		t.Errorf("%d members, %d bytes for %d, %+v", n, out, in, c)
	}
	if _, err := parseEnrolled(x.ask(noon.Add(time.Second), 0, x.last.cookie)); err != nil {
		t.Error("who is in loses its place:", err)
	}
}

// TestOneAddressTakesOnlyItsShare, and all addresses take what there is.
func TestOneAddressTakesOnlyItsShare(t *testing.T) {
	s := newServer(4, 0)
	full := 0
	for i := range maxPerSource + 10 {
		x := newClient(t, s, 1, Tag{1})
		x.at = netip.AddrPortFrom(x.at.Addr(), uint16(1000+i))
		now := noon.Add(time.Duration(i) * time.Millisecond)
		c, err := parseCookie(x.ask(now, 0, [cookieSize]byte{}))
		if err != nil {
			t.Fatal(err)
		}
		if x.ask(now, 0, c.cookie) == nil {
			full++
		}
	}
	if n, _ := s.Len(); n != maxPerSource || full != 10 || s.Counters().Drops[DropFull] != 10 {
		t.Errorf("%d members, %d refused", n, full)
	}
	newClient(t, s, 2, Tag{1}).enrol(noon.Add(2*time.Second), 0)
	if source(netip.MustParseAddrPort("[2001:db8:1:2::3]:4")) != source(netip.MustParseAddrPort("[2001:db8:1:7::9]:8")) ||
		source(netip.MustParseAddrPort("[2001:db8:1::]:4")) == source(netip.MustParseAddrPort("[2001:db8:2::]:4")) {
		t.Error("a site's /48 does not count as one")
	}
}

// TestBudgets: a member sends what it may and all together what there is, and
// handshakes get through when bulk has taken the rest.
func TestBudgets(t *testing.T) {
	const limit = 1 << 20
	s := newServer(5, limit)
	var clients []*client
	var handles []Handle
	for i := range 10 {
		clients = append(clients, newClient(t, s, i, Tag{1}))
		handles = append(handles, clients[i].enrol(noon, 0).handle)
	}
	sent := func(i int, data []byte, now time.Time) bool {
		to, out := s.Handle(now, clients[i].at, carried(typeCarry, handles[(i+1)%10], data))
		return out != nil && to == clients[(i+1)%10].at
	}
	rate := func(who int, seconds int) (bytes int) {
		for ms := range seconds * 1000 {
			for i := range who {
				for range 4 {
					if sent(i, record(1000), noon.Add(time.Duration(ms)*time.Millisecond)) {
						bytes += 1008
					}
				}
			}
		}
		return bytes
	}
	if got, want := rate(1, 10), 10*limit/memberShare+burst; got > want || got < want*9/10 {
		t.Errorf("one member sends %d bytes in 10 s, may %d", got, want)
	}
	s = newServer(6, limit)
	for i, c := range clients {
		c.s = s
		handles[i] = c.enrol(noon, 0).handle
	}
	if got, want := rate(10, 10), 10*limit*(setupShare-1)/setupShare+totalBurst; got > want || got < want*9/10 {
		t.Errorf("all members send %d bytes in 10 s, may %d", got, want)
	}
	end, through := noon.Add(9999*time.Millisecond), 0
	for range 50 { // five handshakes
		if sent(3, hello(1200), end) {
			through++
		}
	}
	if through != 50 {
		t.Errorf("%d of 50 datagrams of handshakes got through beside bulk", through)
	}
	for range 1000 { // a flood of HELLOs is bulk
		sent(3, hello(1200), end)
	}
	c := s.Counters()
	if c.Drops[DropMemberBudget] == 0 || c.Drops[DropBudget] == 0 || c.CarrySetup > 120 {
		t.Errorf("%+v", c)
	}
}

// TestContactsLastFirstAndByChance: newcomers and the oldest are told of, and
// over a few answers nearly everybody.
func TestContactsLastFirstAndByChance(t *testing.T) {
	s := newServer(7, 0)
	for i := range 40 {
		newClient(t, s, i, Tag{1}).enrol(noon, 0)
	}
	x := newClient(t, s, 50, Tag{1})
	met := map[nodeid.ID]int{}
	var first enrolled
	for i := range 60 {
		now := noon.Add(time.Duration(i+1) * time.Second)
		e, err := parseEnrolled(x.ask(now, MaxContacts, x.last.cookie))
		if err != nil {
			e = x.enrol(now, MaxContacts)
		}
		if i == 0 {
			first = e
		}
		for _, c := range e.contacts {
			met[c.ID]++
		}
	}
	if len(first.contacts) != MaxContacts || met[nodeid.ID{0, 0, 1}] < 60 || met[nodeid.ID{39, 0, 1}] < 60 || met[x.id] != 0 || len(met) < 38 {
		t.Errorf("%d contacts; oldest %d, newest %d, itself %d times in 60; %d members met", len(first.contacts), met[nodeid.ID{0, 0, 1}], met[nodeid.ID{39, 0, 1}], met[x.id], len(met))
	}
}

func TestSTUNAndStrangers(t *testing.T) {
	s := newServer(8, 0)
	request := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)
	if to, out := s.Handle(noon, v4, bytes.Clone(request)); to != v4 || len(out) != 32 {
		t.Errorf("STUN: %x", out)
	}
	for name, d := range map[string]struct {
		from netip.AddrPort
		data []byte
	}{
		"port 0":      {netip.AddrPortFrom(v4.Addr(), 0), request},
		"multicast":   {netip.MustParseAddrPort("224.0.0.1:5"), request},
		"a HELLO":     {v4, hello(1200)},
		"a CARRIED":   {v4, carried(typeCarried, 1, record(10))},
		"short ENROL": {v4, (&enrol{}).append(nil)[:EnrolSize-1]},
		"empty":       {v4, nil},
	} {
		if _, out := s.Handle(noon, d.from, d.data); out != nil {
			t.Errorf("%s: answered by %x", name, out)
		}
	}
	if c := s.Counters(); c.STUN != 1 || c.Drops[DropForged] != 2 || c.Drops[DropStrange] != 3 || c.Drops[DropMalformed] != 1 {
		t.Errorf("%+v", c)
	}
}

// TestOverTCPNoEndpointIsSeen: the address that stands for a TCP connection is
// nobody else's business.
func TestOverTCPNoEndpointIsSeen(t *testing.T) {
	s := newServer(9, 0)
	x := newClient(t, s, 1, Tag{1})
	x.at = session.VirtualEndpoint(session.ByStream, 0, 1)
	if e := x.enrol(noon, 0); e.seen.Port() != 0 || !e.seen.Addr().IsUnspecified() {
		t.Error(e.seen)
	}
}

// FuzzServer gives a server datagrams from a few endpoints: nothing panics, no
// answer but a carried datagram is longer than its question or goes elsewhere,
// and the tables agree.
func FuzzServer(f *testing.F) {
	for _, v := range vectors {
		f.Add(uint8(1), append(binary.BigEndian.AppendUint16(nil, uint16(len(v.bytes))), v.bytes...))
	}
	f.Fuzz(func(t *testing.T, seed uint8, script []byte) {
		s := newServer(seed, 1<<20)
		x, y := newClient(t, s, 1, Tag{1}), newClient(t, s, 2, Tag{1})
		handles := []Handle{x.enrol(noon, 10).handle, y.enrol(noon, 10).handle}
		now := noon
		for i := 0; len(script) > 2; i++ {
			n := min(int(binary.BigEndian.Uint16(script))%3000, len(script)-2)
			data := bytes.Clone(script[2 : 2+n])
			script = script[2+n:]
			if len(data) >= Overhead && data[0] == typeCarry && data[4] == 0 {
				binary.BigEndian.PutUint32(data[4:], uint32(handles[int(data[7])%2]))
			}
			if len(data) >= 52 && data[0] == typeEnrol && data[51] == 1 {
				copy(data[36:], x.last.cookie[:])
			}
			now = now.Add(time.Duration(len(data)) * 7 * time.Millisecond)
			from := []netip.AddrPort{x.at, y.at, v4, v6}[i%4]
			stun, asked := IsSTUN(data), len(data)
			to, out := s.Handle(now, from, data)
			if out == nil {
				continue
			}
			if out[0] == typeCarried {
				if to == from && from != x.at && from != y.at || len(out) != asked {
					t.Errorf("carried %d bytes from %v to %v", len(out), from, to)
				}
			} else if to != from || len(out) > asked && !(stun && len(out) <= asked+32) {
				t.Errorf("%d bytes to %v for %d from %v", len(out), to, asked, from)
			}
		}
		members, sources := 0, 0
		for _, g := range s.grids {
			members += len(g.members)
		}
		for _, n := range s.sources {
			sources += n
		}
		if members != len(s.byPlace) || members != len(s.byHandle) || members != sources {
			t.Errorf("%d in grids, %d places, %d handles, %d by source", members, len(s.byPlace), len(s.byHandle), sources)
		}
	})
}
