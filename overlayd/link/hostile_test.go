package link

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/relay"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/wire"
)

// tell lets a node claim candidates to another, in its session.
func (n *node) claim(o *node, purpose string, c wire.Candidates) {
	p := n.m.byKey[key{o.id, purpose}]
	n.m.actions = n.m.actions[:0]
	n.m.say(n.host.Now(), p, p.best, c)
	n.act(n.host.Now(), slices.Clone(n.m.actions))
}

func TestForbiddenCandidatesGetNothing(t *testing.T) {
	w, x, y := scene(t, 1, &sim.Symmetric, &sim.Symmetric)
	x.want(y, "one")
	w.run(8 * time.Second)
	x.sent = map[netip.Addr]int{}
	before := x.m.counters.Filtered
	bad := []string{"224.0.0.251:5353", "255.255.255.255:67", "127.0.0.1:22", "169.254.169.254:80", "10.250.0.2:4242", "10.9.8.7:4242", "172.16.0.1:53", "0.0.0.0:1"}
	var c wire.Candidates
	for _, e := range bad {
		c.List = append(c.List, wire.Candidate{Kind: wire.HostCandidate, Endpoint: netip.MustParseAddrPort(e)})
	}
	y.claim(x, "one", c)
	w.run(time.Second)
	e, _ := x.m.Why(y.id, "one")
	if len(e.Candidates) != len(bad) || e.Candidates[0].Why != "multicast" || e.Candidates[4].Why != "in a virtual network" || e.Candidates[5].Why != "private, and of another network" {
		t.Errorf("%+v", e.Candidates)
	}
	w.run(30 * time.Second)
	for _, e := range bad {
		if n := x.sent[netip.MustParseAddrPort(e).Addr()]; n != 0 {
			t.Errorf("%d datagrams to %s", n, e)
		}
	}
	if got := x.m.counters.Filtered - before; got < uint64(len(bad)) {
		t.Errorf("counted %d of %d", got, len(bad))
	}
	// IPv6 and mapped forms.
	for text, want := range map[string]string{"[ff02::1]:1": "multicast", "[::1]:1": "loopback", "[fe80::1]:1": "link-local",
		"[::]:1": "not an endpoint", "[fd00::1]:1": "private, and of another network", "[2001:db8::1]:1": "", "[::ffff:127.0.0.1]:1": "loopback",
		"100.64.0.1:1": "private, and of another network", "192.0.2.1:0": "not an endpoint", "192.168.0.77:1": ""} {
		if got := x.m.own.permits(netip.MustParseAddrPort(text), nil); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestACandidateListThatNamesAVictim(t *testing.T) {
	victim := netip.MustParseAddr("9.9.9.9")
	// Ten liars, behind translators that cannot be punched, so that checks go on.
	w := newWorld(t, 7)
	p0 := w.add("p0", w.net.Internet, sim.Place{})
	x := w.add("x", w.net.AddNAT(w.net.Internet, sim.Symmetric, sim.Place{}).Inside, sim.Place{})
	x.boot(p0)
	var liars []*node
	for i := range 10 {
		n := w.add(fmt.Sprint("liar", i), w.net.AddNAT(w.net.Internet, sim.Symmetric, sim.Place{}).Inside, sim.Place{})
		n.boot(p0)
		liars = append(liars, n)
	}
	w.run(2 * time.Second)
	for _, l := range liars {
		l.want(x, "one")
	}
	w.run(2 * time.Second)
	for round := range 20 {
		for i, l := range liars {
			if l.m.Session(x.id, "one") == nil {
				t.Fatal("no session")
			}
			var c wire.Candidates
			for k := range wire.MaxCandidates { // eight ports of the victim, others each time
				c.List = append(c.List, wire.Candidate{Kind: wire.AdvertisedCandidate, Endpoint: netip.AddrPortFrom(victim, uint16(1000+round*100+i*10+k))})
			}
			l.claim(x, "one", c)
			if round == 0 && i == 0 {
				w.run(6 * time.Second)
				if n := x.sent[victim]; n > maxAllProbes {
					t.Errorf("one liar: %d datagrams", n)
				}
			}
		}
		w.run(6 * time.Second)
	}
	if n := x.sent[victim]; n == 0 || n > maxAllProbes {
		t.Errorf("%d datagrams to the victim in two minutes, at most %d may be", n, maxAllProbes)
	}
	if x.m.counters.Budgeted == 0 {
		t.Error("not counted")
	}
	t.Logf("%d datagrams to the victim, %d checks not sent", x.sent[victim], x.m.counters.Budgeted)
}

func TestASprayAtAVictim(t *testing.T) {
	victim := netip.MustParseAddr("9.9.9.9")
	w, x, y := scene(t, 1, &sim.Home, &sim.Symmetric)
	y.m.cfg.Spray = false
	x.want(y, "one")
	w.run(time.Second)
	c := wire.Candidates{Mapping: wire.AddressDependent, Spray: true, List: []wire.Candidate{{Kind: wire.ReflexiveCandidate, Endpoint: netip.AddrPortFrom(victim, 99)}}}
	y.claim(x, "one", c) // without traffic before it
	w.run(time.Second)
	if x.sent[victim] != 0 {
		t.Error("sprayed for somebody without traffic")
	}
	for range 30 {
		w.chat(x, y, 4*time.Second)
		y.claim(x, "one", c)
	}
	if n := x.sent[victim]; n != sprayProbes || x.m.counters.Sprays != 1 {
		t.Errorf("%d datagrams to the victim by %d sprays in two minutes; one of 1,024 may be", n, x.m.counters.Sprays)
	}
}

func TestLyingObservers(t *testing.T) {
	var a addresses
	truth, lie := netip.MustParseAddrPort("198.51.100.1:4242"), netip.MustParseAddrPort("9.9.9.9:53")
	from := func(i byte) netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, i}), 1) }
	a.observe(wire.Holder{1}, from(1), truth)
	a.observe(wire.Holder{2}, from(2), truth)
	for i := range byte(100) { // all of one holder
		a.observe(wire.Holder{3}, from(3+i%7), lie)
	}
	if e, _ := a.reflexive(); e != truth {
		t.Error("one holder outvoted two", e)
	}
	if len(a.observers) > maxObservers {
		t.Error(len(a.observers))
	}
	for _, bad := range []string{"127.0.0.1:1", "224.0.0.1:1", "0.0.0.0:0"} {
		if a.observe(wire.Holder{4}, from(50), netip.MustParseAddrPort(bad)) {
			t.Error(bad, "was believed")
		}
	}
}

