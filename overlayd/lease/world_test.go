package lease_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// world is a small internet of holders and witnesses in virtual time: one
// queue ordered by (time, sequence), clocks that run at their own rates, disks
// that lose what was not synced. It checks after every step that matters that
// no key has two holders.
type world struct {
	rng     *rand.Rand
	variant variant
	now     time.Duration // real time since the start
	queue   queue
	order   uint64
	hosts   []*host
	byID    map[nodeid.ID][]*host
	parted  bool

	roster  lease.Roster // the newest published
	stopped *wire.Stopped
	revoked map[nodeid.ID]time.Duration

	grants     map[wire.LeaseKey][]*tenancy
	fences     map[wire.LeaseKey]fence
	violations []string
	alarms     map[lease.Alarm]int
	trace      uint64
	record     *[]lease.Routed // what was sent, if wanted
	messages   int
	stats      stats
}

type stats struct{ grants, renewals, changes, recoveries, crashes, clones, suspended int }

// fence is the newest grant of a key so far.
type fence struct {
	seq    uint64
	holder nodeid.ID
}

// tenancy is a lease that some holder may use until an end by its own clock.
type tenancy struct {
	host  *host
	until time.Time
	lease lease.Lease
}

// variant is what is varied and what is broken.
type variant struct {
	name      string
	share     int // of the runs of TestExclusion
	witnesses int // 0: drawn
	rules     lease.Rules
	duration  time.Duration

	partitions, pauses, crashes, amnesia, clones, changes, revokes bool
	contend                                                        bool   // rivals for a few keys; single holders cut off; clocks at their limits
	storm                                                          bool   // a witness forgets every few seconds
	split                                                          bool   // a new roster on one side, the old one goes on, on the other
	hidden                                                         string // "clone" or "rollback" that cannot be noticed by itself
	deaf                                                           bool
	days                                                           bool // times of TRUST.md: an hour and a week   // witnesses do not hear each other

	fromAnswer, noRecovery, localView, releaseRenewal, fenceByTime, skipEpoch bool
	sign                                                                      func(id nodeid.ID, seed uint64) lease.Crypto
}

var epoch = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)

// Times of the simulated namespace: a hold is two and a half lease times.
const (
	leaseTime = 16 * time.Second
	holdTime  = 40 * time.Second
)

// host is a machine with one machine of the protocol. Its clock reads base
// plus rate times the real time.
type host struct {
	w        *world
	name     string
	id       nodeid.ID
	instance wire.Instance
	rate     float64
	base     time.Time
	side     int
	up       bool
	pauseEnd time.Duration
	held     []func() // what arrived during a pause
	life     int      // counts restarts: what was meant for an earlier one is dropped

	holder  *lease.Holder
	saved   map[lease.ClaimID][]byte
	wants   []lease.Want
	last    map[wire.LeaseKey]wire.Hold
	mine    map[lease.ClaimID]*tenancy
	witness *lease.Witness
	disk    []byte
	dirty   []write
	roster  lease.Roster
	tick    time.Duration
}

type write struct {
	n       uint64
	rewrite bool
	data    []byte
}

func (h *host) clock(at time.Duration) time.Time {
	return h.base.Add(time.Duration(h.rate * float64(at)))
}

// real is when the host's clock shows t.
func (h *host) real(t time.Time) time.Duration {
	return time.Duration(float64(t.Sub(h.base))/h.rate) + time.Microsecond
}

// fast is the stand-in for signatures: who knows the ID can sign, and the
// simulated nodes do not lie.
type fast struct{ id nodeid.ID }

