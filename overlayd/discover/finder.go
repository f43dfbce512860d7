package discover

import (
	"context"
	crand "crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"gridappliance/internal/atomicfile"
	"gridappliance/overlayd/bootstrap"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/stream"
	"gridappliance/overlayd/underlay"
	"gridappliance/overlayd/wire"
)

// Implementation: tunable at will.
const (
	maxContacts = 64
	perSource   = maxContacts / 2
	wantAlone   = bootstrap.MaxContacts // of each bootstrap, without a connection
	wantAlways  = 3                     // with: to notice another ring
	memberLife  = 3 * time.Minute       // of a contact that a bootstrap named
	saveAfter   = 10 * time.Second
	saveEvery   = 5 * time.Minute
	udpLife     = time.Minute     // after an answer by UDP: it works
	tcpAfter    = 5 * time.Second // without one: it may be dropped
	tcpEvery    = 5 * time.Second // between two attempts with one endpoint; doubles
	tcpLast     = time.Minute
	tcpPort     = 443
	lookEvery   = time.Second // at TCP connections
	holdNames   = 2 * time.Second
	holdLAN     = 500 * time.Millisecond
)

// Source says where a contact is from.
type Source string

// Sources.
const (
	FromLAN        Source = "lan"
	FromDescriptor Source = "descriptor"
	FromFloppy     Source = "floppy"
	FromBootstrap  Source = "bootstrap"
	FromMemory     Source = "remembered"
	FromTCP        Source = "tcp"
)

// Name is a first contact that a document names.
type Name struct {
	Text   string // host:port
	Source Source
}

// Found is a contact and where it is from: a name, a bootstrap's endpoint, an
// interface.
type Found struct {
	wire.Contact
	Source Source
	Where  string
}

// Event is what the loop tells. The set is closed.
type Event interface{ event() }

// Events.
type (
	// Network says how the machine is connected now.
	Network struct{ underlay.State }

	// Named replaces what the documents say: they may be newer ones.
	Named struct {
		Names []Name
		Tags  []bootstrap.Tag
	}

	// Path says which way records of the session of a connection take;
	// link.None: it is gone.
	Path struct {
		ID    nodeid.ID
		State link.State
	}

	// Peer says where a peer was reached directly.
	Peer struct{ wire.Contact }

	// Datagram is one of the underlay for which bootstrap.Ours is true and that
	// Table does not unwrap. The Finder owns Data.
	Datagram bootstrap.Datagram

	// Resumed says that the machine may have been away.
	Resumed struct{}
)

func (Network) event()  {}
func (Named) event()    {}
func (Path) event()     {}
func (Peer) event()     {}
func (Datagram) event() {}
func (Resumed) event()  {}

// Action is what the loop is to do. The set is closed.
type Action interface{ action() }

// Actions.
type (
	// Contacts is all first contacts there are now.
	Contacts struct{ List []Found }

	// Send is a datagram for the underlay, or a virtual endpoint.
	Send bootstrap.Send

	// Observed says how a bootstrap sees this node.
	Observed link.Observed

	// Places says where at bootstraps this node is enrolled.
	Places link.Places
)

func (Contacts) action() {}
func (Send) action()     {}
func (Observed) action() {}
func (Places) action()   {}

// Resolver looks names up, as net.Resolver does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config is what a Finder is made of.
type Config struct {
	ID       nodeid.ID
	Tags     []bootstrap.Tag
	Names    []Name
	Listen   netip.AddrPort   // the overlay's own UDP endpoint
	Memory   string           // file of the peers of before; "": none
	Streams  *stream.Streams  // nil: no TCP
	LAN      bool             // multicast beacon
	Resolver Resolver         // required
	Table    *bootstrap.Table // required
	Log      *slog.Logger
}

// Finder finds first contacts. See the package's comment.
type Finder struct {
	cfg     Config
	rand    *rand.Rand
	events  chan Event
	actions chan Action

	network  underlay.State
	names    []*name
	resolved chan resolution
	kinds    map[netip.AddrPort]kind // of endpoints of names and of TCP connections
	member   *bootstrap.Member
	places   []link.Place
	members  []met
	memory   memory
	save     time.Time // zero: nothing to save
	direct   map[nodeid.ID]bool
	linked   map[nodeid.ID]bool
	heardUDP time.Time // last answer by UDP
	silent   time.Time // since when there is none; zero: there is
	dials    []*dial
	dialed   chan dialResult
	lan      *lan
	beacons  beacons
	last     []Found // given to the loop
	told     bool
	began    time.Time
	working  sync.WaitGroup
}

