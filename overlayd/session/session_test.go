package session

import (
	"strings"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
)

func pair(t testing.TB) (*grid, *net, *peer, *peer) {
	g := newGrid(t, "archer")
	a := g.node("a", g.holder("alice", 0, 0), nil)
	b := g.node("b", g.holder("bob", 0, 0), nil)
	if b.id.Compare(a.id) < 0 {
		a, b = b, a // a has the lower ID
	}
	return g, newNet(t, a, b), a, b
}

func TestTwoNodesMeet(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	if got := strings.Join(a.log, ", ") + "; " + strings.Join(b.log, ", "); got != "up offer of "+b.name+"; up offer of "+a.name {
		t.Fatal(got)
	}
	if a.up.Peer() != b.id || b.up.Peer() != a.id || a.up.Node().User == "" {
		t.Error("wrong peer")
	}
	if !n.say(a, b, "hello") || !n.say(b, a, "hello to you") {
		t.Error("no message arrives")
	}
	// The holders are not known to each other, so their chains need a cookie.
	if c := b.Counters(); c.Cookies != 1 || c.Answers != 1 || c.Drops[DropCookie] != 1 {
		t.Errorf("counters %+v", c)
	}
	if at, hf, _ := a.Len(); at+hf != 0 {
		t.Error("the handshake left something behind")
	}
}

func TestOverTheRing(t *testing.T) {
	_, n, a, b := pair(t)
	n.do(a, Open{Peer: b.id, Purpose: LinkPurpose, Via: Ring(b.id, nodeid.ID{})})
	n.run(time.Second)
	if a.up == nil || b.up == nil {
		t.Fatal(a.log, b.log, a.Counters(), b.Counters())
	}
}

func TestBootstrapWithoutAnID(t *testing.T) {
	_, n, a, b := pair(t)
	n.do(a, Open{Purpose: LinkPurpose, Via: Direct(b.at)})
	n.run(time.Second)
	if a.up == nil || a.up.Peer() != b.id {
		t.Fatal(a.log)
	}
}

func TestLostMessagesAreRepeated(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind byte
		lost int
		up   bool
	}{
		{"hello", typeHello, 4, true}, {"cookie", typeCookie, 2, true}, {"answer", typeAnswer, 2, true},
		{"finish", typeFinish, 4, true}, {"record", typeRecord, 3, true}, {"every hello", typeHello, 1000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, n, a, b := pair(t)
			lost := 0
			n.lose = func(f flight) bool {
				if f.data[0] == tt.kind && lost < tt.lost {
					lost++
					return true
				}
				return false
			}
			began := n.now
			n.open(a, b)
			n.run(8 * time.Second)
			if (a.Session(b.id, LinkPurpose) != nil) != tt.up || (b.up != nil) != tt.up {
				t.Fatal(a.log, b.log)
			}
			if !tt.up && (lost != tries || a.log[0] != "failed no answer" || n.now.Sub(began) < 3*time.Second) {
				t.Error(lost, a.log)
			}
		})
	}
}

func TestOpenedFromBothEndsAtOnceTheLowerIDWins(t *testing.T) {
	for _, skew := range []time.Duration{0, 5 * time.Millisecond, 25 * time.Millisecond, 45 * time.Millisecond, 70 * time.Millisecond, 95 * time.Millisecond, 120 * time.Millisecond, 150 * time.Millisecond} {
		for _, aFirst := range []bool{true, false} {
			_, n, a, b := pair(t)
			x, y := a, b
			if !aFirst {
				x, y = b, a
			}
			n.open(x, y)
			n.run(skew)
			n.open(y, x)
			n.run(2 * time.Second)
			if a.up == nil || b.up == nil || a.up.down || b.up.down {
				t.Fatalf("skew %v: %v %v", skew, a.log, b.log)
			}
			if a.up.current.local != b.up.current.remote || a.up.current.remote != b.up.current.local {
				t.Errorf("skew %v, lower first %v: they seal under different keys", skew, aFirst)
			}
			if skew == 0 && !a.up.Initiator() {
				t.Error("the higher ID's handshake won")
			}
			n.run(60 * time.Second)
			if !n.say(a, b, "x") || !n.say(b, a, "y") {
				t.Errorf("skew %v: silent after a minute", skew)
			}
		}
	}
}

func TestKeysAreRenewedWithoutLoss(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	index := a.up.current.local
	for i := range 400 { // 400 s: three lives of a key
		if !n.say(a, b, "x") || !n.say(b, a, "y") {
			t.Fatalf("lost after %d s: %v %v", i, a.log, b.log)
		}
		n.run(time.Second - 2*(n.delay+time.Millisecond))
	}
	if a.up.current.local == index || a.Counters().Rekeys < 3 || a.Counters().Ups != 1 {
		t.Errorf("%+v", a.Counters())
	}
	if a.Counters().Cookies != b.Counters().Cookies+0 && a.Counters().Cookies > 1 {
		t.Error("a renewal needed a cookie")
	}
}

func TestPreviousKeysOpenForTenSeconds(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	old := a.up.current
	n.open(a, b)
	n.run(200 * time.Millisecond)
	if a.up.current == old || b.up.previous == nil {
		t.Fatal("no new keys", a.log, b.log)
	}
	record := func() []byte { r, _ := appendRecord(nil, old.Sealer(0), 1, []byte("late")); return r }
	late, later := record(), record()
	n.run(9 * time.Second)
	n.do(b, Datagram{Direct(a.at), late})
	if len(b.got) != 1 {
		t.Error("not opened 9 s later")
	}
	n.run(2 * time.Second)
	n.do(b, Datagram{Direct(a.at), later})
	if len(b.got) != 1 || b.drops(DropIndex) == 0 {
		t.Error("opened 11 s later")
	}
	if _, err := appendRecord(nil, old.Sealer(0), 1, nil); err != ErrDead {
		t.Error("sealed under old keys")
	}
}

