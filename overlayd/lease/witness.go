package lease

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Implementation numbers of the witness.
const (
	maxHolds     = 1 << 17          // keys, about 200 bytes each
	maxPending   = 1024             // answers that wait for the disk
	greetEvery   = 10 * time.Second // to each other witness
	pullEvery    = time.Second      // between tries of one HoldsAsk
	compactAfter = 4096             // records more than there are holds
	sentClocks   = 8                // greetings whose clock is remembered
)

// WitnessConfig is what a Witness is made of.
type WitnessConfig struct {
	ID       nodeid.ID
	Instance wire.Instance // of this machine: holds are bound to it
	Crypto   Crypto
	Members  Members
	Rand     *rand.Rand
}

// mode is what a witness is doing.
type mode uint8

const (
	voting mode = iota
	recovering
	suspended
)

// Witness votes for leases.
//
//	               no file, other instance,
//	               shown what it forgot          copied from enough others, or
//	+-----------+ ------------------> +------------+ waited 60 s where there is
//	|  voting   |                     | recovering | nobody to copy from
//	+-----------+ <------------------ +------------+
//	      |
//	      | a later incarnation of its own key speaks, or one that is suspended
//	      v
//	+-----------+ no votes, an alarm; until a person removes the file on the
//	| suspended | machine that is to go on: it recovers above all that was seen
//	+-----------+
type Witness struct {
	cfg    WitnessConfig
	rules  rules
	book   *Book
	policy Policy
	counts Counts

	mode        mode
	incarnation uint16
	boot        uint32
	start       uint64 // nonce of this start
	cites       uint16
	holds       map[wire.LeaseKey]*hold
	byQuota     map[wire.Holder][]wire.LeaseKey
	known       map[nodeid.ID]incarnation // of the other witnesses
	floor       uint64                    // the highest epoch seen: none older is voted for

	greeted int // number of the last greeting
	clocks  [sentClocks]int64
	greetAt time.Time
	seen    map[nodeid.ID]*acquaintance

	pulls     map[nodeid.ID]*pull
	pullNonce uint64
	hopeless  time.Time // since when most witnesses, or all there are, have no holds
	sorted    []wire.LeaseKey

	handed map[nodeid.ID]bool // witnesses of the new roster that have this one's holds
	stop   *wire.Stop         // this witness's own
	stops  map[nodeid.ID]wire.Signature
	forced bool          // the alarm has been raised
	loaded *wire.Stopped // from the file, until its roster comes

	fresh   bool   // the file is to be written anew
	written uint64 // records handed out
	durable uint64 // records on disk
	records int    // in the file
	total   uint64 // records ever written
	pending []pendingRoute
	out     []Action
}

type pendingRoute struct {
	n     uint64
	route Route
}

// hold is what a witness knows of a key. It stays when it has ended: its seq
// counts.
type hold struct {
	holder   nodeid.ID // zero: several claim it, nobody has it before the end
	instance wire.Instance
	quota    wire.Holder
	seq      uint64
	nonce    uint64
	term     uint32
	end      time.Time
}

func (h *hold) of(holder nodeid.ID, instance wire.Instance) bool {
	return h.holder == holder && h.instance == instance
}

func (h *hold) live(now time.Time) bool { return now.Before(h.end) }

// incarnation is another witness's, and the nonce of the recovery that took it.
type incarnation struct {
	number uint16
	nonce  uint64
}

// NewWitness returns a witness with the holds of its file. Without a file, or
// with one of another instance, it recovers before it votes.
func NewWitness(cfg WitnessConfig, file []byte, now time.Time) *Witness {
	w := &Witness{
		cfg: cfg, rules: soundRules, book: NewBook(cfg.Crypto), start: cfg.Rand.Uint64(),
		holds: map[wire.LeaseKey]*hold{}, byQuota: map[wire.Holder][]wire.LeaseKey{}, known: map[nodeid.ID]incarnation{},
		seen: map[nodeid.ID]*acquaintance{}, pulls: map[nodeid.ID]*pull{}, handed: map[nodeid.ID]bool{}, stops: map[nodeid.ID]wire.Signature{},
	}
	instance, ok := w.load(file, now)
	w.boot++
	w.fresh = true
	if w.mode != suspended && (!ok || w.mode == recovering || instance != cfg.Instance) {
		w.beginRecovery(now)
	}
	return w
}

