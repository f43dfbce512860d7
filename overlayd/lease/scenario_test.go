package lease_test

import (
	"slices"
	"time"

	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// run plays one seed of a variant.
func run(seed uint64, v variant) *world {
	w := newWorld(seed, v)
	if v.duration == 0 {
		v.duration = 130 * time.Second
	}
	w.plan(v.duration)
	for len(w.queue) > 0 && w.queue[0].at <= v.duration {
		e := w.queue.pop()
		w.now = e.at
		e.do()
	}
	for _, h := range w.hosts {
		if h.witness != nil && h.witness.Suspended() {
			w.stats.suspended++
		}
		if h.holder != nil {
			w.stats.renewals += int(h.holder.Counts()[lease.CountRenewals])
		}
	}
	return w
}

// plan draws the faults of a run.
func (w *world) plan(duration time.Duration) {
	v := &w.variant
	at := func(do func()) { w.after(w.between(5*time.Second, duration*3/4), do) }
	if v.partitions {
		for range w.rng.IntN(4) {
			at(func() { w.partition(w.between(3*time.Second, 90*time.Second)) })
		}
	}
	if v.pauses {
		for range w.rng.IntN(5) {
			at(func() { w.any().pause(w.between(time.Second, 70*time.Second)) })
		}
	}
	if v.crashes {
		for range w.rng.IntN(5) {
			at(func() { w.any().crash(true, w.between(100*time.Millisecond, 60*time.Second)) })
		}
	}
	if v.amnesia {
		for range w.rng.IntN(4) {
			at(w.amnesia)
		}
	}
	if v.clones && w.chance(0.5) {
		at(w.cloneNoticed)
	}
	if v.changes {
		n := w.rng.IntN(3)
		for i := range n {
			w.after(w.between(time.Duration(20+60*i)*time.Second, time.Duration(60+70*i)*time.Second), w.changeRoster)
		}
	}
	if v.revokes && w.chance(0.3) {
		at(func() { w.revoked[w.holders()[0].id] = w.now })
	}
	if v.contend {
		for range 6 {
			at(w.cutOff)
		}
	}
	if v.storm {
		for i := range 10 {
			w.after(time.Duration(6+10*i)*time.Second, w.forget)
		}
	}
	if v.split {
		w.after(w.between(10*time.Second, 30*time.Second), w.split)
	}
	switch v.hidden {
	case "clone":
		w.after(w.between(10*time.Second, 25*time.Second), func() { w.hiddenClone(w.between(0, 5*time.Second)) })
	case "rollback":
		w.after(w.between(20*time.Second, 60*time.Second), func() { w.rollback(w.between(20*time.Second, 60*time.Second)) })
	}
	if v.localView {
		w.after(time.Second, w.localView)
	}
}

func (w *world) any() *host { return w.hosts[w.rng.IntN(len(w.hosts))] }

func (w *world) holders() (list []*host) {
	for _, h := range w.hosts {
		if h.holder != nil {
			list = append(list, h)
		}
	}
	return list
}

func (w *world) partition(d time.Duration) {
	for _, h := range w.hosts {
		h.side = w.rng.IntN(2)
	}
	w.parted = true
	w.order++
	w.after(d, func() { w.parted = false })
}

// cutOff leaves one holder alone, with its leases.
func (w *world) cutOff() {
	if w.parted {
		return
	}
	list := w.holders()
	if len(list) == 0 {
		return
	}
	for _, h := range w.hosts {
		h.side = 0
	}
	list[w.rng.IntN(len(list))].side = 1
	w.parted = true
	w.after(w.between(20*time.Second, 50*time.Second), func() { w.parted = false })
}

// split parts the old roster and some holders from everybody else, for longer
// than a hold; then the others hear of new rosters.
func (w *world) split() {
	old := w.roster.Witnesses
	for _, h := range w.hosts {
		h.side = w.rng.IntN(2)
		if h.witness != nil {
			h.side = 0
			if slices.Contains(old, h.id) {
				h.side = 1
			}
		}
	}
	w.parted = true
	w.changeRoster()
	w.after(15*time.Second, w.changeRoster)
	w.after(w.between(90*time.Second, 110*time.Second), func() { w.parted = false })
}

// forget takes one witness's disk, while the others are well.
func (w *world) forget() {
	if w.unwell() > 0 && !w.variant.noRecovery || len(w.roster.Witnesses) < 2 {
		return
	}
	h := w.byID[w.roster.Witnesses[w.rng.IntN(len(w.roster.Witnesses))]][0]
	w.stats.recoveries++
	h.crash(false, w.between(100*time.Millisecond, 4*time.Second))
}

// members of the roster now and before that are not well: recovering, off or
// suspended.
func (w *world) unwell() (n int) {
	for _, id := range w.roster.Witnesses {
		for _, h := range w.byID[id] {
			if !h.up || !h.witness.Voting() {
				n++
			}
		}
	}
	for _, id := range w.roster.Previous {
		for _, h := range w.byID[id] {
			if w.stopped == nil && (!h.up || !h.witness.Voting()) {
				n++
			}
		}
	}
	return n
}

// amnesia takes a machine's disk away: any holder's, or one witness's while
// the others are well, so that no majority forgets.
func (w *world) amnesia() {
	h := w.any()
	if h.witness != nil {
		if w.unwell() > 0 && !w.variant.noRecovery || len(w.roster.Witnesses) < 2 {
			return
		}
		w.stats.recoveries++
	}
	h.crash(false, w.between(100*time.Millisecond, 20*time.Second))
}

// cloneNoticed copies a witness to another machine, from a disk of a while ago;
// the original goes on. The copy sees another instance.
func (w *world) cloneNoticed() {
	if w.unwell() > 0 {
		return
	}
	old := w.byID[w.roster.Witnesses[w.rng.IntN(len(w.roster.Witnesses))]][0]
	if !old.up || len(old.disk) == 0 {
		return
	}
	disk := slices.Clone(old.disk)
	w.stats.clones++
	w.after(w.between(0, 20*time.Second), func() {
		if w.unwell() > 0 {
			return
		}
		h := w.add(old.name+"'", old.id)
		h.instance, h.disk, h.side, h.roster = wire.Instance{2}, disk, w.rng.IntN(2), old.roster
		h.startWitness()
	})
}

// hiddenClone is one that the copy cannot see: same instance.
func (w *world) hiddenClone(later time.Duration) {
	old := w.byID[w.roster.Witnesses[w.rng.IntN(len(w.roster.Witnesses))]][0]
	if !old.up || len(old.disk) == 0 {
		return
	}
	disk := slices.Clone(old.disk)
	w.stats.clones++
	w.after(later, func() {
		h := w.add(old.name+"'", old.id)
		h.disk, h.roster = disk, old.roster
		w.parted = true
		for i, o := range w.hosts {
			o.side = i % 2
		}
		old.side, h.side = 0, 1
		w.after(w.between(50*time.Second, 80*time.Second), func() { w.parted = false })
		h.startWitness()
	})
}

// rollback puts a witness's disk back to what it was, on the same instance.
func (w *world) rollback(later time.Duration) {
	h := w.byID[w.roster.Witnesses[w.rng.IntN(len(w.roster.Witnesses))]][0]
	disk := slices.Clone(h.disk)
	w.after(later, func() {
		if slices.Equal(disk, h.disk) {
			return
		}
		w.stats.clones++
		h.crash(true, 100*time.Millisecond)
		h.disk = disk
	})
}

// changeRoster publishes a new roster if the one before has taken over:
// witnesses are added, removed, replaced, one or all.
func (w *world) changeRoster() {
	v := &w.variant
	if w.roster.Epoch > 1 && w.stopped == nil && !v.skipEpoch {
		return
	}
	old := w.roster
	next := lease.Roster{Epoch: old.Epoch + 1, Previous: old.Witnesses, Follows: w.stopped}
	if v.skipEpoch {
		next.Follows, next.Forced = nil, old.Epoch > 1
	}
	if v.fenceByTime {
		next.ForceAfter = epoch.Add(w.now + holdTime)
	}
	var universe []nodeid.ID
	for _, h := range w.hosts {
		if h.witness != nil && !slices.Contains(universe, h.id) {
			universe = append(universe, h.id)
		}
	}
	w.rng.Shuffle(len(universe), func(i, j int) { universe[i], universe[j] = universe[j], universe[i] })
	keep := slices.Clone(old.Witnesses)
	switch w.rng.IntN(4) {
	case 0: // add
		keep = append(keep, universe[0])
	case 1: // remove
		if len(keep) > 1 {
			keep = keep[1:]
		}
	case 2: // replace one
		keep = append(keep[1:], universe[0])
	case 3: // replace many
		keep = slices.Clone(universe[:max(2, len(keep))])
	}
	if v.split {
		keep = slices.DeleteFunc(slices.Clone(universe), func(id nodeid.ID) bool {
			return slices.Contains(old.Witnesses, id) || slices.Contains(old.Previous, id)
		})[:3]
	}
	slices.SortFunc(keep, nodeid.ID.Compare)
	next.Witnesses = slices.Compact(keep)
	w.roster, w.stopped = next, nil
	w.stats.changes++
	for _, h := range w.hosts {
		w.after(w.between(0, 25*time.Second), func() {
			if !w.parted || h.side == 0 {
				h.take(next)
			}
		})
	}
}

// localView gives every node, while the network is parted, only the witnesses
// of its side, as a ring would.
func (w *world) localView() {
	for _, h := range w.hosts {
		r := w.roster
		if w.parted {
			r.Witnesses = slices.DeleteFunc(slices.Clone(r.Witnesses), func(id nodeid.ID) bool { return w.byID[id][0].side != h.side })
		}
		if len(r.Witnesses) == 0 {
			continue
		}
		if h.witness != nil {
			h.witness.ForceRoster(r)
		} else if h.holder != nil {
			h.holder.ForceRoster(r)
		}
	}
	w.after(time.Second, w.localView)
}

// releaseAll gives back the last Hold of every key, as no holder may.
func (h *host) releaseAll() {
	for _, t := range h.mine {
		m, ok := h.last[t.lease.Key]
		if !ok {
			continue
		}
		r := wire.Release{Nonce: m.Nonce, Epoch: m.Epoch, Holder: m.Holder, Instance: m.Instance, Seq: m.Seq, Key: m.Key}
		r.Signature = fast{h.id}.Sign(r.Signed(nil))
		for _, id := range h.w.roster.Witnesses {
			h.w.route(h, lease.Route{To: wire.Target{ID: id, Exact: true}, Type: wire.TypeRelease, Body: r.Append(nil)})
		}
	}
}