// kind is what an endpoint turned out to be.
type kind uint8

const (
	unknown kind = iota
	isBootstrap
)

// met is a member that a bootstrap named.
type met struct {
	id   nodeid.ID
	end  netip.AddrPort
	at   netip.AddrPort
	seen time.Time
}

// New returns a Finder for Run.
func New(cfg Config) *Finder {
	var seed [32]byte
	crand.Read(seed[:])
	f := &Finder{cfg: cfg, rand: rand.New(rand.NewChaCha8(seed)), events: make(chan Event, 256), actions: make(chan Action, 64),
		resolved: make(chan resolution, 16), dialed: make(chan dialResult, 16), kinds: map[netip.AddrPort]kind{},
		direct: map[nodeid.ID]bool{}, linked: map[nodeid.ID]bool{}}
	f.member = bootstrap.NewMember(bootstrap.MemberConfig{ID: cfg.ID, Tags: cfg.Tags, Random: crand.Reader, Rand: f.rand})
	f.names = parseNames(nil, cfg.Names)
	return f
}

// Actions is what the loop is to do, in order.
func (f *Finder) Actions() <-chan Action { return f.actions }

// Tell tells the Finder what happened. It never waits: when the Finder is far
// behind, the event is lost. Datagrams, of which strangers may send any number,
// have half of the room, so that they displace nothing else.
func (f *Finder) Tell(e Event) {
	if _, ok := e.(Datagram); ok && len(f.events) >= cap(f.events)/2 {
		return
	}
	select {
	case f.events <- e:
	default:
	}
}

// Run looks for contacts until ctx ends. No goroutine is left when it returns.
func (f *Finder) Run(ctx context.Context) {
	defer f.working.Wait()
	f.load()
	defer f.store()
	if f.cfg.LAN {
		var err error
		if f.lan, err = openLAN(); err != nil {
			f.cfg.Log.Warn("peers on the LAN are not looked for", "err", err)
		} else {
			if f.lan.c4 != nil {
				f.working.Go(func() { f.lan.listen(true) })
			}
			if f.lan.c6 != nil {
				f.working.Go(func() { f.lan.listen(false) })
			}
			defer f.lan.close()
		}
	}
	var heard chan heard
	if f.lan != nil {
		heard = f.lan.in
	}
	now := time.Now()
	f.silent, f.began = now, now
	f.enrol(ctx, now, bootstrap.Want{Contacts: wantAlone})
	f.tick(ctx, now)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-f.events:
			f.handle(ctx, time.Now(), e)
		case r := <-f.resolved:
			f.takeResolution(ctx, time.Now(), r)
		case d := <-f.dialed:
			f.takeDial(ctx, time.Now(), d)
		case h := <-heard:
			f.takeBeacon(time.Now(), h)
		case <-timer.C:
		}
		now := time.Now()
		f.tick(ctx, now)
		timer.Reset(max(0, f.next(now).Sub(now)))
	}
}

func (f *Finder) handle(ctx context.Context, now time.Time, e Event) {
	switch e := e.(type) {
	case Network:
		if e.State.Equal(f.network) {
			return
		}
		f.network = e.State
		if f.lan != nil {
			f.lan.join(f.network.Interfaces)
			f.beacons.ask(now)
		}
		f.retry(ctx, now)
	case Named:
		f.setNames(ctx, now, e)
	case Resumed:
		f.retry(ctx, now)
	case Path:
		f.path(ctx, now, e)
	case Peer:
		if len(e.Endpoints) > 0 && e.ID != f.cfg.ID {
			f.memory.add(e.Contact, now)
			if f.save.IsZero() {
				f.save = now.Add(saveAfter)
			}
		}
	case Datagram:
		f.enrol(ctx, now, bootstrap.Datagram(e))
	}
}

