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
	q := p.peer(e.Contact.ID, e.Contact.Holder)
	if q.up {
		p.up(q)
		return
	}
	q.asked, q.via, q.hello = true, e.Over, e.Contact.Endpoints
	p.call(q)
	p.tick()
}

// call begins a call, or begins it anew.
func (p *plain) call(q *plainPeer) {
	if !q.calling {
		q.calling, q.started = true, p.now
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
	for _, q := range slices.Clone(p.calls) {
		if q.calling && !q.due.After(p.now) {
			p.step(q)
		}
	}
	p.reckon()
}

// step is one try of a call.
func (p *plain) step(q *plainPeer) {
	q.try++
	backoff := 100 * time.Millisecond << min(q.try-1, 4)
	switch {
	case q.answered && q.try <= checkTries:
		for _, to := range q.cands {
			p.do(link.SendDatagram{To: to, Data: p.letter(kindCheck, nil, checkSize)})
		}
		q.due = p.now.Add(checkPace)
		if q.try == relayAfter && !q.up {
			p.takeRelay(q)
		}
	case !q.answered && len(q.hello) > 0 && q.try <= helloTries:
		for _, to := range q.hello {
			p.do(link.SendDatagram{To: to, Data: p.letter(kindHello, nil, helloSize)})
		}
		q.due = p.now.Add(backoff)
	case !q.answered && len(q.hello) == 0 && q.try <= callTries:
		p.sendCall(q, kindCall, q.via)
		q.due = p.now.Add(4 * backoff)
	case q.up:
		p.stop(q) // stays with its relay
	default:
		p.forget(q)
		if q.asked {
			p.do(link.Failed{Contact: q.contact, Purpose: session.LinkPurpose, Reason: session.NoAnswer})
		}
	}
}

// takeRelay lets a common peer carry the session; checks go on.
func (p *plain) takeRelay(q *plainPeer) {
	for _, id := range q.mutual {
		if r := p.peers[id]; r != nil && r.up && r.relay == (nodeid.ID{}) {
			q.relay = id
			p.up(q)
			return
		}
	}
}

// sendCall sends candidates and direct peers over the ring.
//
//	offset size
//	28     1    number of candidates n
//	29     7n   candidates
//	...    8m   first bytes of direct peers' IDs
func (p *plain) sendCall(q *plainPeer, kind byte, via nodeid.ID) {
	var cands []netip.AddrPort
	for _, c := range slices.Concat(p.seen, p.local) {
		if !slices.Contains(cands, c) {
			cands = append(cands, c)
		}
	}
	b := []byte{byte(len(cands))}
	for _, c := range cands {
		b = wire.AppendEndpoint(b, c)
	}
	for _, id := range p.directPeers() {
		b = append(b, id[:8]...)
	}
	p.do(link.RouteSession{To: wire.Target{ID: q.contact.ID, Exact: true, Via: via}, Data: p.letter(kind, b, 0)})
}

func (p *plain) directPeers() (ids []nodeid.ID) {
	for id, q := range p.peers {
		if q.up && q.relay == (nodeid.ID{}) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, nodeid.ID.Compare)
	return ids[:min(len(ids), maxMutual)]
}

func parseEndpoint(b []byte) (e netip.AddrPort, rest []byte, ok bool) {
	if len(b) < 7 || b[0] != 4 {
		return e, nil, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[1:5])), binary.BigEndian.Uint16(b[5:])), b[7:], true
}

// called takes a CALL, and answers it, or a CALL-OK.
func (p *plain) called(over nodeid.ID, l letter) {
	if len(l.body) == 0 {
		return
	}
	var cands []netip.AddrPort
	b := l.body[1:]
	for range l.body[0] {
		var c netip.AddrPort
		var ok bool
		if c, b, ok = parseEndpoint(b); !ok {
			return
		}
		cands = append(cands, c)
	}
	var mutual []nodeid.ID
	own := p.directPeers()
	for ; len(b) >= 8; b = b[8:] {
		for _, id := range own {
			if [8]byte(id[:8]) == [8]byte(b[:8]) {
				mutual = append(mutual, id)
			}
		}
	}
	q := p.peer(l.id, l.holder)
	if l.kind == kindCall {
		p.sendCall(q, kindCallOK, over)
	}
	if q.up || q.answered && q.calling {
		return
	}
	q.cands, q.mutual, q.answered = cands, mutual, true
	p.call(q)
	p.tick()
}
