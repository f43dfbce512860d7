package sim

import (
	"math/rand/v2"
	"time"
)

// Dependence is on what of the other end a translator's decision depends
// (RFC 4787 §4.1 for mapping, §5 for filtering).
type Dependence uint8

// The three behaviours of RFC 4787.
const (
	EndpointIndependent Dependence = iota
	AddressDependent
	AddressAndPortDependent
)

// String returns the words of RFC 4787.
func (d Dependence) String() string {
	return [...]string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}[d]
}

// of returns the part of an endpoint that a decision depends on.
func (d Dependence) of(peer endpoint) endpoint {
	switch d {
	case EndpointIndependent:
		return 0
	case AddressDependent:
		return peer &^ 0xffff
	}
	return peer
}

// Behaviour is what a translator does, in the terms of RFC 4787.
type Behaviour struct {
	Mapping   Dependence
	Filtering Dependence
	// PreservePorts takes the inner port outside if it is free (§4.2.1).
	PreservePorts bool
	// Timeout ends a mapping and a permission; 0 is two minutes, the
	// minimum of REQ-5.
	Timeout time.Duration
	// RefreshInbound lets an inward datagram renew, too (REQ-6).
	RefreshInbound bool
	// Hairpin carries between two inner hosts that use outer endpoints
	// (REQ-9).
	Hairpin bool
	// BlockUDP carries nothing, as some offices do.
	BlockUDP bool
}

// The translators people have, once called full cone, port-restricted cone
// and symmetric.
var (
	FullCone  = Behaviour{PreservePorts: true, RefreshInbound: true, Timeout: 5 * time.Minute}
	Home      = Behaviour{Filtering: AddressAndPortDependent, PreservePorts: true, RefreshInbound: true}
	Symmetric = Behaviour{Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent, RefreshInbound: true}
	Blocking  = Behaviour{BlockUDP: true}
)

const (
	minTimeout = 2 * time.Minute
	firstPort  = 1024 // outer ports are drawn above the well-known ones
	drawTries  = 32   // ports tried before a translator counts as full
	sweepAt    = 64   // a table of this many mappings is swept of ended ones
)

// NAT is a translator between an inner realm and the outer one.
type NAT struct {
	Behaviour
	// Inside is the realm whose hosts it serves.
	Inside *Realm

	place  Place
	outer  *Realm
	addr   uint32
	index  int32
	engine *Engine
	rand   *rand.Rand
	out    map[flow]*mapping
	in     map[uint16]*mapping
	sweep  int // mappings at which the next sweep is due
}

// flow is what a mapping is found by from inside.
type flow struct{ inner, peer endpoint }

type mapping struct {
	flow
	port  uint16
	used  time.Duration
	peers map[endpoint]time.Duration // permissions: when each was last used
}

func (n *NAT) timeout() time.Duration {
	if n.Timeout == 0 {
		return minTimeout
	}
	return n.Timeout
}

func (n *NAT) live(used time.Duration) bool { return n.engine.now-used < n.timeout() }

// Flush forgets all mappings, as a reboot does.
func (n *NAT) Flush() { clear(n.out); clear(n.in) }

// outbound translates the source of a datagram that leaves, and opens the way
// back. It says false when the box carries no UDP or has no port left.
func (n *NAT) outbound(from, to endpoint) (endpoint, bool) {
	if n.BlockUDP {
		return 0, false
	}
	key := flow{from, n.Mapping.of(to)}
	m := n.out[key]
	if m == nil || !n.live(m.used) {
		if m != nil {
			n.forget(m)
		}
		port, ok := n.freePort(from.port())
		if !ok {
			return 0, false
		}
		m = &mapping{flow: key, port: port}
		n.add(m)
	}
	m.used = n.engine.now
	if n.Filtering != EndpointIndependent {
		if m.peers == nil {
			m.peers = make(map[endpoint]time.Duration)
		}
		m.peers[n.Filtering.of(to)] = n.engine.now
	}
	return endpointOf(n.addr, m.port), true
}

// inbound translates the destination of a datagram that arrives at the outer
// address, or says false when nothing maps it or the filter drops it.
func (n *NAT) inbound(from, to endpoint) (endpoint, bool) {
	m := n.in[to.port()]
	if m == nil || !n.live(m.used) {
		return 0, false
	}
	if n.Filtering != EndpointIndependent {
		peer := n.Filtering.of(from)
		used, known := m.peers[peer]
		if !known || !n.live(used) {
			return 0, false
		}
		if n.RefreshInbound {
			m.peers[peer] = n.engine.now
		}
	}
	if n.RefreshInbound {
		m.used = n.engine.now
	}
	return m.inner, true
}

func (n *NAT) freePort(inner uint16) (uint16, bool) {
	free := func(p uint16) bool {
		m := n.in[p]
		if m != nil && !n.live(m.used) {
			n.forget(m)
			return true
		}
		return m == nil
	}
	if n.PreservePorts && free(inner) {
		return inner, true
	}
	for range drawTries {
		if p := uint16(firstPort + n.rand.IntN(1<<16-firstPort)); free(p) {
			return p, true
		}
	}
	return 0, false
}

func (n *NAT) add(m *mapping) {
	if len(n.in) >= max(n.sweep, sweepAt) {
		for _, old := range n.in {
			if !n.live(old.used) {
				n.forget(old)
			}
		}
		n.sweep = 2 * len(n.in)
	}
	if n.out == nil {
		n.out, n.in = make(map[flow]*mapping), make(map[uint16]*mapping)
	}
	n.out[m.flow], n.in[m.port] = m, m
}

func (n *NAT) forget(m *mapping) {
	delete(n.out, m.flow)
	delete(n.in, m.port)
}
