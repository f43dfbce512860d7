package session

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

// capture keeps what is sent.
func (n *net) capture() *[]flight {
	var all []flight
	n.lose = func(f flight) bool {
		f.data = append([]byte{}, f.data...)
		all = append(all, f)
		return false
	}
	return &all
}

func TestFloodOfForgedHellos(t *testing.T) {
	_, n, a, b := pair(t)
	forged := make([]byte, MaxMessage)
	tag := prologueTag(Prologue(b.cfg.Roots[0], LinkPurpose))
	chain := b.own
	b.own = newShown(credential.Chain{{1}, {2}}) // an answer so short that it needs no cookie
	for i := range 20000 {
		h := hello{sender: uint32(i + 1), tag: tag, noise: bytes.Repeat([]byte{byte(i), byte(i >> 8), 7}, 400)[:MaxMessage-helloHead]}
		h.noise[ephemeral+16] = 0
		forged = h.append(forged[:0])
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), uint16(1000+i))
		for _, act := range b.Handle(n.now, Datagram{Direct(from), forged}) {
			if s, ok := act.(Send); ok && (len(s.Data) > len(forged) || s.To != Direct(from)) {
				t.Fatalf("%d bytes to %v for %d from %v", len(s.Data), s.To, len(forged), from)
			}
		}
	}
	_, half, _ := b.Len()
	if half != freeHalfOpen || len(b.byHello) != half || len(b.byIndex) != half {
		t.Errorf("%d half open", half)
	}
	if c := b.Counters(); c.Drops[DropCookie] < 19000 {
		t.Errorf("%+v", c)
	}
	// An honest node gets in all the same.
	b.own = chain
	n.open(a, b)
	n.run(time.Second)
	if a.up == nil || b.up == nil {
		t.Error("an honest node stays outside", a.log, b.Counters())
	}
	n.run(5 * time.Second)
	if _, half, _ := b.Len(); half != 0 {
		t.Errorf("%d half open for ever", half)
	}
}

func TestFloodFromRealAddresses(t *testing.T) {
	_, n, _, b := pair(t)
	tag := prologueTag(Prologue(b.cfg.Roots[0], LinkPurpose))
	for i := range 3000 {
		from := Direct(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 40)}), uint16(1000+i)))
		h := hello{sender: uint32(i + 1), tag: tag, noise: bytes.Repeat([]byte{byte(i), byte(i >> 8), 9}, 400)[:MaxMessage-helloHead]}
		var e [ephemeral]byte
		copy(e[:], h.noise)
		h.cookie = b.cookies.make(0, from, e[:])
		b.Handle(n.now, Datagram{from, h.append(nil)})
		if i%10 == 0 {
			n.now = n.now.Add(time.Millisecond)
		}
	}
	_, half, _ := b.Len()
	if half > maxHalfOpen {
		t.Errorf("%d half open", half)
	}
	per := map[Via]int{}
	for _, x := range b.halves {
		if per[x.from.source()]++; per[x.from.source()] > maxPerSource {
			t.Fatal("too many of one source")
		}
	}
	if c := b.Counters(); c.Answers > helloBurst+helloRate || c.Drops[DropBusy] == 0 {
		t.Errorf("answered %d", c.Answers)
	}
}

func TestNothingLongIsSentToUnprovenAddresses(t *testing.T) {
	_, n, a, b := pair(t)
	all := n.capture()
	n.open(a, b)
	n.run(time.Second)
	got, sent, proven := 0, 0, false
	for _, f := range *all {
		if f.to == b.at {
			got += len(f.data)
			proven = proven || f.data[0] == typeHello && !bytes.Equal(f.data[12:28], make([]byte, 16))
		} else if !proven {
			if sent += len(f.data); sent > got {
				t.Fatalf("sent %d for %d", sent, got)
			}
		}
	}
	if !proven {
		t.Error("no cookie was used")
	}
}

