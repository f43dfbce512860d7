package core

import (
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/gossip"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// fromGossip does what gossip wants. What it has changed in Trust holds for
// everybody at once: sessions, store, witness.
func (n *Node) fromGossip(actions []gossip.Action) {
	g := n.grid
	for _, a := range actions {
		switch a := a.(type) {
		case gossip.Send:
			n.sendBody(a.To, a.Type, a.Body)
		case gossip.Published:
			n.do(Published(a))
		case gossip.Alarm:
			n.do(Alarm{Text: a.Err.Error()})
		case gossip.Changed:
			g.trust.renew()
			n.do(Persist{File: TrustFile, Data: g.trust.memory.Append(nil)})
			n.do(Trusted{Versions: a.Versions, Descriptor: a.Descriptor})
			if g.members != nil {
				g.members.changes++
			}
			n.enqueue(link.Versions{Versions: a.Versions})
			n.enqueue(link.Recheck{})
			n.enqueue(dht.TrustChanged{})
			if a.Descriptor {
				n.enqueue(link.Roots{List: g.trust.Roots()})
				n.descriptorChanged()
			}
		}
	}
}

// sendBody sends a link message to a peer.
func (n *Node) sendBody(to nodeid.ID, t wire.Type, body []byte) {
	var buf [wire.MaxMessage]byte
	message := append(append(buf[:0], byte(t)), body...)
	if len(message) > wire.MaxMessage {
		n.counters.TooLong++
		return
	}
	n.enqueue(link.Send{ID: to, Purpose: session.LinkPurpose, Message: n.memory.keep(message)})
}

// messageGrid takes a link message that only a node of a grid knows.
func (n *Node) messageGrid(from nodeid.ID, t wire.Type, body []byte) bool {
	if n.grid == nil {
		return false
	}
	switch t {
	case wire.TypeGossip, wire.TypeFetch, wire.TypePiece:
		n.enqueue(gossip.Received{From: from, Type: t, Body: n.memory.keep(body)})
	case wire.TypeTwin:
		n.twin(body)
	case wire.TypeGreet, wire.TypeStopped:
		n.enqueue(flooded{from, t, append([]byte(nil), body...)})
	default:
		return false
	}
	return true
}

// heard reads the versions in a ping's tail. Most say what is known, and cost
// no more than this comparison.
func (n *Node) heard(from nodeid.ID, ping []byte) {
	g := n.grid
	m, err := wire.ParsePing(ping)
	if err != nil || len(m.Tail) == 0 {
		return // the ring counts what is malformed
	}
	v, err := wire.ParseVersions(m.Tail)
	if err != nil {
		n.counters.Malformed++
		return
	}
	n.ran(from, m.Tail[wire.VersionsSize:])
	if same := v == g.gossip.Versions(); same && !g.differs[from] {
		return
	} else if same {
		delete(g.differs, from)
	} else if _, ok := n.peers[from]; ok {
		g.differs[from] = true
	}
	n.enqueue(gossip.Heard{From: from, Versions: v})
}

// upGrid and downGrid say that a link session to a peer stands, or no more.
func (n *Node) upGrid(id nodeid.ID, v wire.Versions) {
	n.enqueue(gossip.PeerUp{ID: id, Versions: v})
	n.askStopped(id)
}

func (n *Node) downGrid(id nodeid.ID) {
	delete(n.grid.differs, id)
	n.enqueue(gossip.PeerDown{ID: id})
}
