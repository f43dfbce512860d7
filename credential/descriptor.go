package credential

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	descriptorLabel  = "GRID DESCRIPTOR"
	descriptorFormat = 1
	maxDescriptor    = 16 << 10 // bytes of the body; research/overlay.md: NSDESC
)

// Descriptor is what everybody in a grid agrees on, signed by the root: the
// file GRID.DSC. A Descriptor that came from ParseDescriptor is not to be
// changed: its signatures are over the bytes it was read from.
type Descriptor struct {
	Format     int           `json:"format"`  // of this structure: 1
	Version    uint64        `json:"version"` // from 1; the higher replaces the lower
	Grid       string        `json:"grid"`
	Issued     time.Time     `json:"issued"` // when it was signed; UTC, whole seconds
	Namespaces []Namespace   `json:"namespaces"`
	Epoch      uint64        `json:"epoch"` // of the roster: masters and witnesses
	Masters    []Master      `json:"masters"`
	Witnesses  []Witness     `json:"witnesses"`
	Bootstrap  []string      `json:"bootstrap"`        // host:port, UDP
	Roots      []Certificate `json:"roots"`            // two while one replaces the other
	CondorRoot Certificate   `json:"condor_root"`      // HTCondor trusts this one, and nothing else
	PolicyHash string        `json:"policy_hash"`      // SHA-256 as hexadecimal, or "": reserved
	Change     *Change       `json:"change,omitempty"` // from epoch 2: how the roster follows

	signed *signed
	roots  []*x509.Certificate
}

// Namespace is one virtual network.
type Namespace struct {
	Name      string       `json:"name"`
	Pool      netip.Prefix `json:"pool"` // its mask is the virtual network's mask
	Reserved  []Reserved   `json:"reserved"`
	LeaseTime int          `json:"lease_time"` // seconds between renewals; DHCP's lease
	HoldTime  int          `json:"hold_time"`  // seconds before an address may go to another
}

// Reserved is a pattern of addresses that are never leased: those equal to
// Address wherever Mask has a one. 0.0.0.1 / 0.0.0.255 is every x.x.x.1.
type Reserved struct {
	Address netip.Addr `json:"address"`
	Mask    netip.Addr `json:"mask"`
}

// Master is one master of the roster; its address is outside leasing.
type Master struct {
	Name      string     `json:"name"` // its holder's user: master-1
	Namespace string     `json:"namespace"`
	Address   netip.Addr `json:"address"`
	ID        NodeID     `json:"id"` // of its NODE.KEY
}

// Witness is a node whose vote counts for leases.
type Witness struct {
	Name string `json:"name"`
	ID   NodeID `json:"id"` // of its NODE.KEY
}

// ParseDescriptor decodes a descriptor and checks that it makes sense. It
// verifies no signature; call Verify. It accepts only what Text can return.
func ParseDescriptor(text []byte) (*Descriptor, error) {
	s, err := parseSigned(descriptorLabel, text, maxDescriptor)
	if err != nil {
		return nil, fmt.Errorf("descriptor: %w", err)
	}
	d := &Descriptor{}
	if err := decodeBody(s.body, d); err != nil {
		return nil, fmt.Errorf("descriptor: %w", err)
	}
	if d.Format != descriptorFormat {
		return nil, fmt.Errorf("descriptor: %w: format %d, only %d is known", ErrFormat, d.Format, descriptorFormat)
	}
	if problems := d.validate(); len(problems) > 0 {
		return nil, fmt.Errorf("descriptor: %w: %w", ErrFormat, problems)
	}
	d.signed = s
	return d, nil
}

// Text returns the descriptor as it is written to GRID.DSC, or nil when it was
// never signed.
func (d *Descriptor) Text() []byte {
	if d.signed == nil {
		return nil
	}
	return d.signed.text()
}

// Hash returns SHA-256 of the signed bytes: two descriptors are the same
// object when their hashes are equal, whatever their signatures.
func (d *Descriptor) Hash() [32]byte { return sha256.Sum256(d.signed.body) }

// CheckSignature returns nil when one of roots and one of the descriptor's own
// roots have signed it. With no roots given, its own suffice: that is how a
// machine takes the descriptor on its first floppy. It looks at no clock, so
// that a machine whose clock is wrong can learn from Issued how late it is.
func (d *Descriptor) CheckSignature(roots []Certificate) error {
	return d.checkSignature(roots, nil)
}

// Verify is CheckSignature by roots that are valid at now.
func (d *Descriptor) Verify(roots []Certificate, now time.Time) error {
	return d.checkSignature(roots, &now)
}

func (d *Descriptor) checkSignature(roots []Certificate, now *time.Time) error {
	if err := d.signedByOne(d.roots, now); err != nil {
		return err
	}
	if roots == nil {
		return nil
	}
	var certs []*x509.Certificate
	for _, r := range roots {
		c, err := parseCertificate(r)
		if err != nil {
			return fmt.Errorf("root: %w", err)
		}
		certs = append(certs, c)
	}
	return d.signedByOne(certs, now)
}

func (d *Descriptor) signedByOne(roots []*x509.Certificate, now *time.Time) error {
	what := fmt.Sprintf("descriptor version %d of grid %q", d.Version, d.Grid)
	var ids []string
	for _, root := range roots {
		key, err := p256Key(root)
		if err != nil {
			return err
		}
		if d.signed == nil || !d.signed.signedBy(key) {
			ids = append(ids, keyIDOfCert(root).String()[:16])
			continue
		}
		if now == nil {
			return nil
		}
		return checkValidity("root of "+what, root, *now)
	}
	return fmt.Errorf("%s: %w by any of the roots %v", what, ErrSignature, ids)
}

// sign fixes the body and signs it with every key; one of them must belong to
// a root of the descriptor that is replaced.
func (d *Descriptor) sign(keys ...*ecdsa.PrivateKey) error {
	d.Format = descriptorFormat
	d.Issued = d.Issued.UTC().Truncate(time.Second)
	if problems := d.validate(); len(problems) > 0 {
		return problems
	}
	body, err := encodeBody(d)
	if err != nil {
		return fmt.Errorf("descriptor: %w", err)
	}
	d.signed = &signed{label: descriptorLabel, body: body}
	for _, key := range keys {
		if err := d.signed.sign(key); err != nil {
			return err
		}
	}
	return nil
}

// CondorRootPEM returns HTCondor's root as text, for AUTH_SSL_*_CAFILE.
func (d *Descriptor) CondorRootPEM() []byte { return d.CondorRoot.PEM() }

// Namespace returns the namespace of that name, or false.
func (d *Descriptor) Namespace(name string) (Namespace, bool) {
	i := slices.IndexFunc(d.Namespaces, func(n Namespace) bool { return n.Name == name })
	if i < 0 {
		return Namespace{}, false
	}
	return d.Namespaces[i], true
}

// Master returns the roster's master of that name, or false.
func (d *Descriptor) Master(name string) (Master, bool) {
	i := slices.IndexFunc(d.Masters, func(m Master) bool { return m.Name == name })
	if i < 0 {
		return Master{}, false
	}
	return d.Masters[i], true
}

// Leasable reports whether witnesses may lease the address in the namespace:
// it is in the pool, not the network's or the broadcast address, matches no
// reserved pattern and is not a master's.
func (d *Descriptor) Leasable(namespace string, addr netip.Addr) bool {
	n, ok := d.Namespace(namespace)
	return ok && n.Usable(addr) && !slices.ContainsFunc(d.Masters, func(m Master) bool { return m.Address == addr })
}
