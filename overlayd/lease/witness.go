package lease

import (
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
	w.forgetStrangers()
	w.stop, w.forced = nil, false
	w.greetAt = now
	if w.loaded != nil {
		w.learnStopped(w.loaded)
		w.loaded = nil
	}
	w.pulls = map[nodeid.ID]*pull{}
	w.startPulls(now)
}

// forgetStrangers makes room for a new roster's witnesses.
func (w *Witness) forgetStrangers() {
	others := w.others()
	for id := range w.seen {
		if !slices.Contains(others, id) {
			delete(w.seen, id)
		}
	}
	if len(w.known) <= maxKnown-2*wire.MaxWitnesses {
		return
	}
	for id := range w.known {
		if !slices.Contains(others, id) {
			delete(w.known, id)
		}
	}
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

// sweep drops holds that ended more than two terms ago, whose seq nobody can
// have a use for; it reports whether there is room.
func (w *Witness) sweep(now time.Time) bool {
	for k, h := range w.holds {
		if now.Sub(h.end) > 2*w.rules.hold(time.Duration(h.term)*time.Second)+time.Hour {
			delete(w.holds, k)
		}
	}
	for quota := range w.byQuota {
		w.used(quota, now)
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
