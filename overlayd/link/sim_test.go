package link

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/flynn/noise"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/relay"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/sim/standin"
	"gridappliance/overlayd/wire"
)

// world is a few nodes with real certificates on a simulated internet. The
// ring is what carries RouteSession from any of them to any other, by name.
type world struct {
	t        testing.TB
	net      *sim.Net
	grid     *credential.Grid
	verifier *credential.Verifier
	nodes    []*node
	byID     map[nodeid.ID]*node
	ringLag  time.Duration
	noRing   bool
	noRelay  bool
	cheap    bool // nodes have stand-ins for certificates and cryptography
	nats     map[*node]*sim.NAT
	detours  map[netip.AddrPort]detour                             // what virtual endpoints stand for
	wire     func(from *node, to netip.AddrPort, data []byte) bool // false: lost
}

// node is a host with a link machine and a relay.
type node struct {
	w      *world
	name   string
	host   *sim.Host
	id     nodeid.ID
	m      *Machine
	relay  *relay.Machine
	log    []string
	got    []string
	pongs  []Pong
	pingUp uint64  // the token of a ping that is sent at once when a session is up
	path   []State // as told of namespace sessions
	links  []State // and of links
	ups    map[nodeid.ID]time.Time
	sent   map[netip.Addr]int // datagrams by address
	woken  time.Time
	wakes  int
}

const port = 4242

func newWorld(t testing.TB, seed uint64) *world {
	t.Helper()
	w := &world{t: t, byID: map[nodeid.ID]*node{}, ringLag: 100 * time.Millisecond, nats: map[*node]*sim.NAT{}}
	w.net = sim.NewNet(sim.New(seed), sim.Config{})
	var err error
	w.grid, err = credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 1, Namespaces: []credential.Namespace{
		{Name: "one", Pool: netip.MustParsePrefix("10.250.0.0/16")}}}, sim.Start)
	if err != nil {
		t.Fatal(err)
	}
	w.trust()
	return w
}

// trust makes the verifier of everything published by now.
func (w *world) trust() {
	var lists []*credential.RevocationList
	if w.grid.Revocations != nil {
		lists = append(lists, w.grid.Revocations)
	}
	var err error
	if w.verifier, err = credential.NewVerifier(w.grid.Descriptor, lists...); err != nil {
		w.t.Fatal(err)
	}
}

