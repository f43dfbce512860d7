package scenario

import (
	"crypto/ecdsa"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/flynn/noise"

	"gridappliance/credential"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/gossip"
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
	// Who is verified by what counts on this very machine.
	verify := func(c credential.Chain, now time.Time) (*credential.Node, error) {
		v, err := trust.Verifier()
		if err != nil {
			return nil, err
		}
		return v.VerifyNode(c, now)
	}
	id := nodeid.ID(made.Node.ID)
	links, err := link.New(link.Config{Rand: w.Split(), Spray: true, Session: session.Config{ID: id, Static: static, Chain: made.Chain,
		Roots: [][32]byte{sha256.Sum256([]byte("scenario"))}, Descriptor: g.grid.Descriptor.Hash(), Purposes: []string{session.LinkPurpose, "one"},
		AES: true, Random: random, Crypto: session.Real(verify)}}, m.Host.Now())
	if err != nil {
		return Identity{}, err
	}
	who := Identity{ID: id, Holder: wire.Holder(made.Node.Holder.Key[:8]), Links: links}
	who.Services.Gossip = gossip.New(gossip.Config{Trust: trust})
	who.Services.Store = dht.New(dht.Config{Self: id, Holder: who.Holder, Rand: w.Split(), Crypto: recordCrypto{key, verify},
		Witnesses: func(nodeid.ID) []nodeid.ID { return nil }})
	who.Chain = made.Chain
	return who, nil
}

// trust is what a floppy tells a machine.
func (g *Grid) trust() (*credential.Trust, error) {
	t := new(credential.Trust)
	_, err := t.AcceptDescriptor(g.grid.Descriptor.Text())
	return t, err
}

// recordCrypto is dht.Crypto by a node's key.
type recordCrypto struct {
	key    *ecdsa.PrivateKey
	verify func(credential.Chain, time.Time) (*credential.Node, error)
}

func (c recordCrypto) Sign(digest [32]byte) ([]byte, error) {
	return ecdsa.SignASN1(cryptorand.Reader, c.key, digest[:])
}

func (c recordCrypto) VerifyChain(chain credential.Chain, now time.Time) (*credential.Node, error) {
	return c.verify(chain, now)
}

func (c recordCrypto) Verify(owner *credential.Node, digest [32]byte, signature []byte) bool {
	return ecdsa.VerifyASN1(owner.Key, digest[:], signature)
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
