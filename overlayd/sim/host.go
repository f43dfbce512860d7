package sim

import (
	"net/netip"
	"time"
)

// Handler is what runs on a host. It is called with what the host's own clock
// reads, never while the host is paused or down.
type Handler interface {
	// Receive is a datagram that arrived at the local endpoint to. The bytes
	// are the handler's until it returns.
	Receive(now time.Time, to, from netip.AddrPort, data []byte)
	// Wake is the time asked for with WakeAt, reached or passed.
	Wake(now time.Time)
}

// Host is a machine with one address.
type Host struct {
	// Name is the host's number, counted from zero.
	Name int
	// Clock is the host's; change it through SetRate and Jump of the host,
	// which wake it at the new time.
	Clock Clock
	// What the host has sent and been given, in datagrams and payload bytes.
	Sent, SentBytes, Received, ReceivedBytes uint64

	net     *Net
	realm   *Realm
	addr    uint32
	place   Place
	handler Handler

	wanted time.Time     // when to wake; zero: never
	wakeAt time.Duration // engine time of the queued wake-up that counts
	queued bool

	paused  bool
	waiting []waiting
}

// waiting is a datagram in a paused host's socket buffer.
type waiting struct {
	f  *flight
	at endpoint
}

// socketBuffer is how many datagrams wait at a paused host, about what
// Linux's default of 208 KiB holds.
const socketBuffer = 256

// AddHost puts a machine with a true clock into a realm.
func (n *Net) AddHost(r *Realm, p Place) *Host {
	h := &Host{Name: len(n.hosts), Clock: NewClock(0, 0), net: n, realm: r, place: p}
	h.addr = r.attach(attached{host: h})
	n.hosts = append(n.hosts, h)
	return h
}

// Addr returns the host's address in its realm.
func (h *Host) Addr() netip.Addr { return addrOf(h.addr) }

// Place returns where it is.
func (h *Host) Place() Place { return h.place }

// Now returns what the host's clock reads.
func (h *Host) Now() time.Time { return h.Clock.At(h.net.now) }

// Up says whether the host runs, paused or not.
func (h *Host) Up() bool { return h.handler != nil }

// Start lets a handler run on the host, instead of any other.
func (h *Host) Start(x Handler) {
	h.Crash()
	h.handler = x
}

// Crash stops the host: what arrives is lost, what it wanted is forgotten. Its
// address and its translators' mappings stay.
func (h *Host) Crash() {
	h.handler, h.wanted, h.paused = nil, time.Time{}, false
	h.drop()
}

func (h *Host) drop() {
	for _, w := range h.waiting {
		h.net.Stats.Nowhere++
		w.f.land()
	}
	h.waiting = h.waiting[:0]
}

// Move takes the host to another realm or another place, with a new address.
func (h *Host) Move(r *Realm, p Place) {
	h.realm.detach(h.addr)
	h.realm, h.place = r, p
	h.addr = r.attach(attached{host: h})
}

// Send sends a datagram from a local port. The bytes are copied.
func (h *Host) Send(port uint16, to netip.AddrPort, data []byte) { h.net.send(h, port, to, data) }

// WakeAt asks to be woken when the host's clock reads t, instead of any time
// asked for before. The zero time asks for nothing.
func (h *Host) WakeAt(t time.Time) {
	h.wanted = t
	if t.IsZero() || h.paused {
		return
	}
	at := max(h.Clock.When(t), h.net.now)
	if h.queued && h.wakeAt <= at {
		return // the queued one comes first and looks again
	}
	h.queued, h.wakeAt = true, at
	h.net.Schedule(at, h)
}

// Happen is a queued wake-up. One that a later WakeAt replaced does nothing.
func (h *Host) Happen() {
	if !h.queued || h.wakeAt != h.net.now {
		return
	}
	h.queued = false
	h.due()
}

func (h *Host) due() {
	if h.handler == nil || h.paused || h.wanted.IsZero() {
		return
	}
	now := h.Now()
	if now.Before(h.wanted) {
		h.WakeAt(h.wanted)
		return
	}
	h.wanted = time.Time{}
	h.net.Trace.Add(h.net.now, 'w', uint64(h.Name), 0, nil)
	h.handler.Wake(now)
}

// SetRate makes the host's clock gain ppm millionths from now on.
func (h *Host) SetRate(ppm int64) {
	h.Clock.SetRate(h.net.now, ppm)
	h.WakeAt(h.wanted)
}

// Jump moves the host's clock by d: a restored snapshot, or a suspended
// machine whose clock stood.
func (h *Host) Jump(d time.Duration) {
	h.Clock.Jump(h.net.now, d)
	h.WakeAt(h.wanted)
}

// Pause stops the host without its noticing, as SIGSTOP or a busy hypervisor
// does. Its clock runs on.
func (h *Host) Pause() { h.paused = true }

// Resume ends a pause: the host is woken if that was due, then given what
// waits in its socket.
func (h *Host) Resume() {
	if !h.paused {
		return
	}
	h.paused = false
	h.due()
	held := h.waiting
	h.waiting = nil
	for _, w := range held {
		h.arrive(w.f, w.at)
	}
}

func (h *Host) arrive(f *flight, at endpoint) {
	n := h.net
	switch {
	case h.handler == nil || h.paused && len(h.waiting) >= socketBuffer:
		n.Stats.Nowhere++
		f.land()
		return
	case h.paused:
		h.waiting = append(h.waiting, waiting{f, at})
		return
	}
	n.Stats.Delivered++
	h.Received++
	h.ReceivedBytes += uint64(len(f.data))
	n.Trace.Add(n.now, 'd', uint64(f.sender.Name)<<32|uint64(h.Name), uint64(f.from), f.data)
	h.handler.Receive(h.Now(), at.addrPort(), f.from.addrPort(), f.data)
	f.land()
}