// retry begins anew what waits: the network is another.
func (f *Finder) retry(ctx context.Context, now time.Time) {
	for _, n := range f.names {
		n.soon(now)
	}
	for _, d := range f.dials {
		d.pause = tcpEvery
	}
	f.heardUDP = time.Time{}
	if f.silent.IsZero() {
		f.silent = now
	}
	f.enrol(ctx, now, bootstrap.Again{})
}

func (f *Finder) path(ctx context.Context, now time.Time, e Path) {
	alone := len(f.linked) == 0
	if e.State == link.None {
		delete(f.linked, e.ID)
		delete(f.direct, e.ID)
	} else {
		f.linked[e.ID] = true
		if e.State == link.Direct {
			f.direct[e.ID] = true
		} else {
			delete(f.direct, e.ID)
		}
	}
	switch {
	case alone && len(f.linked) > 0:
		f.enrol(ctx, now, bootstrap.Want{Contacts: wantAlways})
	case !alone && len(f.linked) == 0:
		f.enrol(ctx, now, bootstrap.Want{Contacts: wantAlone})
		f.enrol(ctx, now, bootstrap.Again{})
		f.beacons.ask(now)
	}
}

// tick does what is due.
func (f *Finder) tick(ctx context.Context, now time.Time) {
	f.resolve(ctx, now)
	if d := f.member.NextDeadline(); !d.IsZero() && !d.After(now) {
		f.enrol(ctx, now, bootstrap.Tick{})
	}
	f.watchUDP(now)
	f.tendDials(ctx, now)
	f.sendBeacons(now)
	f.members = slices.DeleteFunc(f.members, func(m met) bool { return now.Sub(m.seen) >= memberLife })
	if !f.save.IsZero() && !now.Before(f.save) {
		f.store()
	}
	f.tellContacts(ctx, now)
}

// next is when tick is due.
func (f *Finder) next(now time.Time) time.Time {
	next := now.Add(memberLife)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	for _, n := range f.names {
		if !n.asking {
			sooner(n.next)
		}
	}
	sooner(f.member.NextDeadline())
	if !f.told {
		sooner(f.hold(now))
	}
	sooner(f.save)
	if f.lan != nil {
		sooner(f.beacons.next)
	}
	if f.cfg.Streams != nil {
		if !f.silent.IsZero() || len(f.dials) > 0 {
			sooner(now.Add(lookEvery))
		} else if len(f.direct) == 0 { // else Path says when that ends
			sooner(f.heardUDP.Add(udpLife))
		}
	}
	return next
}

func (f *Finder) emit(ctx context.Context, a Action) {
	select {
	case f.actions <- a:
	case <-ctx.Done():
	}
}

// enrol gives the bootstraps' machine an event.
func (f *Finder) enrol(ctx context.Context, now time.Time, e bootstrap.Event) {
	for _, a := range slices.Clone(f.member.Handle(now, e)) {
		switch a := a.(type) {
		case bootstrap.Send:
			f.emit(ctx, Send(a))
		case bootstrap.Lost:
			delete(f.kinds, a.At)
			f.setPlaces(ctx, slices.DeleteFunc(slices.Clone(f.places), placeAt(f.cfg.Table.Number(a.At))))
		case bootstrap.Enrolled:
			f.enrolled(ctx, now, a)
		}
	}
}

func (f *Finder) enrolled(ctx context.Context, now time.Time, a bootstrap.Enrolled) {
	f.kinds[a.At] = isBootstrap
	if bootstrap.Kind(a.At) == session.ByBootstrap {
		f.heardUDP, f.silent = now, time.Time{}
	}
	if a.Seen.IsValid() {
		f.emit(ctx, Observed{By: a.At, Endpoint: a.Seen})
	}
	number := f.cfg.Table.Number(a.At)
	if number == 0 {
		return
	}
	if a.Tag == f.cfg.Tags[0] { // the tag that all members have
		p := link.Place{Place: a.Place, Kind: bootstrap.Kind(a.At), Number: number}
		rest := slices.DeleteFunc(slices.Clone(f.places), placeAt(number))
		// What is by UDP comes first: only four are told to peers.
		if p.Kind == session.ByBootstrap {
			rest = slices.Insert(rest, 0, p)
		} else {
			rest = append(rest, p)
		}
		if !slices.Contains(f.places, p) {
			f.setPlaces(ctx, rest)
		}
	}
	for _, c := range a.Contacts {
		end := f.cfg.Table.Endpoint(a.At, c.Handle)
		f.members = slices.DeleteFunc(f.members, func(m met) bool { return m.end == end })
		f.members = slices.Insert(f.members, 0, met{c.ID, end, a.At, now})
	}
	f.members = f.members[:min(len(f.members), 2*perSource)]
}

