package discover

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gridappliance/overlayd/bootstrap"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/stream"
	"gridappliance/overlayd/underlay"
	"gridappliance/overlayd/wire"
)

var (
	boot = netip.MustParseAddrPort("203.0.113.1:4242")
	node = netip.MustParseAddrPort("203.0.113.2:4242")
	own  = netip.MustParseAddrPort("198.51.100.7:61000") // as seen from outside
	tag  = bootstrap.TagOf([32]byte{1})
)

// names answers look-ups by what the test has put in.
type names struct {
	mu   sync.Mutex
	here map[string]netip.Addr
}

func (n *names) put(host string, a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.here == nil {
		n.here = map[string]netip.Addr{}
	}
	n.here[host] = a
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a := n.here[host]; a.IsValid() {
		return []netip.Addr{a}, nil
	}
	return nil, errors.New("no such host")
}

// loop is the event loop of a node without a node: it sends to bootstraps that
// are in memory and keeps what it was told.
type loop struct {
	f        *Finder
	servers  map[netip.AddrPort]*bootstrap.Server
	contacts []Found
	observed []Observed
	places   []link.Place
	sent     map[netip.AddrPort]int
	cancel   func()
	ended    chan struct{}
}

func start(cfg Config) *loop {
	cfg.Log, cfg.Table, cfg.Listen = slog.New(slog.DiscardHandler), &bootstrap.Table{}, netip.MustParseAddrPort("[::]:4242")
	cfg.ID, cfg.Tags = nodeid.ID{1}, []bootstrap.Tag{tag}
	ctx, cancel := context.WithCancel(context.Background())
	l := &loop{f: New(cfg), servers: map[netip.AddrPort]*bootstrap.Server{}, sent: map[netip.AddrPort]int{}, cancel: cancel, ended: make(chan struct{})}
	go func() { defer close(l.ended); l.f.Run(ctx) }()
	return l
}

func (l *loop) stop() { l.cancel(); <-l.ended }

// run does what the Finder wants for a while.
func (l *loop) run(d time.Duration) {
	end := time.After(d)
	for {
		select {
		case <-end:
			return
		case a := <-l.f.Actions():
			switch a := a.(type) {
			case Contacts:
				l.contacts = a.List
			case Observed:
				l.observed = append(l.observed, a)
			case Places:
				l.places = a.List
			case Send:
				l.sent[a.To]++
				if s := l.servers[a.To]; s != nil {
					if to, out := s.Handle(time.Now(), own, a.Data); out != nil && to == own {
						l.f.Tell(Datagram{From: a.To, Data: slices.Clone(out)})
					}
				}
			}
		}
	}
}

func server() *bootstrap.Server {
	return bootstrap.NewServer(bootstrap.ServerConfig{Random: rand.NewChaCha8([32]byte{1}), Rand: rand.New(rand.NewPCG(1, 1))}, time.Now())
}

func (l *loop) endpoints(s Source) (out []netip.AddrPort) {
	for _, c := range l.contacts {
		if c.Source == s {
			out = append(out, c.Endpoints...)
		}
	}
	return out
}

