package core

import (
	"fmt"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// Implementation: bounds of what a witness keeps of others' chains.
const (
	maxChains   = 4096
	maxArriving = 64 // chains of which pieces are missing
	maxChain    = dht.MaxChain
	chainRate   = 100 // verified per second, and as many at once
)

// members are the certificate chains that this witness was shown, by the root
// of the hash tree over their bytes. It is the witness's lease.Members.
type members struct {
	trust    *Trust
	list     []*member // the longest unused first
	byHash   map[[32]byte]*member
	arriving []arriving // the oldest first
	changes  int        // of the trust
	budget   float64
	filled   time.Time
}

type member struct {
	hash    [32]byte
	chain   credential.Chain
	node    *credential.Node
	changes int // of the trust, when it was verified
}

type arriving struct {
	id    piece.ID
	parts *piece.Assembly
}

func newMembers(t *Trust) *members { return &members{trust: t, byHash: map[[32]byte]*member{}} }

// Member implements lease.Members.
func (s *members) Member(node nodeid.ID, hash [32]byte, now time.Time) (lease.Member, error) {
	m := s.byHash[hash]
	if m == nil {
		return lease.Member{}, lease.ErrUnknownChain
	}
	wall := now.Round(0)
	if m.changes != s.changes || !wall.Before(m.node.NotAfter) || !wall.Before(m.node.Holder.NotAfter) {
		n, err := s.trust.Verify(m.chain, wall)
		if err != nil {
			s.drop(m)
			return lease.Member{}, err
		}
		m.node, m.changes = n, s.changes
	}
	if nodeid.ID(m.node.ID) != node {
		return lease.Member{}, fmt.Errorf("chain of %v shown by %v: %w", m.node.ID, node, credential.ErrKey)
	}
	s.list = append(slices.DeleteFunc(s.list, func(o *member) bool { return o == m }), m)
	return lease.MemberOf(m.node), nil
}

// Revocations implements lease.Members.
func (s *members) Revocations() (version uint64) {
	for _, k := range s.trust.memory.Known() {
		if k.Revocations && k.Signer == (credential.KeyID{}) {
			version = k.Version
		}
	}
	return version
}

func (s *members) drop(m *member) {
	delete(s.byHash, m.hash)
	s.list = slices.DeleteFunc(s.list, func(o *member) bool { return o == m })
}

// take takes a piece of a chain. A chain that is whole and good is kept; the
// asker's next Hold finds it.
func (s *members) take(p wire.Piece, now time.Time) {
	id := piece.ID{Root: p.Root, Size: int(p.Size)}
	if id.Size > maxChain || s.byHash[id.Root] != nil {
		return
	}
	i := slices.IndexFunc(s.arriving, func(a arriving) bool { return a.id == id })
	if i < 0 {
		parts, err := piece.NewAssembly(id)
		if err != nil {
			return
		}
		if len(s.arriving) >= maxArriving {
			s.arriving = slices.Delete(s.arriving, 0, 1)
		}
		i, s.arriving = len(s.arriving), append(s.arriving, arriving{id, parts})
	}
	if _, err := s.arriving[i].parts.Add(p); err != nil {
		return
	}
	whole := s.arriving[i].parts.Bytes()
	if whole == nil {
		return
	}
	s.arriving = slices.Delete(s.arriving, i, i+1)
	if s.afford(now) {
		s.add(id.Root, whole, now)
	}
}

func (s *members) add(hash [32]byte, encoded []byte, now time.Time) {
	chain, err := dht.ParseChain(encoded)
	if err != nil {
		return
	}
	node, err := s.trust.Verify(chain, now.Round(0))
	if err != nil {
		return
	}
	if len(s.list) >= maxChains {
		s.drop(s.list[0])
	}
	m := &member{hash: hash, chain: chain, node: node, changes: s.changes}
	s.list = append(s.list, m)
	s.byHash[hash] = m
}

// afford bounds how often strangers make this node verify signatures.
func (s *members) afford(now time.Time) bool {
	s.budget = min(chainRate, s.budget+chainRate*now.Sub(s.filled).Seconds())
	s.filled = now
	if s.budget < 1 {
		return false
	}
	s.budget--
	return true
}
