package core

import (
	"net/netip"
	"time"

	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/relay"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// Links is what a node needs of the layer below the ring: sessions with peers
// over whatever path there is. It is *link.Machine, but that a simulation of
// very many nodes has a stand-in. Only purpose link matters here.
type Links interface {
	Handle(now time.Time, e link.Event) []link.Action
	NextDeadline() time.Time
}

// fromLinks does what the connections want, and tells the others of them.
func (n *Node) fromLinks(actions []link.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case link.SendDatagram:
			a.Data = n.memory.keep(a.Data)
			n.do(Send(a))
		case link.CloseSockets:
			n.do(CloseSockets(a))
		case link.RouteSession:
			n.routeSession(a.To, a.Data)
		case link.Message:
			if a.Purpose == session.LinkPurpose {
				n.message(a.From, a.Body)
			}
		case link.Relayed:
			if to, channel, ok := n.relay.Forward(n.now, a.From, a.Channel, len(a.Carried)); ok {
				n.counters.Relayed++
				n.enqueue(link.Forward{To: to, Channel: channel, Carried: n.memory.keep(a.Carried)})
			}
		case link.Up:
			if a.Purpose == session.LinkPurpose {
				n.up(a)
			}
		case link.Down:
			if a.Purpose == session.LinkPurpose {
				n.down(a.ID)
			}
		case link.Failed:
			if a.Purpose == session.LinkPurpose {
				n.enqueue(ring.LinkFailed{ID: a.Contact.ID, Asked: first(a.Contact.Endpoints)})
			}
		case link.Needed:
			n.enqueue(ring.Demand{ID: a.ID})
		case link.PathChanged:
			if a.Purpose == session.LinkPurpose {
				n.enqueue(ring.RTT{ID: a.ID, RTT: a.RTT})
				n.pathed(a.ID, a.Path == link.Direct || a.TCP)
				if p := n.peers[a.ID]; p != nil {
					p.over = a.Over
				}
				n.do(Connected{ID: a.ID, Path: a.Path})
			}
		}
	}
}

func (n *Node) up(a link.Up) {
	id := a.Contact.ID
	p := &peer{relay: relay.LinkUp{ID: id, Holder: a.Contact.Holder}, lastHop: n.cfg.Rand.Uint32()}
	if a.Node != nil {
		p.relay.Namespace, p.relay.Mbit = a.Node.Namespace, a.Node.Quota.RelayMbit
	}
	n.peers[id] = p
	n.enqueue(ring.LinkUp{Contact: a.Contact, RTT: a.RTT, Asked: first(a.Contact.Endpoints)})
	n.pathed(id, a.Path == link.Direct || a.TCP)
	if n.grid != nil {
		n.upGrid(id, a.Versions)
	}
	n.do(Connected{ID: id, Path: a.Path})
}

// first is the endpoint that a contact without an ID was asked for by.
func first(endpoints []netip.AddrPort) (e netip.AddrPort) {
	if len(endpoints) > 0 {
		e = endpoints[0]
	}
	return e
}

func (n *Node) down(id nodeid.ID) {
	if _, ok := n.peers[id]; !ok {
		return
	}
	n.pathed(id, false)
	delete(n.peers, id)
	n.lostHop(id)
	n.enqueue(ring.LinkDown{ID: id})
	if n.grid != nil {
		n.downGrid(id)
	}
	n.do(Disconnected{ID: id})
}

// peer is what Node itself keeps of one.
type peer struct {
	relay  relay.LinkUp // what package relay is told
	direct bool         // records go straight to it, over UDP or TCP: package relay may count on that
	over   bool         // records go over the ring: the link is about to end

	lastHop uint32 // hop number given last
	top     uint32 // highest of the peer's, and which of the 64 up to it came
	seen    uint64
}

// pathed notes whether records go straight to a peer, and tells package relay.
func (n *Node) pathed(id nodeid.ID, direct bool) {
	p, ok := n.peers[id]
	if !ok || p.direct == direct {
		return
	}
	p.direct = !p.direct
	if p.direct {
		n.enqueue(p.relay)
	} else {
		n.enqueue(relay.LinkDown{ID: id})
	}
}

// fromRelay sends what package relay answers.
func (n *Node) fromRelay(sends []relay.Send) {
	for _, s := range sends {
		n.send(s.To, s.Relay)
	}
}

// send sends a link message of this node's own.
func (n *Node) send(to nodeid.ID, m wire.Message) {
	var buf [wire.MaxMessage]byte
	n.enqueue(link.Send{ID: to, Purpose: session.LinkPurpose, Message: n.memory.keep(wire.AppendMessage(buf[:0], m))})
}

// Connections returns how many peers there is a session with.
func (n *Node) Connections() int { return len(n.peers) }
