package link

import (
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// spray is the birthday method for a translator that gives every destination
// another port, facing one that does not: the first side sends one check from
// each of 256 sockets, so that its translator has 256 ports open towards the
// other; the other sends at most 1,024 checks to random ports of the first
// side's address, of which each meets an open one with 256 in 65,536: 98 %.
//
// It is the one thing that sends more than 20 checks to an address, so it is
// bound otherwise: only to a peer whose packets, not those of the ring, have
// gone over the ring or a relay for 5 s, one at a time, to one address once in ten minutes whatever
// peers say of it, and only if Config allows.
type spray struct {
	p      *peer
	wide   bool // this side has the sockets
	target netip.AddrPort
	nonce  [8]byte
	began  time.Time
	next   time.Time
	end    time.Time
	sent   int
	ports  map[uint16]bool // sprayed by the other side
}

// mayspray says whether a spray with the peer is due or may be answered.
func (m *Machine) maySpray(now time.Time, p *peer, after time.Duration) bool {
	return m.cfg.Spray && m.spray == nil && p.s != nil && p.state() != Direct &&
		!p.indirect.IsZero() && now.Sub(p.indirect) >= after && now.Sub(p.active) < sprayAfter &&
		(p.sprayed.IsZero() || now.Sub(p.sprayed) >= sprayPause)
}

// startSpray begins on the side with the sockets.
func (m *Machine) startSpray(now time.Time, p *peer) {
	_, mapping := m.own.reflexive()
	if p.purpose == session.LinkPurpose { // the ring is well with a relay
		return
	}
	if mapping != wire.AddressDependent || p.remote.Mapping != wire.EndpointIndependent || !m.maySpray(now, p, sprayAfter) {
		return
	}
	target, ok := m.sprayTarget(now, &p.remote)
	if !ok {
		return
	}
	m.beginSpray(now, p, true, target)
	m.call(now, p, true)
}

// sprayAt is the other side's part.
func (m *Machine) sprayAt(now time.Time, p *peer, c wire.Candidates) {
	if c.Mapping != wire.AddressDependent || !m.maySpray(now, p, sprayAfter/2) {
		m.counters.Budgeted++
		return
	}
	target, ok := m.sprayTarget(now, &c)
	if !ok {
		m.counters.Budgeted++
		return
	}
	m.beginSpray(now, p, false, target)
}

// sprayTarget is the peer's reflexive endpoint, once in ten minutes.
func (m *Machine) sprayTarget(now time.Time, c *wire.Candidates) (netip.AddrPort, bool) {
	for _, x := range c.List {
		if x.Kind != wire.ReflexiveCandidate || m.own.permits(x.Endpoint, c) != "" {
			continue
		}
		s := m.targets.at(now, x.Endpoint.Addr())
		if !s.sprayed.IsZero() && now.Sub(s.sprayed) < sprayPause {
			return netip.AddrPort{}, false
		}
		s.sprayed = now
		return x.Endpoint, true
	}
	return netip.AddrPort{}, false
}

func (m *Machine) beginSpray(now time.Time, p *peer, wide bool, target netip.AddrPort) {
	p.sprayed = now
	m.counters.Sprays++
	m.spray = &spray{p: p, wide: wide, target: target, nonce: m.nonce(), began: now, next: now,
		end: now.Add(sprayProbes*sprayPace + sprayHold), ports: map[uint16]bool{}}
}

// goSpray sends what is due of the spray under way.
func (m *Machine) goSpray(now time.Time) {
	for s := m.spray; s != nil && m.spray == s; {
		if due(now, s.end) {
			m.endSpray(s.p)
			return
		}
		limit := sprayProbes
		if s.wide {
			limit = sprayPorts
		}
		if s.sent == limit || !due(now, s.next) {
			return
		}
		s.sent++
		s.next = s.next.Add(sprayPace)
		via := session.Direct(s.target)
		if s.wide {
			via.Socket = uint16(s.sent)
		} else {
			port := uint16(1024 + m.cfg.Rand.IntN(65536-1024))
			via.Endpoint = netip.AddrPortFrom(s.target.Addr(), port)
			s.ports[port] = true
		}
		m.counters.Checks++
		m.say(now, s.p, &path{id: session.MaxPaths - 1, via: via}, wire.Check{Nonce: s.nonce, To: shown(via)})
	}
}

// sprayed returns when the spray asked what an answer answers.
func (m *Machine) sprayQuestion(p *peer, from session.Via, nonce [8]byte) (time.Time, bool) {
	s := m.spray
	if s == nil || s.p != p || nonce != s.nonce || from.Endpoint.Addr() != s.target.Addr() {
		return time.Time{}, false
	}
	if s.wide {
		return s.began, from.Endpoint == s.target && from.Socket > 0 && int(from.Socket) <= s.sent
	}
	return s.began, from.Socket == 0 && s.ports[from.Endpoint.Port()]
}

// endSpray ends the spray with a peer and closes the sockets no path uses.
func (m *Machine) endSpray(p *peer) {
	if m.spray == nil || m.spray.p != p {
		return
	}
	wide := m.spray.wide
	m.spray = nil
	if !wide {
		return
	}
	var keep []uint16
	for _, q := range m.peers {
		for _, pa := range q.paths {
			if pa.via.Socket != 0 {
				keep = append(keep, pa.via.Socket)
			}
		}
	}
	slices.Sort(keep)
	m.act(CloseSockets{slices.Compact(keep)})
}
