package core

import (
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
				n.enqueue(ring.LinkFailed{ID: a.Contact.ID})
			}
		case link.PathChanged:
			if a.Purpose == session.LinkPurpose {
				n.enqueue(ring.RTT{ID: a.ID, RTT: a.RTT})
				n.pathed(a.ID, a.Path)
				n.do(Connected{ID: a.ID, Path: a.Path})
			}
		}
	}
}

func (n *Node) up(a link.Up) {
	id := a.Contact.ID
	n.peers[id] = peer{holder: a.Contact.Holder}
	n.enqueue(ring.LinkUp{Contact: a.Contact, RTT: a.RTT})
	n.pathed(id, a.Path)
	if n.grid != nil {
		n.upGrid(id, a.Versions)
	}
	n.do(Connected{ID: id, Path: a.Path})
}

func (n *Node) down(id nodeid.ID) {
	if _, ok := n.peers[id]; !ok {
		return
	}
	n.pathed(id, link.None)
	delete(n.peers, id)
	n.enqueue(ring.LinkDown{ID: id})
	if n.grid != nil {
		n.downGrid(id)
	}
	n.do(Disconnected{ID: id})
}

// peer is what Node itself keeps of one.
type peer struct {
	holder wire.Holder
	direct bool // records go straight to it, and package relay may count on that
}

// pathed notes whether there is a direct path to a peer, and tells package
// relay.
func (n *Node) pathed(id nodeid.ID, path link.State) {
	p, ok := n.peers[id]
	if !ok || p.direct == (path == link.Direct) {
		return
	}
	p.direct = !p.direct
	n.peers[id] = p
	if p.direct {
		n.enqueue(relay.LinkUp{ID: id, Holder: p.holder})
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
