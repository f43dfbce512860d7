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

// Implementation: tunable.
const (
	maxNear  = 64 // nodes kept of the neighbourhood
	maxLists = 6  // of a view
	aside    = 2  // distances of two nodes from the key to the points beside it
	further  = 4  // and in the second round
)

// choose returns the replicas of a key among the nodes of one list, at most
// Replicas: the nearest, one of each holder; where there are too few holders,
// also the nearest others, which count last.
func (m *Machine) choose(key nodeid.ID, list []wire.Replica) []nodeid.ID {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b wire.Replica) int { return nearer(key, a.ID, b.ID) })
	var chosen, rest []nodeid.ID
	var holders []wire.Holder
	for _, n := range list {
		if m.rules.perHolder && slices.Contains(holders, n.Holder) {
			rest = append(rest, n.ID)
			continue
		}
		chosen, holders = append(chosen, n.ID), append(holders, n.Holder)
	}
	chosen = append(chosen, rest...)
	return chosen[:min(Replicas, len(chosen))]
}

// view is what several nodes have said about the neighbourhood of a key, each
// in a list of its own: a liar spoils its own list and no other.
type view struct {
	from  []nodeid.ID
	lists [][]wire.Replica
}

func (v *view) add(from nodeid.ID, list []wire.Replica) {
	if !slices.Contains(v.from, from) && len(v.from) < maxLists {
		v.from, v.lists = append(v.from, from), append(v.lists, list)
	}
}

// merged returns all lists as one. Nodes of whom two holders are said count
// together as one holder's.
func (v *view) merged() []wire.Replica {
	var all []wire.Replica
	for _, list := range v.lists {
		for _, n := range list {
			i := slices.IndexFunc(all, func(o wire.Replica) bool { return o.ID == n.ID })
			if i < 0 {
				all = append(all, n)
			} else if all[i].Holder != n.Holder {
				all[i].Holder = wire.Holder{}
			}
		}
	}
	return all
}

// nearer orders IDs by their distance to a key.
func nearer(key, a, b nodeid.ID) int {
	if c := nodeid.Distance(key, a).Compare(nodeid.Distance(key, b)); c != 0 {
		return c
	}
	return a.Compare(b)
}

// neighbourhood is this node and those around it.
func (m *Machine) neighbourhood() []wire.Replica {
	return append([]wire.Replica{{ID: m.cfg.Self, Holder: m.cfg.Holder}}, m.near...)
}

// ownView begins a view with what this node itself knows about the place of a
// key, if it is near.
func (m *Machine) ownView(key nodeid.ID) (v view) {
	if len(m.near) > 0 && m.within(key) {
		v.add(m.cfg.Self, m.neighbourhood())
	}
	return v
}

// nearest returns the nodes that this one tells of a key.
func (m *Machine) nearest(key nodeid.ID) []wire.Replica {
	nodes := m.neighbourhood()
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

// points returns places on either side of a key, at some times the distance of
// two nodes, so that several nodes near the key are met.
func (m *Machine) points(key nodeid.ID, times uint64) []nodeid.ID {
	if len(m.near) < 3 {
		return nil
	}
	var span uint64 // of both sides together: twice the farther
	for _, n := range m.near {
		span = max(span, 2*min(top(nodeid.Distance(m.cfg.Self, n.ID)), 1<<62))
	}
	by := times * (span / uint64(len(m.near)))
	return []nodeid.ID{shift(key, by), shift(key, -by)}
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