func TestAKeyIsNotUsedPastItsLife(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	k := a.up.current
	n.lose = func(f flight) bool { return true }
	n.run(KeyLife - 2*time.Second)
	if a.up.down {
		t.Fatal("down early", a.log)
	}
	if !k.Usable(n.now) {
		t.Error("not usable before its end")
	}
	n.run(2 * time.Second)
	if !a.up.down || !b.up.down || k.Usable(n.now) {
		t.Error("up past the keys' life", a.log, b.log)
	}
	if a.log[len(a.log)-1] != "down no new key in time" {
		t.Error(a.log)
	}
}

func TestCounterEndsTheKeys(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	a.up.current.next[3].Store(maxCount - 1)
	if _, err := a.up.Seal(nil, n.now, 3, []byte("last")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.up.Seal(nil, n.now, 3, []byte("one more")); err != ErrDead {
		t.Fatal(err)
	}
}

func TestWornKeysAreRenewed(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	old := a.up.current
	old.next[3].Store(maxCount / 2)
	n.run(watchEvery + time.Second)
	if a.up.current == old || a.up.down {
		t.Error("half of the counter is used up and the keys are the same")
	}
	if !n.say(a, b, "x") || !n.say(b, a, "y") {
		t.Error("silent")
	}
}

// TestRootsChange: nodes that know a new root meet under it, those that do not
// yet meet under the old, and a session outlives both.
func TestRootsChange(t *testing.T) {
	g, n, a, b := pair(t)
	before, after := g.root, [32]byte{7}
	n.open(a, b)
	n.run(time.Second)
	n.do(a, Roots{[][32]byte{after, before}})
	if !n.say(a, b, "x") {
		t.Error("a session ended with the roots")
	}
	c := g.node("c", g.holder("carol", 0, 0), nil) // knows the old one only
	n.peers = append(n.peers, c)
	n.open(c, a)
	n.run(time.Second)
	if c.up == nil || c.up.Peer() != a.id {
		t.Errorf("under the old root: %v", c.log)
	}
	n.do(c, Roots{[][32]byte{after}})
	n.open(b, c) // under the root of before
	n.run(10 * time.Second)
	if c.Counters().Drops[DropGrid] == 0 {
		t.Error("a root that is gone is served")
	}
	n.do(b, Roots{[][32]byte{after}})
	n.open(b, c)
	n.run(time.Second)
	if c.up.Peer() != b.id {
		t.Errorf("under the new root: %v", c.log)
	}
}

func TestCloseTellsThePeer(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	n.do(a, Close{a.up})
	n.do(a, Close{a.up}) // twice is once
	n.run(time.Second)
	if a.log[len(a.log)-1] != "down closed" || b.log[len(b.log)-1] != "down closed by the peer" || len(a.log) != 2 {
		t.Error(a.log, b.log)
	}
}

func TestRestartedPeerReplacesItsSession(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.do(a, Open{Peer: b.id, Purpose: "one", Via: Direct(b.at)})
	n.run(time.Second)
	other := b.Session(a.id, "one")
	if other == nil || len(b.sessions) != 2 {
		t.Fatal(b.log)
	}
	// The same node ID with a new static key needs the node's own key; so the
	// peer's memory of the static is changed instead, as if it had been another.
	for _, s := range b.sessions {
		s.static[0] ^= 1
	}
	n.open(a, b)
	n.run(time.Second)
	if !other.down || b.Session(a.id, "one") != nil {
		t.Error("the session for another purpose, whose keys nobody has, goes on")
	}
	if got := strings.Join(b.log, ", "); !strings.Contains(got, "down the peer began anew, up offer of") {
		t.Error(got)
	}
	if !n.say(a, b, "x") || !n.say(b, a, "y") {
		t.Error("silent")
	}
}

func TestDestroyLeavesNothing(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	s := a.up.current.Sealer(0)
	sent := len(n.queue)
	n.do(a, Destroy{Cloned})
	buf := make([]byte, 100)
	if err := s.Seal(buf, 0, 1); err != ErrDead {
		t.Error("sealed after destruction")
	}
	if len(n.queue) != sent || len(a.sessions)+len(a.attempts)+len(a.halves)+len(a.byIndex) != 0 {
		t.Error("something is left or was said")
	}
	n.run(time.Second)
	if b.up.down {
		t.Error("the peer was told")
	}
}

func TestAFullTableStillRenews(t *testing.T) {
	_, n, a, b := pair(t)
	n.open(a, b)
	n.run(time.Second)
	for range maxSessions - 1 {
		s := *a.up
		s.renew = n.now.Add(time.Hour)
		s.current = &Keys{born: n.now.Add(time.Hour)}
		a.sessions = append(a.sessions, &s)
	}
	n.do(a, Open{Peer: nodeid.ID{5}, Purpose: LinkPurpose, Via: Direct(b.at)})
	if a.log[len(a.log)-1] != "failed "+string(Busy) {
		t.Error("one session too many", a.log)
	}
	old := a.up.current
	n.open(a, b)
	n.run(time.Second)
	if a.up.current == old {
		t.Error("a full table renews no keys", a.log)
	}
}

func TestClockJump(t *testing.T) {
	for _, tt := range []struct {
		name            string
		wall, monotonic time.Duration
		want            bool
	}{
		{"none", time.Hour, time.Hour, false},
		{"a time server's step", 3 * time.Second, time.Second, false},
		{"suspended for an hour", time.Hour, time.Second, true},
		{"restored from yesterday", -24 * time.Hour, time.Second, true},
	} {
		if got := jumped(tt.wall, tt.monotonic); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
