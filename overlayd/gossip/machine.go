package gossip

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// Implementation: tunable.
const (
	maxPeers   = 256             // twice a bootstrap node's degree
	maxQueue   = 16              // names of a peer's objects that wait
	maxBad     = 256             // objects remembered as refused
	perPeer    = 2               // unfinished objects one peer was the first to offer
	fetchTime  = 8 * time.Second // for one object
	askAgain   = time.Second     // between requests for a peer's list; doubles
	askAtMost  = 32 * time.Second
	pushAgain  = 500 * time.Millisecond // until a peer confirms
	maxPushes  = 8                      // to one peer, of one change
	firstGrade = 2 * time.Second        // a peer whose objects fail is not listened to; doubles
	lastGrade  = 10 * time.Minute

	talkRate, talkBurst   = 32, 64   // messages of a peer per second
	serveRate, serveBurst = 128, 256 // pieces for a peer per second
)

// Machine spreads descriptor and revocation lists.
//
// What it does with a peer:
//
//	          digest differs            list read, nothing to fetch
//	SETTLED ───────────────────► ASKING ───────────────────► SETTLED
//	   ▲                           │ something to fetch
//	   │ all had or refused        ▼         lost or refused
//	   └──────────────────────── FETCHING ──────────────────► PUNISHED
//	                                ▲     2 s, doubling to 10 min │
//	                                └─────────────────────────────┘
type Machine struct {
	cfg      Config
	versions wire.Versions
	objects  []object // what is here, in the order peers are told
	twins    []object // the second of two objects of one version
	recent   []wire.Object
	alarmed  map[slot]uint64
	bad      []piece.ID // the oldest first
	peers    []*peer    // by ID
	fetcher  *piece.Fetcher
	count    Counters
	actions  []Action
}

// peer is the other end of a link session.
type peer struct {
	id       nodeid.ID
	versions wire.Versions
	settled  [8]byte // digest whose objects are all known or refused
	unread   bool    // its list, from page on
	page     uint8
	more     bool // not all of it found room in the queue
	asks     int  // for the page, not answered
	askAt    time.Time
	queue    []wire.Object // to be fetched when there is room

	pushes int // what is still to be sent of the last change
	pushAt time.Time

	grade    time.Duration
	punished time.Time // not listened to before

	talk, serve *rate.Limiter
}

// New returns a machine that knows no peer.
func New(cfg Config) *Machine {
	m := &Machine{
		cfg:     cfg,
		alarmed: map[slot]uint64{},
		fetcher: piece.NewFetcher(piece.Limits{Objects: perPeer * maxPeers, PerSource: perPeer, Time: fetchTime}),
	}
	m.refresh()
	return m
}

// Handle takes one event. The actions are valid until the next call.
func (m *Machine) Handle(now time.Time, e Event) []Action {
	m.actions = m.actions[:0]
	switch e := e.(type) {
	case PeerUp:
		m.peerUp(now, e)
	case PeerDown:
		m.peers = slices.DeleteFunc(m.peers, func(p *peer) bool { return p.id == e.ID })
		m.fetcher.Gone(now, e.ID)
	case Heard:
		if p := m.peer(e.From); p != nil {
			m.heard(now, p, e.Versions)
		} else {
			m.count.Strange++
		}
	case Received:
		if p := m.peer(e.From); p != nil {
			m.received(now, p, e)
		} else {
			m.count.Strange++
		}
	case Publish:
		m.do(Published{m.publish(now, e.Text)})
	}
	m.flush(now)
	return m.actions
}

func (m *Machine) do(a Action) { m.actions = append(m.actions, a) }

func (m *Machine) send(to nodeid.ID, msg wire.Message) {
	m.do(Send{to, msg.Type(), msg.Append(nil)})
}

func (m *Machine) peer(id nodeid.ID) *peer {
	if i, found := m.find(id); found {
		return m.peers[i]
	}
	return nil
}

