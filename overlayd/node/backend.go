package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/vnet"
	"gridappliance/overlayd/wire"
)

// How long the questions of the control socket wait at most. Who asks can wait
// less.
const (
	pingTime  = 5 * time.Second
	storeTime = 10 * time.Second
)

var (
	errEnded  = fmt.Errorf("%w: the node has stopped", control.ErrBusy)
	errNoRing = fmt.Errorf("%w: this node is not on the overlay's ring yet", control.ErrBusy)
)

// inLoop runs f in the event loop.
func (n *Node) inLoop(ctx context.Context, f func(now time.Time)) error {
	select {
	case n.requests <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ended:
		return errEnded
	}
}

// reply is what a request came to.
type reply[T any] struct {
	value T
	err   error
}

// call runs a request in the loop and waits until it answers, which it may do
// later, and more than once: the first answer counts.
func call[T any](ctx context.Context, n *Node, f func(now time.Time, answer func(T, error))) (none T, err error) {
	replies := make(chan reply[T], 1)
	err = n.inLoop(ctx, func(now time.Time) {
		f(now, func(v T, err error) {
			select {
			case replies <- reply[T]{v, err}:
			default:
			}
		})
	})
	if err != nil {
		return none, err
	}
	select {
	case r := <-replies:
		return r.value, r.err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return none, control.ErrNoAnswer
		}
		return none, ctx.Err()
	case <-n.ended:
		return none, errEnded
	}
}

// Live implements control.Backend.
func (n *Node) Live() control.Live {
	l, err := call(context.Background(), n, func(_ time.Time, answer func(control.Live, error)) { answer(n.live(), nil) })
	if err != nil {
		return control.Live{Counters: n.counters.snapshot()}
	}
	return l
}

func (n *Node) live() control.Live {
	l := control.Live{
		Ring:     control.Ring{Member: n.member, Size: uint64(n.core.Ring().Size() + 0.5)},
		Underlay: control.Underlay{Listen: n.path.Local(), Reflexive: n.reflexive.Endpoint, Mapping: mappingText(n.reflexive.Mapping)},
		Peers:    map[string]int{},
		Counters: n.counters.snapshot(),
	}
	for _, s := range n.links.Snapshots() {
		path, _ := pathText(s.State, s.Via)
		l.Peers[string(path)]++
	}
	n.protocolCounters(l.Counters)
	n.namesCounters(l.Counters)
	return l
}

func mappingText(m wire.Mapping) control.Mapping {
	switch m {
	case wire.EndpointIndependent:
		return control.MappingIndependent
	case wire.AddressDependent:
		return control.MappingDependent
	}
	return control.MappingUnknown
}

// pathText says how records go, and whether a better way is looked for.
func pathText(state link.State, via session.Via) (path control.Path, checking bool) {
	checking = state == link.Punching
	switch {
	case state == link.None:
		return control.PathNone, false
	case via.IsDirect() && via.Virtual() == session.NotVirtual:
		return control.PathDirect, checking
	case via.IsRing():
		return control.PathRing, checking
	}
	return control.PathRelay, checking
}

// found is whom a target names.
type found struct {
	id   nodeid.ID
	addr netip.Addr
	node *credential.Node // or nil
}

func (f found) whois() control.Whois {
	w := control.Whois{NodeID: f.id.String(), Address: f.addr}
	if f.addr.Is4() {
		w.Name = control.HostName(f.addr)
	}
	if f.node != nil {
		w.User, w.Group, w.Role = f.node.User, f.node.Group, string(f.node.Role)
	}
	return w
}

