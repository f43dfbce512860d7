package bootstrap

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"gridappliance/overlayd/session"
)

// Implementation: tunable at will.
const (
	life        = 75 * time.Second // a place that is not asked for again is lost
	sweepEvery  = 5 * time.Second
	secretLife  = 60 * time.Second // of a cookie's secret; the one before counts too
	enrolPause  = 500 * time.Millisecond
	answerRate  = 20000 // cookies, STUN answers and UNKNOWNs, a second
	answerBurst = 20000

	// DefaultLimit is what is carried in all, in bytes a second: 100 Mbit/s.
	DefaultLimit = 100_000_000 / 8

	setupShare   = 8         // 1/8 of the limit is for handshakes alone
	memberShare  = 4         // of the limit, what one member may send
	memberSetup  = 16 << 10  // bytes a second of handshakes alone, of one member
	burst        = 64 << 10  // bytes, of each member's budgets
	totalBurst   = 256 << 10 // bytes
	maxMembers   = 32768
	maxPerSource = 1024 // members seen at one IPv4 address or IPv6 /48
)

// Drop says why a datagram got no further; Counters counts by it.
type Drop uint8

// Reasons.
const (
	NoDrop            Drop = iota
	DropStrange            // neither STUN nor of this package
	DropMalformed          // of this package, and breaks its format
	DropSTUNMalformed      // begins as STUN, breaks RFC 8489
	DropSTUNOther          // STUN, but no binding request
	DropBusy               // more questions than are answered
	DropTooFast            // a member that enrols again within half a second
	DropFull               // no room for another member, or for one more from that address
	DropForged             // its source is no endpoint of the underlay
	DropStranger           // from somebody who is not enrolled
	DropNobody             // for a handle that nobody of the sender's grid has
	DropMemberBudget       // the member has sent too much
	DropBudget             // all members together have
	drops
)

var dropNames = [drops]string{"", "strange", "malformed", "stun-malformed", "stun-other", "busy", "too-fast", "full", "forged",
	"stranger", "nobody", "member-budget", "budget"}

func (d Drop) String() string { return dropNames[d] }

// Counters counts what happened since the server was made.
type Counters struct {
	Drops                             [drops]uint64
	Enrolled, Left, Cookies, STUN     uint64
	Carried, CarriedBytes, CarrySetup uint64 // CarrySetup: handshake datagrams among Carried
}

// ServerConfig is what a Server is made of.
type ServerConfig struct {
	Limit  int        // bytes a second carried in all; 0: DefaultLimit
	Random io.Reader  // of the cookies' secrets, as crypto/rand
	Rand   *rand.Rand // of handles and choices
}

// Server is a bootstrap. See the package's comment.
type Server struct {
	cfg      ServerConfig
	id       [8]byte
	secrets  [2][32]byte
	renewed  time.Time
	grids    map[Tag]*grid
	byHandle map[Handle]*member
	byPlace  map[place]*member
	sources  map[netip.Addr]int
	answers  *rate.Limiter
	total    *rate.Limiter // bytes, as setup
	setup    *rate.Limiter
	swept    time.Time
	counters Counters
}

// place is what tells members apart: who enrols twice from one socket under
// one tag is one member.
type place struct {
	at  netip.AddrPort
	tag Tag
}

// grid is the members of one tag, who came first first.
type grid struct{ members []*member }

type member struct {
	place
	Contact
	asked       time.Time     // last ENROLL
	bulk, setup *rate.Limiter // bytes
}

// NewServer returns a server without members.
func NewServer(cfg ServerConfig, now time.Time) *Server {
	if cfg.Limit == 0 {
		cfg.Limit = DefaultLimit
	}
	setup := cfg.Limit / setupShare
	s := &Server{cfg: cfg, grids: map[Tag]*grid{}, byHandle: map[Handle]*member{}, byPlace: map[place]*member{}, sources: map[netip.Addr]int{},
		answers: rate.NewLimiter(answerRate, answerBurst), setup: rate.NewLimiter(rate.Limit(setup), totalBurst), total: rate.NewLimiter(rate.Limit(cfg.Limit-setup), totalBurst)}
	s.random(s.id[:])
	s.renewSecret(now)
	s.renewSecret(now)
	s.swept = now
	return s
}

