package link

import (
	"net/netip"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// Explanation says why records to a peer go the way they go, and what would
// make it better: the data of `overlayd why`.
type Explanation struct {
	State        State
	RTT          time.Duration
	Relay        nodeid.ID       // when a relay carries
	Virtual      session.Virtual // when a bootstrap or TCP carries
	Own          netip.AddrPort
	OwnMapping   wire.Mapping
	PeerMapping  wire.Mapping
	Rounds       int // of checks
	Sprayed      bool
	Candidates   []CandidateReport
	Improvements []string
}

// CandidateReport is one candidate of the peer's and what became of it.
type CandidateReport struct {
	Endpoint netip.AddrPort
	Kind     wire.CandidateKind // 0: the peer was seen there
	Outcome  Outcome
	Why      string // it was not tried
	Checks   int
	RTT      time.Duration
}

// Why explains; ok is false without a session.
func (m *Machine) Why(id nodeid.ID, purpose string) (e Explanation, ok bool) {
	p := m.byKey[key{id, orLink(purpose)}]
	if p == nil || p.s == nil {
		return Explanation{}, false
	}
	e = Explanation{State: p.state(), PeerMapping: p.remote.Mapping, Rounds: p.round, Sprayed: !p.sprayed.IsZero()}
	e.Own, e.OwnMapping = m.own.reflexive()
	if p.best != nil {
		e.RTT = p.best.rtt
		e.Virtual = p.best.via.Virtual()
		if p.best.via.Channel != 0 {
			e.Relay = p.best.via.Node
		}
	}
	for _, pr := range p.pairs {
		if !isDirect(pr.via) {
			continue
		}
		e.Candidates = append(e.Candidates, CandidateReport{pr.via.Endpoint, pr.candidate.Kind, pr.outcome, pr.why, pr.total, pr.rtt})
	}
	e.Improvements = improvements(&e)
	return e, true
}

// improvements says what a person could change.
func improvements(e *Explanation) []string {
	if e.State == Direct {
		return nil
	}
	var out []string
	if e.OwnMapping == wire.AddressDependent && e.PeerMapping == wire.AddressDependent {
		out = append(out, "both translators give every destination another port: map a UDP port on one of them (PCP, UPnP, or by hand with advertise), or use IPv6 at both ends")
	} else if e.OwnMapping == wire.AddressDependent || e.PeerMapping == wire.AddressDependent {
		out = append(out, "one translator gives every destination another port: spraying finds a way when there is traffic; mapping a UDP port on either side does at once")
	}
	if !e.Own.IsValid() {
		out = append(out, "no peer has told how this node is seen from outside: a link to a bootstrap node is needed")
	}
	if len(e.Candidates) == 0 {
		out = append(out, "the peer has named no endpoint: it may not have found a bootstrap node")
	}
	tried, skipped := 0, 0
	for _, c := range e.Candidates {
		switch {
		case c.Why != "":
			skipped++
		case c.Outcome == Silent || c.Outcome == Budget:
			tried++
		}
	}
	if tried > 0 {
		out = append(out, "no check was answered: a firewall at one end drops UDP, or answers only to known ports; allow UDP 4242 in")
	}
	if skipped > 0 && tried == 0 {
		out = append(out, "the peer named only addresses that are not reachable from here")
	}
	for _, end := range []struct {
		name    string
		mapping wire.Mapping
	}{{"this end", e.OwnMapping}, {"the other end", e.PeerMapping}} {
		if tried > 0 && end.mapping == wire.UnknownMapping {
			out = append(out, "how the translator of "+end.name+" maps is not known: two nodes in the open tell, so another bootstrap node would")
		}
	}
	return out
}
