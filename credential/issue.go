package credential

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// HolderRequest is what a floppy shall allow. Zero quotas are the defaults,
// zero Valid is DefaultHolderLifetime, no namespaces are all that the signer
// may give.
type HolderRequest struct {
	User       string
	Group      string
	Roles      []Role // worker, client
	Namespaces []string
	Rights     Rights
	Quota      Quota
	Valid      time.Duration
}

// IssueHolder signs a worker's or client's holder for a new key and returns
// HOLDER.CRT and HOLDER.KEY. It enters the ledger; call Save before handing the
// key out, so that it can be revoked by user.
func (g *Grid) IssueHolder(req HolderRequest, now time.Time) (certPEM []byte, keyPEM Secret, err error) {
	a, err := req.attributes(g.Descriptor, nil)
	if err != nil {
		return nil, nil, err
	}
	return g.issue(a, cmp.Or(req.Valid, DefaultHolderLifetime), now)
}

// IssuerRequest limits an issuer: it can give holders only these groups and
// namespaces, the roles worker and client, the default quotas and no rights.
type IssuerRequest struct {
	Groups     []string
	Namespaces []string // none: all of the grid
	Valid      time.Duration
}

// IssueIssuer signs an issuer for a new key. It enters the ledger.
func (g *Grid) IssueIssuer(req IssuerRequest, now time.Time) (certPEM []byte, keyPEM Secret, err error) {
	a := &attributes{
		kind: kindIssuer, groups: req.Groups, roles: []Role{RoleClient, RoleWorker}, namespaces: req.Namespaces,
		quota: Quota{Leases: defaultLeases, RelayMbit: defaultRelayMbit},
	}
	if len(a.namespaces) == 0 {
		a.namespaces = g.Descriptor.namespaceNames()
	}
	return g.issue(a, cmp.Or(req.Valid, masterLifetime), now)
}

// Issuer is an issuer's credential, verified and ready to make holders. It
// keeps no ledger: its owner does.
type Issuer struct {
	Descriptor *Descriptor

	issuer *verified
	by     signer
}

