package core

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// wires is Links that notes what it was told, and answers with what it is given.
type wires struct {
	told    []link.Event
	answers []link.Action
}

func (w *wires) Handle(_ time.Time, e link.Event) []link.Action {
	if s, ok := e.(link.Send); ok {
		s.Message = bytes.Clone(s.Message) // the node's bytes end with its Handle
		e = s
	}
	w.told = append(w.told, e)
	out := w.answers
	w.answers = nil
	return out
}

func (w *wires) NextDeadline() time.Time { return time.Time{} }

// sent returns the link messages of a type that were sent.
func (w *wires) sent(t wire.Type) (out [][]byte) {
	for _, e := range w.told {
		if s, ok := e.(link.Send); ok && s.Message[0] == byte(t) {
			out = append(out, s.Message)
		}
	}
	return out
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func id(b byte) nodeid.ID { return nodeid.ID{b} }

func newNode() (*Node, *wires) {
	w := &wires{}
	return New(Config{ID: id(1), Rand: rand.New(rand.NewPCG(1, 1)), Links: w}), w
}

// run lets a node's deadlines pass until a time.
func run(n *Node, from, until time.Time) (out []Action) {
	for d := n.NextDeadline(); !d.IsZero() && !d.After(until); d = n.NextDeadline() {
		if d.Before(from) {
			d = from
		}
		out = append(out, n.Handle(d, Tick{})...)
	}
	return out
}

// TestLookupsEnd: a node without a ring answers every lookup, within its time,
// and takes only so many.
func TestLookupsEnd(t *testing.T) {
	n, _ := newNode()
	var got []Found
	keep := func(as []Action) {
		for _, a := range as {
			if f, ok := a.(Found); ok {
				got = append(got, f)
			}
		}
	}
	for i := range uint64(MaxRequests + 1) {
		keep(n.Handle(start, Lookup{Token: i, Key: id(7)}))
	}
	if len(got) != 1 || got[0].Token != MaxRequests || !errors.Is(got[0].Err, ErrBusy) {
		t.Fatalf("one lookup too many: %+v", got)
	}
	keep(run(n, start, start.Add(LookupTime)))
	if len(got) != MaxRequests+1 {
		t.Fatalf("%d of %d lookups were answered", len(got), MaxRequests+1)
	}
	for _, f := range got[1:] {
		if !errors.Is(f.Err, ErrNoAnswer) {
			t.Errorf("lookup %d: %v", f.Token, f.Err)
		}
	}
	if !n.NextDeadline().IsZero() {
		t.Error("an idle node wants to be woken")
	}
}

// connected returns a node with one direct peer.
func connected(t *testing.T) (*Node, *wires) {
	n, w := newNode()
	w.answers = []link.Action{link.Up{Contact: wire.Contact{ID: id(2)}, Purpose: session.LinkPurpose, Path: link.Direct}}
	n.Handle(start, Tick{})
	n.Handle(start, Datagram{})
	if n.Connections() != 1 {
		t.Fatal("not connected")
	}
	w.told = nil
	return n, w
}

func from(w *wires, n *Node, m wire.Message) {
	w.answers = []link.Action{link.Message{From: id(2), Purpose: session.LinkPurpose, Body: wire.AppendMessage(nil, m)}}
	n.Handle(start, Datagram{})
}

// TestRefusals: a payload that is for nobody is answered once, by an Err with
// its number; an Err is not.
func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name string
		h    wire.Header
		errs int
	}{
		{"unknown service", wire.Header{Payload: 60, To: wire.Target{ID: id(1), Exact: true}}, 1},
		{"nobody there", wire.Header{Payload: wire.TypeFind, To: wire.Target{ID: id(9), Exact: true}}, 1},
		{"an Err for nobody", wire.Header{Payload: wire.TypeErr, To: wire.Target{ID: id(9), Exact: true}}, 0},
		{"no hops left", wire.Header{Payload: wire.TypeFind, To: wire.Target{ID: id(9)}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, w := connected(t)
			tc.h.Src, tc.h.RPC = id(2), 77
			if tc.name != "no hops left" {
				tc.h.TTL = 5
			}
			from(w, n, wire.Routed{Header: tc.h, Body: wire.Err{Code: wire.CodeNoRoute, About: wire.TypeFind}.Append(nil)})
			errs := 0
			for _, b := range w.sent(wire.TypeRouted) {
				if m, err := wire.ParseRouted(b[1:]); err == nil && m.Payload == wire.TypeErr && m.RPC == 77 && m.To.ID == id(2) {
					errs++
				}
			}
			if errs != tc.errs {
				t.Errorf("%d Errs, want %d", errs, tc.errs)
			}
		})
	}
}

