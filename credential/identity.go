package credential

import (
	"crypto/ecdsa"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// How long things live, and how far back they begin.
const (
	// NodeLifetime is a node certificate's whole validity (TRUST "Chain").
	NodeLifetime = 24 * time.Hour

	// nodeBackdate: the peers' clocks may be late by this much.
	nodeBackdate = time.Hour

	// backdate is for what a person makes and carries to a machine: that
	// machine's clock may hold local time where UTC belongs (up to 14 h off)
	// until it has found a time server.
	backdate = 24 * time.Hour
)

// Identity is a holder's credential, verified and ready to make nodes.
type Identity struct {
	Descriptor *Descriptor
	Holder     *Holder
	Chain      Chain // holder, and its issuer if it has one

	holder *verified
	key    *ecdsa.PrivateKey
}

// Open verifies the three files of a floppy, GRID.DSC, HOLDER.CRT and
// HOLDER.KEY, against each other and the time. The descriptor is trusted
// because it is on the floppy; see Trust for what later ones must fulfil.
func Open(descriptor, holderCert, holderKey []byte, now time.Time) (*Identity, error) {
	d, err := ParseDescriptor(descriptor)
	if err != nil {
		return nil, err
	}
	if err := d.Verify(nil, now); err != nil {
		return nil, err
	}
	chain, err := ParseChain(holderCert)
	if err != nil {
		return nil, err
	}
	certs, err := chain.parse()
	if err != nil {
		return nil, err
	}
	v, err := NewVerifier(d)
	if err != nil {
		return nil, err
	}
	holder, err := v.verifyHolder(certs, now)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(holderKey)
	if err != nil {
		return nil, err
	}
	if have, want := KeyIDOf(&key.PublicKey), keyIDOfCert(holder.cert); have != want {
		return nil, fmt.Errorf("holder %q: %w: the private key is %v, the certificate's is %v", holder.user, ErrKey, have, want)
	}
	return &Identity{Descriptor: d, Holder: newHolder(holder), Chain: chain, holder: holder, key: key}, nil
}

// NodeRequest is what a machine chooses of what its holder allows.
type NodeRequest struct {
	Key       *ecdsa.PublicKey // of the machine, P-256
	X25519    [32]byte         // its session key's public half
	Instance  string           // of the machine; letters, digits and : . _ -
	Role      Role             // "" when the holder has one
	Namespace string           // "" when the holder has one
	Router    bool
	Gateway   bool
	Addresses []netip.Addr // fixed addresses claimed; a master's is added by itself
	Routes    []netip.Prefix
}

// NodeCertificate is a node certificate with its chain.
type NodeCertificate struct {
	Node  *Node
	Chain Chain     // node, holder, issuer if there is one
	Renew time.Time // half of its life: when to make the next
}

// MakeNode signs a node certificate with the holder's key, from an hour ago to
// 24 hours after that, or to the holder's or issuer's end if that is earlier.
// A request for more than the holder has is refused with the error that a peer
// would give.
func (i *Identity) MakeNode(req NodeRequest, now time.Time) (*NodeCertificate, error) {
	if req.Key == nil {
		return nil, fmt.Errorf("make node certificate: %w: no key", ErrKey)
	}
	role, namespace := req.Role, req.Namespace
	if role == "" && len(i.Holder.Roles) == 1 {
		role = i.Holder.Roles[0]
	}
	if namespace == "" && len(i.Holder.Namespaces) == 1 {
		namespace = i.Holder.Namespaces[0]
	}
	addresses := req.Addresses
	if role == RoleMaster {
		addresses = i.Holder.Rights.Addresses
	}
	a := &attributes{
		kind: kindNode, grid: i.Holder.Grid, user: i.Holder.User, groups: []string{i.Holder.Group},
		roles: []Role{role}, namespaces: []string{namespace},
		rights: Rights{Addresses: slices.Clone(addresses), Routes: req.Routes, Router: req.Router, Gateway: req.Gateway},
		quota:  i.Holder.Quota,
		id:     NodeIDOf(req.Key), static: req.X25519, instance: req.Instance,
	}
	begin := now.Add(-nodeBackdate)
	end := begin.Add(NodeLifetime)
	for above := i.holder; above != nil; above = above.above {
		if above.cert.NotBefore.After(begin) {
			begin = above.cert.NotBefore
		}
		if above.cert.NotAfter.Before(end) {
			end = above.cert.NotAfter
		}
	}
	b := blank{notBefore: begin, notAfter: end, attributes: a}
	cert, err := b.make(req.Key, signer{i.holder.cert, i.key})
	if err != nil {
		return nil, fmt.Errorf("make node certificate: %w", err)
	}
	chain := append(Chain{cert.Raw}, i.Chain...)
	v, err := NewVerifier(i.Descriptor)
	if err != nil {
		return nil, err
	}
	node, err := v.VerifyNode(chain, now)
	if err != nil {
		return nil, fmt.Errorf("make node certificate: %w", err)
	}
	return &NodeCertificate{Node: node, Chain: chain, Renew: now.Add(cert.NotAfter.Sub(now) / 2)}, nil
}
