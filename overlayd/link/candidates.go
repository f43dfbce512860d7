package link

import (
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// addresses is what this node knows of its own endpoints.
type addresses struct {
	told      Addresses
	observers []observer     // the latest last, one per address observed from
	best      netip.AddrPort // concluded from them
	mapping   wire.Mapping
}

// observer is a peer's word on where this node's datagrams come from.
type observer struct {
	holder wire.Holder
	from   netip.Addr // the peer's own address: the destination of our datagram
	seen   netip.AddrPort
}

func (a *addresses) set(e Addresses) {
	a.told = Addresses{Host: slices.Clone(e.Host), Attached: slices.Clone(e.Attached), Mapped: slices.Clone(e.Mapped),
		Advertised: slices.Clone(e.Advertised), Pools: slices.Clone(e.Pools)}
	a.best, a.mapping = a.conclude()
}

// observe takes a peer's word; true when what is concluded from all has changed.
func (a *addresses) observe(holder wire.Holder, from, seen netip.AddrPort) bool {
	if a.refuses(seen) != "" {
		return false
	}
	before, mapping := a.best, a.mapping
	a.observers = slices.DeleteFunc(a.observers, func(o observer) bool { return o.from == from.Addr() })
	if len(a.observers) == maxObservers {
		a.observers = slices.Delete(a.observers, 0, 1)
	}
	a.observers = append(a.observers, observer{holder, from.Addr(), seen})
	a.best, a.mapping = a.conclude()
	return before != a.best || mapping != a.mapping
}

// reflexive returns the endpoint at which others see this node, and how its
// translator maps.
func (a *addresses) reflexive() (netip.AddrPort, wire.Mapping) { return a.best, a.mapping }

// conclude takes the endpoint that most holders see, the one of before among
// equals, else the latest. What several addresses see alike is an
// endpoint-independent mapping; what two see differently is not.
func (a *addresses) conclude() (netip.AddrPort, wire.Mapping) {
	var best netip.AddrPort
	most, mapping := 0, wire.UnknownMapping
	for i := len(a.observers) - 1; i >= 0; i-- {
		o := a.observers[i]
		var holders []wire.Holder
		same := 0
		for _, x := range a.observers {
			if x.seen != o.seen {
				continue
			}
			same++
			if !slices.Contains(holders, x.holder) {
				holders = append(holders, x.holder)
			}
		}
		if len(holders) > most || len(holders) == most && o.seen == a.best {
			best, most = o.seen, len(holders)
		}
		if same > 1 && mapping == wire.UnknownMapping {
			mapping = wire.EndpointIndependent
		}
	}
	public := 0
	for _, o := range a.observers {
		if o.seen.Addr() == best.Addr() && o.seen.Port() != best.Port() {
			public++
		}
	}
	if len(a.observers) > 1 && public*2 >= len(a.observers) {
		mapping = wire.AddressDependent
	}
	if slices.Contains(a.told.Host, best) {
		mapping = wire.EndpointIndependent // no translator
	}
	return best, mapping
}

// candidates is what peers are told: at most 8 endpoints and 8 relays.
func (m *Machine) candidates() wire.Candidates {
	var c wire.Candidates
	reflexive, mapping := m.own.reflexive()
	c.Mapping = mapping
	add := func(kind wire.CandidateKind, list ...netip.AddrPort) {
		for _, e := range list {
			e = netip.AddrPortFrom(e.Addr().Unmap(), e.Port())
			if len(c.List) < wire.MaxCandidates && m.own.refuses(e) == "" &&
				!slices.ContainsFunc(c.List, func(x wire.Candidate) bool { return x.Endpoint == e }) {
				c.List = append(c.List, wire.Candidate{Kind: kind, Endpoint: e})
			}
		}
	}
	add(wire.AdvertisedCandidate, m.own.told.Advertised...)
	add(wire.MappedCandidate, m.own.told.Mapped...)
	add(wire.ReflexiveCandidate, reflexive)
	add(wire.HostCandidate, m.own.told.Host...)
	c.Relays = m.relays()
	for _, p := range m.places[:min(len(m.places), wire.MaxPlaces)] {
		c.Places = append(c.Places, p.Place)
	}
	return c
}

// relays are the links that can carry others, with the least round-trip times.
func (m *Machine) relays() []wire.RelayOffer {
	var all []*peer
	for _, p := range m.peers {
		if p.purpose == session.LinkPurpose && p.carries() && p.best.rtt > 0 {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b *peer) int { return int(a.best.rtt - b.best.rtt) })
	var offers []wire.RelayOffer
	for _, p := range all[:min(len(all), wire.MaxRelays)] {
		offers = append(offers, wire.RelayOffer{ID: p.id, RTT: uint16(min(p.best.rtt.Milliseconds(), 65535))})
	}
	return offers
}

// refuses says why nothing is ever sent to an endpoint, or "".
func (a *addresses) refuses(e netip.AddrPort) string {
	ip := e.Addr().Unmap()
	switch {
	case !ip.IsValid() || e.Port() == 0 || ip.IsUnspecified() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "not an endpoint"
	case session.VirtualKind(ip) != session.NotVirtual:
		return "virtual"
	case ip.IsMulticast():
		return "multicast"
	case ip.IsLoopback():
		return "loopback"
	case ip.IsLinkLocalUnicast():
		return "link-local"
	}
	for _, pool := range a.told.Pools {
		if pool.Contains(ip) {
			return "in a virtual network"
		}
	}
	return ""
}

var shared = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// permits says why a candidate of a peer's must not be checked, or "". A
// private one is for those on the same network: on a directly attached prefix,
// or behind the same reflexive address.
func (a *addresses) permits(e netip.AddrPort, peer *wire.Candidates) string {
	if why := a.refuses(e); why != "" {
		return why
	}
	if slices.Contains(a.told.Host, e) {
		return "this node itself"
	}
	ip := e.Addr().Unmap()
	if !ip.IsPrivate() && !shared.Contains(ip) {
		return ""
	}
	for _, prefix := range a.told.Attached {
		if prefix.Contains(ip) {
			return ""
		}
	}
	own, _ := a.reflexive()
	if peer != nil && own.IsValid() {
		for _, c := range peer.List {
			if c.Kind == wire.ReflexiveCandidate && c.Endpoint.Addr() == own.Addr() {
				return ""
			}
		}
	}
	return "private, and of another network"
}

// announce tells the session machine, and every peer that is not reached
// directly, what has changed of the own endpoints.
func (m *Machine) announce(now time.Time) {
	m.refreshOffer()
	for _, p := range m.peers {
		switch {
		case p.s == nil:
		case p.state() == Direct:
			m.check(now, p, p.best) // the peer sees where this node is now
		default:
			p.nextTry = now
			if p.round > 1 {
				p.round = 1
			}
			m.begin(now, p)
		}
	}
}

// observed follows a change of what others see of this node.
func (m *Machine) observed(now time.Time) {
	e, mapping := m.own.reflexive()
	m.act(Reflexive{e, mapping})
	m.refreshOffer()
	for _, p := range m.peers {
		if p.s != nil && p.state() != Direct {
			m.call(now, p, false)
		}
	}
}

// placesChanged tells who is not reached directly where else this node is.
func (m *Machine) placesChanged(now time.Time) {
	m.refreshOffer()
	for _, p := range m.peers {
		if p.s != nil && p.state() != Direct {
			p.relayAt = now
			m.call(now, p, false)
		}
	}
}

// refreshOffer renews what the next handshakes say.
func (m *Machine) refreshOffer() { m.sessions.Offer(m.offer()) }

// isSelf reports whether an ID is this node's.
func (m *Machine) isSelf(id nodeid.ID) bool { return id == m.id }