func mix(b []byte) uint64 {
	h := uint64(len(b)) * 0x9e3779b97f4a7c15
	for len(b) >= 8 {
		h = (h ^ binary.LittleEndian.Uint64(b)) * 0xff51afd7ed558ccd
		h ^= h >> 32
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return h ^ h>>29
}

func (f fast) Sign(message []byte) (s wire.Signature) {
	copy(s.Key[:], f.id[:])
	binary.LittleEndian.PutUint64(s.Value[:], mix(message))
	return s
}

func (fast) Verify(node nodeid.ID, s *wire.Signature, message []byte) bool {
	return nodeid.ID(s.Key[:16]) == node && binary.LittleEndian.Uint64(s.Value[:]) == mix(message)
}

// policy of the simulated grid: a pool of few addresses.
type policy struct{ lease, hold time.Duration }

var pool = netip.MustParsePrefix("10.250.0.0/28")

func (p policy) Times(ns string) (time.Duration, time.Duration, bool) {
	return p.lease, p.hold, ns == "net"
}
func (policy) Pool(string) netip.Prefix { return pool }
func (p policy) Leasable(_ string, a netip.Addr) bool {
	b := a.As4()
	return pool.Contains(a) && b[3] >= 2 && (b[3] <= 5 || p.lease == time.Hour && b[3] <= 14)
}

func (w *world) policy() policy {
	if w.variant.days {
		return policy{time.Hour, 7 * 24 * time.Hour}
	}
	return policy{leaseTime, holdTime}
}

// members: two nodes of a user share a quota.
type members struct {
	w *world
	h *host
}

func (m members) Member(id nodeid.ID, _ [32]byte, _ time.Time) (lease.Member, error) {
	if at, ok := m.w.revoked[id]; ok && m.w.now >= at {
		return lease.Member{}, fmt.Errorf("revoked")
	}
	for _, h := range m.w.byID[id] {
		return lease.Member{Namespace: "net", Instance: h.instance, Quota: wire.Holder{1, id[1] / 2}, Leases: 4}, nil
	}
	return lease.Member{}, lease.ErrUnknownChain
}
func (members) Revocations() uint64 { return 1 }

type event struct {
	at    time.Duration
	order uint64
	do    func()
}

// queue is a binary heap by (time, order).
type queue []event

func (q queue) less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}

func (q *queue) push(e event) {
	*q = append(*q, e)
	for i := len(*q) - 1; i > 0 && q.less(i, (i-1)/2); i = (i - 1) / 2 {
		(*q)[i], (*q)[(i-1)/2] = (*q)[(i-1)/2], (*q)[i]
	}
}

func (q *queue) pop() event {
	top := (*q)[0]
	n := len(*q) - 1
	(*q)[0], (*q)[n] = (*q)[n], event{}
	*q = (*q)[:n]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
			if q.less(c, least) {
				least = c
			}
		}
		if least == i {
			return top
		}
		(*q)[i], (*q)[least] = (*q)[least], (*q)[i]
		i = least
	}
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	w.queue.push(event{w.now + max(d, 0), w.order, do})
}

// between draws a time.
func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)+1))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

func newWorld(seed uint64, v variant) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 4242)), variant: v, byID: map[nodeid.ID][]*host{}, revoked: map[nodeid.ID]time.Duration{},
		grants: map[wire.LeaseKey][]*tenancy{}, fences: map[wire.LeaseKey]fence{}, alarms: map[lease.Alarm]int{},
	}
	if w.variant.sign == nil {
		w.variant.sign = func(id nodeid.ID, _ uint64) lease.Crypto { return fast{id} }
	}
	n := v.witnesses
	if n == 0 {
		n = []int{2, 3, 3, 3, 4, 5, 7}[w.rng.IntN(7)]
	}
	if v.contend || v.storm {
		w.variant.rules.Patience = time.Second
	}
	universe := n + 3
	if v.split {
		universe = n + 6
	}
	for i := range universe {
		h := w.add(fmt.Sprintf("w%d", i+1), nodeid.ID{byte(0x80 + i)})
		h.disk = nil
	}
	w.roster = lease.Roster{Epoch: 1}
	for i := range n {
		h := w.hosts[i]
		w.roster.Witnesses = append(w.roster.Witnesses, h.id)
		h.disk = lease.VotingFile(h.id, h.instance)
	}
	for _, h := range w.hosts {
		h.startWitness()
	}
	count := 3 + w.rng.IntN(3)
	if v.contend {
		count = 6
	}
	for i := range count {
		h := w.add(fmt.Sprintf("h%d", i), nodeid.ID{1, byte(i)})
		h.saved, h.last, h.mine = map[lease.ClaimID][]byte{}, map[wire.LeaseKey]wire.Hold{}, map[lease.ClaimID]*tenancy{}
		h.wants = []lease.Want{{Claim: 1, Namespace: "net"}}
		if i < 3 {
			h.wants = append(h.wants, lease.Want{Claim: 2, Namespace: "net", Name: "Alpha"})
		}
		if i == 2 {
			h.wants = append(h.wants, lease.Want{Claim: 3, Namespace: "net"})
		}
		if v.contend {
			h.wants = h.wants[:1]
			h.wants = append(h.wants, lease.Want{Claim: 2, Namespace: "net", Name: "alpha"}, lease.Want{Claim: 4, Namespace: "net", Name: "beta"})
		}
		w.after(w.between(0, 5*time.Second), h.startHolder)
	}
	return w
}

