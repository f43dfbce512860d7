package session

import (
	"net/netip"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

// Via is where a datagram comes from or goes to. It is comparable.
type Via struct {
	Endpoint netip.AddrPort // of a direct path; may be virtual
	Socket   uint16         // of a direct path: which of this node's sockets; 0: the usual one
	Node     nodeid.ID      // without Endpoint: the peer, over the ring; with Channel: the relay
	Over     nodeid.ID      // over the ring: the member through which the peer is reached; zero: it is on the ring
	Channel  uint16         // of the link to the relay, from 1; 0: not relayed
}

// Direct returns the path to an endpoint.
func Direct(e netip.AddrPort) Via { return Via{Endpoint: e} }

// Ring returns the path over the ring to a peer; over is zero or the member
// that a peer which is not on the ring is linked to.
func Ring(peer, over nodeid.ID) Via { return Via{Node: peer, Over: over} }

// Relayed returns the path through a relay's channel.
func Relayed(relay nodeid.ID, channel uint16) Via { return Via{Node: relay, Channel: channel} }

// IsDirect reports whether the path has an endpoint of its own, be it a virtual
// one.
func (v Via) IsDirect() bool { return v.Endpoint.IsValid() }

// IsRing reports whether the path is the ring's.
func (v Via) IsRing() bool { return !v.IsDirect() && v.Channel == 0 }

// limit is the longest handshake datagram on the path.
func (v Via) limit() int {
	if v.IsRing() {
		return MaxRing
	}
	return MaxMessage
}

// Event is what happened. The set is closed.
type Event interface{ event() }

// Open begins a handshake. Peer is zero when only an endpoint is known; then
// whoever of the grid answers is the peer. An Open for a peer and purpose that
// is being opened already only changes the path of the next try.
type Open struct {
	Peer    nodeid.ID
	Holder  [8]byte // first bytes of the peer's holder, if known: shortens the answer
	Purpose string
	Via     Via
}

// Datagram is a handshake datagram or record that arrived; a record is opened
// in place. Data is not kept.
type Datagram struct {
	From Via
	Data []byte
}

// Identity replaces what this node shows: its chain, made for the static key
// of Config, and the offer of the next handshakes (at most 512 bytes).
type Identity struct {
	Chain credential.Chain
	Offer []byte
}

// Roots replaces Config.Roots: the descriptor names others. Sessions stay.
type Roots struct{ List [][32]byte }

// Recheck says that the grid's descriptor or a revocation list has changed:
// every peer is verified again, 64 in each 20 ms.
type Recheck struct{}

// Close ends a session and tells the peer.
type Close struct{ Session *Session }

// Destroy ends all sessions without a word: this machine is a copy, or its
// clock jumped. Nothing is sealed under any key from before.
type Destroy struct{ Reason Reason }

// Tick is the event for NextDeadline.
type Tick struct{}

func (Open) event()     {}
func (Datagram) event() {}
func (Identity) event() {}
func (Roots) event()    {}
func (Recheck) event()  {}
func (Close) event()    {}
func (Destroy) event()  {}
func (Tick) event()     {}

// Action is what is to be done. The set is closed.
type Action interface{ action() }

// Send is a datagram for a path. The receiver owns Data.
type Send struct {
	To   Via
	Data []byte
}

// Up says that a peer has proven who it is and that keys are there. Offer is
// what it put into its handshake payload.
type Up struct {
	Session *Session
	Via     Via
	Offer   []byte
}

// Rekeyed says that the session's sending keys are new, or that the peer was
// heard under keys for the first time: a snapshot for the data path is to be
// made again.
type Rekeyed struct{ Session *Session }

// Down says that a session has ended. Its keys are dead already.
type Down struct {
	Session *Session
	Reason  Reason
}

// Failed says that a handshake was given up.
type Failed struct {
	Peer    nodeid.ID
	Purpose string
	Via     Via
	Reason  Reason
}

// Record is an opened record. Plain lies in the Datagram's memory.
type Record struct {
	Session      *Session
	From         Via
	Path         uint8
	Index, Total uint8
	Plain        []byte
}

func (Send) action()    {}
func (Up) action()      {}
func (Rekeyed) action() {}
func (Down) action()    {}
func (Failed) action()  {}
func (Record) action()  {}

// Reason says why a session or an attempt ended.
type Reason string

const (
	NoAnswer      Reason = "no answer"
	WrongPeer     Reason = "another node answered"
	Refused       Reason = "its certificate was refused"
	CertExpired   Reason = "its certificate has ended"
	PeerClosed    Reason = "closed by the peer"
	Closed        Reason = "closed"
	KeyExpired    Reason = "no new key in time"
	Replaced      Reason = "the peer began anew"
	Cloned        Reason = "this machine is a copy"
	ClockJump     Reason = "the clock jumped"
	Busy          Reason = "too many at once"
	Superseded    Reason = "the other side opened it"
	AnswerRefused Reason = "the answer was refused"
)

// Drop says why a datagram was not used; Counters counts by it.
type Drop uint8

const (
	DropShort        Drop = iota // not a datagram of ours, or cut
	DropVersion                  // another version of the protocol
	DropGrid                     // a HELLO for another grid or a purpose we do not serve
	DropBusy                     // more HELLOs than we answer
	DropCookie                   // a HELLO without a valid cookie; it was sent one
	DropIndex                    // no handshake or keys of that index
	DropPieces                   // parts that do not fit together, or too many
	DropNoise                    // a handshake message that does not verify
	DropPayload                  // a handshake payload that does not parse
	DropChain                    // a chain the verifier refused
	DropExpired                  // of these: because it has ended
	DropRevoked                  // of these: because it was revoked
	DropWrongGrid                // of these: because it is another grid's
	DropStatic                   // the certificate names another static key
	DropPeer                     // another node than was called, or ourselves
	DropSimultaneous             // a FINISH that loses to our own handshake
	DropReplay                   // a record seen before, or too old
	DropForged                   // a record that does not verify
	DropPath                     // a path id above 15
	DropOversize                 // longer than a handshake datagram may be
	drops
)

var dropNames = [drops]string{"short", "version", "grid", "busy", "cookie", "index", "pieces", "noise", "payload", "chain",
	"expired", "revoked", "wrong-grid", "static", "peer", "simultaneous", "replay", "forged", "path", "oversize"}

func (d Drop) String() string { return dropNames[d] }

// Counters counts what happened since the machine was made.
type Counters struct {
	Drops                          [drops]uint64
	Hellos, Cookies, Answers, Ups  uint64
	Retries, Rekeys, Downs, Failed uint64
}
