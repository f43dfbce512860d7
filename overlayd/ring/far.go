package ring

import (
	"math"
	"slices"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// farSearchState are the candidates of the last draw, the best first.
type farSearchState struct {
	candidates []wire.Peer
	tried      int
}

// maxFarTries bounds the candidates of one draw that are asked. Implementation.
const maxFarTries = 3

// maxTaken bounds the far links that others draw to a node. Where most nodes'
// budgets are used up, one with a large budget would take a hundred, and forward
// as much more. Implementation.
const maxTaken = 32

// draw returns how far clockwise the next far link goes, as a share of the
// ring: the harmonic law p(x) = 1/(x ln n) on [1/n, 1], by inversion (Symphony
// §3.1).
func (m *Machine) draw() float64 {
	u := m.cfg.Rand.Float64()
	if m.rules.mixedBase {
		return math.Exp(m.size * math.Log10(2) * (u - 1))
	}
	return math.Exp2(m.size * (u - 1))
}

// farTarget is how many far links this node draws: half of log2 N, as each has
// two ends, within what the budget leaves beside the neighbours.
func (m *Machine) farTarget() int {
	if m.size < 3 { // everybody is a neighbour
		return 0
	}
	return min(int(math.Ceil(m.size/2)), (m.cfg.Degree-2*near)/2)
}

// farCount returns the far links of this node's own, and those being opened.
func (m *Machine) farCount() (linked, opening int) {
	for _, c := range m.conns {
		if c.roles&wire.RoleFar != 0 {
			linked++
		}
	}
	for _, o := range m.opening {
		if o.why == WhyFar {
			opening++
		}
	}
	return linked, opening
}

// farTaken counts the far links that others drew to this node.
func (m *Machine) farTaken() (n int) {
	for _, c := range m.conns {
		if c.theirs&wire.RoleFar != 0 {
			n++
		}
	}
	return n
}

// wantFar draws far links while some are missing, and one anew every five
// minutes and when the ring has doubled or halved; the oldest goes when the
// new one is there.
func (m *Machine) wantFar() {
	if m.phase != OnRing {
		return
	}
	linked, opening := m.farCount()
	want := m.farTarget()
	if linked > want {
		m.release(m.oldestFar(), wire.RoleFar)
	}
	if m.now >= m.renewAt || math.Abs(m.size-m.drawnSize) >= 1 {
		m.renewAt, m.drawnSize, m.renewing = m.now+m.jitter(farRenew), m.size, true
	}
	missing := linked+opening < want || m.renewing && want > 0 && linked+opening == want
	switch {
	case !missing:
		m.farAt = never
	case m.farAt == never:
		m.farAt = m.now + m.jitter(farSearch)
	case m.now >= m.farAt && !m.calling(callFar):
		m.farAt = m.now + m.jitter(farSearch)
		if len(m.conns)+len(m.opening) < m.cfg.Degree {
			m.renewing = false
			at := nodeid.Add(m.cfg.ID, nodeid.FromFraction(m.draw()))
			m.begin(call{kind: callFar, to: wire.Target{ID: at}})
		}
	case m.now >= m.farAt:
		m.farAt = m.now + m.jitter(farSearch)
	}
}

// oldestFar returns the far link that was drawn first. There is one.
func (m *Machine) oldestFar() *conn {
	var oldest *conn
	for _, c := range m.conns {
		if c.roles&wire.RoleFar != 0 && (oldest == nil || c.farAt < oldest.farAt) {
			oldest = c
		}
	}
	return oldest
}

// farFound takes the nodes around a drawn point: of up to 16 consecutive ones
// the nearest by round trip is asked first.
func (m *Machine) farFound(msg wire.Found) {
	around := []wire.Peer{msg.Self}
	for i := range wire.MaxList {
		for _, side := range [2][]wire.Peer{msg.List.Succs, msg.List.Preds} {
			if i < len(side) && len(around) < pns {
				around = append(around, side[i])
			}
		}
	}
	around = slices.DeleteFunc(around, func(p wire.Peer) bool {
		return p.ID == m.cfg.ID || m.held(p.ID) || m.conn(p.ID) != nil
	})
	slices.SortStableFunc(around, func(a, b wire.Peer) int {
		return cmpFloat(m.coord.to(a.Coord), m.coord.to(b.Coord))
	})
	m.far = farSearchState{candidates: around[:min(maxFarTries, len(around))]}
	m.farRefused()
}

func cmpFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// farRefused asks the next candidate.
func (m *Machine) farRefused() {
	for m.far.tried < len(m.far.candidates) {
		p := m.far.candidates[m.far.tried]
		m.far.tried++
		if m.open(wire.Contact{ID: p.ID, Holder: p.Holder}, nodeid.ID{}, WhyFar) {
			return
		}
	}
}
