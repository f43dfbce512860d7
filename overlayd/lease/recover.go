package lease

import (
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// maxKnown bounds the witnesses whose incarnation is remembered: several
// rosters' worth.
const maxKnown = 8 * wire.MaxWitnesses

// pull is the copying of one other witness's holds.
type pull struct {
	at       time.Time // when to ask next
	after    wire.LeaseKey
	complete bool
	empty    bool // it has lost its own
}

// beginRecovery takes a new incarnation. What the file had is kept: it was
// once signed for.
func (w *Witness) beginRecovery(now time.Time) {
	w.mode = recovering
	w.incarnation++
	w.fresh = true
	w.restartPulls(now)
	w.greetAt = now
	w.hopeless = time.Time{}
}

func (w *Witness) restartPulls(now time.Time) {
	w.pullNonce = w.cfg.Rand.Uint64()
	w.pulls = map[nodeid.ID]*pull{}
	w.startPulls(now)
}

// startPulls: a witness that recovers copies from all others of each roster it
// is in; a witness of the new roster from all of the one before.
func (w *Witness) startPulls(now time.Time) {
	r := &w.book.current
	start := func(list []nodeid.ID) {
		for _, id := range list {
			if id != w.cfg.ID && w.pulls[id] == nil {
				w.pulls[id] = &pull{at: now}
			}
		}
	}
	if slices.Contains(r.Witnesses, w.cfg.ID) {
		if w.mode == recovering {
			start(r.Witnesses)
		}
		if !w.book.stopped {
			start(r.Previous)
		}
	} else if w.mode == recovering && slices.Contains(r.Previous, w.cfg.ID) {
		start(r.Previous)
	}
}

// pullDue asks again where no answer came.
func (w *Witness) pullDue(now time.Time) {
	for _, id := range w.pullIDs() {
		if p := w.pulls[id]; !p.complete && !now.Before(p.at) {
			p.at = now.Add(pullEvery*4/5 + time.Duration(w.cfg.Rand.Int64N(int64(pullEvery*2/5))))
			w.ask(id, p.after, 0)
		}
	}
}

func (w *Witness) pullIDs() []nodeid.ID {
	ids := make([]nodeid.ID, 0, len(w.pulls))
	for id := range w.pulls {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, nodeid.ID.Compare)
	return ids
}

func (w *Witness) ask(to nodeid.ID, after wire.LeaseKey, flags uint8) {
	if w.mode == suspended {
		return
	}
	if w.mode == recovering {
		flags |= wire.HoldsRecovering
	}
	m := wire.HoldsAsk{
		Witness: w.cfg.ID, Nonce: w.pullNonce, Epoch: w.book.current.Epoch, Incarnation: w.incarnation, Flags: flags, After: after,
	}
	m.Signature = w.cfg.Crypto.Sign(m.Signed(nil))
	w.send(to, 0, m)
}

// holdsAsk gives a page of holds to another witness, after what it says of its
// incarnation is on disk: a vote of an older one does not count with mine.
func (w *Witness) holdsAsk(e Routed, m *wire.HoldsAsk, now time.Time) {
	r := &w.book.current
	if !slices.Contains(r.Witnesses, m.Witness) && !slices.Contains(r.Previous, m.Witness) || m.Witness == w.cfg.ID {
		w.counts[CountNotMine]++
		return
	}
	if !w.cfg.Crypto.Verify(m.Witness, &m.Signature, m.Signed(nil)) {
		w.counts[CountBadSignature]++
		return
	}
	if m.Epoch > r.Epoch {
		w.act(WantRoster{From: m.Witness, Epoch: m.Epoch})
	}
	if m.Epoch < r.Epoch {
		w.act(TellRoster{To: m.Witness})
	}
	if m.Epoch != r.Epoch || w.mode == suspended {
		return
	}
	answer := wire.Holds{Witness: w.cfg.ID, Nonce: m.Nonce, Epoch: m.Epoch}
	k := w.known[m.Witness]
	again := m.Incarnation == k.number && (m.Flags&wire.HoldsRecovering == 0 || k.nonce == m.Nonce)
	switch {
	case m.Incarnation > k.number:
		w.learnIncarnation(m.Witness, incarnation{m.Incarnation, m.Nonce})
	case !again:
		answer.Flags = wire.HoldsRefused
	}
	answer.Asker = w.known[m.Witness].number
	if answer.Flags == 0 && m.Flags&wire.HoldsDone != 0 {
		w.handed[m.Witness] = slices.Contains(r.Witnesses, m.Witness)
		w.makeStop()
		return
	}
	if answer.Flags == 0 && w.mode == recovering {
		answer.Flags = wire.HoldsEmpty
	}
	if answer.Flags == 0 {
		w.page(&answer, m.After, now)
	}
	answer.Signature = w.cfg.Crypto.Sign(answer.Signed(nil))
	w.send(e.Src, e.RPC, answer)
}

func (w *Witness) learnIncarnation(id nodeid.ID, k incarnation) {
	if _, ok := w.known[id]; !ok && len(w.known) >= maxKnown {
		w.counts[CountOverflow]++
		return
	}
	w.known[id] = k
	w.record(appendKnown(nil, id, k))
}

// page fills in the holds after a key. The order is fixed when somebody
// begins: what is added later has the votes of the asker's roster too.
func (w *Witness) page(m *wire.Holds, after wire.LeaseKey, now time.Time) {
	if after == (wire.LeaseKey{}) || w.sorted == nil {
		w.sorted = w.sortedKeys()
	}
	i, found := slices.BinarySearchFunc(w.sorted, after, wire.LeaseKey.Compare)
	if found {
		i++
	}
	for ; i < len(w.sorted) && len(m.Holds) < wire.MaxHolds; i++ {
		h := w.holds[w.sorted[i]]
		if h == nil {
			continue
		}
		held := wire.HeldKey{Key: w.sorted[i], Holder: h.holder, Instance: h.instance, Quota: h.quota, Seq: h.seq}
		if h.live(now) {
			held.Left = uint32((h.end.Sub(now) + time.Second - 1) / time.Second)
		}
		m.Holds = append(m.Holds, held)
	}
	if i < len(w.sorted) {
		m.Flags |= wire.HoldsMore
	}
}

// copied takes a page of another witness's holds.
func (w *Witness) copied(m *wire.Holds, now time.Time) {
	p := w.pulls[m.Witness]
	if p == nil || p.complete || m.Nonce != w.pullNonce || m.Epoch != w.book.current.Epoch {
		w.counts[CountUnexpected]++
		return
	}
	if !w.cfg.Crypto.Verify(m.Witness, &m.Signature, m.Signed(nil)) {
		w.counts[CountBadSignature]++
		return
	}
	if m.Flags&wire.HoldsRefused != 0 {
		if w.mode == recovering { // somebody had that incarnation
			w.incarnation = max(w.incarnation, m.Asker) + 1
			w.record(w.appendHeader(nil))
			w.restartPulls(now)
		}
		return
	}
	p.empty = m.Flags&wire.HoldsEmpty != 0
	if p.empty || len(m.Holds) > 0 && m.Holds[0].Key.Compare(p.after) <= 0 && p.after != (wire.LeaseKey{}) {
		return
	}
	for i := range m.Holds {
		w.merge(&m.Holds[i], now)
		p.after = m.Holds[i].Key
	}
	p.at = now
	if m.Flags&wire.HoldsMore == 0 {
		p.complete = true
		if slices.Contains(w.book.current.Previous, m.Witness) {
			w.ask(m.Witness, p.after, wire.HoldsDone)
		}
	}
}

// sayDone tells the previous roster's witnesses again that their holds have
// arrived: one that has started again does not know.
func (w *Witness) sayDone() {
	if w.book.stopped {
		return
	}
	for _, id := range w.book.current.Previous {
		if p := w.pulls[id]; p != nil && p.complete {
			w.ask(id, p.after, wire.HoldsDone)
		}
	}
}

// merge learns of a hold from another witness. When two live holders claim a
// key, either may have a majority: nobody gets it before both have ended.
func (w *Witness) merge(m *wire.HeldKey, now time.Time) {
	h := w.holds[m.Key]
	_, longest, ok := w.policy.Times(m.Key.Namespace)
	if !ok || h == nil && len(w.holds) >= maxHolds {
		w.counts[CountOverflow]++
		return
	}
	longest = w.rules.hold(longest)
	left := min(time.Duration(m.Left)*time.Second, longest)
	next := hold{holder: m.Holder, instance: m.Instance, quota: m.Quota, seq: m.Seq, term: uint32(longest / time.Second), end: now.Add(w.rules.hold(left))}
	if h != nil {
		next.seq = max(next.seq, h.seq)
		same := h.of(m.Holder, m.Instance)
		switch {
		case same && h.seq >= m.Seq && !next.end.After(h.end) || !same && left == 0 && h.seq >= m.Seq:
			return
		case same:
			next.nonce = h.nonce
			if h.end.After(next.end) {
				next.end = h.end
			}
		case h.live(now) && left > 0:
			next.holder, next.instance, next.quota = nodeid.ID{}, wire.Instance{}, wire.Holder{}
			if h.end.After(next.end) {
				next.end = h.end
			}
		case h.live(now):
			next.holder, next.instance, next.quota, next.end, next.nonce = h.holder, h.instance, h.quota, h.end, h.nonce
		}
	}
	w.put(m.Key, next)
	w.counts[CountCopied]++
}

// recovered begins to vote when enough has been copied, or when there is
// nobody to copy from and live nodes have had the time to show their leases.
func (w *Witness) recovered(now time.Time) {
	r := &w.book.current
	enough, hope := true, true
	alone := true
	for _, list := range [][]nodeid.ID{r.Witnesses, r.Previous} {
		if !slices.Contains(list, w.cfg.ID) {
			continue
		}
		complete, empty := 0, 1
		for _, id := range list {
			if p := w.pulls[id]; p != nil && p.complete {
				complete++
			} else if p != nil && p.empty {
				empty++
			}
		}
		enough = enough && len(list) > 1 && complete >= coverOthers(len(list))
		hope = hope && empty < majority(len(list))
		alone = alone && len(list) == 1
	}
	switch {
	case enough:
	case hope:
		w.hopeless = time.Time{}
		return
	case w.hopeless.IsZero():
		w.hopeless = now
		return
	case now.Before(w.hopeless.Add(RecoverWait)):
		return
	case alone:
		w.raise(AlarmAlone, w.cfg.ID, wire.LeaseKey{})
	default:
		w.raise(AlarmNoMemory, w.cfg.ID, wire.LeaseKey{})
	}
	w.mode = voting
	w.hopeless = time.Time{}
	w.record(appendRecord(nil, recordVoting, nil))
	w.greetAt = now
}
