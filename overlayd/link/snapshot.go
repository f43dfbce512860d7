package link

import (
	"net/netip"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
)

// Snapshot is how records to and from a peer go at the moment: what the data
// path is made of. KeysChanged and PathChanged say that it is stale.
type Snapshot struct {
	ID      nodeid.ID
	Purpose string
	Session *session.Session
	Since   time.Time // of the session
	State   State
	Path    uint8         // id of the best path
	Via     session.Via   // of the best path
	RTT     time.Duration // of the best path; 0: not measured
	Ways    []session.Via // proven paths but the ring's, on which records may come

	SentBytes, HeardBytes uint64 // of records that the machine sealed and opened itself

	Channels map[uint16]nodeid.ID // of a link: whose each channel to this node is; a copy
}

// Snapshot returns a peer's; false without a path.
func (m *Machine) Snapshot(id nodeid.ID, purpose string) (Snapshot, bool) {
	return m.byKey[key{id, orLink(purpose)}].snapshot()
}

// Snapshots returns those of all sessions.
func (m *Machine) Snapshots() (out []Snapshot) {
	for _, p := range m.peers {
		if s, ok := p.snapshot(); ok {
			out = append(out, s)
		}
	}
	return out
}

func (p *peer) snapshot() (Snapshot, bool) {
	if p == nil || p.s == nil || p.best == nil {
		return Snapshot{}, false
	}
	s := Snapshot{ID: p.id, Purpose: p.purpose, Session: p.s, Since: p.since, State: p.state(), Path: p.best.id, Via: p.best.via,
		RTT: p.best.rtt, SentBytes: p.sentBytes, HeardBytes: p.heardBytes}
	for _, pa := range p.paths {
		if pa.valid && !pa.via.IsRing() {
			s.Ways = append(s.Ways, pa.via)
		}
	}
	if len(p.channels) > 0 {
		s.Channels = make(map[uint16]nodeid.ID, len(p.channels))
		for c, id := range p.channels {
			s.Channels[c] = id
		}
	}
	return s, true
}

// Endpoint returns where a peer is reached directly, for whatever purpose.
func (m *Machine) Endpoint(id nodeid.ID) (netip.AddrPort, bool) {
	for _, p := range m.peers {
		if p.id == id && p.best != nil && isDirect(p.best.via) && p.best.via.Socket == 0 {
			return p.best.via.Endpoint, true
		}
	}
	return netip.AddrPort{}, false
}