func TestMalformedAndUnknownMessages(t *testing.T) {
	w, x, y := scene(t, 2, nil, nil)
	x.want(y, "one")
	w.run(2 * time.Second)
	send := func(plain []byte) {
		b, err := x.m.Session(y.id, "one").SealControl(nil, x.host.Now(), 1, plain)
		if err != nil {
			t.Fatal(err)
		}
		y.do(Datagram{From: netip.AddrPortFrom(x.host.Addr(), port), Data: b})
	}
	before := y.m.counters
	send([]byte{byte(wire.TypeCheck), 1})
	send([]byte{byte(wire.TypeCheckAnswer), 1})
	send([]byte{byte(wire.TypeCandidates), 9, 9})
	if got := y.m.counters.Malformed - before.Malformed; got != 3 {
		t.Errorf("%d counted", got)
	}
	send([]byte{77, 1})
	send(wire.AppendMessage(nil, wire.CheckAnswer{Nonce: [8]byte{1, 2, 3}, Observed: noEndpoint}))
	if y.m.counters.Unknown-before.Unknown != 1 || y.m.counters.Unasked-before.Unasked != 1 {
		t.Errorf("%+v", y.m.counters)
	}
	if y.state(x, "one") != Direct {
		t.Error("the path suffered")
	}
}

func TestAnAnswerFromElsewhereDoesNotCount(t *testing.T) {
	w, x, y := scene(t, 2, &sim.Symmetric, &sim.Symmetric)
	x.m.cfg.Spray, y.m.cfg.Spray = false, false
	x.want(y, "one")
	w.run(time.Second)
	p := x.m.byKey[key{y.id, "one"}]
	var pr *pair
	for _, q := range p.pairs {
		if len(q.questions.list) > 0 {
			pr = q
		}
	}
	if pr == nil {
		t.Fatal("nothing was asked")
	}
	nonce := pr.questions.list[0].nonce
	elsewhere := netip.MustParseAddrPort("9.9.9.9:53")
	b, _ := y.m.Session(x.id, "one").SealControl(nil, y.host.Now(), 3, wire.AppendMessage(nil, wire.CheckAnswer{Nonce: nonce, Observed: noEndpoint}))
	before := x.m.counters.Unasked
	x.do(Datagram{From: elsewhere, Data: b})
	if x.m.counters.Unasked != before+1 || x.state(y, "one") == Direct {
		t.Error("the answer counted")
	}
}

