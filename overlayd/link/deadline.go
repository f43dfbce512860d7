package link

import (
	"slices"
	"time"

	"gridappliance/overlayd/session"
)

// NextDeadline is when Tick is due; zero: never.
func (m *Machine) NextDeadline() time.Time {
	if !m.stale {
		return m.next
	}
	m.stale = false
	m.next = m.sessions.NextDeadline()
	for _, p := range m.peers {
		if p.s != nil {
			m.peerDeadlines(p)
		}
	}
	if s := m.spray; s != nil {
		m.sooner(s.end)
		if s.wide && s.sent < sprayPorts || !s.wide && s.sent < sprayProbes {
			m.sooner(s.next)
		}
	}
	return m.next
}

func (m *Machine) peerDeadlines(p *peer) {
	direct := p.state() == Direct
	if !direct && p.roundEnd.IsZero() {
		m.sooner(p.nextTry)
	}
	if p.lacksRelay() {
		m.sooner(p.relayAt)
	}
	m.sooner(p.roundEnd)
	for _, pr := range p.pairs {
		m.sooner(pr.next)
	}
	if p.extra > 0 {
		m.sooner(p.extraAt)
	}
	for _, pa := range p.paths {
		switch {
		case !pa.valid:
		case pa.via.IsRing():
			if pa == p.best && !pa.waiting.IsZero() {
				m.sooner(pa.waiting.Add(ringSilent))
			}
		case !pa.waiting.IsZero():
			if pa.probes < 4 {
				m.sooner(pa.waiting.Add(time.Duration(pa.probes+1) * probeEvery))
			}
			m.sooner(pa.waiting.Add(demoteSilent))
		case m.kept(m.now, p):
			m.sooner(pa.heard.Add(keepalive))
		}
		if pa != p.best && pa.valid && !pa.via.IsRing() {
			m.sooner(pa.warm)
		}
	}
	if p.purpose == session.LinkPurpose && !p.alone.IsZero() {
		m.sooner(p.alone.Add(linkGrace))
	}
	if !direct && p.purpose != session.LinkPurpose && m.cfg.Spray && m.spray == nil && !p.indirect.IsZero() && p.sprayed.IsZero() {
		m.sooner(later(p.indirect.Add(sprayAfter), m.now.Add(probeEvery)))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sooner takes a deadline, unless it is none.
func (m *Machine) sooner(t time.Time) {
	if !t.IsZero() && (m.next.IsZero() || t.Before(m.next)) {
		m.next = t
	}
}

// tick does what is due.
func (m *Machine) tick(now time.Time) {
	if d := m.sessions.NextDeadline(); !d.IsZero() && due(now, d) {
		m.session(now, m.sessions.Handle(now, session.Tick{}))
	}
	for _, p := range slices.Clone(m.peers) {
		if m.byKey[p.key] != p || p.s == nil {
			continue
		}
		m.begin(now, p)
		m.punch(now, p)
		m.tend(now, p)
		if p.s == nil || m.byKey[p.key] != p {
			continue
		}
		m.askRelay(now, p)
		m.startSpray(now, p)
	}
	m.goSpray(now)
}
