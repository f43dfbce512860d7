package session

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/flynn/noise"
	"golang.org/x/time/rate"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

// Config is what a machine is made of.
type Config struct {
	ID         nodeid.ID
	Static     noise.DHKey      // X25519; made anew by every process
	Chain      credential.Chain // node, holder, issuer if there is one; names Static
	Roots      [][32]byte       // key IDs of the grid's roots: HELLOs go under the first, all are served
	Descriptor [32]byte         // hash, for cookies
	Purposes   []string         // served: LinkPurpose and the own namespace
	AES        bool             // AES and carry-less multiplication are in hardware
	Offer      []byte           // see Identity
	Random     io.Reader        // cryptographic; deterministic in simulations
	Crypto     Crypto
	MaxChains  int // holders remembered; 0: 1,024
}

// served is one grid and purpose.
type served struct {
	purpose  string
	prologue []byte
}

// key names a session: two nodes have at most one for each purpose.
type key struct {
	peer    nodeid.ID
	purpose string
}

// Machine holds all handshakes and sessions of a node.
//
//	attempt (ours):    HELLO ─ANSWER─> FINISH ─record─> gone, keys confirmed
//	                     └─5 tries─> Failed   └─5 tries─> keys dead, Down if they were all
//	half open (theirs): ANSWER ─FINISH─> gone, keys
//	                     └─4 s─> gone
//	session:           up ─100 s (the other side 110 s)─> a new attempt, up all the time
//	                     └─120 s without new keys, certificate, Close, Destroy─> Down
//
// Of two handshakes at once the lower node ID's wins: a node that has sent its
// FINISH refuses the other's if its ID is lower, and otherwise gives up its own.
type Machine struct {
	cfg      Config
	own      shown
	offer    []byte
	served   map[[4]byte]served
	cookies  cookies
	chains   chains
	attempts []*attempt // in the order of their beginning, as halves and sessions
	halves   []*half
	sessions []*Session
	byKey    map[key]*Session
	byIndex  map[uint32]owner
	byHello  map[[ephemeral]byte]*half
	tokens   *rate.Limiter
	held     int       // bytes of unfinished messages
	watch    time.Time // next look at the ends of certificates
	recheck  int       // sessions left to verify again; they are the first of sessions
	pause    time.Time // when the next of them are due
	last     time.Time // of the last event
	counters Counters
	actions  []Action
	next     time.Time // earliest deadline, when known
	stale    bool      // it is not
}

// owner is what an index belongs to: one of the three.
type owner struct {
	attempt *attempt
	half    *half
	keys    *Keys
	session *Session // of keys
}

// New returns a machine without sessions. The error says that Random failed or
// Chain is none.
func New(cfg Config, now time.Time) (*Machine, error) {
	if len(cfg.Chain) < 2 || len(cfg.Roots) == 0 || len(cfg.Offer) > maxOffer {
		return nil, fmt.Errorf("session: a chain of %d certificates, %d roots, an offer of %d bytes", len(cfg.Chain), len(cfg.Roots), len(cfg.Offer))
	}
	if cfg.MaxChains == 0 {
		cfg.MaxChains = maxChains
	}
	m := &Machine{
		cfg: cfg, own: newShown(cfg.Chain), offer: cfg.Offer, served: map[[4]byte]served{},
		chains: newChains(cfg.MaxChains), byKey: map[key]*Session{}, byIndex: map[uint32]owner{},
		byHello: map[[ephemeral]byte]*half{}, tokens: rate.NewLimiter(helloRate, helloBurst), stale: true,
		watch: now.Add(watchEvery),
	}
	m.cookies.grid = cfg.Descriptor
	m.serve(cfg.Roots)
	return m, m.cookies.rotate(now, cfg.Random)
}

// serve answers HELLOs for these roots, and no others, from now on.
func (m *Machine) serve(roots [][32]byte) {
	m.cfg.Roots = roots
	clear(m.served)
	for _, root := range roots {
		for _, purpose := range m.cfg.Purposes {
			p := Prologue(root, purpose)
			m.served[prologueTag(p)] = served{purpose, p}
		}
	}
}

