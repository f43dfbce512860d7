package session

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

// attempt is a handshake that this node began.
type attempt struct {
	open     Open
	served   served
	index    uint32
	noise    Handshake
	message  []byte // Noise message 1
	first    []byte // HELLO as sent last
	cookies  int
	in       pieces
	long     bool     // FINISH has several parts
	finish   [][]byte // once ANSWER has come
	keys     *Keys    // with finish
	shown    [32]byte // hash of the chain in it
	session  *Session // with finish
	begun    time.Time
	tried    int
	deadline time.Time
}

// proof is what a handshake has proven about the peer.
type proof struct {
	id      nodeid.ID
	purpose string
	node    *credential.Node
	chain   credential.Chain
	static  [32]byte
	offer   []byte
}

func (m *Machine) attemptFor(k key) *attempt {
	for _, a := range m.attempts {
		if a.session != nil && a.session.id == k.peer && a.session.purpose == k.purpose ||
			a.session == nil && a.open.Peer == k.peer && a.open.Purpose == k.purpose {
			return a
		}
	}
	return nil
}

// open begins a handshake, unless it is begun.
func (m *Machine) open(now time.Time, e Open) {
	if e.Peer != (nodeid.ID{}) {
		if a := m.attemptFor(key{e.Peer, e.Purpose}); a != nil {
			m.redirect(a, e.Via)
			return
		}
	} else if slices.ContainsFunc(m.attempts, func(a *attempt) bool { return a.open.Via == e.Via && a.open.Purpose == e.Purpose }) {
		return
	}
	full := len(m.sessions) >= maxSessions && m.byKey[key{e.Peer, e.Purpose}] == nil
	if len(m.attempts) >= maxAttempts || full {
		m.counters.Failed++
		m.act(Failed{e.Peer, e.Purpose, e.Via, Busy})
		return
	}
	p := Prologue(m.cfg.Roots[0], e.Purpose)
	a := &attempt{open: e, served: served{e.Purpose, p}, index: m.newIndex(), begun: now}
	if err := m.begin(a); err != nil {
		m.counters.Failed++
		m.act(Failed{e.Peer, e.Purpose, e.Via, NoAnswer})
		return
	}
	m.attempts = append(m.attempts, a)
	m.byIndex[a.index] = owner{attempt: a}
	m.counters.Hellos++
	m.resend(now, a)
}

// redirect sends what is repeated over another path from now on.
func (m *Machine) redirect(a *attempt, via Via) {
	if a.open.Via.limit() == via.limit() {
		a.open.Via = via
	}
}

// begin makes the HELLO of an attempt.
func (m *Machine) begin(a *attempt) error {
	noise, err := m.cfg.Crypto.Handshake(true, a.served.prologue, m.cfg.Static, m.cfg.Random)
	if err != nil {
		return err
	}
	a.noise = noise
	size := a.open.Via.limit()
	body := make([]byte, size-helloHead-ephemeral)
	var salt [8]byte
	if _, err := io.ReadFull(m.cfg.Random, salt[:]); err != nil {
		return err
	}
	copy(body, salt[:])
	have, isKnown := m.chains.byHolder[a.open.Holder]
	var peerHas [32]byte
	if s := m.byKey[key{a.open.Peer, a.open.Purpose}]; s != nil {
		have, isKnown, peerHas = s.hash, true, s.shown
	}
	if isKnown {
		tag := known(a.served.prologue, salt, have)
		copy(body[8:], tag[:])
	}
	p := m.own.payload(peerHas, m.offer)
	a.long = finishSize(&p) > size
	if a.long {
		body[16] = 1
	}
	a.message, _, _, err = noise.WriteMessage(nil, body)
	if err == nil && len(a.message) != size-helloHead {
		err = errors.New("first message of a wrong size")
	}
	h := hello{sender: a.index, tag: prologueTag(a.served.prologue), noise: a.message}
	a.first = h.append(make([]byte, 0, size))
	return err
}

const (
	noiseKey = 32
	noiseTag = 16
)

