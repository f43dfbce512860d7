package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"gridappliance/credential"
)

// payload is what the encrypted part of ANSWER and FINISH says.
//
//	offset size field
//	0      1    ANSWER: 1 when AES is in hardware, else 0; FINISH: the record
//	            AEAD, 1 AES-256-GCM, 2 ChaCha20-Poly1305
//	1      1    certificates that follow: 2 or 3, node first; 1: the node's, and
//	            the rest by hash; 0: all by hash
//	2      ...  each: 2 bytes length, DER
//	...    32   with less than two certificates: SHA-256 over the missing ones as
//	            they would stand here, each 2 bytes length and DER
//	...    2    length of the offer, at most 512
//	...    n    offer: what the layer above says
//
// ANSWER says 1 only if both ends' AES is fast may be chosen; FINISH chooses 1
// only if ANSWER said 1 and the initiator's AES is fast as well.
type payload struct {
	choice uint8
	chain  credential.Chain // whole, the node's certificate alone, or nothing
	rest   [32]byte         // of what is missing
	offer  []byte
}

func (p *payload) append(b []byte) []byte {
	b = append(b, p.choice, byte(len(p.chain)))
	b = appendCerts(b, p.chain)
	if len(p.chain) < 2 {
		b = append(b, p.rest[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.offer)))
	return append(b, p.offer...)
}

func appendCerts(b []byte, chain credential.Chain) []byte {
	for _, c := range chain {
		b = binary.BigEndian.AppendUint16(b, uint16(len(c)))
		b = append(b, c...)
	}
	return b
}

func parsePayload(b []byte) (p payload, ok bool) {
	if len(b) < 2 || b[1] > 3 {
		return p, false
	}
	p.choice = b[0]
	n := int(b[1])
	b = b[2:]
	for range n {
		var c []byte
		if c, b, ok = take16(b); !ok || len(c) == 0 {
			return p, false
		}
		p.chain = append(p.chain, c)
	}
	if n < 2 {
		if len(b) < 32 {
			return p, false
		}
		copy(p.rest[:], b)
		b = b[32:]
	}
	p.offer, b, ok = take16(b)
	return p, ok && len(b) == 0 && len(p.offer) <= maxOffer
}

func take16(b []byte) (field, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n : 2+n], b[2+n:], true
}

// hashOf names certificates.
func hashOf(chain credential.Chain) [32]byte { return sha256.Sum256(appendCerts(nil, chain)) }

// shown is an own chain and its names.
type shown struct {
	chain      credential.Chain
	all, above [32]byte // hashes of all certificates, and of those above the node's
}

func newShown(chain credential.Chain) shown {
	if len(chain) < 2 {
		return shown{chain: chain}
	}
	return shown{chain, hashOf(chain), hashOf(chain[1:])}
}

// payload returns a payload that says of the chain what the peer lacks.
func (s *shown) payload(have [32]byte, offer []byte) payload {
	p := payload{offer: offer, chain: s.chain}
	switch have {
	case s.all:
		p.chain, p.rest = nil, s.all
	case s.above:
		p.chain, p.rest = s.chain[:1], s.above
	}
	return p
}

// known is how a HELLO says that the sender has the answerer's certificates
// above the node's, so that ANSWER may name them by hash, without telling
// anyone else whose they are: the first 8 bytes of HMAC-SHA256 over the hash
// , its key the prologue and the salt.
func known(prologue []byte, salt [8]byte, rest [32]byte) (tag [8]byte) {
	h := hmac.New(sha256.New, append(append([]byte{}, prologue...), salt[:]...))
	h.Write(rest[:])
	copy(tag[:], h.Sum(nil))
	return tag
}

// chains remembers verified certificates by their hash: those above nodes'
// certificates, the oldest leaving first, and the whole chains of sessions.
type chains struct {
	above    map[[32]byte]credential.Chain
	byHolder map[wireHolder][32]byte
	order    [][32]byte
	whole    map[[32]byte]credential.Chain // of sessions, which add and drop them
	limit    int
}

// wireHolder is how lists of peers name a holder: the first bytes of its key ID.
type wireHolder = [8]byte

func newChains(limit int) chains {
	return chains{above: map[[32]byte]credential.Chain{}, byHolder: map[wireHolder][32]byte{},
		whole: map[[32]byte]credential.Chain{}, limit: limit}
}

// add remembers what is above the node of a verified chain, which it keeps.
func (c *chains) add(chain credential.Chain, holder wireHolder) {
	hash := hashOf(chain[1:])
	if _, ok := c.above[hash]; !ok {
		if len(c.order) == c.limit {
			c.forget(c.order[0])
		}
		c.above[hash] = chain[1:]
		c.order = append(c.order, hash)
	}
	c.byHolder[holder] = hash
}

func (c *chains) forget(hash [32]byte) {
	c.order = append(c.order[:0], c.order[1:]...)
	delete(c.above, hash)
	for h, v := range c.byHolder {
		if v == hash {
			delete(c.byHolder, h)
		}
	}
}

// complete returns the whole chain of a payload, or says that what is missing
// is not known. It copies what lies in the payload's memory.
func (c *chains) complete(p *payload) (credential.Chain, bool) {
	if len(p.chain) == 0 {
		chain, ok := c.whole[p.rest]
		return chain, ok
	}
	var chain credential.Chain
	for _, cert := range p.chain {
		chain = append(chain, append([]byte{}, cert...))
	}
	if len(chain) > 1 {
		if above, ok := c.above[hashOf(chain[1:])]; ok {
			return append(chain[:1], above...), true // one copy for all nodes of a holder
		}
		return chain, true
	}
	above, ok := c.above[p.rest]
	return append(chain, above...), ok
}