func (m *Machine) find(id nodeid.ID) (int, bool) {
	return slices.BinarySearchFunc(m.peers, id, func(p *peer, id nodeid.ID) int { return p.id.Compare(id) })
}

func (m *Machine) peerUp(now time.Time, e PeerUp) {
	i, found := m.find(e.ID)
	if !found {
		if len(m.peers) >= maxPeers {
			m.count.Full++
			return
		}
		m.peers = slices.Insert(m.peers, i, &peer{
			id: e.ID, talk: rate.NewLimiter(talkRate, talkBurst), serve: rate.NewLimiter(serveRate, serveBurst), grade: firstGrade,
		})
	}
	m.heard(now, m.peers[i], e.Versions)
}

// heard notes what a peer has, and has its list read if something in it may be
// news.
func (m *Machine) heard(now time.Time, p *peer, v wire.Versions) {
	p.versions = v
	if v.Digest == m.versions.Digest {
		p.pushes, p.unread, p.queue = 0, false, nil
		return
	}
	if v.Digest != p.settled && !p.unread {
		p.unread, p.page = true, 0
	}
}

func (m *Machine) received(now time.Time, p *peer, e Received) {
	if e.Type == wire.TypePiece {
		m.receivedPiece(now, p, e.Body)
		return
	}
	if !p.talk.AllowN(now, 1) {
		m.count.TooFast++
		return
	}
	switch e.Type {
	case wire.TypeGossip:
		g, err := wire.ParseGossip(e.Body)
		if err != nil {
			m.count.Malformed++
			return
		}
		m.receivedGossip(now, p, g)
	case wire.TypeFetch:
		f, err := wire.ParseFetch(e.Body)
		if err != nil {
			m.count.Malformed++
			return
		}
		m.answerFetch(now, p, f)
	default:
		m.count.Malformed++
	}
}

func (m *Machine) receivedGossip(now time.Time, p *peer, g wire.Gossip) {
	m.heard(now, p, g.Versions)
	if g.Flags&wire.GossipConfirm == 0 {
		p.pushes = 0 // it answers, or asks
	}
	if g.Flags&wire.GossipWant != 0 {
		m.send(p.id, m.listPage(g.Page))
		return
	}
	for _, o := range g.Objects {
		m.consider(now, p, o)
	}
	if g.Flags&wire.GossipConfirm != 0 {
		m.send(p.id, wire.Gossip{Versions: m.versions, Pages: m.pages()})
		return // an excerpt of its list, not a page
	}
	if len(g.Objects) == 0 || !p.unread || g.Page != p.page {
		return
	}
	p.askAt, p.asks = now, 0
	if p.page++; p.page < g.Pages && p.page < maxPages {
		return
	}
	p.page = 0
	if p.more { // read it again when the queue is empty
		p.more = false
		return
	}
	p.unread, p.settled = false, g.Versions.Digest
}

// consider queues an object of a peer for fetching if it is news.
func (m *Machine) consider(now time.Time, p *peer, o wire.Object) {
	id := piece.ID{Root: o.Root, Size: int(o.Size)}
	switch {
	case !m.news(o) || slices.Contains(m.bad, id):
	case now.Before(p.punished):
		m.count.Ignored++
		p.settled = [8]byte{}
	case m.fetcher.Fetching(id):
		_ = m.fetcher.Want(now, id, p.id) // one more source
	case slices.Contains(p.queue, o):
	case len(p.queue) < maxQueue:
		p.queue = append(p.queue, o)
		slices.SortStableFunc(p.queue, before)
	default:
		p.more = true
		m.count.Full++
	}
}

func (m *Machine) receivedPiece(now time.Time, p *peer, body []byte) {
	msg, err := wire.ParsePiece(body)
	if err != nil {
		m.count.Malformed++
		return
	}
	outcome, text := m.fetcher.Add(now, p.id, msg)
	switch outcome {
	case piece.Unasked, piece.Twice:
		m.count.Unasked++
	case piece.False:
		m.count.FalsePieces++
		m.punish(now, p)
	case piece.Whole:
		if err := m.accept(now, text); err != nil && !errors.Is(err, credential.ErrConflict) {
			m.count.Refused++
			m.refuse(piece.ID{Root: msg.Root, Size: len(text)})
			m.punish(now, p)
		}
	}
}

