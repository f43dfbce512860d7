package scenario

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/flynn/noise"

	"gridappliance/credential"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/wire"
)

// Grid gives nodes what the product gives them: certificates of a grid, and the
// real session and link machines.
type Grid struct {
	grid    *credential.Grid
	holders map[*Machine]*credential.Identity
}

// NewGrid founds a grid.
func NewGrid() (*Grid, error) {
	g, err := credential.NewGrid(credential.GridOptions{Name: "scenario", Masters: 1,
		Namespaces: []credential.Namespace{{Name: "one", Pool: netip.MustParsePrefix("10.250.0.0/16")}}}, sim.Start)
	if err != nil {
		return nil, err
	}
	return &Grid{grid: g, holders: map[*Machine]*credential.Identity{}}, nil
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
	trust, err := g.trust()
	if err != nil {
		return Identity{}, err
	}
	id := nodeid.ID(made.Node.ID)
	links, err := link.New(link.Config{Rand: w.Split(), Spray: true, Session: session.Config{ID: id, Static: static, Chain: made.Chain,
		Roots: [][32]byte{sha256.Sum256([]byte("scenario"))}, Descriptor: g.grid.Descriptor.Hash(), Purposes: []string{session.LinkPurpose, "one"},
		AES: true, Random: random, Crypto: session.Real(trust.Verify)}}, m.Host.Now())
	if err != nil {
		return Identity{}, err
	}
	above, err := core.NewGrid(core.GridConfig{Trust: trust, Chain: made.Chain, Key: key}, m.Host.Now())
	return Identity{ID: id, Holder: wire.Holder(made.Node.Holder.Key[:8]), Links: links, Grid: above}, err
}

// trust is what a floppy tells a machine.
func (g *Grid) trust() (*core.Trust, error) {
	t := new(credential.Trust)
	if _, err := t.AcceptDescriptor(g.grid.Descriptor.Text()); err != nil {
		return nil, err
	}
	return core.NewTrust(t)
}

// Revoke revokes a machine's floppy and returns the list.
func (g *Grid) Revoke(m *Machine) ([]byte, error) {
	holder, err := g.holder(m)
	if err != nil {
		return nil, err
	}
	if _, err := g.grid.Revoke([]string{holder.Holder.Serial}, "stolen", nil, m.Host.Now()); err != nil {
		return nil, err
	}
	return g.grid.Revocations.Text(), nil
}
