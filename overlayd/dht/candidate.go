package dht

import (
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// Implementation: tunable.
const (
	maxPending    = 256 // puts whose record or chain is on its way
	maxCandidates = 32  // of one lookup
	perOwner      = 4   // of them of one owner
)

// candidate is a record that somebody named and that is not verified yet.
//
//	NAMED ──all pieces──> READ ──chain known──> good: stored, or shown
//	  │                    │ chain unknown: it is fetched
//	  └── lost ──> bad <───┴── lost, or a check failed
type candidate struct {
	key    nodeid.ID
	stored wire.Stored
	from   []nodeid.ID // who has it; the last named it last
	text   []byte
	record Record
	chain  *chain
	put    *Received // the put it came with, or
	lookup *lookup   // the lookup it is for
	owner  *credential.Node
	left   time.Duration // of its lifetime, when found good
	good   bool
	done   bool
}

func (c *candidate) id() piece.ID { return piece.ID{Root: c.stored.Root, Size: int(c.stored.Size)} }

// pending returns the put that waits for the same record, or nil.
func (m *Machine) pending(id piece.ID) *candidate {
	i := slices.IndexFunc(m.candidates, func(c *candidate) bool { return c.put != nil && c.id() == id })
	if i < 0 {
		return nil
	}
	return m.candidates[i]
}

// candidate notes a record that was put and is to be verified. Beyond
// maxPending a random one is given up, unanswered, so that who meant it asks
// again: whoever floods with puts pushes out mostly its own.
func (m *Machine) candidate(key nodeid.ID, stored wire.Stored, put *Received) *candidate {
	var puts []*candidate
	for _, c := range m.candidates {
		if c.put != nil {
			puts = append(puts, c)
		}
	}
	if len(puts) >= maxPending {
		m.count.Busy++
		gone := puts[m.cfg.Rand.IntN(len(puts))]
		gone.done = true
		m.candidates = slices.DeleteFunc(m.candidates, func(c *candidate) bool { return c == gone })
	}
	c := &candidate{key: key, stored: stored, from: []nodeid.ID{put.Src}, put: put}
	m.candidates = append(m.candidates, c)
	return c
}

// begin starts with the piece that came along, if one did.
func (m *Machine) begin(now time.Time, c *candidate, p *wire.Piece) {
	if o := m.object(c.id()); o != nil {
		c.text = o.Bytes()
	} else if p != nil && p.Root == c.stored.Root && int(p.Size) == int(c.stored.Size) && piece.Count(int(p.Size)) == 1 {
		if piece.Check(*p) != nil {
			m.count.FalsePieces++
			m.finish(now, c, false)
			return
		}
		c.text = slices.Clone(p.Data)
	}
	m.step(now, c)
}

// step takes a candidate as far as what is here allows.
func (m *Machine) step(now time.Time, c *candidate) {
	if c.done {
		return
	}
	if c.text == nil {
		m.want(now, c, c.id())
		return
	}
	if c.record.Kind == 0 {
		record, err := ParseRecord(c.text)
		if err != nil || record.Key() != c.key || record.Owner != c.stored.Owner || record.Seq != c.stored.Seq {
			m.count.BadForm++
			m.finish(now, c, false)
			return
		}
		c.record = record
	}
	if c.chain == nil {
		if c.chain = m.chains.byID[c.record.Chain]; c.chain == nil && m.chains.mine != nil && m.chains.mine.ID() == c.record.Chain {
			c.chain = m.chains.add(m, now, m.chain)
		}
		if c.chain == nil {
			m.want(now, c, c.record.Chain)
			return
		}
	}
	m.finish(now, c, m.verify(now, c))
}

// want fetches an object from whoever named the candidate.
func (m *Machine) want(now time.Time, c *candidate, id piece.ID) {
	for _, from := range c.from {
		if err := m.fetcher.Want(now, id, from); err != nil {
			m.count.Busy++
			m.finish(now, c, false)
			return
		}
	}
}

// verify makes every check of a record.
func (m *Machine) verify(now time.Time, c *candidate) bool {
	owner := m.chains.owner(m, now, c.chain)
	if owner == nil {
		return false
	}
	left, err := c.record.left(now)
	if err != nil {
		m.count.BadTime++
		return false
	}
	if err := checkRight(c.record, owner, m.cfg.NameRight, now); err != nil {
		m.count.BadRight++
		return false
	}
	if !m.cfg.Crypto.Verify(owner, c.record.Digest(), c.record.Signature) {
		m.count.BadSign++
		return false
	}
	c.owner, c.left = owner, min(left, time.Duration(c.stored.Remaining)*time.Millisecond)
	return c.left > 0
}

// finish ends a candidate: it is stored, or shown, or refused.
func (m *Machine) finish(now time.Time, c *candidate, good bool) {
	if c.done {
		return
	}
	c.done, c.good = true, good
	m.candidates = slices.DeleteFunc(m.candidates, func(o *candidate) bool { return o == c })
	if c.put == nil {
		return // the lookup looks when all of its are done
	}
	status, seq := wire.PutInvalid, uint64(0)
	if good {
		status, seq = m.keep(now, c, c.owner, c.left)
	}
	m.tell(c.put.Src, c.put.RPC, wire.TypePutAnswer, wire.PutAnswer{Key: c.key, Owner: c.stored.Owner, Seq: seq, Status: status})
}

// piece takes a piece of a record or chain.
func (m *Machine) piece(now time.Time, from nodeid.ID, p wire.Piece) {
	outcome, object := m.fetcher.Add(now, from, p)
	switch outcome {
	case piece.Unasked, piece.Twice:
		m.count.Unasked++
		return
	case piece.False:
		m.count.FalsePieces++
		return
	case piece.Kept:
		return
	}
	id := piece.ID{Root: p.Root, Size: len(object)}
	added := false
	for _, c := range slices.Clone(m.candidates) {
		switch {
		case c.text == nil && c.id() == id:
			c.text = object
		case c.text != nil && c.record.Chain == id && !added:
			added = true // once, whoever waits for it
			if m.chains.add(m, now, object) == nil {
				m.lost(now, id)
			}
		}
	}
	for _, c := range slices.Clone(m.candidates) {
		if c.text != nil && c.chain == nil && (c.id() == id || c.record.Chain == id) {
			m.step(now, c)
		}
	}
}

// lost ends the candidates that wait for an object nobody delivered, or that
// was refused.
func (m *Machine) lost(now time.Time, id piece.ID) {
	for _, c := range slices.Clone(m.candidates) {
		if c.text == nil && c.id() == id || c.text != nil && c.chain == nil && c.record.Chain == id {
			m.finish(now, c, false)
		}
	}
}
