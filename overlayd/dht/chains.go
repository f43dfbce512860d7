package dht

import (
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/piece"
)

// Implementation: tunable.
const (
	maxChains     = 1024
	maxChainBytes = 4 << 20
)

// chain is a certificate chain that was verified.
type chain struct {
	object     *piece.Object
	owner      *credential.Node
	generation int // of the trust it was verified under
	refs       int // stored records that need it
	used       time.Time
}

// chains are the chains seen: those of stored records, and the last used others.
type chains struct {
	list       []*chain
	byID       map[piece.ID]*chain
	bytes      int
	generation int
	mine       *piece.Object // this node's
}

func newChains() chains { return chains{byID: map[piece.ID]*chain{}} }

func (c *chains) object(id piece.ID) *piece.Object {
	if c.mine != nil && c.mine.ID() == id {
		return c.mine
	}
	if known := c.byID[id]; known != nil {
		return known.object
	}
	return nil
}

// owner returns whose a chain is, verified again when trust has changed or a
// certificate has ended since; nil when it is good no more.
func (c *chains) owner(m *Machine, now time.Time, known *chain) *credential.Node {
	known.used = now
	wall := now.Round(0)
	if known.generation == c.generation && wall.Before(known.owner.NotAfter) && wall.Before(known.owner.Holder.NotAfter) {
		return known.owner
	}
	owner := m.verifyChain(now, known.object.Bytes())
	if owner == nil {
		c.drop(known)
		return nil
	}
	known.owner, known.generation = owner, c.generation
	return owner
}

// Owner returns whose chain a record names, or nil when it is no longer here or
// no longer good.
func (m *Machine) Owner(r Record, now time.Time) *credential.Node {
	if known := m.chains.byID[r.Chain]; known != nil {
		return m.chains.owner(m, now, known)
	}
	return nil
}

// add verifies a chain and keeps it; nil when it is refused.
func (c *chains) add(m *Machine, now time.Time, encoded []byte) *chain {
	object := piece.New(encoded)
	if known := c.byID[object.ID()]; known != nil {
		return known
	}
	if !m.verifying.AllowN(now, 1) {
		m.count.Busy++
		return nil
	}
	owner := m.verifyChain(now, encoded)
	if owner == nil || !c.room(len(encoded)) {
		return nil
	}
	known := &chain{object: object, owner: owner, generation: c.generation, used: now}
	c.list = append(c.list, known)
	c.byID[object.ID()] = known
	c.bytes += len(encoded)
	return known
}

// room drops chains that no stored record needs, the longest unused first.
func (c *chains) room(size int) bool {
	for len(c.list) >= maxChains || c.bytes+size > maxChainBytes {
		var oldest *chain
		for _, k := range c.list {
			if k.refs == 0 && (oldest == nil || k.used.Before(oldest.used)) {
				oldest = k
			}
		}
		if oldest == nil {
			return false
		}
		c.drop(oldest)
	}
	return true
}

// drop forgets a chain; the records that need it go when they are next asked for.
func (c *chains) drop(known *chain) {
	if c.byID[known.object.ID()] != known {
		return
	}
	delete(c.byID, known.object.ID())
	c.list = slices.DeleteFunc(c.list, func(k *chain) bool { return k == known })
	c.bytes -= known.object.ID().Size
}

func (m *Machine) verifyChain(now time.Time, encoded []byte) *credential.Node {
	parsed, err := ParseChain(encoded)
	if err != nil {
		m.count.BadChain++
		return nil
	}
	owner, err := m.cfg.Crypto.VerifyChain(parsed, now.Round(0))
	if err != nil {
		m.count.BadChain++
		return nil
	}
	return owner
}
