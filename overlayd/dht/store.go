package dht

import (
	"bytes"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// Bounds of what one node stores. The first two are TRUST.md's and the
// protocol's, the others the implementation's.
const (
	HolderRecords = 64       // of one holder
	HolderBytes   = 64 << 10 // of one holder's records
	maxStored     = 4096     // records
	maxStoreBytes = 4 << 20
	perKeyHolder  = 2 // owners under one key, of one holder
)

// entry is a stored record. It was verified.
type entry struct {
	key     nodeid.ID
	record  Record
	object  *piece.Object
	kept    *chain
	holder  credential.KeyID
	expires time.Time
	replica bool        // this node is one of the key's replicas or witnesses
	copies  []nodeid.ID // replicas that have confirmed it
}

// store is what a node keeps for others.
type store struct {
	entries []*entry // by key, then owner
	byID    map[piece.ID]*entry
	usage   map[credential.KeyID]usage
	bytes   int
	next    time.Time // not after the first expiry
}

type usage struct{ records, bytes int }

func newStore() store {
	return store{byID: map[piece.ID]*entry{}, usage: map[credential.KeyID]usage{}}
}

func (s *store) find(key, owner nodeid.ID) (int, bool) {
	return slices.BinarySearchFunc(s.entries, 0, func(e *entry, _ int) int {
		if c := bytes.Compare(e.key[:], key[:]); c != 0 {
			return c
		}
		return bytes.Compare(e.record.Owner[:], owner[:])
	})
}

// under returns the entries of a key.
func (s *store) under(key nodeid.ID) []*entry {
	from, _ := s.find(key, nodeid.ID{})
	to := from
	for to < len(s.entries) && s.entries[to].key == key {
		to++
	}
	return s.entries[from:to]
}

func (s *store) insert(e *entry) {
	i, _ := s.find(e.key, e.record.Owner)
	s.entries = slices.Insert(s.entries, i, e)
	s.byID[e.object.ID()] = e
	s.account(e, 1)
	e.kept.refs++
	if s.next.IsZero() || e.expires.Before(s.next) {
		s.next = e.expires
	}
}

func (s *store) remove(e *entry) {
	i, found := s.find(e.key, e.record.Owner)
	if !found {
		return
	}
	s.entries = slices.Delete(s.entries, i, i+1)
	delete(s.byID, e.object.ID())
	s.account(e, -1)
	e.kept.refs--
}

func (s *store) account(e *entry, sign int) {
	u := s.usage[e.holder]
	u.records += sign
	u.bytes += sign * len(e.object.Bytes())
	s.bytes += sign * len(e.object.Bytes())
	if s.usage[e.holder] = u; u.records == 0 {
		delete(s.usage, e.holder)
	}
}

// get answers what is stored under a key.
func (m *Machine) get(now time.Time, e Received, g wire.Get) {
	answer := wire.Records{Key: g.Key, Replicas: m.nearest(g.Key)}
	if g.Flags&wire.GetNear == 0 {
		for _, e := range slices.Clone(m.store.under(g.Key)) {
			if m.chains.owner(m, now, e.kept) == nil { // revoked or ended since
				m.store.remove(e)
				continue
			}
			if len(answer.Records) < wire.MaxStored {
				answer.Records = append(answer.Records, e.stored(now))
			}
		}
	}
	if len(answer.Records) == 1 {
		if o := m.object(piece.ID{Root: answer.Records[0].Root, Size: int(answer.Records[0].Size)}); piece.Count(len(o.Bytes())) == 1 {
			p := o.Cut(0)
			answer.Piece = &p
		}
	}
	m.tell(e.Src, e.RPC, wire.TypeRecords, answer)
}

func (e *entry) stored(now time.Time) wire.Stored {
	return storedOf(e.record, e.object, e.expires.Sub(now))
}

func storedOf(r Record, o *piece.Object, left time.Duration) wire.Stored {
	id := o.ID()
	return wire.Stored{
		Owner: r.Owner, Seq: r.Seq, Remaining: uint32(max(0, left).Milliseconds()), Root: id.Root, Size: uint16(id.Size),
	}
}

// put takes an offer: it has the record fetched and verified, unless it is here.
func (m *Machine) put(now time.Time, e Received, p wire.Put) {
	if i, found := m.store.find(p.Key, p.Stored.Owner); found && m.store.entries[i].record.Seq >= p.Stored.Seq {
		m.answerPut(e, p, wire.PutHave, m.store.entries[i].record.Seq)
		return
	}
	if p.Stored.Size < 1 || p.Stored.Size > MaxRecord || !m.keeps(p.Key, KindName) {
		m.count.Foreign++
		m.answerPut(e, p, wire.PutInvalid, 0)
		return
	}
	e.Body = nil // it is the caller's
	if c := m.pending(piece.ID{Root: p.Stored.Root, Size: int(p.Stored.Size)}); c != nil {
		if len(c.from) < Replicas && !slices.Contains(c.from, e.Src) {
			c.from = append(c.from, e.Src) // one more source; asked again it will hear that it is stored
			m.step(now, c)
		}
		return
	}
	m.begin(now, m.candidate(p.Key, p.Stored, &e), p.Piece)
}

func (m *Machine) answerPut(e Received, p wire.Put, status wire.PutStatus, seq uint64) {
	m.tell(e.Src, e.RPC, wire.TypePutAnswer, wire.PutAnswer{Key: p.Key, Owner: p.Stored.Owner, Seq: seq, Status: status})
}

// keep stores a verified record if the quotas allow it.
func (m *Machine) keep(now time.Time, c *candidate, owner *credential.Node, left time.Duration) (wire.PutStatus, uint64) {
	if !m.keeps(c.key, c.record.Kind) {
		m.count.Foreign++
		return wire.PutInvalid, 0
	}
	var old *entry
	if i, found := m.store.find(c.key, c.record.Owner); found {
		if old = m.store.entries[i]; old.record.Seq >= c.record.Seq {
			return wire.PutHave, old.record.Seq
		}
	}
	e := &entry{
		key: c.key, record: c.record, object: piece.New(c.text), kept: c.chain, holder: owner.Holder.Key,
		expires: now.Add(min(left, time.Duration(c.stored.Remaining)*time.Millisecond)), replica: true,
	}
	if !m.rules.perHolder {
		e.holder = credential.KeyID(append(make([]byte, 16), c.record.Owner[:]...))
	}
	if old != nil {
		e.copies = nil
		m.store.remove(old)
	}
	if status := m.room(e); status != wire.PutStored {
		if old != nil {
			m.store.insert(old)
		}
		return status, 0
	}
	m.store.insert(e)
	m.count.Stored++
	return wire.PutStored, e.record.Seq
}

// room says whether there is room for a record, and makes some by dropping what
// no longer belongs here.
func (m *Machine) room(e *entry) wire.PutStatus {
	size := len(e.object.Bytes())
	if u := m.store.usage[e.holder]; u.records >= HolderRecords || u.bytes+size > HolderBytes {
		m.count.Quota++
		return wire.PutQuota
	}
	under, same := m.store.under(e.key), 0
	for _, other := range under {
		if other.holder == e.holder {
			same++
		}
	}
	if len(under) >= wire.MaxStored || same >= perKeyHolder {
		m.count.Full++
		return wire.PutFull
	}
	for len(m.store.entries) >= maxStored || m.store.bytes+size > maxStoreBytes {
		i := slices.IndexFunc(m.store.entries, func(e *entry) bool { return !e.replica })
		if i < 0 {
			m.count.Full++
			return wire.PutFull
		}
		m.store.remove(m.store.entries[i])
	}
	return wire.PutStored
}

// expire drops the records whose lifetime has ended.
func (m *Machine) expire(now time.Time) {
	if m.store.next.IsZero() || now.Before(m.store.next) {
		return
	}
	m.store.next = time.Time{}
	for _, e := range slices.Clone(m.store.entries) {
		switch {
		case !now.Before(e.expires):
			m.store.remove(e)
			m.count.Expired++
		case m.store.next.IsZero() || e.expires.Before(m.store.next):
			m.store.next = e.expires
		}
	}
}

// object returns an object that can be served, or nil.
func (m *Machine) object(id piece.ID) *piece.Object {
	if e := m.store.byID[id]; e != nil {
		return e.object
	}
	if o := m.chains.object(id); o != nil {
		return o
	}
	for _, p := range m.publications {
		if p.object != nil && p.object.ID() == id {
			return p.object
		}
	}
	return nil
}

func (m *Machine) serve(now time.Time, to nodeid.ID, f wire.Fetch) {
	o := m.object(piece.ID{Root: f.Root, Size: int(f.Size)})
	if o == nil {
		m.count.Unknown++
		return
	}
	for _, p := range o.Serve(f) {
		if !m.serving.AllowN(now, 1) {
			m.count.Busy++
			return
		}
		m.tell(to, 0, wire.TypeStorePiece, p)
	}
}
