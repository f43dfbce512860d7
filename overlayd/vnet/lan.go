package vnet

import (
	"net/netip"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

// Implementation: tunable at will.
const (
	askAgain   = 500 * time.Millisecond // while packets wait
	refresh    = time.Minute            // an address in use is looked up again
	idleAfter  = 5 * time.Minute        // without a packet: the session is given up
	wantAgain  = time.Second            // after a session did not come about
	maxHolders = 8192                   // addresses remembered
)

// LAN knows who has which address, and what waits for knowing it.
//
//	         Out or In                 Who                      Up
//	unknown ──────────> asked, waits ─────> known ── Want ──> session ──> Send, Deliver
//	   ^                  │ 3 s             │ 60 s, in use: asked again, still known
//	   └──────────────────┴─────────────────┘ nobody has it any more, or its lease ended
//
// It is pure and for one goroutine. Actions hold until the next Handle; their
// packets are the receiver's.
type LAN struct {
	namespace string
	pool      netip.Prefix
	net6      netip.Prefix
	id        nodeid.ID
	own       []netip.Addr

	holders map[netip.Addr]*holder
	peers   map[nodeid.ID]*peer
	out     Queue[netip.Addr]
	in      Queue[inward]
	now     time.Time // of the event being handled
	due     time.Time // of the next Tick
	actions []Action
}

// inward are packets of a peer whose source is not known to be the peer's.
type inward struct {
	from   nodeid.ID
	source netip.Addr
}

// holder is what is known of who has an address.
type holder struct {
	id     nodeid.ID
	node   *credential.Node // or nil
	known  bool
	barred bool      // what was known counts no more: the node's certificate is refused
	fixed  bool      // by the roster
	until  time.Time // of what is known; zero: no end
	asking bool
	asked  time.Time
	used   time.Time
}

type peer struct {
	up     bool
	room   int // longest packet its path carries
	wanted bool
	again  time.Time // not to want it before
	used   time.Time // last packet
}

// Event is what happened. The set is closed.
type Event interface{ event() }

type (
	// Own is this node's addresses.
	Own struct{ Addresses []netip.Addr }

	// Fixed are the addresses that the roster gives.
	Fixed struct{ Holders map[netip.Addr]nodeid.ID }

	// Out is a packet of this machine's, which LAN owns from now on.
	Out struct{ Packet []byte }

	// In is a packet that a peer has sent, which LAN owns from now on.
	In struct {
		From   nodeid.ID
		Packet []byte
	}

	// Who answers Ask. Node may be nil; a zero Until has no end.
	Who struct {
		Address netip.Addr
		ID      nodeid.ID
		Node    *credential.Node
		Until   time.Time
		Found   bool
	}

	// Up says that there is a session with a peer, or another path to it. Room
	// is the longest packet that the path carries.
	Up struct {
		ID   nodeid.ID
		Room int
	}

	// Down says that there is none, or that a Want was in vain. Barred: what
	// is known of the peer counts no more.
	Down struct {
		ID     nodeid.ID
		Barred bool
	}

	// Active says that the data path has carried packets of a peer.
	Active struct{ ID nodeid.ID }

	// Tick says that NextDeadline has come.
	Tick struct{}
)

func (Own) event()    {}
func (Fixed) event()  {}
func (Out) event()    {}
func (In) event()     {}
func (Who) event()    {}
func (Up) event()     {}
func (Down) event()   {}
func (Active) event() {}
func (Tick) event()   {}

// Action is what is to be done. The set is closed.
type Action interface{ action() }

type (
	// Ask asks who has an address; Who answers.
	Ask struct{ Address netip.Addr }

	// Want asks for a session with a peer, Unwant gives it up.
	Want   struct{ ID nodeid.ID }
	Unwant struct{ ID nodeid.ID }

	// Send sends a packet to a peer with a session.
	Send struct {
		ID     nodeid.ID
		Packet []byte
	}

	// Deliver hands a packet to this machine.
	Deliver struct{ Packet []byte }

	// Changed says that Holdings or who is up has changed.
	Changed struct{}

	// Drop counts packets that went no further.
	Drop struct {
		Why     Reason
		Packets int
	}
)

func (Ask) action()     {}
func (Want) action()    {}
func (Unwant) action()  {}
func (Send) action()    {}
func (Deliver) action() {}
func (Changed) action() {}
func (Drop) action()    {}

// Reason is why a packet went no further: the name of a counter.
type Reason string

// The reasons.
const (
	DropUnknown     Reason = "drop/nobody"      // nobody was found to have the address, or could be reached, in time
	DropFull        Reason = "drop/queue-full"  // more than may wait for one address
	DropOutside     Reason = "drop/outside"     // not an address of the virtual LAN
	DropGroup       Reason = "drop/multicast"   // multicast and broadcast are not carried
	DropForeign     Reason = "drop/source"      // from an address that is not the sender's
	DropDestination Reason = "drop/destination" // for an address that is not this node's
)

// Reasons are all reasons.
func Reasons() []Reason {
	return []Reason{DropUnknown, DropFull, DropOutside, DropGroup, DropForeign, DropDestination}
}

// NewLAN returns the LAN of a namespace as a node sees it.
func NewLAN(namespace string, pool netip.Prefix, id nodeid.ID) *LAN {
	return &LAN{namespace: namespace, pool: pool, net6: Prefix6(namespace), id: id,
		holders: map[netip.Addr]*holder{}, peers: map[nodeid.ID]*peer{}}
}

// Handle takes one event and returns what to do.
func (l *LAN) Handle(now time.Time, e Event) []Action {
	l.now = now
	clear(l.actions)
	l.actions = l.actions[:0]
	switch e := e.(type) {
	case Own:
		l.own = e.Addresses
		l.do(Changed{})
	case Fixed:
		l.fix(e.Holders)
	case Out:
		l.outward(e.Packet)
	case In:
		l.inward(e.From, e.Packet)
	case Who:
		l.who(e)
	case Up:
		l.up(e)
	case Down:
		l.down(e)
	case Active:
		if p := l.peers[e.ID]; p != nil {
			p.used = now
			l.useHolders(e.ID)
		}
	case Tick:
		l.due = time.Time{}
		l.tick()
	}
	l.schedule()
	return l.actions
}

func (l *LAN) do(a Action) { l.actions = append(l.actions, a) }

func (l *LAN) drop(why Reason, packets int) {
	if packets > 0 {
		l.do(Drop{why, packets})
	}
}

// Holdings returns who is known to have which addresses, but those that follow
// from node IDs.
func (l *LAN) Holdings() map[nodeid.ID][]netip.Addr {
	out := map[nodeid.ID][]netip.Addr{}
	for addr, h := range l.holders {
		if h.known && l.valid(h) {
			out[h.id] = append(out[h.id], addr)
		}
	}
	return out
}

// Address returns the IPv4 address that is known to be a peer's, the lowest if
// there are several, or the zero address.
func (l *LAN) Address(id nodeid.ID) (lowest netip.Addr) {
	for addr, h := range l.holders {
		if h.known && h.id == id && addr.Is4() && l.valid(h) && (!lowest.IsValid() || addr.Less(lowest)) {
			lowest = addr
		}
	}
	return lowest
}

// Known returns the node that has an address, as far as is known here; node is
// nil when only its ID is.
func (l *LAN) Known(addr netip.Addr) (id nodeid.ID, node *credential.Node, ok bool) {
	h := l.holders[addr]
	if h == nil || !h.known || !l.valid(h) {
		return id, nil, false
	}
	return h.id, h.node, true
}

// Barred returns the node that had an address until its certificate was
// refused.
func (l *LAN) Barred(addr netip.Addr) (id nodeid.ID, ok bool) {
	h := l.holders[addr]
	if h == nil || !h.barred {
		return id, false
	}
	return h.id, true
}

// AllBarred returns every address whose node is barred, sorted.
func (l *LAN) AllBarred() []netip.Addr {
	var out []netip.Addr
	for addr, h := range l.holders {
		if h.barred {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func (l *LAN) valid(h *holder) bool { return h.until.IsZero() || l.now.Round(0).Before(h.until) }

// fix takes the roster's addresses. What it names no more is looked up again.
func (l *LAN) fix(holders map[netip.Addr]nodeid.ID) {
	for addr, h := range l.holders {
		if h.fixed && holders[addr] != h.id {
			delete(l.holders, addr)
		}
	}
	for addr, id := range holders {
		h := l.holder(addr)
		if h == nil || id == l.id {
			continue
		}
		if !h.known || h.id != id {
			h.node = nil
		}
		h.id, h.known, h.fixed, h.until, h.asking = id, true, true, time.Time{}, false
	}
	l.do(Changed{})
}

// holder returns what is kept of an address, or nil when there is no room.
func (l *LAN) holder(addr netip.Addr) *holder {
	h := l.holders[addr]
	if h == nil && (len(l.holders) < maxHolders || l.makeRoom()) {
		h = &holder{used: l.now}
		l.holders[addr] = h
	}
	return h
}

// makeRoom forgets the address that was used longest ago.
func (l *LAN) makeRoom() bool {
	var oldest netip.Addr
	for addr, h := range l.holders {
		if !h.fixed && (!oldest.IsValid() || h.used.Before(l.holders[oldest].used)) {
			oldest = addr
		}
	}
	delete(l.holders, oldest)
	return oldest.IsValid()
}

// find returns who has an address, and asks if that is not known.
func (l *LAN) find(addr netip.Addr) (nodeid.ID, bool) {
	h := l.holder(addr)
	if h == nil {
		return nodeid.ID{}, false
	}
	h.used = l.now
	if h.known && !l.valid(h) {
		h.known = false
		l.do(Changed{})
	}
	if !h.known || !h.fixed && l.now.Sub(h.asked) >= refresh {
		l.ask(addr, h)
	}
	return h.id, h.known
}

func (l *LAN) ask(addr netip.Addr, h *holder) {
	if h.asking || !h.asked.IsZero() && l.now.Sub(h.asked) < askAgain {
		return
	}
	h.asking, h.asked = true, l.now
	l.do(Ask{addr})
}

// outward sends a packet, or keeps it until that is possible.
func (l *LAN) outward(packet []byte) {
	to, ok := Destination(packet)
	if !ok {
		return
	}
	switch {
	case to.IsMulticast() || to == broadcast(l.pool) || to == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		l.drop(DropGroup, 1)
		return
	case !l.pool.Contains(to) && !l.net6.Contains(to):
		l.drop(DropOutside, 1)
		return
	}
	id, known := l.find(to)
	if known {
		if p := l.peers[id]; p != nil && p.up && len(packet) <= p.room { // past longer ones that wait for another path
			p.used = l.now
			l.do(Send{id, packet})
			return
		}
	}
	if !l.out.Add(l.now, to, packet) {
		l.drop(DropFull, 1)
		return
	}
	if known {
		l.want(id)
	}
}

// broadcast is a network's broadcast address (RFC 919).
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

func (l *LAN) want(id nodeid.ID) {
	p := l.peers[id]
	if p == nil {
		p = &peer{used: l.now}
		l.peers[id] = p
	}
	if p.up || p.wanted || l.now.Before(p.again) {
		return
	}
	p.wanted = true
	l.do(Want{id})
}

// inward delivers a peer's packet if its source is the peer's.
func (l *LAN) inward(from nodeid.ID, packet []byte) {
	source, ok := Source(packet)
	if !ok {
		return
	}
	if to, _ := Destination(packet); !slices.Contains(l.own, to) {
		l.drop(DropDestination, 1)
		return
	}
	if p := l.peers[from]; p != nil {
		p.used = l.now
	}
	if l.net6.Contains(source) {
		if source != Address6(l.namespace, from) {
			l.drop(DropForeign, 1)
			return
		}
		l.do(Deliver{packet})
		return
	}
	if !l.pool.Contains(source) || slices.Contains(l.own, source) {
		l.drop(DropForeign, 1)
		return
	}
	id, known := l.find(source)
	if known && id == from {
		l.do(Deliver{packet})
		return
	}
	h := l.holders[source]
	if h == nil || h.fixed {
		l.drop(DropForeign, 1)
		return
	}
	if !l.in.Add(l.now, inward{from, source}, packet) {
		l.drop(DropFull, 1)
	}
	if known { // it may have another holder since
		l.ask(source, h)
	}
}

// who learns who has an address.
func (l *LAN) who(e Who) {
	h := l.holders[e.Address]
	if h == nil || h.fixed {
		return
	}
	h.asking = false
	before := *h
	h.known = e.Found && (e.Until.IsZero() || l.now.Round(0).Before(e.Until))
	if h.known {
		h.barred = h.barred && h.id == e.ID
		h.id, h.node, h.until = e.ID, e.Node, e.Until
	}
	if h.known != before.known || h.id != before.id {
		l.do(Changed{})
	}
	l.settle(e.Address, h)
	if h.known && l.out.Waits(e.Address) {
		if p := l.peers[h.id]; p != nil && p.up {
			l.flush(e.Address, p)
		} else {
			l.want(h.id)
		}
	}
}

// settle decides on packets that came from an address. Those of the holder go
// on; those of others wait, if who has it is not known, for another answer.
func (l *LAN) settle(addr netip.Addr, h *holder) {
	if !h.known {
		return
	}
	for _, k := range slices.Clone(l.in.order) {
		if k.source != addr {
			continue
		}
		packets := l.in.Take(k)
		if k.from != h.id {
			l.drop(DropForeign, len(packets))
			continue
		}
		for _, p := range packets {
			l.do(Deliver{p})
		}
	}
}

// flush sends what waits for an address, as far as the path carries it.
func (l *LAN) flush(addr netip.Addr, p *peer) {
	h := l.holders[addr]
	for _, packet := range l.out.Take(addr) {
		if len(packet) > p.room {
			l.out.Add(l.now, addr, packet)
			continue
		}
		p.used = l.now
		l.do(Send{h.id, packet})
	}
}

func (l *LAN) up(e Up) {
	for _, h := range l.holders {
		h.barred = h.barred && h.id != e.ID
	}
	p := l.peers[e.ID]
	if p == nil {
		p = &peer{used: l.now}
		l.peers[e.ID] = p
	}
	p.up, p.room = true, e.Room
	l.do(Changed{})
	for _, addr := range slices.Clone(l.out.order) {
		if h := l.holders[addr]; h != nil && h.known && h.id == e.ID {
			l.flush(addr, p)
		}
	}
}

func (l *LAN) down(e Down) {
	p := l.peers[e.ID]
	if p == nil {
		return
	}
	p.up, p.wanted, p.again = false, false, l.now.Add(wantAgain)
	if e.Barred {
		for addr, h := range l.holders {
			if h.id == e.ID && !h.fixed {
				l.holders[addr] = &holder{id: h.id, barred: true, used: h.used}
			}
		}
	}
	l.do(Changed{})
	if !l.awaited(e.ID) {
		delete(l.peers, e.ID)
	}
}

// awaited reports whether packets wait for a peer.
func (l *LAN) awaited(id nodeid.ID) bool {
	return slices.ContainsFunc(l.out.order, func(addr netip.Addr) bool {
		h := l.holders[addr]
		return h != nil && h.known && h.id == id
	})
}

func (l *LAN) useHolders(id nodeid.ID) {
	for addr, h := range l.holders {
		if h.known && h.id == id {
			l.find(addr)
		}
	}
}

// tick drops what waited too long, asks and wants again, and gives up what is
// idle.
func (l *LAN) tick() {
	l.drop(DropUnknown, l.out.Expire(l.now))
	l.drop(DropForeign, l.in.Expire(l.now))
	for _, addr := range l.out.order {
		if id, known := l.find(addr); known {
			l.want(id)
		}
	}
	for _, k := range l.in.order {
		if _, known := l.find(k.source); known {
			l.ask(k.source, l.holders[k.source]) // it may have another holder since
		}
	}
	for id, p := range l.peers {
		switch {
		case l.now.Sub(p.used) < idleAfter:
		case p.up && p.wanted:
			p.wanted = false
			l.do(Unwant{id})
		case !p.up && !l.awaited(id):
			delete(l.peers, id)
		}
	}
}

// NextDeadline is when Tick is due; zero: never.
func (l *LAN) NextDeadline() time.Time { return l.due }

// schedule sets NextDeadline. While packets wait it is soon, whatever else
// happens meanwhile.
func (l *LAN) schedule() {
	pause := idleAfter / 5
	if len(l.out.order) > 0 || len(l.in.order) > 0 {
		pause = askAgain
	} else if len(l.peers) == 0 {
		l.due = time.Time{}
		return
	}
	if d := l.now.Add(pause); l.due.IsZero() || d.Before(l.due) {
		l.due = d
	}
}
