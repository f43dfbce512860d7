package node

import (
	"sync/atomic"

	"gridappliance/overlayd/datapath"
	"gridappliance/overlayd/vnet"
)

// DropReason is why a datagram or packet went no further. Each is a counter in
// the status, under its own text.
type DropReason string

// The loop's own reasons; datapath and vnet have theirs.
const (
	dropForeign       DropReason = "drop/foreign"        // neither STUN nor of the overlay
	dropForged        DropReason = "drop/forged-source"  // from where nothing can come
	dropSTUNMalformed DropReason = "drop/stun-malformed" // begins as STUN, breaks RFC 8489
	dropSTUNOther     DropReason = "drop/stun-other"     // STUN, but no binding request
	dropLease         DropReason = DropReason(datapath.DropLease)
)

// What is counted beside drops.
const countSTUN = "tx/stun-answers"

// counters is one counter a name; the set of names never changes, so that
// adding takes no lock. Safe for concurrent use.
type counters map[string]*atomic.Uint64

func newCounters() counters {
	c := counters{countSTUN: new(atomic.Uint64)}
	for _, r := range []DropReason{dropForeign, dropForged, dropSTUNMalformed, dropSTUNOther} {
		c[string(r)] = new(atomic.Uint64)
	}
	for _, k := range datapath.Counters() {
		c[string(k)] = new(atomic.Uint64)
	}
	for _, r := range vnet.Reasons() {
		c[string(r)] = new(atomic.Uint64)
	}
	return c
}

func (c counters) add(name string, k int) { c[name].Add(uint64(k)) }
func (c counters) count(name string)      { c.add(name, 1) }
func (c counters) drop(r DropReason)      { c.add(string(r), 1) }
func (c counters) snapshot() map[string]uint64 {
	m := make(map[string]uint64, len(c))
	for name, n := range c {
		m[name] = n.Load()
	}
	return m
}