// Handle takes one event. The slice is reused by the next call.
func (m *Machine) Handle(now time.Time, e Event) []Action {
	m.actions = m.actions[:0]
	if m.Jumped(now) {
		m.destroy(ClockJump)
	}
	switch e := e.(type) {
	case Open:
		m.open(now, e)
	case Datagram:
		m.datagram(now, e)
	case Identity:
		m.own = newShown(e.Chain)
		m.Offer(e.Offer)
	case Roots:
		if len(e.List) > 0 {
			m.serve(e.List)
		}
	case Recheck:
		m.recheck, m.pause, m.stale = len(m.sessions), now, true
		m.verifySome(now)
	case Close:
		m.close(now, e.Session)
	case Destroy:
		m.destroy(e.Reason)
	case Tick:
		m.tick(now)
	}
	return m.actions
}

// Counters returns what happened so far.
func (m *Machine) Counters() Counters { return m.counters }

// Session returns the session with a peer, or nil.
func (m *Machine) Session(peer nodeid.ID, purpose string) *Session {
	return m.byKey[key{peer, purpose}]
}

// Find returns the keys that a record or relayed datagram names, and their
// session, or nil.
func (m *Machine) Find(index uint32) (*Keys, *Session) {
	o := m.byIndex[index]
	return o.keys, o.session
}

// Offer replaces what the next handshakes say, as Identity does.
func (m *Machine) Offer(offer []byte) {
	if len(offer) <= maxOffer {
		m.offer = offer
	}
}

// Drop counts a datagram that the caller found bad.
func (m *Machine) Drop(d Drop) { m.drop(d) }

// Len returns how many attempts, half-open handshakes and sessions there are.
func (m *Machine) Len() (attempts, halfOpen, sessions int) {
	return len(m.attempts), len(m.halves), len(m.sessions)
}

func (m *Machine) act(a Action) { m.actions = append(m.actions, a) }

func (m *Machine) send(to Via, data []byte) {
	if data != nil {
		m.act(Send{to, data})
	}
}

func (m *Machine) drop(d Drop) { m.counters.Drops[d]++ }

// Jumped reports whether wall clock and monotonic clock disagree about the time
// since it was last called, which Handle does: a suspended or restored machine,
// or a set clock. Without a monotonic reading they always agree. Whoever seals
// without Handle asks first, and sends Destroy.
func (m *Machine) Jumped(now time.Time) bool {
	last := m.last
	m.last = now
	return !last.IsZero() && jumped(now.Round(0).Sub(last.Round(0)), now.Sub(last))
}

// jumped compares what two clocks measured.
func jumped(wall, monotonic time.Duration) bool { return (wall - monotonic).Abs() > maxJump }

// newIndex returns a number that no handshake or keys of this machine have.
func (m *Machine) newIndex() uint32 {
	for {
		var b [4]byte
		if _, err := io.ReadFull(m.cfg.Random, b[:]); err != nil {
			panic("session: random source: " + err.Error()) // no key may be made without it
		}
		i := binary.BigEndian.Uint32(b[:])
		if _, used := m.byIndex[i]; !used && i != 0 {
			return i
		}
	}
}

func (m *Machine) datagram(now time.Time, d Datagram) {
	if len(d.Data) < HeaderSize {
		m.drop(DropShort)
		return
	}
	switch d.Data[0] {
	case typeHello:
		m.hello(now, d)
	case typeCookie:
		m.cookie(now, d)
	case typeAnswer:
		m.answer(now, d)
	case typeFinish:
		m.finish(now, d)
	case typeRecord:
		m.record(now, d)
	default:
		m.drop(DropShort)
	}
}

// record opens a record and notices what its arrival proves.
func (m *Machine) record(now time.Time, d Datagram) {
	index, _ := ParseIndex(d.Data)
	o := m.byIndex[index]
	if o.keys == nil {
		m.drop(DropIndex)
		return
	}
	o.keys.Lock()
	opened, drop, err := o.keys.Open(d.Data)
	o.keys.Unlock()
	if err != nil {
		m.drop(drop)
		return
	}
	m.heard(now, o.session, o.keys, d.From)
	switch {
	case opened.Total > 0 || len(opened.Plain) > 1:
		m.act(Record{o.session, d.From, opened.Path, opened.Index, opened.Total, opened.Plain})
	case len(opened.Plain) == 1 && opened.Plain[0] == controlClose:
		m.end(o.session, PeerClosed)
	default:
		m.act(Record{Session: o.session, From: d.From, Path: opened.Path})
	}
}