// TestANameIsABootstrapOrANode: what answers decides, and a bootstrap that
// falls silent may be a node by now.
func TestANameIsABootstrapOrANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &names{}
		dns.put("boot.example.org", boot.Addr())
		dns.put("node.example.org", netip.MustParseAddr("::ffff:203.0.113.2"))
		l := start(Config{Resolver: dns, Names: []Name{{"boot.example.org:4242", FromDescriptor}, {"node.example.org:4242", FromFloppy}, {"nowhere.example.org:1", FromFloppy}, {"203.0.113.9:5", FromDescriptor}}})
		defer l.stop()
		s := server()
		l.servers[boot] = s
		l.run(time.Second)
		if got := l.endpoints(FromDescriptor); !slices.Equal(got, []netip.AddrPort{netip.MustParseAddrPort("203.0.113.9:5")}) {
			t.Errorf("contacts of the descriptor: %v", got)
		}
		if got := l.endpoints(FromFloppy); !slices.Equal(got, []netip.AddrPort{node}) {
			t.Errorf("contacts of the floppy: %v", got)
		}
		if len(l.observed) == 0 || l.observed[0] != (Observed{By: boot, Endpoint: own}) || len(l.places) != 1 || l.places[0].Number != 1 {
			t.Errorf("%v %v", l.observed, l.places)
		}
		if n, _ := s.Len(); n != 1 || l.sent[node] == 0 {
			t.Errorf("%d members; %v", n, l.sent)
		}
		delete(l.servers, boot)
		l.run(2 * time.Minute)
		if got := l.endpoints(FromDescriptor); !slices.Contains(got, boot) || len(l.places) != 0 {
			t.Errorf("after silence: %v, places %v", got, l.places)
		}
		// The name moves, and its bootstrap with it.
		moved := netip.MustParseAddrPort("203.0.113.77:4242")
		dns.put("boot.example.org", moved.Addr())
		l.servers[moved] = server()
		l.run(2 * time.Minute)
		if len(l.places) != 1 || slices.Contains(l.endpoints(FromDescriptor), boot) {
			t.Errorf("after moving: %v, places %v", l.contacts, l.places)
		}
		asked := l.sent[boot]
		l.run(10 * time.Minute)
		if l.sent[boot] != asked {
			t.Error("where the name was is asked on")
		}
	})
}

// TestMembersOfABootstrapAreContacts, by their virtual endpoints, for a while.
func TestMembersOfABootstrapAreContacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(Config{Resolver: &names{}, Names: []Name{{boot.String(), FromDescriptor}}})
		defer l.stop()
		s := server()
		l.servers[boot] = s
		other := bootstrap.NewMember(bootstrap.MemberConfig{ID: nodeid.ID{2}, Tags: []bootstrap.Tag{tag}, Random: rand.NewChaCha8([32]byte{2}), Rand: rand.New(rand.NewPCG(2, 2))})
		var handle uint32
		step := func(e bootstrap.Event) {
			queue := []bootstrap.Event{e}
			for len(queue) > 0 {
				actions := slices.Clone(other.Handle(time.Now(), queue[0]))
				queue = queue[1:]
				for _, a := range actions {
					switch a := a.(type) {
					case bootstrap.Send:
						_, out := s.Handle(time.Now(), node, a.Data)
						queue = append(queue, bootstrap.Datagram{From: boot, Data: slices.Clone(out)})
					case bootstrap.Enrolled:
						handle = a.Place.Handle
					}
				}
			}
		}
		step(bootstrap.Add{At: boot})
		l.run(5 * time.Second)
		want := l.f.cfg.Table.Endpoint(boot, bootstrap.Handle(handle))
		if got := l.endpoints(FromBootstrap); handle == 0 || !slices.Equal(got, []netip.AddrPort{want}) || l.contacts[0].ID != (nodeid.ID{2}) {
			t.Fatalf("%v, want %v", l.contacts, want)
		}
		// With a connection it asks for contacts all the same, to notice other rings.
		l.f.Tell(Path{nodeid.ID{2}, link.Direct})
		for range 8 {
			step(bootstrap.Tick{})
			l.run(24 * time.Second)
		}
		if len(l.endpoints(FromBootstrap)) != 1 {
			t.Error(l.contacts)
		}
		l.run(5 * time.Minute) // the other one has gone
		if got := l.endpoints(FromBootstrap); len(got) != 0 {
			t.Errorf("still a contact: %v", got)
		}
	})
}

