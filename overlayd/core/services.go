package core

import (
	"time"

	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/gossip"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/wire"
)

// Services are the machines above the ring; each may be nil. They are the
// node's own from now on.
type Services struct {
	Store   *dht.Machine
	Gossip  *gossip.Machine
	Leases  *lease.Holder
	Witness *lease.Witness
}

// The wishes of a person or of the daemon for one of the services, and what
// the service says to them rather than to another node.
type (
	ToStore  struct{ dht.Event }
	ToGossip struct{ gossip.Event }
	ToLeases struct{ lease.Event } // the holder and the witness take what is theirs

	FromStore  struct{ dht.Action }
	FromGossip struct{ gossip.Action }
	FromLeases struct{ lease.Action }
)

func (ToStore) event()     {}
func (ToGossip) event()    {}
func (ToLeases) event()    {}
func (FromStore) action()  {}
func (FromGossip) action() {}
func (FromLeases) action() {}

func (s *Services) deadlines() (ts [4]time.Time) {
	if s.Store != nil {
		ts[0] = s.Store.NextDeadline()
	}
	if s.Gossip != nil {
		ts[1] = s.Gossip.NextDeadline()
	}
	if s.Leases != nil {
		ts[2] = s.Leases.NextDeadline()
	}
	if s.Witness != nil {
		ts[3] = s.Witness.NextDeadline()
	}
	return ts
}

// tickServices wakes whoever of them is due.
func (n *Node) tickServices() {
	ts := n.services.deadlines()
	if due(ts[0], n.now) {
		n.enqueue(dht.Tick{})
	}
	if due(ts[1], n.now) {
		n.enqueue(gossip.Tick{})
	}
	if due(ts[2], n.now) || due(ts[3], n.now) {
		n.enqueue(lease.Tick{})
	}
}

func (n *Node) toStore(e dht.Event) {
	if n.services.Store == nil {
		n.counters.Unknown++
		return
	}
	for _, a := range n.services.Store.Handle(n.now, e) {
		if r, ok := a.(dht.Route); ok {
			h := wire.Header{Payload: r.Type, To: r.To, RPC: r.RPC}
			n.route(&h, r.Body, r.Attempt)
			continue
		}
		n.do(FromStore{a})
	}
}

func (n *Node) toGossip(e gossip.Event) {
	if n.services.Gossip == nil {
		n.counters.Unknown++
		return
	}
	for _, a := range n.services.Gossip.Handle(n.now, e) {
		switch a := a.(type) {
		case gossip.Send:
			n.send(a.To, raw{a.Type, a.Body})
			continue
		case gossip.Changed:
			n.enqueue(link.Versions{Versions: a.Versions})
			n.enqueue(link.Recheck{})
			if n.services.Store != nil {
				n.enqueue(dht.TrustChanged{})
			}
		}
		n.do(FromGossip{a})
	}
}

// raw is a message that its machine has written already.
type raw struct {
	t    wire.Type
	body []byte
}

func (r raw) Type() wire.Type        { return r.t }
func (r raw) Append(b []byte) []byte { return append(b, r.body...) }

func (n *Node) toLeases(e lease.Event) {
	if n.services.Leases == nil && n.services.Witness == nil {
		n.counters.Unknown++
		return
	}
	if n.services.Leases != nil {
		n.fromLeases(n.services.Leases.Handle(n.now, e))
	}
	if n.services.Witness != nil {
		n.fromLeases(n.services.Witness.Handle(n.now, e))
	}
}

func (n *Node) fromLeases(actions []lease.Action) {
	for _, a := range actions {
		if r, ok := a.(lease.Route); ok {
			h := wire.Header{Payload: r.Type, To: r.To, RPC: r.RPC}
			n.route(&h, r.Body, 0)
			continue
		}
		n.do(FromLeases{a})
	}
}

// tail appends to every Ping and Pong what this node knows of descriptor and
// revocation lists.
func (n *Node) tail(b []byte) []byte {
	if n.services.Gossip == nil {
		return b
	}
	return n.services.Gossip.Versions().Append(b)
}

// heard tells gossip of a Ping's or Pong's tail.
func (n *Node) heard(from nodeid.ID, body []byte) {
	if n.services.Gossip == nil {
		return
	}
	if ping, err := wire.ParsePing(body); err == nil && len(ping.Tail) > 0 {
		if v, err := wire.ParseVersions(ping.Tail); err == nil {
			n.enqueue(gossip.Heard{From: from, Versions: v})
		}
	}
}

// near tells the store who its neighbours are.
func (n *Node) near() {
	if n.services.Store == nil {
		return
	}
	list := n.ring.List()
	var near []wire.Replica
	for _, side := range [2][]wire.Peer{list.Preds, list.Succs} {
		for _, p := range side {
			near = append(near, wire.Replica{ID: p.ID, Holder: p.Holder})
		}
	}
	n.enqueue(dht.Near{Nodes: near})
}

// leave hands over and says goodbye, in this order.
func (n *Node) leave() {
	if n.services.Store != nil {
		n.enqueue(dht.Leave{})
	}
	n.enqueue(ring.Leave{})
}
