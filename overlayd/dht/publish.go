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
	maxPublications = HolderRecords
	soon            = 5 * time.Second
)

// publication is a record that this node keeps in the store. At half its
// lifetime it is signed anew and put again:
//
//	WAITING ──half the lifetime──> LOOKING (three points) ──> PUTTING ──> WAITING
//	   ▲                                                         │
//	   └──────────── 5 s, fewer than half of the copies ─────────┘
type publication struct {
	name      Name
	value     []byte
	lifetime  time.Duration
	seq       uint64
	record    Record
	object    *piece.Object
	next      time.Time // zero while busy
	busy      bool
	again     bool // it changed while it was busy
	withdrawn bool

	view    view
	waiting int // requests not answered
	putting bool
	asked   int // replicas and witnesses it is put to
	copies  int
}

func (m *Machine) publish(now time.Time, e Publish) {
	if e.Name.check() != nil || len(e.Value) > MaxValue {
		m.count.BadForm++
		return
	}
	lifetime := e.Lifetime
	if lifetime == 0 {
		lifetime = e.Kind.Lifetime()
	}
	lifetime = min(max(lifetime, MinLifetime), MaxLifetime).Truncate(time.Second)
	p := m.publication(e.Name)
	if p == nil {
		if len(m.publications) >= maxPublications {
			m.count.Quota++
			return
		}
		p = &publication{name: e.Name}
		m.publications = append(m.publications, p)
	}
	p.value, p.lifetime, p.withdrawn = slices.Clone(e.Value), lifetime, false
	m.putAgain(now, p)
}

// withdraw puts an empty record over the one that was published, once.
func (m *Machine) withdraw(now time.Time, n Name) {
	if p := m.publication(n); p != nil {
		p.value, p.withdrawn = nil, true
		m.putAgain(now, p)
	}
}

func (m *Machine) putAgain(now time.Time, p *publication) {
	m.cache = slices.DeleteFunc(m.cache, func(c *cached) bool { return c.name == p.name })
	if p.busy {
		p.again = true
	} else {
		p.next = now
	}
}

func (m *Machine) publication(n Name) *publication {
	i := slices.IndexFunc(m.publications, func(p *publication) bool { return p.name == n })
	if i < 0 {
		return nil
	}
	return m.publications[i]
}

// republish begins what is due.
func (m *Machine) republish(now time.Time) {
	for _, p := range slices.Clone(m.publications) {
		if p.busy || p.next.IsZero() || now.Before(p.next) {
			continue
		}
		if m.chain == nil { // identity sets next
			p.next = time.Time{}
			continue
		}
		if err := m.sign(now, p); err != nil {
			p.next = now.Add(soon)
			continue
		}
		p.busy, p.again, p.putting, p.next = true, false, false, time.Time{}
		key := p.record.Key()
		p.view, p.waiting, p.asked, p.copies = m.ownView(key), 0, 0, 0
		for _, point := range append(m.points(key, aside), key) {
			if m.call(now, wire.Target{ID: point}, wire.Get{Key: key, Flags: wire.GetNear}, p) {
				p.waiting++
			}
		}
		m.proceed(now, p)
	}
}

func (m *Machine) sign(now time.Time, p *publication) error {
	p.seq = max(p.seq+1, uint64(now.Round(0).UnixMilli()))
	r := Record{
		Name: p.name, Seq: p.seq, Lifetime: p.lifetime, Owner: m.cfg.Self, Chain: m.chains.mine.ID(), Value: p.value,
	}
	signature, err := m.cfg.Crypto.Sign(r.Digest())
	if err != nil {
		return err
	}
	r.Signature = signature
	p.record, p.object = r, piece.New(r.Append(nil))
	return nil
}

func (p *publication) answered(m *Machine, now time.Time, _ *rpc, src nodeid.ID, answer wire.Message) {
	p.waiting--
	switch a := answer.(type) {
	case wire.Records:
		p.view.add(src, a.Replicas)
	case wire.PutAnswer:
		if a.Status == wire.PutStored || a.Status == wire.PutHave && a.Seq == p.seq {
			p.copies++
		}
	}
	m.proceed(now, p)
}

func (p *publication) failed(m *Machine, now time.Time, _ *rpc) {
	p.waiting--
	m.proceed(now, p)
}

// proceed goes from looking to putting, and from putting to waiting.
func (m *Machine) proceed(now time.Time, p *publication) {
	if p.waiting > 0 {
		return
	}
	if !p.putting {
		p.putting = true
		first := p.object.Cut(0)
		msg := wire.Put{Key: p.record.Key(), Stored: storedOf(p.record, p.object, p.lifetime), Piece: &first}
		for _, to := range m.holders(p.record.Key(), p.name.Kind, p.view) {
			if m.call(now, wire.Target{ID: to, Exact: true}, msg, p) {
				p.waiting++
				p.asked++
			}
		}
		if p.waiting > 0 {
			return
		}
	}
	m.do(Published{p.name, p.seq, p.copies})
	p.busy, p.view = false, view{}
	half := p.lifetime / 2
	switch {
	case p.again:
		p.again, p.next = false, now.Add(time.Millisecond)
	case 2*p.copies <= p.asked:
		p.next = now.Add(min(half, soon))
	case p.withdrawn:
		m.publications = slices.DeleteFunc(m.publications, func(o *publication) bool { return o == p })
	default: // at half, less up to a tenth: not all at one time
		p.next = now.Add(half - time.Duration(m.cfg.Rand.Int64N(int64(half)/10)))
	}
}

// holders returns who is to have a record: the replicas of its key by all lists
// together; the first three by each list, so that a list of lies displaces
// nobody; and its witnesses if the grid depends on it. Without lies these are
// five nodes, or few more where lists end near the key.
func (m *Machine) holders(key nodeid.ID, kind Kind, v view) []nodeid.ID {
	var all []nodeid.ID
	add := func(ids []nodeid.ID) {
		for _, id := range ids {
			if !slices.Contains(all, id) {
				all = append(all, id)
			}
		}
	}
	add(m.choose(key, v.merged()))
	for _, list := range v.lists {
		replicas := m.choose(key, list)
		add(replicas[:min(m.rules.readers, len(replicas))])
	}
	if kind.Witnessed() {
		add(m.witnesses(key))
	}
	return all
}
