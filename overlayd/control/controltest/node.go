// Package controltest is a node for tests of what asks over the control
// socket: a control.Backend with a small world in memory.
//
//	10.250.0.2  this node, a master
//	10.250.0.7  worker; relayed, both translators address-dependent
//	10.250.3.7  client of alice, chosen name "pc"; direct
//	10.250.9.9  known by name, and silent
//
// Concurrency: a Node is safe for concurrent use.
package controltest

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"gridappliance/overlayd/control"
	"gridappliance/overlayd/nodeid"
)

// Morning is when everything began.
var Morning = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// Who is who.
var (
	Self   = whois("10.250.0.2", 1, "master-1", "infra", "master")
	Worker = whois("10.250.0.7", 2, "bob", "physics", "worker")
	Client = whois("10.250.3.7", 3, "alice", "physics", "client")
	Silent = whois("10.250.9.9", 4, "carol", "biology", "worker")
)

func whois(addr string, id byte, user, group, role string) control.Whois {
	a := netip.MustParseAddr(addr)
	return control.Whois{Address: a, Name: control.HostName(a), NodeID: nodeid.ID{id}.String(), User: user, Group: group, Role: role}
}

// Status returns what the node shows of itself, without Live.
func Status() control.Status {
	return control.Status{
		State: control.StateRunning, Version: "0.1.0", Grid: "archer", Namespace: "archer",
		NodeID: Self.NodeID, Role: Self.Role, User: Self.User, Group: Self.Group,
		Device: "tapipop", Address: netip.PrefixFrom(Self.Address, 16), Name: Self.Name,
		Address6: netip.MustParsePrefix("fd12:3456:789a::1/64"), HostNames: []string{"hub.ipop"},
		Since: Morning, Masters: []control.Master{{Name: Self.Name, Address: Self.Address}}, Descr: 1, Revoked: 2,
		Cert:  control.Certificate{Serial: "2a", NotBefore: Morning, NotAfter: Morning.Add(24 * time.Hour)},
		Lease: control.Lease{State: "holding", Until: Morning.Add(7 * 24 * time.Hour)},
		DNS: control.DNS{State: "systemd-resolved asks 10.250.0.2 about .ipop", Server: Self.Address,
			Search: []string{"ipop"}, Route: []string{"250.10.in-addr.arpa"}},
	}
}

// Node is the world. The zero Node is ready.
type Node struct {
	mu        sync.Mutex
	records   map[control.RecordName][]byte
	published []byte
}

// Published returns what was published last.
func (n *Node) Published() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Clone(n.published)
}

// Live implements control.Backend.
func (n *Node) Live() control.Live {
	return control.Live{
		Ring: control.Ring{Member: true, Size: 120},
		Underlay: control.Underlay{Listen: netip.MustParseAddrPort("[::]:4242"),
			Reflexive: netip.MustParseAddrPort("198.51.100.4:41022"), Mapping: control.MappingDependent},
		Peers:    map[string]int{"direct": 2, "relay": 1},
		Counters: map[string]uint64{"drop/no-session": 3, "rx/datagrams": 4, "drop/source": 0},
	}
}

func (n *Node) find(who control.Target) (control.Whois, error) {
	for _, w := range []control.Whois{Self, Worker, Client, Silent} {
		id, _ := nodeid.Parse(w.NodeID)
		if who.Address == w.Address || who.Name != "" && who.Name+control.Domain == strings.ToLower(w.Name) ||
			!who.Address.IsValid() && who.Name == "" && who.NodeID == id {
			return w, nil
		}
	}
	if who.Name == "pc" {
		return Client, nil
	}
	return control.Whois{}, control.ErrUnknown
}

// Whois implements control.Backend.
func (n *Node) Whois(_ context.Context, who control.Target) (control.Whois, error) {
	return n.find(who)
}

var (
	linkSession = control.Session{Purpose: control.PurposeLink, Path: control.PathDirect, Endpoint: netip.MustParseAddrPort("192.0.2.9:4242"),
		RTT: control.Millis(12300 * time.Microsecond), Since: Morning, Sent: 2048, Received: 4096}
	relayed = control.Session{Purpose: "archer", Path: control.PathRelay, Checking: true, Relay: Client.NodeID, By: Client.Name,
		RTT: control.Millis(48 * time.Millisecond), Since: Morning.Add(time.Minute), Sent: 3 << 20, Received: 1 << 10}
	direct = control.Session{Purpose: "archer", Path: control.PathDirect, Endpoint: netip.MustParseAddrPort("192.0.2.9:4242"),
		RTT: control.Millis(12100 * time.Microsecond), Since: Morning.Add(time.Minute), Sent: 5 << 30, Received: 700}
)

// Peers implements control.Backend.
func (n *Node) Peers(context.Context) ([]control.Peer, error) {
	peer := func(w control.Whois, ring []string, sessions ...control.Session) control.Peer {
		return control.Peer{NodeID: w.NodeID, Address: w.Address, Name: w.Name, User: w.User, Group: w.Group, Role: w.Role, Ring: ring, Sessions: sessions}
	}
	return []control.Peer{
		peer(Worker, nil, relayed),
		peer(Client, []string{"near", "shortcut"}, linkSession, direct),
		{NodeID: nodeid.ID{5}.String(), Ring: []string{"near"}, Sessions: []control.Session{{Purpose: control.PurposeLink, Path: control.PathRing}}},
	}, nil
}

