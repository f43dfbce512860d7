package scenario

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// plain is a stand-in for the layer below the ring: sessions without keys, so
// that one processor can run very many nodes. It calls, punches and relays as
// the real layer does, with about as many datagrams of about the same sizes,
// and believes what a datagram says of its sender.
//
//	offset size
//	0      1    kind
//	1      3    unused
//	4      16   sender
//	20     8    sender's holder
//	28     ...  what the kind says
//
// A peer goes NONE -> calling -> up, direct or through a relay:
//
//	endpoints known   HELLO to each; HELLO-OK is the proof of a path
//	only an ID        CALL over the ring with candidates, CALL-OK back; then
//	                  both send CHECKs to all candidates; CHECK-OK is the proof;
//	                  after relayAfter rounds a common peer carries the session
//	                  (see plainrelay.go), and checks go on for a while
type plain struct {
	id      nodeid.ID
	holder  wire.Holder
	now     time.Time
	peers   map[nodeid.ID]*plainPeer
	calls   []*plainPeer // being called
	due     []*plainPeer // of one tick; reused
	next    time.Time    // when the first call is due
	quiet   []*plainPeer // direct sessions that only carry others
	carried uint64       // datagrams of others
	local   []netip.AddrPort
	seen    []netip.AddrPort // own endpoints as others saw them, newest first
	out     []link.Action
	buf     []byte // what out points at
}

type plainPeer struct {
	contact  wire.Contact // without endpoints
	up       bool
	endpoint netip.AddrPort // of the direct path
	host     netip.Addr     // its own, if that is public
	relay    nodeid.ID      // or who carries the session
	theirs   nodeid.ID      // who carried the last datagram from the peer

	open    bool      // it answers whoever sends to its endpoint
	quiet   bool      // the ring has given the session up; it carries others
	carried time.Time // when it last did
	unheard time.Time // the first sending since something came from it directly
	checked time.Time // the first check since then

	calling  bool
	asked    bool // the ring wants to hear of a failure
	answered bool // candidates are known
	via      nodeid.ID
	try      int
	due      time.Time
	hello    []netip.AddrPort
	cands    []netip.AddrPort
	offers   []offer // whom it has a direct path to
}

const (
	kindHello byte = iota + 0x81
	kindHelloOK
	kindCheck
	kindCheckOK
	kindData
	kindBye
	kindCall
	kindCallOK
	kindCarry   // to a relay
	kindCarried // from it
	kindNoCarry
	kindHush // the ring has given the session up, but not its path
)

const (
	plainHeader = 28   // as long as a record's header and tag
	helloSize   = 1200 // a padded first message, or a chain of certificates
	checkSize   = 64
	helloTries  = 5
	callTries   = 3
	checkTries  = 15 // 5 s
	relayAfter  = 7  // rounds of checks: 325 ms
	maxSeen     = 3
	maxCands    = 8
	maxOffers   = 8
	adopted     = 2 // relays of a peer that are made neighbours, at once
	helloWait   = 250 * time.Millisecond
	callWait    = 400 * time.Millisecond
	checkPace   = 50 * time.Millisecond
	checkRounds = 5                      // at that pace; then intervals grow
	relayAsked  = 400 * time.Millisecond // a relay that was sent something and is silent is checked
	relaySilent = 700 * time.Millisecond // after the first check it is given up
	carryTime   = time.Minute            // after the last datagram that a session carried
)

func newPlain(id nodeid.ID, holder wire.Holder) *plain {
	return &plain{id: id, holder: holder, peers: map[nodeid.ID]*plainPeer{}}
}

// NextDeadline implements core.Links.
func (p *plain) NextDeadline() time.Time { return p.next }