// Counters returns what happened so far.
func (s *Server) Counters() Counters { return s.counters }

// Len returns how many members and grids there are.
func (s *Server) Len() (members, grids int) { return len(s.byPlace), len(s.grids) }

// Handle takes a datagram and returns what to send, or nil. It writes to data,
// and out may lie in it.
func (s *Server) Handle(now time.Time, from netip.AddrPort, data []byte) (to netip.AddrPort, out []byte) {
	if now.Sub(s.swept) >= sweepEvery {
		s.sweep(now)
	}
	to, out, drop := s.handle(now, from, data)
	s.counters.Drops[drop]++
	return to, out
}

func (s *Server) handle(now time.Time, from netip.AddrPort, data []byte) (netip.AddrPort, []byte, Drop) {
	switch {
	case from.Port() == 0 || !from.Addr().IsValid() || from.Addr().IsMulticast():
		return from, nil, DropForged
	case len(data) > 0 && data[0] == typeCarry:
		return s.carry(now, from, data)
	case len(data) > 0 && data[0] == typeEnrol:
		out, drop := s.enrol(now, from, data)
		return from, out, drop
	case IsSTUN(data):
		out, drop := AnswerSTUN(data, from)
		if drop == NoDrop && !s.answers.AllowN(now, 1) {
			return from, nil, DropBusy
		}
		if drop == NoDrop {
			s.counters.STUN++
		}
		return from, out, drop
	}
	return from, nil, DropStrange
}

// enrol answers an ENROLL: by a cookie, or by a place.
func (s *Server) enrol(now time.Time, from netip.AddrPort, data []byte) ([]byte, Drop) {
	e, err := parseEnrol(data)
	if err != nil {
		return nil, DropMalformed
	}
	if !s.cookieValid(from, &e) {
		if !s.answers.AllowN(now, 1) {
			return nil, DropBusy
		}
		s.counters.Cookies++
		c := cookie{e.nonce, s.cookie(0, from, &e)}
		return c.append(nil), NoDrop
	}
	p := place{from, e.tag}
	m := s.byPlace[p]
	switch {
	case m != nil && m.ID != e.id:
		s.remove(m)
		m = nil
	case m != nil && now.Sub(m.asked) < enrolPause:
		return nil, DropTooFast
	}
	if m == nil {
		if len(s.byPlace) >= maxMembers || s.sources[source(from)] >= maxPerSource {
			return nil, DropFull
		}
		m = s.add(now, p, e)
	}
	m.asked = now
	a := enrolled{nonce: e.nonce, handle: m.Handle, life: uint16(life / time.Second), server: s.id, seen: from, contacts: s.contacts(m, int(e.want))}
	if session.VirtualKind(from.Addr()) != session.NotVirtual {
		a.seen = netip.AddrPortFrom(netip.IPv4Unspecified(), 0) // over TCP: not an endpoint that UDP has
	}
	return a.append(make([]byte, 0, EnrolSize)), NoDrop
}

func (s *Server) add(now time.Time, p place, e enrol) *member {
	h := Handle(0)
	for h == 0 || s.byHandle[h] != nil {
		h = Handle(s.cfg.Rand.Uint32())
	}
	m := &member{place: p, Contact: Contact{h, e.id},
		bulk: rate.NewLimiter(rate.Limit(s.cfg.Limit/memberShare), burst), setup: rate.NewLimiter(memberSetup, burst)}
	g := s.grids[p.tag]
	if g == nil {
		g = &grid{}
		s.grids[p.tag] = g
	}
	g.members = append(g.members, m)
	s.byPlace[p], s.byHandle[h] = m, m
	s.sources[source(p.at)]++
	s.counters.Enrolled++
	return m
}

func (s *Server) remove(m *member) {
	delete(s.byPlace, m.place)
	delete(s.byHandle, m.Handle)
	g := s.grids[m.tag]
	g.members = slices.Delete(g.members, slices.Index(g.members, m), slices.Index(g.members, m)+1)
	if len(g.members) == 0 {
		delete(s.grids, m.tag)
	}
	if s.sources[source(m.at)]--; s.sources[source(m.at)] == 0 {
		delete(s.sources, source(m.at))
	}
	s.counters.Left++
}

