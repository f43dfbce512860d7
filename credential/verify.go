package credential

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Holder is a verified holder: who a floppy belongs to and what it allows.
type Holder struct {
	Grid       string
	User       string
	Group      string
	Roles      []Role
	Namespaces []string
	Rights     Rights
	Quota      Quota
	Serial     string // hexadecimal
	Key        KeyID  // counts quotas: all nodes of one holder share it
	NotBefore  time.Time
	NotAfter   time.Time
}

// Node is a verified node: one machine, and what it chose of its holder's.
type Node struct {
	ID        NodeID
	Grid      string
	User      string
	Group     string
	Role      Role   // worker, client or master
	Roles     []Role // Role and, later, roles such as waypoint
	Namespace string
	Rights    Rights
	Quota     Quota
	Key       *ecdsa.PublicKey
	X25519    [32]byte // the static key that Noise must show
	Instance  string   // of the machine
	Serial    string   // hexadecimal
	NotBefore time.Time
	NotAfter  time.Time // of this certificate; holder's and issuer's may come first
	Holder    *Holder
}

// Verifier decides whether a chain belongs to a grid. It never changes after
// NewVerifier, and is safe for concurrent use.
type Verifier struct {
	descriptor *Descriptor
	revoked    map[KeyID]*RevocationList // by the key that signed the list
}

// NewVerifier returns a verifier for the grid of a descriptor whose signature
// the caller has checked. Every list must be signed by one of its roots or by
// an issuer that one of them signed; of two lists of one signer the newer
// counts.
func NewVerifier(d *Descriptor, lists ...*RevocationList) (*Verifier, error) {
	v := &Verifier{descriptor: d, revoked: map[KeyID]*RevocationList{}}
	for _, l := range lists {
		if err := l.CheckSignature(d); err != nil {
			return nil, err
		}
		if old := v.revoked[l.signer]; old == nil || old.Version < l.Version {
			v.revoked[l.signer] = l
		}
	}
	return v, nil
}

// VerifyNode returns the node of a chain [node, holder] or [node, holder,
// issuer], or why it may not be in the grid at that time.
func (v *Verifier) VerifyNode(chain Chain, now time.Time) (*Node, error) {
	certs, err := chain.parse()
	if err != nil {
		return nil, err
	}
	if len(certs) < 2 {
		return nil, fmt.Errorf("node: %w: a chain of %d, a node and its holder expected", ErrPathLength, len(certs))
	}
	holder, err := v.verifyHolder(certs[1:], now)
	if err != nil {
		return nil, err
	}
	a, err := v.link(kindNode, certs[0], holder, now)
	if err != nil {
		return nil, err
	}
	node := certs[0]
	if life := node.NotAfter.Sub(node.NotBefore); life > NodeLifetime {
		return nil, fmt.Errorf("node certificate of %s: %w: %v, at most %v", a.user, ErrLifetime, life, NodeLifetime)
	}
	key, err := p256Key(node)
	if err != nil {
		return nil, err
	}
	if id := NodeIDOf(key); id != a.id {
		return nil, fmt.Errorf("node certificate of %s: %w: node ID %v, its key's is %v", a.user, ErrKey, a.id, id)
	}
	if err := v.checkPlace(a); err != nil {
		return nil, err
	}
	return newNode(a, node, key, newHolder(holder)), nil
}

// VerifyHolder returns the holder of a chain [holder] or [holder, issuer], or
// why it may not be in the grid at that time.
func (v *Verifier) VerifyHolder(chain Chain, now time.Time) (*Holder, error) {
	certs, err := chain.parse()
	if err != nil {
		return nil, err
	}
	holder, err := v.verifyHolder(certs, now)
	if err != nil {
		return nil, err
	}
	return newHolder(holder), nil
}

// verified is a certificate that passed, its attributes, and who is above it;
// above is nil when a root is.
type verified struct {
	*attributes
	cert  *x509.Certificate
	above *verified
}

// issuer returns the issuer at or above h, or nil.
func (h *verified) issuer() *verified {
	for ; h != nil && h.kind != kindIssuer; h = h.above {
	}
	return h
}

func (v *Verifier) verifyHolder(certs []*x509.Certificate, now time.Time) (*verified, error) {
	if len(certs) > 2 {
		return nil, fmt.Errorf("holder: %w: a chain of %d, a holder and at most one issuer expected", ErrPathLength, len(certs))
	}
	var issuer *verified
	if len(certs) == 2 {
		a, err := v.link(kindIssuer, certs[1], nil, now)
		if err != nil {
			return nil, err
		}
		issuer = &verified{attributes: a, cert: certs[1]}
	}
	a, err := v.link(kindHolder, certs[0], issuer, now)
	if err != nil {
		return nil, err
	}
	return &verified{a, certs[0], issuer}, nil
}