// Handle implements core.Links.
func (p *plain) Handle(now time.Time, e link.Event) []link.Action {
	p.now = now
	clear(p.out)
	p.out, p.buf = p.out[:0], p.buf[:0]
	switch e := e.(type) {
	case link.Addresses:
		p.local = e.Host
	case link.Want:
		p.open(e)
	case link.Unwant:
		if q := p.peers[e.ID]; q != nil && !p.hush(q) {
			p.hangUp(q)
			p.sweep()
		}
	case link.Send:
		if q := p.peers[e.ID]; q != nil && q.up && !q.quiet {
			p.send(q, kindData, e.Message)
		}
	case link.Datagram:
		if h, ok := parsePlain(e.Data); ok && h.id != p.id {
			p.datagram(e.From, h)
		}
	case link.Routed:
		if h, ok := parsePlain(e.Data); ok && h.id != p.id {
			p.routed(e.Over, h)
		}
	case link.Tick:
		p.tick()
	}
	return p.out
}

func (p *plain) do(a link.Action) { p.out = append(p.out, a) }

// letter is a parsed datagram.
type letter struct {
	kind   byte
	id     nodeid.ID
	holder wire.Holder
	body   []byte
}

func parsePlain(b []byte) (letter, bool) {
	if len(b) < plainHeader {
		return letter{}, false
	}
	return letter{kind: b[0], id: nodeid.ID(b[4:20]), holder: wire.Holder(b[20:28]), body: b[plainHeader:]}, true
}

// letter makes a datagram in the buffer.
func (p *plain) letter(kind byte, body []byte, size int) []byte {
	return p.letterOf(letter{id: p.id, holder: p.holder}, kind, body, size)
}

// letterOf makes one in the name of somebody else's.
func (p *plain) letterOf(from letter, kind byte, body []byte, size int) []byte {
	start := len(p.buf)
	p.buf = append(p.buf, kind, 0, 0, 0)
	p.buf = append(p.buf, from.id[:]...)
	p.buf = append(p.buf, from.holder[:]...)
	p.buf = append(p.buf, body...)
	if short := start + size - len(p.buf); short > 0 {
		p.buf = append(p.buf, make([]byte, short)...)
	}
	return p.buf[start:len(p.buf):len(p.buf)]
}

func (p *plain) peer(id nodeid.ID, holder wire.Holder) *plainPeer {
	q := p.peers[id]
	if q == nil {
		q = &plainPeer{contact: wire.Contact{ID: id, Holder: holder}}
		p.peers[id] = q
	}
	return q
}

// hangUp ends a session or a call, and says so to both ends.
func (p *plain) hangUp(q *plainPeer) {
	if q.up {
		p.send(q, kindBye, nil)
	}
	p.lose(q)
}

// lose forgets a peer, and says so if there was a session.
func (p *plain) lose(q *plainPeer) {
	p.forget(q)
	if q.up {
		p.do(link.Down{ID: q.contact.ID, Purpose: session.LinkPurpose})
	}
}

// forget drops a peer, and the sessions that it carried.
func (p *plain) forget(q *plainPeer) {
	delete(p.peers, q.contact.ID)
	p.stop(q)
	p.unlist(q)
	for _, o := range p.carriedBy(q) {
		p.reroute(o)
	}
}

// send takes the path of a session.
func (p *plain) send(q *plainPeer, kind byte, body []byte) {
	if q.relay == (nodeid.ID{}) {
		p.sent(q)
		p.do(link.SendDatagram{To: q.endpoint, Data: p.letter(kind, body, 0)})
		return
	}
	p.carry(q, kind, body)
}

func (q *plainPeer) path() link.State {
	if q.relay == (nodeid.ID{}) {
		return link.Direct
	}
	return link.Relay2
}

// up says that a session stands. A round trip of 0 was not measured.
func (p *plain) up(q *plainPeer, rtt time.Duration) {
	q.up = true
	if q.quiet {
		p.unlist(q)
	}
	c := q.contact
	if q.endpoint.IsValid() {
		c.Endpoints = []netip.AddrPort{q.endpoint}
	}
	p.do(link.Up{Contact: c, Purpose: session.LinkPurpose, RTT: rtt, Path: q.path()})
}

// direct is the proof of a direct path.
func (p *plain) direct(q *plainPeer, from netip.AddrPort, rtt time.Duration) {
	switch relayed := q.relay != (nodeid.ID{}); {
	case !q.up:
		q.endpoint, q.relay = from, nodeid.ID{}
		p.stop(q)
		p.up(q, rtt)
	case relayed:
		q.endpoint, q.relay = from, nodeid.ID{}
		p.stop(q)
		p.do(link.PathChanged{ID: q.contact.ID, Purpose: session.LinkPurpose, RTT: rtt, Path: link.Direct})
	}
}

