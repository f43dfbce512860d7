package lease

import (
	"math/rand/v2"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Implementation numbers of the holder.
const (
	maxClaims         = 1024
	roundTimeout      = 4 * time.Second // from the first Hold of a round
	resendFirst       = 400 * time.Millisecond
	validateWait      = 3 * time.Second // for the first answer, before a lease from before is used
	backoffFirst      = 50 * time.Millisecond
	backoffSpread     = 350 * time.Millisecond
	backoffMost       = 30 * time.Second
	backoffRecovering = 2 * time.Second
	quickRounds       = 4 // one after another without a pause
	releaseAgain      = 3 // how often a Release is sent
)

// HolderConfig is what a Holder is made of.
type HolderConfig struct {
	ID       nodeid.ID
	Instance wire.Instance
	Chain    [32]byte // hash of this node's certificate chain; see SetChain
	Crypto   Crypto
	Rand     *rand.Rand
}

// Holder gets and keeps leases.
//
//	        Want                      a majority votes
//	idle ---------> acquiring ---------------------------> holding
//	  | Want.Saved      ^  ^                                | ^ |
//	  v                 |  | another has it, or it ended    | | | Resumed, or
//	validating ---------+  +--------------------------------+ | | nothing heard
//	  ^  | a majority votes; a witness confirms; none is      | | for a lease time
//	  |  | reached within 3 s and it is still valid           | |
//	  |  +----------------------------------------------------+ |
//	  +---------------------------------------------------------+
//
// From every state but idle, evidence that another machine renews this node's
// lease leads to stopped. A claim that is acquiring for the second time tries
// its old address first.
type Holder struct {
	cfg    HolderConfig
	rules  rules
	book   *Book
	policy Policy
	counts Counts
	claims []*claim // ascending by id
	last   time.Time

	releases []pendingRelease
	out      []Action
}

// pendingRelease is sent a few times: what is lost blocks a key for one hold.
type pendingRelease struct {
	to   nodeid.ID
	body []byte
	at   time.Time
	left int
}

const maxReleases = 256

// NewHolder returns a Holder without claims.
func NewHolder(cfg HolderConfig) *Holder {
	return &Holder{cfg: cfg, rules: soundRules, book: NewBook(cfg.Crypto)}
}

// SetChain says that the node has a new certificate chain.
func (h *Holder) SetChain(hash [32]byte) { h.cfg.Chain = hash }

// Counts returns the counters.
func (h *Holder) Counts() *Counts { return &h.counts }

// Book returns what the node knows of rosters; it verifies peers' certificates.
func (h *Holder) Book() *Book { return h.book }

// Lease returns a claim's state and, when it may be used, its lease.
func (h *Holder) Lease(id ClaimID) (State, Lease) {
	c := h.claim(id)
	if c == nil {
		return Idle, Lease{}
	}
	if c.state != Holding {
		return c.state, Lease{}
	}
	return c.state, c.lease
}

func (h *Holder) claim(id ClaimID) *claim {
	i, ok := slices.BinarySearchFunc(h.claims, id, func(c *claim, id ClaimID) int { return int(c.id) - int(id) })
	if !ok {
		return nil
	}
	return h.claims[i]
}

// Handle tells the holder what happened and returns what is to be done. The
// slice is used again by the next call.
func (h *Holder) Handle(now time.Time, e Event) []Action {
	h.out = h.out[:0]
	h.away(now)
	switch e := e.(type) {
	case Descriptor:
		h.descriptor(e, now)
	case Want:
		h.want(e, now)
	case Unwant:
		if c := h.claim(e.Claim); c != nil {
			if c.round != nil && !c.round.renewal {
				c.release(c.round, now)
			}
			h.claims = slices.DeleteFunc(h.claims, func(o *claim) bool { return o == c })
			h.act(Save{Claim: c.id})
			h.act(Changed{Claim: c.id, State: Idle, Why: ReasonUnwanted})
		}
	case Routed:
		h.routed(e, now)
	case Published:
		h.published(e)
	case Rival:
		h.rival(&e.Certificate, now)
	case Resumed:
		h.validate(now)
	case Tick:
	default:
		h.counts[CountUnexpected]++
	}
	h.due(now)
	return h.out
}

// away: a holder that heard nothing for a lease time was away.
func (h *Holder) away(now time.Time) {
	if !h.last.IsZero() && h.policy != nil {
		for _, c := range h.claims {
			if lease, _, ok := h.policy.Times(c.namespace); ok && c.state == Holding && now.Sub(h.last) > lease {
				c.validate(now)
			}
		}
	}
	h.last = now
}

func (h *Holder) validate(now time.Time) {
	for _, c := range h.claims {
		if c.state == Holding {
			c.validate(now)
		}
	}
}

// NextDeadline returns when Tick is to come; zero: not at all.
func (h *Holder) NextDeadline() time.Time {
	var next time.Time
	earlier := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, c := range h.claims {
		earlier(c.deadline())
	}
	for i := range h.releases {
		earlier(h.releases[i].at)
	}
	return next
}

func (h *Holder) due(now time.Time) {
	if h.policy == nil {
		return
	}
	for _, c := range h.claims {
		c.due(now)
	}
	keep := h.releases[:0]
	for _, r := range h.releases {
		if !now.Before(r.at) {
			h.act(Route{To: wire.Target{ID: r.to, Exact: true}, Type: wire.TypeRelease, Body: slices.Clone(r.body)})
			r.at, r.left = now.Add(time.Second), r.left-1
		}
		if r.left > 0 {
			keep = append(keep, r)
		}
	}
	h.releases = keep
}

func (h *Holder) descriptor(e Descriptor, now time.Time) {
	h.policy = e.Policy
	if _, err := h.book.Accept(e.Roster, now); err != nil {
		h.counts[CountEpochSkipped]++
		h.act(Raise{Alarm: AlarmEpochSkipped, Node: h.cfg.ID})
	}
	for _, c := range h.claims {
		c.rosterChanged(now)
	}
}

func (h *Holder) want(e Want, now time.Time) {
	i, ok := slices.BinarySearchFunc(h.claims, e.Claim, func(c *claim, id ClaimID) int { return int(c.id) - int(id) })
	if ok || len(h.claims) >= maxClaims {
		h.counts[CountUnexpected]++
		return
	}
	c := &claim{h: h, id: e.Claim, namespace: e.Namespace, name: e.Name, next: now}
	if e.Previous.IsValid() {
		c.previous = AddressKey(e.Namespace, e.Previous)
	}
	h.claims = slices.Insert(h.claims, i, c)
	c.begin(e.Saved, now)
}

func (h *Holder) routed(e Routed, now time.Time) {
	if e.Type != wire.TypeVote && e.Type != wire.TypeNack {
		h.counts[CountUnexpected]++
		return
	}
	m, err := wire.ParseAnswer(e.Body)
	if err != nil || m.Type() != e.Type {
		h.counts[CountMalformed]++
		return
	}
	for _, c := range h.claims {
		if r := c.round; r != nil && r.nonce == m.Nonce && r.key == m.Key {
			c.answer(&m, now)
			return
		}
		if r := c.done; r != nil && r.nonce == m.Nonce && r.key == m.Key {
			c.late(&m)
			return
		}
	}
	h.counts[CountUnexpected]++
}

// published: a witness that recovers is shown this node's leases.
func (h *Holder) published(e Published) {
	switch e.Type {
	case wire.TypeStopped:
		if s, err := wire.ParseStopped(e.Body); err == nil {
			h.book.LearnStopped(&s)
		}
	case wire.TypeGreet:
		g, err := wire.ParseGreet(e.Body)
		if err != nil || g.Flags&wire.GreetRecovering == 0 || !h.cfg.Crypto.Verify(g.Witness, &g.Signature, g.Signed(nil)) {
			h.counts[CountMalformed]++
			return
		}
		for _, c := range h.claims {
			c.show(g.Witness, &c.lease.Certificate)
		}
	}
}

// rival: somebody has shown another node's certificate. The newer grant wins.
func (h *Holder) rival(m *wire.LeaseCertificate, now time.Time) {
	for _, c := range h.claims {
		if c.state != Holding && c.state != Validating || c.lease.Key != m.Key || m.Holder == h.cfg.ID && m.Instance == h.cfg.Instance {
			continue
		}
		if h.book.Verify(m) != nil || !now.Round(0).Before(Ends(m)) {
			h.counts[CountBadSignature]++
			continue
		}
		if c.lease.MaySend(now) {
			for _, id := range append(Overlap(m, &c.lease.Certificate), nodeid.ID{}) {
				h.act(Raise{AlarmDoubleLease, id, m.Key})
			}
		}
		if Newer(m, &c.lease.Certificate) > 0 {
			c.lose(ReasonNewer, now)
		}
	}
}

func (h *Holder) act(a Action) { h.out = append(h.out, a) }

// between draws a time between min and max.
func (h *Holder) between(min, max time.Duration) time.Duration {
	return min + time.Duration(h.cfg.Rand.Int64N(int64(max-min)+1))
}