// find finds out whom a target names. The error is one of package control's.
func (n *Node) find(now time.Time, t control.Target, then func(found, error)) {
	self := n.cert.Node
	own := found{nodeid.ID(self.ID), n.address.Addr(), self}
	if !n.deviceUp {
		own.addr = netip.Addr{}
	}
	switch {
	case t.NodeID == own.id, t.Address.IsValid() && slices.Contains(n.own(), t.Address):
		then(own, nil)
	case t.NodeID != nodeid.ID{}:
		if f, err := n.known(t.NodeID); err == nil && f.addr.IsValid() {
			then(f, nil)
			return
		}
		n.located(now, t.NodeID, func(f found, err error) {
			if known, knownErr := n.known(t.NodeID); err != nil && knownErr == nil {
				f, err = known, nil // a session without an address that could be learned
			}
			then(f, err)
		})
	case t.Address.Is6():
		id := vnet.Position(t.Address)
		n.ask(now, func(token uint64) core.Event { return core.Lookup{Token: token, Key: id} }, func(a core.Action) {
			f := a.(core.Found)
			if f.Err != nil {
				then(found{}, requestError(f.Err))
			} else if vnet.Address6(self.Namespace, f.Node.ID) != t.Address {
				then(found{}, control.ErrUnknown)
			} else {
				n.find(now, control.Target{NodeID: f.Node.ID}, func(who found, err error) {
					who.id = f.Node.ID
					if errors.Is(err, control.ErrUnknown) {
						err = nil // there is such a member; who it is, it has not shown
					}
					then(who, err)
				})
			}
		})
	case t.Address.IsValid() && !n.pool.Contains(t.Address):
		then(found{}, control.ErrUnknown)
	default:
		n.ask(now, func(token uint64) core.Event { return core.Whois{Token: token, Address: t.Address, Name: t.Name} }, func(a core.Action) {
			w := a.(core.Who)
			if id, barred := n.lan.Barred(t.Address); barred && (w.Err != nil || w.ID == id) {
				then(found{}, control.ErrBarred)
				return
			}
			if w.Err != nil {
				then(found{}, requestError(w.Err))
				return
			}
			f := found{w.ID, w.Address, w.Node}
			if f.node == nil {
				if k, err := n.known(w.ID); err == nil {
					f.node = k.node
				}
			}
			then(f, nil)
		})
	}
}

// known returns what sessions have shown of a node.
func (n *Node) known(id nodeid.ID) (found, error) {
	for _, purpose := range []string{n.namespace, session.LinkPurpose} {
		if s, ok := n.links.Snapshot(id, purpose); ok {
			return found{id, n.lan.Address(id), s.Session.Node()}, nil
		}
	}
	if addr := n.lan.Address(id); addr.IsValid() {
		_, node, _ := n.lan.Known(addr)
		return found{id, addr, node}, nil
	}
	return found{}, control.ErrUnknown
}

// requestError puts an error of core in package control's words.
func requestError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, core.ErrUnknownName):
		return control.ErrUnknown
	case errors.Is(err, core.ErrBusy):
		return control.ErrBusy
	case errors.Is(err, core.ErrNoAnswer):
		return control.ErrNoAnswer
	}
	return err
}

// Whois implements control.Backend.
func (n *Node) Whois(ctx context.Context, t control.Target) (control.Whois, error) {
	return call(ctx, n, func(now time.Time, answer func(control.Whois, error)) {
		n.find(now, t, func(f found, err error) { answer(f.whois(), err) })
	})
}

// Peers implements control.Backend.
func (n *Node) Peers(ctx context.Context) ([]control.Peer, error) {
	return call(ctx, n, func(_ time.Time, answer func([]control.Peer, error)) {
		byID := map[nodeid.ID]*control.Peer{}
		var order []nodeid.ID
		for _, s := range n.links.Snapshots() {
			p := byID[s.ID]
			if p == nil {
				w := found{s.ID, n.lan.Address(s.ID), s.Session.Node()}.whois()
				p = &control.Peer{NodeID: w.NodeID, Address: w.Address, Name: w.Name, User: w.User, Group: w.Group, Role: w.Role,
					Ring: rolesText(n.core.Ring().Roles(s.ID))}
				byID[s.ID] = p
				order = append(order, s.ID)
			}
			p.Sessions = append(p.Sessions, n.sessionOf(s))
		}
		slices.SortFunc(order, nodeid.ID.Compare)
		peers := []control.Peer{}
		for _, id := range order {
			peers = append(peers, *byID[id])
		}
		answer(peers, nil)
	})
}

