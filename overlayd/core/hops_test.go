package core

import (
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// onRing returns a node on the ring between members 2 and 3, which list each
// other and it.
func onRing(t *testing.T) (*Node, *wires) {
	n, w := newNode()
	w.answers = []link.Action{
		link.Up{Contact: wire.Contact{ID: id(2), Holder: wire.Holder{2}}, Purpose: session.LinkPurpose, Path: link.Direct, RTT: 40 * time.Millisecond},
		link.Up{Contact: wire.Contact{ID: id(3), Holder: wire.Holder{3}}, Purpose: session.LinkPurpose, Path: link.Direct, RTT: 40 * time.Millisecond},
	}
	n.cfg.Founder = true
	n.Handle(start, Datagram{})
	peer := func(b byte) wire.Peer { return wire.Peer{ID: id(b), Holder: wire.Holder{b}} }
	status := wire.Status{Flags: wire.StatusMember, Version: 1}
	says(w, n, id(2), wire.Neigh{Status: status, List: wire.List{Preds: []wire.Peer{peer(1), peer(3)}, Succs: []wire.Peer{peer(3), peer(1)}}})
	says(w, n, id(3), wire.Neigh{Status: status, List: wire.List{Preds: []wire.Peer{peer(2), peer(1)}, Succs: []wire.Peer{peer(1), peer(2)}}})
	found := wire.Found{Self: peer(2), List: wire.List{Preds: []wire.Peer{peer(3)}, Succs: []wire.Peer{peer(3)}}}
	for _, b := range w.sent(wire.TypeRouted) {
		if m, err := wire.ParseRouted(b[1:]); err == nil && m.Payload == wire.TypeJoin {
			body := wire.JoinAnswer{Found: found}.Append(nil)
			says(w, n, id(2), wire.Routed{Header: wire.Header{TTL: 9, Payload: wire.TypeJoinAnswer, RPC: m.RPC, To: wire.Target{ID: id(1), Exact: true}, Src: id(2)}, Body: body})
		}
	}
	n.Handle(start, Tick{})
	if n.Ring().Phase() != ring.OnRing {
		t.Fatal("not on the ring but ", n.Ring().Phase())
	}
	for _, e := range w.told { // what it said itself has arrived
		if s, ok := e.(link.Send); ok && s.Message[0] == byte(wire.TypeRouted) {
			if m, err := wire.ParseRouted(s.Message[1:]); err == nil {
				says(w, n, s.ID, wire.Receipt{Hop: m.Hop})
			}
		}
	}
	w.told, n.counters = nil, Counters{}
	return n, w
}

// says lets a peer send a message.
func says(w *wires, n *Node, peer nodeid.ID, m wire.Message) {
	w.answers = []link.Action{link.Message{From: peer, Purpose: session.LinkPurpose, Body: wire.AppendMessage(nil, m)}}
	n.Handle(n.now, Datagram{})
}

// routed returns what was sent on of a payload, and to whom.
func (w *wires) routed(rpc uint32) (to []nodeid.ID, ms []wire.Routed) {
	for _, e := range w.told {
		if s, ok := e.(link.Send); ok && s.Message[0] == byte(wire.TypeRouted) {
			if m, err := wire.ParseRouted(s.Message[1:]); err == nil && m.RPC == rpc {
				to, ms = append(to, s.ID), append(ms, m)
			}
		}
	}
	return to, ms
}

// find is somebody's lookup of a key next to 3, or of 3 itself.
func find(exact bool, hop uint32) wire.Routed {
	return wire.Routed{Header: wire.Header{TTL: 20, Promise: wire.NoPromise, Payload: wire.TypeFind, To: wire.Target{ID: id(3), Exact: exact}, Src: id(2), RPC: 5, Hop: hop}}
}

// TestHops: a payload is acknowledged and sent on; what the next hop does not
// acknowledge goes another way, with a promise of its own.
func TestHops(t *testing.T) {
	n, w := onRing(t)
	says(w, n, id(2), find(true, 7))
	to, ms := w.routed(5)
	if len(to) != 1 || to[0] != id(3) || ms[0].Hop == 0 || len(w.sent(wire.TypeReceipt)) != 1 {
		t.Fatalf("sent on to %v, %d receipts; want 3, 1", to, len(w.sent(wire.TypeReceipt)))
	}
	says(w, n, id(2), find(true, 7))
	if to, _ := w.routed(5); len(to) != 1 || len(w.sent(wire.TypeReceipt)) != 2 {
		t.Errorf("a repetition was sent on, or not acknowledged: %v, %d", to, len(w.sent(wire.TypeReceipt)))
	}
	says(w, n, id(3), wire.Receipt{Hop: ms[0].Hop})
	run(n, start, start.Add(time.Minute/20))
	if to, _ = w.routed(5); len(to) != 1 || len(n.hops.kept) != 0 {
		t.Errorf("acknowledged, and still kept (%d) or sent again: %v", len(n.hops.kept), to)
	}
}

// TestHopsUnacknowledged: no receipt comes. The payload goes another way if there
// is one that promises less, or again to the same hop; it ends, is counted, and
// its source is told.
func TestHopsUnacknowledged(t *testing.T) {
	n, w := onRing(t)
	says(w, n, id(2), find(true, 7))
	run(n, start, start.Add(5*time.Second))
	to, ms := w.routed(5)
	c := n.Counters()
	if len(to) < 2 || c.Repeated+c.Diverted == 0 || c.Unacknowledged == 0 || len(n.hops.kept) > 1 {
		t.Fatalf("sent to %v, counters %+v, %d kept", to, c, len(n.hops.kept))
	}
	told := false
	for i, m := range ms {
		told = told || m.Payload == wire.TypeErr && m.To.ID == id(2)
		if m.Payload == wire.TypeFind && to[i] != id(3) && m.Promise == wire.NoPromise {
			t.Errorf("copy %d went to %v without a promise", i, to[i])
		}
	}
	if !told {
		t.Error("the source was not told")
	}
}

// TestHopsAreBounded: nobody acknowledges anything, a thousand payloads a second
// come. What is kept and what is sent beside stays bounded.
func TestHopsAreBounded(t *testing.T) {
	n, w := onRing(t)
	for i := range 5000 {
		now := start.Add(time.Duration(i) * time.Millisecond)
		run(n, now, now)
		n.now = now
		says(w, n, id(2), find(i%2 == 0, uint32(i+1)))
		if len(n.hops.kept) > maxKept {
			t.Fatalf("%d payloads kept, at most %d", len(n.hops.kept), maxKept)
		}
		w.told = w.told[:0]
	}
	if c := n.Counters(); c.Diverted > maxDetours+5*uint64(time.Second/detourTime)+1 || c.Forwarded == 0 {
		t.Errorf("%d went another way of %d in 5 s", c.Diverted, c.Forwarded)
	}
}

// TestFresh: of the last 64 hop numbers each counts once; older ones always.
func TestFresh(t *testing.T) {
	p := &peer{}
	for _, tc := range []struct {
		number uint32
		want   bool
	}{
		{1 << 31, true}, {1 << 31, false}, {1<<31 + 5, true}, {1<<31 + 3, true}, {1<<31 + 3, false}, {1 << 31, false},
		{1<<31 + 200, true}, {1<<31 + 200, false}, {1<<31 + 5, true}, {1<<31 + 5, false}, {^uint32(0), true}, {1, true}, {^uint32(0), false}, {1, false},
	} {
		if got := p.fresh(tc.number); got != tc.want {
			t.Errorf("%d fresh: %v, want %v", tc.number, got, tc.want)
		}
	}
}

// TestOwnPlaceFound: a lookup that comes back to who asked ends there.
func TestOwnPlaceFound(t *testing.T) {
	n, w := onRing(t)
	n.Handle(start, Lookup{Token: 8, Key: id(3)})
	var rpc uint32
	for _, b := range w.sent(wire.TypeRouted) {
		if m, err := wire.ParseRouted(b[1:]); err == nil && m.Payload == wire.TypeFind {
			rpc = m.RPC
		}
	}
	back := find(false, 0)
	back.To.ID, back.Src, back.RPC = id(1), id(1), rpc
	w.answers = []link.Action{link.Message{From: id(3), Purpose: session.LinkPurpose, Body: wire.AppendMessage(nil, back)}}
	for _, a := range n.Handle(start, Datagram{}) {
		if f, ok := a.(Found); ok && f.Token == 8 && f.Node.ID == id(1) && f.Err == nil {
			return
		}
	}
	t.Error("not answered")
}

// TestCallsGoAnotherWay: a handshake of this node's own that the first hop does not
// acknowledge goes by another, and never through the session that it is for.
func TestCallsGoAnotherWay(t *testing.T) {
	for _, over := range []bool{false, true} {
		n, w := onRing(t)
		n.peers[id(3)].over = over
		n.routeSession(wire.Target{ID: id(3), Exact: true}, []byte{0x80, 0, 0, 0})
		run(n, n.now, n.now.Add(2*time.Second))
		to, _ := w.routed(0)
		if over == slices.Contains(to, id(3)) || !slices.Contains(to, id(2)) {
			t.Errorf("the session goes over the ring: %v; its handshake went to %v", over, to)
		}
	}
}

// TestNoCallGoesByWhoIsDoubted: the node to go by has not answered two Pings, so
// the handshake leaves without it.
func TestNoCallGoesByWhoIsDoubted(t *testing.T) {
	n, w := onRing(t)
	call := func() nodeid.ID {
		w.told = nil
		n.routeSession(wire.Target{ID: id(4), Exact: true, Via: id(2)}, []byte{0x80, 0, 0, 0})
		n.Handle(n.now, Tick{})
		_, ms := w.routed(0)
		if len(ms) == 0 {
			t.Fatal("no call was sent")
		}
		return ms[0].To.Via
	}
	if via := call(); via != id(2) {
		t.Errorf("goes by %v, want %v", via, id(2))
	}
	for !n.ring.Doubted(id(2)) { // 3 answers, 2 does not
		w.told = nil
		n.Handle(n.now.Add(50*time.Millisecond), Tick{})
		for _, e := range w.told {
			if s, ok := e.(link.Send); ok && s.ID == id(3) && s.Message[0] == byte(wire.TypePing) {
				if p, err := wire.ParsePing(s.Message[1:]); err == nil {
					says(w, n, id(3), wire.Pong{Number: p.Number, Status: wire.Status{Flags: wire.StatusMember, Version: 1}})
				}
			}
		}
		if n.now.Sub(start) > time.Minute {
			t.Fatal("nobody is doubted")
		}
	}
	if via := call(); via != (nodeid.ID{}) {
		t.Errorf("goes by %v, which does not answer", via)
	}
}

// TestRecordsAreSentOnce: a session's handshake is acknowledged hop by hop; its
// records, which are packets, are sent on once and wanted acknowledged by nobody.
func TestRecordsAreSentOnce(t *testing.T) {
	n, w := onRing(t)
	for _, c := range []struct {
		name  string
		first byte // of the session's datagram
		rpc   uint32
		kept  bool
	}{{"HELLO", 0x80, 6, true}, {"record", 0x84, 7, false}} {
		m := find(true, 0)
		m.Payload, m.RPC, m.Body = wire.TypeSession, c.rpc, []byte{c.first, 0, 0, 0, 1, 2, 3, 4}
		says(w, n, id(2), m)
		_, ms := w.routed(c.rpc)
		if len(ms) != 1 || (ms[0].Hop != 0) != c.kept {
			t.Fatalf("%s: sent on %d times, acknowledgement wanted %v, want %v", c.name, len(ms), ms[0].Hop != 0, c.kept)
		}
		n.Handle(n.now.Add(2*time.Second), Tick{})
		if _, ms = w.routed(c.rpc); (len(ms) > 1) != c.kept {
			t.Errorf("%s: sent on %d times within 2 s without a Receipt", c.name, len(ms))
		}
	}
}