func (m *Machine) heard(now time.Time, s *Session, k *Keys, from Via) {
	if k.heard {
		return
	}
	k.heard, m.stale = true, true
	if a := m.attemptFor(key{s.id, s.purpose}); a != nil && a.keys == k {
		s.shown = a.shown
		m.removeAttempt(a)
	}
	if k == s.next {
		m.promote(now, s)
	} else {
		m.act(Rekeyed{s}) // the data path may open under them now
	}
	if k.initiator {
		m.send(from, own(k))
	}
}

// promote makes the next keys current.
func (m *Machine) promote(now time.Time, s *Session) {
	m.retire(s.previous)
	s.previous, s.current, s.next = s.current, s.next, nil
	s.end = now.Add(KeyOverlap)
	m.schedule(s)
	m.counters.Rekeys++
	m.act(Rekeyed{s})
}

// schedule sets when the current keys are to be renewed.
func (m *Machine) schedule(s *Session) {
	after := rekeyResponder
	if s.current.initiator {
		after = rekeyInitiator
	}
	spread := time.Duration(s.current.local%8192) * time.Millisecond // sessions made together do not renew together
	s.renew, m.stale = s.current.born.Add(after-spread), true
}

// retire forgets keys and makes them useless to whoever still holds them.
func (m *Machine) retire(k *Keys) {
	if k != nil {
		k.kill()
		delete(m.byIndex, k.local)
	}
}

// install gives a session new keys.
func (m *Machine) install(s *Session, k *Keys) {
	m.byIndex[k.local] = owner{keys: k, session: s}
	if s.current != nil && s.current.heard && !s.current.dead.Load() {
		m.retire(s.next)
		s.next = k
		return
	}
	rekeyed := s.current != nil
	m.retire(s.current)
	s.current = k
	m.schedule(s)
	if rekeyed {
		m.act(Rekeyed{s})
	}
}

// establish gives keys to the session with a verified peer, which it makes if
// need be.
func (m *Machine) establish(p *proof, k *Keys, via Via) *Session {
	id := key{p.id, p.purpose}
	for _, old := range slices.Clone(m.sessions) {
		if old.id == p.id && old.static != p.static { // another process: it has none of the keys
			m.end(old, Replaced)
		}
	}
	s := m.byKey[id]
	m.chains.add(p.chain, holderOf(p.node))
	if s != nil {
		m.rename(s, p)
		m.install(s, k)
		return s
	}
	s = &Session{machine: m, id: p.id, purpose: p.purpose, static: p.static, via: via}
	m.rename(s, p)
	m.byKey[id] = s
	m.sessions = append(m.sessions, s)
	m.install(s, k)
	m.counters.Ups++
	m.act(Up{s, via, p.offer})
	return s
}

// rename takes over what a peer has just proven.
func (m *Machine) rename(s *Session, p *proof) {
	delete(m.chains.whole, s.hash)
	s.node, s.chain, s.hash = p.node, p.chain, hashOf(p.chain)
	m.chains.whole[s.hash] = s.chain
}

func holderOf(n *credential.Node) (h wireHolder) {
	if n.Holder != nil {
		copy(h[:], n.Holder.Key[:])
	}
	return h
}

func (m *Machine) close(now time.Time, s *Session) {
	if s == nil || s.down {
		return
	}
	if s.current != nil && s.current.Usable(now) {
		m.send(s.via, own(s.current, controlClose))
	}
	m.end(s, Closed)
}

// end makes a session's keys useless and forgets it.
func (m *Machine) end(s *Session, why Reason) {
	if s.down {
		return
	}
	s.down, m.stale = true, true
	if a := m.attemptFor(key{s.id, s.purpose}); a != nil && a.keys != nil {
		m.removeAttempt(a)
	}
	for _, k := range s.Opening() {
		m.retire(k)
	}
	s.current, s.next, s.previous = nil, nil, nil
	delete(m.byKey, key{s.id, s.purpose})
	delete(m.chains.whole, s.hash)
	i := slices.Index(m.sessions, s)
	m.sessions = slices.Delete(m.sessions, i, i+1)
	if i < m.recheck {
		m.recheck--
	}
	m.counters.Downs++
	m.act(Down{s, why})
}

// destroy ends everything without a word.
func (m *Machine) destroy(why Reason) {
	for len(m.sessions) > 0 {
		m.end(m.sessions[0], why)
	}
	for len(m.attempts) > 0 {
		m.fail(m.attempts[0], why)
	}
	for len(m.halves) > 0 {
		m.removeHalf(m.halves[0])
	}
	m.cookies.since = time.Time{} // new secrets before the next cookie
	m.stale = true
}