func (w *world) add(name string, id nodeid.ID) *host {
	h := &host{
		w: w, name: name, id: id, instance: wire.Instance{1}, rate: 1 + (2*w.rng.Float64()-1)*0.0199,
		base: epoch.Add(w.between(-5*time.Second, 5*time.Second)), roster: w.roster,
	}
	if w.variant.contend {
		h.rate = 1 + 0.0199*float64(2*w.rng.IntN(2)-1)
	}
	w.hosts = append(w.hosts, h)
	w.byID[id] = append(w.byID[id], h)
	return h
}

func (h *host) rand() *rand.Rand { return rand.New(rand.NewPCG(h.w.rng.Uint64(), 1)) }

func (h *host) startWitness() {
	h.up = true
	h.life++
	if h.roster.Epoch == 0 {
		h.roster = h.w.roster
	}
	h.witness = lease.NewWitness(lease.WitnessConfig{
		ID: h.id, Instance: h.instance, Crypto: h.w.variant.sign(h.id, 0), Members: members{h.w, h}, Rand: h.rand(),
	}, slices.Clone(h.disk), h.clock(h.w.now))
	h.witness.Break(h.w.variant.rules)
	h.handle(lease.Descriptor{Roster: h.roster, Policy: h.w.policy()})
}

func (h *host) startHolder() {
	h.up = true
	h.life++
	if h.roster.Epoch == 0 {
		h.roster = h.w.roster
	}
	h.holder = lease.NewHolder(lease.HolderConfig{ID: h.id, Instance: h.instance, Crypto: h.w.variant.sign(h.id, 0), Rand: h.rand()})
	h.holder.Break(h.w.variant.rules)
	h.handle(lease.Descriptor{Roster: h.roster, Policy: h.w.policy()})
	for _, want := range h.wants {
		want.Saved = h.saved[want.Claim]
		h.handle(want)
	}
}

// crash stops the machine; with a disk, what was synced stays.
func (h *host) crash(keepDisk bool, down time.Duration) {
	if !h.up {
		return
	}
	h.w.stats.crashes++
	h.up = false
	h.life++
	h.dirty, h.held, h.pauseEnd = nil, nil, 0
	h.drop(0)
	if !keepDisk {
		h.disk = nil
		clear(h.saved)
		if h.w.variant.noRecovery && h.witness != nil {
			h.disk = lease.VotingFile(h.id, h.instance)
		}
	}
	life := h.life
	h.w.after(down, func() {
		if h.life != life {
			return
		}
		if h.witness != nil {
			h.startWitness()
		} else if h.holder != nil {
			h.startHolder()
		}
	})
}

// handle gives an event to the machine and does what it answers, unless the
// machine is off; a paused one hears it later.
func (h *host) handle(e lease.Event) {
	if !h.up {
		return
	}
	w := h.w
	if w.now < h.pauseEnd {
		h.held = append(h.held, func() { h.handle(e) })
		return
	}
	now := h.clock(w.now)
	var actions []lease.Action
	if h.witness != nil {
		actions = h.witness.Handle(now, e)
	} else {
		failed := h.holder.Counts()[lease.CountRoundsFailed]
		actions = h.holder.Handle(now, e)
		if w.variant.releaseRenewal && h.holder.Counts()[lease.CountRoundsFailed] > failed {
			h.releaseAll()
		}
	}
	for _, a := range actions {
		h.do(a)
	}
	h.schedule()
}