// add puts a node into a realm; the holder is its own.
func (w *world) add(name string, realm *sim.Realm, place sim.Place) *node {
	w.t.Helper()
	seed := sha256.Sum256([]byte(name))
	random := rand.NewChaCha8(seed)
	static, err := noise.DH25519.GenerateKeypair(random)
	if err != nil {
		w.t.Fatal(err)
	}
	id, chain, crypto := w.real(name, static)
	descriptor := w.grid.Descriptor.Hash()
	if w.cheap {
		descriptor = [32]byte{}
		id, crypto = nodeid.ID(seed[:16]), standin.Crypto()
		chain = standin.Chain(standin.Claim{ID: credential.NodeID(id), X25519: [32]byte(static.Public), Holder: seed, Namespace: "one", NotAfter: sim.Start.Add(time.Hour)})
	}
	n := &node{w: w, name: name, host: w.net.AddHost(realm, place), id: id, relay: relay.New(relay.Config{ID: id, Namespace: "one"}),
		ups: map[nodeid.ID]time.Time{}, sent: map[netip.Addr]int{}}
	n.m, err = New(Config{Rand: w.net.Split(), Spray: true, Session: session.Config{ID: n.id, Static: static, Chain: chain,
		Roots: [][32]byte{{1}}, Descriptor: descriptor, Purposes: []string{session.LinkPurpose, "one"}, AES: true,
		Random: random, Crypto: crypto}}, n.host.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	w.nodes = append(w.nodes, n)
	w.byID[n.id] = n
	n.host.Start(n)
	n.addresses()
	return n
}

// real makes a certificate of a new holder.
func (w *world) real(name string, static noise.DHKey) (nodeid.ID, credential.Chain, session.Crypto) {
	cert, holderKey, err := w.grid.IssueHolder(credential.HolderRequest{User: "u" + name, Group: "physics",
		Roles: []credential.Role{credential.RoleWorker}, Namespaces: []string{"one"}}, sim.Start)
	if err != nil {
		w.t.Fatal(err)
	}
	holder, err := credential.Open(w.grid.Descriptor.Text(), cert, holderKey, sim.Start)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := credential.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	made, err := holder.MakeNode(credential.NodeRequest{Key: &key.PublicKey, X25519: [32]byte(static.Public), Instance: "vm"}, sim.Start)
	if err != nil {
		w.t.Fatal(err)
	}
	verify := func(c credential.Chain, now time.Time) (*credential.Node, error) {
		return w.verifier.VerifyNode(c, now)
	}
	return nodeid.ID(made.Node.ID), made.Chain, session.Real(verify)
}

func (n *node) addresses() {
	addr := n.host.Addr()
	prefix, _ := addr.Prefix(24)
	n.do(Addresses{Host: []netip.AddrPort{netip.AddrPortFrom(addr, port)}, Attached: []netip.Prefix{prefix},
		Pools: []netip.Prefix{netip.MustParsePrefix("10.250.0.0/16")}})
}

func (n *node) Receive(now time.Time, to, from netip.AddrPort, data []byte) {
	n.do(Datagram{From: from, Socket: to.Port() - port, Data: data})
}

func (n *node) Wake(now time.Time) {
	if n.woken.Equal(now) {
		if n.wakes++; n.wakes > 200 {
			n.w.t.Fatalf("%s is woken for ever at %v", n.name, now)
		}
	} else {
		n.woken, n.wakes = now, 0
	}
	n.do(Tick{})
}

// do gives the machine an event and does what it says.
func (n *node) do(e Event) {
	now := n.host.Now()
	n.act(now, slices.Clone(n.m.Handle(now, e)))
	n.host.WakeAt(n.m.NextDeadline())
}

func (n *node) act(now time.Time, actions []Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case SendDatagram:
			if len(a.Data) > 1252 {
				n.w.t.Fatalf("a datagram of %d bytes", len(a.Data))
			}
			n.sent[a.To.Addr()]++
			if session.VirtualKind(a.To.Addr()) != session.NotVirtual {
				n.w.virtually(n, a)
				continue
			}
			if n.w.wire == nil || n.w.wire(n, a.To, a.Data) {
				n.host.Send(port+a.Socket, a.To, a.Data)
			}
		case RouteSession:
			if len(a.Data) > wire.MaxPayload {
				n.w.t.Fatalf("%d bytes for the ring", len(a.Data))
			}
			to, data := n.w.byID[a.To.ID], slices.Clone(a.Data)
			if to != nil && !n.w.noRing {
				n.w.net.After(n.w.ringLag, func() {
					if to.host.Up() {
						to.do(Routed{Src: n.id, Data: data})
					}
				})
			}
		case Up:
			n.log = append(n.log, fmt.Sprintf("up %s %s", n.w.byID[a.Contact.ID].name, a.Path))
			n.ups[a.Contact.ID] = now
			if n.pingUp != 0 {
				n.act(now, slices.Clone(n.m.Handle(now, Ping{ID: a.Contact.ID, Purpose: a.Purpose, Token: n.pingUp})))
			}
			n.tell(a.Purpose, a.Path)
			if a.Purpose == session.LinkPurpose {
				n.relays(now, relay.LinkUp{ID: a.Contact.ID, Holder: a.Contact.Holder, Namespace: a.Node.Namespace, Mbit: a.Node.Quota.RelayMbit})
			}
		case Down:
			n.log = append(n.log, fmt.Sprintf("down %s: %s", n.w.byID[a.ID].name, a.Reason))
			n.tell(a.Purpose, None)
			n.relays(now, relay.LinkDown{ID: a.ID})
		case Failed:
			n.log = append(n.log, "failed "+string(a.Reason))
		case PathChanged:
			n.tell(a.Purpose, a.Path)
		case Pong:
			n.pongs = append(n.pongs, a)
		case Message:
			if a.Purpose == session.LinkPurpose && a.Body[0] == byte(wire.TypeRelay) {
				if r, err := wire.ParseRelay(a.Body[1:]); err == nil {
					n.relays(now, relay.Message{From: a.From, Relay: r})
				}
				continue
			}
			n.got = append(n.got, string(a.Body))
		case Relayed:
			carried := slices.Clone(a.Carried)
			if to, out, ok := n.relay.Forward(now, a.From, a.Channel, len(carried)); ok {
				n.act(now, slices.Clone(n.m.Handle(now, Forward{to, out, carried})))
			}
		}
	}
}

func (n *node) tell(purpose string, s State) {
	if purpose == session.LinkPurpose {
		n.links = append(n.links, s)
	} else {
		n.path = append(n.path, s)
	}
}

func (n *node) relays(now time.Time, e relay.Event) {
	if _, ok := e.(relay.Message); ok && n.w.noRelay {
		return
	}
	for _, s := range slices.Clone(n.relay.Handle(now, e)) {
		n.act(now, slices.Clone(n.m.Handle(now, Send{ID: s.To, Message: wire.AppendMessage(nil, s.Relay)})))
	}
}

func (w *world) run(d time.Duration) { w.net.Run(w.net.Now() + d) }

// boot links a node with others whose endpoints are known.
func (n *node) boot(others ...*node) {
	for _, o := range others {
		n.do(Want{Contact: wire.Contact{Endpoints: []netip.AddrPort{netip.AddrPortFrom(o.host.Addr(), port)}}})
	}
}

func (n *node) want(o *node, purpose string) {
	n.do(Want{Contact: wire.Contact{ID: o.id}, Purpose: purpose})
}

func (n *node) state(o *node, purpose string) State { return n.m.State(o.id, purpose) }

// say sends a message.
func (n *node) say(o *node, purpose, text string) {
	n.do(Send{ID: o.id, Purpose: purpose, Message: []byte(text)})
}
