package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"time"
)

// Trace is a running SHA-256 over what happened, for the proof that a seed
// replays. Contents enter by their CRC-32C, which is enough to notice a
// difference and costs little.
type Trace struct {
	h   hash.Hash
	buf []byte
}

func newTrace() *Trace { return &Trace{h: sha256.New(), buf: make([]byte, 0, 4096)} }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Add notes that something of a kind happened between a and b.
func (t *Trace) Add(at time.Duration, kind byte, a, b uint64, content []byte) {
	if len(t.buf)+40 > cap(t.buf) {
		t.h.Write(t.buf)
		t.buf = t.buf[:0]
	}
	t.buf = binary.BigEndian.AppendUint64(t.buf, uint64(at))
	t.buf = append(t.buf, kind)
	t.buf = binary.BigEndian.AppendUint64(t.buf, a)
	t.buf = binary.BigEndian.AppendUint64(t.buf, b)
	t.buf = binary.BigEndian.AppendUint32(t.buf, uint32(len(content)))
	t.buf = binary.BigEndian.AppendUint32(t.buf, crc32.Checksum(content, castagnoli))
}

// Sum returns the hash so far, as text. More can be added afterwards.
func (t *Trace) Sum() string {
	t.h.Write(t.buf)
	t.buf = t.buf[:0]
	return hex.EncodeToString(t.h.Sum(nil))
}