func TestRelayAbuse(t *testing.T) {
	w, x, y := scene(t, 1, &sim.Symmetric, &sim.Symmetric)
	x.m.cfg.Spray, y.m.cfg.Spray = false, false
	x.want(y, "one")
	w.run(8 * time.Second)
	var via session.Via
	for _, pa := range x.m.byKey[key{y.id, "one"}].paths {
		if pa.via.Channel != 0 {
			via = pa.via
		}
	}
	i := slices.IndexFunc(w.nodes, func(n *node) bool { return n.id == via.Node })
	if i < 0 || x.state(y, "one") != Relay2 {
		t.Fatal("no relay")
	}
	r := w.nodes[i]
	link := x.m.Session(r.id, "")
	mark := func(channel uint16, carried string) []byte {
		d := append(make([]byte, session.RelaySize), carried...)
		if err := x.m.marker.Mark(link.Keys(), d, channel); err != nil {
			t.Fatal(err)
		}
		return d
	}
	give := func(d []byte) { r.do(Datagram{From: netip.MustParseAddrPort("1.0.0.9:1"), Data: slices.Clone(d)}) }
	d := mark(via.Channel, "carried")
	before := r.relay.Counters()
	give(d)
	if got := r.relay.Counters().Datagrams - before.Datagrams; got != 1 {
		t.Fatal("a good one was not forwarded")
	}
	drops := r.m.Sessions().Drops
	give(d) // replayed
	forged := mark(via.Channel, "carried")
	forged[len(forged)-1] ^= 1
	give(forged)
	other := mark(via.Channel, "carried")
	other[4] ^= 0x55 // keys of nobody
	give(other)
	give(d[:20])
	after := r.m.Sessions().Drops
	for _, c := range []session.Drop{session.DropReplay, session.DropForged, session.DropIndex, session.DropShort} {
		if after[c] != drops[c]+1 {
			t.Errorf("%v counted %d times", c, after[c]-drops[c])
		}
	}
	give(mark(999, "carried"))
	if got := r.relay.Counters(); got.Datagrams != before.Datagrams+1 || got.NoChannel != 1 {
		t.Errorf("%+v", got)
	}
	// A relayed datagram in a relayed datagram goes no further than its end.
	nested := mark(via.Channel, string(mark(via.Channel, "carried")))
	count := y.m.counters.NoChannel
	give(nested)
	w.run(time.Second)
	if y.m.counters.NoChannel != count+1 {
		t.Error("nested relaying was not counted")
	}
	// Asking for more channels than there may be, to nodes without a link.
	for i := range 500 {
		r.relay.Handle(r.host.Now(), relay.Message{From: x.id, Relay: wire.Relay{Op: wire.RelayAsk, Peer: [16]byte{byte(i), 1}}})
	}
	if r.relay.Channels() != 1 || r.relay.Counters().Refused != 500 {
		t.Errorf("%d channels, %+v", r.relay.Channels(), r.relay.Counters())
	}
}

func TestRevokedPeersAreGoneWithinTenSeconds(t *testing.T) {
	w, x, y := scene(t, 2, &sim.Home, &sim.Home)
	x.want(y, "one")
	w.run(2 * time.Second)
	if _, err := w.grid.Revoke([]string{x.m.Session(y.id, "one").Node().Holder.Serial}, "stolen", nil, sim.Start); err != nil {
		t.Fatal(err)
	}
	w.trust()
	told := x.host.Now()
	x.do(Recheck{})
	for x.m.Session(y.id, "one") != nil && x.host.Now().Sub(told) < 20*time.Second {
		w.run(10 * time.Millisecond)
	}
	if d := x.host.Now().Sub(told); d > time.Second {
		t.Error("closed after", d)
	}
	x.want(y, "one")
	w.run(10 * time.Second)
	if x.m.Session(y.id, "one") != nil || x.state(y, "one") != None {
		t.Error("it came back")
	}
}

func TestDestroyForgetsEverything(t *testing.T) {
	w, x, y := scene(t, 2, &sim.Home, &sim.Home)
	x.want(y, "one")
	w.run(2 * time.Second)
	sent := 0
	w.wire = func(from *node, _ netip.AddrPort, _ []byte) bool {
		if from == x {
			sent++
		}
		return true
	}
	x.do(Destroy{session.Cloned})
	if sent != 0 || len(x.m.peers) != 0 || len(x.m.bySession) != 0 {
		t.Errorf("%d datagrams, %d peers left", sent, len(x.m.peers))
	}
}

func TestWhyOfASymmetricPair(t *testing.T) {
	w, x, y := scene(t, 1, &sim.Symmetric, &sim.Symmetric)
	x.want(y, "one")
	w.run(8 * time.Second)
	e, ok := x.m.Why(y.id, "one")
	if !ok || e.State != Relay2 || e.Relay == (wire.RelayOffer{}).ID || e.OwnMapping != wire.AddressDependent || e.PeerMapping != wire.AddressDependent || len(e.Improvements) == 0 || len(e.Candidates) == 0 {
		t.Errorf("%+v", e)
	}
	if _, ok := x.m.Why([16]byte{1}, "one"); ok {
		t.Error("explained nobody")
	}
}

func TestVersionsTravelInTheHandshake(t *testing.T) {
	w := newWorld(t, 3)
	x, y := w.add("x", w.net.Internet, sim.Place{}), w.add("y", w.net.Internet, sim.Place{})
	v := wire.Versions{Descriptor: 7, Revocations: 9, Digest: [8]byte{1}}
	y.do(Versions{v})
	x.boot(y)
	w.run(time.Second)
	if got := x.m.byKey[key{y.id, session.LinkPurpose}].versions; got != v {
		t.Errorf("%+v", got)
	}
}
