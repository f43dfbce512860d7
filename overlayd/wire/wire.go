// Package wire is what nodes say to each other: each message's bytes, Append
// and Parse, nothing else.
//
//	record of a link session
//	+------+-----------------------------------------------------------+
//	| type | body                                                      |
//	+------+-----------------------------------------------------------+
//	   5   | Header (56 to 88) | extension | payload's body            |
//
// A link message is a type byte and a body. One of them, Routed, carries a
// payload onward to a node ID; its header names the payload's type. Types are
// numbered in one space. A node that meets one it does not know ignores and
// counts it.
//
// For a message X, Append appends the body without the type byte and ParseX
// reads exactly one body: too short, too long, or a field out of its bounds is
// an error that wraps ErrMalformed. Parse of what Append wrote gives the same
// message, and Append of what Parse took gives the same bytes, so that a
// message has one form. A Tail is an exception on purpose: what later versions
// append there is kept.
//
// Numbers are big-endian. A parsed message's byte slices lie in the datagram.
// No Parse allocates more than a small multiple of what it was given, and no
// message is longer than MaxMessage, but for one that carries a session's record
// (MaxCarried). Everything is safe for concurrent use, as
// there is no state.
//
// Sources: research/overlay.md §9.1 and TRUST.md, "Relays, records, abuse".
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type says what a message is.
type Type uint8

// Types of link messages, the first byte of a link session's record.
const (
	TypePing        Type = 1
	TypePong        Type = 2
	TypeNeighAsk    Type = 3
	TypeNeigh       Type = 4
	TypeRouted      Type = 5
	TypeLink        Type = 6
	TypeLinkAnswer  Type = 7
	TypeUnlink      Type = 8
	TypeProbeFor    Type = 9
	TypeProbeResult Type = 10
	TypeRelay       Type = 11
	TypeCandidates  Type = 12
	TypeCheck       Type = 13
	TypeCheckAnswer Type = 14
	TypeReceipt     Type = 15
	TypeNewcomer    Type = 16
)

// Types of payloads of a Routed message.
const (
	TypeFind       Type = 32
	TypeFound      Type = 33
	TypeJoin       Type = 34
	TypeJoinAnswer Type = 35
	TypeGet        Type = 36
	TypePut        Type = 37
	TypeRecords    Type = 38
	TypePutAnswer  Type = 39
	TypeHold       Type = 40
	TypeVote       Type = 41
	TypeNack       Type = 42
	TypeRelease    Type = 43
	TypeShow       Type = 44
	TypeSession    Type = 45
	TypeGossip     Type = 46
	TypeFetch      Type = 47
	TypePiece      Type = 48
	TypeMerge      Type = 49
	TypeErr        Type = 50
	TypeHoldsAsk   Type = 51
	TypeHolds      Type = 52
)

// Protocol bounds.
const (
	MaxMessage = 1200 // of a type byte and a body: fits the smallest path of IPv6
	MaxList    = 12   // peers on one side of a list: the r of 2^24 nodes
	MaxFar     = 48   // far links told for lookahead
	MaxTail    = 64   // of a Ping or Pong
	MaxTTL     = 32   // hops
)

// ErrMalformed is wrapped by every error of a Parse.
var ErrMalformed = errors.New("malformed message")

var names = map[Type]string{
	TypePing: "ping", TypePong: "pong", TypeNeighAsk: "neigh-ask", TypeNeigh: "neigh", TypeRouted: "routed",
	TypeLink: "link", TypeLinkAnswer: "link-answer", TypeUnlink: "unlink", TypeProbeFor: "probe-for",
	TypeProbeResult: "probe-result", TypeRelay: "relay", TypeCandidates: "candidates", TypeCheck: "check",
	TypeCheckAnswer: "check-answer", TypeReceipt: "receipt", TypeNewcomer: "newcomer", TypeFind: "find", TypeFound: "found", TypeJoin: "join",
	TypeJoinAnswer: "join-answer", TypeGet: "get", TypePut: "put", TypeRecords: "records",
	TypePutAnswer: "put-answer", TypeHold: "hold", TypeVote: "vote", TypeNack: "nack", TypeRelease: "release",
	TypeShow: "show", TypeSession: "session", TypeGossip: "gossip", TypeFetch: "fetch", TypePiece: "piece",
	TypeMerge: "merge", TypeErr: "err", TypeHoldsAsk: "holds-ask", TypeHolds: "holds",
	TypeGreet: "greet", TypeGreeted: "greeted", TypeStop: "stop", TypeStopped: "stopped", TypeChain: "chain", TypeTwin: "twin",
	TypeStoreFetch: "store-fetch", TypeStorePiece: "store-piece",
}

// String returns the type's name, as counters use it.
func (t Type) String() string {
	if n, ok := names[t]; ok {
		return n
	}
	return fmt.Sprintf("type-%d", uint8(t))
}

// Known says whether this version knows the type.
func (t Type) Known() bool { _, ok := names[t]; return ok }

// Message is a link message or a payload.
type Message interface {
	Type() Type
	Append(b []byte) []byte
}

// AppendMessage appends a link message: type byte, body.
func AppendMessage(b []byte, m Message) []byte { return m.Append(append(b, byte(m.Type()))) }

// reader takes fields from the front of a body. After the first field that is
// not there, or not within its bounds, it is failed and gives zeros.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n > len(r.b) {
		r.failed = true
		return nil
	}
	head := r.b[:n:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// count takes a number of things of which each needs at least size bytes.
func (r *reader) count(limit, size int) int {
	n := int(r.u8())
	if n > limit || n*size > len(r.b) {
		r.failed = true
		return 0
	}
	return n
}

// bound fails the reader unless ok.
func (r *reader) bound(ok bool) {
	if !ok {
		r.failed = true
	}
}

// end returns the error of a body of which something was missing, out of
// bounds, or left over.
func (r *reader) end(t Type) error {
	if r.failed || len(r.b) > 0 {
		return fmt.Errorf("parse %s: %w", t, ErrMalformed)
	}
	return nil
}
