package core

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/binary"
	"fmt"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/gossip"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// GridConfig is what makes a node one of a grid.
type GridConfig struct {
	Trust *Trust            // the one its sessions verify with
	Chain credential.Chain  // of this node
	Key   *ecdsa.PrivateKey // of this node
	Holds []byte            // the HoldsFile; only a witness has one
}

// Grid is the part of a node that makes it one of a grid: store, gossip and
// leases. A node without one has a place on the ring and nothing else.
//
//	       Delivered, by type                link messages, by type
//	   ┌──────────┼───────────┐                 │          │
//	┌──▼──┐  ┌────▼────┐  ┌───▼─────┐      ┌────▼───┐  ┌───▼───┐
//	│ dht │  │ Holder  │  │ Witness │      │ gossip │  │ flood │
//	└──▲──┘  └────▲────┘  └───▲─────┘      └────┬───┘  └───┬───┘
//	   │          │    members│                 │ Trust    │ what witnesses
//	   └── names ─┘           └─────────────────┘          ▼ tell everybody
type Grid struct {
	trust   *Trust
	key     *ecdsa.PrivateKey
	self    *credential.Node
	chain   credential.Chain
	encoded *piece.Object // chain, as witnesses get it
	crypto  lease.Crypto
	file    []byte

	store   *dht.Machine
	gossip  *gossip.Machine
	holder  *lease.Holder
	witness *lease.Witness // nil: the roster does not name this node
	members *members       // the witness's

	started bool
	leaving time.Time
	roster  roster
	flood   flood
	returns []returning
	asks    asks
	held    []held             // by claim
	differs map[nodeid.ID]bool // peers whose last ping had other versions

	run      uint64 // of this node; see runs
	runs     map[nodeid.ID]runs
	twinTold time.Time
}

// NewGrid verifies that a configuration belongs together.
func NewGrid(cfg GridConfig, now time.Time) (*Grid, error) {
	self, err := cfg.Trust.Verify(cfg.Chain, now.Round(0))
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	if self.ID != credential.NodeIDOf(&cfg.Key.PublicKey) {
		return nil, fmt.Errorf("own certificate: %w", credential.ErrKey)
	}
	g := &Grid{trust: cfg.Trust, key: cfg.Key, file: cfg.Holds, differs: map[nodeid.ID]bool{}, runs: map[nodeid.ID]runs{}}
	if g.crypto, err = lease.NewCrypto(cfg.Key); err != nil {
		return nil, err
	}
	g.identify(self, cfg.Chain)
	return g, nil
}

func (g *Grid) identify(self *credential.Node, chain credential.Chain) {
	g.self, g.chain, g.encoded = self, chain, piece.New(dht.EncodeChain(chain))
}

// storeCrypto is the store's.
type storeCrypto struct{ g *Grid }

func (c storeCrypto) Sign(digest [32]byte) ([]byte, error) {
	return c.g.key.Sign(nil, digest[:], crypto.SHA256) // RFC 6979: equal inputs, equal runs
}

func (c storeCrypto) VerifyChain(chain credential.Chain, now time.Time) (*credential.Node, error) {
	return c.g.trust.Verify(chain, now)
}

func (storeCrypto) Verify(owner *credential.Node, digest [32]byte, signature []byte) bool {
	return ecdsa.VerifyASN1(owner.Key, digest[:], signature)
}

// attach makes the machines. The witness waits for the roster.
func (n *Node) attach() {
	g := n.grid
	g.run = n.cfg.Rand.Uint64()
	g.store = dht.New(dht.Config{Self: n.cfg.ID, Holder: n.cfg.Holder, Rand: n.cfg.Rand, Crypto: storeCrypto{g},
		NameRight: g.nameRight, Witnesses: g.roster.witnesses})
	g.gossip = gossip.New(gossip.Config{Trust: g.trust.memory})
	g.holder = lease.NewHolder(lease.HolderConfig{ID: n.cfg.ID, Instance: lease.InstanceOf(g.self.Instance),
		Chain: g.encoded.ID().Root, Crypto: g.crypto, Rand: n.cfg.Rand})
}

// tail is what every ping and pong carries besides.
func (g *Grid) tail(b []byte) []byte {
	return binary.BigEndian.AppendUint64(g.gossip.Versions().Append(b), g.run)
}

// startGrid begins with what was known before: the floppy or an earlier run.
func (n *Node) startGrid() {
	g := n.grid
	if g == nil || g.started {
		return
	}
	g.started = true
	n.enqueue(link.Versions{Versions: g.gossip.Versions()})
	n.enqueue(dht.Identity{Chain: g.chain})
	n.descriptorChanged()
	n.publishFixed()
}

// forHolder and forWitness say which of the two an event is for.
type (
	forHolder  struct{ e lease.Event }
	forWitness struct{ e lease.Event }
)

// handleGrid gives an event of the queue to its machine.
func (n *Node) handleGrid(e any) {
	g := n.grid
	switch e := e.(type) {
	case dht.Event:
		n.fromStore(g.store.Handle(n.now, e))
	case gossip.Event:
		n.fromGossip(g.gossip.Handle(n.now, e))
	case forHolder:
		n.fromLease(g.holder.Handle(n.now, e.e))
	case forWitness:
		if g.witness != nil {
			n.fromLease(g.witness.Handle(n.now, e.e))
		}
	case flooded:
		n.flooded(e)
	}
}

