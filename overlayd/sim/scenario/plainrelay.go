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

// offer is a peer with a direct session, as told in a call.
type offer struct {
	id nodeid.ID
	at netip.AddrPort // if it answers anybody there; else port 0
}

const offerSize = nodeid.Size + 7

func parseOffers(b []byte) (offers []offer) {
	for ; len(b) >= offerSize && len(offers) < maxOffers; b = b[offerSize:] {
		at, _, ok := parseEndpoint(b[nodeid.Size:])
		if !ok {
			return offers
		}
		offers = append(offers, offer{nodeid.ID(b[:nodeid.Size]), at})
	}
	return offers
}

func (q *plainPeer) isDirect() bool { return q != nil && q.up && q.relay == (nodeid.ID{}) }

// offersTo are half of them the direct peers nearest to a node, which are
// likely its own, and half those that answer anybody.
func (p *plain) offersTo(id nodeid.ID) []offer {
	var all []offer
	for _, q := range p.peers {
		if !q.isDirect() || q.quiet {
			continue
		}
		o := offer{q.contact.ID, netip.AddrPortFrom(netip.IPv4Unspecified(), 0)}
		if q.open {
			o.at = q.endpoint
		}
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b offer) int {
		if c := nodeid.Distance(a.id, id).Compare(nodeid.Distance(b.id, id)); c != 0 {
			return c
		}
		return a.id.Compare(b.id)
	})
	few := all[:min(len(all), maxOffers/2)]
	for _, o := range all[len(few):] {
		if o.at.Port() != 0 && len(few) < maxOffers {
			few = append(few, o)
		}
	}
	return few
}

// takeRelay lets a common peer carry the session; checks go on.
func (p *plain) takeRelay(q *plainPeer) bool {
	relay, ok := p.choose(q)
	if ok {
		q.relay = relay
		p.up(q, 0)
	}
	return ok
}

// choose returns a common peer, by chance but so that both ends agree, and one
// that the ring wants if there is any.
func (p *plain) choose(q *plainPeer) (relay nodeid.ID, ok bool) {
	var pair nodeid.ID
	for i := range pair {
		pair[i] = p.id[i] ^ q.contact.ID[i]
	}
	for _, o := range q.offers {
		r := p.peers[o.id]
		if !r.isDirect() || p.silent(r) {
			continue
		}
		better := !ok || p.peers[relay].quiet && !r.quiet
		if better || p.peers[relay].quiet == r.quiet && nodeid.Distance(o.id, pair).Compare(nodeid.Distance(relay, pair)) < 0 {
			relay, ok = o.id, true
		}
	}
	return relay, ok
}

// reroute goes on without a relay that does not carry a session any more: through
// the one that the peer uses or another common one, else the session is lost.
func (p *plain) reroute(q *plainPeer) {
	lost := q.relay
	for _, o := range append([]offer{{id: q.theirs}}, q.offers...) {
		if r := p.peers[o.id]; o.id != lost && r.isDirect() && r.checked.IsZero() {
			q.relay = o.id
			return
		}
	}
	p.do(link.RouteSession{To: wire.Target{ID: q.contact.ID, Exact: true}, Data: p.letter(kindBye, nil, 0)})
	p.lose(q)
}

// adopt makes relays of a peer neighbours, because there is no common one.
func (p *plain) adopt(q *plainPeer) {
	n := 0
	for _, o := range q.offers {
		if o.at.Port() == 0 || o.id == p.id || n == adopted {
			continue
		}
		n++
		if r := p.peer(o.id, [8]byte{}); !r.up && !r.calling {
			r.hello, r.answered = []netip.AddrPort{o.at}, false
			p.call(r)
		}
	}
}

// sent notes a sending on a direct path.
func (p *plain) sent(q *plainPeer) {
	if q.unheard.IsZero() {
		q.unheard = p.now
	}
}

// hear notes that something came from a peer directly.
func (q *plainPeer) hear() { q.unheard, q.checked = time.Time{}, time.Time{} }

// doubted says that a peer has not answered for a while.
func (p *plain) doubted(q *plainPeer) bool {
	return !q.unheard.IsZero() && p.now.Sub(q.unheard) >= relayAsked
}

