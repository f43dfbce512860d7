package link

import (
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// maxLinkChannels bounds the channels of one link.
const maxLinkChannels = 1024

// relayMessage takes what a relay says of channels; false: the message is for
// this node as a relay.
func (m *Machine) relayMessage(now time.Time, relay *peer, body []byte) bool {
	msg, err := wire.ParseRelay(body)
	if err != nil {
		m.counters.Malformed++
		return true
	}
	switch msg.Op {
	case wire.RelayAnswer, wire.RelayNew:
		if msg.Channel == 0 || msg.Peer == m.id {
			return true // refused: another is asked when it is time
		}
		if relay.channels == nil {
			relay.channels = map[uint16]nodeid.ID{}
		}
		if len(relay.channels) >= maxLinkChannels {
			m.counters.NoChannel++
			return true
		}
		relay.channels[msg.Channel] = msg.Peer
		m.need(now, relay)
		m.tryChannel(now, session.Relayed(relay.id, msg.Channel), msg.Peer)
		return true
	case wire.RelayClose:
		if _, ours := relay.channels[msg.Channel]; !ours {
			return false
		}
		delete(relay.channels, msg.Channel)
		m.dropVia(now, func(v session.Via) bool { return v == session.Relayed(relay.id, msg.Channel) })
		return true
	}
	return false
}

// tryChannel checks a new channel for each session with its other end.
func (m *Machine) tryChannel(now time.Time, via session.Via, id nodeid.ID) {
	for _, p := range slices.Clone(m.peers) {
		if p.id == id && p.s != nil && id != via.Node {
			pa := p.path(via)
			m.boundPaths(p)
			m.check(now, p, pa)
		}
	}
}

// need says that a relay's link is to be kept, which is a place on the ring and
// nothing else to whoever decides about it.
func (m *Machine) need(now time.Time, relay *peer) {
	if relay != nil && relay.up && due(now, relay.needed) {
		relay.needed = now.Add(neededEvery)
		m.act(Needed{relay.id})
	}
}

// dropVia forgets paths.
func (m *Machine) dropVia(now time.Time, lost func(session.Via) bool) {
	for _, p := range slices.Clone(m.peers) {
		for _, pa := range slices.Clone(p.paths) {
			if !lost(pa.via) {
				continue
			}
			pa.valid = false
			p.paths = slices.DeleteFunc(p.paths, func(x *path) bool { return x == pa })
			if pa == p.best {
				p.relayAt = now
				m.choose(now, p)
			}
		}
	}
}

// dropRelay forgets everything through a relay whose link is gone.
func (m *Machine) dropRelay(id nodeid.ID) {
	m.dropVia(m.now, func(v session.Via) bool { return v.Channel != 0 && v.Node == id })
}

// closeChannel tells the relay that a channel is not needed any more, if no
// other session uses it.
func (m *Machine) closeChannel(now time.Time, via session.Via) {
	for _, p := range m.peers {
		if p.find(via) != nil {
			return
		}
	}
	relay := m.byKey[key{via.Node, session.LinkPurpose}]
	if relay == nil {
		return
	}
	if peer, ok := relay.channels[via.Channel]; ok {
		delete(relay.channels, via.Channel)
		m.tellRelay(now, relay, wire.Relay{Op: wire.RelayClose, Channel: via.Channel, Peer: peer})
	}
}

func (m *Machine) tellRelay(now time.Time, relay *peer, msg wire.Relay) {
	m.message(now, Send{ID: relay.id, Message: wire.AppendMessage(nil, msg)})
}

// askRelay looks for a common neighbour to carry a peer's records: the one
// with the least sum of both round-trip times. If there is none, a neighbour
// of the peer's is made ours.
func (m *Machine) askRelay(now time.Time, p *peer) {
	if !p.lacksRelay() || !due(now, p.relayAt) {
		return
	}
	p.relayAt = now.Add(relayRetry)
	m.tryDetour(now, p)
	if relay := m.common(p); relay != nil {
		m.counters.Relays++
		m.tellRelay(now, relay, wire.Relay{Op: wire.RelayAsk, Peer: p.id})
		return
	}
	if p.state() == Direct || p.helping > 0 || len(p.helper) >= maxRelayWants {
		return
	}
	for _, offer := range p.remote.Relays {
		if m.isSelf(offer.ID) || offer.ID == p.id || slices.Contains(p.helper, offer.ID) {
			continue
		}
		helper := m.peer(key{offer.ID, session.LinkPurpose})
		if helper == nil {
			return
		}
		helper.helping++
		p.helper = append(p.helper, offer.ID)
		p.relayAt = now.Add(time.Second)
		if helper.s == nil {
			m.open(now, helper, session.Ring(offer.ID, nodeid.ID{}))
		}
		return
	}
}

// remember keeps a virtual endpoint for when nothing better is left.
func (p *peer) remember(via session.Via) {
	if via.Virtual() != session.NotVirtual {
		p.detour = via
	}
}

// tryDetour checks whether a peer can be reached through a bootstrap where both
// have a place, or as it or its link session was before.
func (m *Machine) tryDetour(now time.Time, p *peer) {
	detours := []session.Via{p.detour}
	if l := m.byKey[key{p.id, session.LinkPurpose}]; l != nil {
		detours = append(detours, l.detour)
	}
	for _, own := range m.places {
		for _, its := range p.remote.Places {
			if its.Bootstrap == own.Bootstrap && its != own.Place {
				detours = append(detours, session.Direct(session.VirtualEndpoint(own.Kind, own.Number, its.Handle)))
			}
		}
	}
	for i, via := range detours {
		if !via.IsDirect() || slices.Contains(detours[:i], via) {
			continue
		}
		pa := p.path(via)
		m.boundPaths(p)
		if !pa.valid {
			m.check(now, p, pa)
		}
	}
}

// lacksRelay says that neither a direct path nor a relay's is there that nobody
// doubts.
func (p *peer) lacksRelay() bool {
	if p.s == nil || p.state() == Direct && !p.best.doubted() {
		return false
	}
	return !p.hasRelay()
}

func (p *peer) hasRelay() bool {
	return slices.ContainsFunc(p.paths, func(pa *path) bool { return pa.via.Channel != 0 && pa.valid && !pa.doubted() })
}

// common returns the best common neighbour, or nil, past a relay in doubt. Both
// ends have the same figures, so they choose the same.
func (m *Machine) common(p *peer) *peer {
	var best *peer
	var least time.Duration
	for _, offer := range p.remote.Relays {
		r := m.byKey[key{offer.ID, session.LinkPurpose}]
		if r == nil || r.id == p.id || !r.carries() || r.best.doubted() || p.best.doubted() && p.best.via.Channel != 0 && p.best.via.Node == r.id {
			continue
		}
		sum := r.best.rtt + time.Duration(offer.RTT)*time.Millisecond
		if best == nil || sum < least || sum == least && r.id.Compare(best.id) < 0 {
			best, least = r, sum
		}
	}
	return best
}

// releaseHelpers ends what was wanted for a peer's sake.
func (m *Machine) releaseHelpers(p *peer) {
	for _, id := range p.helper {
		h := m.byKey[key{id, session.LinkPurpose}]
		if h == nil {
			continue
		}
		if h.helping--; h.helping <= 0 && !h.wanted {
			m.unwant(m.now, h.key)
		}
	}
	p.helper = nil
}
