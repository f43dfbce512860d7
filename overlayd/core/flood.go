package core

import (
	"maps"
	"slices"
	"time"

	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// flooded is a witness's word to everybody, as a link message of a peer or of
// this node's own witness.
type flooded struct {
	from nodeid.ID
	t    wire.Type
	body []byte
}

// flood is what witnesses tell every node: that one recovers, and that the
// previous roster has stopped. Each word goes to every peer once, when it is
// new:
//
//	Greet    newer than the witness's last, 5 s after it at the earliest
//	Stopped  proves what this node did not know
//
// An empty Stopped asks a peer for what it knows: so it reaches those who were
// away.
type flood struct{ heard []greeted } // of each witness the last; at most those of two rosters

type greeted struct {
	witness nodeid.ID
	at      time.Time
	order   [3]uint64
}

// Implementation.
const (
	greetPause = 5 * time.Second
	maxGreeted = 18 // two rosters of 9
)

func (n *Node) sortedPeers() []nodeid.ID {
	return slices.SortedFunc(maps.Keys(n.peers), nodeid.ID.Compare)
}

// flooded takes a word and passes it on if it is new.
func (n *Node) flooded(e flooded) {
	news := false
	switch e.t {
	case wire.TypeGreet:
		news = n.greeted(e)
	case wire.TypeStopped:
		if len(e.body) == 0 {
			n.tellStopped(e.from)
			return
		}
		news = n.stopped(e)
	}
	if !news {
		return
	}
	for _, id := range n.sortedPeers() {
		if id != e.from {
			n.sendBody(id, e.t, e.body)
		}
	}
}

// greeted shows this node's leases to a witness that recovers.
func (n *Node) greeted(e flooded) bool {
	g := n.grid
	m, err := wire.ParseGreet(e.body)
	if err != nil {
		n.counters.Malformed++
		return false
	}
	r := &g.roster.current
	if m.Flags&wire.GreetRecovering == 0 || !slices.Contains(r.Witnesses, m.Witness) && !slices.Contains(r.Previous, m.Witness) {
		return false
	}
	order := [3]uint64{uint64(m.Incarnation), uint64(m.Boot), uint64(m.Number)}
	i := slices.IndexFunc(g.flood.heard, func(h greeted) bool { return h.witness == m.Witness })
	if i >= 0 {
		h := &g.flood.heard[i]
		if slices.Compare(order[:], h.order[:]) <= 0 || n.now.Sub(h.at) < greetPause {
			return false
		}
	}
	if !g.crypto.Verify(m.Witness, &m.Signature, m.Signed(nil)) {
		n.counters.Malformed++
		return false
	}
	if i >= 0 {
		g.flood.heard = slices.Delete(g.flood.heard, i, i+1)
	} else if len(g.flood.heard) >= maxGreeted {
		g.flood.heard = slices.Delete(g.flood.heard, 0, 1)
	}
	g.flood.heard = append(g.flood.heard, greeted{m.Witness, n.now, order})
	n.enqueue(forHolder{lease.Published{Type: e.t, Body: e.body}})
	return true
}

// stopped learns that the witnesses before have stopped.
func (n *Node) stopped(e flooded) bool {
	g := n.grid
	book := g.holder.Book()
	before := book.Stopped()
	n.fromLease(g.holder.Handle(n.now, lease.Published{Type: e.t, Body: e.body}))
	news := before == nil && book.Stopped() != nil
	if news {
		n.enqueue(forWitness{lease.Published{Type: e.t, Body: e.body}})
	}
	return news
}

// askStopped asks a peer for the proof that this node's roster lacks.
func (n *Node) askStopped(id nodeid.ID) {
	g := n.grid
	if len(g.roster.current.Previous) > 0 && g.holder.Book().Stopped() == nil {
		n.sendBody(id, wire.TypeStopped, nil)
	}
}

// tellStopped answers.
func (n *Node) tellStopped(id nodeid.ID) {
	if s := n.grid.holder.Book().Stopped(); s != nil {
		n.sendBody(id, wire.TypeStopped, s.Append(nil))
	}
}