func (h *host) schedule() {
	var next time.Time
	if h.witness != nil {
		next = h.witness.NextDeadline()
	} else {
		next = h.holder.NextDeadline()
	}
	if next.IsZero() {
		return
	}
	at := max(h.real(next), h.w.now)
	if h.tick != 0 && h.tick <= at && h.tick > h.w.now {
		return
	}
	h.tick = at
	life := h.life
	h.w.after(at-h.w.now, func() {
		if h.life == life && h.up && h.tick == at {
			h.tick = 0
			h.handle(lease.Tick{})
		}
	})
}

func (h *host) pause(d time.Duration) {
	w := h.w
	h.pauseEnd = w.now + d
	life := h.life
	w.after(d, func() {
		if h.life != life || w.now < h.pauseEnd {
			return
		}
		held := h.held
		h.held = nil
		h.handle(lease.Tick{})
		for _, f := range held {
			f()
		}
	})
}

func (h *host) do(a lease.Action) {
	w := h.w
	switch a := a.(type) {
	case lease.Route:
		if h.holder != nil && a.Type == wire.TypeHold && w.variant.releaseRenewal {
			if m, err := wire.ParseHold(a.Body); err == nil {
				h.last[m.Key] = m
			}
		}
		w.route(h, a)
	case lease.Persist:
		h.write(write{a.N, false, a.Record})
	case lease.Rewrite:
		h.write(write{a.N, true, a.File})
	case lease.Save:
		h.saved[a.Claim] = a.Record
	case lease.Changed:
		h.changed(a)
	case lease.WantRoster:
		w.after(w.between(20*time.Millisecond, 2*time.Second), func() { h.learn(a.From) })
	case lease.TellRoster:
		w.after(w.between(20*time.Millisecond, 2*time.Second), func() {
			for _, o := range w.byID[a.To] {
				o.learn(h.id)
			}
		})
	case lease.Publish:
		w.publish(h, a)
	case lease.Raise:
		w.alarms[a.Alarm]++
	}
}

// write goes to the disk after a while, in order.
func (h *host) write(r write) {
	h.dirty = append(h.dirty, r)
	if len(h.dirty) == 1 {
		h.sync()
	}
}

func (h *host) sync() {
	life := h.life
	h.w.after(h.w.between(time.Millisecond, 20*time.Millisecond), func() {
		if h.life != life || len(h.dirty) == 0 {
			return
		}
		n := h.dirty[len(h.dirty)-1].n
		for _, r := range h.dirty {
			if r.rewrite {
				h.disk = nil
			}
			h.disk = append(h.disk, r.data...)
		}
		h.dirty = nil
		h.handle(lease.Persisted{N: n})
	})
}

// learn takes the roster of a node that can be reached.
func (h *host) learn(from nodeid.ID) {
	for _, o := range h.w.byID[from] {
		if h.w.connected(h, o) && o.roster.Epoch > h.roster.Epoch {
			h.take(o.roster)
		}
	}
}

func (h *host) take(r lease.Roster) {
	if r.Epoch <= h.roster.Epoch {
		return
	}
	h.roster = r
	h.handle(lease.Descriptor{Roster: r, Policy: h.w.policy()})
}

func (w *world) connected(a, b *host) bool { return !w.parted || a.side == b.side }

func (w *world) delay() time.Duration {
	if w.chance(0.03) || w.variant.contend && w.chance(0.3) {
		return w.between(200*time.Millisecond, 8*time.Second)
	}
	return w.between(5*time.Millisecond, 150*time.Millisecond)
}

