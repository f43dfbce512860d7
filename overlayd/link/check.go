package link

import (
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// Outcome is what became of a candidate.
type Outcome string

// Outcomes.
const (
	Waiting  Outcome = "waiting"
	Answered Outcome = "answered"
	Silent   Outcome = "no answer"
	Budget   Outcome = "budget used up"
)

// pair is a candidate of the peer's, or an address that it was seen at, and
// the checks sent to it.
type pair struct {
	candidate wire.Candidate // Kind 0: learned from where a record came
	via       session.Via
	id        uint8 // of the path it would become
	outcome   Outcome
	why       string // it is not tried at all
	sent      int    // in this round
	total     int
	credit    int       // bytes that may be sent to a learned address
	next      time.Time // of its next check; zero: none
	interval  time.Duration
	questions questions
	rtt       time.Duration
}

// begin starts a round of checks, if it is time and there is what to check.
// The peer is called to do the same, because both must send.
func (m *Machine) begin(now time.Time, p *peer) {
	if p.s == nil || p.state() == Direct || !p.roundEnd.IsZero() || !due(now, p.nextTry) {
		return
	}
	m.startRound(now, p)
	if p.round > 1 || !p.since.Equal(now) {
		m.call(now, p, false)
	}
}

// startRound sets the checks of all candidates 20 ms apart.
func (m *Machine) startRound(now time.Time, p *peer) {
	m.pairUp(p)
	p.nextTry = now.Add(roundLength + m.jitter(retryRounds[min(p.round, len(retryRounds)-1)]))
	any := false
	for i, pr := range p.pairs {
		pr.sent, pr.next = 0, time.Time{}
		if pr.why != "" || pr.candidate.Kind == 0 && pr.outcome != Answered {
			continue
		}
		pr.outcome, pr.interval, any = Waiting, firstInterval, true
		pr.next = now.Add(time.Duration(i) * pace)
	}
	p.round++
	if !any {
		return
	}
	p.roundEnd = now.Add(roundLength)
	m.tell(now, p)
	m.punch(now, p)
}

// jitter varies a pause by a fifth.
func (m *Machine) jitter(d time.Duration) time.Duration {
	return d*4/5 + time.Duration(m.cfg.Rand.Int64N(int64(d)*2/5))
}

// pairUp makes pairs of what the peer has named, and judges each.
func (m *Machine) pairUp(p *peer) {
	learned := p.pairs[:0:0]
	for _, pr := range p.pairs {
		if pr.candidate.Kind == 0 {
			learned = append(learned, pr)
		}
	}
	var pairs []*pair
	for _, c := range p.remote.List {
		pr := p.pairAt(session.Direct(c.Endpoint))
		if pr == nil || pr.candidate.Kind == 0 {
			pr = &pair{candidate: c, via: session.Direct(c.Endpoint)}
		}
		pr.candidate = c
		if pr.why = m.own.permits(c.Endpoint, &p.remote); pr.why != "" {
			m.counters.Filtered++
		}
		pairs = append(pairs, pr)
	}
	for _, pr := range learned {
		named := false
		for _, q := range pairs {
			named = named || q.via == pr.via
		}
		if !named && len(pairs) < maxPairs {
			pairs = append(pairs, pr)
		}
	}
	p.pairs = pairs
}

func (p *peer) pairAt(via session.Via) *pair {
	for _, pr := range p.pairs {
		if pr.via == via {
			return pr
		}
	}
	return nil
}

// punch sends the checks that are due, at most one in 20 ms to each, and ends
// the round.
func (m *Machine) punch(now time.Time, p *peer) {
	for _, pr := range p.pairs {
		if !pr.next.IsZero() && due(now, pr.next) {
			m.probe(now, p, pr)
		}
	}
	if p.extra > 0 && p.best != nil && due(now, p.extraAt) {
		p.extra--
		p.extraAt = now.Add(pace)
		m.check(now, p, p.best)
	}
	if !p.roundEnd.IsZero() && due(now, p.roundEnd) {
		m.endRound(now, p)
	}
}

func (m *Machine) endRound(now time.Time, p *peer) {
	p.roundEnd = time.Time{}
	for _, pr := range p.pairs {
		pr.next = time.Time{}
		if pr.outcome == Waiting && pr.why == "" {
			pr.outcome = Silent
		}
	}
	m.tell(now, p)
}

// probe sends one check to a candidate, within the budgets.
func (m *Machine) probe(now time.Time, p *peer, pr *pair) {
	limit := maxProbes
	if p.round > 1 {
		limit = retryChecks
	}
	if pr.sent >= limit {
		pr.next = time.Time{}
		return
	}
	if !m.targets.spend(now, pr.via.Endpoint) {
		pr.next, pr.outcome = time.Time{}, Budget
		m.counters.Budgeted++
		return
	}
	pr.sent++
	pr.total++
	m.ask(now, p, pr)
	if pr.sent >= firstRounds {
		pr.interval = min(maxInterval, pr.interval*3/2)
	}
	pr.next = now.Add(pr.interval)
}

// ask sends a check to what is not a path yet.
func (m *Machine) ask(now time.Time, p *peer, pr *pair) {
	p.pathID(pr)
	m.counters.Checks++
	m.say(now, p, &path{id: pr.id, via: pr.via}, wire.Check{Nonce: pr.questions.ask(m, now), To: shown(pr.via)})
}

// pathID returns the id of the path that a pair may become.
func (p *peer) pathID(pr *pair) uint8 {
	if pr.id == 0 {
		pr.id = p.newID()
	}
	return pr.id
}

// learn notices a record from an address that is not a path: it may be one
// (peer-reflexive, RFC 8445 §7.3.1.3), once it has answered a challenge.
func (m *Machine) learn(now time.Time, p *peer, via session.Via, size int) {
	if p.find(via) != nil {
		return
	}
	pr := p.pairAt(via)
	if pr == nil {
		if len(p.pairs) >= maxPairs {
			p.evict()
		}
		pr = &pair{via: via, outcome: Waiting}
		if isDirect(via) {
			pr.why = m.own.refuses(via.Endpoint)
		}
		p.pairs = append(p.pairs, pr)
	}
	pr.credit = min(pr.credit+size, 1<<16)
}

// evict forgets the oldest learned address that did not answer, or the oldest.
func (p *peer) evict() {
	victim := 0
	for i, pr := range p.pairs {
		if pr.candidate.Kind == 0 && pr.outcome != Answered {
			victim = i
			break
		}
	}
	p.pairs = append(p.pairs[:victim], p.pairs[victim+1:]...)
}

// checkSize is how long the datagram of a check or answer is.
func checkSize(v session.Via) int {
	return session.Overhead + 1 + 16 + 3 + shown(v).Addr().BitLen()/8
}

// checked answers a check where it came from, and challenges an address that
// is not a path yet: in one datagram as long as the check.
func (m *Machine) checked(now time.Time, p *peer, from session.Via, c wire.Check) {
	answer := wire.CheckAnswer{Nonce: c.Nonce, Observed: shown(from)}
	pa := p.find(from)
	if pa == nil && from.Channel != 0 && p.owns(m, from) {
		pa = p.path(from)
	}
	if pa == nil {
		pr := p.pairAt(from)
		if pr == nil || pr.why != "" || pr.credit < checkSize(from) {
			return
		}
		pr.credit -= checkSize(from)
		p.pathID(pr)
		answer.Challenge = pr.questions.ask(m, now)
		pa = &path{id: pr.id, via: from}
	} else if !pa.valid {
		answer.Challenge = pa.questions.ask(m, now)
	}
	m.say(now, p, pa, answer)
}

// owns says whether a relay's channel is the peer's.
func (p *peer) owns(m *Machine, via session.Via) bool {
	relay := m.byKey[key{via.Node, session.LinkPurpose}]
	return relay != nil && relay.channels[via.Channel] == p.id
}

// answered takes the answer to a check or challenge. It counts only from where
// the question was sent.
func (m *Machine) answered(now time.Time, p *peer, from session.Via, c wire.CheckAnswer) {
	pa := p.find(from)
	pr := p.pairAt(from)
	if pa != nil {
		asked, ok := pa.questions.answered(c.Nonce)
		if ok {
			m.ponged(p, c.Nonce, from, now.Sub(asked))
			pa.questions.forgetUntil(c.Nonce)
			m.proven(now, p, pa, now.Sub(asked))
		} else if pr == nil || !pr.questions.has(c.Nonce) { // else an earlier check of what has become a path
			m.counters.Unasked++
			return
		}
	} else {
		asked, ok := time.Time{}, false
		if pr != nil {
			if asked, ok = pr.questions.answered(c.Nonce); !ok {
				asked, ok = m.sprayQuestion(p, from, c.Nonce)
			}
		}
		if !ok {
			m.counters.Unasked++
			return
		}
		pr.outcome, pr.next, pr.rtt = Answered, time.Time{}, now.Sub(asked)
		pa = &path{id: p.pathID(pr), via: from}
		p.paths = append(p.paths, pa)
		m.boundPaths(p)
		m.proven(now, p, pa, pr.rtt)
		p.extra, p.extraAt = extraChecks, now.Add(pace)
		m.endRound(now, p)
	}
	m.counters.Answers++
	if isDirect(from) {
		m.targets.answered(from.Endpoint)
		if from.Socket == 0 && m.own.observe(p.contact.Holder, from.Endpoint, c.Observed) {
			m.observed(now)
		}
	}
	if c.Challenge != [8]byte{} {
		m.say(now, p, pa, wire.CheckAnswer{Nonce: c.Challenge, Observed: shown(from)})
	}
}

// questions are the checks and challenges of a path that may still be answered:
// the last 16.
type questions struct{ list []question }

type question struct {
	nonce [8]byte
	at    time.Time
}

// ask returns a new nonce.
func (q *questions) ask(m *Machine, now time.Time) [8]byte {
	x := question{m.nonce(), now}
	if len(q.list) == maxQuestions {
		q.list = append(q.list[:0], q.list[1:]...)
	}
	q.list = append(q.list, x)
	return x.nonce
}

func (q *questions) has(nonce [8]byte) bool {
	for _, x := range q.list {
		if x.nonce == nonce {
			return true
		}
	}
	return false
}

// answered returns when a nonce was sent. An answer counts once.
func (q *questions) answered(nonce [8]byte) (at time.Time, ok bool) {
	for i := range q.list {
		if x := &q.list[i]; x.nonce == nonce && !x.at.IsZero() {
			at, x.at = x.at, time.Time{}
			return at, true
		}
	}
	return at, false
}

// forgetUntil forgets a question and those asked before it. Those asked later
// may be another's, such as a ping's.
func (q *questions) forgetUntil(nonce [8]byte) {
	for i := range q.list {
		if q.list[i].nonce == nonce {
			q.list = append(q.list[:0], q.list[i+1:]...)
			return
		}
	}
}

// proven makes a path one that may be used.
func (m *Machine) proven(now time.Time, p *peer, pa *path, rtt time.Duration) {
	pa.hear(now)
	if pa.rtt == 0 {
		pa.rtt = rtt
	} else {
		pa.rtt += (rtt - pa.rtt) / 8 // RFC 6298 §2
	}
	if !pa.valid {
		pa.valid = true
		m.act(KeysChanged{p.s}) // the data path takes what comes on it from now on
		if isDirect(pa.via) {
			m.share(now, p, pa.via)
		}
	}
	p.remember(pa.via)
	if pa != p.best && pa.warm.IsZero() {
		pa.warm = now.Add(warmFor) // until it is the best, or not
	}
	m.choose(now, p)
}

// share has the other sessions with a peer ask on a direct path that one of
// them has found.
func (m *Machine) share(now time.Time, p *peer, via session.Via) {
	for _, q := range m.peers {
		if q.id == p.id && q != p && q.s != nil && q.state() != Direct && q.find(via) == nil {
			pa := q.path(via)
			m.boundPaths(q)
			m.check(now, q, pa)
		}
	}
}

// boundPaths keeps the number of paths small: the one heard longest ago goes.
func (m *Machine) boundPaths(p *peer) {
	for len(p.paths) > session.MaxPaths/2 {
		oldest := -1
		for i, pa := range p.paths {
			if pa != p.best && !pa.via.IsRing() && i < len(p.paths)-1 && (oldest < 0 || pa.heard.Before(p.paths[oldest].heard)) {
				oldest = i
			}
		}
		p.paths = append(p.paths[:oldest], p.paths[oldest+1:]...)
	}
}

// call sends the own candidates to a peer, who begins a round of checks.
func (m *Machine) call(now time.Time, p *peer, spray bool) {
	if p.best == nil {
		return
	}
	c := m.candidates()
	c.Spray = spray
	m.say(now, p, p.best, c)
}

// called takes a peer's candidates: both check now.
func (m *Machine) called(now time.Time, p *peer, c wire.Candidates) {
	if c.Spray {
		m.sprayAt(now, p, c)
		return
	}
	if !slices.Equal(p.remote.Places, c.Places) {
		p.relayAt = now
	}
	p.remote = c
	if p.state() == Direct || !p.roundEnd.IsZero() {
		m.pairUp(p)
		return
	}
	m.startRound(now, p)
}

// targets is how many checks each address was sent without an answer, over all
// peers.
type targets struct {
	spent map[netip.Addr]*spending
	order []netip.Addr
}

type spending struct {
	since   time.Time
	all     int
	byPort  map[uint16]int
	sprayed time.Time
}

func newTargets() targets { return targets{spent: map[netip.Addr]*spending{}} }

// spend reports whether one more check may be sent to an endpoint, and counts it.
func (t *targets) spend(now time.Time, e netip.AddrPort) bool {
	s := t.at(now, e.Addr())
	if s.all >= maxAllProbes || s.byPort[e.Port()] >= maxProbes {
		return false
	}
	s.all++
	s.byPort[e.Port()]++
	return true
}

func (t *targets) at(now time.Time, a netip.Addr) *spending {
	s := t.spent[a]
	if s == nil {
		if len(t.order) == maxTargets {
			delete(t.spent, t.order[0])
			t.order = append(t.order[:0], t.order[1:]...)
		}
		s = &spending{since: now, byPort: map[uint16]int{}}
		t.spent[a] = s
		t.order = append(t.order, a)
	}
	if now.Sub(s.since) >= probeWindow {
		*s = spending{since: now, byPort: map[uint16]int{}, sprayed: s.sprayed}
	}
	return s
}

// answered gives an address its budget back.
func (t *targets) answered(e netip.AddrPort) {
	if s := t.spent[e.Addr()]; s != nil {
		s.all, s.byPort[e.Port()] = s.all-s.byPort[e.Port()], 0
	}
}
