package scenario

import (
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
//	                  after relayAfter rounds a common peer carries the session,
//	                  and checks go on for a while
type plain struct {
	id     nodeid.ID
	holder wire.Holder
	now    time.Time
	peers  map[nodeid.ID]*plainPeer
	calls  []*plainPeer // being called
	next   time.Time    // when the first of them is due
	local  []netip.AddrPort
	seen   []netip.AddrPort // own endpoints as others saw them, newest first
	out    []link.Action
	buf    []byte // what out points at
}

type plainPeer struct {
	contact  wire.Contact // without endpoints
	up       bool
	endpoint netip.AddrPort // of the direct path
	relay    nodeid.ID      // or who carries the session

	calling  bool
	asked    bool // the ring wants to hear of a failure
	answered bool // candidates are known
	via      nodeid.ID
	try      int
	due      time.Time
	started  time.Time
	hello    []netip.AddrPort
	cands    []netip.AddrPort
	mutual   []nodeid.ID // whom both have a direct path to
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
)

const (
	plainHeader = 28   // as long as a record's header and tag
	helloSize   = 1200 // a padded first message, or a chain of certificates
	checkSize   = 64
	helloTries  = 5
	callTries   = 4
	checkTries  = 20
	relayAfter  = 8 // rounds of checks
	maxSeen     = 3
	maxCands    = 8
	maxMutual   = 24
	checkPace   = 50 * time.Millisecond
	firstRTT    = 100 * time.Millisecond // said of a path that was not measured
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
		if q := p.peers[e.ID]; q != nil {
			if q.up {
				p.send(q, kindBye, nil)
				p.do(link.Down{ID: e.ID, Purpose: session.LinkPurpose})
			}
			p.forget(q)
		}
	case link.Send:
		if q := p.peers[e.ID]; q != nil && q.up {
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
	start := len(p.buf)
	p.buf = append(p.buf, kind, 0, 0, 0)
	p.buf = append(p.buf, p.id[:]...)
	p.buf = append(p.buf, p.holder[:]...)
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

// forget drops a peer, and the sessions that it carried.
func (p *plain) forget(q *plainPeer) {
	delete(p.peers, q.contact.ID)
	p.stop(q)
	var lost []*plainPeer
	for _, o := range p.peers {
		if o.relay == q.contact.ID {
			lost = append(lost, o)
		}
	}
	slices.SortFunc(lost, func(a, b *plainPeer) int { return a.contact.ID.Compare(b.contact.ID) })
	for _, o := range lost {
		p.forget(o)
		p.do(link.Down{ID: o.contact.ID, Purpose: session.LinkPurpose})
	}
}

// send takes the path of a session.
func (p *plain) send(q *plainPeer, kind byte, body []byte) {
	if q.relay == (nodeid.ID{}) {
		p.do(link.SendDatagram{To: q.endpoint, Data: p.letter(kind, body, 0)})
		return
	}
	b := p.letter(kind, append(q.relay[:], body...), 0)
	p.do(link.RouteSession{To: wire.Target{ID: q.contact.ID, Exact: true, Via: q.relay}, Data: b})
}

func (q *plainPeer) path() link.State {
	if q.relay == (nodeid.ID{}) {
		return link.Direct
	}
	return link.Relay2
}

// up says that a session stands.
func (p *plain) up(q *plainPeer) {
	q.up = true
	c := q.contact
	if q.endpoint.IsValid() {
		c.Endpoints = []netip.AddrPort{q.endpoint}
	}
	p.do(link.Up{Contact: c, Purpose: session.LinkPurpose, RTT: firstRTT, Path: q.path()})
}

// direct is the proof of a direct path.
func (p *plain) direct(q *plainPeer, from netip.AddrPort) {
	was := q.up
	if was && q.relay == (nodeid.ID{}) {
		return
	}
	q.endpoint, q.relay = from, nodeid.ID{}
	p.stop(q)
	if was {
		p.do(link.PathChanged{ID: q.contact.ID, Purpose: session.LinkPurpose, RTT: firstRTT, Path: link.Direct})
		return
	}
	p.up(q)
}

// observed learns this node's endpoint as a peer saw it.
func (p *plain) observed(body []byte) {
	e, _, ok := parseEndpoint(body)
	if !ok || len(p.seen) > 0 && p.seen[0] == e {
		return
	}
	p.seen = slices.DeleteFunc(p.seen, func(o netip.AddrPort) bool { return o == e })
	p.seen = slices.Insert(p.seen, 0, e)
	p.seen = p.seen[:min(len(p.seen), maxSeen)]
}

// datagram is what came from the underlay.
func (p *plain) datagram(from netip.AddrPort, l letter) {
	q := p.peers[l.id]
	switch l.kind {
	case kindHello:
		q = p.peer(l.id, l.holder)
		p.do(link.SendDatagram{To: from, Data: p.letter(kindHelloOK, wire.AppendEndpoint(nil, from), helloSize)})
		p.direct(q, from)
	case kindHelloOK, kindCheckOK:
		if q != nil {
			p.observed(l.body)
			p.direct(q, from)
		}
	case kindCheck:
		if q != nil {
			p.do(link.SendDatagram{To: from, Data: p.letter(kindCheckOK, wire.AppendEndpoint(nil, from), checkSize)})
			if !slices.Contains(q.cands, from) && len(q.cands) < maxCands {
				q.cands = append(q.cands, from) // peer-reflexive
			}
		}
	case kindData, kindBye:
		if q != nil {
			if !q.up && l.kind == kindData {
				p.direct(q, from)
			}
			p.session(q, l)
		}
	}
}

// session is what came under a session, whatever the path.
func (p *plain) session(q *plainPeer, l letter) {
	if l.kind == kindData {
		p.do(link.Message{From: l.id, Purpose: session.LinkPurpose, Body: l.body})
		return
	}
	p.forget(q)
	if q.up {
		p.do(link.Down{ID: l.id, Purpose: session.LinkPurpose})
	}
}

// routed is what came over the ring: calls, and sessions with the relay in
// front of the message.
func (p *plain) routed(over nodeid.ID, l letter) {
	switch l.kind {
	case kindCall, kindCallOK:
		p.called(over, l)
	case kindData, kindBye:
		q := p.peers[l.id]
		if q == nil || len(l.body) < nodeid.Size {
			return
		}
		relay := nodeid.ID(l.body[:nodeid.Size])
		l.body = l.body[nodeid.Size:]
		if !q.up && l.kind == kindData {
			q.relay = relay
			p.stop(q)
			p.up(q)
		}
		p.session(q, l)
	}
}
