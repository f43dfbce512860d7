package dht

import (
	"slices"
	"time"

	"golang.org/x/time/rate"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// Implementation: tunable.
const (
	maxRPCs     = 1024
	maxTries    = 3           // of one RPC, each by another first hop
	rpcTime     = time.Second // for one try
	objectTime  = 2 * time.Second
	maxObjects  = 256 // being fetched
	perSource   = 64  // of them of one source
	serveRate   = 1024
	serveBurst  = 2048 // pieces served per second, and at once
	verifyRate  = 100
	verifyBurst = 400 // chains verified per second, and at once
)

// Machine is a node's part of the store: what it keeps for others, what it
// publishes, what it looks up.
type Machine struct {
	cfg   Config
	rules rules
	near  []wire.Replica // around this node, itself not among them

	store      store
	chains     chains
	fetcher    *piece.Fetcher
	candidates []*candidate
	rpcs       []*rpc

	chain        []byte // this node's, encoded
	publications []*publication
	lookups      []*lookup
	cache        []*cached
	handover     handover

	serving, verifying *rate.Limiter
	count              Counters
	actions            []Action
}

// rules are what tests break on purpose, to see that it is noticed.
type rules struct {
	perHolder bool // count by holder, not by node
	handover  bool
	readers   int // replicas that must have answered
}

// New returns a machine that stores nothing and knows no neighbour.
func New(cfg Config) *Machine {
	return &Machine{
		cfg: cfg, rules: rules{perHolder: true, handover: true, readers: 3},
		store: newStore(), chains: newChains(),
		fetcher: piece.NewFetcher(piece.Limits{Objects: maxObjects, PerSource: perSource, Time: objectTime}),
		serving: rate.NewLimiter(serveRate, serveBurst), verifying: rate.NewLimiter(verifyRate, verifyBurst),
	}
}

// Counters returns the counters.
func (m *Machine) Counters() Counters { return m.count }

// Handle takes one event. The actions are valid until the next call.
func (m *Machine) Handle(now time.Time, e Event) []Action {
	m.actions = m.actions[:0]
	switch e := e.(type) {
	case Identity:
		m.identity(now, e.Chain)
	case Near:
		m.nearChanged(now, e.Nodes)
	case TrustChanged:
		m.chains.generation++
		m.cache = nil
	case Received:
		m.received(now, e)
	case Publish:
		m.publish(now, e)
	case Withdraw:
		m.withdraw(now, e.Name)
	case Lookup:
		m.lookup(now, e)
	case Leave:
		m.leave(now)
	}
	m.flush(now)
	return m.actions
}

func (m *Machine) do(a Action) { m.actions = append(m.actions, a) }

// tell answers, or sends what expects no answer.
func (m *Machine) tell(to nodeid.ID, rpc uint32, typ wire.Type, msg wire.Message) {
	m.do(Route{To: wire.Target{ID: to, Exact: true}, RPC: rpc, Type: typ, Body: msg.Append(nil)})
}

// rpc is a request that waits for its answer.
type rpc struct {
	id      uint32
	to      wire.Target
	msg     wire.Message
	attempt int
	end     time.Time // of this try
	waiter  waiter
}

// waiter is who sent a request.
type waiter interface {
	answered(m *Machine, now time.Time, r *rpc, src nodeid.ID, answer wire.Message)
	failed(m *Machine, now time.Time, r *rpc)
}

// call sends a request and reports whether it could.
func (m *Machine) call(now time.Time, to wire.Target, msg wire.Message, w waiter) bool {
	if len(m.rpcs) >= maxRPCs {
		m.count.Busy++
		return false
	}
	r := &rpc{id: m.freshRPC(), to: to, msg: msg, end: now.Add(rpcTime), waiter: w}
	m.rpcs = append(m.rpcs, r)
	m.do(Route{To: to, RPC: r.id, Type: msg.Type(), Body: msg.Append(nil)})
	return true
}

func (m *Machine) freshRPC() uint32 {
	for {
		id := m.cfg.Rand.Uint32()
		if id != 0 && !slices.ContainsFunc(m.rpcs, func(r *rpc) bool { return r.id == id }) {
			return id
		}
	}
}

// answer hands an answer to who asked.
func (m *Machine) answer(now time.Time, e Received, key nodeid.ID, answer wire.Message) {
	i := slices.IndexFunc(m.rpcs, func(r *rpc) bool { return r.id == e.RPC })
	if i < 0 {
		m.count.Stray++
		return
	}
	r := m.rpcs[i]
	asked := false
	switch msg := r.msg.(type) {
	case wire.Get:
		asked = answer.Type() == wire.TypeRecords && msg.Key == key
	case wire.Put:
		asked = answer.Type() == wire.TypePutAnswer && msg.Key == key
	}
	if !asked || r.to.Exact && r.to.ID != e.Src {
		m.count.Stray++
		return
	}
	m.rpcs = slices.Delete(m.rpcs, i, i+1)
	r.waiter.answered(m, now, r, e.Src, answer)
}

// retry sends again what was not answered in time, or gives it up.
func (m *Machine) retry(now time.Time) {
	var given []*rpc
	m.rpcs = slices.DeleteFunc(m.rpcs, func(r *rpc) bool {
		if now.Before(r.end) {
			return false
		}
		m.count.Timeouts++
		if r.attempt++; r.attempt >= maxTries {
			given = append(given, r)
			return true
		}
		r.end = now.Add(rpcTime)
		m.do(Route{To: r.to, Attempt: r.attempt, RPC: r.id, Type: r.msg.Type(), Body: r.msg.Append(nil)})
		return false
	})
	for _, r := range given {
		r.waiter.failed(m, now, r)
	}
}

// forget drops the requests of a waiter that is done.
func (m *Machine) forget(w waiter) {
	m.rpcs = slices.DeleteFunc(m.rpcs, func(r *rpc) bool { return r.waiter == w })
}

func (m *Machine) received(now time.Time, e Received) {
	var err error
	switch e.Type {
	case wire.TypeGet:
		var g wire.Get
		if g, err = wire.ParseGet(e.Body); err == nil {
			m.get(now, e, g)
		}
	case wire.TypePut:
		var p wire.Put
		if p, err = wire.ParsePut(e.Body); err == nil {
			m.put(now, e, p)
		}
	case wire.TypeRecords:
		var r wire.Records
		if r, err = wire.ParseRecords(e.Body); err == nil {
			m.answer(now, e, r.Key, r)
		}
	case wire.TypePutAnswer:
		var a wire.PutAnswer
		if a, err = wire.ParsePutAnswer(e.Body); err == nil {
			m.answer(now, e, a.Key, a)
		}
	case wire.TypeStoreFetch:
		var f wire.Fetch
		if f, err = wire.ParseFetch(e.Body); err == nil {
			m.serve(now, e.Src, f)
		}
	case wire.TypeStorePiece:
		var p wire.Piece
		if p, err = wire.ParsePiece(e.Body); err == nil {
			m.piece(now, e.Src, p)
		}
	default:
		m.count.Malformed++
	}
	if err != nil {
		m.count.Malformed++
	}
}

// flush does what is due.
func (m *Machine) flush(now time.Time) {
	m.expire(now)
	m.republish(now)
	m.handOver(now)
	m.retry(now)
	asks, lost := m.fetcher.Due(now)
	for _, a := range asks {
		m.tell(a.To, 0, wire.TypeStoreFetch, a.Fetch)
	}
	for _, l := range lost {
		m.count.Lost++
		m.lost(now, l.ID)
	}
	m.endLookups(now)
}

// NextDeadline returns when Tick is due, zero for never.
func (m *Machine) NextDeadline() time.Time {
	next := m.fetcher.Next()
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	sooner(m.store.next)
	sooner(m.handover.next)
	for _, r := range m.rpcs {
		sooner(r.end)
	}
	for _, p := range m.publications {
		sooner(p.next)
	}
	for _, l := range m.lookups {
		sooner(l.end)
	}
	return next
}

// identity takes this node's chain; its records are signed anew with it.
func (m *Machine) identity(now time.Time, chain credential.Chain) {
	m.chain = EncodeChain(chain)
	m.chains.mine = piece.New(m.chain)
	for _, p := range m.publications {
		if !p.busy {
			p.next = now
		} else {
			p.again = true
		}
	}
}