// OpenIssuer verifies an issuer's certificate and key against a descriptor
// whose signature the caller has checked.
func OpenIssuer(d *Descriptor, certPEM, keyPEM []byte, now time.Time) (*Issuer, error) {
	by, err := parseSigner(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	v, err := NewVerifier(d)
	if err != nil {
		return nil, err
	}
	a, err := v.link(kindIssuer, by.cert, nil, now)
	if err != nil {
		return nil, err
	}
	return &Issuer{Descriptor: d, issuer: &verified{attributes: a, cert: by.cert}, by: by}, nil
}

// IssueHolder signs a holder within the issuer's limits for a new key.
// certPEM is the chain: holder, issuer.
func (i *Issuer) IssueHolder(req HolderRequest, now time.Time) (certPEM []byte, keyPEM Secret, err error) {
	a, err := req.attributes(i.Descriptor, i.issuer.namespaces)
	if err != nil {
		return nil, nil, err
	}
	end := now.Add(cmp.Or(req.Valid, DefaultHolderLifetime))
	chain, keyPEM, err := sign(i.Descriptor, a, end, i.by, i.issuer, now)
	if err != nil {
		return nil, nil, err
	}
	return Chain{chain, i.by.cert.Raw}.PEM(), keyPEM, nil
}

func (d *Descriptor) namespaceNames() []string {
	var names []string
	for _, n := range d.Namespaces {
		names = append(names, n.Name)
	}
	return names
}

// attributes checks a request against the grid: names are not reserved, roles
// are for people, namespaces exist, fixed addresses are free in one of them.
func (req HolderRequest) attributes(d *Descriptor, namespaces []string) (*attributes, error) {
	if err := CheckUnreserved(req.User, req.Group); err != nil {
		return nil, err
	}
	if len(req.Roles) == 0 {
		return nil, fmt.Errorf("holder %q: %w: none given", req.User, ErrWrongRole)
	}
	for _, r := range req.Roles {
		if r != RoleWorker && r != RoleClient {
			return nil, fmt.Errorf("holder %q: %w: %q, only worker and client are for people", req.User, ErrWrongRole, r)
		}
	}
	if namespaces == nil {
		namespaces = d.namespaceNames()
	}
	if len(req.Namespaces) > 0 {
		namespaces = req.Namespaces
	}
	if !subset(namespaces, d.namespaceNames()) {
		return nil, fmt.Errorf("holder %q: namespaces %q: %w: the grid has %q", req.User, namespaces, ErrWrongNamespace, d.namespaceNames())
	}
	for _, addr := range req.Rights.Addresses {
		if !slices.ContainsFunc(namespaces, func(n string) bool { return d.Leasable(n, addr) }) {
			return nil, fmt.Errorf("holder %q: fixed address %v: %w: outside the pools of %q, reserved or a master's", req.User, addr, ErrWrongRight, namespaces)
		}
	}
	return &attributes{
		kind: kindHolder, user: req.User, groups: []string{req.Group}, roles: req.Roles, namespaces: namespaces, rights: req.Rights,
		quota: Quota{Leases: cmp.Or(req.Quota.Leases, defaultLeases), RelayMbit: cmp.Or(req.Quota.RelayMbit, defaultRelayMbit)},
	}, nil
}

// sign makes a holder or issuer for a new key, not longer than its signer
// lasts, and checks that a verifier takes it. A nil above is a root.
func sign(d *Descriptor, a *attributes, end time.Time, by signer, above *verified, now time.Time) (Certificate, Secret, error) {
	key, err := NewKey()
	if err != nil {
		return nil, nil, err
	}
	if end.After(by.cert.NotAfter) {
		end = by.cert.NotAfter
	}
	a.grid = d.Grid
	b := blank{notBefore: now.Add(-backdate), notAfter: end, ca: true, pathLength: a.kind.pathLength(), attributes: a}
	cert, err := b.make(&key.PublicKey, by)
	if err != nil {
		return nil, nil, err
	}
	v, err := NewVerifier(d)
	if err != nil {
		return nil, nil, err
	}
	if _, err := v.link(a.kind, cert, above, now); err != nil {
		return nil, nil, err
	}
	keyPEM, err := FormatKey(key)
	return cert.Raw, keyPEM, err
}

// issue signs with the grid's root and enters the ledger.
func (g *Grid) issue(a *attributes, valid time.Duration, now time.Time) ([]byte, Secret, error) {
	cert, keyPEM, err := sign(g.Descriptor, a, now.Add(valid), g.root, nil, now)
	if err != nil {
		return nil, nil, err
	}
	c, err := parseCertificate(cert)
	if err != nil {
		return nil, nil, err
	}
	g.Ledger = append(g.Ledger, Issued{
		Serial: serialText(c), Kind: a.kind.String(), User: a.user, Groups: a.groups, Roles: a.roles, Namespaces: a.namespaces,
		Key: keyIDOfCert(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	})
	return cert.PEM(), keyPEM, nil
}

// IssueMaster signs a new holder, and for a master a new HTCondor issuer, for
// the master or witness of that name in the roster. nodeKey is the NODE.KEY of
// its floppy: the roster names that key, so it stays.
func (g *Grid) IssueMaster(name string, nodeKey []byte, now time.Time) (*MasterMaterial, error) {
	key, err := ParseKey(nodeKey)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(g.Descriptor.Witnesses, func(w Witness) bool { return w.Name == name })
	m := &MasterMaterial{Name: name, Role: RoleWorker, Namespace: g.Descriptor.Namespaces[0].Name, NodeKey: nodeKey}
	var id NodeID
	if entry, ok := g.Descriptor.Master(name); ok {
		m.Role, m.Namespace, m.Address, id = RoleMaster, entry.Namespace, entry.Address, entry.ID
	} else if i >= 0 {
		id = g.Descriptor.Witnesses[i].ID
	} else {
		return nil, fmt.Errorf("issue master %q: %w", name, ErrRoster)
	}
	if have := NodeIDOf(&key.PublicKey); have != id {
		return nil, fmt.Errorf("issue master %q: %w: NODE.KEY makes the ID %v, the roster has %v", name, ErrKey, have, id)
	}
	return m, g.issueMaterial(m, now)
}

// Amend signs the descriptor that follows the current one, after change has
// done to it what is to be different; version and date are set here. When the
// result makes no sense the grid keeps the descriptor it has.
func (g *Grid) Amend(change func(*Descriptor), now time.Time) error {
	next, err := ParseDescriptor(g.Descriptor.Text())
	if err != nil {
		return err
	}
	change(next)
	next.Version, next.Issued = g.Descriptor.Version+1, now
	if err := next.sign(g.root.key); err != nil {
		return fmt.Errorf("amend descriptor: %w", err)
	}
	g.Descriptor = next
	return nil
}

// Revoke adds the ledger's certificates with these serials to the grid's
// revocation list and signs it as the next version. Serials that are revoked
// already stay as they are; when nothing is new, it returns false and the list
// does not change. keep are holders of a revoked issuer that stay good.
func (g *Grid) Revoke(serials []string, reason string, keep []Kept, now time.Time) (bool, error) {
	l := &RevocationList{Grid: g.Descriptor.Grid, Version: 1, Issued: now}
	if old := g.Revocations; old != nil {
		l.Version = old.Version + 1
		for _, e := range old.Entries {
			if e.Until.After(now) {
				l.Entries = append(l.Entries, e)
			}
		}
	}
	added := false
	for _, serial := range serials {
		i := slices.IndexFunc(g.Ledger, func(e Issued) bool { return e.Serial == serial })
		if i < 0 {
			return false, fmt.Errorf("revoke %q: no such serial has been issued", serial)
		}
		issued := g.Ledger[i]
		if issued.Kind == KindCondorIssuer {
			return false, fmt.Errorf("revoke %s: %w: HTCondor reads no revocation list; what it signed ends %s; make a grid with a new HTCondor root",
				serial, ErrWrongRight, stamp(issued.NotAfter))
		}
		if !slices.ContainsFunc(l.Entries, func(e Revocation) bool { return e.Serial == serial }) {
			e := Revocation{Serial: serial, Key: issued.Key, Until: issued.NotAfter, Reason: reason}
			if issued.Kind == kindIssuer.String() {
				e.Keep = keep
			}
			l.Entries, added = append(l.Entries, e), true
		}
	}
	if !added {
		return false, nil
	}
	if err := l.sign(g.root.key); err != nil {
		return false, err
	}
	g.Revocations = l
	return true, nil
}

// Revoked reports whether the grid's list names the serial.
func (g *Grid) Revoked(serial string) bool {
	return g.Revocations != nil && slices.ContainsFunc(g.Revocations.Entries, func(e Revocation) bool { return e.Serial == serial })
}