// route carries a message: lost, twice, late, or not at all.
func (w *world) route(from *host, a lease.Route) {
	w.messages++
	if w.record != nil {
		*w.record = append(*w.record, lease.Routed{Src: from.id, RPC: a.RPC, Type: a.Type, Body: a.Body})
	}
	if w.variant.deaf && (a.Type == wire.TypeGreet || a.Type == wire.TypeGreeted || a.Type == wire.TypeShow) {
		return
	}
	targets := w.byID[a.To.ID]
	if len(targets) == 0 {
		return
	}
	to := targets[0]
	if len(targets) > 1 {
		reach := make([]*host, 0, len(targets))
		for _, t := range targets {
			if t.up && t != from && w.connected(from, t) {
				reach = append(reach, t)
			}
		}
		if len(reach) == 0 {
			return
		}
		to = reach[w.rng.IntN(len(reach))]
	}
	copies := 1
	if w.chance(0.05) {
		copies = 2
	}
	for range copies {
		if !w.connected(from, to) || w.chance(0.05) {
			continue
		}
		w.after(w.delay(), func() {
			if w.connected(from, to) {
				w.trace = mix(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, w.trace^uint64(a.Type)), mix(a.Body)^uint64(w.now)))
				to.handle(lease.Routed{Src: from.id, RPC: a.RPC, Type: a.Type, Body: a.Body})
			}
		})
	}
}

// publish reaches everybody connected, after a while.
func (w *world) publish(from *host, a lease.Publish) {
	if a.Type == wire.TypeStopped {
		if s, err := wire.ParseStopped(a.Body); err == nil && s.Epoch == w.roster.Epoch {
			w.stopped = &s
		}
	}
	if w.variant.deaf {
		return
	}
	for _, h := range w.hosts {
		if h != from {
			w.after(w.between(50*time.Millisecond, 3*time.Second), func() {
				if w.connected(from, h) && (h.holder != nil || h.witness != nil) {
					h.handle(lease.Published(a))
				}
			})
		}
	}
}

// changed is what the data plane is told: the checker looks here.
func (h *host) changed(a lease.Changed) {
	w := h.w
	if t := h.mine[a.Claim]; t != nil && w.variant.fromAnswer && a.Why == lease.ReasonExpired {
		delete(h.mine, a.Claim) // that data plane goes on
	}
	h.drop(a.Claim)
	if a.State != lease.Holding {
		return
	}
	l := a.Lease
	until := l.Until()
	if w.variant.fromAnswer && a.Why == lease.ReasonGranted {
		until = h.clock(w.now).Add(holdTime)
	}
	if a.Why == lease.ReasonGranted {
		w.stats.grants++
		f := w.fences[l.Key]
		if l.Certificate.Seq <= f.seq {
			w.violate("fence: %v of %s granted with seq %d after %d", l.Key, h.name, l.Certificate.Seq, f.seq)
		}
		w.fences[l.Key] = fence{l.Certificate.Seq, h.id}
		if err := h.holder.Book().Verify(&l.Certificate); err != nil && w.variant.rules.Quorum == nil && !w.variant.localView {
			w.violate("certificate of %s does not verify: %v", h.name, err)
		}
	}
	t := &tenancy{host: h, until: until, lease: l}
	for _, o := range w.grants[l.Key] {
		if (o.host.id != h.id || o.host.instance != h.instance) && o.host.clock(w.now).Before(o.until) {
			w.violate("%v: %s until %v, and %s (%s) seq %d and %d", l.Key, o.host.name, o.host.real(o.until), h.name, a.Why,
				o.lease.Certificate.Seq, l.Certificate.Seq)
		}
	}
	w.grants[l.Key] = append(w.grants[l.Key], t)
	if at, ok := w.revoked[h.id]; ok && a.Why == lease.ReasonGranted && w.now > at+10*time.Second {
		w.violate("%s was granted %v though revoked", h.name, l.Key)
	}
	h.mine[a.Claim] = t
}

// drop ends what the host had under a claim, or, for 0, everything.
func (h *host) drop(id lease.ClaimID) {
	for claim, t := range h.mine {
		if id == 0 || claim == id {
			key := t.lease.Key
			h.w.grants[key] = slices.DeleteFunc(h.w.grants[key], func(o *tenancy) bool { return o == t })
			delete(h.mine, claim)
		}
	}
}

func (w *world) violate(format string, values ...any) {
	w.violations = append(w.violations, fmt.Sprintf("at %v: ", w.now.Round(time.Millisecond))+fmt.Sprintf(format, values...))
}
