// Package sim is a small internet in virtual time: hosts with clocks of their
// own, address translators between them, and a network that delays, loses,
// doubles and reorders datagrams.
//
// It is what the overlay's state machines are tried on. It knows no protocol:
// a host is a Handler that is given datagrams and woken at the time it asked
// for. The same machines run in the daemon on sockets.
//
//	 realm 192.168.0.0/16      realm 100.64.0.0/10         Internet 1.0.0.0/8
//	┌──────────────────┐      ┌──────────────────┐      ┌───────────────────┐
//	│ Host ── Host     │─ NAT │─ Host      Host  │─ NAT │─ Host   Host   NAT│─ ...
//	└──────────────────┘      └──────────────────┘      └───────────────────┘
//	a datagram climbs from realm to realm until its destination is found,
//	crosses that realm, and descends through the translators it meets then
//
// Invariants: one seed gives one run, whatever the number of processors, with
// or without the race detector: there is one goroutine, events happen in the
// order (time, sequence), all chance comes from Engine.Rand, and no map is
// iterated where its order could show. Trace is a SHA-256 over every datagram
// that arrived, so two runs can be compared by 32 bytes. A translator judges a
// datagram when it arrives there, not when it was sent, because hole punching
// lives on that order.
//
// Nothing here is safe for concurrent use: two seeds are two Engines.
//
// Limits on purpose: IPv4 only; one address a host; no congestion and no
// bandwidth; the network sends no ICMP; a translator has one outer address.
//
// Sources: RFC 4787 §4 and §5 (mapping, filtering), REQ-5 and REQ-6 (timeouts),
// REQ-9 (hairpinning), §7 of research/overlay.md for the measures.
package sim

import (
	"math/rand/v2"
	"time"
)

// Event is what the queue holds.
type Event interface {
	// Happen is called when the engine's time has reached the event's.
	Happen()
}

// Engine is virtual time: a queue of events, and the only source of chance.
type Engine struct {
	// Rand is the run's chance. Whoever needs a stream of their own takes
	// Split.
	Rand *rand.Rand
	// Trace is the hash of what has happened.
	Trace *Trace
	// Steps counts the events that have happened.
	Steps uint64

	now   time.Duration
	seq   uint64
	queue queue
}

// New returns an engine at time zero.
func New(seed uint64) *Engine {
	return &Engine{Rand: rand.New(rand.NewPCG(seed, 0x6772696473696d)), Trace: newTrace()}
}

// Split returns a stream of chance that the engine's later draws don't touch.
func (e *Engine) Split() *rand.Rand { return rand.New(rand.NewPCG(e.Rand.Uint64(), e.Rand.Uint64())) }

// Now returns the time since the run began.
func (e *Engine) Now() time.Duration { return e.now }

// Schedule lets an event happen at a time, or now if the time has passed.
// Events of one time happen in the order they were scheduled in.
func (e *Engine) Schedule(at time.Duration, ev Event) {
	e.seq++
	e.queue.push(item{at: max(at, e.now), seq: e.seq, ev: ev})
}

// At calls f at a time.
func (e *Engine) At(at time.Duration, f func()) { e.Schedule(at, call(f)) }

// After calls f when d has passed.
func (e *Engine) After(d time.Duration, f func()) { e.Schedule(e.now+d, call(f)) }

// Step lets the next event happen and says whether there was one.
func (e *Engine) Step() bool {
	if len(e.queue) == 0 {
		return false
	}
	it := e.queue.pop()
	e.now = it.at
	e.Steps++
	it.ev.Happen()
	return true
}

// Run lets happen what is due until then, and leaves the time there.
func (e *Engine) Run(until time.Duration) {
	for len(e.queue) > 0 && e.queue[0].at <= until {
		e.Step()
	}
	e.now = max(e.now, until)
}

type call func()

func (c call) Happen() { c() }
