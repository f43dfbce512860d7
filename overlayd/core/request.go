package core

import (
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/wire"
)

// Implementation: a lookup is tried again by another first hop.
const (
	MaxRequests = 64
	lookupTries = 4
	lookupWait  = 500 * time.Millisecond // for the answer of the first try; try n waits n times as long

	// LookupTime bounds a Lookup.
	LookupTime = lookupTries * (lookupTries + 1) / 2 * lookupWait
)

// ownRPC is set in the RPC numbers of Node's requests; those of machines are
// random, and what is no request of Node's is theirs.
const ownRPC = 1 << 31

// requests are the lookups under way, oldest first.
type requests struct {
	open []request
	last uint32
}

type request struct {
	token   uint64
	key     nodeid.ID
	rpc     uint32
	try     int
	started time.Time
	until   time.Time // of this try
}

func (r *requests) deadline() (first time.Time) {
	for i := range r.open {
		first = earliest(first, r.open[i].until)
	}
	return first
}

func (r *requests) remove(i int) { r.open = append(r.open[:i], r.open[i+1:]...) }

func (n *Node) lookup(e Lookup) {
	if len(n.requests.open) >= MaxRequests {
		n.do(Found{Token: e.Token, Err: ErrBusy})
		return
	}
	n.requests.last++
	q := request{token: e.Token, key: e.Key, rpc: n.requests.last | ownRPC, started: n.now}
	if !n.ask(&q) {
		n.requests.open = append(n.requests.open, q)
	}
}

// ask sends a request's next try and says whether that ended it: this node may
// be the nearest itself. All tries have one number, so an answer counts
// whichever try it is to.
func (n *Node) ask(q *request) bool {
	h := wire.Header{Payload: wire.TypeFind, To: wire.Target{ID: q.key}, RPC: q.rpc}
	next, verdict := n.ring.FirstHop(&h, q.try)
	q.try++
	q.until = n.now.Add(time.Duration(q.try) * lookupWait)
	switch verdict {
	case ring.Deliver:
		self := wire.Peer{ID: n.cfg.ID, Holder: n.cfg.Holder}
		n.do(Found{Token: q.token, Node: self, List: n.ring.List(), Took: n.now.Sub(q.started)})
		return true
	case ring.Forward:
		n.sendOwn(next, &h, wire.Find{}.Append(nil))
	case ring.Unsure:
		if n.now.Sub(q.started) < LookupTime/2 {
			q.try-- // this node may be the nearest, which it knows soon
		}
		q.until = n.now.Add(waitTime)
	default:
		q.until = n.now.Add(retryAfterErr)
	}
	return false
}

// retry tries again, or gives up, what was not answered in time.
func (n *Node) retry() {
	for i := 0; i < len(n.requests.open); {
		q := &n.requests.open[i]
		switch {
		case q.until.After(n.now):
			i++
			continue
		case q.try >= lookupTries:
			n.do(Found{Token: q.token, Took: n.now.Sub(q.started), Err: ErrNoAnswer})
		case !n.ask(q):
			i++
			continue
		}
		n.requests.remove(i)
	}
}

// answered says whether a payload was the answer to a request, and ends it. An
// Err only shortens the wait: the next try leaves another way.
func (n *Node) answered(h *wire.Header, body []byte) bool {
	for i := range n.requests.open {
		q := &n.requests.open[i]
		if q.rpc != h.RPC {
			continue
		}
		if h.Payload == wire.TypeErr {
			q.until = n.now.Add(min(q.until.Sub(n.now), retryAfterErr))
			return true
		}
		m, err := wire.ParseFound(body)
		if err != nil {
			n.counters.Malformed++
			return true
		}
		n.do(Found{Token: q.token, Node: m.Self, List: m.List, Hops: wire.MaxTTL - int(h.TTL), Took: n.now.Sub(q.started)})
		n.requests.remove(i)
		return true
	}
	return false
}

// foundSelf ends a request whose Find came back: this node is the nearest.
func (n *Node) foundSelf(rpc uint32) bool {
	for i := range n.requests.open {
		if q := &n.requests.open[i]; q.rpc == rpc {
			n.do(Found{Token: q.token, Node: wire.Peer{ID: n.cfg.ID, Holder: n.cfg.Holder}, Took: n.now.Sub(q.started)})
			n.requests.remove(i)
			return true
		}
	}
	return false
}

// retryAfterErr is how soon an Err lets a request be tried again.
const retryAfterErr = 100 * time.Millisecond