func TestLongChainGoesInPieces(t *testing.T) {
	g := newGrid(t, "archer")
	a, b := g.node("a", g.holder("alice", 0, 60), nil), g.node("b", g.holder("bob", 0, 60), nil)
	n := newNet(t, a, b)
	all := n.capture()
	n.open(a, b)
	n.run(time.Second)
	if a.up == nil || b.up == nil {
		t.Fatal(a.log, b.log, a.Counters().Drops, b.Counters().Drops)
	}
	parts := map[byte]int{}
	for _, f := range *all {
		parts[f.data[0]]++
	}
	if parts[typeAnswer] < 2 || parts[typeFinish] < 2 || parts[typeCookie] != 1 {
		t.Errorf("answer in %d parts, finish in %d, %d cookies", parts[typeAnswer], parts[typeFinish], parts[typeCookie])
	}
	if a.held != 0 || b.held != 0 {
		t.Error("pieces are held for ever")
	}
	// The next handshake names what is known by hash, in one datagram each.
	*all = nil
	n.open(a, b)
	n.run(time.Second)
	for _, f := range *all {
		if f.data[0] == typeCookie || f.data[0] == typeAnswer && f.data[2] != 1 || f.data[0] == typeFinish && f.data[2] != 1 {
			t.Errorf("renewal sends type %x in %d parts", f.data[0], f.data[2])
		}
	}
}

func TestPiecesNeedACookie(t *testing.T) {
	_, n, a, b := pair(t)
	// One-part handshake as far as ANSWER: b believes that FINISH will be short.
	n.open(a, b)
	n.run(time.Second)
	n.lose = func(f flight) bool { return f.data[0] == typeFinish }
	n.open(a, b)
	n.run(60 * time.Millisecond)
	if len(b.halves) != 1 || b.halves[0].proven {
		t.Fatal("not half open without a cookie")
	}
	x := b.halves[0]
	p := part{typeFinish, 0, 2, x.index, x.remote, make([]byte, 500)}
	n.do(b, Datagram{Direct(a.at), p.append(nil)})
	if b.drops(DropPieces) != 1 || b.held != 0 {
		t.Error("pieces taken without a cookie")
	}
}

func TestUnfinishedPiecesAreBounded(t *testing.T) {
	_, n, _, b := pair(t)
	tag := prologueTag(Prologue(b.cfg.Roots[0], LinkPurpose))
	for i := range 3000 {
		from := Direct(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, byte(i), 100, byte(i >> 8)}), 4242))
		h := hello{sender: uint32(i + 1), tag: tag, noise: bytes.Repeat([]byte{byte(i), byte(i >> 8), 9}, 400)[:MaxMessage-helloHead]}
		h.cookie = b.cookies.make(0, from, h.noise[:ephemeral])
		b.Handle(n.now, Datagram{from, h.append(nil)})
		if len(b.halves) == 0 {
			continue
		}
		x := b.halves[len(b.halves)-1]
		for k := range maxParts - 1 {
			p := part{typeFinish, uint8(k), maxParts, x.index, x.remote, make([]byte, MaxMessage-partHead)}
			b.Handle(n.now, Datagram{from, p.append(nil)})
		}
		if b.held > maxPieces {
			t.Fatal(b.held)
		}
		n.now = n.now.Add(4 * time.Millisecond)
	}
	if b.drops(DropPieces) == 0 {
		t.Error("the bound was never met")
	}
	n.run(10 * time.Second)
	if b.held != 0 {
		t.Errorf("%d bytes held by nothing", b.held)
	}
}

