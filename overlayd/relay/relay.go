// Package relay carries datagrams between two peers that cannot reach each
// other, within budgets.
//
//	A ──ask B──> relay               A ══ channel 3 ══> relay ══ channel 7 ══> B
//	A <─answer 3─ relay ──new A, 7──> B     the mark of each hop is checked and made
//	                                        by the link sessions' keys: package session
//
// A channel is a number of one link, given by the relay, odd if its ID is the
// lower one and else even, because the other end may be a relay on the same
// link; a pair of channels joins two links. Both links are established sessions, so both ends have
// proven who they are, and the bytes are counted to the sender's holder: all
// nodes of one holder share its budget. What a relay carries it can neither
// read nor change.
//
// Budgets: a holder whose node is of this node's namespace is not limited; for
// others it is what the holder's certificate says, 100 Mbit/s unless told
// otherwise, and together at most 400.
//
// Invariants: nothing is forwarded without a channel, none is made without two
// links, and the tables have constant bounds: 64 channels of a link, 4,096 in
// all. Forward allocates nothing.
//
// Concurrency: Machine is not safe for concurrent use.
//
// Sources: TRUST.md "Relays, records, abuse"; research/overlay.md §3.2 (6).
package relay

import (
	"time"

	"golang.org/x/time/rate"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Implementation.
const (
	maxPerLink  = 64   // channels
	maxChannels = 4096 // of all links: two of each pair
	burst       = 250 * time.Millisecond
	totalMbit   = 400 // for all other namespaces together
	idle        = 5 * time.Minute
	askEvery    = 100 * time.Millisecond // of one link, on average
	askBurst    = 32
)

// Config is what a machine is made of.
type Config struct {
	ID        nodeid.ID // of this node
	Namespace string    // of this node: what its own peers send is unlimited
}

// Event is what happened. The set is closed.
type Event interface{ event() }

type (
	// LinkUp says that there is a direct link session with a node that its
	// certificate says these things of.
	LinkUp struct {
		ID        nodeid.ID
		Holder    wire.Holder
		Namespace string
		Mbit      int // of its holder's quota, for other namespaces
	}

	// LinkDown says that it is gone.
	LinkDown struct{ ID nodeid.ID }

	// Message is a peer's wire.Relay with the operation ask or close.
	Message struct {
		From nodeid.ID
		wire.Relay
	}

	// Carried says that datagrams of a channel of Unlimited were carried since
	// the last time, by somebody else than Forward.
	Carried struct {
		From             nodeid.ID
		Channel          uint16
		Datagrams, Bytes uint64
	}

	// Tick is the event for NextDeadline.
	Tick struct{}
)

func (LinkUp) event()   {}
func (LinkDown) event() {}
func (Message) event()  {}
func (Carried) event()  {}
func (Tick) event()     {}

// Send is the only action: a message for a peer's link session.
type Send struct {
	To nodeid.ID
	wire.Relay
}

// Counters counts what happened since the machine was made.
type Counters struct {
	Channels, Refused, Closed uint64
	Datagrams, Bytes          uint64 // forwarded
	NoChannel, OverBudget     uint64 // datagrams dropped
}

// link is one peer's end.
type link struct {
	LinkUp
	channels map[uint16]*channel
	last     uint16 // number given last
	asks     *rate.Limiter
}

// channel is one end's number, and the other end.
type channel struct {
	number uint16
	owner  *link
	other  *channel
	used   time.Time
}

// Machine is what one node relays.
type Machine struct {
	cfg      Config
	links    map[nodeid.ID]*link
	order    []*channel // pairs by the age of their making: the first end of each
	budgets  map[wire.Holder]*rate.Limiter
	holders  []wire.Holder // of budgets, by age
	total    *rate.Limiter
	counters Counters
	changes  uint64
	actions  []Send
}

// New returns a machine that relays nothing yet.
func New(cfg Config) *Machine {
	return &Machine{cfg: cfg, links: map[nodeid.ID]*link{}, budgets: map[wire.Holder]*rate.Limiter{}, total: rate.NewLimiter(bits(totalMbit))}
}

// Handle takes one event and returns what to send; the slice is reused by the
// next call.
func (m *Machine) Handle(now time.Time, e Event) []Send {
	m.actions = m.actions[:0]
	switch e := e.(type) {
	case LinkUp:
		if l := m.links[e.ID]; l != nil {
			l.LinkUp = e // a new certificate
			m.changes++
			return nil
		}
		last := uint16(0)
		if m.cfg.ID.Compare(e.ID) < 0 {
			last = 0xffff // the next is 1
		}
		m.links[e.ID] = &link{LinkUp: e, last: last, channels: map[uint16]*channel{}, asks: rate.NewLimiter(rate.Every(askEvery), askBurst)}
	case LinkDown:
		m.linkDown(e.ID)
	case Message:
		m.message(now, e)
	case Carried:
		if l := m.links[e.From]; l != nil && l.channels[e.Channel] != nil {
			l.channels[e.Channel].used = now
			m.counters.Datagrams += e.Datagrams
			m.counters.Bytes += e.Bytes
		}
	case Tick:
		m.expire(now)
	}
	return m.actions
}

// Pair is one direction of two channels: what comes from a peer on a channel
// goes out to another.
type Pair struct {
	From    nodeid.ID
	Channel uint16
	To      nodeid.ID
	Out     uint16
}

// Unlimited returns the directions that need no budget. Whoever carries their
// datagrams by itself says so by Carried.
func (m *Machine) Unlimited() (pairs []Pair) {
	for _, a := range m.order {
		for _, c := range []*channel{a, a.other} {
			if c.owner.Namespace == m.cfg.Namespace {
				pairs = append(pairs, Pair{c.owner.ID, c.number, c.other.owner.ID, c.other.number})
			}
		}
	}
	return pairs
}

// Changes counts what may have changed what Unlimited returns.
func (m *Machine) Changes() uint64 { return m.changes }

// NextDeadline is when Tick is due; zero: never.
func (m *Machine) NextDeadline() time.Time {
	var next time.Time
	for _, c := range m.order {
		if t := c.lastUse().Add(idle); next.IsZero() || t.Before(next) {
			next = t
		}
	}
	return next
}

// Counters returns what happened so far.
func (m *Machine) Counters() Counters { return m.counters }

// Channels returns how many pairs of channels there are.
func (m *Machine) Channels() int { return len(m.order) }

func (m *Machine) send(to nodeid.ID, op wire.RelayOp, channel uint16, peer nodeid.ID) {
	m.actions = append(m.actions, Send{to, wire.Relay{Op: op, Channel: channel, Peer: peer}})
}

func (m *Machine) message(now time.Time, e Message) {
	from := m.links[e.From]
	if from == nil {
		return
	}
	switch e.Op {
	case wire.RelayAsk:
		m.ask(now, from, e.Peer)
	case wire.RelayClose:
		if c := from.channels[e.Channel]; c != nil {
			m.send(c.other.owner.ID, wire.RelayClose, c.other.number, from.ID)
			m.remove(c)
		}
	}
}

// ask gives a channel to a peer of ours; the same one when there is one.
func (m *Machine) ask(now time.Time, from *link, peer nodeid.ID) {
	if !from.asks.AllowN(now, 1) {
		m.counters.Refused++
		return // not even an answer: it asks too often
	}
	to := m.links[peer]
	if c := from.to(peer); c != nil {
		m.send(from.ID, wire.RelayAnswer, c.number, peer)
		m.send(peer, wire.RelayNew, c.other.number, from.ID)
		return
	}
	if to == nil || to == from || len(from.channels) >= maxPerLink || len(to.channels) >= maxPerLink || 2*len(m.order) >= maxChannels {
		m.counters.Refused++
		m.send(from.ID, wire.RelayAnswer, 0, peer)
		return
	}
	a, b := from.add(now), to.add(now)
	a.other, b.other = b, a
	m.order = append(m.order, a)
	m.counters.Channels++
	m.changes++
	m.send(from.ID, wire.RelayAnswer, a.number, peer)
	m.send(peer, wire.RelayNew, b.number, from.ID)
}

// to returns the channel to a peer, or nil.
func (l *link) to(peer nodeid.ID) *channel {
	for _, c := range l.channels {
		if c.other.owner.ID == peer {
			return c // there is one at most
		}
	}
	return nil
}

// add makes an end with a number that is not in use.
func (l *link) add(now time.Time) *channel {
	for {
		if l.last += 2; l.last != 0 && l.channels[l.last] == nil {
			c := &channel{number: l.last, owner: l, used: now}
			l.channels[l.last] = c
			return c
		}
	}
}

func (c *channel) lastUse() time.Time {
	if c.other.used.After(c.used) {
		return c.other.used
	}
	return c.used
}

func (m *Machine) remove(c *channel) {
	delete(c.owner.channels, c.number)
	delete(c.other.owner.channels, c.other.number)
	kept := m.order[:0]
	for _, x := range m.order {
		if x != c && x != c.other {
			kept = append(kept, x)
		}
	}
	m.order = kept
	m.counters.Closed++
	m.changes++
}

// linkDown closes what a peer had, and tells the other ends.
func (m *Machine) linkDown(id nodeid.ID) {
	l := m.links[id]
	if l == nil {
		return
	}
	delete(m.links, id)
	for _, c := range append([]*channel{}, m.order...) {
		switch l {
		case c.owner:
			m.send(c.other.owner.ID, wire.RelayClose, c.other.number, id)
			m.remove(c)
		case c.other.owner:
			m.send(c.owner.ID, wire.RelayClose, c.number, id)
			m.remove(c)
		}
	}
}

// expire closes what has carried nothing for five minutes.
func (m *Machine) expire(now time.Time) {
	for _, c := range append([]*channel{}, m.order...) {
		if now.Sub(c.lastUse()) >= idle {
			m.send(c.owner.ID, wire.RelayClose, c.number, c.other.owner.ID)
			m.send(c.other.owner.ID, wire.RelayClose, c.other.number, c.owner.ID)
			m.remove(c)
		}
	}
}

// Forward says where a datagram of so many bytes, whose mark was right, goes:
// to which peer and which of its channels. It allocates nothing but a holder's
// first budget. What is not forwarded is counted.
func (m *Machine) Forward(now time.Time, from nodeid.ID, channel uint16, size int) (to nodeid.ID, out uint16, ok bool) {
	l := m.links[from]
	if l == nil || l.channels[channel] == nil {
		m.counters.NoChannel++
		return nodeid.ID{}, 0, false
	}
	c := l.channels[channel]
	if l.Namespace != m.cfg.Namespace {
		if !m.budget(now, l).AllowN(now, 8*size) || !m.total.AllowN(now, 8*size) {
			m.counters.OverBudget++
			return nodeid.ID{}, 0, false
		}
	}
	c.used = now
	m.counters.Datagrams++
	m.counters.Bytes += uint64(size)
	return c.other.owner.ID, c.other.number, true
}

// budget is that of a link's holder, as large as the certificate says now.
func (m *Machine) budget(now time.Time, l *link) *rate.Limiter {
	limit, burst := bits(l.Mbit)
	b := m.budgets[l.Holder]
	if b == nil {
		if len(m.holders) == maxChannels {
			delete(m.budgets, m.holders[0])
			m.holders = append(m.holders[:0], m.holders[1:]...)
		}
		b = rate.NewLimiter(limit, burst)
		m.budgets[l.Holder] = b
		m.holders = append(m.holders, l.Holder)
	}
	if b.Limit() != limit {
		b.SetLimitAt(now, limit)
		b.SetBurstAt(now, burst)
	}
	return b
}

// bits are what so many Mbit/s are a second, and in one burst.
func bits(mbit int) (rate.Limit, int) {
	perSecond := float64(mbit) * 1e6
	return rate.Limit(perSecond), int(perSecond * burst.Seconds())
}