// request takes an event that only a node of a grid knows.
func (n *Node) request(e Event) {
	g := n.grid
	if g == nil {
		return
	}
	switch e := e.(type) {
	case Acquire:
		n.enqueue(forHolder{lease.Want(e)})
	case GiveUp:
		n.enqueue(forHolder{lease.Unwant(e)})
	case Put:
		n.enqueue(dht.Publish(e))
	case Withdraw:
		n.enqueue(dht.Withdraw(e))
	case Get:
		n.get(e)
	case Whois:
		n.whois(e)
	case Publish:
		n.enqueue(gossip.Publish(e))
	case Identity:
		n.identity(e.Chain)
	case Persisted:
		n.enqueue(forWitness{lease.Persisted(e)})
	case Resumed:
		n.enqueue(link.Destroy{Reason: session.ClockJump})
		n.enqueue(forHolder{lease.Resumed{}})
	}
}

// identity takes this node's next chain.
func (n *Node) identity(chain credential.Chain) {
	self, err := n.grid.trust.Verify(chain, n.now.Round(0))
	if err != nil || nodeid.ID(self.ID) != n.cfg.ID {
		n.do(Alarm{Text: "this node's new certificate is not good, the one before stays", Node: n.cfg.ID})
		return
	}
	n.grid.identify(self, chain)
	n.grid.holder.SetChain(n.grid.encoded.ID().Root)
	n.enqueue(link.Identity{Chain: chain})
	n.enqueue(dht.Identity{Chain: chain})
}

// tickGrid wakes whoever is due.
func (n *Node) tickGrid() {
	g := n.grid
	if due(g.store.NextDeadline(), n.now) {
		n.enqueue(dht.Tick{})
	}
	if due(g.gossip.NextDeadline(), n.now) {
		n.enqueue(gossip.Tick{})
	}
	if due(g.holder.NextDeadline(), n.now) {
		n.enqueue(forHolder{lease.Tick{}})
	}
	if g.witness != nil && due(g.witness.NextDeadline(), n.now) {
		n.enqueue(forWitness{lease.Tick{}})
	}
	if due(g.leaving, n.now) {
		g.leaving = time.Time{}
		n.enqueue(ring.Leave{})
	}
}

func (g *Grid) nextDeadline() time.Time {
	next := earliest(g.store.NextDeadline(), g.gossip.NextDeadline(), g.holder.NextDeadline(), g.leaving)
	if g.witness != nil {
		next = earliest(next, g.witness.NextDeadline())
	}
	return next
}

// LeaveTime is how long after Leave a node of a grid must still be driven: what
// it stores for others goes to them.
const LeaveTime = time.Second

// leave hands over what is stored, then leaves the ring.
func (n *Node) leave() {
	if n.grid == nil {
		n.enqueue(ring.Leave{})
		return
	}
	n.grid.leaving = n.now.Add(LeaveTime)
	n.enqueue(dht.Leave{})
}

// MaySend says whether the lease of a claim may be used at now. Only Handle
// changes the answer otherwise than time does.
func (n *Node) MaySend(claim lease.ClaimID, now time.Time) bool {
	_, l := n.Lease(claim)
	return l.MaySend(now)
}

// Lease returns a claim's state and, when it may be used, its lease.
func (n *Node) Lease(claim lease.ClaimID) (lease.State, lease.Lease) {
	if n.grid == nil {
		return lease.Idle, lease.Lease{}
	}
	return n.grid.holder.Lease(claim)
}

// GridCounters are the counters of the machines of a node of a grid.
type GridCounters struct {
	Store   dht.Counters
	Gossip  gossip.Counters
	Holder  lease.Counts
	Witness lease.Counts
}

// GridCounters returns them, zero without a grid.
func (n *Node) GridCounters() (c GridCounters) {
	if g := n.grid; g != nil {
		c = GridCounters{Store: g.store.Counters(), Gossip: g.gossip.Counters(), Holder: *g.holder.Counts()}
		if g.witness != nil {
			c.Witness = *g.witness.Counts()
		}
	}
	return c
}

// Roster returns the epoch of the roster that counts, and whether all before it
// have stopped, as far as this node knows.
func (n *Node) Roster() (epoch uint64, stopped bool) {
	if n.grid == nil {
		return 0, false
	}
	r := &n.grid.roster.current
	return r.Epoch, len(r.Previous) == 0 || n.grid.holder.Book().Stopped() != nil
}

// Owner returns who signed a record of a Records action, or nil when that is
// not known any more.
func (n *Node) Owner(r dht.Record, now time.Time) *credential.Node {
	if n.grid == nil {
		return nil
	}
	return n.grid.store.Owner(r, now)
}

// MayPut returns nil when this node may Put a record, or what it would be
// refused for.
func (n *Node) MayPut(name dht.Name, value []byte, now time.Time) error {
	if n.grid == nil {
		return dht.ErrRight
	}
	return n.grid.store.May(name, value, n.grid.self, now)
}

// Versions returns the versions of descriptor and revocation lists that count.
func (n *Node) Versions() (v wire.Versions) {
	if n.grid != nil {
		v = n.grid.gossip.Versions()
	}
	return v
}

// Witness says whether this node is a witness, and whether it votes.
func (n *Node) Witness() (is, votes bool) {
	if n.grid == nil || n.grid.witness == nil {
		return false, false
	}
	return true, n.grid.witness.Voting()
}