func rolesText(r wire.Role) (out []string) {
	for _, x := range []struct {
		role wire.Role
		text string
	}{{wire.RoleNear, "near"}, {wire.RoleFar, "shortcut"}, {wire.RoleDemand, "on-demand"}, {wire.RoleLeaf, "leaf"}} {
		if r&x.role != 0 {
			out = append(out, x.text)
		}
	}
	return out
}

// relayOf says who carries what goes a way: a node with its name, or what is no
// node of the grid.
func (n *Node) relayOf(v session.Via) (node, name string) {
	switch {
	case v.Channel != 0:
		return v.Node.String(), n.nameOf(v.Node)
	case v.Virtual() == session.ByBootstrap:
		return "", "a bootstrap node"
	case v.Virtual() == session.ByStream:
		return "", "a bootstrap node or the peer, over TCP"
	}
	return "", ""
}

// sessionOf is a session as the control socket shows it.
func (n *Node) sessionOf(s link.Snapshot) control.Session {
	out := control.Session{Purpose: s.Purpose, RTT: control.Millis(s.RTT), Since: s.Since.Round(0), Sent: s.SentBytes, Received: s.HeardBytes}
	out.Path, out.Checking = pathText(s.State, s.Via)
	if out.Path == control.PathDirect {
		out.Endpoint = s.Via.Endpoint
	}
	out.Relay, out.By = n.relayOf(s.Via)
	if t := n.tracks[trackKey{s.ID, s.Purpose}]; t != nil {
		out.Sent += t.activity.SentBytes.Load()
		out.Received += t.activity.HeardBytes.Load()
	}
	return out
}

// nameOf is the name of a node whose address is known, else "".
func (n *Node) nameOf(id nodeid.ID) string { return control.HostName(n.lan.Address(id)) }

// Why implements control.Backend.
func (n *Node) Why(ctx context.Context, t control.Target) (control.Why, error) {
	return call(ctx, n, func(now time.Time, answer func(control.Why, error)) {
		n.find(now, t, func(f found, err error) {
			if err != nil {
				answer(control.Why{}, err)
				return
			}
			w := f.whois()
			why := control.Why{NodeID: w.NodeID, Address: w.Address, Name: w.Name, Sessions: []control.Explanation{}}
			for _, purpose := range []string{n.namespace, session.LinkPurpose} {
				if e, ok := n.explain(f.id, purpose); ok {
					why.Sessions = append(why.Sessions, e)
				}
			}
			answer(why, nil)
		})
	})
}

var kindTexts = map[wire.CandidateKind]string{0: "seen", wire.HostCandidate: "host", wire.ReflexiveCandidate: "reflexive",
	wire.MappedCandidate: "mapped", wire.AdvertisedCandidate: "advertised"}

func (n *Node) explain(id nodeid.ID, purpose string) (control.Explanation, bool) {
	s, ok := n.links.Snapshot(id, purpose)
	e, known := n.links.Why(id, purpose)
	if !ok || !known {
		return control.Explanation{}, false
	}
	out := control.Explanation{Session: n.sessionOf(s), Own: e.Own, OwnMapping: mappingText(e.OwnMapping), PeerMapping: mappingText(e.PeerMapping),
		Rounds: e.Rounds, Sprayed: e.Sprayed, Pairs: []control.Pair{}, Improvements: e.Improvements}
	for _, c := range e.Candidates {
		p := control.Pair{Endpoint: c.Endpoint, Kind: kindTexts[c.Kind], Outcome: string(c.Outcome), Reason: c.Why, Checks: c.Checks, RTT: control.Millis(c.RTT)}
		if c.Why != "" {
			p.Outcome = "not tried"
		}
		out.Pairs = append(out.Pairs, p)
	}
	return out, true
}

