package credential

import (
	"cmp"
	"crypto/x509/pkix"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gridappliance/internal/diag"
)

const (
	rootLifetime   = 10 * 365 * 24 * time.Hour
	masterLifetime = 2 * 365 * 24 * time.Hour // of a master's or witness's holder

	// DefaultHolderLifetime is how long a person's floppy is good.
	DefaultHolderLifetime = 90 * 24 * time.Hour
	// DefaultMasters is how many masters a grid has unless told otherwise: the
	// smallest number whose loss of one keeps new addresses coming.
	DefaultMasters = 3
)

// KindCondorIssuer is the ledger's word for a master's ISSUER.CRT.
const KindCondorIssuer = "condor-issuer"

// Grid is what a grid's founder keeps: the roots' keys, the descriptor, the
// revocation list and the ledger of what was signed. It is not safe for concurrent
// use; Save refuses to overwrite what another process has saved meanwhile.
type Grid struct {
	Descriptor  *Descriptor
	Revocations *RevocationList // nil before the first revocation
	Ledger      []Issued        // in the order of signing

	// Material is what the floppies of masters and witnesses need, right after
	// NewGrid; Save does not write it, because its keys belong on them only.
	Material []MasterMaterial

	root   signer
	condor signer
	loaded map[string][]byte // texts as LoadGrid found them
}

