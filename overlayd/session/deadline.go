package session

import (
	"time"
)

// NextDeadline returns when Tick is due; zero: never.
func (m *Machine) NextDeadline() time.Time {
	if !m.stale {
		return m.next
	}
	m.next, m.stale = time.Time{}, false
	for _, a := range m.attempts {
		m.sooner(a.deadline)
	}
	for _, x := range m.halves {
		m.sooner(x.end)
	}
	for _, s := range m.sessions {
		m.sooner(s.renew)
		m.sooner(s.current.born.Add(KeyLife))
		if s.previous != nil {
			m.sooner(s.end)
		}
	}
	if len(m.sessions) > 0 {
		m.sooner(m.watch)
	}
	if m.recheck > 0 {
		m.sooner(m.pause)
	}
	return m.next
}

func (m *Machine) sooner(t time.Time) {
	if m.next.IsZero() || t.Before(m.next) {
		m.next = t
	}
}

// due reports whether a deadline has come.
func due(now, deadline time.Time) bool { return !now.Before(deadline) }

// tick does what is due.
func (m *Machine) tick(now time.Time) {
	m.stale = true
	for _, a := range append([]*attempt{}, m.attempts...) {
		if due(now, a.deadline) {
			m.retry(now, a)
		}
	}
	for len(m.halves) > 0 && due(now, m.halves[0].end) {
		m.removeHalf(m.halves[0])
	}
	for _, s := range append([]*Session{}, m.sessions...) {
		m.age(now, s)
	}
	if due(now, m.watch) {
		m.watch = now.Add(watchEvery)
		for _, s := range append([]*Session{}, m.sessions...) {
			if ended(s, now.Round(0)) {
				m.drop(DropExpired)
				m.close(now, s)
			} else if s.current.worn() {
				s.renew = now // the next tick is at once
			}
		}
	}
	m.verifySome(now)
}

// age renews a session's keys, forgets the previous and ends what was not
// renewed in time.
func (m *Machine) age(now time.Time, s *Session) {
	if s.down {
		return
	}
	if s.previous != nil && due(now, s.end) {
		m.retire(s.previous)
		s.previous = nil
	}
	if s.current == nil || due(now, s.current.born.Add(KeyLife)) {
		m.end(s, KeyExpired)
		return
	}
	if due(now, s.renew) {
		s.renew = now.Add(time.Second) // until there are new keys
		if m.attemptFor(key{s.id, s.purpose}) == nil {
			m.open(now, Open{Peer: s.id, Purpose: s.purpose, Via: s.via})
		}
	}
}

// worn reports whether half of the records of a path have been sealed.
func (k *Keys) worn() bool {
	for i := range k.next {
		if k.next[i].Load() >= maxCount/2 {
			return true
		}
	}
	return k.marks.Load() >= maxCount/2
}

// ended reports whether a certificate of the peer's has come to its end.
func ended(s *Session, wall time.Time) bool {
	return wall.After(s.node.NotAfter) || s.node.Holder != nil && wall.After(s.node.Holder.NotAfter)
}

// verifySome verifies the next peers again after the grid's descriptor or a
// revocation list has changed.
func (m *Machine) verifySome(now time.Time) {
	if m.recheck == 0 || !due(now, m.pause) {
		return
	}
	m.pause, m.stale = now.Add(recheckPause), true
	for range min(m.recheck, recheckBatch) {
		m.recheck--
		s := m.sessions[m.recheck]
		node, err := m.cfg.Crypto.Verify(s.chain, now.Round(0))
		if err != nil {
			why := m.refuse(err)
			m.send(s.via, own(s.current, controlClose))
			m.end(s, why)
			continue
		}
		s.node = node
	}
}
