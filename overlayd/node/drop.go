package node

import (
	"sync/atomic"
)

// DropReason is why a datagram or frame went no further. Each is a counter in
// the status, under its own text.
type DropReason string

// Every reason, by where it applies.
const (
	// datagrams from the underlay
	dropNoSession     DropReason = "drop/no-session"     // neither STUN nor of a session: this version has none
	dropSTUNMalformed DropReason = "drop/stun-malformed" // begins as STUN, breaks RFC 8489
	dropSTUNOther     DropReason = "drop/stun-other"     // STUN, but no binding request
	dropUnsent        DropReason = "drop/unsent"         // the kernel refused the answer

	// frames from the device
	dropFrameShort DropReason = "drop/frame-short" // no whole Ethernet header
	dropNoPeer     DropReason = "drop/no-peer"     // for a node there is no connection to
)

// What is counted beside drops.
const (
	countDatagrams = "rx/datagrams"
	countFrames    = "rx/frames"
	countSTUN      = "tx/stun-answers"
)

// counters is one counter a name; the set of names never changes, so that
// adding takes no lock. Safe for concurrent use.
type counters map[string]*atomic.Uint64

func newCounters() counters {
	c := counters{}
	for _, r := range []DropReason{dropNoSession, dropSTUNMalformed, dropSTUNOther, dropUnsent, dropFrameShort, dropNoPeer} {
		c[string(r)] = new(atomic.Uint64)
	}
	for _, name := range []string{countDatagrams, countFrames, countSTUN} {
		c[name] = new(atomic.Uint64)
	}
	return c
}

func (c counters) count(name string) { c[name].Add(1) }
func (c counters) drop(r DropReason) { c[string(r)].Add(1) }
func (c counters) snapshot() map[string]uint64 {
	m := make(map[string]uint64, len(c))
	for name, n := range c {
		m[name] = n.Load()
	}
	return m
}
