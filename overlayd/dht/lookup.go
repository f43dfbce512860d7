package dht

import (
	"bytes"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Implementation: tunable.
const (
	maxLookups = 256
	maxCached  = 512
	lookupTime = 4 * time.Second
	maxAsked   = 32 // nodes asked by one lookup
)

// lookup finds the records of a name.
//
//	start ──> READING: the key and the points beside it, then replicas, until of
//	            │  ▲   each list three have answered; of witnessed kinds also a
//	            │  │   majority of the witnesses
//	            ├──┴── once, from points further away, when nothing was found or
//	            │      fewer than three places have answered
//	            ├────> CHECKING: records and chains that may be the newest come in
//	            └────────┴──> Result, after 4 s at the latest with what there is
type lookup struct {
	id   uint64
	name Name
	key  nodeid.ID
	end  time.Time

	view       view        // lists from the places that were asked
	asked      []nodeid.ID // nodes, each once
	answers    []nodeid.ID
	points     int // requests to places that are not answered
	waiting    []nodeid.ID
	again      bool // the second round has begun
	candidates []*candidate
}

type cached struct {
	name    Name
	records []Record
	until   time.Time
}

func (m *Machine) lookup(now time.Time, e Lookup) {
	if e.Name.check() != nil {
		m.count.BadForm++
		m.do(Result{ID: e.ID, Name: e.Name})
		return
	}
	m.cache = slices.DeleteFunc(m.cache, func(c *cached) bool { return !now.Before(c.until) })
	for _, c := range m.cache {
		if c.name == e.Name && !e.Fresh {
			m.count.CacheHits++
			m.do(Result{ID: e.ID, Name: e.Name, Records: c.records})
			return
		}
	}
	if len(m.lookups) >= maxLookups {
		m.count.Busy++
		m.do(Result{ID: e.ID, Name: e.Name})
		return
	}
	key := e.Name.Key()
	l := &lookup{id: e.ID, name: e.Name, key: key, end: now.Add(lookupTime), view: m.ownView(key)}
	m.lookups = append(m.lookups, l)
	l.look(m, now, append(m.points(key, aside), key))
	if e.Kind.Witnessed() {
		for _, w := range m.witnesses(key) {
			l.ask(m, now, w)
		}
	}
	l.advance(m, now)
}

// look asks whoever is nearest to some places.
func (l *lookup) look(m *Machine, now time.Time, places []nodeid.ID) {
	for _, place := range places {
		if m.call(now, wire.Target{ID: place}, wire.Get{Key: l.key}, l) {
			l.points++
		}
	}
}

// ask asks one node, once.
func (l *lookup) ask(m *Machine, now time.Time, id nodeid.ID) {
	if slices.Contains(l.asked, id) || len(l.asked) >= maxAsked {
		return
	}
	l.asked = append(l.asked, id)
	if m.call(now, wire.Target{ID: id, Exact: true}, wire.Get{Key: l.key}, l) {
		l.waiting = append(l.waiting, id)
	}
}

func (l *lookup) answered(m *Machine, now time.Time, r *rpc, src nodeid.ID, answer wire.Message) {
	l.settle(r)
	records := answer.(wire.Records)
	if !slices.Contains(l.answers, src) && len(l.answers) < maxAsked {
		l.answers = append(l.answers, src)
	}
	if !slices.Contains(l.asked, src) && len(l.asked) < maxAsked {
		l.asked = append(l.asked, src)
	}
	if !r.to.Exact {
		l.view.add(src, records.Replicas)
	}
	for _, s := range records.Records {
		l.named(m, now, s, src, records.Piece)
	}
	l.advance(m, now)
}

func (l *lookup) failed(m *Machine, now time.Time, r *rpc) {
	l.settle(r)
	l.advance(m, now)
}

func (l *lookup) settle(r *rpc) {
	if !r.to.Exact {
		l.points--
		return
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(id nodeid.ID) bool { return id == r.to.ID })
}

// named takes note of a record that a node says it has.
func (l *lookup) named(m *Machine, now time.Time, s wire.Stored, src nodeid.ID, p *wire.Piece) {
	mine := 0
	for _, c := range l.candidates {
		if c.stored.Owner != s.Owner {
			continue
		}
		if c.stored.Seq > s.Seq && c.good {
			m.count.Old++
			return
		}
		if c.id().Root == s.Root && c.stored.Size == s.Size && c.stored.Seq == s.Seq {
			c.stored.Remaining = max(c.stored.Remaining, s.Remaining)
			if !c.done && len(c.from) < Replicas && !slices.Contains(c.from, src) {
				c.from = append(c.from, src)
				m.step(now, c)
			}
			return
		}
		mine++
	}
	if mine >= perOwner || len(l.candidates) >= maxCandidates || s.Size < 1 || s.Size > MaxRecord {
		m.count.Busy++
		return
	}
	c := &candidate{key: l.key, stored: s, from: []nodeid.ID{src}, lookup: l}
	l.candidates = append(l.candidates, c)
	m.candidates = append(m.candidates, c)
	m.begin(now, c, p)
}

// advance asks further replicas until enough of each list are asked.
func (l *lookup) advance(m *Machine, now time.Time) {
	for _, list := range l.view.lists {
		replicas := m.choose(l.key, list)
		n := answered(replicas, l.answers) + answered(replicas, l.waiting)
		for _, id := range replicas {
			if n < m.rules.readers && !slices.Contains(l.asked, id) {
				l.ask(m, now, id)
				n++
			}
		}
	}
}

// read says whether enough nodes have answered: of each list, and at least two
// lists that are long enough. When nobody is left to answer, enough have.
func (l *lookup) read(m *Machine) bool {
	if l.points == 0 && len(l.waiting) == 0 {
		return true
	}
	long := 0
	for _, list := range l.view.lists {
		replicas := m.choose(l.key, list)
		if answered(replicas, l.answers) < min(m.rules.readers, len(replicas)) {
			return false
		}
		if len(replicas) >= m.rules.readers {
			long++
		}
	}
	if w := m.witnesses(l.key); l.name.Kind.Witnessed() && 2*answered(w, l.answers) <= len(w) {
		return false
	}
	return long >= 2 && l.points <= 1
}

// secondRound begins once, if what was read so far may be one liar's word.
func (l *lookup) secondRound(m *Machine, now time.Time, found bool) bool {
	if l.again || found && len(l.view.lists) >= 3 || m.rules.readers < 2 {
		return false
	}
	l.again = true
	l.look(m, now, m.points(l.key, further))
	return l.points > 0
}

func answered(of, answers []nodeid.ID) int {
	n := 0
	for _, id := range of {
		if slices.Contains(answers, id) {
			n++
		}
	}
	return n
}

// best returns the newest good candidate of each owner, by owner, and whether
// one that is newer may still turn out good.
func (l *lookup) best() (best []*candidate, open bool) {
	byOwner := slices.Clone(l.candidates)
	slices.SortFunc(byOwner, func(a, b *candidate) int {
		if c := bytes.Compare(a.stored.Owner[:], b.stored.Owner[:]); c != 0 {
			return c
		}
		if a.stored.Seq != b.stored.Seq {
			if a.stored.Seq > b.stored.Seq {
				return -1
			}
			return 1
		}
		return bytes.Compare(a.stored.Root[:], b.stored.Root[:])
	})
	for _, c := range byOwner {
		if n := len(best); n > 0 && best[n-1].stored.Owner == c.stored.Owner {
			continue
		}
		if c.good {
			best = append(best, c)
		}
		open = open || !c.done
	}
	return best, open
}

// endLookups answers the lookups that are complete, or over.
func (m *Machine) endLookups(now time.Time) {
	for _, l := range slices.Clone(m.lookups) {
		best, open := l.best()
		if now.Before(l.end) && (!l.read(m) || open) {
			continue
		}
		if now.Before(l.end) && l.secondRound(m, now, len(best) > 0) {
			continue
		}
		result := Result{ID: l.id, Name: l.name, Asked: len(l.answers)}
		life := MaxLifetime
		for _, c := range best {
			left := min(c.left, time.Duration(c.stored.Remaining)*time.Millisecond)
			if len(c.record.Value) > 0 && len(result.Records) < wire.MaxStored {
				result.Records = append(result.Records, c.record)
				life = min(life, left)
			}
		}
		m.remember(l.name, result.Records, now.Add(life/2))
		m.do(result)
		m.forget(l)
		for _, c := range l.candidates {
			m.finish(now, c, false)
		}
		m.lookups = slices.DeleteFunc(m.lookups, func(o *lookup) bool { return o == l })
	}
}

// remember caches what was found for half of what remains of it.
func (m *Machine) remember(n Name, records []Record, until time.Time) {
	if len(records) == 0 {
		return
	}
	m.cache = slices.DeleteFunc(m.cache, func(c *cached) bool { return c.name == n })
	if len(m.cache) >= maxCached {
		m.cache = slices.Delete(m.cache, 0, 1)
	}
	m.cache = append(m.cache, &cached{n, records, until})
}
