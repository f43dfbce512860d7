package core

import (
	"slices"
	"time"

	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// fromStore does what the store wants.
func (n *Node) fromStore(actions []dht.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case dht.Route:
			n.answerTo(a.To, a.RPC, a.Type, a.Body, a.Attempt)
		case dht.Result:
			n.found(a)
		case dht.Published:
			n.do(Stored(a))
		}
	}
}

// near tells the store who is around.
func (n *Node) near() {
	l := n.ring.List()
	nodes := make([]wire.Replica, 0, len(l.Preds)+len(l.Succs))
	for _, peers := range [][]wire.Peer{l.Preds, l.Succs} {
		for _, p := range peers {
			nodes = append(nodes, wire.Replica{ID: p.ID, Holder: p.Holder})
		}
	}
	n.enqueue(dht.Near{Nodes: nodes})
}

// deliverGrid gives a payload to store, holder or witness, and says whether it
// was for one of them. Their requests end by their own times, so an Err about
// one tells nothing new.
func (n *Node) deliverGrid(about wire.Type, h *wire.Header, body []byte) bool {
	g := n.grid
	var e any
	switch about {
	case wire.TypeGet, wire.TypePut, wire.TypeRecords, wire.TypePutAnswer, wire.TypeStoreFetch, wire.TypeStorePiece:
		e = dht.Received{Src: h.Src, RPC: h.RPC, Type: about, Body: n.memory.keep(body)}
	case wire.TypeVote, wire.TypeNack:
		e = forHolder{routed(h, body)}
	case wire.TypeHold, wire.TypeRelease, wire.TypeShow, wire.TypeHoldsAsk, wire.TypeHolds,
		wire.TypeGreet, wire.TypeGreeted, wire.TypeStop, wire.TypeStopped:
		if g.witness == nil {
			return false
		}
		e = forWitness{routed(h, body)}
	case wire.TypeChain:
		if g.witness == nil {
			return false
		}
	default:
		return false
	}
	switch {
	case h.Payload == wire.TypeErr:
		return true
	case about == wire.TypeChain:
		p, err := wire.ParsePiece(body)
		if err != nil {
			n.counters.Malformed++
			return true
		}
		g.members.take(p, n.now)
		return true
	}
	g.remember(h.Src, h.SrcVia, n.now)
	n.enqueue(e)
	return true
}

// routed copies a payload for good: what leases are told may be kept.
func routed(h *wire.Header, body []byte) lease.Routed {
	return lease.Routed{Src: h.Src, RPC: h.RPC, Type: h.Payload, Body: slices.Clone(body)}
}

// returning is the way back to a node that is not on the ring: who asked
// through which member.
type returning struct {
	to, via nodeid.ID
	until   time.Time
}

// Implementation.
const (
	maxReturns = 256
	returnTime = 10 * time.Second
)

// remember notes the way back. It is only as true as the header, which anybody
// could have written: so it is short-lived, and what answers say is signed or
// public.
func (g *Grid) remember(src, via nodeid.ID, now time.Time) {
	if len(g.returns) == 0 && via == (nodeid.ID{}) {
		return
	}
	g.returns = slices.DeleteFunc(g.returns, func(r returning) bool { return r.to == src || !r.until.After(now) })
	if via == (nodeid.ID{}) {
		return
	}
	if len(g.returns) >= maxReturns {
		g.returns = slices.Delete(g.returns, 0, 1)
	}
	g.returns = append(g.returns, returning{src, via, now.Add(returnTime)})
}

// answerTo sends a payload of store or leases.
func (n *Node) answerTo(to wire.Target, rpc uint32, t wire.Type, body []byte, try int) {
	h := wire.Header{Payload: t, To: to, RPC: rpc, Src: n.cfg.ID}
	if to.Exact && to.ID == n.cfg.ID { // also before this node is on the ring
		n.deliver(&h, body)
		return
	}
	for _, r := range n.grid.returns {
		if to.Exact && r.to == to.ID && r.until.After(n.now) {
			h.To.Via = r.via
		}
	}
	n.route(&h, body, try)
}

// sendChain shows this node's chain to a witness.
func (n *Node) sendChain(to nodeid.ID) {
	object := n.grid.encoded
	for i := range piece.Count(object.ID().Size) {
		n.answerTo(wire.Target{ID: to, Exact: true}, 0, wire.TypeChain, object.Cut(i).Append(nil), 0)
	}
}

// ask is a request to the store for somebody.
type ask struct {
	id    uint64
	token uint64
	whois bool
}

type asks struct {
	open []ask
	last uint64
}

func (n *Node) askStore(token uint64, whois bool, name dht.Name, fresh bool) bool {
	a := &n.grid.asks
	if len(a.open) >= MaxRequests {
		return false
	}
	a.last++
	a.open = append(a.open, ask{a.last, token, whois})
	n.enqueue(dht.Lookup{ID: a.last, Name: name, Fresh: fresh})
	return true
}

func (n *Node) get(e Get) {
	if !n.askStore(e.Token, false, e.Name, false) {
		n.do(Records{Token: e.Token, Err: ErrBusy})
	}
}

// found answers a Get or a Whois.
func (n *Node) found(a dht.Result) {
	open := n.grid.asks.open
	i := slices.IndexFunc(open, func(q ask) bool { return q.id == a.ID })
	if i < 0 {
		return
	}
	q := open[i]
	n.grid.asks.open = slices.Delete(open, i, i+1)
	if q.whois {
		n.who(q.token, a)
		return
	}
	n.do(Records{Token: q.token, Records: a.Records})
}
