package bootstrap

import (
	"net/netip"
	"slices"
	"sync"

	"gridappliance/overlayd/session"
)

// Table numbers the bootstraps at which a node has a place, and translates
// between virtual endpoints and carried datagrams. It knows no members: a
// virtual endpoint holds number and handle. Safe for concurrent use.
type Table struct {
	mu sync.RWMutex
	at []netip.AddrPort
}

// Number returns a bootstrap's number, from 1, and gives it one if need be; 0
// when there are too many.
func (t *Table) Number(at netip.AddrPort) uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.at, at); i >= 0 {
		return uint16(i + 1)
	}
	if len(t.at) >= 4*maxServers {
		return 0
	}
	t.at = append(t.at, at)
	return uint16(len(t.at))
}

// Kind returns what virtual endpoints of a bootstrap's members are: what goes
// over TCP to the bootstrap ranks as TCP.
func Kind(at netip.AddrPort) session.Virtual {
	if session.VirtualKind(at.Addr()) != session.NotVirtual {
		return session.ByStream
	}
	return session.ByBootstrap
}

// Endpoint returns the virtual endpoint of a member.
func (t *Table) Endpoint(at netip.AddrPort, h Handle) netip.AddrPort {
	return session.VirtualEndpoint(Kind(at), t.Number(at), uint32(h))
}

// Wrap makes of a datagram for a member's virtual endpoint one for its
// bootstrap, appended to b.
func (t *Table) Wrap(b, datagram []byte, to netip.AddrPort) (at netip.AddrPort, wrapped []byte, ok bool) {
	kind, n, h := session.ParseVirtual(to)
	t.mu.RLock()
	if kind != session.NotVirtual && n > 0 && int(n) <= len(t.at) {
		at = t.at[n-1]
	}
	t.mu.RUnlock()
	if !at.IsValid() || len(datagram) > MaxCarried {
		return at, nil, false
	}
	var head [Overhead]byte
	putHeader(head[:], typeCarry, Handle(h))
	return at, append(append(b, head[:]...), datagram...), true
}

// Unwrap takes a carried datagram out of what came from an endpoint, if that
// is a bootstrap's that has a number. Data lies in b, from Overhead on.
func (t *Table) Unwrap(b []byte, at netip.AddrPort) (from netip.AddrPort, data []byte, ok bool) {
	h, data, err := parseCarried(b, typeCarried)
	if err != nil || h == 0 {
		return from, nil, false
	}
	t.mu.RLock()
	n := slices.Index(t.at, at) + 1
	t.mu.RUnlock()
	return session.VirtualEndpoint(Kind(at), uint16(n), uint32(h)), data, n > 0
}
