package session

import (
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

// Session is what two nodes have with each other for one purpose: who the peer
// is, and the keys of the moment.
//
//	          ANSWER or FINISH                first record under them
//	nothing ──────────────────> current    next ───────────────> current ──> previous ──10 s──> dead
//	                            later ones: next
//
// Sealing is always under current. A key becomes current when the peer has
// shown that it has it, or when there is none.
type Session struct {
	machine *Machine
	id      nodeid.ID
	node    *credential.Node
	chain   credential.Chain
	hash    [32]byte // of chain
	shown   [32]byte // hash of the chain that the peer has verified of us
	purpose string
	static  [32]byte
	via     Via

	current, next, previous *Keys
	end                     time.Time // of previous
	renew                   time.Time // when a new handshake is to begin
	sealers                 [MaxPaths]*Sealer
	down                    bool
}

// Peer returns the peer's node ID.
func (s *Session) Peer() nodeid.ID { return s.id }

// Node returns what the peer has proven to be. It changes with its certificate.
func (s *Session) Node() *credential.Node { return s.node }

// Purpose returns "link" or the namespace.
func (s *Session) Purpose() string { return s.purpose }

// Keys returns the keys to seal under now, or nil after the session's end.
// A snapshot for the data path holds them until Rekeyed.
func (s *Session) Keys() *Keys { return s.current }

// Opening returns all keys that records of the peer may be under.
func (s *Session) Opening() []*Keys {
	var out []*Keys
	for _, k := range []*Keys{s.current, s.next, s.previous} {
		if k != nil {
			out = append(out, k)
		}
	}
	return out
}

// Use says over which path the next handshake of the session goes.
func (s *Session) Use(v Via) { s.via = v }

// Initiator reports whether this node's handshake made the current keys.
func (s *Session) Initiator() bool { return s.current != nil && s.current.initiator }

// Seal appends a record of plain to b: for messages; the data path uses a
// Sealer. The error is ErrDead.
func (s *Session) Seal(b []byte, now time.Time, path uint8, plain []byte) ([]byte, error) {
	return s.seal(b, now, path, 1, plain)
}

// SealControl appends a record with total 0, whose plaintext is longer than a
// byte: what package link says to its like, whatever the session is for.
func (s *Session) SealControl(b []byte, now time.Time, path uint8, plain []byte) ([]byte, error) {
	return s.seal(b, now, path, 0, plain)
}

func (s *Session) seal(b []byte, now time.Time, path, total uint8, plain []byte) ([]byte, error) {
	k := s.current
	if k == nil || !k.Usable(now) {
		return b, ErrDead
	}
	path %= MaxPaths
	sealer := s.sealers[path]
	if sealer == nil || sealer.keys != k {
		sealer = k.Sealer(path)
		s.sealers[path] = sealer
	}
	return appendRecord(b, sealer, total, plain)
}

func appendRecord(b []byte, sealer *Sealer, total uint8, plain []byte) ([]byte, error) {
	start := len(b)
	b = append(b, make([]byte, HeaderSize)...)
	b = append(b, plain...)
	b = append(b, make([]byte, TagSize)...)
	return b, sealer.Seal(b[start:], 0, total)
}

// Records of the session itself have total 0. Their plaintext is
//
//	offset size field
//	0      0    nothing: these keys work
//	0      1    1: the sender has closed the session
//	0      2+   a message of package link
const controlClose = 1

// own seals a record of the session's own under given keys.
func own(k *Keys, plain ...byte) []byte {
	b, err := appendRecord(nil, k.Sealer(0), 0, plain)
	if err != nil {
		return nil
	}
	return b
}