// placeAt tells places at one bootstrap.
func placeAt(number uint16) func(link.Place) bool {
	return func(p link.Place) bool { return p.Number == number }
}

func (f *Finder) setPlaces(ctx context.Context, places []link.Place) {
	if !slices.Equal(places, f.places) {
		f.places = places
		f.emit(ctx, Places{List: slices.Clone(places)})
	}
}

// tellContacts gives the loop the list, if it has changed.
func (f *Finder) tellContacts(ctx context.Context, now time.Time) {
	var all []Found
	var count map[Source]int
	add := func(c Found) {
		if c.ID == f.cfg.ID || len(all) >= maxContacts || count[c.Source] >= perSource {
			return
		}
		for i := range all { // one contact a node
			if c.ID != (nodeid.ID{}) && all[i].ID == c.ID {
				if len(all[i].Endpoints) < wire.MaxEndpoints {
					all[i].Endpoints = append(slices.Clone(all[i].Endpoints), c.Endpoints[:min(1, len(c.Endpoints))]...)
				}
				return
			}
		}
		count[c.Source]++
		all = append(all, c)
	}
	count = map[Source]int{}
	for _, b := range f.beacons.heard {
		add(Found{wire.Contact{ID: b.id, Endpoints: b.endpoints}, FromLAN, b.where})
	}
	for _, n := range f.names {
		for _, e := range n.endpoints {
			if f.kinds[e] != isBootstrap && !f.own(e) {
				add(Found{wire.Contact{Endpoints: []netip.AddrPort{e}}, n.Source, n.Text})
			}
		}
	}
	for _, d := range f.dials {
		if d.end.IsValid() && f.kinds[d.end] != isBootstrap {
			add(Found{wire.Contact{Endpoints: []netip.AddrPort{d.end}}, FromTCP, d.to.String()})
		}
	}
	for _, m := range f.members {
		add(Found{wire.Contact{ID: m.id, Endpoints: []netip.AddrPort{m.end}}, FromBootstrap, m.at.String()})
	}
	for _, r := range f.memory.peers {
		add(Found{r.contact, FromMemory, f.cfg.Memory})
	}
	if f.told && reflect.DeepEqual(all, f.last) || !f.told && now.Before(f.hold(now)) {
		return
	}
	f.told, f.last = true, all
	f.emit(ctx, Contacts{slices.Clone(all)})
}

// hold is until when the first list waits: for the names, because a node that
// may begin a ring and hears of nobody does so at once.
func (f *Finder) hold(now time.Time) time.Time {
	if slices.ContainsFunc(f.names, func(n *name) bool { return n.host != "" && !n.answered }) {
		return f.began.Add(holdNames)
	}
	if f.lan != nil {
		return f.began.Add(holdLAN)
	}
	return now
}

// own reports whether an endpoint is this node's.
func (f *Finder) own(e netip.AddrPort) bool {
	return e.Port() == f.cfg.Listen.Port() && slices.ContainsFunc(f.network.Addresses, func(p netip.Prefix) bool { return p.Addr() == e.Addr() })
}

func (f *Finder) load() {
	if f.cfg.Memory == "" {
		return
	}
	b, err := os.ReadFile(f.cfg.Memory)
	if err == nil {
		f.memory, err = decodeMemory(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.cfg.Log.Warn("peers of before are not known", "err", err)
	}
}

func (f *Finder) store() {
	if f.cfg.Memory == "" || f.save.IsZero() {
		return
	}
	f.save = time.Time{}
	if err := atomicfile.Write(f.cfg.Memory, f.memory.encode(), 0o600); err != nil {
		f.cfg.Log.Warn("peers are not remembered", "err", err)
	}
}