// answerSize and finishSize are how long the datagram is in one part.
func answerSize(p *payload) int {
	return partHead + ephemeral + noiseKey + noiseTag + len(p.append(nil)) + noiseTag
}

func finishSize(p *payload) int {
	return partHead + noiseKey + noiseTag + len(p.append(nil)) + noiseTag
}

// resend sends what an attempt waits for an answer to, and waits twice as long
// as before, but over the ring no less than a way there and back takes.
func (m *Machine) resend(now time.Time, a *attempt) {
	if a.finish == nil {
		m.send(a.open.Via, slices.Clone(a.first))
	}
	for _, d := range a.finish {
		m.send(a.open.Via, slices.Clone(d))
	}
	wait := firstRetry << a.tried
	if !a.open.Via.IsDirect() {
		wait = max(wait, ringRetry)
	}
	a.deadline = now.Add(wait)
	a.tried++
	m.stale = true
}

// retry is called at an attempt's deadline.
func (m *Machine) retry(now time.Time, a *attempt) {
	if a.tried < tries {
		m.counters.Retries++
		m.resend(now, a)
		return
	}
	m.fail(a, NoAnswer)
}

// fail gives an attempt up. Its keys die, and with them a session that has no
// other.
func (m *Machine) fail(a *attempt, why Reason) {
	m.removeAttempt(a)
	m.counters.Failed++
	s := a.session
	if s == nil {
		m.act(Failed{a.open.Peer, a.open.Purpose, a.open.Via, why})
		return
	}
	switch {
	case s.down:
	case s.current == a.keys:
		m.end(s, why)
	case s.next == a.keys:
		m.retire(s.next)
		s.next = nil
	}
}

func (m *Machine) removeAttempt(a *attempt) {
	m.held -= a.in.size
	a.in = pieces{}
	if i := slices.Index(m.attempts, a); i >= 0 {
		m.attempts = slices.Delete(m.attempts, i, i+1)
	}
	if m.byIndex[a.index].attempt == a {
		delete(m.byIndex, a.index)
	}
	m.stale = true
}

// cookie sends the HELLO again with the cookie that the peer asks for.
func (m *Machine) cookie(now time.Time, d Datagram) {
	if len(d.Data) != 8+cookieSize {
		m.drop(DropShort)
		return
	}
	a := m.byIndex[binary.BigEndian.Uint32(d.Data[4:])].attempt
	if a == nil || a.finish != nil || a.cookies == maxCookies {
		m.drop(DropIndex)
		return
	}
	a.cookies++
	copy(a.first[12:helloHead], d.Data[8:])
	m.send(a.open.Via, slices.Clone(a.first))
}

// answer takes the ANSWER of a peer, checks who it is and finishes.
func (m *Machine) answer(now time.Time, d Datagram) {
	p, drop, ok := parsePart(d.Data)
	if !ok {
		m.drop(drop)
		return
	}
	a := m.byIndex[p.receiver].attempt
	if a == nil || a.finish != nil {
		m.drop(DropIndex)
		return
	}
	if p.parts > 1 && a.cookies == 0 {
		m.drop(DropPieces) // nobody sends several without having asked for a cookie
		return
	}
	whole := m.collect(&a.in, &p)
	if whole == nil {
		return
	}
	plain, _, _, err := a.noise.ReadMessage(nil, whole)
	if err != nil {
		m.drop(DropNoise)
		return
	}
	said, who, why := m.verify(now, plain, a.noise.PeerStatic(), a.served.purpose)
	if who == nil {
		m.fail(a, why)
		return
	}
	if a.open.Peer != (nodeid.ID{}) && a.open.Peer != who.id {
		m.drop(DropPeer)
		m.fail(a, WrongPeer)
		return
	}
	m.conclude(now, a, said, who, p.sender, d.From)
}