func TestReplayAndReorderingOverPaths(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	var records [3000][2][]byte
	for i := range records {
		for path := range 2 {
			records[i][path], _ = a.up.Seal(nil, n.now, uint8(path), binary.BigEndian.AppendUint32(nil, uint32(i)))
		}
	}
	give := func(i, path int) int {
		before := len(b.got)
		n.do(b, Datagram{Direct(a.at), append([]byte{}, records[i][path]...)})
		return len(b.got) - before
	}
	// Path 1 runs ahead of path 0 by all of it: its window is its own.
	for i := range records {
		if give(i, 1) != 1 {
			t.Fatal("fresh record refused")
		}
	}
	if give(len(records)-1, 1) != 0 || give(1000, 1) != 0 || give(0, 1) != 0 || b.drops(DropReplay) != 3 {
		t.Error("a replay was opened", b.drops(DropReplay))
	}
	// Backwards within the window, then what is older than it.
	if give(2500, 0) != 1 || give(2501-Window, 0) != 1 || give(2500-Window, 0) != 0 || b.drops(DropReplay) != 4 {
		t.Error("the window is not 2,048", b.drops(DropReplay))
	}
}

func TestForgedRecords(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	record, _ := a.up.Seal(nil, n.now, 0, []byte("twelve bytes"))
	for i := range record {
		if i == 0 || i >= 4 && i < 8 {
			continue // another type or index: not for these keys
		}
		bad := append([]byte{}, record...)
		bad[i] ^= 0x10
		n.do(b, Datagram{Direct(a.at), bad})
	}
	if len(b.got) != 0 || b.drops(DropForged)+b.drops(DropPath)+b.drops(DropReplay) != uint64(len(record)-5) || b.drops(DropForged) < uint64(len(record)-8) {
		t.Error(len(b.got), b.Counters().Drops)
	}
	n.do(b, Datagram{Direct(a.at), record[:Overhead-1]})
	if b.drops(DropShort) != 1 {
		t.Error("short record not counted")
	}
	n.do(b, Datagram{Direct(a.at), record})
	if len(b.got) != 1 {
		t.Error("forgeries spoiled the window")
	}
}

func TestHandshakesThatAreRefused(t *testing.T) {
	g := newGrid(t, "archer")
	other := newGrid(t, "archer") // the same name, another root
	stolen := g.node("stolen", g.holder("eve", 0, 0), nil)
	for _, tt := range []struct {
		name string
		make func() *peer
		drop Drop
	}{
		{"another grid's certificate", func() *peer {
			return other.node("x", other.holder("eve", 0, 0), func(c *Config) { c.Roots = [][32]byte{g.root} })
		}, DropWrongGrid},
		{"another grid", func() *peer {
			return other.node("x", other.holder("eve", 0, 0), func(c *Config) { c.Roots = [][32]byte{{9}} })
		}, DropGrid},
		{"another's certificate", func() *peer {
			return g.node("x", g.holder("eve", 0, 0), func(c *Config) { c.Chain = stolen.chain })
		}, DropStatic},
		{"a purpose that is not served", func() *peer { return g.node("x", g.holder("eve", 0, 0), nil) }, DropGrid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x, b := tt.make(), g.node("b", g.holder("bob", 0, 0), nil)
			x.cfg.Crypto.Verify = func(chain credential.Chain, now time.Time) (*credential.Node, error) {
				return &credential.Node{ID: credential.NodeID(b.id), X25519: [32]byte(b.static.Public)}, nil // x takes anyone
			}
			n := newNet(t, x, b)
			purpose := LinkPurpose
			if strings.HasPrefix(tt.name, "a purpose") {
				purpose = "two"
			}
			n.do(x, Open{Peer: b.id, Purpose: purpose, Via: Direct(b.at)})
			n.run(10 * time.Second)
			if b.up != nil || b.drops(tt.drop) == 0 {
				t.Errorf("up %v, drops %v", b.up != nil, b.Counters().Drops)
			}
			if x.Session(b.id, purpose) != nil {
				t.Error("the stranger believes in a session for ever")
			}
		})
	}
}

