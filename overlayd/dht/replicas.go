package dht

import (
	"encoding/binary"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Protocol.
const (
	// Replicas is k: how many nodes near its key store a record.
	Replicas = 5
)

// maxNear bounds what is kept of the neighbourhood. Implementation.
const maxNear = 64

// known is a node near a key as others describe it.
type known struct {
	wire.Replica
	disputed bool // two holders were said of it
}

// learn adds nodes to a list of at most limit, and marks those of whom another
// holder is said.
func learn(list []known, nodes []wire.Replica, limit int) []known {
	for _, n := range nodes {
		i := slices.IndexFunc(list, func(k known) bool { return k.ID == n.ID })
		switch {
		case i >= 0:
			list[i].disputed = list[i].disputed || list[i].Holder != n.Holder
		case len(list) < limit:
			list = append(list, known{Replica: n})
		}
	}
	return list
}

// choose returns the replicas of a key among the nodes, at most Replicas: the
// nearest, one of each holder; where there are too few holders, also the
// nearest others, which count last.
func (m *Machine) choose(key nodeid.ID, nodes []known) []nodeid.ID {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b known) int { return nearer(key, a.ID, b.ID) })
	var chosen, rest []nodeid.ID
	var holders []wire.Holder
	for _, n := range nodes {
		if m.rules.perHolder && (n.disputed || slices.Contains(holders, n.Holder)) {
			rest = append(rest, n.ID)
			continue
		}
		chosen, holders = append(chosen, n.ID), append(holders, n.Holder)
	}
	chosen = append(chosen, rest...)
	return chosen[:min(Replicas, len(chosen))]
}

// nearer orders IDs by their distance to a key.
func nearer(key, a, b nodeid.ID) int {
	if c := nodeid.Distance(key, a).Compare(nodeid.Distance(key, b)); c != 0 {
		return c
	}
	return a.Compare(b)
}

// neighbourhood is this node and those around it.
func (m *Machine) neighbourhood() []known {
	return learn(learn(nil, []wire.Replica{{ID: m.cfg.Self, Holder: m.cfg.Holder}}, 1), m.near, 1+maxNear)
}

// nearest returns the nodes that this one tells of a key.
func (m *Machine) nearest(key nodeid.ID) []wire.Replica {
	nodes := append(slices.Clone(m.near), wire.Replica{ID: m.cfg.Self, Holder: m.cfg.Holder})
	slices.SortFunc(nodes, func(a, b wire.Replica) int { return nearer(key, a.ID, b.ID) })
	return nodes[:min(wire.MaxReplicas, len(nodes))]
}

// keeps says whether records of a key belong here: this node could be one of
// its replicas, or is one of its witnesses.
func (m *Machine) keeps(key nodeid.ID, kind Kind) bool {
	if kind.Witnessed() && slices.Contains(m.witnesses(key), m.cfg.Self) {
		return true
	}
	nearer := 0
	for _, n := range m.near {
		if nodeid.Distance(key, n.ID).Compare(nodeid.Distance(key, m.cfg.Self)) < 0 {
			nearer++
		}
	}
	return len(m.near) < 2*Replicas || nearer < 2*Replicas && m.within(key)
}

// within says whether a key lies on the arc that the neighbourhood spans.
func (m *Machine) within(key nodeid.ID) bool {
	first, last := m.cfg.Self, m.cfg.Self // the outermost, counter-clockwise and clockwise
	for _, n := range m.near {
		forth, back := nodeid.Clockwise(m.cfg.Self, n.ID), nodeid.Clockwise(n.ID, m.cfg.Self)
		if forth.Compare(back) < 0 {
			if nodeid.Clockwise(m.cfg.Self, last).Compare(forth) < 0 {
				last = n.ID
			}
		} else if nodeid.Clockwise(first, m.cfg.Self).Compare(back) < 0 {
			first = n.ID
		}
	}
	return key == first || key == last || nodeid.Between(key, first, last)
}

func (m *Machine) witnesses(key nodeid.ID) []nodeid.ID {
	if m.cfg.Witnesses == nil {
		return nil
	}
	w := m.cfg.Witnesses(key)
	return w[:min(Replicas, len(w))]
}

// points returns three places around a key: the key, and one on either side, at
// three times the distance of two nodes, so that three different nodes near the
// key are met.
func (m *Machine) points(key nodeid.ID) []nodeid.ID {
	if len(m.near) < 3 {
		return []nodeid.ID{key}
	}
	var span uint64
	for _, n := range m.near {
		span = max(span, top(nodeid.Distance(m.cfg.Self, n.ID)))
	}
	aside := 3 * (2 * span / uint64(len(m.near)))
	return []nodeid.ID{key, shift(key, aside), shift(key, -aside)}
}

func top(id nodeid.ID) uint64 { return binary.BigEndian.Uint64(id[:]) }

func shift(id nodeid.ID, by uint64) nodeid.ID {
	binary.BigEndian.PutUint64(id[:], top(id)+by)
	return id
}

func (m *Machine) nearChanged(now time.Time, nodes []wire.Replica) {
	m.near = slices.DeleteFunc(slices.Clone(nodes), func(n wire.Replica) bool { return n.ID == m.cfg.Self })
	m.near = m.near[:min(maxNear, len(m.near))]
	if m.handover.at.IsZero() {
		// Not at once: several changes come together, and periodic recovery
		// bears churn where reactive recovery makes it worse (Rhea et al.,
		// USENIX 2004).
		m.handover.schedule(now.Add(time.Second + time.Duration(m.cfg.Rand.Int64N(int64(2*time.Second)))))
	}
}