// conclude makes FINISH and the keys.
func (m *Machine) conclude(now time.Time, a *attempt, said *payload, who *proof, remote uint32, from Via) {
	other := m.attemptFor(key{who.id, who.purpose})
	if other != nil && other != a { // two ways to one node: the first to answer is enough
		if other.finish != nil {
			m.removeAttempt(a)
			return
		}
		m.removeAttempt(other)
	}
	suite := ChaCha20Poly1305
	if said.choice == 1 && m.cfg.AES {
		suite = AES256GCM
	}
	var peerHas [32]byte
	if s := m.byKey[key{who.id, who.purpose}]; s != nil && s.static == who.static {
		peerHas = s.shown
	}
	p := m.own.payload(peerHas, m.offer)
	if finishSize(&p) > a.open.Via.limit() && !a.long {
		m.fail(a, AnswerRefused) // our chain grew since: the next attempt says so first
		return
	}
	p.choice = uint8(suite)
	message, send, receive, err := a.noise.WriteMessage(nil, p.append(nil))
	if err != nil {
		m.fail(a, AnswerRefused)
		return
	}
	k, err := m.newKeys(now, suite, send.UnsafeKey(), receive.UnsafeKey(), a.noise.ChannelBinding())
	if err != nil {
		m.fail(a, AnswerRefused)
		return
	}
	k.local, k.remote, k.initiator = a.index, remote, true
	a.finish = cut(typeFinish, remote, a.index, message, a.open.Via.limit())
	a.shown, a.tried = m.own.all, 0
	a.session = m.establish(who, k, from)
	a.keys = k // after it: a session that this one replaces takes its attempt along
	m.resend(now, a)
	// FINISH goes before anything that Up makes the caller send.
	slices.SortStableFunc(m.actions, func(x, y Action) int { return rank(x) - rank(y) })
}

func rank(a Action) int {
	if _, ok := a.(Send); ok {
		return 0
	}
	return 1
}

func (m *Machine) newKeys(now time.Time, s Suite, send, receive [32]byte, binding []byte) (*Keys, error) {
	k := &Keys{born: now}
	var err error
	if k.seal, k.mark, err = m.cfg.Crypto.recordKeys(s, send, binding); err != nil {
		return nil, err
	}
	k.open, k.check, err = m.cfg.Crypto.recordKeys(s, receive, binding)
	return k, err
}

// collect adds a part, within the bound on unfinished messages, and returns
// the message when it is whole.
func (m *Machine) collect(in *pieces, p *part) []byte {
	before := in.size
	if p.parts > 1 && m.held+len(p.data) > maxPieces {
		m.drop(DropPieces)
		return nil
	}
	whole, ok := in.add(p)
	m.held += in.size - before
	if !ok {
		m.drop(DropPieces)
		return nil
	}
	return whole
}

// verify reads a payload and decides who the peer is.
func (m *Machine) verify(now time.Time, plain, static []byte, purpose string) (*payload, *proof, Reason) {
	p, ok := parsePayload(plain)
	if !ok {
		m.drop(DropPayload)
		return nil, nil, AnswerRefused
	}
	chain, ok := m.chains.complete(&p)
	if !ok {
		m.drop(DropPayload)
		return nil, nil, AnswerRefused
	}
	node, err := m.cfg.Crypto.Verify(chain, now.Round(0))
	if err != nil {
		return nil, nil, m.refuse(err)
	}
	who := &proof{id: nodeid.ID(node.ID), purpose: purpose, node: node, chain: chain, offer: slices.Clone(p.offer)}
	copy(who.static[:], static)
	switch {
	case len(static) != noiseKey || who.static != node.X25519:
		m.drop(DropStatic)
		return nil, nil, Refused
	case purpose != LinkPurpose && node.Namespace != purpose:
		m.drop(DropGrid)
		return nil, nil, Refused
	case who.id == m.cfg.ID:
		m.drop(DropPeer)
		return nil, nil, WrongPeer
	}
	return &p, who, ""
}

// refuse counts why a verifier refused a chain.
func (m *Machine) refuse(err error) Reason {
	m.drop(DropChain)
	switch {
	case errors.Is(err, credential.ErrExpired):
		m.drop(DropExpired)
		return CertExpired
	case errors.Is(err, credential.ErrRevoked):
		m.drop(DropRevoked)
	case errors.Is(err, credential.ErrWrongGrid):
		m.drop(DropWrongGrid)
	}
	return Refused
}