// sweep forgets who has not asked again.
func (s *Server) sweep(now time.Time) {
	s.swept = now
	if now.Sub(s.renewed) >= secretLife {
		s.renewSecret(now)
	}
	var gone []*member
	for _, m := range s.byPlace {
		if now.Sub(m.asked) >= life {
			gone = append(gone, m)
		}
	}
	for _, m := range gone {
		s.remove(m)
	}
}

// contacts chooses whom a member is told of: a third who came last, because
// who looks for company looks now; a third who came first, whom a flood of
// false members does not displace; the others by chance.
func (s *Server) contacts(m *member, want int) []Contact {
	all := s.grids[m.tag].members
	if want > len(all) {
		want = len(all) // all, and the member itself is passed over
	}
	var list []Contact
	take := func(x *member) {
		if len(list) < want && x.ID != m.ID && !slices.Contains(list, x.Contact) {
			list = append(list, x.Contact)
		}
	}
	third := (want + 2) / 3
	for i := range min(third, len(all)) {
		take(all[len(all)-1-i])
		take(all[i])
	}
	if len(all) <= want {
		for _, x := range all {
			take(x)
		}
	}
	for range 2 * want {
		take(all[s.cfg.Rand.IntN(len(all))])
	}
	return list
}

// carry passes a datagram on, in its own memory.
func (s *Server) carry(now time.Time, from netip.AddrPort, data []byte) (netip.AddrPort, []byte, Drop) {
	h, carried, err := parseCarried(data, typeCarry)
	if err != nil {
		return from, nil, DropMalformed
	}
	to := s.byHandle[h]
	var m *member
	if to != nil {
		m = s.byPlace[place{from, to.tag}]
	}
	if m == nil {
		drop := DropNobody
		if to != nil {
			drop = DropStranger
		}
		if !s.answers.AllowN(now, 1) {
			return from, nil, drop
		}
		putHeader(data, typeUnknown, h)
		return from, data[:Overhead], drop
	}
	size := len(data)
	has := func(l *rate.Limiter) bool { return l.TokensAt(now) >= float64(size) }
	setup := !session.IsData(carried)
	switch {
	case setup && has(m.setup) && s.setup.AllowN(now, size):
		m.setup.AllowN(now, size)
	case !has(m.bulk):
		return from, nil, DropMemberBudget
	case !s.total.AllowN(now, size):
		return from, nil, DropBudget
	default:
		m.bulk.AllowN(now, size)
	}
	s.counters.Carried++
	s.counters.CarriedBytes += uint64(len(data))
	if setup {
		s.counters.CarrySetup++
	}
	putHeader(data, typeCarried, m.Handle)
	return to.at, data, NoDrop
}

func (s *Server) renewSecret(now time.Time) {
	s.secrets[1] = s.secrets[0]
	s.random(s.secrets[0][:])
	s.renewed = now
}

func (s *Server) random(b []byte) {
	if _, err := io.ReadFull(s.cfg.Random, b); err != nil {
		panic("bootstrap: random source: " + err.Error()) // no cookie may be made without it
	}
}

// cookie shows who sends it back that it receives at from.
func (s *Server) cookie(age int, from netip.AddrPort, e *enrol) (c [cookieSize]byte) {
	h := hmac.New(sha256.New, s.secrets[age][:])
	a := from.Addr().As16()
	h.Write(binary.BigEndian.AppendUint16(a[:], from.Port()))
	h.Write(e.tag[:])
	h.Write(e.id[:])
	copy(c[:], h.Sum(nil))
	return c
}

func (s *Server) cookieValid(from netip.AddrPort, e *enrol) bool {
	for age := range s.secrets {
		if c := s.cookie(age, from, e); hmac.Equal(c[:], e.cookie[:]) {
			return true
		}
	}
	return false
}

// source is what members are counted by: an IPv4 address, the /48 that a site
// has of IPv6, or the address that stands for a TCP connection.
func source(e netip.AddrPort) netip.Addr {
	a := e.Addr().Unmap().WithZone("")
	if a.Is4() || session.VirtualKind(a) != session.NotVirtual {
		return a
	}
	p, _ := a.Prefix(48)
	return p.Addr()
}
