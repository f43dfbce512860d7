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

func (p *plain) open(e link.Want) {
	p.sweep()
	q := p.peer(e.Contact.ID, e.Contact.Holder)
	if q.up && !q.quiet {
		p.up(q, 0)
		return
	}
	if q.calling && q.answered { // it called first
		q.asked = true
		return
	}
	q.asked, q.answered, q.via, q.hello = true, false, e.Over, e.Contact.Endpoints
	if q.quiet {
		q.hello = []netip.AddrPort{q.endpoint}
	}
	p.call(q)
	p.tick()
}

// call begins a call, or begins it anew.
func (p *plain) call(q *plainPeer) {
	if !q.calling {
		q.calling = true
		p.calls = append(p.calls, q)
	}
	q.try, q.due = 0, p.now
	p.reckon()
}

func (p *plain) stop(q *plainPeer) {
	if q.calling {
		q.calling = false
		p.calls = slices.DeleteFunc(p.calls, func(o *plainPeer) bool { return o == q })
	}
	p.reckon()
}

func (p *plain) reckon() {
	p.next = time.Time{}
	for _, q := range p.calls {
		if p.next.IsZero() || q.due.Before(p.next) {
			p.next = q.due
		}
	}
}

// tick goes on with the calls that are due.
func (p *plain) tick() {
	p.due = append(p.due[:0], p.calls...)
	for _, q := range p.due {
		if q.calling && !q.due.After(p.now) {
			p.step(q)
		}
	}
	p.reckon()
}

// step is one try of a call.
func (p *plain) step(q *plainPeer) {
	q.try++
	switch {
	case q.answered && q.try <= checkTries:
		stamp := p.stamp()
		for _, to := range q.cands {
			p.do(link.SendDatagram{To: to, Data: p.letter(kindCheck, stamp, checkSize)})
		}
		wait := checkPace
		for range q.try - checkRounds {
			wait = min(wait*3/2, time.Second)
		}
		q.due = p.now.Add(wait)
		if q.try >= relayAfter && !q.up && !p.takeRelay(q) && q.try == relayAfter && q.asked {
			p.adopt(q)
		}
	case !q.answered && len(q.hello) > 0 && q.try <= helloTries:
		stamp := p.stamp()
		for _, to := range q.hello {
			p.do(link.SendDatagram{To: to, Data: p.letter(kindHello, stamp, helloSize)})
		}
		q.due = p.now.Add(helloWait << min(q.try-1, 3))
	case !q.answered && len(q.hello) == 0 && q.try <= callTries:
		p.sendCall(q, kindCall, q.via)
		q.due = p.now.Add(callWait << (q.try - 1))
	case q.up && !q.quiet:
		p.stop(q) // stays with its relay
	default:
		p.forget(q)
		if q.asked {
			p.do(link.Failed{Contact: q.contact, Purpose: session.LinkPurpose, Reason: session.NoAnswer})
		}
	}
}

// sendCall sends candidates over the ring.
func (p *plain) sendCall(q *plainPeer, kind byte, via nodeid.ID) {
	p.do(link.RouteSession{To: wire.Target{ID: q.contact.ID, Exact: true, Via: via}, Data: p.letter(kind, p.candidates(q), 0)})
}

// candidates are where this node may be reached, and offers of relays.
//
//	offset size
//	28     7    endpoint of the sender's host
//	35     1    number of candidates n
//	36     7n   candidates, as others see the sender
//	...    23   each offer: ID, endpoint if that answers anybody, else 0.0.0.0:0
func (p *plain) candidates(q *plainPeer) []byte {
	host := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if len(p.local) > 0 && !private(p.local[0].Addr()) {
		host = p.local[0]
	}
	b := append(wire.AppendEndpoint(nil, host), byte(len(p.seen)))
	for _, c := range p.seen {
		b = wire.AppendEndpoint(b, c)
	}
	for _, o := range p.offersTo(q.contact.ID) {
		b = wire.AppendEndpoint(append(b, o.id[:]...), o.at)
	}
	return b
}

// private says that an address is behind a translator: it is never checked,
// because nobody here shares one.
func private(a netip.Addr) bool { return a.IsPrivate() || carrier.Contains(a) }

var carrier = netip.MustParsePrefix("100.64.0.0/10")

func parseEndpoint(b []byte) (e netip.AddrPort, rest []byte, ok bool) {
	if len(b) < 7 || b[0] != 4 {
		return e, nil, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[1:5])), binary.BigEndian.Uint16(b[5:])), b[7:], true
}

// parseCandidates reads what candidates made.
func parseCandidates(b []byte) (host netip.AddrPort, cands []netip.AddrPort, offers []offer, ok bool) {
	host, b, ok = parseEndpoint(b)
	if !ok || len(b) == 0 {
		return host, nil, nil, false
	}
	n, b := int(b[0]), b[1:]
	if host.Port() != 0 {
		cands = append(cands, host)
	}
	for range n {
		var c netip.AddrPort
		if c, b, ok = parseEndpoint(b); !ok {
			return host, nil, nil, false
		}
		if !slices.Contains(cands, c) {
			cands = append(cands, c)
		}
	}
	return host, cands, parseOffers(b), true
}

// called takes a CALL, and answers it, or a CALL-OK.
func (p *plain) called(over nodeid.ID, l letter) {
	host, cands, offers, ok := parseCandidates(l.body)
	if !ok {
		return
	}
	q := p.peer(l.id, l.holder)
	if l.kind == kindCall {
		p.sendCall(q, kindCallOK, over)
	}
	if q.up && !q.quiet || q.answered && q.calling {
		return
	}
	q.host, q.cands, q.offers, q.answered = host.Addr(), cands, offers, true
	p.call(q)
	p.tick()
}

// recalled takes a CALL that came in the session.
func (p *plain) recalled(q *plainPeer, l letter) {
	_, _, offers, ok := parseCandidates(l.body)
	if !ok || q.relay == (nodeid.ID{}) {
		return
	}
	q.offers = offers
	if l.kind == kindCall {
		p.send(q, kindCallOK, p.candidates(q))
	}
	if relay, ok := p.choose(q); ok {
		q.relay = relay
	}
}