// refuse remembers an object that is not to be fetched again.
func (m *Machine) refuse(id piece.ID) {
	if len(m.bad) >= maxBad {
		m.bad = slices.Delete(m.bad, 0, 1)
	}
	m.bad = append(m.bad, id)
}

// punish stops listening to a peer's announcements for a while. Only what it
// announces is ignored: it is served, and told what is new.
func (m *Machine) punish(now time.Time, p *peer) {
	p.punished = now.Add(p.grade)
	p.grade = min(2*p.grade, lastGrade)
	p.queue, p.settled = nil, [8]byte{}
}

// forgive is for when the descriptor has changed: what was refused may be good
// now.
func (m *Machine) forgive() {
	m.bad = m.bad[:0]
	for _, p := range m.peers {
		p.punished, p.grade, p.settled = time.Time{}, firstGrade, [8]byte{}
		p.unread = p.versions.Digest != m.versions.Digest
		p.page = 0
	}
}

func (m *Machine) answerFetch(now time.Time, p *peer, f wire.Fetch) {
	object := m.here(piece.ID{Root: f.Root, Size: int(f.Size)})
	if object == nil {
		m.count.Unknown++
		return
	}
	for _, served := range object.Serve(f) {
		if !p.serve.AllowN(now, 1) {
			m.count.TooFast++
			return
		}
		m.count.Served++
		m.send(p.id, served)
	}
}

// flush sends what is due: pushes, requests for lists and for pieces.
func (m *Machine) flush(now time.Time) {
	for _, p := range m.peers {
		m.fetchQueued(now, p)
		if p.pushes > 0 && !now.Before(p.pushAt) {
			p.pushes--
			p.pushAt = now.Add(pushAgain)
			m.send(p.id, wire.Gossip{Flags: wire.GossipConfirm, Versions: m.versions, Pages: m.pages(), Objects: m.recent})
		}
		if m.mayAsk(p) && !now.Before(p.askAt) && !now.Before(p.punished) {
			p.askAt = now.Add(min(askAgain<<min(p.asks, 5), askAtMost))
			p.asks++
			m.send(p.id, wire.Gossip{Flags: wire.GossipWant, Versions: m.versions, Page: p.page})
		}
	}
	asks, lost := m.fetcher.Due(now)
	for _, a := range asks {
		m.send(a.To, a.Fetch)
	}
	for _, l := range lost {
		m.count.Lost++
		for _, id := range l.Sources {
			if p := m.peer(id); p != nil {
				m.punish(now, p)
			}
		}
	}
}

// mayAsk says whether a peer's list is to be read: not while what it offered
// before is still being fetched.
func (m *Machine) mayAsk(p *peer) bool { return p.unread && len(p.queue) == 0 }

func (m *Machine) fetchQueued(now time.Time, p *peer) {
	for len(p.queue) > 0 {
		o := p.queue[0]
		id := piece.ID{Root: o.Root, Size: int(o.Size)}
		if m.news(o) && !slices.Contains(m.bad, id) {
			if err := m.fetcher.Want(now, id, p.id); err == piece.ErrBusy {
				return
			} else if err != nil {
				m.count.Malformed++
			}
		}
		p.queue = p.queue[1:]
	}
}

// NextDeadline returns when Tick is due, zero for never.
func (m *Machine) NextDeadline() time.Time {
	next := m.fetcher.Next()
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, p := range m.peers {
		if p.pushes > 0 {
			sooner(p.pushAt)
		}
		if m.mayAsk(p) {
			at := p.askAt
			if at.Before(p.punished) {
				at = p.punished
			}
			sooner(at)
		}
	}
	return next
}
