package datapath

import (
	"crypto/rand"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/flynn/noise"

	"gridappliance/overlayd/device"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/sim/standin"
	"gridappliance/overlayd/transport"
)

var (
	pool   = netip.MustParsePrefix("10.250.0.0/16")
	addrA  = netip.MustParseAddr("10.250.0.2")
	addrB  = netip.MustParseAddr("10.250.0.3")
	addrC  = netip.MustParseAddr("10.250.0.4")
	addrA6 = netip.MustParseAddr("fd00::2")
	addrB6 = netip.MustParseAddr("fd00::3")
)

// handshake makes the keys of two nodes: real ones, of made-up certificates.
func handshake(t testing.TB, a, b nodeid.ID, purpose string, aes bool) (ofA, ofB *session.Keys) {
	t.Helper()
	now := time.Now()
	suite := noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)
	machine := func(id nodeid.ID) *session.Machine {
		static, err := suite.GenerateKeypair(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		claim := standin.Claim{Namespace: "one", NotAfter: now.Add(24 * time.Hour), X25519: [32]byte(static.Public)}
		copy(claim.ID[:], id[:])
		m, err := session.New(session.Config{
			ID: id, Static: static, Chain: standin.Chain(claim), Roots: [][32]byte{{1}}, Purposes: []string{session.LinkPurpose, "one"},
			AES: aes, Random: rand.Reader, Crypto: session.Real(standin.Verify),
		}, now)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	ma, mb := machine(a), machine(b)
	atA, atB := session.Direct(netip.MustParseAddrPort("192.0.2.1:1")), session.Direct(netip.MustParseAddrPort("192.0.2.2:1"))
	var pump func(from, to *session.Machine, at session.Via, actions []session.Action)
	pump = func(from, to *session.Machine, at session.Via, actions []session.Action) {
		var sends [][]byte
		for _, x := range actions {
			if s, ok := x.(session.Send); ok {
				sends = append(sends, s.Data)
			}
		}
		back := atA
		if at == atA {
			back = atB
		}
		for _, data := range sends {
			pump(to, from, back, to.Handle(now, session.Datagram{From: at, Data: data}))
		}
	}
	pump(ma, mb, atA, ma.Handle(now, session.Open{Peer: b, Purpose: purpose, Via: atB}))
	sa, sb := ma.Session(b, purpose), mb.Session(a, purpose)
	if sa == nil || sb == nil {
		t.Fatal("no session")
	}
	return sa.Keys(), sb.Keys()
}

// counts is what Count was told.
type counts struct {
	mu sync.Mutex
	n  map[Counter]int
}

func (c *counts) add(k Counter, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[Counter]int{}
	}
	c.n[k] += n
}

func (c *counts) get(k Counter) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[k]
}

func (c *counts) all() map[Counter]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// uptime is a Config.Clock.
func uptime() time.Duration { return time.Duration(time.Now().UnixNano()) }

const forever = time.Duration(1<<63 - 1)

// end is one of two nodes.
type end struct {
	*Path
	id     nodeid.ID
	at     netip.AddrPort // of socket 0
	own    []netip.Addr
	mac    [6]byte
	counts counts
}

// newEnd opens a data path.
func newEnd(t testing.TB, u transport.Underlay, id nodeid.ID, at netip.AddrPort, own ...netip.Addr) *end {
	t.Helper()
	e := &end{id: id, at: at, own: own, mac: [6]byte{2, 0, 0, 0, 0, id[0]}}
	var err error
	if e.Path, err = Open(Config{Underlay: u, Listen: at, Clock: uptime, Count: e.counts.add}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// attach gives e its device.
func (e *end) attach(t testing.TB, h device.Host, name string) {
	t.Helper()
	dev, err := h.Open(device.Config{Name: name, HardwareAddr: e.mac[:], MTU: device.DefaultMTU, Address: netip.PrefixFrom(e.own[0], pool.Bits())})
	if err != nil {
		t.Fatal(err)
	}
	e.Attach(dev, e.mac)
}

// tableOf is what e must know to talk with other over a direct path.
func (e *end) tableOf(other *end, keys *session.Keys) *Table {
	activity := new(Activity)
	t := &Table{
		Until: forever, Own: e.own, Pool: pool, To: map[netip.Addr]*Peer{},
		Keys: map[uint32]*Opening{keys.Index(): {ID: other.id, Keys: keys, From: []*Way{{Via: session.Direct(other.at)}}, Sources: other.own, Activity: activity}},
	}
	for _, a := range other.own {
		t.To[a] = &Peer{ID: other.id, Keys: keys, Via: session.Direct(other.at), MTU: device.DefaultMTU, Activity: activity}
	}
	return t
}

// join makes two ends know each other.
func join(t testing.TB, a, b *end) {
	t.Helper()
	ka, kb := handshake(t, a.id, b.id, "one", true)
	a.Publish(a.tableOf(b, ka))
	b.Publish(b.tableOf(a, kb))
}
