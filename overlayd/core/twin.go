package core

import (
	"encoding/binary"
	"time"

	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// runs are what a node remembers of a peer's runs. A node that restarts has
// another number and never the old one again; a machine and its copy, which
// take each other's sessions away, are met in turns:
//
//	run A ──> run B ──> run A: two machines with one key
//
// Each is told in its turn, when the session is its own, and on every path: the
// best may still be the other's. A person is told too. It decides nothing: a peer can say so though it
// is not true. Leases notice by themselves what witnesses have signed.
type runs struct {
	now, before uint64
	told        time.Time
}

// Implementation.
const (
	maxRuns   = 512
	twinPause = 10 * time.Minute // between two alarms about one node
)

// AlarmTwin says that two machines use one node key.
const AlarmTwin = "two machines use one node key: one is a copy of the other's disk"

// ran notes the run number of a peer's ping.
func (n *Node) ran(from nodeid.ID, tail []byte) {
	if len(tail) < wire.RunSize {
		return
	}
	g := n.grid
	run := binary.BigEndian.Uint64(tail)
	r, known := g.runs[from]
	switch {
	case known && r.now == run:
		return
	case !known:
		if len(g.runs) >= maxRuns {
			for id := range g.runs {
				if _, ok := n.peers[id]; !ok {
					delete(g.runs, id)
				}
			}
		}
		if len(g.runs) >= maxRuns {
			return
		}
	case r.before == run:
		if r.told.IsZero() || n.now.Sub(r.told) >= twinPause {
			r.told = n.now
			n.do(Alarm{Text: AlarmTwin, Node: from})
		}
		n.enqueue(link.Send{
			ID: from, Purpose: session.LinkPurpose, Everywhere: true,
			Message: n.memory.keep(wire.AppendMessage(nil, wire.Twin{Now: run, Before: r.now})),
		})
	}
	r.now, r.before = run, r.now
	g.runs[from] = r
}

// twin takes a peer's word that this node's key is used twice.
func (n *Node) twin(body []byte) {
	g := n.grid
	m, err := wire.ParseTwin(body)
	if err != nil {
		n.counters.Malformed++
		return
	}
	if m.Now != g.run && m.Before != g.run || m.Now == m.Before {
		return
	}
	if g.twinTold.IsZero() || n.now.Sub(g.twinTold) >= twinPause {
		g.twinTold = n.now
		n.do(Alarm{Text: AlarmTwin, Node: n.cfg.ID})
	}
}
