// Package gossip brings the grid's descriptor and its revocation lists to every
// node within seconds, from whichever node a person published them on.
//
// Every ping, hello and vote says by wire.Versions what its sender has. Who
// hears of something it lacks asks for the list of objects, fetches them in
// pieces that are checked as they come (package piece), has credential.Trust
// verify them, and tells all its peers at once:
//
//	A (has 7)                 B (has 6)                  C
//	  │ Gossip{7, confirm}      │                         │
//	  │────────────────────────►│                         │
//	  │      Fetch{root, mask}  │                         │
//	  │◄────────────────────────│                         │
//	  │ Piece, Piece, ...       │ Trust: 7 is good        │
//	  │────────────────────────►│ Changed: sessions       │
//	  │                         │ Gossip{7, confirm}      │
//	  │◄────────────────────────│────────────────────────►│
//
// Two different objects of one version are both kept and passed on as the
// proof: credential.Trust refuses both, wherever they meet, and the alarm
// reaches everybody as a new version does.
//
// What must hold: nothing is believed because of who said it; a peer costs at
// most two unfinished objects of 64 KiB, one list of 16 names and the budgets
// below, whatever it sends; an honest peer's object is asked for at once,
// whatever others claim; what is refused is not fetched again from anybody
// while the descriptor stays; every refusal is counted.
//
// Messages travel over link sessions only: From is the peer at the other end.
// core drops those of these types that came any other way.
//
// Machine is not safe for concurrent use. It reads no clock and opens nothing.
// It decides nothing about sessions: core closes those whose chains no longer
// pass the Verifier of the Trust that Changed announces.
//
// Limits on purpose: of older descriptors only the one before the current is
// passed on, so that a root's replacement can be followed; a machine that was
// off during two needs a newer floppy.
//
// Sources: TRUST.md, "Revocation and change"; research/overlay.md section 4.
package gossip

import (
	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Config is what a Machine is made of.
type Config struct {
	Trust *credential.Trust // the machine changes it; nobody else may
}

// Event is what a Machine is told.
type Event interface{ event() }

// PeerUp says that a link session to a peer stands. Versions is what the peer
// said in its hello.
type PeerUp struct {
	ID       nodeid.ID
	Versions wire.Versions
}

// PeerDown says that it stands no more.
type PeerDown struct{ ID nodeid.ID }

// Heard is the Versions of any message of a peer: ping, pong, vote.
type Heard struct {
	From     nodeid.ID
	Versions wire.Versions
}

// Received is a message of type wire.TypeGossip, TypeFetch or TypePiece from a
// peer. Body is not kept.
type Received struct {
	From nodeid.ID
	Type wire.Type
	Body []byte
}

// Publish is a descriptor or revocation list that a person gave this node: the
// text of the file. The answer is Published.
type Publish struct{ Text []byte }

// Tick says that NextDeadline has come.
type Tick struct{}

func (PeerUp) event()   {}
func (PeerDown) event() {}
func (Heard) event()    {}
func (Received) event() {}
func (Publish) event()  {}
func (Tick) event()     {}

// Action is what a Machine wants done.
type Action interface{ action() }

// Send sends a message over the link session to a peer. Body may be kept.
type Send struct {
	To   nodeid.ID
	Type wire.Type
	Body []byte
}

// Changed says that Trust has changed: store it, take its Descriptor (its Epoch
// for leases) and Verifier, and check every session's chain again. Versions
// goes into all messages from now on.
type Changed struct {
	Versions    wire.Versions
	Descriptor  bool // what counts as the descriptor may be another
	Revocations bool
}

// Alarm is for a person: two different objects have one version.
type Alarm struct{ Err error }

// Published answers Publish. Err is nil when the object was taken, or known.
type Published struct{ Err error }

func (Send) action()      {}
func (Changed) action()   {}
func (Alarm) action()     {}
func (Published) action() {}

// Counters count since New. Every message that was not used is in one of them.
type Counters struct {
	Malformed   uint64 // messages that do not parse, or of an unknown type
	Strange     uint64 // messages from who is no peer
	TooFast     uint64 // messages beyond a peer's budget
	Unasked     uint64 // pieces nobody asked for, or twice
	FalsePieces uint64 // pieces that are not part of the object they name
	Lost        uint64 // objects announced and not delivered in time
	Refused     uint64 // objects that Trust refused: bad signature, shrunk, another grid
	Conflicts   uint64 // versions that exist twice
	Accepted    uint64 // objects that Trust took
	Unknown     uint64 // requests for objects that are not here
	Full        uint64 // peers or announcements beyond the tables
	Ignored     uint64 // announcements of a peer whose objects failed before
	Served      uint64 // pieces sent
}

// Versions returns what every ping, hello and vote of this node carries.
func (m *Machine) Versions() wire.Versions { return m.versions }

// Counters returns the counters.
func (m *Machine) Counters() Counters { return m.count }