// Why implements control.Backend.
func (n *Node) Why(_ context.Context, who control.Target) (control.Why, error) {
	w, err := n.find(who)
	if err != nil {
		return control.Why{}, err
	}
	why := control.Why{NodeID: w.NodeID, Address: w.Address, Name: w.Name, Sessions: []control.Explanation{}}
	own := n.Live().Underlay
	switch w {
	case Worker:
		why.Sessions = append(why.Sessions, control.Explanation{
			Session: relayed, Own: own.Reflexive, OwnMapping: own.Mapping, PeerMapping: control.MappingDependent, Rounds: 5,
			Pairs: []control.Pair{
				{Endpoint: netip.MustParseAddrPort("192.168.1.7:4242"), Kind: "host", Outcome: "not tried", Reason: "private, and not on a network of this machine"},
				{Endpoint: netip.MustParseAddrPort("203.0.113.80:51820"), Kind: "reflexive", Outcome: "no answer", Checks: 20},
				{Endpoint: netip.MustParseAddrPort("[2001:db8::7]:4242"), Kind: "host", Outcome: "waiting", Checks: 3},
			},
			Improvements: []string{"both translators give every destination another port: map a UDP port on one of them (PCP, UPnP, or by hand with advertise), or use IPv6 at both ends"},
		})
	case Client:
		why.Sessions = append(why.Sessions, control.Explanation{
			Session: direct, Own: own.Reflexive, OwnMapping: own.Mapping, PeerMapping: control.MappingIndependent, Rounds: 2,
			Pairs:        []control.Pair{{Endpoint: direct.Endpoint, Kind: "reflexive", Outcome: "answered", Checks: 2, RTT: direct.RTT}},
			Improvements: []string{},
		})
	}
	return why, nil
}

// Ping implements control.Backend.
func (n *Node) Ping(_ context.Context, who control.Target) (control.Pong, error) {
	w, err := n.find(who)
	if err != nil {
		return control.Pong{}, err
	}
	p := control.Pong{NodeID: w.NodeID, Address: w.Address, Name: w.Name}
	switch w {
	case Worker:
		p.Path, p.Relay, p.By, p.RTT = relayed.Path, relayed.Relay, relayed.By, relayed.RTT
	case Silent:
		return control.Pong{}, control.ErrNoAnswer
	default:
		p.Path, p.Endpoint, p.RTT = direct.Path, direct.Endpoint, direct.RTT
	}
	return p, nil
}

// Lookup implements control.Backend.
func (n *Node) Lookup(_ context.Context, key control.Key) (control.Found, error) {
	id := key.ID
	if key.Record != (control.RecordName{}) {
		id = nodeid.ID{0xab}
	}
	return control.Found{Key: id, NodeID: Client.NodeID, Hops: 3, Took: control.Millis(31 * time.Millisecond)}, nil
}

// Crawl implements control.Backend.
func (n *Node) Crawl(_ context.Context, visit func(control.Crawled) error) error {
	ring := []string{Self.NodeID, Worker.NodeID, Client.NodeID}
	for i, id := range ring {
		c := control.Crawled{NodeID: id, Hops: i, Took: control.Millis(time.Duration(i) * 10 * time.Millisecond),
			Successor: ring[(i+1)%3], Predecessor: ring[(i+2)%3], Consistent: i != 2}
		if err := visit(c); err != nil {
			return err
		}
	}
	return nil
}

var collector = control.RecordName{Kind: "service", Name: "collector"}

// Get implements control.Backend.
func (n *Node) Get(_ context.Context, name control.RecordName) (records []control.Record, err error) {
	if name == collector {
		records = append(records, control.Record{Name: name, Owner: Self.NodeID, User: Self.User, Role: Self.Role,
			Signed: Morning, Lifetime: 600, Value: []byte("tcp 9618")})
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if v, ok := n.records[name]; ok {
		records = append(records, control.Record{Name: name, Owner: Self.NodeID, User: Self.User, Role: Self.Role,
			Signed: Morning, Lifetime: 600, Value: bytes.Clone(v)})
	}
	return records, nil
}

// Put implements control.Backend.
func (n *Node) Put(_ context.Context, name control.RecordName, value []byte, _ time.Duration) (control.Stored, error) {
	if name.Kind != "service" {
		return control.Stored{}, fmt.Errorf("%w: %s records are the node's own to make", control.ErrRefused, name.Kind)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.records == nil {
		n.records = map[control.RecordName][]byte{}
	}
	n.records[name] = bytes.Clone(value)
	return control.Stored{Copies: 5}, nil
}

// Withdraw implements control.Backend.
func (n *Node) Withdraw(_ context.Context, name control.RecordName) (control.Stored, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.records[name]; !ok {
		return control.Stored{}, fmt.Errorf("%w: nothing was put there", control.ErrUnknown)
	}
	delete(n.records, name)
	return control.Stored{Copies: 5}, nil
}

// Publish implements control.Backend.
func (n *Node) Publish(_ context.Context, text []byte) error {
	if !bytes.HasPrefix(text, []byte("-----BEGIN")) {
		return fmt.Errorf("%w: neither a descriptor nor a revocation list", control.ErrRefused)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.published = bytes.Clone(text)
	return nil
}