// Counts returns the counters.
func (w *Witness) Counts() *Counts { return &w.counts }

// Voting says whether the witness votes, for status.
func (w *Witness) Voting() bool { return w.mode == voting }

// Suspended says whether it has stopped because of a twin, for status.
func (w *Witness) Suspended() bool { return w.mode == suspended }

// Handle tells the witness what happened and returns what is to be done. The
// slice is used again by the next call.
func (w *Witness) Handle(now time.Time, e Event) []Action {
	w.out = w.out[:0]
	switch e := e.(type) {
	case Descriptor:
		w.descriptor(e, now)
	case Routed:
		w.routed(e, now)
	case Published:
		if s, err := wire.ParseStopped(e.Body); e.Type == wire.TypeStopped && err == nil {
			w.learnStopped(&s)
		}
	case Persisted:
		w.persisted(e.N)
	case Tick:
	default:
		w.counts[CountUnexpected]++
	}
	if w.inRoster() {
		w.due(now)
	}
	return w.out
}

// NextDeadline returns when Tick is to come; zero: not at all.
func (w *Witness) NextDeadline() time.Time {
	if !w.inRoster() {
		return time.Time{}
	}
	next := w.greetAt
	for _, p := range w.pulls {
		if !p.complete && p.at.Before(next) {
			next = p.at
		}
	}
	if w.mode == recovering && !w.hopeless.IsZero() && w.hopeless.Add(RecoverWait).Before(next) {
		next = w.hopeless.Add(RecoverWait)
	}
	return next
}

func (w *Witness) inRoster() bool {
	r := &w.book.current
	return r.Epoch != 0 && (slices.Contains(r.Witnesses, w.cfg.ID) || slices.Contains(r.Previous, w.cfg.ID))
}

// due does what time brings.
func (w *Witness) due(now time.Time) {
	if w.fresh {
		w.rewrite(now)
	}
	if w.mode == recovering {
		w.recovered(now)
	}
	if !w.book.stopped && !w.forced && w.book.left(now) {
		w.forced = true
		w.raise(AlarmForced, w.cfg.ID, wire.LeaseKey{})
	}
	if !now.Before(w.greetAt) {
		w.greetAt = now.Add(greetEvery*4/5 + time.Duration(w.cfg.Rand.Int64N(int64(greetEvery*2/5))))
		w.greetAll(now)
		w.sendStop()
		w.sayDone()
	}
	w.pullDue(now)
	if w.records > len(w.holds)+compactAfter {
		w.sweep(now)
		w.rewrite(now)
	}
}

// descriptor takes a new roster.
func (w *Witness) descriptor(e Descriptor, now time.Time) {
	w.policy = e.Policy
	newer, err := w.book.Accept(e.Roster, now)
	if err != nil {
		w.counts[CountEpochSkipped]++
		w.raise(AlarmEpochSkipped, w.cfg.ID, wire.LeaseKey{})
		return
	}
	if !newer {
		return
	}
	w.floor = max(w.floor, e.Roster.Epoch)
	w.record(appendEpoch(nil, w.floor))
	clear(w.handed)
	clear(w.stops)
	w.stop, w.forced = nil, false
	w.greetAt = now
	if w.loaded != nil {
		w.learnStopped(w.loaded)
		w.loaded = nil
	}
	w.pulls = map[nodeid.ID]*pull{}
	w.startPulls(now)
}