// TestPeersAreRemembered: in the file when the Finder ends, contacts when it
// begins anew; a file that is none is said and replaced.
func TestPeersAreRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	synctest.Test(t, func(t *testing.T) {
		if err := os.WriteFile(path, []byte(`{"version": 1, "peers": "many"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		l := start(Config{Resolver: &names{}, Memory: path})
		for i := range 40 {
			l.f.Tell(Peer{wire.Contact{ID: nodeid.ID{2, byte(i)}, Holder: wire.Holder{9}, Endpoints: []netip.AddrPort{node}}})
		}
		l.f.Tell(Peer{wire.Contact{ID: nodeid.ID{1}, Endpoints: []netip.AddrPort{node}}}) // itself
		l.f.Tell(Peer{wire.Contact{ID: nodeid.ID{3}}})                                    // not direct
		l.run(time.Minute)
		if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), nodeid.ID{2, 39}.String()) {
			t.Error("not in the file after a minute", err)
		}
		l.f.Tell(Peer{wire.Contact{ID: nodeid.ID{4}, Endpoints: []netip.AddrPort{boot}}})
		l.run(time.Second)
		l.stop()

		l = start(Config{Resolver: &names{}, Memory: path})
		defer l.stop()
		l.run(time.Second)
		if len(l.contacts) != maxRemembered || l.contacts[0].ID != (nodeid.ID{4}) || l.contacts[1].ID != (nodeid.ID{2, 39}) || l.contacts[1].Holder != (wire.Holder{9}) ||
			!slices.Equal(l.endpoints(FromMemory)[:2], []netip.AddrPort{boot, node}) {
			t.Errorf("%d contacts: %v", len(l.contacts), l.contacts)
		}
	})
}

// TestTheOwnEndpointIsNoContact: a master's name is in its own descriptor.
func TestTheOwnEndpointIsNoContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(Config{Resolver: &names{}, Names: []Name{{boot.String(), FromDescriptor}, {node.String(), FromDescriptor}}})
		defer l.stop()
		l.f.Tell(Network{underlay.State{Addresses: []netip.Prefix{netip.PrefixFrom(node.Addr(), 24)}}})
		l.run(time.Second)
		if got := l.endpoints(FromDescriptor); !slices.Equal(got, []netip.AddrPort{boot}) {
			t.Error(got)
		}
	})
}

func FuzzDecodeMemory(f *testing.F) {
	var m memory
	m.add(wire.Contact{ID: nodeid.ID{2}, Holder: wire.Holder{3}, Endpoints: []netip.AddrPort{node}}, time.Unix(1e9, 0))
	f.Add(m.encode())
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMemory(b)
		if err != nil {
			return
		}
		back, err := decodeMemory(m.encode())
		if err != nil || len(back.peers) != len(m.peers) || len(m.peers) > maxRemembered {
			t.Errorf("%v: %+v", err, back)
		}
	})
}

func FuzzParseBeacon(f *testing.F) {
	f.Add(Beacon{Asks: true, Tag: tag, ID: nodeid.ID{1}, Endpoints: []netip.AddrPort{boot, netip.MustParseAddrPort("[2001:db8::1]:4242")}}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseBeacon(b)
		if err == nil && string(x.Append(nil)) != string(b) {
			t.Errorf("%x becomes %x", b, x.Append(nil))
		}
	})
}

// TestRestsWithADirectPeer: a node that has direct paths and never heard a
// bootstrap by UDP has nothing to look at, and does not look all the time.
func TestRestsWithADirectPeer(t *testing.T) {
	f := New(Config{ID: nodeid.ID{1}, Streams: new(stream.Streams), Log: slog.New(slog.DiscardHandler), Table: &bootstrap.Table{}})
	now := time.Now()
	f.path(t.Context(), now, Path{ID: nodeid.ID{2}, State: link.Direct})
	f.tick(t.Context(), now)
	if next := f.next(now); !next.After(now) {
		t.Errorf("due again after %v", next.Sub(now))
	}
}

// TestFloodDisplacesNothing: strangers send more than the Finder can take, and
// what the loop tells it meanwhile is not lost.
func TestFloodDisplacesNothing(t *testing.T) {
	f := New(Config{})
	for range 2 * cap(f.events) {
		f.Tell(Datagram{})
	}
	for range cap(f.events) / 2 {
		f.Tell(Path{})
	}
	paths := 0
	for len(f.events) > 0 {
		if _, ok := (<-f.events).(Path); ok {
			paths++
		}
	}
	if paths != cap(f.events)/2 {
		t.Errorf("%d of %d events came through a flood", paths, cap(f.events)/2)
	}
}
