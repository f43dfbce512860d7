package scenario

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/flynn/noise"

	"gridappliance/credential"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/wire"
)

// Grid gives nodes what the product gives them: certificates of a grid, and the
// real session and link machines.
type Grid struct {
	grid     *credential.Grid
	verifier *credential.Verifier
	holders  map[*Machine]*credential.Identity
	// Crypto replaces the real one, if not nil: see fake.go.
	Crypto func(verify func(credential.Chain, time.Time) (*credential.Node, error)) session.Crypto
}

// NewGrid founds a grid.
func NewGrid() (*Grid, error) {
	g, err := credential.NewGrid(credential.GridOptions{Name: "scenario", Masters: 1,
		Namespaces: []credential.Namespace{{Name: "one", Pool: netip.MustParsePrefix("10.250.0.0/16")}}}, sim.Start)
	if err != nil {
		return nil, err
	}
	v, err := credential.NewVerifier(g.Descriptor)
	return &Grid{grid: g, verifier: v, holders: map[*Machine]*credential.Identity{}}, err
}

// holder is the machine's floppy.
func (g *Grid) holder(m *Machine) (*credential.Identity, error) {
	if h := g.holders[m]; h != nil {
		return h, nil
	}
	cert, key, err := g.grid.IssueHolder(credential.HolderRequest{User: fmt.Sprintf("user%d", m.Host.Name), Group: "physics",
		Roles: []credential.Role{credential.RoleWorker}, Namespaces: []string{"one"}}, sim.Start)
	if err != nil {
		return nil, err
	}
	h, err := credential.Open(g.grid.Descriptor.Text(), cert, key, sim.Start)
	g.holders[m] = h
	return h, err
}

// Identify is a Config's: a new node key and certificate for each node.
func (g *Grid) Identify(w *World, m *Machine) (Identity, error) {
	holder, err := g.holder(m)
	if err != nil {
		return Identity{}, err
	}
	key, err := credential.NewKey()
	if err != nil {
		return Identity{}, err
	}
	var seed [32]byte
	for i := range 4 {
		binary.BigEndian.PutUint64(seed[8*i:], w.chance.Uint64())
	}
	random := rand.NewChaCha8(seed)
	static, err := noise.DH25519.GenerateKeypair(random)
	if err != nil {
		return Identity{}, err
	}
	made, err := holder.MakeNode(credential.NodeRequest{Key: &key.PublicKey, X25519: [32]byte(static.Public), Instance: "vm"}, m.Host.Now())
	if err != nil {
		return Identity{}, err
	}
	verify := func(c credential.Chain, now time.Time) (*credential.Node, error) {
		return g.verifier.VerifyNode(c, now)
	}
	crypto := session.Real(verify)
	if g.Crypto != nil {
		crypto = g.Crypto(verify)
	}
	id := nodeid.ID(made.Node.ID)
	links, err := link.New(link.Config{Rand: w.Split(), Spray: true, Session: session.Config{ID: id, Static: static, Chain: made.Chain,
		Roots: [][32]byte{sha256.Sum256([]byte("scenario"))}, Descriptor: g.grid.Descriptor.Hash(), Purposes: []string{session.LinkPurpose, "one"},
		AES: true, Random: random, Crypto: crypto}}, m.Host.Now())
	return Identity{ID: id, Holder: wire.Holder(made.Node.Holder.Key[:8]), Links: links}, err
}
