// Package scenario runs whole overlays in virtual time and measures them: nodes
// that join, look things up, die and come back, on a network that is cut and
// heals.
//
// A World is a number of machines on package sim's internet, each running a
// core.Node, the same code that the daemon runs. Run makes a World of a Config,
// which holds the seed, lets it grow, lets phases happen to it one after the
// other, and answers with a Report of each. Equal Configs and phases give equal
// Reports and equal traces.
//
//	Quiet  Churn  Massacre  Split  Flash       phases of a Run
//	     \    |      |      |    /
//	       World: Boot, Kill, Cut, Look        what happens to machines
//	      /    |      |           \
//	   sim  core.Node  Recorder  Report        who is told, what is measured
//
// What is measured is compared with the truth, which only the World knows: the
// list of all members in the order of their IDs.
//
// For tests only. Not safe for concurrent use; two Worlds share nothing.
//
// Sources: research/overlay.md §7.
package scenario

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/core"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/ring"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/wire"
)

// Port is where every node listens.
const Port = 4242

// Mix is which share of machines sits behind which translator; the rest has a
// public address.
type Mix struct{ Home, Symmetric, FullCone, Blocking float64 }

// Mixes of research/overlay.md §7. Blocked machines are left out: they need TCP,
// which is not simulated.
var (
	Public = Mix{}
	Wild   = Mix{Home: 0.5, Symmetric: 0.3, FullCone: 0.1}
	NAT70  = Mix{Home: 0.40, Symmetric: 0.20, FullCone: 0.10}
	AllNAT = Mix{Home: 0.6, Symmetric: 0.25, FullCone: 0.15}
)

// Config is a World before it is made.
type Config struct {
	Seed       uint64
	Machines   int // besides the bootstrap nodes
	Bootstraps int // with public addresses; they found the ring and stay
	Contacts   int // bootstrap nodes each machine's floppy names; 0 is 3
	NAT        Mix
	Net        sim.Config
	Drift      int64 // clocks are up to so many millionths wrong

	// Recorder, if not nil, is told of everything.
	Recorder Recorder
	// Told, if not nil, is given the actions that only a daemon has a use for.
	Told func(m *Machine, a core.Action) `json:"-"`
	// Identify says who the next node on a machine is and gives it the layer
	// below the ring; nil is a random ID and a stand-in without keys.
	Identify func(w *World, m *Machine) (Identity, error) `json:"-"`
}

// Identity is who a node is, and its sessions.
type Identity struct {
	ID     nodeid.ID
	Holder wire.Holder
	Links  core.Links
	Grid   *core.Grid // nil: a place on the ring and nothing else
}

// World is an overlay and the internet below it.
type World struct {
	*sim.Net
	Config
	Bootstraps []*Machine
	Machines   []*Machine // the others
	Joins      Durations  // from start to member
	Attaches   Durations  // from start to the first connection
	Lookups    Lookups
	Invariants Invariants

	chance  *rand.Rand
	members []*Machine // on the ring, by ID: the truth
	token   uint64
	asked   map[uint64]question
	side    func(*Machine) uint8         // of a cut; nil while the network is whole
	moved   core.Counters                // of nodes that are gone
	skipped map[*core.Node]time.Duration // members that their predecessor does not list, and since when
}

// Machine is a host and what runs on it. A machine that restarts keeps host
// and address, and has a new node.
type Machine struct {
	Host     *sim.Host
	Node     *core.Node // nil while the machine is down
	NAT      *sim.NAT   // nil for a public address
	Founder  bool
	Holder   wire.Holder
	Started  time.Duration
	OnRing   bool
	attached bool
	links    core.Links
	w        *World
}

// Make returns a World in which nothing runs yet.
func Make(cfg Config) *World {
	if cfg.Contacts == 0 {
		cfg.Contacts = 3
	}
	w := &World{Net: sim.NewNet(sim.New(cfg.Seed), cfg.Net), Config: cfg, asked: map[uint64]question{}}
	w.chance = w.Split()
	for range cfg.Bootstraps {
		w.Bootstraps = append(w.Bootstraps, w.machine(true))
	}
	for range cfg.Machines {
		w.Machines = append(w.Machines, w.machine(false))
	}
	return w
}

func (w *World) machine(founder bool) *Machine {
	m := &Machine{Founder: founder, w: w}
	place, realm := w.Somewhere(), w.Internet
	if b, ok := w.behind(); ok && !founder {
		m.NAT = w.AddNAT(realm, b, place)
		realm = m.NAT.Inside
	}
	m.Host = w.AddHost(realm, place)
	if w.Drift > 0 {
		m.Host.Clock = sim.NewClock(0, w.chance.Int64N(2*w.Drift)-w.Drift)
	}
	// Every machine a holder of its own, unless a scenario says otherwise.
	for i := range m.Holder {
		m.Holder[i] = byte(w.chance.Uint32())
	}
	return m
}

// behind draws a translator of the mix.
func (w *World) behind() (sim.Behaviour, bool) {
	x := w.chance.Float64()
	for _, c := range []struct {
		share float64
		b     sim.Behaviour
	}{{w.NAT.Home, sim.Home}, {w.NAT.Symmetric, sim.Symmetric}, {w.NAT.FullCone, sim.FullCone}, {w.NAT.Blocking, sim.Blocking}} {
		if x < c.share {
			return c.b, true
		}
		x -= c.share
	}
	return sim.Behaviour{}, false
}