// link checks one certificate against the one above it (nil: a root).
func (v *Verifier) link(k kind, c *x509.Certificate, above *verified, now time.Time) (*attributes, error) {
	a, err := checkShape(k, c)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%v certificate %s of %q", k, serialText(c), a.user)
	if a.grid != v.descriptor.Grid {
		return nil, fmt.Errorf("%s: %w: it names grid %q, this is %q", what, ErrWrongGrid, a.grid, v.descriptor.Grid)
	}
	if above == nil {
		if err := v.checkRootSignature(what, c, now); err != nil {
			return nil, err
		}
	} else {
		if err := checkSignature(what, c, above.cert); err != nil {
			return nil, err
		}
		if err := a.within(above.attributes); err != nil {
			return nil, err
		}
	}
	if err := checkReserved(a, above == nil); err != nil {
		return nil, err
	}
	if err := checkValidity(what, c, now); err != nil {
		return nil, err
	}
	return a, v.checkRevoked(what, k, c, above)
}

// checkRootSignature finds the root that signed c.
func (v *Verifier) checkRootSignature(what string, c *x509.Certificate, now time.Time) error {
	for _, root := range v.descriptor.roots {
		if !bytes.Equal(root.SubjectKeyId, c.AuthorityKeyId) {
			continue
		}
		if err := checkSignature(what, c, root); err != nil {
			return err
		}
		return checkValidity("root of grid "+v.descriptor.Grid, root, now)
	}
	return fmt.Errorf("%s: %w: signed by key %x, the grid's roots are %v", what, ErrWrongGrid, c.AuthorityKeyId, keyIDs(v.descriptor.roots))
}

func keyIDs(certs []*x509.Certificate) []string {
	var ids []string
	for _, c := range certs {
		ids = append(ids, fmt.Sprintf("%x", c.SubjectKeyId))
	}
	return ids
}

func checkSignature(what string, c, parent *x509.Certificate) error {
	if !bytes.Equal(c.RawIssuer, parent.RawSubject) || !bytes.Equal(c.AuthorityKeyId, parent.SubjectKeyId) {
		return fmt.Errorf("%s: %w: its issuer is %q, the next certificate is %q", what, ErrSignature, c.Issuer, parent.Subject)
	}
	if err := c.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("%s: %w: %v", what, ErrSignature, err)
	}
	return nil
}

func checkValidity(what string, c *x509.Certificate, now time.Time) error {
	if now.Before(c.NotBefore) {
		return fmt.Errorf("%s: %w: begins %s, it is %s", what, ErrNotYetValid, stamp(c.NotBefore), stamp(now))
	}
	if now.After(c.NotAfter) {
		return fmt.Errorf("%s: %w: ended %s, it is %s", what, ErrExpired, stamp(c.NotAfter), stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
)

// checkShape checks all that a certificate says about itself: version,
// algorithms, critical extensions, path length, key usage, subject; and decodes
// its attributes.
func checkShape(k kind, c *x509.Certificate) (*attributes, error) {
	what := fmt.Sprintf("%v certificate %s", k, serialText(c))
	if err := checkAlgorithms(what, c); err != nil {
		return nil, err
	}
	var value []byte
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(attributesOID):
			if !e.Critical {
				return nil, fmt.Errorf("%s: %w: the attributes %v are not critical", what, ErrCritical, e.Id)
			}
			value = e.Value
		case e.Critical && !e.Id.Equal(oidKeyUsage) && !e.Id.Equal(oidBasicConstraints):
			return nil, fmt.Errorf("%s: %w: %v", what, ErrCritical, e.Id)
		}
	}
	if value == nil {
		return nil, fmt.Errorf("%s: %w: it has no attributes %v", what, ErrCritical, attributesOID)
	}
	a, err := decodeAttributes(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if a.kind != k {
		return nil, fmt.Errorf("%s: %w: it is a %v where a %v belongs", what, ErrPathLength, a.kind, k)
	}
	pathLength, usage := k.pathLength(), x509.KeyUsageCertSign
	if pathLength < 0 {
		usage = x509.KeyUsageDigitalSignature
	}
	if !c.BasicConstraintsValid || c.IsCA != (pathLength >= 0) || c.IsCA && c.MaxPathLen != pathLength || c.KeyUsage != usage {
		return nil, fmt.Errorf("%s: %w: CA %v, path length %d, key usage %d; a %v has CA %v, %d, %d",
			what, ErrPathLength, c.IsCA, c.MaxPathLen, c.KeyUsage, k, pathLength >= 0, pathLength, usage)
	}
	if want := a.subject(); c.Subject.String() != want.String() {
		return nil, fmt.Errorf("%s: %w: subject %q, its attributes make it %q", what, ErrFormat, c.Subject, want)
	}
	return a, nil
}

// pathLength is how many certificate authorities may follow; -1: not one itself.
func (k kind) pathLength() int {
	return map[kind]int{kindIssuer: 1, kindHolder: 0, kindNode: -1}[k]
}

const rootPathLength = 2

// subject is for people: the attributes decide. A node's names no role, group
// or host.
func (a *attributes) subject() pkix.Name {
	switch a.kind {
	case kindIssuer:
		return pkix.Name{Organization: []string{a.grid}, CommonName: "issuer"}
	case kindHolder:
		return pkix.Name{Organization: []string{a.grid}, OrganizationalUnit: []string{a.groups[0]}, CommonName: a.user}
	}
	return pkix.Name{Organization: []string{a.grid}, CommonName: "node " + a.id.String()}
}

func checkAlgorithms(what string, c *x509.Certificate) error {
	if c.Version != 3 || c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return fmt.Errorf("%s: %w: version %d, %v; 3 and ECDSA-SHA256 expected", what, ErrFormat, c.Version, c.SignatureAlgorithm)
	}
	if len(c.SubjectKeyId) == 0 {
		return fmt.Errorf("%s: %w: no subject key identifier", what, ErrFormat)
	}
	_, err := p256Key(c)
	return err
}