func TestWrongPeerAnswers(t *testing.T) {
	_, n, a, b := pair(t)
	n.do(a, Open{Peer: nodeid.ID{1, 2, 3}, Purpose: LinkPurpose, Via: Direct(b.at)})
	n.do(b, Open{Purpose: LinkPurpose, Via: Direct(b.at)}) // itself
	n.run(time.Second)
	if a.log[0] != "failed another node answered" || a.drops(DropPeer) != 1 {
		t.Error(a.log)
	}
	if b.up != nil || b.drops(DropPeer) == 0 {
		t.Error("a session with itself")
	}
}

func TestANamespaceTakesOnlyItsOwn(t *testing.T) {
	g := newGrid(t, "archer")
	a, b := g.node("a", g.holder("alice", 0, 0), nil), g.node("b", g.holder("bob", 0, 0), nil)
	n := newNet(t, a, b)
	for _, p := range n.peers { // both serve "two" though their certificates say "one"
		prologue := Prologue(g.root, "two")
		p.served[prologueTag(prologue)] = served{"two", prologue}
	}
	n.do(a, Open{Peer: b.id, Purpose: "two", Via: Direct(b.at)})
	n.run(time.Second)
	if a.up != nil || b.up != nil || a.drops(DropGrid) != 1 {
		t.Error("a node of another namespace was taken", a.log, a.Counters().Drops)
	}
	n.do(a, Open{Peer: b.id, Purpose: "one", Via: Direct(b.at)})
	n.run(time.Second)
	if a.up == nil || b.up == nil {
		t.Error("a node of the namespace was refused", a.log)
	}
}

func TestOversizeAndVersion(t *testing.T) {
	_, n, a, b := pair(t)
	all := n.capture()
	n.open(a, b)
	n.run(time.Second)
	first := (*all)[0].data
	for _, tt := range []struct {
		data []byte
		drop Drop
	}{
		{append(append([]byte{}, first...), 0), DropOversize},
		{first[:MaxMessage-1], DropShort},
		{append([]byte{first[0], 2}, first[2:]...), DropVersion},
		{append([]byte{typeAnswer, 0, 1}, make([]byte, MaxMessage)...), DropOversize},
		{append([]byte{typeFinish, 3, 3}, make([]byte, 100)...), DropPieces},
		{append([]byte{typeFinish, 0, maxParts + 1}, make([]byte, 100)...), DropPieces},
		{[]byte{typeCookie, 0, 0}, DropShort},
		{append([]byte{0xff}, make([]byte, 50)...), DropShort},
		{append([]byte{typeCookie}, make([]byte, 23)...), DropIndex},
	} {
		before := b.drops(tt.drop)
		n.do(b, Datagram{Direct(a.at), tt.data})
		if b.drops(tt.drop) != before+1 {
			t.Errorf("%x (%d bytes): not counted as %v", tt.data[:3], len(tt.data), tt.drop)
		}
	}
}

func TestCookiesEnd(t *testing.T) {
	var c cookies
	random := bytes.NewReader(bytes.Repeat([]byte{1, 2, 3, 4, 5}, 1000))
	now, from, e := start, Direct(netip.MustParseAddrPort("192.0.2.1:4242")), make([]byte, ephemeral)
	c.rotate(now, random)
	cookie := c.make(0, from, e)
	if !c.valid(cookie, from, e) || c.valid(cookie, Direct(netip.MustParseAddrPort("192.0.2.1:4243")), e) || c.valid(cookie, from, append([]byte{1}, e[1:]...)) {
		t.Error("a cookie is good for another sender or HELLO")
	}
	changed := c
	changed.grid[0] = 1
	if changed.valid(cookie, from, e) {
		t.Error("a cookie outlives the descriptor")
	}
	for i, want := range []bool{true, false} {
		now = now.Add(cookieLife)
		c.rotate(now, random)
		if c.valid(cookie, from, e) != want {
			t.Errorf("after %d lives: %v", i+1, !want)
		}
	}
}