// TestRelayedWithoutLimit: what a node of this one's namespace sends is relayed
// without a budget; another's is within that of its certificate.
func TestRelayedWithoutLimit(t *testing.T) {
	w := &wires{}
	n := New(Config{ID: id(1), Rand: rand.New(rand.NewPCG(1, 1)), Links: w, Namespace: "one"})
	for b, namespace := range map[byte]string{2: "one", 3: "one", 4: "two"} {
		node := &credential.Node{Namespace: namespace, Quota: credential.Quota{RelayMbit: 8}}
		w.answers = []link.Action{link.Up{Contact: wire.Contact{ID: id(b)}, Purpose: session.LinkPurpose, Path: link.Direct, Node: node}}
		n.Handle(start, Datagram{})
	}
	for _, ask := range []struct{ from, to byte }{{2, 3}, {4, 3}} {
		w.answers = []link.Action{link.Message{From: id(ask.from), Purpose: session.LinkPurpose,
			Body: wire.AppendMessage(nil, wire.Relay{Op: wire.RelayAsk, Peer: id(ask.to)})}}
		n.Handle(start, Datagram{})
	}
	for _, c := range []struct {
		from    byte
		channel uint16
		want    uint64 // of 100 datagrams of 10,000 bytes
	}{{2, 1, 100}, {4, 1, 25}} {
		before := n.Counters().Relayed
		for range 100 {
			w.answers = []link.Action{link.Relayed{From: id(c.from), Channel: c.channel, Carried: make([]byte, 10_000)}}
			n.Handle(start, Datagram{})
		}
		if got := n.Counters().Relayed - before; got != c.want {
			t.Errorf("node %d: %d datagrams relayed, want %d", c.from, got, c.want)
		}
	}
}

// TestRelaysOverTCP: a peer that is connected over TCP is relayed for, and no
// longer when records take another's help.
func TestRelaysOverTCP(t *testing.T) {
	w := &wires{}
	n := New(Config{ID: id(1), Rand: rand.New(rand.NewPCG(1, 1)), Links: w, Namespace: "one"})
	node := &credential.Node{Namespace: "one"}
	for b := byte(2); b <= 3; b++ {
		w.answers = []link.Action{link.Up{Contact: wire.Contact{ID: id(b)}, Purpose: session.LinkPurpose, Path: link.Relay2, TCP: b == 2, Node: node}}
		n.Handle(start, Datagram{})
	}
	channels := func() int {
		w.answers = []link.Action{link.Message{From: id(2), Purpose: session.LinkPurpose, Body: wire.AppendMessage(nil, wire.Relay{Op: wire.RelayAsk, Peer: id(3)})}}
		n.Handle(start, Datagram{})
		return n.Relaying().Channels()
	}
	if got := channels(); got != 0 {
		t.Errorf("%d channels to a peer that is itself relayed", got)
	}
	w.answers = []link.Action{link.PathChanged{ID: id(3), Purpose: session.LinkPurpose, Path: link.Punching, TCP: true}}
	n.Handle(start, Datagram{})
	if got := channels(); got == 0 {
		t.Error("no channel between two TCP connections")
	}
	w.answers = []link.Action{link.PathChanged{ID: id(3), Purpose: session.LinkPurpose, Path: link.Relay2}}
	n.Handle(start, Datagram{})
	if got := n.Relaying().Channels(); got != 0 {
		t.Errorf("%d channels when the TCP connection is gone", got)
	}
}

// TestSessionNotThroughItself: the datagrams of a session that has only the
// ring never go through that session, which would wrap them for ever. Those of
// another session with the peer may go through a link that has a relay.
func TestSessionNotThroughItself(t *testing.T) {
	n, w := newNode()
	w.answers = []link.Action{link.Up{Contact: wire.Contact{ID: id(2)}, Purpose: session.LinkPurpose, Path: link.Relay2}}
	n.Handle(start, Datagram{})
	route := func() int {
		w.told = nil
		w.answers = []link.Action{link.RouteSession{To: wire.Target{ID: id(2), Exact: true}, Data: []byte("x")}}
		n.Handle(start, Datagram{})
		return len(w.sent(wire.TypeRouted))
	}
	if got := route(); got != 1 {
		t.Errorf("%d messages through a link with a relay, want 1", got)
	}
	w.answers = []link.Action{link.PathChanged{ID: id(2), Purpose: session.LinkPurpose, Path: link.Punching, Over: true}}
	n.Handle(start, Datagram{})
	if got := route(); got != 0 {
		t.Errorf("%d messages through the session they belong to", got)
	}
	if n.Counters().NoRoute == 0 {
		t.Error("not counted")
	}
}

// TestWayBack: what a node that is not on the ring sends by way of a peer names
// that peer, or no answer would find it.
func TestWayBack(t *testing.T) {
	n, w := connected(t)
	w.answers = []link.Action{link.RouteSession{To: wire.Target{ID: id(9), Exact: true, Via: id(2)}, Data: []byte("x")}}
	n.Handle(start, Datagram{})
	got := w.sent(wire.TypeRouted)
	if len(got) != 1 {
		t.Fatalf("%d messages, want 1", len(got))
	}
	m, err := wire.ParseRouted(got[0][1:])
	if err != nil || m.SrcVia != id(2) || m.To.Via != id(2) || m.To.ID != id(9) {
		t.Errorf("header %+v, %v", m.Header, err)
	}
}

func TestHostileMessages(t *testing.T) {
	n, w := connected(t)
	r := rand.New(rand.NewPCG(2, 2))
	for range 20_000 {
		b := make([]byte, r.IntN(200))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if len(b) > 0 && r.IntN(2) == 0 {
			b[0] = byte(r.IntN(16))
		}
		w.answers = []link.Action{link.Message{From: id(2), Purpose: session.LinkPurpose, Body: b}}
		n.Handle(start, Datagram{})
		w.told = w.told[:0]
	}
	if c := n.Counters(); c.Malformed == 0 || c.Unknown == 0 {
		t.Errorf("nothing of it was counted: %+v", c)
	}
}
