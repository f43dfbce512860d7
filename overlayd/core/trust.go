package core

import (
	"crypto/sha256"
	"crypto/x509"
	"time"

	"gridappliance/credential"
)

// Trust verifies certificate chains by the newest descriptor and revocation
// lists that the node has accepted: its sessions, its store and its witness all
// ask one Trust, so that none of them believes for longer than the others.
type Trust struct {
	memory   *credential.Trust
	verifier *credential.Verifier
	err      error // why there is none
}

// NewTrust returns the Trust of a memory that has accepted a descriptor. The
// memory is the Trust's from now on.
func NewTrust(memory *credential.Trust) (*Trust, error) {
	t := &Trust{memory: memory}
	t.renew()
	return t, t.err
}

// renew is for when the memory has changed.
func (t *Trust) renew() { t.verifier, t.err = t.memory.Verifier() }

// Roots returns the key IDs of the roots that the descriptor names, in its
// order: what sessions are for. Without a descriptor that counts there are none.
func (t *Trust) Roots() (ids [][32]byte) {
	d, err := t.memory.Descriptor()
	if err != nil || d == nil {
		return nil
	}
	for _, root := range d.Roots {
		if c, err := x509.ParseCertificate(root); err == nil { // the descriptor's check refuses others
			ids = append(ids, sha256.Sum256(c.RawSubjectPublicKeyInfo))
		}
	}
	return ids
}

// Verify returns the node of a chain, or why it may not be in the grid.
func (t *Trust) Verify(chain credential.Chain, now time.Time) (*credential.Node, error) {
	if t.err != nil {
		return nil, t.err
	}
	return t.verifier.VerifyNode(chain, now)
}