func TestRevokedPeerIsClosedAtOnce(t *testing.T) {
	g, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	if _, err := g.grid.Revoke([]string{a.up.node.Holder.Serial}, "stolen", nil, start); err != nil {
		t.Fatal(err)
	}
	g.trust()
	told := n.now
	n.do(a, Recheck{})
	for !a.up.down && n.now.Sub(told) < 20*time.Second {
		n.run(10 * time.Millisecond)
	}
	if d := n.now.Sub(told); d > 100*time.Millisecond || a.drops(DropRevoked) != 1 || a.log[len(a.log)-1] != "down its certificate was refused" {
		t.Error(d, a.log)
	}
	n.open(b, a)
	n.run(10 * time.Second)
	if a.Session(b.id, LinkPurpose) != nil || b.Session(a.id, LinkPurpose) != nil {
		t.Error("a revoked node came back")
	}
}

func TestManyAreRecheckedWithinTenSeconds(t *testing.T) {
	g, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	for i := range maxSessions - 1 { // copies: only the table counts here
		s := *a.up
		s.id[15] = byte(i)
		s.id[14] = byte(i >> 8)
		s.renew = n.now.Add(time.Hour)
		k := *new(Keys)
		s.current = &Keys{born: n.now, seal: k.seal}
		a.sessions = append(a.sessions, &s)
	}
	_ = g
	checked := 0
	a.cfg.Crypto.Verify = func(credential.Chain, time.Time) (*credential.Node, error) { checked++; return a.up.node, nil }
	told := n.now
	n.do(a, Recheck{})
	for a.recheck > 0 && n.now.Sub(told) < 20*time.Second {
		n.run(10 * time.Millisecond)
	}
	if d := n.now.Sub(told); d > 10*time.Second || checked != maxSessions {
		t.Errorf("%d in %v", checked, d)
	}
}

func TestEndedCertificateClosesTheSession(t *testing.T) {
	g := newGrid(t, "archer")
	a, b := g.node("a", g.holder("alice", time.Hour, 0), nil), g.node("b", g.holder("bob", 0, 0), nil)
	n := newNet(t, a, b)
	n.open(a, b)
	n.run(50 * time.Minute)
	if b.Session(a.id, LinkPurpose) == nil {
		t.Fatal("gone before its end", b.log[len(b.log)-1])
	}
	n.run(10*time.Minute + 10*time.Second)
	if b.Session(a.id, LinkPurpose) != nil || b.drops(DropExpired) == 0 {
		t.Error("alive 10 s past its end", b.Counters())
	}
	n.open(a, b)
	n.run(5 * time.Second)
	if b.Session(a.id, LinkPurpose) != nil {
		t.Error("an ended certificate was taken")
	}
}

func TestRelayedMark(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	var marker Marker
	var checker Checker
	mine, theirs := a.up.Keys(), b.up.Keys()
	mark := func(text string) []byte {
		d := append(make([]byte, RelaySize), text...)
		if err := marker.Mark(mine, d, 7); err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := mark("carried")
	for i := 8; i < len(d); i++ {
		bad := append([]byte{}, d...)
		bad[i] ^= 1
		if _, _, drop, err := checker.Check(theirs, bad); err == nil || drop != DropForged {
			t.Fatalf("byte %d changed: %v", i, drop)
		}
	}
	if channel, carried, _, err := checker.Check(theirs, d); err != nil || channel != 7 || string(carried) != "carried" {
		t.Fatal(err)
	}
	if _, _, drop, err := checker.Check(theirs, d); err == nil || drop != DropReplay {
		t.Error("replayed")
	}
	if _, _, drop, err := checker.Check(theirs, d[:RelaySize-1]); err == nil || drop != DropShort {
		t.Error("short")
	}
	if record, _ := a.up.Seal(nil, n.now, 0, make([]byte, MaxMessage)); len(record)+RelaySize != 1252 {
		t.Error("a relayed record of a message of 1,200 bytes is not one of 1,252")
	}
}