// Ping implements control.Backend.
func (n *Node) Ping(ctx context.Context, t control.Target) (control.Pong, error) {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	return call(ctx, n, func(now time.Time, answer func(control.Pong, error)) {
		n.find(now, t, func(f found, err error) {
			if err != nil {
				answer(control.Pong{}, err)
				return
			}
			w := f.whois()
			pong := control.Pong{NodeID: w.NodeID, Address: w.Address, Name: w.Name, Path: control.PathNone}
			if f.id == n.id {
				answer(pong, nil)
				return
			}
			n.token++
			token := n.token
			n.pings[token] = pinging{f.id, now.Add(pingTime), func(p link.Pong) {
				pong.RTT = control.Millis(p.RTT)
				pong.Path, _ = pathText(link.Direct, p.Via)
				if pong.Path == control.PathDirect {
					pong.Endpoint = p.Via.Endpoint
				}
				pong.Relay, pong.By = n.relayOf(p.Via)
				answer(pong, nil)
			}}
			n.sendPing(now, token)
		})
	})
}

// pinging is a ping that is not answered yet.
type pinging struct {
	id   nodeid.ID
	end  time.Time
	then func(link.Pong)
}

// sendPing asks over the namespace's session, or begins one: then up sends it.
func (n *Node) sendPing(now time.Time, token uint64) {
	id, namespace := n.pings[token].id, n.namespace
	if n.links.State(id, namespace) == link.None {
		n.handle(now, core.Other{Event: link.Want{Contact: n.contactOf(id), Purpose: namespace}})
		return
	}
	n.handle(now, core.Other{Event: link.Ping{ID: id, Purpose: namespace, Token: token}})
}

// pingsUp sends the pings that wait for a session.
func (n *Node) pingsUp(now time.Time, id nodeid.ID) {
	for token, p := range n.pings {
		if p.id == id {
			n.handle(now, core.Other{Event: link.Ping{ID: id, Purpose: n.namespace, Token: token}})
		}
	}
}

// Lookup implements control.Backend.
func (n *Node) Lookup(ctx context.Context, key control.Key) (control.Found, error) {
	at := key.ID
	if key.Record != (control.RecordName{}) {
		name, err := n.recordName(key.Record)
		if err != nil {
			return control.Found{}, err
		}
		at = name.Key()
	}
	f, err := n.lookup(ctx, at)
	if err != nil {
		return control.Found{}, err
	}
	return control.Found{Key: at, NodeID: f.Node.ID.String(), Hops: f.Hops, Took: control.Millis(f.Took)}, nil
}

func (n *Node) lookup(ctx context.Context, at nodeid.ID) (core.Found, error) {
	return call(ctx, n, func(now time.Time, answer func(core.Found, error)) {
		if !n.member {
			answer(core.Found{}, errNoRing)
			return
		}
		n.ask(now, func(token uint64) core.Event { return core.Lookup{Token: token, Key: at} }, func(a core.Action) {
			f := a.(core.Found)
			f.List.Preds, f.List.Succs = slices.Clone(f.List.Preds), slices.Clone(f.List.Succs)
			answer(f, requestError(f.Err))
		})
	})
}

// maxCrawl bounds the members that a crawl visits.
const maxCrawl = 1 << 20

// Crawl implements control.Backend: it goes from successor to successor.
func (n *Node) Crawl(ctx context.Context, visit func(control.Crawled) error) error {
	self := n.id
	at, before := self, nodeid.ID{}
	named := nodeid.ID{} // whom the member before names
	for range maxCrawl {
		f, err := n.lookup(ctx, at)
		if err != nil {
			return err
		}
		id := f.Node.ID
		if before != (nodeid.ID{}) && (id == self || nodeid.Between(self, before, id)) {
			return nil // round, or past the beginning
		}
		c := control.Crawled{NodeID: id.String(), Hops: f.Hops, Took: control.Millis(f.Took)}
		next, previous := first(f.List.Succs), first(f.List.Preds)
		if next != (nodeid.ID{}) {
			c.Successor = next.String()
		}
		if previous != (nodeid.ID{}) {
			c.Predecessor = previous.String()
		}
		c.Consistent = before == (nodeid.ID{}) || named == id && previous == before
		if err := visit(c); err != nil {
			return err
		}
		if next == (nodeid.ID{}) || next == id {
			return nil
		}
		at, before, named = next, id, next
	}
	return nil
}

func first(peers []wire.Peer) (id nodeid.ID) {
	if len(peers) > 0 {
		id = peers[0].ID
	}
	return id
}