// Issued is one line of the ledger: a certificate that a root has signed.
type Issued struct {
	Serial     string    `json:"serial"`
	Kind       string    `json:"kind"` // issuer, holder or condor-issuer
	User       string    `json:"user,omitempty"`
	Groups     []string  `json:"groups,omitempty"`
	Roles      []Role    `json:"roles,omitempty"`
	Namespaces []string  `json:"namespaces,omitempty"`
	Key        KeyID     `json:"key"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
}

// GridOptions say what NewGrid makes. Name and Namespaces are required.
type GridOptions struct {
	Name       string
	Masters    int         // 0: DefaultMasters
	Namespaces []Namespace // masters live in the first; zero pool, lease and hold time: the defaults
	Bootstrap  []string    // host:port
}

// MasterMaterial is what a master's floppy holds beside GRID.TML and GRID.DSC,
// or a witness's, which has no issuer. The keys are nowhere else.
type MasterMaterial struct {
	Name       string
	Role       Role // master, or worker for a witness-only machine
	Namespace  string
	Address    netip.Addr // the zero value for a witness
	HolderCert []byte
	HolderKey  Secret
	NodeKey    Secret
	IssuerCert []byte
	IssuerKey  Secret
}

// withDefaults fills in what is zero.
func (n Namespace) withDefaults() Namespace {
	if !n.Pool.IsValid() {
		n.Pool = DefaultPool
	}
	if n.Reserved == nil {
		n.Reserved = []Reserved{EveryDotOne}
	}
	n.LeaseTime = cmp.Or(n.LeaseTime, DefaultLeaseTime)
	n.HoldTime = cmp.Or(n.HoldTime, max(DefaultHoldTime, n.LeaseTime))
	return n
}

// check returns everything that is wrong with the options.
func (o GridOptions) check() diag.List {
	var l diag.List
	if err := CheckGrid(o.Name); err != nil {
		l.Add(diag.Problem{Path: "name", Message: err.Error(), Remedy: "choose a name such as archer"})
	}
	if o.Masters < 1 || o.Masters > maxMasters {
		l.Add(diag.Problem{Path: "masters", Message: fmt.Sprintf("%d masters, 1 to %d allowed", o.Masters, maxMasters), Remedy: "3 survive the loss of one"})
	}
	if len(o.Namespaces) == 0 {
		l.Add(diag.Problem{Path: "namespaces", Message: "none given", Remedy: "name one"})
		return l
	}
	bad := false
	for _, n := range o.Namespaces {
		problems := n.validate()
		bad = bad || len(problems) > 0
		l = append(l, problems...)
	}
	if n := o.Namespaces[0]; !bad && len(n.firstAddresses(o.Masters+1)) <= o.Masters {
		l.Add(diag.Problem{Path: "pool", Message: fmt.Sprintf("%v has no room for %d masters and one more machine", n.Pool, o.Masters), Remedy: "use a wider pool or reserve less"})
	}
	return l
}

// NewGrid makes a grid: its roots, its descriptor of version 1, and the
// material of every master and, for two masters, of one witness-only machine.
// What is wrong with the options is returned at once as a diag.List. Nothing is
// written; see Save.
func NewGrid(o GridOptions, now time.Time) (*Grid, error) {
	o.Masters = cmp.Or(o.Masters, DefaultMasters)
	o.Namespaces = slices.Clone(o.Namespaces)
	for i := range o.Namespaces {
		o.Namespaces[i] = o.Namespaces[i].withDefaults()
	}
	if problems := o.check(); len(problems) > 0 {
		return nil, problems
	}
	g := &Grid{}
	var err error
	if g.root, err = newRoot(o.Name, "grid root", rootPathLength, now); err != nil {
		return nil, err
	}
	if g.condor, err = newRoot(o.Name, "HTCondor root", condorRootPathLength, now); err != nil {
		return nil, err
	}
	d := &Descriptor{
		Version: 1, Grid: o.Name, Issued: now, Namespaces: o.Namespaces, Epoch: 1, Bootstrap: o.Bootstrap,
		Roots: []Certificate{g.root.cert.Raw}, CondorRoot: g.condor.cert.Raw,
	}
	if g.Material, err = newRoster(d, o.Masters); err != nil {
		return nil, err
	}
	if err := d.sign(g.root.key); err != nil {
		return nil, err
	}
	g.Descriptor = d
	for i := range g.Material {
		if err := g.issueMaterial(&g.Material[i], now); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// newRoster makes the node keys of masters and witnesses and enters them.
func newRoster(d *Descriptor, masters int) ([]MasterMaterial, error) {
	first := d.Namespaces[0]
	var list []MasterMaterial
	for i, addr := range first.firstAddresses(masters) {
		list = append(list, MasterMaterial{Name: fmt.Sprintf("master-%d", i+1), Role: RoleMaster, Namespace: first.Name, Address: addr})
	}
	if masters == 2 { // a majority of two survives no loss, of three it does
		list = append(list, MasterMaterial{Name: "witness-1", Role: RoleWorker, Namespace: first.Name})
	}
	for i := range list {
		m := &list[i]
		key, err := NewKey()
		if err != nil {
			return nil, err
		}
		if m.NodeKey, err = FormatKey(key); err != nil {
			return nil, err
		}
		id := NodeIDOf(&key.PublicKey)
		d.Witnesses = append(d.Witnesses, Witness{m.Name, id})
		if m.Role == RoleMaster {
			d.Masters = append(d.Masters, Master{m.Name, m.Namespace, m.Address, id})
		}
	}
	return list, nil
}

func newRoot(grid, name string, pathLength int, now time.Time) (signer, error) {
	key, err := NewKey()
	if err != nil {
		return signer{}, err
	}
	b := blank{
		subject:   pkix.Name{Organization: []string{grid}, CommonName: grid + " " + name},
		notBefore: now.Add(-backdate), notAfter: now.Add(rootLifetime), ca: true, pathLength: pathLength,
	}
	cert, err := b.make(&key.PublicKey, signer{nil, key})
	return signer{cert, key}, err
}

// issueMaterial signs a master's or witness's holder and, for a master, its
// issuer of HTCondor credentials.
func (g *Grid) issueMaterial(m *MasterMaterial, now time.Time) error {
	a := &attributes{
		kind: kindHolder, user: m.Name, groups: []string{GroupWitnesses}, roles: []Role{m.Role}, namespaces: []string{m.Namespace},
		quota: Quota{Leases: defaultLeases, RelayMbit: defaultRelayMbit},
	}
	if m.Role == RoleMaster {
		a.groups, a.rights.Addresses = []string{GroupInfra}, []netip.Addr{m.Address}
	}
	var err error
	if m.HolderCert, m.HolderKey, err = g.issue(a, masterLifetime, now); err != nil || m.Role != RoleMaster {
		return err
	}
	key, err := NewKey()
	if err != nil {
		return err
	}
	b := blank{
		subject:   pkix.Name{Organization: []string{g.Descriptor.Grid}, CommonName: "HTCondor issuer of " + m.Name},
		notBefore: now.Add(-backdate), notAfter: now.Add(IssuerLifetime), ca: true, pathLength: condorIssuerPathLength,
	}
	cert, err := b.make(&key.PublicKey, g.condor)
	if err != nil {
		return err
	}
	g.Ledger = append(g.Ledger, Issued{
		Serial: serialText(cert), Kind: KindCondorIssuer, User: m.Name, Key: keyIDOfCert(cert), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
	})
	m.IssuerCert = Certificate(cert.Raw).PEM()
	m.IssuerKey, err = FormatKey(key)
	return err
}
