// Package dht keeps signed records for a while at nodes that anybody can find:
// where a node is, who offers a service, which networks lie behind whom.
//
//	                  key = H(kind, namespace, name)
//	                          │
//	ring  ──o────o───o──[o]─[o]▼[o]─[o]────[o]──o────o──
//	                     └────┴─┴────┴──────┘
//	     a record lies at the 5 nodes nearest its key, of 5 different
//	     holders as far as the neighbourhood has so many
//
// A record carries its owner's signature, the hash of the owner's certificate
// chain, and a seq that is the time it was made. Who stores or reads it for the
// first time fetches that chain and checks that the owner's certificate allows
// such a record (rights.go). So a node that stores records can withhold or
// delay them, or show one that has been replaced, but not forge them:
//
//   - who publishes or looks up finds the replicas through three points, the key
//     and one on either side, so that one liar near the key does not name them;
//   - a reader asks replicas of at least three holders, by different first hops
//     when one is silent, and takes the newest valid seq;
//   - records the grid depends on also lie at the key's witnesses, which follow
//     from the roster and not from the ring; a reader asks both.
//
// A record's life at a store:
//
//	Put ──> pending ──chain and record verified──> stored ──lifetime──> gone
//	           │ not in 2 s, or invalid              │  ▲
//	           ▼                                     │  │ newer seq
//	         refused                                 ▼  │
//	                    handed to new replicas when near nodes change
//
// The owner signs it anew and puts it again at half its lifetime. A reader
// caches it for at most half of what remains.
//
// What must hold: at a store one holder has at most 64 records and 64 KiB,
// whatever its nodes are; every table, queue and list has a bound; an RPC ends
// after three tries; nothing a store or reader keeps was not verified, but for
// at most 256 pending records of bounded size and time.
//
// The source of a routed message is only as true as what is signed in it:
// nothing is decided by it. Where one node per holder counts, the holder of a
// node is what the nodes around it say, who have shaken hands with it; a node
// of whom two things are said counts last.
//
// Machine is not safe for concurrent use. It reads no clock and opens nothing.
//
// Limits on purpose: no record outlives an hour without its owner; of one key
// at most 8 owners are stored and found, first come, first kept; a reader that
// is surrounded by liars on every path finds nothing of what is not witnessed.
//
// Sources: TRUST.md, "Relays, records, abuse"; research/overlay.md 1.3, 2.4.
package dht

import (
	"math/rand/v2"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Crypto signs as this node and verifies others.
type Crypto interface {
	// Sign signs a record's digest with the node's key.
	Sign(digest [32]byte) ([]byte, error)
	// VerifyChain is credential.Verifier.VerifyNode.
	VerifyChain(chain credential.Chain, now time.Time) (*credential.Node, error)
	// Verify says whether a signature over the digest is of the owner's key.
	Verify(owner *credential.Node, digest [32]byte, signature []byte) bool
}

// Config is what a Machine is made of.
type Config struct {
	Self      nodeid.ID
	Holder    wire.Holder // of this node
	Rand      *rand.Rand
	Crypto    Crypto
	NameRight NameRight // nil: no records of KindName

	// Witnesses returns the witnesses of a key by the roster, in an order that
	// does not matter (package lease). It is asked anew each time.
	Witnesses func(key nodeid.ID) []nodeid.ID
}

// Event is what a Machine is told.
type Event interface{ event() }

// Identity is this node's certificate chain: at the start and after each
// renewal. Its records are signed anew. Until the first, Publish waits.
type Identity struct{ Chain credential.Chain }

// Near is the set of nodes around this one on the ring, of which ring tells
// after each change: predecessors and successors, in any order.
type Near struct{ Nodes []wire.Replica }

// TrustChanged says that descriptor or revocation lists have changed: every
// chain is verified again before it counts.
type TrustChanged struct{}

// Received is a payload of type Get, Put, Records, PutAnswer, StoreFetch or
// StorePiece. Body is not kept.
type Received struct {
	Src  nodeid.ID
	RPC  uint32
	Type wire.Type
	Body []byte
}

// Publish keeps a record in the store until Withdraw: it replaces what this
// node published under the name before.
type Publish struct {
	Name
	Value    []byte
	Lifetime time.Duration // zero: the kind's
}

// Withdraw takes a record back.
type Withdraw struct{ Name }

// Lookup asks for the records of a name. The answer is a Result with its ID.
type Lookup struct {
	ID uint64
	Name
	Fresh bool // not from the cache
}

// Leave hands over what is stored, all at once: the node is about to leave.
type Leave struct{}

// Tick says that NextDeadline has come.
type Tick struct{}

func (Identity) event()     {}
func (Near) event()         {}
func (TrustChanged) event() {}
func (Received) event()     {}
func (Publish) event()      {}
func (Withdraw) event()     {}
func (Lookup) event()       {}
func (Leave) event()        {}
func (Tick) event()         {}

// Action is what a Machine wants done.
type Action interface{ action() }

// Route sends a payload. Attempt counts the tries of one request from 0: try n
// should leave by another first hop than the tries before. Body may be kept.
type Route struct {
	To      wire.Target
	Attempt int
	RPC     uint32
	Type    wire.Type
	Body    []byte
}

// Result answers Lookup: the newest valid record of each owner, at most 8,
// ordered by owner. None is no error: nothing was found in time.
type Result struct {
	ID      uint64
	Name    Name
	Records []Record
	Asked   int // nodes that answered, 0 when it came from the cache
}

// Published says how many nodes confirmed a record of this node, each time it
// was put.
type Published struct {
	Name   Name
	Seq    uint64
	Copies int
}

func (Route) action()     {}
func (Result) action()    {}
func (Published) action() {}

// Counters count since New. Every message that was not used is in one of them.
type Counters struct {
	Malformed   uint64 // messages that do not parse, or of an unknown type
	Stray       uint64 // answers nobody asked for, or to another question
	Unasked     uint64 // pieces nobody asked for, or twice
	FalsePieces uint64 // pieces that are not part of the object they name
	Lost        uint64 // objects announced and not delivered in time
	Unknown     uint64 // requests for objects that are not here
	Foreign     uint64 // puts for keys that are not kept here
	BadForm     uint64 // records that do not parse or are not what was announced
	BadTime     uint64 // records from the future, or past their end
	BadChain    uint64 // chains that do not verify
	BadRight    uint64 // records their owner may not make
	BadSign     uint64 // records whose signature is not their owner's
	Quota       uint64 // records beyond their holder's quota
	Full        uint64 // records beyond the store's bounds
	Busy        uint64 // requests beyond a table's bound
	Old         uint64 // answers that showed an older seq than another did
	Timeouts    uint64 // tries that were not answered
	Stored      uint64 // records taken into the store
	Expired     uint64 // records whose lifetime ended here
	HandedOver  uint64 // records another node confirmed after an offer
	CacheHits   uint64
}
