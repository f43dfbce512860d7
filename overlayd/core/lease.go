package core

import (
	"slices"

	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/ring"
)

// fromLease does what holder or witness wants.
func (n *Node) fromLease(actions []lease.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case lease.Route:
			n.answerTo(a.To, a.RPC, a.Type, a.Body, 0)
		case lease.Persist:
			n.do(Persist{File: HoldsFile, N: a.N, Append: true, Data: a.Record})
		case lease.Rewrite:
			n.do(Persist{File: HoldsFile, N: a.N, Data: a.File})
		case lease.Save:
			n.do(Persist{File: LeaseFile, Claim: a.Claim, Data: a.Record})
		case lease.Changed:
			n.leased(a)
		case lease.WantRoster:
			n.enqueue(ring.Demand{ID: a.From}) // gossip does the rest over the session
		case lease.TellRoster:
			n.enqueue(ring.Demand{ID: a.To})
		case lease.SendChain:
			n.sendChain(a.To)
		case lease.Publish:
			n.enqueue(flooded{n.cfg.ID, a.Type, a.Body})
		case lease.Raise:
			n.do(Alarm{Text: string(a.Alarm), Node: a.Node, Key: a.Key})
		}
	}
}

// roster is who may vote, and for what.
type roster struct {
	current lease.Roster
	policy  lease.Policy
}

// witnesses returns who keeps copies of the records of a key.
func (r *roster) witnesses(key nodeid.ID) []nodeid.ID { return r.current.Keepers(key) }

// descriptorChanged tells holder and witness the roster and policy that count
// now. Whether the roster follows from theirs, each of them judges. A node that
// the roster begins to name becomes a witness; it stays one until it ends,
// because it hands its holds on.
func (n *Node) descriptorChanged() {
	g := n.grid
	d, err := g.trust.memory.Descriptor()
	if err != nil || d == nil {
		return // Trust has raised the alarm; leases go on under the one before
	}
	r, err := lease.RosterOf(d)
	if err != nil {
		n.do(Alarm{Text: err.Error()})
		return
	}
	g.roster = roster{r, lease.PolicyOf(d)}
	if g.witness == nil && (slices.Contains(r.Witnesses, n.cfg.ID) || slices.Contains(r.Previous, n.cfg.ID)) {
		g.members = newMembers(g.trust)
		g.witness = lease.NewWitness(lease.WitnessConfig{ID: n.cfg.ID, Instance: lease.InstanceOf(g.self.Instance),
			Crypto: g.crypto, Members: g.members, Rand: n.cfg.Rand}, g.file, n.now)
		g.file = nil
	}
	e := lease.Descriptor{Roster: r, Policy: g.roster.policy}
	n.enqueue(forHolder{e})
	if g.witness != nil {
		n.enqueue(forWitness{e})
	}
	for _, id := range n.sortedPeers() {
		n.askStopped(id)
	}
}