// silent says that a peer has not answered checks either.
func (p *plain) silent(q *plainPeer) bool {
	return !q.checked.IsZero() && p.now.Sub(q.checked) >= relaySilent
}

// carry sends under a session through its relay.
//
//	offset size
//	28     16   whom it is for; from the relay: the relay
//	44     1    kind of what is carried
//	45     ...  its body
func (p *plain) carry(q *plainPeer, kind byte, body []byte) {
	r := p.peers[q.relay]
	if !r.isDirect() {
		return
	}
	if p.silent(r) {
		if p.reroute(q); p.peers[q.contact.ID] != q || !q.up {
			return
		}
		r = p.peers[q.relay]
	} else if p.doubted(r) {
		if r.checked.IsZero() {
			r.checked = p.now
		}
		p.do(link.SendDatagram{To: r.endpoint, Data: p.letter(kindCheck, p.stamp(), checkSize)})
	}
	p.sent(r)
	b := append(append(q.contact.ID[:], kind), body...)
	p.do(link.SendDatagram{To: r.endpoint, Data: p.letter(kindCarry, b, 0)})
}

// relayed is a datagram of somebody else's session, or what a relay says. q is
// the sender.
func (p *plain) relayed(q *plainPeer, l letter) {
	if len(l.body) <= nodeid.Size {
		return
	}
	named, rest := nodeid.ID(l.body[:nodeid.Size]), l.body[nodeid.Size:]
	switch l.kind {
	case kindCarry:
		to := p.peers[named]
		if !q.isDirect() {
			return
		}
		if !to.isDirect() {
			p.do(link.SendDatagram{To: q.endpoint, Data: p.letter(kindNoCarry, l.body[:nodeid.Size+1], 0)})
			return
		}
		p.carried++
		q.carried, to.carried = p.now, p.now
		p.do(link.SendDatagram{To: to.endpoint, Data: p.letterOf(l, kindCarried, append(p.id[:], rest...), 0)})
	case kindCarried:
		if r := p.peers[named]; r != nil {
			r.hear()
		}
		if q == nil || !p.peers[named].isDirect() {
			return
		}
		inner := letter{kind: rest[0], id: l.id, holder: l.holder, body: rest[1:]}
		q.theirs = named
		if !q.up && inner.kind == kindData {
			q.relay = named
			p.up(q, 0)
		}
		p.session(q, inner)
	case kindNoCarry:
		if o := p.peers[named]; o != nil && o.up && o.relay == l.id {
			p.reroute(o)
		}
	}
}

// carriedBy are the sessions that go through a relay, in the order of IDs.
func (p *plain) carriedBy(r *plainPeer) (list []*plainPeer) {
	for _, o := range p.peers {
		if o.relay == r.contact.ID {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b *plainPeer) int { return a.contact.ID.Compare(b.contact.ID) })
	return list
}

// hush keeps a session that the ring has given up if it carries others. The
// first contacts of a node that joins are often all that can carry its sessions;
// when it gives them up it has neighbours that can.
func (p *plain) hush(q *plainPeer) bool {
	if !q.isDirect() || q.quiet || p.now.Sub(q.carried) > carryTime && len(p.carriedBy(q)) == 0 {
		return false
	}
	p.send(q, kindHush, nil)
	p.silence(q)
	for _, o := range p.carriedBy(q) {
		p.send(o, kindCall, p.candidates(o))
	}
	return true
}

func (p *plain) silence(q *plainPeer) {
	q.quiet = true
	p.quiet = append(p.quiet, q)
	p.do(link.Down{ID: q.contact.ID, Purpose: session.LinkPurpose})
}

// unlist lets a session be no longer quiet.
func (p *plain) unlist(q *plainPeer) {
	if q.quiet {
		q.quiet = false
		p.quiet = slices.DeleteFunc(p.quiet, func(o *plainPeer) bool { return o == q })
	}
}

// sweep ends quiet sessions that carry nothing any more.
func (p *plain) sweep() {
	for _, q := range slices.Clone(p.quiet) {
		if p.now.Sub(q.carried) > carryTime && len(p.carriedBy(q)) == 0 {
			p.hangUp(q)
		}
	}
}
