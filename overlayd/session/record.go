package session

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrDead is returned when keys may no longer be used: the session ended,
	// the keys are too old or a counter is used up.
	ErrDead = errors.New("session keys are dead")
	// ErrRecord is returned for a record that is not accepted; which of the
	// counters it belongs to, Drop says.
	ErrRecord = errors.New("record not accepted")
)

// Keys is what one handshake agreed on: both directions' keys, the counters of
// the own paths and the windows of the peer's.
type Keys struct {
	local, remote uint32 // indices: the peer writes local, we write remote
	born          time.Time
	dead          atomic.Bool
	seal, open    cipher.AEAD
	mark, check   cipher.AEAD // of relayed datagrams
	next          [MaxPaths]atomic.Uint64
	marks         atomic.Uint64
	windows       [MaxPaths]*window
	checks        *window
	nonce         [12]byte // of open and check
	initiator     bool     // this node's HELLO began it
	heard         bool     // a record was opened: the peer has the keys
	refused       bool     // they lost against this node's own handshake: nothing is sealed under them

	opening sync.Mutex // guards open, check, windows, checks and nonce
}

// Lock is for whoever calls Open or Checker.Check: the data path and Machine
// both do. The data path locks once for each burst.
func (k *Keys) Lock() { k.opening.Lock() }

// Unlock ends Lock.
func (k *Keys) Unlock() { k.opening.Unlock() }

// Heard reports whether the peer has shown that it has these keys. It belongs
// to Machine's goroutine: the data path is given only keys for which it holds,
// so that Machine opens the first record under new keys.
func (k *Keys) Heard() bool { return k.heard }

// Index is what records to this node carry: a snapshot maps it to Keys.
func (k *Keys) Index() uint32 { return k.local }

// Usable reports whether records may be sealed at that time. The data path
// asks once for each burst.
func (k *Keys) Usable(now time.Time) bool {
	return !k.dead.Load() && now.Sub(k.born) < KeyLife
}

// ParseIndex returns the index that a record or relayed datagram names, to
// find its Keys by.
func ParseIndex(datagram []byte) (uint32, bool) {
	if len(datagram) < HeaderSize || datagram[0] != typeRecord && datagram[0] != typeRelayed {
		return 0, false
	}
	return binary.BigEndian.Uint32(datagram[4:]), true
}

// Sealer seals the records of one path. It belongs to one goroutine; Sealers
// of one path share its counter.
type Sealer struct {
	keys  *Keys
	path  uint8
	nonce [12]byte
}

// Sealer returns a sealer of a path below MaxPaths.
func (k *Keys) Sealer(path uint8) *Sealer {
	s := new(Sealer)
	s.Use(k, path)
	return s
}

// Use makes s, which may be the zero Sealer, seal for a path below MaxPaths
// under k.
func (s *Sealer) Use(k *Keys, path uint8) {
	s.keys, s.path = k, path%MaxPaths
	s.nonce[3] = s.path
}

// Seal makes a record in place: the plaintext is b[HeaderSize:len(b)-TagSize],
// header and tag are written around it.
//
//	offset size field
//	0      1    0x84
//	1      1    path id, 0 to 15
//	2      1    index in a superpacket
//	3      1    total of that superpacket; 0: the session's own (see control)
//	4      4    index of the receiver's keys
//	8      4    counter
//	12     n    ciphertext
//	12+n   16   tag; bytes 0 to 11 are the associated data
//
// The nonce is the path id (4 bytes) and the counter (8 bytes). It allocates
// nothing. The error is ErrDead.
func (s *Sealer) Seal(b []byte, index, total uint8) error {
	return s.SealFrom(b, b[HeaderSize:len(b)-TagSize], index, total)
}

// SealFrom is Seal for a plaintext that lies elsewhere and stays as it is: the
// record fills b, len(plain)+Overhead bytes, which must not overlap plain.
func (s *Sealer) SealFrom(b, plain []byte, index, total uint8) error {
	k := s.keys
	if k.dead.Load() {
		return ErrDead
	}
	counter := k.next[s.path].Add(1) - 1
	if counter >= maxCount {
		k.dead.Store(true)
		return ErrDead
	}
	b[0], b[1], b[2], b[3] = typeRecord, s.path, index, total
	binary.BigEndian.PutUint32(b[4:], k.remote)
	binary.BigEndian.PutUint32(b[8:], uint32(counter))
	binary.BigEndian.PutUint64(s.nonce[4:], counter)
	k.seal.Seal(b[HeaderSize:HeaderSize], s.nonce[:], plain, b[:HeaderSize])
	return nil
}

// Opened is what a record's header says; it is authenticated.
type Opened struct {
	Path, Index, Total uint8
	Plain              []byte // in the datagram's memory
}

// Open opens a record in place, inside Lock. A failure leaves the window as it was and is
// DropShort, DropPath, DropReplay or DropForged. It allocates nothing but, at
// the first record of a path, its window.
func (k *Keys) Open(datagram []byte) (o Opened, drop Drop, err error) {
	switch {
	case k.dead.Load():
		return o, DropIndex, ErrDead
	case len(datagram) < Overhead:
		return o, DropShort, ErrRecord
	case datagram[1] >= MaxPaths:
		return o, DropPath, ErrRecord
	}
	path := datagram[1]
	w := k.windows[path]
	counter := uint64(binary.BigEndian.Uint32(datagram[8:]))
	if w != nil && !w.fresh(counter) {
		return o, DropReplay, ErrRecord
	}
	k.nonce[3] = path
	binary.BigEndian.PutUint64(k.nonce[4:], counter)
	plain, err := k.open.Open(datagram[HeaderSize:HeaderSize], k.nonce[:], datagram[HeaderSize:], datagram[:HeaderSize])
	if err != nil {
		return o, DropForged, ErrRecord
	}
	if w == nil {
		w = new(window)
		k.windows[path] = w
	}
	w.accept(counter)
	return Opened{Path: path, Index: datagram[2], Total: datagram[3], Plain: plain}, 0, nil
}

// kill makes the keys useless at once, also in the data path's snapshots.
func (k *Keys) kill() { k.dead.Store(true) }
