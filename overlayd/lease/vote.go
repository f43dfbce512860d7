package lease

import (
	"errors"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// hold answers a Hold: with a vote once it is on disk, or with why not.
func (w *Witness) hold(e Routed, m *wire.Hold, now time.Time) {
	s := w.book.current.sets(m.Key)
	if !slices.Contains(s.all, w.cfg.ID) {
		w.counts[CountNotMine]++
		return
	}
	if !w.cfg.Crypto.Verify(m.Holder, &m.Signature, m.Signed(nil)) {
		w.counts[CountBadSignature]++
		return
	}
	a := wire.Answer{
		Key: m.Key, Nonce: m.Nonce, Epoch: w.book.current.Epoch, Revocations: w.cfg.Members.Revocations(),
		Witness: w.cfg.ID, Incarnation: w.incarnation, Known: w.knownOf(s.all),
	}
	if w.book.left(now) {
		a.Flags |= wire.AnswerStopped
	}
	h := w.holds[m.Key]
	if h != nil {
		a.Seq = h.seq
		if h.live(now) {
			a.Holder, a.Instance, a.End = h.holder, h.instance, h.end.Round(0).Unix()
			a.Term = uint32(h.end.Sub(now) / time.Second)
		}
	}
	a.Verdict = w.judge(m, h, &s, now)
	if a.Verdict == wire.Granted {
		a.Holder, a.Instance, a.Seq, a.Term = m.Holder, m.Instance, m.Seq, m.Term
		a.End = w.holds[m.Key].end.Round(0).Unix()
		w.counts[CountVotes]++
	} else {
		w.counts[CountNacks]++
	}
	a.Signature = w.cfg.Crypto.Sign(a.Signed(nil))
	w.send(e.Src, e.RPC, a)
}

// judge decides, and holds the key when it grants.
func (w *Witness) judge(m *wire.Hold, h *hold, s *sets, now time.Time) wire.Verdict {
	epoch := max(w.floor, w.book.current.Epoch)
	switch {
	case w.mode == suspended:
		return wire.Suspended
	case m.Epoch < epoch:
		return wire.OldEpoch
	case m.Epoch > w.book.current.Epoch:
		w.act(WantRoster{From: m.Holder, Epoch: m.Epoch})
		return wire.NewEpoch
	case w.book.current.Epoch < w.floor:
		return wire.NewEpoch
	case w.mode == recovering:
		return wire.Recovering
	}
	member, err := w.cfg.Members.Member(m.Holder, m.Chain, now)
	if errors.Is(err, ErrUnknownChain) {
		return wire.NeedChain
	}
	if err != nil || !w.allowed(m, &member) {
		return wire.Refused
	}
	mine := h != nil && h.of(m.Holder, m.Instance)
	live := h != nil && h.live(now)
	switch {
	case mine && live && h.seq == m.Seq && h.nonce == m.Nonce:
		return wire.Granted // a datagram that came twice
	case live && !mine:
		return wire.Held
	}
	if v := w.checkSeq(m, h, s, now); v != wire.Granted {
		return v
	}
	if !(mine && live) && w.used(member.Quota, now) >= member.Leases {
		return wire.OverQuota
	}
	if h == nil && len(w.holds) >= maxHolds && !w.sweep(now) || len(w.pending) >= maxPending {
		w.counts[CountOverflow]++
		return wire.Full
	}
	w.put(m.Key, hold{
		holder: m.Holder, instance: m.Instance, quota: member.Quota, seq: m.Seq, nonce: m.Nonce, term: m.Term,
		end: now.Add(w.rules.hold(time.Duration(m.Term) * time.Second)),
	})
	return wire.Granted
}

// allowed says whether the node may have the key, and for that long.
func (w *Witness) allowed(m *wire.Hold, member *Member) bool {
	_, hold, ok := w.policy.Times(m.Key.Namespace)
	if !ok || member.Namespace != m.Key.Namespace || member.Instance != m.Instance || time.Duration(m.Term)*time.Second != hold {
		return false
	}
	if m.Key.Kind == wire.LeaseName {
		return !reserved(m.Key.Value)
	}
	return w.policy.Leasable(m.Key.Namespace, m.Key.Addr())
}

// checkSeq: the seq is 1 + the highest in a majority's answers. What this
// witness knows itself is never above that; if it is below, the answers must
// be shown.
func (w *Witness) checkSeq(m *wire.Hold, h *hold, s *sets, now time.Time) wire.Verdict {
	if w.rules.anySeq {
		return wire.Granted
	}
	highest := uint64(0)
	if h != nil {
		highest = h.seq
	}
	switch {
	case m.Seq <= highest:
		return wire.WrongSeq
	case m.Seq == highest+1:
		return wire.Granted
	case len(m.Proof) == 0:
		return wire.NeedProof
	}
	var proven uint64
	answered := []nodeid.ID{}
	forgot := false
	for i := range m.Proof {
		p := &m.Proof[i]
		if !tellsSeq(p.Verdict) || p.Epoch != m.Epoch || slices.Contains(answered, p.Witness) || !slices.Contains(s.all, p.Witness) ||
			!w.cfg.Crypto.Verify(p.Witness, &p.Signature, p.Signed(nil)) {
			return wire.WrongSeq
		}
		answered = append(answered, p.Witness)
		proven = max(proven, p.Seq)
		forgot = forgot || p.Witness == w.cfg.ID && p.Incarnation == w.incarnation && p.Seq > highest
	}
	if forgot {
		w.forgot(now)
		return wire.Recovering
	}
	if proven+1 != m.Seq || within(answered, s.now) < w.rules.quorum(len(s.now)) && within(answered, s.before) < max(1, w.rules.quorum(len(s.before))) {
		return wire.WrongSeq
	}
	return wire.Granted
}

// tellsSeq: these answers say what the highest seq is.
func tellsSeq(v wire.Verdict) bool {
	switch v {
	case wire.Granted, wire.Held, wire.WrongSeq, wire.NeedProof, wire.OverQuota, wire.Full:
		return true
	}
	return false
}

// within counts those of list that are in set.
func within(list, set []nodeid.ID) (n int) {
	for _, id := range list {
		if slices.Contains(set, id) {
			n++
		}
	}
	return n
}

// release frees a hold of an acquisition that failed.
func (w *Witness) release(m *wire.Release, now time.Time) {
	if !w.cfg.Crypto.Verify(m.Holder, &m.Signature, m.Signed(nil)) {
		w.counts[CountBadSignature]++
		return
	}
	if _, err := w.cfg.Members.Member(m.Holder, m.Chain, now); err != nil || w.mode != voting {
		w.counts[CountUnexpected]++
		return
	}
	h := w.holds[m.Key]
	switch {
	case h != nil && h.of(m.Holder, m.Instance) && h.seq == m.Seq && h.nonce == m.Nonce && h.live(now):
		free := *h
		free.end = now
		w.put(m.Key, free)
		w.counts[CountReleases]++
	case h == nil && m.Seq == 1 || h != nil && m.Seq == h.seq+1 && !h.live(now):
		// It overtook its Hold, which then comes too late.
		if h == nil && len(w.holds) >= maxHolds {
			w.counts[CountOverflow]++
			return
		}
		w.put(m.Key, hold{holder: m.Holder, instance: m.Instance, seq: m.Seq, nonce: m.Nonce, end: now})
		w.counts[CountReleases]++
	}
}

// show learns of a lease: while recovering, or because its holder was refused.
func (w *Witness) show(c *wire.LeaseCertificate, now time.Time) {
	w.counts[CountShows]++
	term := time.Duration(c.Term) * time.Second
	_, longest, ok := w.policy.Times(c.Key.Namespace)
	// A whole term more, for wall clocks that are wrong.
	if !ok || term > longest || now.Round(0).After(Ends(c).Add(term)) {
		return
	}
	if err := w.book.Verify(c); err != nil {
		w.counts[CountBadSignature]++
		return
	}
	h := w.holds[c.Key]
	if h != nil && c.Seq < h.seq || w.mode == suspended {
		return
	}
	if h == nil || c.Seq > h.seq {
		for i := range c.Votes {
			if v := &c.Votes[i]; v.Witness == w.cfg.ID && v.Incarnation == w.incarnation && w.mode == voting {
				w.forgot(now)
			}
		}
	}
	if h != nil && h.of(c.Holder, c.Instance) && c.Seq == h.seq || h == nil && len(w.holds) >= maxHolds {
		return
	}
	next := hold{holder: c.Holder, instance: c.Instance, seq: c.Seq, term: c.Term, end: now.Add(w.rules.hold(term))}
	if h != nil && h.of(c.Holder, c.Instance) {
		next.quota = h.quota
	}
	if h != nil && c.Seq == h.seq && h.live(now) && h.holder != (nodeid.ID{}) {
		next.holder, next.instance = nodeid.ID{}, wire.Instance{}
	}
	w.put(c.Key, next)
}
