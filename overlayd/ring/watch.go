package ring

import (
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// rtt is a smoothed round-trip time and its variation (RFC 6298 §2).
type rtt struct{ smoothed, variation time.Duration }

func (r *rtt) restart(d time.Duration) {
	if d > 0 {
		*r = rtt{smoothed: d, variation: d / 2}
	}
}

func (r *rtt) sample(d time.Duration) {
	if r.smoothed == 0 {
		r.restart(max(d, 1))
		return
	}
	r.variation += ((r.smoothed - d).Abs() - r.variation) / 4
	r.smoothed += (d - r.smoothed) / 8
}

// timeout is when a Ping counts as lost.
func (r *rtt) timeout() time.Duration {
	if r.smoothed == 0 {
		return firstRTO
	}
	return min(max(r.smoothed+4*r.variation, minRTO), maxRTO)
}

// trial is what a jury says of a peer that does not answer.
//
//	(healthy) -- a neighbour, first Ping lost or
//	             payload not acknowledged ------> asking
//	asking -- Pong -----------------------------> (healthy)
//	asking -- three Pings lost, one juror heard it ---------> broken: reconnect through that juror
//	asking -- three lost, two holders' jurors did not ------> dead
//	asking -- three lost, juryTime over --------------------> silent: dropped, not dead
//
// A session that is not with a neighbour is dropped after three losses without
// a jury: nobody is told that the peer is dead.
type trial struct {
	number uint32 // of the questions
	since  instant
	silent [jury]wire.Holder
	n      int
	alive  nodeid.ID // a juror that heard the peer
	asked  [jury]nodeid.ID
	askedN int
}

func (m *Machine) watchAll() {
	for i := 0; i < len(m.conns); i++ {
		c := m.conns[i]
		m.watch(c)
		if i < len(m.conns) && m.conns[i] != c { // dropped
			i--
		}
	}
}

// watch keeps one connection: Pings when it is quiet, loss, and the verdict.
func (m *Machine) watch(c *conn) {
	if m.now >= c.ping {
		m.beat(c)
		if c.gone {
			return
		}
	}
	if c.have != c.status.Version && c.near() && m.now >= c.askAt {
		m.askList(c)
	}
	m.ageRoles(c)
}

// beat sends the next Ping, or decides after the last.
func (m *Machine) beat(c *conn) {
	if c.out >= probes || c.out >= heardBy && c.trial != nil && c.trial.alive != (nodeid.ID{}) {
		m.judge(c)
		return
	}
	if c.out >= 1 && c.near() && c.trial == nil {
		m.summon(c)
	}
	m.pingNow(c)
}

func (m *Machine) pingNow(c *conn) {
	c.number, c.sent = m.nextNumber(), m.now
	if c.out == 0 {
		c.first, c.firstSent = c.number, c.sent
	}
	c.ping = m.now + min(c.rtt.timeout()<<c.out, maxRTO)
	c.out++
	msg := wire.Ping{Number: c.number, Status: m.status()}
	if m.cfg.Tail != nil {
		var tail [wire.MaxTail]byte
		msg.Tail = m.cfg.Tail(tail[:0])
	}
	m.send(c.peer.ID, msg)
}

// summon asks up to three peers that list the suspect, of different holders,
// none of them the suspect's.
func (m *Machine) summon(c *conn) {
	t := &trial{number: m.nextNumber(), since: m.now}
	c.trial = t
	holders := []wire.Holder{c.peer.Holder}
	for _, o := range m.conns {
		if o == c || o.out > 1 || t.askedN == jury || slices.Contains(holders, o.peer.Holder) || !slices.Contains(o.told, c.prefix) {
			continue
		}
		holders = append(holders, o.peer.Holder)
		t.asked[t.askedN] = o.peer.ID
		t.askedN++
		m.send(o.peer.ID, wire.ProbeFor{Target: c.peer.ID, Number: t.number})
	}
}

// judge decides about a peer that answered no Ping.
func (m *Machine) judge(c *conn) {
	t := c.trial
	if c.near() && m.phase == OnRing { // with it the way to the other side may be gone
		m.mergeAt = min(m.mergeAt, m.now+m.jitter(mergeAgain))
	}
	switch {
	case t == nil:
		m.fail(c.peer.ID)
		m.close(c, WhySilent)
	case t.alive != nodeid.ID{}:
		m.close(c, WhyBroken)
		if m.conn(t.alive) != nil {
			m.open(wire.Contact{ID: c.peer.ID, Holder: c.peer.Holder}, t.alive, WhyNear)
		}
	case t.n >= m.rules.witnesses:
		m.bury(c.peer.ID, deadTime)
		m.close(c, WhyDead)
	case m.now-t.since >= juryTime:
		m.fail(c.peer.ID)
		m.grave(c.peer.ID).dead = true // nobody heard it: not listed until it is tried again
		m.close(c, WhySilent)
	default:
		c.ping = t.since + juryTime
	}
}

// onProbeResult takes a juror's word, once, and only from whom was asked.
func (m *Machine) onProbeResult(from *conn, msg wire.ProbeResult) {
	c := m.conn(msg.Target)
	if c == nil || c.trial == nil || c.trial.number != msg.Number {
		return
	}
	t := c.trial
	i := slices.Index(t.asked[:t.askedN], from.peer.ID)
	if i < 0 {
		return
	}
	t.asked[i] = nodeid.ID{}
	switch msg.Finding {
	case wire.FindingAlive:
		t.alive = from.peer.ID
	case wire.FindingSilent:
		if t.n < jury && !slices.Contains(t.silent[:t.n], from.peer.Holder) {
			t.silent[t.n] = from.peer.Holder
			t.n++
		}
	}
	if c.out >= probes || c.out >= heardBy && t.alive != (nodeid.ID{}) {
		c.ping = min(c.ping, max(m.now, c.sent+c.rtt.timeout()))
	}
}

// ask is another node's question about a peer, until that one answers a Ping.
type ask struct {
	from, target nodeid.ID
	number       uint32
	until        instant
}

// onProbeFor looks for another node whether a peer is alive.
func (m *Machine) onProbeFor(from *conn, msg wire.ProbeFor) {
	c := m.conn(msg.Target)
	if c == nil || c == from || len(m.asks) >= asks {
		m.send(from.peer.ID, wire.ProbeResult{Target: msg.Target, Number: msg.Number, Finding: wire.FindingNoLink})
		return
	}
	wait := juryTime * 3 / 4
	m.asks = append(m.asks, ask{from: from.peer.ID, target: msg.Target, number: msg.Number, until: m.now + wait})
	if c.out == 0 {
		m.pingNow(c)
	}
}

// answerAsks answers every question about a peer.
func (m *Machine) answerAsks(c *conn, f wire.Finding) {
	m.asks = slices.DeleteFunc(m.asks, func(a ask) bool {
		if a.target != c.peer.ID {
			return false
		}
		m.answer(a, f)
		return true
	})
}

func (m *Machine) answer(a ask, f wire.Finding) {
	if m.conn(a.from) != nil {
		m.send(a.from, wire.ProbeResult{Target: a.target, Number: a.number, Finding: f})
	}
}

func (m *Machine) expireAsks() {
	m.asks = slices.DeleteFunc(m.asks, func(a ask) bool {
		if m.now < a.until {
			return false
		}
		m.answer(a, wire.FindingSilent)
		return true
	})
}

// fromLink takes one link message, and returns the connection it came from if
// that is still there.
func (m *Machine) fromLink(e FromLink) *conn {
	c := m.conn(e.ID)
	if c == nil || len(e.Data) == 0 {
		return nil
	}
	understood := m.dispatch(c, wire.Type(e.Data[0]), e.Data[1:])
	if c.gone {
		return nil
	}
	if understood {
		c.heard = m.now
		if c.out == 0 {
			c.ping = m.now + m.interval(c)
		}
	}
	return c
}

// interval is the quiet time before a Ping.
func (m *Machine) interval(c *conn) time.Duration {
	if c.near() {
		return m.jitter(pingNear)
	}
	return m.jitter(pingFar)
}

// dispatch says whether the message was understood.
func (m *Machine) dispatch(c *conn, t wire.Type, body []byte) bool {
	switch t {
	case wire.TypePing:
		return take(body, wire.ParsePing, func(msg wire.Ping) { m.onPing(c, msg) })
	case wire.TypePong:
		return take(body, wire.ParsePong, func(msg wire.Pong) { m.onPong(c, msg) })
	case wire.TypeNeighAsk:
		return take(body, wire.ParseNeighAsk, func(wire.NeighAsk) { m.send(c.peer.ID, m.neigh()) })
	case wire.TypeNeigh:
		return take(body, wire.ParseNeigh, func(msg wire.Neigh) { m.onNeigh(c, msg) })
	case wire.TypeLink:
		return take(body, wire.ParseLink, func(msg wire.Link) { m.onStatus(c, msg.Status); m.onLink(c, msg) })
	case wire.TypeLinkAnswer:
		return take(body, wire.ParseLinkAnswer, func(msg wire.LinkAnswer) { m.onLinkAnswer(c, msg) })
	case wire.TypeUnlink:
		return take(body, wire.ParseUnlink, func(msg wire.Unlink) { m.onUnlink(c, msg) })
	case wire.TypeNewcomer:
		return take(body, wire.ParseNewcomer, func(msg wire.Newcomer) {
			if c.near() {
				m.greet(msg)
			}
		})
	case wire.TypeProbeFor:
		return take(body, wire.ParseProbeFor, func(msg wire.ProbeFor) { m.onProbeFor(c, msg) })
	case wire.TypeProbeResult:
		return take(body, wire.ParseProbeResult, func(msg wire.ProbeResult) { m.onProbeResult(c, msg) })
	}
	return false
}

func take[M any](body []byte, parse func([]byte) (M, error), do func(M)) bool {
	msg, err := parse(body)
	if err == nil {
		do(msg)
	}
	return err == nil
}

func (m *Machine) onPing(c *conn, msg wire.Ping) {
	m.onStatus(c, msg.Status)
	pong := wire.Pong{Number: msg.Number, Status: m.status()}
	if m.cfg.Tail != nil {
		var tail [wire.MaxTail]byte
		pong.Tail = m.cfg.Tail(tail[:0])
	}
	m.send(c.peer.ID, pong)
}

func (m *Machine) onPong(c *conn, msg wire.Pong) {
	m.onStatus(c, msg.Status)
	if c.out == 0 || older(msg.Number, c.first) || older(c.number, msg.Number) {
		return
	}
	d := m.now - c.sent
	if msg.Number != c.number { // late, but alive: as if the first was answered
		d = m.now - c.firstSent
	}
	c.rtt.sample(d)
	m.coord.update(d, msg.Status.Coord)
	c.out, c.trial = 0, nil
	m.answerAsks(c, wire.FindingAlive)
}

// onReceipt is a peer that acknowledged a payload: a sign of life, as a Pong is.
func (m *Machine) onReceipt(c *conn, d time.Duration) {
	if d > 0 {
		c.rtt.sample(d)
	}
	c.heard, c.ping = m.now, m.now+m.interval(c)
	if c.out > 0 {
		c.out, c.trial = 0, nil
		m.answerAsks(c, wire.FindingAlive)
	}
}

// onUnheard is a peer that did not acknowledge a payload: as if it had lost a
// Ping, but that it still has three.
func (m *Machine) onUnheard(c *conn) {
	if c.out == 0 {
		c.ping = m.now
	}
	if c.near() && c.trial == nil {
		m.summon(c)
	}
}

// onStatus takes what a peer says of itself, and asks for its list if that is
// another.
func (m *Machine) onStatus(c *conn, s wire.Status) {
	if c.known() && older(s.Version, c.status.Version) {
		return // overtaken on the way
	}
	if s.Flags != c.status.Flags || !c.known() {
		m.dirty = true
	}
	if s.Version == 0 {
		s.Version = 1 // 0 is a peer not heard of
	}
	c.status, c.peer.Coord = s, s.Coord
	if c.have != s.Version && m.now >= c.askAt {
		m.askList(c)
	}
}

// older compares versions, which count on past 2^32.
func older(a, b uint32) bool { return int32(a-b) < 0 }

func (m *Machine) askList(c *conn) {
	c.askAt = m.now + askNear
	if !c.near() && m.phase == OnRing {
		c.askAt = m.now + m.jitter(askFar)
	}
	m.send(c.peer.ID, wire.NeighAsk{Have: c.have})
}