// recordName is a record's name in this node's namespace.
func (n *Node) recordName(r control.RecordName) (dht.Name, error) {
	kind, ok := dht.ParseKind(r.Kind)
	if !ok {
		return dht.Name{}, fmt.Errorf("%w: no records of kind %q", control.ErrRefused, r.Kind)
	}
	name := dht.Name{Kind: kind, Namespace: n.namespace, Name: r.Name}
	if kind == dht.KindDescriptor || kind == dht.KindRevocations {
		name.Namespace = ""
	}
	return name, nil
}

// Get implements control.Backend.
func (n *Node) Get(ctx context.Context, r control.RecordName) ([]control.Record, error) {
	name, err := n.recordName(r)
	if err != nil {
		return nil, err
	}
	return call(ctx, n, func(now time.Time, answer func([]control.Record, error)) {
		n.ask(now, func(token uint64) core.Event { return core.Get{Token: token, Name: name} }, func(a core.Action) {
			got := a.(core.Records)
			out := []control.Record{}
			for _, x := range got.Records {
				c := control.Record{Name: r, Owner: x.Owner.String(), Signed: time.UnixMilli(int64(x.Seq)).UTC(),
					Lifetime: int(x.Lifetime / time.Second), Value: slices.Clone(x.Value)}
				if owner := n.core.Owner(x, now); owner != nil {
					c.User, c.Role = owner.User, string(owner.Role)
				}
				out = append(out, c)
			}
			answer(out, requestError(got.Err))
		})
	})
}

// Put implements control.Backend.
func (n *Node) Put(ctx context.Context, r control.RecordName, value []byte, lifetime time.Duration) (control.Stored, error) {
	name, err := n.recordName(r)
	if err != nil {
		return control.Stored{}, err
	}
	return n.store(ctx, name, func(now time.Time) (core.Event, error) {
		return core.Put{Name: name, Value: slices.Clone(value), Lifetime: lifetime}, n.core.MayPut(name, value, now)
	})
}

// Withdraw implements control.Backend.
func (n *Node) Withdraw(ctx context.Context, r control.RecordName) (control.Stored, error) {
	name, err := n.recordName(r)
	if err != nil {
		return control.Stored{}, err
	}
	return n.store(ctx, name, func(time.Time) (core.Event, error) { return core.Withdraw{Name: name}, nil })
}

// store gives the store an event and waits until nodes have confirmed it.
func (n *Node) store(ctx context.Context, name dht.Name, make func(now time.Time) (core.Event, error)) (control.Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	return call(ctx, n, func(now time.Time, answer func(control.Stored, error)) {
		e, err := make(now)
		if err != nil {
			answer(control.Stored{}, fmt.Errorf("%w: %w", control.ErrRefused, err))
			return
		}
		if len(n.storing) >= core.MaxRequests {
			clear(n.storing) // records that no node has confirmed; who asked has given up
		}
		n.storing[name] = append(n.storing[name], func(copies int) { answer(control.Stored{Copies: copies}, nil) })
		n.handle(now, e)
	})
}

// forgetQuestions drops pings that are too old to be answered.
func (n *Node) forgetQuestions(now time.Time) {
	for token, p := range n.pings {
		if now.After(p.end) {
			delete(n.pings, token)
		}
	}
}

// stored tells who waits for it that a record is stored.
func (n *Node) stored(a core.Stored) {
	waiting := n.storing[a.Name]
	delete(n.storing, a.Name)
	for _, then := range waiting {
		then(a.Copies)
	}
}

// Publish implements control.Backend.
func (n *Node) Publish(ctx context.Context, text []byte) error {
	_, err := call(ctx, n, func(now time.Time, answer func(struct{}, error)) {
		n.publishing = func(a core.Published) {
			err := a.Err
			if err != nil {
				err = fmt.Errorf("%w: %w", control.ErrRefused, err)
			}
			answer(struct{}{}, err)
		}
		n.handle(now, core.Publish{Text: slices.Clone(text)})
		if n.publishing != nil { // core answers at once
			n.publishing = nil
			answer(struct{}{}, control.ErrNoAnswer)
		}
	})
	return err
}
