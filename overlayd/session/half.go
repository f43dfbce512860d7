package session

import (
	"slices"
	"time"
)

// half is a handshake that a peer began and that has been answered.
type half struct {
	index, remote uint32
	from          Via
	e             [ephemeral]byte
	served        served
	noise         Handshake
	proven        bool // the peer receives at from: it had a cookie
	answer        [][]byte
	resent        int
	in            pieces
	end           time.Time
}

// hello answers a HELLO: with nothing, a cookie or an ANSWER.
func (m *Machine) hello(now time.Time, d Datagram) {
	h, drop, ok := parseHello(d.Data, d.From.limit())
	if !ok {
		m.drop(drop)
		return
	}
	served, ok := m.served[h.tag]
	if !ok {
		m.drop(DropGrid)
		return
	}
	var e [ephemeral]byte
	copy(e[:], h.noise)
	if known := m.byHello[e]; known != nil {
		m.again(known)
		return
	}
	if m.cookies.rotate(now, m.cfg.Random) != nil {
		m.drop(DropBusy)
		return
	}
	proven := h.cookie != [cookieSize]byte{} && m.cookies.valid(h.cookie, d.From, e[:])
	p := m.answerTo(&h, served)
	long := answerSize(&p) > d.From.limit() || h.noise[ephemeral+16] == 1
	if !proven && (long || len(m.halves) >= freeHalfOpen) {
		m.drop(DropCookie)
		m.counters.Cookies++
		m.send(d.From, appendCookie(nil, h.sender, m.cookies.make(0, d.From, e[:])))
		return
	}
	if !m.tokens.AllowN(now, 1) {
		m.drop(DropBusy)
		return
	}
	m.makeRoom(d.From)
	x := &half{index: m.newIndex(), remote: h.sender, from: d.From, e: e, served: served, proven: proven, end: now.Add(halfOpenLife)}
	if !m.compose(x, &h, &p) {
		m.drop(DropNoise)
		return
	}
	m.halves = append(m.halves, x)
	m.byIndex[x.index] = owner{half: x}
	m.byHello[e] = x
	m.stale = true
	m.counters.Answers++
	for _, data := range x.answer {
		m.send(x.from, slices.Clone(data))
	}
}

// answerTo is the payload for whoever sent a HELLO: certificates that it says
// it has are named by hash.
func (m *Machine) answerTo(h *hello, s served) payload {
	var salt, tag [8]byte
	copy(salt[:], h.noise[ephemeral:])
	copy(tag[:], h.noise[ephemeral+8:])
	var has [32]byte
	if tag != [8]byte{} {
		for _, hash := range [][32]byte{m.own.all, m.own.above} {
			if known(s.prologue, salt, hash) == tag {
				has = hash
			}
		}
	}
	p := m.own.payload(has, m.offer)
	if m.cfg.AES {
		p.choice = 1
	}
	return p
}

// compose does the public-key work of an ANSWER.
func (m *Machine) compose(x *half, h *hello, p *payload) bool {
	noise, err := m.cfg.Crypto.Handshake(false, x.served.prologue, m.cfg.Static, m.cfg.Random)
	if err != nil {
		return false
	}
	if _, _, _, err = noise.ReadMessage(nil, h.noise); err != nil {
		return false
	}
	message, _, _, err := noise.WriteMessage(nil, p.append(nil))
	if err != nil {
		return false
	}
	x.noise = noise
	x.answer = cut(typeAnswer, x.remote, x.index, message, x.from.limit())
	return x.answer != nil
}

// again repeats the ANSWER to a HELLO that came again, to where it went first.
func (m *Machine) again(x *half) {
	if x.resent == tries {
		m.drop(DropBusy)
		return
	}
	x.resent++
	for _, data := range x.answer {
		m.send(x.from, slices.Clone(data))
	}
}

// makeRoom forgets the oldest half-open handshakes: of the same source if it
// has too many, of any if all are too many.
func (m *Machine) makeRoom(from Via) {
	same, oldest := 0, (*half)(nil)
	for _, x := range m.halves {
		if x.from.source() == from.source() {
			if same++; oldest == nil {
				oldest = x
			}
		}
	}
	if same >= maxPerSource {
		m.removeHalf(oldest)
	}
	if len(m.halves) >= maxHalfOpen {
		m.removeHalf(m.halves[0])
	}
}

func (m *Machine) removeHalf(x *half) {
	m.held -= x.in.size
	x.in = pieces{}
	m.halves = slices.DeleteFunc(m.halves, func(y *half) bool { return y == x })
	delete(m.byHello, x.e)
	if m.byIndex[x.index].half == x {
		delete(m.byIndex, x.index)
	}
	m.stale = true
}

// finish takes a FINISH: the peer has proven who it is.
func (m *Machine) finish(now time.Time, d Datagram) {
	p, drop, ok := parsePart(d.Data)
	if !ok {
		m.drop(drop)
		return
	}
	o := m.byIndex[p.receiver]
	if o.keys != nil && !o.keys.initiator && p.sender == o.keys.remote {
		if !o.keys.refused {
			m.send(d.From, own(o.keys)) // it came again: our record was lost
		}
		return
	}
	x := o.half
	if x == nil || p.sender != x.remote {
		m.drop(DropIndex)
		return
	}
	if p.parts > 1 && !x.proven {
		m.drop(DropPieces)
		return
	}
	whole := m.collect(&x.in, &p)
	if whole == nil {
		return
	}
	plain, receive, send, err := x.noise.ReadMessage(nil, whole)
	if err != nil {
		m.drop(DropNoise)
		return
	}
	said, who, _ := m.verify(now, plain, x.noise.PeerStatic(), x.served.purpose)
	if who == nil {
		m.removeHalf(x)
		return
	}
	suite := Suite(said.choice)
	if suite != ChaCha20Poly1305 && (suite != AES256GCM || !m.cfg.AES) {
		m.drop(DropPayload)
		m.removeHalf(x)
		return
	}
	k, err := m.newKeys(now, suite, send.UnsafeKey(), receive.UnsafeKey(), x.noise.ChannelBinding())
	m.removeHalf(x)
	if !m.yields(who) {
		m.drop(DropSimultaneous)
		if s := m.byKey[key{who.id, who.purpose}]; err == nil && s != nil && s.static == who.static {
			k.local, k.remote, k.refused = x.index, x.remote, true
			m.openOnly(now, s, k)
		}
		return
	}
	if err != nil || len(m.sessions) >= maxSessions && m.byKey[key{who.id, who.purpose}] == nil {
		m.drop(DropBusy)
		return
	}
	k.local, k.remote = x.index, x.remote
	s := m.establish(who, k, d.From)
	s.shown = m.own.all
	m.send(d.From, own(k))
}

// openOnly lets a session open what the peer has sealed under keys that were
// refused: it has sent records together with its FINISH, before it could know.
func (m *Machine) openOnly(now time.Time, s *Session, k *Keys) {
	m.retire(s.previous)
	s.previous, s.end, m.stale = k, now.Add(KeyOverlap), true
	m.byIndex[k.local] = owner{keys: k, session: s}
}

// yields decides between a peer's finished handshake and our own with it: it
// reports whether the peer's counts, and gives up ours then.
func (m *Machine) yields(who *proof) bool {
	a := m.attemptFor(key{who.id, who.purpose})
	if a == nil {
		return true
	}
	if a.finish != nil && m.cfg.ID.Compare(who.id) < 0 {
		return false
	}
	m.removeAttempt(a)
	if s := a.session; s != nil && s.next == a.keys {
		m.retire(s.next)
		s.next = nil
	}
	return true
}
