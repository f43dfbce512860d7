package bootstrap

import (
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Implementation: tunable at will.
const (
	keepPlace   = 25 * time.Second       // less up to a fifth: translators forget after 30 s
	firstRetry  = 500 * time.Millisecond // of an ENROLL without an answer; doubles
	lastRetry   = time.Minute
	lonelyRetry = time.Second     // asked again while nobody else is there; doubles
	lostAfter   = 4               // ENROLLs without an answer
	hurry       = 2 * time.Second // at most so often because of an UNKNOWN
	maxServers  = 64              // as many as a descriptor names
	maxTries    = 3               // cookies that one ENROLL follows
)

// Event is what happened to a Member. The set is closed.
type Event interface{ event() }

// Events.
type (
	// Add says that there may be a bootstrap at an endpoint.
	Add struct{ At netip.AddrPort }

	// Remove says that there is none any more.
	Remove struct{ At netip.AddrPort }

	// Tags says under which tags the node enrols from now on: its grid's root
	// may be replaced while it runs.
	Tags struct{ List []Tag }

	// Want says how many contacts are wanted of each bootstrap; none at first.
	Want struct{ Contacts int }

	// Again says that the way to the bootstraps may be another: the machine
	// has other addresses, or has slept.
	Again struct{}

	// Datagram is one of the underlay for which Ours is true and that is not
	// carried. Data is not kept.
	Datagram struct {
		From netip.AddrPort
		Data []byte
	}

	// Tick is the event for NextDeadline.
	Tick struct{}
)

func (Add) event()      {}
func (Remove) event()   {}
func (Want) event()     {}
func (Tags) event()     {}
func (Again) event()    {}
func (Datagram) event() {}
func (Tick) event()     {}

// Action is what is to be done. The set is closed.
type Action interface{ action() }

// Actions.
type (
	// Send is a datagram for a bootstrap. The receiver owns Data.
	Send struct {
		To   netip.AddrPort
		Data []byte
	}

	// Enrolled says that a bootstrap has answered. Seen is where it sees this
	// node; invalid when the way there is not UDP.
	Enrolled struct {
		At       netip.AddrPort
		Tag      Tag
		Place    wire.Place
		Seen     netip.AddrPort
		Contacts []Contact
	}

	// Lost says that a bootstrap does not answer, or no longer.
	Lost struct{ At netip.AddrPort }
)

func (Send) action()     {}
func (Enrolled) action() {}
func (Lost) action()     {}

// MemberConfig is what a Member is made of.
type MemberConfig struct {
	ID     nodeid.ID
	Tags   []Tag      // of the grid: one, two while its root is replaced
	Random io.Reader  // of nonces, as crypto/rand
	Rand   *rand.Rand // of pauses
}

// Member keeps a place at each bootstrap.
//
//	       Add                cookie, place
//	absent ───> asking ──────────────────────> enrolled ──┐ 20 to 25 s, or an UNKNOWN
//	            │   ^ └ 0.5 s, doubling to 1 min ┐   ^ <──┘
//	            │   └────────────────────────────┘   │
//	            └─ 4 without an answer: Lost ────────┘ asked on, at last once a minute
type Member struct {
	cfg      MemberConfig
	want     int
	places   []*enrolment
	actions  []Action
	counters MemberCounters
}

// MemberCounters counts what happened since the member was made.
type MemberCounters struct {
	Enrols, Answers, Unknowns, Malformed, Unasked uint64
}

// enrolment is one tag at one bootstrap.
type enrolment struct {
	at      netip.AddrPort
	tag     Tag
	nonce   nonce
	cookie  [cookieSize]byte
	follows int // cookies followed since the last answer
	tries   int // ENROLLs since the last answer
	lost    bool
	lonely  int // answers that named nobody
	asked   time.Time
	next    time.Time
}

// NewMember returns a member that knows no bootstrap.
func NewMember(cfg MemberConfig) *Member { return &Member{cfg: cfg} }

// Counters returns what happened so far.
func (m *Member) Counters() MemberCounters { return m.counters }

// NextDeadline is when Tick is due; zero: never.
func (m *Member) NextDeadline() (next time.Time) {
	for _, p := range m.places {
		if next.IsZero() || p.next.Before(next) {
			next = p.next
		}
	}
	return next
}

// Handle takes one event and returns what to do; the slice is reused by the
// next call.
func (m *Member) Handle(now time.Time, e Event) []Action {
	m.actions = m.actions[:0]
	switch e := e.(type) {
	case Add:
		m.add(now, e.At)
	case Remove:
		m.places = slices.DeleteFunc(m.places, func(p *enrolment) bool { return p.at == e.At })
	case Tags:
		m.tags(now, e.List)
	case Want:
		m.want = min(e.Contacts, MaxContacts)
	case Again:
		for _, p := range m.places {
			p.tries, p.next = 0, now
		}
		m.tick(now)
	case Datagram:
		m.datagram(now, e)
	case Tick:
		m.tick(now)
	}
	return m.actions
}

func (m *Member) add(now time.Time, at netip.AddrPort) {
	for _, tag := range m.cfg.Tags {
		known := slices.ContainsFunc(m.places, func(p *enrolment) bool { return p.at == at && p.tag == tag })
		if !known && len(m.places) < maxServers*len(m.cfg.Tags) {
			m.places = append(m.places, &enrolment{at: at, tag: tag, next: now})
		}
	}
	m.tick(now)
}

func (m *Member) tags(now time.Time, tags []Tag) {
	m.cfg.Tags = slices.Clone(tags)
	var at []netip.AddrPort
	for _, p := range m.places {
		if !slices.Contains(at, p.at) {
			at = append(at, p.at)
		}
	}
	m.places = slices.DeleteFunc(m.places, func(p *enrolment) bool { return !slices.Contains(tags, p.tag) })
	for _, a := range at {
		m.add(now, a)
	}
}

func (m *Member) tick(now time.Time) {
	for _, p := range m.places {
		if now.Before(p.next) {
			continue
		}
		if p.tries == lostAfter && !p.lost {
			p.lost = true
			m.actions = append(m.actions, Lost{p.at})
		}
		p.follows = 0
		m.ask(now, p)
		p.next = now.Add(m.jitter(min(lastRetry, firstRetry<<min(p.tries, 10))))
		p.tries++
	}
}

// jitter shortens a pause by up to a fifth.
func (m *Member) jitter(d time.Duration) time.Duration {
	return d - time.Duration(m.cfg.Rand.Int64N(int64(d)/5))
}

func (m *Member) ask(now time.Time, p *enrolment) {
	if _, err := io.ReadFull(m.cfg.Random, p.nonce[:]); err != nil {
		panic("bootstrap: random source: " + err.Error())
	}
	p.asked = now
	m.counters.Enrols++
	e := enrol{uint8(m.want), p.nonce, p.tag, m.cfg.ID, p.cookie}
	m.actions = append(m.actions, Send{p.at, e.append(make([]byte, 0, EnrolSize))})
}

func (m *Member) datagram(now time.Time, d Datagram) {
	var err error
	switch {
	case len(d.Data) == 0:
		err = ErrMalformed
	case d.Data[0] == typeCookie:
		var c cookie
		if c, err = parseCookie(d.Data); err == nil {
			m.cookie(now, d.From, c)
		}
	case d.Data[0] == typeEnrolled:
		var e enrolled
		if e, err = parseEnrolled(d.Data); err == nil {
			m.enrolled(now, d.From, e)
		}
	case d.Data[0] == typeUnknown:
		if _, err = parseUnknown(d.Data); err == nil {
			m.unknown(now, d.From)
		}
	default:
		err = ErrMalformed
	}
	if err != nil {
		m.counters.Malformed++
	}
}

// asked returns the enrolment that an answer belongs to.
func (m *Member) asked(from netip.AddrPort, n nonce) *enrolment {
	for _, p := range m.places {
		if p.at == from && p.nonce == n && !p.asked.IsZero() {
			return p
		}
	}
	m.counters.Unasked++
	return nil
}

func (m *Member) cookie(now time.Time, from netip.AddrPort, c cookie) {
	p := m.asked(from, c.nonce)
	if p == nil || p.follows >= maxTries {
		return
	}
	p.follows++
	p.cookie = c.cookie
	m.ask(now, p)
}

func (m *Member) enrolled(now time.Time, from netip.AddrPort, e enrolled) {
	p := m.asked(from, e.nonce)
	if p == nil {
		return
	}
	m.counters.Answers++
	p.nonce, p.asked = nonce{}, time.Time{} // an answer counts once
	p.tries, p.follows, p.lost = 0, 0, false
	pause := keepPlace
	if m.want > 0 && len(e.contacts) == 0 {
		pause = min(pause, lonelyRetry<<min(p.lonely, 10))
		p.lonely++
	}
	p.next = now.Add(m.jitter(min(pause, time.Duration(e.life)*time.Second/3)))
	a := Enrolled{At: from, Tag: p.tag, Place: wire.Place{Bootstrap: e.server, Handle: uint32(e.handle)}, Contacts: slices.DeleteFunc(e.contacts, func(c Contact) bool { return c.ID == m.cfg.ID })}
	if !e.seen.Addr().IsUnspecified() && e.seen.Port() != 0 {
		a.Seen = e.seen
	}
	m.actions = append(m.actions, a)
}

// unknown hears that a bootstrap knows a handle no longer, or this node: it may
// have been started anew.
func (m *Member) unknown(now time.Time, from netip.AddrPort) {
	m.counters.Unknowns++
	for _, p := range m.places {
		if p.at == from && now.Sub(p.asked) >= hurry && p.next.After(now.Add(hurry)) {
			p.next = now
		}
	}
	m.tick(now)
}
