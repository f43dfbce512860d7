package core

import (
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/relay"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/wire"
)

// message takes a link message from a peer.
func (n *Node) message(from nodeid.ID, data []byte) {
	if len(data) == 0 {
		n.counters.Malformed++
		return
	}
	switch t := wire.Type(data[0]); t {
	case wire.TypeRouted:
		m, err := wire.ParseRouted(data[1:])
		if err != nil {
			n.counters.Malformed++
			return
		}
		if n.acknowledge(from, m.Hop) {
			n.carry(&m)
		}
	case wire.TypeReceipt:
		m, err := wire.ParseReceipt(data[1:])
		if err != nil {
			n.counters.Malformed++
			return
		}
		n.receipt(from, m.Hop)
	case wire.TypePing, wire.TypePong, wire.TypeNeighAsk, wire.TypeNeigh, wire.TypeLink, wire.TypeLinkAnswer,
		wire.TypeUnlink, wire.TypeProbeFor, wire.TypeProbeResult, wire.TypeNewcomer:
		n.enqueue(ring.FromLink{ID: from, Data: n.memory.keep(data)})
		if n.grid != nil && (t == wire.TypePing || t == wire.TypePong) {
			n.heard(from, data[1:])
		}
	case wire.TypeRelay:
		m, err := wire.ParseRelay(data[1:])
		if err != nil {
			n.counters.Malformed++
			return
		}
		n.enqueue(relay.Message{From: from, Relay: m})
	default:
		if !n.messageGrid(from, t, data[1:]) {
			n.counters.Unknown++
		}
	}
}

// carry takes a payload one hop on, or to this node.
func (n *Node) carry(m *wire.Routed) {
	came := m.Header
	next, verdict := n.ring.NextHop(&m.Header)
	switch verdict {
	case ring.Forward:
		n.counters.Forwarded++
		n.sendOn(next, m, came, false)
	case ring.Deliver:
		n.deliver(&m.Header, m.Body)
	case ring.Unsure:
		n.wait(m, came)
	case ring.Expired:
		n.counters.Expired++
	case ring.NoRoute:
		n.counters.NoRoute++
		n.refuse(&m.Header, wire.CodeNoRoute)
	case ring.OffRing:
		n.counters.NoRoute++
		n.refuse(&m.Header, wire.CodeOffRing)
	}
}

// refuse tells the source of a payload that it was not delivered.
func (n *Node) refuse(h *wire.Header, code wire.Code) {
	if h.Payload == wire.TypeErr {
		return
	}
	back := wire.Header{Payload: wire.TypeErr, RPC: h.RPC, To: wire.Target{ID: h.Src, Exact: true, Via: h.SrcVia}}
	n.route(&back, wire.Err{Code: code, About: h.Payload}.Append(nil), 0)
}

// route sends a payload of this node's own.
func (n *Node) route(h *wire.Header, body []byte, try int) {
	if len(body) > wire.MaxPayload {
		n.counters.TooLong++
		return
	}
	next, verdict := n.ring.FirstHop(h, try)
	switch verdict {
	case ring.Forward:
		n.sendOwn(next, h, body)
	case ring.Deliver:
		n.deliver(h, body)
	default:
		n.counters.NoRoute++
		if h.Payload != wire.TypeErr {
			n.failed(h, wire.CodeOffRing)
		}
	}
}

// routeSession sends a session's datagram over the ring, but never through that
// session itself, which would send it over the ring. A node to go by is taken
// at its word when there is a direct path to it, and not gone by when it does not
// answer.
func (n *Node) routeSession(to wire.Target, body []byte) {
	if len(body) > wire.MaxCarried {
		n.counters.TooLong++
		return
	}
	if n.peers[to.Via] != nil && n.ring.Doubted(to.Via) {
		to.Via = nodeid.ID{}
	}
	for try := range lookupTries {
		h := wire.Header{Payload: wire.TypeSession, To: to}
		if p := n.peers[to.Via]; p != nil && p.direct {
			h.To = wire.Target{ID: to.Via, Exact: true}
		}
		next, verdict := n.ring.FirstHop(&h, try)
		if verdict != ring.Forward {
			break
		}
		if p := n.peers[next]; next != to.ID || p == nil || !p.over {
			if h.SrcVia == (nodeid.ID{}) && next == to.Via && n.ring.Phase() != ring.OnRing {
				h.SrcVia = next // nobody else finds this node
			}
			h.To = to
			n.sendOwn(next, &h, body)
			return
		}
	}
	n.counters.NoRoute++
}

// failed is a payload of this node's own that did not even leave.
func (n *Node) failed(h *wire.Header, code wire.Code) {
	back := wire.Header{Payload: wire.TypeErr, RPC: h.RPC, Src: n.cfg.ID}
	n.deliver(&back, wire.Err{Code: code, About: h.Payload}.Append(nil))
}

// deliver gives a payload to whoever it is for.
func (n *Node) deliver(h *wire.Header, body []byte) {
	n.counters.Delivered++
	about := h.Payload
	if about == wire.TypeErr {
		e, err := wire.ParseErr(body)
		if err != nil {
			n.counters.Malformed++
			return
		}
		about = e.About
	}
	switch about {
	case wire.TypeFound, wire.TypeFind:
		if h.Payload != wire.TypeFind && n.answered(h, body) || h.Payload == wire.TypeFind && h.Src == n.cfg.ID && n.foundSelf(h.RPC) {
			return
		}
		n.enqueue(ring.Routed{Header: *h, Body: n.memory.keep(body)})
	case wire.TypeJoin, wire.TypeJoinAnswer, wire.TypeMerge:
		n.enqueue(ring.Routed{Header: *h, Body: n.memory.keep(body)})
	case wire.TypeSession:
		if h.Payload == wire.TypeSession {
			n.enqueue(link.Routed{Src: h.Src, Over: h.SrcVia, Data: n.memory.keep(body)})
		}
	default:
		if n.grid != nil && n.deliverGrid(about, h, body) {
			return
		}
		n.counters.Unknown++
		n.refuse(h, wire.CodeUnknown)
	}
}
