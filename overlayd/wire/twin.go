package wire

import "encoding/binary"

// TypeTwin tells a peer that another machine uses its key.
const TypeTwin Type = 58

// RunSize is the length of a run number, which follows Versions in the tail of
// every ping and pong: drawn when a node starts, so that nobody who met a run
// and then another meets the first again, unless two machines are one node.
const RunSize = 8

// Twin tells a peer that it has been met as two runs in turns.
//
//	offset size
//	0      8    run that was met last
//	8      8    run that was met before it, and after which it came back
type Twin struct{ Now, Before uint64 }

// Type returns TypeTwin.
func (Twin) Type() Type { return TypeTwin }

// Append appends the body.
func (m Twin) Append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, m.Now), m.Before)
}

// ParseTwin reads a Twin.
func ParseTwin(b []byte) (Twin, error) {
	r := reader{b: b}
	m := Twin{Now: r.u64(), Before: r.u64()}
	return m, r.end(TypeTwin)
}
