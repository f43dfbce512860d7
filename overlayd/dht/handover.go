package dht

import (
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// Implementation: tunable.
const (
	maxOffers  = 2048 // waiting to be sent
	offerBatch = 16
	offerPause = 100 * time.Millisecond
)

// handover brings stored records to nodes that have become replicas. It offers
// the record by its name: who has it says so, who has not fetches it.
type handover struct {
	at     time.Time // when to compare what is stored with the neighbourhood
	send   time.Time // when to send the next offers
	next   time.Time // the earlier of both
	offers []offer
}

type offer struct {
	key, owner, to nodeid.ID
	seq            uint64
}

func (h *handover) schedule(at time.Time) {
	h.at = at
	h.settle()
}

func (h *handover) settle() {
	h.next = h.at
	if len(h.offers) > 0 && (h.next.IsZero() || h.send.Before(h.next)) {
		h.next = h.send
	}
}

// handOver does what is due.
func (m *Machine) handOver(now time.Time) {
	h := &m.handover
	if !h.at.IsZero() && !now.Before(h.at) {
		h.at = time.Time{}
		m.compare(m.neighbourhood())
	}
	if len(h.offers) > 0 && !now.Before(h.send) {
		n := min(offerBatch, len(h.offers))
		for _, o := range h.offers[:n] {
			m.offer(now, o, nil)
		}
		h.offers = slices.Delete(h.offers, 0, n)
		h.send = now.Add(offerPause)
	}
	h.settle()
}

// compare queues an offer for each replica that has not confirmed a record, and
// marks the records whose replica this node no longer is.
func (m *Machine) compare(nodes []wire.Replica) {
	if !m.rules.handover {
		return
	}
	for _, e := range m.store.entries {
		replicas := m.choose(e.key, nodes)
		e.replica = slices.Contains(replicas, m.cfg.Self) ||
			e.record.Kind.Witnessed() && slices.Contains(m.witnesses(e.key), m.cfg.Self)
		e.copies = slices.DeleteFunc(e.copies, func(id nodeid.ID) bool { return !slices.Contains(replicas, id) })
		for _, to := range replicas {
			o := offer{e.key, e.record.Owner, to, e.record.Seq}
			if to == m.cfg.Self || slices.Contains(e.copies, to) || slices.Contains(m.handover.offers, o) {
				continue
			}
			if len(m.handover.offers) >= maxOffers {
				m.count.Busy++
				return
			}
			m.handover.offers = append(m.handover.offers, o)
		}
	}
}

func (m *Machine) offer(now time.Time, o offer, first *wire.Piece) {
	i, found := m.store.find(o.key, o.owner)
	if !found || m.store.entries[i].record.Seq != o.seq {
		return
	}
	m.call(now, wire.Target{ID: o.to, Exact: true}, wire.Put{Key: o.key, Stored: m.store.entries[i].stored(now), Piece: first}, o)
}

func (o offer) answered(m *Machine, now time.Time, _ *rpc, _ nodeid.ID, answer wire.Message) {
	a, ok := answer.(wire.PutAnswer)
	i, found := m.store.find(o.key, o.owner)
	if !ok || !found || a.Status != wire.PutStored && a.Status != wire.PutHave {
		return
	}
	if a.Status == wire.PutStored {
		m.count.HandedOver++
	}
	if e := m.store.entries[i]; !slices.Contains(e.copies, o.to) && len(e.copies) < 2*Replicas {
		e.copies = append(e.copies, o.to)
	}
}

// failed has it tried once more: the node may be gone, of which ring tells, or
// the path was bad.
func (o offer) failed(m *Machine, now time.Time, _ *rpc) {
	if m.handover.at.IsZero() {
		m.handover.schedule(now.Add(soon))
	}
}

// leave hands everything to those who are replicas when this node is gone, the
// records along with the offers as far as one piece holds them.
func (m *Machine) leave(now time.Time) {
	m.handover.offers = nil
	m.compare(m.near)
	for _, o := range m.handover.offers {
		var first *wire.Piece
		if i, found := m.store.find(o.key, o.owner); found {
			if object := m.store.entries[i].object; piece.Count(object.ID().Size) == 1 {
				p := object.Cut(0)
				first = &p
			}
		}
		m.offer(now, o, first)
	}
	m.handover.offers = nil
	m.handover.settle()
}