func (w *Witness) routed(e Routed, now time.Time) {
	if !w.inRoster() || w.policy == nil {
		w.counts[CountNotMine]++
		return
	}
	var err error
	switch e.Type {
	case wire.TypeHold:
		var m wire.Hold
		if m, err = wire.ParseHold(e.Body); err == nil {
			w.hold(e, &m, now)
		}
	case wire.TypeRelease:
		var m wire.Release
		if m, err = wire.ParseRelease(e.Body); err == nil {
			w.release(&m, now)
		}
	case wire.TypeShow:
		var m wire.Show
		if m, err = wire.ParseShow(e.Body); err == nil {
			w.show(&m.Certificate, now)
		}
	case wire.TypeGreet:
		var m wire.Greet
		if m, err = wire.ParseGreet(e.Body); err == nil {
			w.greet(e, &m, now)
		}
	case wire.TypeGreeted:
		var m wire.Greeted
		if m, err = wire.ParseGreeted(e.Body); err == nil {
			w.greetedBy(&m, now)
		}
	case wire.TypeHoldsAsk:
		var m wire.HoldsAsk
		if m, err = wire.ParseHoldsAsk(e.Body); err == nil {
			w.holdsAsk(e, &m, now)
		}
	case wire.TypeHolds:
		var m wire.Holds
		if m, err = wire.ParseHolds(e.Body); err == nil {
			w.copied(&m, now)
		}
	case wire.TypeStop:
		var m wire.Stop
		if m, err = wire.ParseStop(e.Body); err == nil {
			w.stopBy(&m)
		}
	case wire.TypeStopped:
		var m wire.Stopped
		if m, err = wire.ParseStopped(e.Body); err == nil {
			w.learnStopped(&m)
		}
	default:
		w.counts[CountUnexpected]++
	}
	if err != nil {
		w.counts[CountMalformed]++
	}
}

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

// used counts a holder's live holds.
func (w *Witness) used(quota wire.Holder, now time.Time) int {
	list := slices.DeleteFunc(w.byQuota[quota], func(k wire.LeaseKey) bool {
		h := w.holds[k]
		return h == nil || h.quota != quota || !h.live(now)
	})
	if len(list) == 0 {
		delete(w.byQuota, quota)
		return 0
	}
	w.byQuota[quota] = list
	return len(list)
}

// put replaces what is known of a key, and records it.
func (w *Witness) put(key wire.LeaseKey, h hold) {
	w.holds[key] = &h
	if h.quota != (wire.Holder{}) && !slices.Contains(w.byQuota[h.quota], key) {
		w.byQuota[h.quota] = append(w.byQuota[h.quota], key)
	}
	w.record(appendHold(nil, key, &h))
}

// sweep drops holds that ended more than their term ago, whose seq nobody can
// have a use for; it reports whether there is room.
func (w *Witness) sweep(now time.Time) bool {
	for k, h := range w.holds {
		if now.Sub(h.end) > 2*w.rules.hold(time.Duration(h.term)*time.Second)+time.Hour {
			delete(w.holds, k)
		}
	}
	return len(w.holds) < maxHolds
}

// knownOf returns the incarnations that this witness knows of.
func (w *Witness) knownOf(list []nodeid.ID) []uint16 {
	known := make([]uint16, len(list))
	for i, id := range list {
		known[i] = w.known[id].number
		if id == w.cfg.ID {
			known[i] = w.incarnation
		}
	}
	return known
}

func (w *Witness) act(a Action) { w.out = append(w.out, a) }

func (w *Witness) raise(a Alarm, node nodeid.ID, key wire.LeaseKey) { w.act(Raise{a, node, key}) }

// send routes a message once all that was recorded before it is on disk.
func (w *Witness) send(to nodeid.ID, rpc uint32, m wire.Message) {
	r := Route{To: wire.Target{ID: to, Exact: true}, RPC: rpc, Type: m.Type(), Body: m.Append(make([]byte, 0, 384))}
	if w.written == w.durable {
		w.act(r)
		return
	}
	if len(w.pending) >= maxPending {
		w.counts[CountOverflow]++
		return
	}
	w.pending = append(w.pending, pendingRoute{w.written, r})
}

func (w *Witness) persisted(n uint64) {
	w.durable = max(w.durable, min(n, w.written))
	i := 0
	for ; i < len(w.pending) && w.pending[i].n <= w.durable; i++ {
		w.act(w.pending[i].route)
	}
	w.pending = slices.Delete(w.pending, 0, i)
}