// observed learns this node's endpoint as a peer saw it, and returns how long
// the answer took.
func (p *plain) observed(body []byte) time.Duration {
	if len(body) < stampSize {
		return 0
	}
	sent := time.Unix(0, int64(binary.BigEndian.Uint64(body)))
	e, _, ok := parseEndpoint(body[stampSize:])
	if ok && (len(p.seen) == 0 || p.seen[0] != e) {
		p.seen = slices.DeleteFunc(p.seen, func(o netip.AddrPort) bool { return o == e })
		p.seen = slices.Insert(p.seen, 0, e)
		p.seen = p.seen[:min(len(p.seen), maxSeen)]
	}
	return p.now.Sub(sent)
}

// stampSize is the length of the time that leads a HELLO, a CHECK and their
// answers.
const stampSize = 8

func (p *plain) stamp() []byte { return binary.BigEndian.AppendUint64(nil, uint64(p.now.UnixNano())) }

// datagram is what came from the underlay.
func (p *plain) datagram(from netip.AddrPort, l letter) {
	q := p.peers[l.id]
	if q != nil {
		q.contact.Holder = l.holder
		if l.kind != kindCarried { // which names whom it is from
			q.hear()
		}
	}
	switch l.kind {
	case kindHello:
		q = p.peer(l.id, l.holder)
		p.answer(from, kindHelloOK, l.body, helloSize)
		p.greet(q, from, 0)
	case kindHelloOK:
		if q != nil {
			q.open = true
			p.greet(q, from, p.observed(l.body))
		}
	case kindCheckOK:
		if q != nil {
			q.open = q.open || from.Addr() == q.host
			p.direct(q, from, p.observed(l.body))
		}
	case kindCheck:
		if q != nil {
			p.answer(from, kindCheckOK, l.body, checkSize)
			if !slices.Contains(q.cands, from) && len(q.cands) < maxCands {
				q.cands = append(q.cands, from) // peer-reflexive
			}
		}
	case kindData, kindBye:
		if q != nil {
			if !q.up && l.kind == kindData {
				p.direct(q, from, 0)
			}
			p.session(q, l)
		}
	case kindHush:
		if q.isDirect() && !q.quiet {
			p.silence(q)
		}
	case kindCarry, kindCarried, kindNoCarry:
		p.relayed(q, l)
	}
}

// greet is a path, and the wish for a session that the ring may have given up.
func (p *plain) greet(q *plainPeer, from netip.AddrPort, rtt time.Duration) {
	if !q.quiet {
		p.direct(q, from, rtt)
		return
	}
	p.stop(q)
	p.up(q, rtt)
}

// answer echoes what a HELLO or CHECK says first, when it was sent, and adds
// the endpoint that it came from.
func (p *plain) answer(from netip.AddrPort, kind byte, body []byte, size int) {
	if len(body) >= stampSize {
		p.do(link.SendDatagram{To: from, Data: p.letter(kind, wire.AppendEndpoint(slices.Clone(body[:stampSize]), from), size)})
	}
}

// session is what came under a session, whatever the path.
func (p *plain) session(q *plainPeer, l letter) {
	switch {
	case l.kind == kindData && !q.quiet:
		p.do(link.Message{From: l.id, Purpose: session.LinkPurpose, Body: l.body})
	case l.kind == kindCall, l.kind == kindCallOK:
		p.recalled(q, l)
	case l.kind == kindBye:
		p.lose(q)
	}
}

// routed is what came over the ring: calls, and that a session is lost.
func (p *plain) routed(over nodeid.ID, l letter) {
	switch q := p.peers[l.id]; {
	case l.kind == kindCall, l.kind == kindCallOK:
		p.called(over, l)
	case l.kind == kindBye && q != nil && q.up && !q.isDirect():
		p.lose(q)
	}
}
