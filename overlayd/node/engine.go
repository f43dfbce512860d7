package node

import (
	crand "crypto/rand"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/flynn/noise"
	"golang.org/x/sys/cpu"

	"gridappliance/credential"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/state"
	"gridappliance/overlayd/wire"
)

// Claims of a node: its address, and the name that its floppy asks for.
const (
	claimAddress lease.ClaimID = 1
	claimName    lease.ClaimID = 2
)

// links is core's Links: one machine with the sessions of the ring and those
// of the namespace, whose actions core never sees.
type links struct {
	*link.Machine
	others []link.Action // of the namespace's sessions, and links' ends, since they were last taken
	ring   []link.Action
	moved  bool // a link takes another path, perhaps: relays are reached by it
}

// Handle implements core.Links.
func (l *links) Handle(now time.Time, e link.Event) []link.Action {
	l.ring = l.ring[:0]
	for _, a := range l.Machine.Handle(now, e) {
		purpose := session.LinkPurpose
		switch a := a.(type) {
		case link.Up:
			purpose = a.Purpose
		case link.Down:
			purpose = a.Purpose
		case link.Failed:
			purpose = a.Purpose
		case link.PathChanged:
			purpose = a.Purpose
			l.moved = l.moved || purpose == session.LinkPurpose
		case link.Message:
			purpose = a.Purpose
		case link.KeysChanged, link.Reflexive, link.Pong:
			purpose = ""
		}
		if _, ended := a.(link.Down); purpose == session.LinkPurpose || ended {
			l.ring = append(l.ring, a)
			if !ended {
				continue
			}
		}
		if m, ok := a.(link.Message); ok {
			m.Body = slices.Clone(m.Body) // it lies in the datagram
			a = m
		}
		l.others = append(l.others, a)
	}
	return l.ring
}

// take returns what has happened to the namespace's sessions.
func (l *links) take() []link.Action {
	others := l.others
	l.others = nil
	return others
}

// newEngine makes the protocol's machines of what prove has found.
func (n *Node) newEngine(now time.Time) error {
	trust, err := core.NewTrust(n.trust)
	if err != nil {
		return err
	}
	holds, err := state.Read(n.cfg.StateDir, state.HoldsFile)
	if err != nil {
		return err
	}
	grid, err := core.NewGrid(core.GridConfig{Trust: trust, Chain: n.cert.Chain, Key: n.key, Holds: holds}, now)
	if err != nil {
		return err
	}
	d := n.identity.Descriptor
	n.roots = trust.Roots
	id := n.id
	machine, err := link.New(link.Config{Rand: newRand(), Spray: true, Session: session.Config{
		ID:         id,
		Static:     noise.DHKey{Private: n.session.Bytes(), Public: n.session.PublicKey().Bytes()},
		Chain:      n.cert.Chain,
		Roots:      trust.Roots(),
		Descriptor: d.Hash(),
		Purposes:   []string{session.LinkPurpose, n.namespace},
		AES:        cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL,
		Random:     crand.Reader,
		Crypto:     session.Real(trust.Verify),
	}}, now)
	if err != nil {
		return err
	}
	n.links = &links{Machine: machine}
	cfg := core.Config{
		ID: id, Holder: wire.Holder(n.cert.Node.Holder.Key[:8]), Rand: newRand(), Links: n.links,
		Namespace: n.namespace, Grid: grid,
	}
	if n.founder() {
		cfg.Founder, cfg.Degree = true, ring.BudgetBootstrap
	}
	n.core = core.New(cfg)
	return nil
}

// founder reports whether this node may begin a ring: the roster names it.
func (n *Node) founder() bool {
	d, id := n.identity.Descriptor, n.cert.Node.ID
	return slices.ContainsFunc(d.Masters, func(m credential.Master) bool { return m.ID == id }) ||
		slices.ContainsFunc(d.Witnesses, func(w credential.Witness) bool { return w.ID == id })
}

// newRand is for the protocol's choices, not for keys.
func newRand() *rand.Rand {
	var seed [32]byte
	crand.Read(seed[:])
	return rand.New(rand.NewChaCha8(seed))
}

// handle gives core an event and does what follows from it.
func (n *Node) handle(now time.Time, e core.Event) {
	n.todo, n.unpublished = append(n.todo, e), true
	if n.handling {
		return // the call below is under way
	}
	n.handling = true
	defer func() { n.handling = false }()
	for len(n.todo) > 0 {
		e := n.todo[0]
		n.todo = n.todo[1:]
		for _, a := range n.core.Handle(now, e) {
			n.act(now, a)
		}
		for _, a := range n.links.take() {
			n.sessionChanged(now, a)
		}
	}
	n.todo = nil
}

// act does what core wants.
func (n *Node) act(now time.Time, a core.Action) {
	switch a := a.(type) {
	case core.Send:
		n.send(a.To, a.Socket, a.Data)
	case core.CloseSockets:
		n.path.CloseSockets(a.Keep)
	case core.Persist:
		a.Data = slices.Clone(a.Data)
		n.files.Add(a)
	case core.Leased:
		if a.Claim == claimAddress {
			n.leased(now, a)
		} else if n.held = nil; a.State == lease.Holding {
			n.held = []string{a.Lease.Key.Value + control.Domain}
		}
	case core.Member:
		n.member = a.On
	case core.Connected:
		n.connected(a.ID, a.Path)
	case core.Disconnected:
		n.connected(a.ID, link.None)
	case core.Alarm:
		n.alarm(a)
	case core.Trusted:
		n.trusted(now, a)
	case core.Found:
		n.answer(a.Token, a)
	case core.Records:
		n.answer(a.Token, a)
	case core.Who:
		n.answer(a.Token, a)
	case core.Stored:
		n.stored(a)
	case core.Published:
		if n.publishing != nil {
			n.publishing(a)
			n.publishing = nil
		}
	}
}

// maxAlarms bounds the alarms that the status shows. Implementation.
const maxAlarms = 16

// alarm tells a person. The status shows the last ones, each once.
func (n *Node) alarm(a core.Alarm) {
	text := a.Text
	if a.Node != (nodeid.ID{}) && a.Node != n.id {
		text += ": node " + a.Node.String()
	}
	if a.Key != (wire.LeaseKey{}) {
		text += ": " + a.Key.String()
	}
	n.log.Error("alarm", "reason", text)
	if slices.Contains(n.alarms, text) {
		return
	}
	n.alarms = append(slices.Clone(n.alarms), text)
	n.alarms = n.alarms[max(0, len(n.alarms)-maxAlarms):]
}

// ask gives core a request, which make makes of its token, and calls then with
// the answer.
func (n *Node) ask(now time.Time, make func(token uint64) core.Event, then func(core.Action)) {
	n.token++
	n.answers[n.token] = then
	n.handle(now, make(n.token))
}

func (n *Node) answer(token uint64, a core.Action) {
	if then := n.answers[token]; then != nil {
		delete(n.answers, token)
		then(a)
	}
}