func p256Key(c *x509.Certificate) (*ecdsa.PublicKey, error) {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("certificate %s: %w: %v, a P-256 key expected", serialText(c), ErrKey, c.PublicKeyAlgorithm)
	}
	return key, nil
}

// checkRoot checks what every root has: the grid's and HTCondor's.
func checkRoot(c *x509.Certificate) error {
	what := fmt.Sprintf("root %q", c.Subject)
	if err := checkAlgorithms(what, c); err != nil {
		return err
	}
	for _, e := range c.Extensions {
		if e.Critical && !e.Id.Equal(oidKeyUsage) && !e.Id.Equal(oidBasicConstraints) {
			return fmt.Errorf("%s: %w: %v", what, ErrCritical, e.Id)
		}
	}
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != x509.KeyUsageCertSign || c.MaxPathLen > rootPathLength {
		return fmt.Errorf("%s: %w: not a certificate authority of path length %d or less", what, ErrPathLength, rootPathLength)
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return fmt.Errorf("%s: %w: %v", what, ErrSignature, err)
	}
	return nil
}

// checkReserved: reserved names are for masters and witnesses, and only a root
// makes those.
func checkReserved(a *attributes, byRoot bool) error {
	infra := slices.Contains(a.groups, GroupInfra)
	master := slices.Contains(a.roles, RoleMaster)
	switch {
	case a.kind == kindNode: // within its holder, which has passed
		return nil
	case a.kind == kindIssuer:
		for _, r := range a.roles {
			if r != RoleWorker && r != RoleClient {
				return fmt.Errorf("issuer: %w: %q, an issuer may name only worker and client", ErrWrongRole, r)
			}
		}
		for _, g := range a.groups {
			if err := CheckUnreserved("issuer", g); err != nil {
				return fmt.Errorf("issuer: %w", err)
			}
		}
		return nil
	case byRoot && infra && master && len(a.roles) == 1 && masterPattern.MatchString(a.user):
		return nil
	case infra != master:
		return fmt.Errorf("holder %q of group %q with roles %q: %w: group infra and role master go together", a.user, a.groups[0], a.roles, ErrReserved)
	case byRoot && a.groups[0] == GroupWitnesses && witnessPattern.MatchString(a.user):
		return nil
	}
	return CheckUnreserved(a.user, a.groups[0])
}

// checkPlace holds a node against the descriptor: its namespace exists, a
// master is the one in the roster, and nobody else has a master's address.
func (v *Verifier) checkPlace(a *attributes) error {
	n, ok := v.descriptor.Namespace(a.namespaces[0])
	if !ok {
		return fmt.Errorf("node of %s: %w: %q is not in the descriptor", a.user, ErrWrongNamespace, a.namespaces[0])
	}
	entry, listed := v.descriptor.Master(a.user)
	if slices.Contains(a.roles, RoleMaster) {
		want := []netip.Addr{entry.Address}
		if !listed || entry.ID != a.id || entry.Namespace != n.Name || !slices.Equal(a.rights.Addresses, want) {
			return fmt.Errorf("master %q %v in %s at %v: %w: there it is %v in %q at %v",
				a.user, a.id, n.Name, a.rights.Addresses, ErrRoster, entry.ID, entry.Namespace, want)
		}
		return nil
	}
	for _, addr := range a.rights.Addresses {
		if !v.descriptor.Leasable(n.Name, addr) {
			return fmt.Errorf("node of %s: %w: address %v, not one of %v that a node may have", a.user, ErrWrongRight, addr, n.Pool)
		}
	}
	return nil
}

func newHolder(h *verified) *Holder {
	return &Holder{
		Grid: h.grid, User: h.user, Group: h.groups[0], Roles: h.roles, Namespaces: h.namespaces,
		Rights: h.rights, Quota: h.quota, Serial: serialText(h.cert), Key: keyIDOfCert(h.cert),
		NotBefore: h.cert.NotBefore, NotAfter: h.cert.NotAfter,
	}
}

func newNode(a *attributes, c *x509.Certificate, key *ecdsa.PublicKey, holder *Holder) *Node {
	n := &Node{
		ID: a.id, Grid: a.grid, User: a.user, Group: a.groups[0], Roles: a.roles, Namespace: a.namespaces[0],
		Rights: a.rights, Quota: a.quota, Key: key, X25519: a.static, Instance: a.instance,
		Serial: serialText(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Holder: holder,
	}
	for _, r := range a.roles {
		if slices.Contains(machineRoles, r) {
			n.Role = r
		}
	}
	return n
}
