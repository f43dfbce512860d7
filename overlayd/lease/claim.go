package lease

import (
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// claim is one lease that the node wants; Holder has its state machine.
type claim struct {
	h         *Holder
	id        ClaimID
	namespace string
	name      string        // "": an address
	previous  wire.LeaseKey // tried first

	state   State
	lease   Lease
	prior   wire.LeaseCertificate // the one before lease's
	settled bool                  // granted at least once since the start
	sent    uint64                // highest seq that this machine sent for the lease's key

	try     uint32 // next candidate
	tried   int    // candidates since the last grant
	key     wire.LeaseKey
	round   *round
	done    *round // the one that lease is from: late answers still tell something
	seq     uint64 // of the next round
	proof   []wire.Answer
	quick   int
	backoff time.Duration
	next    time.Time // of the next round
	open    time.Time // validating: when it is used though nobody answered
}

// round is one attempt: one Hold to every witness of the key, sent again to
// those that are silent.
type round struct {
	key     wire.LeaseKey
	nonce   uint64
	seq     uint64
	term    uint32
	renewal bool
	proof   []wire.Answer
	sets    sets
	sent    time.Time // the lease counts from here
	resend  time.Time
	pause   time.Duration
	answers []wire.Answer // the latest of each witness
}

func (c *claim) begin(saved []byte, now time.Time) {
	c.state, c.next = Acquiring, now
	if l, ok := c.h.parseSaved(saved, now); ok && l.Key.Namespace == c.namespace && (l.Key.Kind == wire.LeaseName) == (c.name != "") {
		c.previous = l.Key
		if l.MaySend(now) {
			c.lease = l
			c.validate(now)
		}
	}
}

func (c *claim) validate(now time.Time) {
	c.round = nil
	c.key, c.seq = c.lease.Key, c.lease.Certificate.Seq+1
	c.next, c.quick, c.backoff = now, 0, 0
	c.open = now.Add(validateWait)
	c.set(Validating, ReasonReturned)
}

func (c *claim) set(s State, why Reason) {
	c.state = s
	a := Changed{Claim: c.id, State: s, Why: why}
	if s == Holding {
		a.Lease = c.lease
	}
	c.h.act(a)
}

func (c *claim) deadline() time.Time {
	if c.state == Stopped || c.h.policy == nil || c.h.book.current.Epoch == 0 {
		return time.Time{}
	}
	next := c.next
	if r := c.round; r != nil {
		next = r.sent.Add(roundTimeout)
		if r.resend.Before(next) {
			next = r.resend
		}
	}
	if c.state == Validating && c.open.Before(next) {
		next = c.open
	}
	if c.state == Holding || c.state == Validating {
		if c.lease.until.Before(next) {
			next = c.lease.until
		}
	}
	return next
}

func (c *claim) due(now time.Time) {
	if c.state == Stopped || c.h.book.current.Epoch == 0 {
		return
	}
	if (c.state == Holding || c.state == Validating) && !c.lease.MaySend(now) {
		c.lose(ReasonExpired, now)
	}
	if c.round != nil {
		switch {
		case now.Sub(c.round.sent) >= roundTimeout:
			c.fail(now)
		case !now.Before(c.round.resend):
			c.send(now)
		}
	}
	if c.state == Validating && !now.Before(c.open) {
		c.unanswered(now)
	}
	if c.round == nil && !now.Before(c.next) {
		c.start(now)
	}
}

// unanswered: nobody has answered in time. The lease is ours by its hold, and
// is used, unless some witness says that another holds the key.
func (c *claim) unanswered(now time.Time) {
	c.open = now.Add(validateWait)
	if c.round != nil {
		for i := range c.round.answers {
			if a := &c.round.answers[i]; a.Verdict == wire.Held && a.Seq > c.lease.Certificate.Seq {
				return
			}
		}
	}
	c.set(Holding, ReasonUnreached)
}

// start begins a round.
func (c *claim) start(now time.Time) {
	h := c.h
	_, hold, ok := h.policy.Times(c.namespace)
	if !ok || !c.choose() {
		c.next = now.Add(backoffMost)
		return
	}
	if h.rules.anySeq {
		c.seq = h.counts[CountRounds] + 1
	}
	c.round = &round{
		key: c.key, nonce: h.cfg.Rand.Uint64(), seq: c.seq, term: uint32(hold / time.Second), renewal: c.state != Acquiring,
		proof: c.proof, sets: h.book.current.sets(c.key), sent: now, pause: resendFirst,
	}
	c.proof = nil
	if c.round.renewal {
		c.sent = max(c.sent, c.seq)
	}
	h.counts[CountRounds]++
	c.send(now)
}

// choose picks the key of the next round.
func (c *claim) choose() bool {
	if c.key != (wire.LeaseKey{}) {
		return true
	}
	c.seq, c.proof, c.quick = 1, nil, 0
	if c.name != "" {
		key, err := NameKey(c.namespace, c.name)
		c.key = key
		return err == nil
	}
	if p := c.previous; p != (wire.LeaseKey{}) {
		c.previous = wire.LeaseKey{}
		if c.h.policy.Leasable(c.namespace, p.Addr()) && !c.h.wants(p) {
			c.key = p
			return true
		}
	}
	pool := c.h.policy.Pool(c.namespace)
	for range 256 {
		addr := candidate(pool, c.namespace, c.h.cfg.ID, c.try)
		c.try++
		key := AddressKey(c.namespace, addr)
		if c.h.policy.Leasable(c.namespace, addr) && !c.h.wants(key) {
			c.key = key
			return true
		}
	}
	return false
}

// wants says whether one of the claims has the key or is asking for it: no two
// of them may.
func (h *Holder) wants(key wire.LeaseKey) bool {
	return slices.ContainsFunc(h.claims, func(c *claim) bool { return c.key == key || c.lease.Key == key })
}

// send sends the round's Hold to the witnesses that have not answered.
func (c *claim) send(now time.Time) {
	r, h := c.round, c.h
	m := wire.Hold{
		Nonce: r.nonce, Epoch: h.book.current.Epoch, Holder: h.cfg.ID, Instance: h.cfg.Instance, Seq: r.seq, Term: r.term,
		Chain: h.cfg.Chain, Key: r.key, Proof: r.proof,
	}
	m.Signature = h.cfg.Crypto.Sign(m.Signed(nil))
	for _, id := range r.sets.all {
		if slices.ContainsFunc(r.answers, func(a wire.Answer) bool { return a.Witness == id && a.Verdict != wire.NeedChain }) {
			continue
		}
		h.act(Route{To: wire.Target{ID: id, Exact: true}, RPC: uint32(r.nonce), Type: wire.TypeHold, Body: m.Append(make([]byte, 0, 384))})
	}
	r.resend = now.Add(r.pause)
	r.pause *= 2
}

// answer takes a witness's answer to the running round.
func (c *claim) answer(m *wire.Answer, now time.Time) {
	r, h := c.round, c.h
	if !slices.Contains(r.sets.all, m.Witness) || !h.cfg.Crypto.Verify(m.Witness, &m.Signature, m.Signed(nil)) {
		h.counts[CountBadSignature]++
		return
	}
	if m.Verdict == wire.Granted && (m.Holder != h.cfg.ID || m.Instance != h.cfg.Instance || m.Seq != r.seq || m.Term != r.term || m.Epoch != h.book.current.Epoch) {
		h.counts[CountUnexpected]++
		return
	}
	i := slices.IndexFunc(r.answers, func(a wire.Answer) bool { return a.Witness == m.Witness })
	switch {
	case i < 0:
		r.answers = append(r.answers, *m)
	case r.answers[i].Verdict != wire.Granted:
		r.answers[i] = *m
	}
	c.react(m, now)
	if c.round == r {
		c.decide(now)
	}
}

// react does what one answer asks for by itself.
func (c *claim) react(m *wire.Answer, now time.Time) {
	h, r := c.h, c.round
	switch m.Verdict {
	case wire.Granted:
		if c.state == Validating && !slices.ContainsFunc(r.answers, func(a wire.Answer) bool { return a.Verdict == wire.Held }) {
			c.set(Holding, ReasonConfirmed)
		}
	case wire.OldEpoch:
		h.act(WantRoster{From: m.Witness, Epoch: m.Epoch})
	case wire.NewEpoch:
		h.act(TellRoster{To: m.Witness})
	case wire.NeedChain:
		h.act(SendChain{To: m.Witness})
	case wire.Recovering, wire.NeedProof:
		c.show(m.Witness, &c.lease.Certificate)
	case wire.Held:
		if m.Holder == (nodeid.ID{}) {
			c.show(m.Witness, &c.lease.Certificate)
		}
	}
}

// late takes an answer to the round that the lease is from. A late vote joins
// the certificate; a witness that does not know the seq before is shown what
// it has missed, or has forgotten.
func (c *claim) late(m *wire.Answer) {
	if !slices.Contains(c.done.sets.all, m.Witness) || !c.h.cfg.Crypto.Verify(m.Witness, &m.Signature, m.Signed(nil)) {
		c.h.counts[CountBadSignature]++
		return
	}
	switch {
	case m.Verdict == wire.NeedProof:
		c.show(m.Witness, &c.prior)
	case m.Verdict == wire.Recovering:
		c.show(m.Witness, &c.lease.Certificate)
	case m.Verdict == wire.Granted && m.Seq == c.done.seq && m.Holder == c.h.cfg.ID && m.Instance == c.h.cfg.Instance && m.Term == c.done.term:
		cert := &c.lease.Certificate
		votes := make([]wire.Answer, len(cert.Votes), len(cert.Votes)+1)
		for i := range votes {
			votes[i] = cert.Answer(i)
			if votes[i].Witness == m.Witness || votes[i].Epoch != m.Epoch {
				return
			}
		}
		if len(votes) >= maxVotes {
			return
		}
		if votes = append(votes, *m); len(c.done.sets.consistent(votes)) == len(votes) {
			*cert = certificate(votes)
		}
	}
}

// show shows a lease to a witness.
func (c *claim) show(witness nodeid.ID, cert *wire.LeaseCertificate) {
	if (c.state == Holding || c.state == Validating) && len(cert.Votes) > 0 {
		c.h.act(Route{To: wire.Target{ID: witness, Exact: true}, Type: wire.TypeShow, Body: cert.Append(nil)})
	}
}

// decide ends the round when its answers allow that.
func (c *claim) decide(now time.Time) {
	r, h := c.round, c.h
	var votes []wire.Answer
	granted, silent, others, twin := []nodeid.ID{}, 0, 0, 0
	for i := range r.answers {
		a := &r.answers[i]
		mine := a.Holder == h.cfg.ID && a.Instance == h.cfg.Instance
		switch {
		case a.Verdict == wire.Granted:
			votes = append(votes, *a)
			granted = append(granted, a.Witness)
		case a.Verdict == wire.Held && a.Holder != (nodeid.ID{}) && slices.Contains(r.sets.now, a.Witness):
			others++
		case a.Verdict == wire.WrongSeq && mine && a.Seq > c.sent && slices.Contains(r.sets.now, a.Witness):
			twin++
		}
	}
	silent = len(r.sets.all) - len(r.answers)
	if agreed := r.sets.consistent(votes); r.sets.quorate(agreed, h.rules.quorum) {
		c.granted(agreed, now)
		return
	}
	need := h.rules.quorum(len(r.sets.now))
	switch {
	case r.renewal && c.settled && twin >= need:
		h.act(Raise{AlarmTwinHolder, h.cfg.ID, r.key})
		c.round = nil
		c.set(Stopped, ReasonTwin)
		h.act(Save{Claim: c.id})
	case r.renewal && others >= need:
		if c.lease.MaySend(now) {
			h.act(Raise{AlarmDoubleLease, nodeid.ID{}, r.key})
		}
		c.lose(ReasonNewer, now)
	case silent == 0 || within(granted, r.sets.now)+silent < need && len(r.answers) >= need:
		c.fail(now)
	}
}

// granted: the round has a majority.
func (c *claim) granted(votes []wire.Answer, now time.Time) {
	r, h := c.round, c.h
	c.round = nil
	votes = r.sets.trim(votes)
	term := time.Duration(r.term) * time.Second
	l := Lease{Key: r.key, Certificate: certificate(votes), until: r.sent.Add(term), wall: r.sent.Round(0).Add(term)}
	if !l.MaySend(now) {
		c.fail(now)
		return
	}
	if r.renewal {
		h.counts[CountRenewals]++
	} else {
		h.counts[CountGrants]++
	}
	c.prior, c.done = c.lease.Certificate, r
	if !r.renewal {
		c.sent = 0
	}
	c.lease, c.settled, c.sent = l, true, max(c.sent, r.seq)
	c.previous, c.key, c.seq, c.proof = r.key, r.key, r.seq+1, nil
	c.quick, c.backoff, c.tried = 0, 0, 0
	lease, _, _ := h.policy.Times(c.namespace)
	c.next = now.Add(h.between(lease*2/5, lease*3/5))
	h.act(Save{Claim: c.id, Record: h.appendSaved(nil, &l)})
	c.set(Holding, ReasonGranted)
}

// fail ends a round without a majority, and plans the next.
func (c *claim) fail(now time.Time) {
	r := c.round
	c.round = nil
	c.h.counts[CountRoundsFailed]++
	if r == nil {
		c.next = now.Add(c.h.between(backoffFirst, backoffFirst+backoffSpread))
		return
	}
	highest, told, held, hopeless, recovering := uint64(0), 0, false, false, false
	for i := range r.answers {
		a := &r.answers[i]
		held = held || a.Verdict == wire.Held
		hopeless = hopeless || a.Verdict == wire.Refused || a.Verdict == wire.OverQuota
		recovering = recovering || a.Verdict == wire.Recovering
		if tellsSeq(a.Verdict) {
			highest, told = max(highest, a.Seq), told+1
			c.proof = append(c.proof, *a)
		}
	}
	c.seq = max(highest, r.seq-1) + 1
	if highest+1 != c.seq || told < majority(len(r.sets.now)) {
		c.proof = nil
	}
	c.proof = proofOf(c.proof, &r.sets)
	switch {
	case r.renewal && !held && !hopeless && c.quick < quickRounds && told >= majority(len(r.sets.now)):
		c.quick++
		c.next = now
		return
	case r.renewal:
	case held, hopeless:
		c.release(r, now)
		c.key = wire.LeaseKey{} // another address; a name is tried again
		c.tried++
	case c.quick < quickRounds && told >= majority(len(r.sets.now)):
		c.quick++
		c.next = now
		return
	default:
		c.release(r, now)
	}
	c.quick = 0
	c.backoff = min(max(backoffFirst, c.backoff*2), c.h.rules.patience)
	switch {
	case hopeless:
		c.backoff = backoffMost
	case recovering: // it will vote soon
		c.backoff = min(c.backoff, backoffRecovering)
	}
	c.next = now.Add(c.h.between(c.backoff, c.backoff+backoffSpread))
}

// proofOf keeps of the answers a majority's, the highest among them.
func proofOf(answers []wire.Answer, s *sets) []wire.Answer {
	slices.SortStableFunc(answers, func(a, b wire.Answer) int { return -int(int64(a.Seq) - int64(b.Seq)) })
	for _, set := range [][]nodeid.ID{s.now, s.before} {
		var proof []wire.Answer
		for _, a := range answers {
			if slices.Contains(set, a.Witness) && len(proof) < majority(len(set)) {
				proof = append(proof, a)
			}
		}
		if len(set) > 0 && len(proof) == majority(len(set)) && proof[0].Seq == answers[0].Seq {
			return proof
		}
	}
	return nil
}

// release gives back what a failed acquisition got, also where the answer is
// not known.
func (c *claim) release(r *round, now time.Time) {
	h := c.h
	m := wire.Release{Nonce: r.nonce, Epoch: h.book.current.Epoch, Holder: h.cfg.ID, Instance: h.cfg.Instance, Seq: r.seq, Chain: h.cfg.Chain, Key: r.key}
	m.Signature = h.cfg.Crypto.Sign(m.Signed(nil))
	for _, id := range r.sets.all {
		i := slices.IndexFunc(r.answers, func(a wire.Answer) bool { return a.Witness == id })
		if i >= 0 && r.answers[i].Verdict != wire.Granted {
			continue
		}
		if len(h.releases) >= maxReleases {
			h.counts[CountOverflow]++
			return
		}
		h.releases = append(h.releases, pendingRelease{to: id, body: m.Append(nil), at: now, left: releaseAgain})
	}
}

// lose: the lease is over. It is not given back: somebody may still count on
// it.
func (c *claim) lose(why Reason, now time.Time) {
	c.h.counts[CountLost]++
	c.round = nil
	c.previous = c.lease.Key
	if why == ReasonNewer {
		c.previous = wire.LeaseKey{}
	}
	c.key, c.seq, c.lease, c.prior, c.done = wire.LeaseKey{}, 1, Lease{}, wire.LeaseCertificate{}, nil
	c.next, c.backoff = now, 0
	c.h.act(Save{Claim: c.id})
	c.set(Acquiring, why)
}

// rosterChanged begins the running round again, with the right witnesses.
func (c *claim) rosterChanged(now time.Time) {
	if c.round == nil {
		return
	}
	r := c.round
	if !r.renewal {
		c.release(r, now)
	}
	c.round, c.seq, c.proof, c.next = nil, r.seq+1, nil, now
}
