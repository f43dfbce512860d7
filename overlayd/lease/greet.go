package lease

import (
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// acquaintance is what a witness keeps of another's greetings, to show them to
// that one again.
type acquaintance struct {
	newest, other, silenced *wire.Greet // other contradicts newest; silenced is a suspended one
}

func (w *Witness) greeting(flags uint8, now time.Time) wire.Greet {
	w.greeted++
	g := wire.Greet{
		Witness: w.cfg.ID, Epoch: w.book.current.Epoch, Incarnation: w.incarnation, Boot: w.boot, Start: w.start,
		Number: uint32(w.greeted), Records: w.total, Clock: now.UnixMilli(), Flags: flags,
	}
	switch w.mode {
	case recovering:
		g.Flags |= wire.GreetRecovering
	case suspended:
		g.Flags |= wire.GreetSuspended
		g.Cites = w.cites
	}
	w.clocks[w.greeted%sentClocks] = g.Clock
	g.Signature = w.cfg.Crypto.Sign(g.Signed(nil))
	return g
}

// others returns the other witnesses of the roster and of the one before.
func (w *Witness) others() []nodeid.ID {
	r := &w.book.current
	list := slices.Concat(r.Witnesses, r.Previous)
	slices.SortFunc(list, nodeid.ID.Compare)
	return slices.DeleteFunc(slices.Compact(list), func(id nodeid.ID) bool { return id == w.cfg.ID })
}

// greetAll makes this witness known to the others, and to everybody that it
// recovers.
func (w *Witness) greetAll(now time.Time) {
	g := w.greeting(wire.GreetAsk, now)
	for _, id := range w.others() {
		w.send(id, 0, g)
	}
	if w.mode == recovering {
		w.act(Publish{wire.TypeGreet, g.Append(nil)})
	}
}

// greet takes another witness's greeting and tells it what was heard of its
// key.
func (w *Witness) greet(e Routed, g *wire.Greet, now time.Time) {
	if !w.meet(g) || g.Flags&wire.GreetAsk == 0 {
		return
	}
	a := w.seen[g.Witness]
	answer := wire.Greeted{Own: w.greeting(0, now)}
	for _, s := range []*wire.Greet{a.newest, a.other, a.silenced} {
		if s != nil {
			answer.Seen = append(answer.Seen, *s)
		}
	}
	w.send(e.Src, e.RPC, answer)
}

// meet remembers what another witness says of itself.
func (w *Witness) meet(g *wire.Greet) bool {
	if !slices.Contains(w.others(), g.Witness) {
		w.counts[CountNotMine]++
		return false
	}
	if !w.cfg.Crypto.Verify(g.Witness, &g.Signature, g.Signed(nil)) {
		w.counts[CountBadSignature]++
		return false
	}
	switch {
	case g.Epoch > w.book.current.Epoch:
		w.act(WantRoster{From: g.Witness, Epoch: g.Epoch})
	case g.Epoch < w.book.current.Epoch:
		w.act(TellRoster{To: g.Witness})
	}
	if g.Incarnation > w.known[g.Witness].number {
		w.learnIncarnation(g.Witness, incarnation{number: g.Incarnation})
	}
	a := w.seen[g.Witness]
	if a == nil {
		if len(w.seen) >= maxKnown {
			w.counts[CountOverflow]++
			return false
		}
		a = &acquaintance{}
		w.seen[g.Witness] = a
	}
	if g.Flags&wire.GreetSuspended != 0 && (a.silenced == nil || g.Cites >= a.silenced.Cites) {
		a.silenced = g
	}
	if a.newest == nil {
		a.newest = g
		return true
	}
	switch order(g, a.newest) {
	case later:
		a.newest = g
	case contradicts:
		if a.other == nil || g.Incarnation >= a.other.Incarnation {
			a.other = g
		}
	}
	return true
}

// relation of two greetings by one key.
type relation int

const (
	earlier relation = iota
	later
	equal
	contradicts // one machine cannot have sent both
)

// order compares two greetings: a machine counts incarnations, then boots, then
// greetings, and starts once in a boot; its records only grow.
func order(g, than *wire.Greet) relation {
	switch {
	case g.Incarnation != than.Incarnation:
		return choose(g.Incarnation > than.Incarnation)
	case g.Boot > than.Boot && g.Records < than.Records || g.Boot < than.Boot && g.Records > than.Records:
		return contradicts
	case g.Boot != than.Boot:
		return choose(g.Boot > than.Boot)
	case g.Start != than.Start:
		return contradicts
	case g.Number != than.Number:
		return choose(g.Number > than.Number)
	case g.Clock != than.Clock:
		return contradicts
	}
	return equal
}

func choose(isLater bool) relation {
	if isLater {
		return later
	}
	return earlier
}

// greetedBy learns what another witness has heard of this one's key.
func (w *Witness) greetedBy(m *wire.Greeted, now time.Time) {
	if !w.meet(&m.Own) {
		return
	}
	for i := range m.Seen {
		g := &m.Seen[i]
		if g.Witness == w.cfg.ID && w.cfg.Crypto.Verify(w.cfg.ID, &g.Signature, g.Signed(nil)) {
			w.evidence(g, now)
		}
	}
}

// evidence looks at a greeting by this witness's own key.
func (w *Witness) evidence(g *wire.Greet, now time.Time) {
	me := wire.Greet{Incarnation: w.incarnation, Boot: w.boot, Start: w.start, Number: uint32(w.greeted), Records: w.total, Clock: g.Clock}
	same := g.Incarnation == me.Incarnation && g.Boot == me.Boot && g.Start == me.Start
	if same && int(g.Number) <= w.greeted && w.greeted-int(g.Number) < sentClocks && w.clocks[g.Number%sentClocks] != g.Clock {
		w.forgot(now)
		return
	}
	if same && int(g.Number) <= w.greeted {
		return // its own
	}
	highest := g.Incarnation
	if g.Flags&wire.GreetSuspended != 0 {
		highest = max(highest, g.Cites)
	}
	r := order(g, &me)
	switch {
	case w.mode == suspended:
		if highest > w.cites {
			w.cites = highest
			w.record(appendTwin(nil, w.cites))
		}
	case w.mode == recovering:
		if highest > w.incarnation || r == later || r == contradicts {
			w.incarnation = highest + 1
			w.record(w.appendHeader(nil))
			w.restartPulls(now)
		}
	case highest > w.incarnation || g.Flags&wire.GreetSuspended != 0 && g.Cites == w.incarnation:
		w.suspend(highest, now)
	case r == later || r == contradicts:
		w.forgot(now)
	}
}

// forgot: somebody with this key, incarnation and, as far as one can see, this
// machine's file, has done what this one did not. It may have been rolled back
// or copied. It recovers as a new incarnation; if there is another, that one
// sees it and falls silent, and then this one does.
func (w *Witness) forgot(now time.Time) {
	if w.mode == suspended {
		return
	}
	w.raise(AlarmForgot, w.cfg.ID, wire.LeaseKey{})
	w.beginRecovery(now)
}

func (w *Witness) suspend(cites uint16, now time.Time) {
	if w.mode == suspended {
		return
	}
	w.mode = suspended
	w.cites = cites
	w.record(appendTwin(nil, cites))
	w.raise(AlarmTwinWitness, w.cfg.ID, wire.LeaseKey{})
	w.pulls = map[nodeid.ID]*pull{}
	w.greetAt = now
}