// newID draws a position. IDs are cut from hashes, so they are even.
func (w *World) newID() (id nodeid.ID) {
	for i := range id {
		id[i] = byte(w.chance.Uint32())
	}
	return id
}

// Boot starts a node with a new ID on a machine.
func (w *World) Boot(m *Machine) {
	who := w.identify(m)
	cfg := core.Config{ID: who.ID, Holder: who.Holder, Links: who.Links, Rand: w.Split(), Founder: m.Founder, Grid: who.Grid}
	if m.Founder {
		cfg.Degree = ring.BudgetBootstrap
	}
	m.Node, m.links, m.Started, m.OnRing, m.attached = core.New(cfg), who.Links, w.Now(), false, false
	m.Host.Start(m)
	w.record(func(r Recorder) { r.Started(w.Now(), cfg.ID, m.Founder) })
	m.handle(m.addresses())
	m.handle(core.Start{Contacts: w.contacts(m)})
}

func (w *World) identify(m *Machine) Identity {
	if w.Identify == nil {
		id := w.newID()
		return Identity{ID: id, Holder: m.Holder, Links: newPlain(id, m.Holder)}
	}
	who, err := w.Identify(w, m)
	if err != nil {
		panic("scenario: identify: " + err.Error()) // the scenario's own mistake
	}
	m.Holder = who.Holder
	return who
}

func (m *Machine) addresses() core.Addresses {
	addr := m.Host.Addr()
	a := core.Addresses{Host: []netip.AddrPort{netip.AddrPortFrom(addr, Port)}}
	if m.NAT != nil {
		lan, _ := addr.Prefix(24)
		a.Attached = []netip.Prefix{lan}
	}
	return a
}

// contacts are running bootstrap nodes, as a descriptor names them.
func (w *World) contacts(m *Machine) (cs []wire.Contact) {
	for _, i := range w.chance.Perm(len(w.Bootstraps)) {
		b := w.Bootstraps[i]
		if b == m || b.Node == nil {
			continue
		}
		cs = append(cs, wire.Contact{ID: b.Node.ID(), Holder: b.Holder,
			Endpoints: []netip.AddrPort{netip.AddrPortFrom(b.Host.Addr(), Port)}})
		if len(cs) == w.Contacts {
			break
		}
	}
	return cs
}

// Kill stops a machine without a word.
func (w *World) Kill(m *Machine) {
	if m.Node == nil {
		return
	}
	w.record(func(r Recorder) { r.Died(w.Now(), m.Node.ID()) })
	w.setMember(m, false)
	w.moved = add(w.moved, m.Node.Counters(), 1)
	m.Node = nil
	m.Host.Crash()
}

// Leave lets a machine say goodbye and stop.
func (w *World) Leave(m *Machine) {
	if m.Node != nil {
		m.handle(core.Leave{})
		w.Kill(m)
	}
}

// Cut parts the internet: machines reach each other only on one side. Those
// behind one translator are on one side, whatever is said.
func (w *World) Cut(side func(*Machine) uint8) {
	sides := make([]uint8, w.Hosts())
	w.running(func(m *Machine) { sides[m.Host.Name] = side(m) })
	w.Partition(sides)
	w.side = side
}

// Mend makes a cut internet whole.
func (w *World) Mend() {
	w.Heal()
	w.side = nil
}

// setMember keeps the truth.
func (w *World) setMember(m *Machine, on bool) {
	if m.OnRing == on {
		return
	}
	m.OnRing = on
	i, _ := slices.BinarySearchFunc(w.members, m.Node.ID(), func(o *Machine, id nodeid.ID) int { return o.Node.ID().Compare(id) })
	if on {
		w.members = slices.Insert(w.members, i, m)
	} else {
		w.members = slices.Delete(w.members, i, i+1)
	}
	w.record(func(r Recorder) { r.Member(w.Now(), m.Node.ID(), on) })
}

// Members returns the machines on the ring by ID. The slice is the World's.
func (w *World) Members() []*Machine { return w.members }

func (w *World) record(f func(Recorder)) {
	if w.Recorder != nil {
		f(w.Recorder)
	}
}

// Receive implements sim.Handler.
func (m *Machine) Receive(now time.Time, to, from netip.AddrPort, data []byte) {
	m.act(m.Node.Handle(now, core.Datagram{From: from, Socket: to.Port() - Port, Data: data}))
}

// Wake implements sim.Handler.
func (m *Machine) Wake(now time.Time) { m.act(m.Node.Handle(now, core.Tick{})) }

func (m *Machine) handle(e core.Event) { m.act(m.Node.Handle(m.Host.Now(), e)) }

// act does what a node wants.
func (m *Machine) act(actions []core.Action) {
	w := m.w
	for _, a := range actions {
		switch a := a.(type) {
		case core.Send:
			m.Host.Send(Port+a.Socket, a.To, a.Data)
		case core.Member:
			if a.On && !m.OnRing {
				w.Joins.Add(w.Now() - m.Started)
			}
			w.setMember(m, a.On)
		case core.Connected:
			if !m.attached {
				m.attached = true
				w.Attaches.Add(w.Now() - m.Started)
			}
			w.record(func(r Recorder) { r.Connected(w.Now(), m.Node.ID(), a.ID, a.Path) })
		case core.Disconnected:
			w.record(func(r Recorder) { r.Disconnected(w.Now(), m.Node.ID(), a.ID) })
		case core.Found:
			w.found(m, a)
		default:
			if w.Told != nil {
				w.Told(m, a)
			}
		}
	}
	m.Host.WakeAt(m.Node.NextDeadline())
}
