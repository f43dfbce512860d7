package credential

import (
	"bytes"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"slices"
)

// attributesOID names the extension that holds a certificate's attributes. See
// docs/decisions/0010-holder-extension.md for where the number comes from.
var attributesOID = asn1.ObjectIdentifier{1, 2, 840, 113556, 1, 8000, 2554, 9480, 19412, 41092, 19646, 37023, 1971854, 11938696, 1}

const (
	attributesVersion = 1
	maxAttributes     = 8 << 10 // bytes of the extension's value
	maxListed         = 64      // elements of each list in it
	defaultLeases     = 64      // TRUST "Leases": per-holder quota
	defaultRelayMbit  = 100     // TRUST "Relays": for other namespaces, Mbit/s
	maxQuota          = 1 << 20
)

// kind is a certificate's place in the chain.
type kind int

const (
	kindIssuer kind = 1
	kindHolder kind = 2
	kindNode   kind = 3
)

func (k kind) String() string {
	switch k {
	case kindIssuer:
		return "issuer"
	case kindHolder:
		return "holder"
	case kindNode:
		return "node"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Rights are what a holder may do beyond being a member. The zero value is
// what a worker or client normally has: nothing.
type Rights struct {
	Addresses []netip.Addr   // fixed virtual addresses it may take, outside leasing
	Routes    []netip.Prefix // networks behind it that it may announce
	Router    bool           // may lease addresses for machines on a LAN
	Gateway   bool           // may carry others' traffic to the internet
}

// Quota is counted over all nodes of one holder.
type Quota struct {
	Leases    int // addresses at one time; default 64
	RelayMbit int // Mbit/s relayed for other namespaces; default 100
}

// attributes is the decoded extension. Lists are sorted and without twins.
type attributes struct {
	kind       kind
	grid       string
	user       string   // "" in an issuer: any that is not reserved
	groups     []string // exactly one in a holder and in a node
	roles      []Role
	namespaces []string // exactly one in a node
	rights     Rights
	quota      Quota

	// nodes only
	id       NodeID
	static   [32]byte // X25519 public key of sessions
	instance string
}

// attributesDER is the extension's value as encoding/asn1 sees it; the order
// of its fields is the format.
type attributesDER struct {
	Version    int
	Kind       int
	Grid       asn1.RawValue
	User       asn1.RawValue
	Groups     []asn1.RawValue
	Roles      []asn1.RawValue
	Namespaces []asn1.RawValue
	Router     bool
	Gateway    bool
	Addresses  []asn1.RawValue
	Routes     []asn1.RawValue
	Leases     int
	RelayMbit  int
	ID         []byte
	Static     []byte
	Instance   asn1.RawValue
}

func utf8String(s string) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(s)}
}

func utf8Strings[T any](list []T, text func(T) string) []asn1.RawValue {
	values := make([]asn1.RawValue, len(list))
	for i, e := range list {
		values[i] = utf8String(text(e))
	}
	return values
}

func same(s string) string { return s }

// encode returns the extension's value.
func (a *attributes) encode() ([]byte, error) {
	d := attributesDER{
		Version:    attributesVersion,
		Kind:       int(a.kind),
		Grid:       utf8String(a.grid),
		User:       utf8String(a.user),
		Groups:     utf8Strings(a.groups, same),
		Roles:      utf8Strings(a.roles, func(r Role) string { return string(r) }),
		Namespaces: utf8Strings(a.namespaces, same),
		Router:     a.rights.Router,
		Gateway:    a.rights.Gateway,
		Addresses:  utf8Strings(a.rights.Addresses, netip.Addr.String),
		Routes:     utf8Strings(a.rights.Routes, netip.Prefix.String),
		Leases:     a.quota.Leases,
		RelayMbit:  a.quota.RelayMbit,
		Instance:   utf8String(a.instance),
	}
	if a.kind == kindNode {
		d.ID, d.Static = a.id[:], a.static[:]
	}
	return asn1.Marshal(d)
}

// decodeAttributes is the inverse of encode. It accepts exactly what encode
// can write: any other encoding of the same attributes is ErrFormat.
func decodeAttributes(value []byte) (*attributes, error) {
	if len(value) > maxAttributes {
		return nil, fmt.Errorf("attributes: %w: %d bytes, at most %d allowed", ErrFormat, len(value), maxAttributes)
	}
	var d attributesDER
	if rest, err := asn1.Unmarshal(value, &d); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("attributes: %w: not the DER of version %d (%d bytes left over, %v)", ErrFormat, attributesVersion, len(rest), err)
	}
	if d.Version != attributesVersion {
		return nil, fmt.Errorf("attributes: %w: version %d, only %d is known", ErrFormat, d.Version, attributesVersion)
	}
	a := &attributes{
		kind:       kind(d.Kind),
		grid:       string(d.Grid.Bytes),
		user:       string(d.User.Bytes),
		groups:     make([]string, len(d.Groups)),
		roles:      make([]Role, len(d.Roles)),
		namespaces: make([]string, len(d.Namespaces)),
		quota:      Quota{Leases: d.Leases, RelayMbit: d.RelayMbit},
		instance:   string(d.Instance.Bytes),
	}
	a.rights.Router, a.rights.Gateway = d.Router, d.Gateway
	for i, v := range d.Groups {
		a.groups[i] = string(v.Bytes)
	}
	for i, v := range d.Roles {
		a.roles[i] = Role(v.Bytes)
	}
	for i, v := range d.Namespaces {
		a.namespaces[i] = string(v.Bytes)
	}
	for _, v := range d.Addresses {
		addr, err := netip.ParseAddr(string(v.Bytes))
		if err != nil {
			return nil, fmt.Errorf("attributes: %w: address %q", ErrFormat, v.Bytes)
		}
		a.rights.Addresses = append(a.rights.Addresses, addr)
	}
	for _, v := range d.Routes {
		route, err := netip.ParsePrefix(string(v.Bytes))
		if err != nil {
			return nil, fmt.Errorf("attributes: %w: route %q", ErrFormat, v.Bytes)
		}
		a.rights.Routes = append(a.rights.Routes, route)
	}
	copy(a.id[:], d.ID)
	copy(a.static[:], d.Static)
	if err := a.check(); err != nil {
		return nil, err
	}
	if again, err := a.encode(); err != nil || !bytes.Equal(again, value) {
		return nil, fmt.Errorf("attributes: %w: not in canonical form", ErrFormat)
	}
	return a, nil
}

// normalise sorts the lists and drops twins, so that equal attributes have
// equal bytes.
func (a *attributes) normalise() {
	a.groups = sorted(a.groups, compareText)
	a.roles = sorted(a.roles, compareText)
	a.namespaces = sorted(a.namespaces, compareText)
	a.rights.Addresses = sorted(a.rights.Addresses, netip.Addr.Compare)
	a.rights.Routes = sorted(a.rights.Routes, comparePrefix)
}

func sorted[T comparable](list []T, compare func(a, b T) int) []T {
	list = slices.Clone(list)
	slices.SortFunc(list, compare)
	return slices.Compact(list)
}

func compareText[T ~string](a, b T) int { return bytes.Compare([]byte(a), []byte(b)) }

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// check holds for every certificate, whoever signed it: names are well
// written, lists sorted and short, and the kind has what it needs.
func (a *attributes) check() error {
	if a.kind != kindIssuer && a.kind != kindHolder && a.kind != kindNode {
		return fmt.Errorf("attributes: %w: %v", ErrFormat, a.kind)
	}
	if err := a.checkNames(); err != nil {
		return err
	}
	if len(a.roles) == 0 || len(a.namespaces) == 0 || len(a.groups) == 0 {
		return fmt.Errorf("attributes of %v: %w: groups, roles and namespaces may not be empty", a.kind, ErrFormat)
	}
	for _, n := range []int{len(a.groups), len(a.roles), len(a.namespaces), len(a.rights.Addresses), len(a.rights.Routes)} {
		if n > maxListed {
			return fmt.Errorf("attributes of %v: %w: a list of %d, at most %d allowed", a.kind, ErrFormat, n, maxListed)
		}
	}
	if !ascending(a.groups, compareText) || !ascending(a.roles, compareText) || !ascending(a.namespaces, compareText) ||
		!ascending(a.rights.Addresses, netip.Addr.Compare) || !ascending(a.rights.Routes, comparePrefix) {
		return fmt.Errorf("attributes of %v: %w: a list is not sorted or names something twice", a.kind, ErrFormat)
	}
	for _, r := range a.rights.Routes {
		if r != r.Masked() {
			return fmt.Errorf("attributes of %v: %w: route %v has host bits", a.kind, ErrFormat, r)
		}
	}
	for _, n := range []int{a.quota.Leases, a.quota.RelayMbit} {
		if n < 0 || n > maxQuota {
			return fmt.Errorf("attributes of %v: %w: quota %d, 0 to %d allowed", a.kind, ErrFormat, n, maxQuota)
		}
	}
	if a.kind != kindIssuer && len(a.groups) != 1 {
		return fmt.Errorf("attributes of %v: %w: %d groups, exactly one allowed", a.kind, ErrFormat, len(a.groups))
	}
	if a.kind == kindNode {
		return a.checkNode()
	}
	if a.instance != "" {
		return fmt.Errorf("attributes of %v: %w: instance %q, only a node has one", a.kind, ErrFormat, a.instance)
	}
	return nil
}

func (a *attributes) checkNames() error {
	if err := CheckGrid(a.grid); err != nil {
		return err
	}
	if a.kind == kindIssuer {
		if a.user != "" {
			return fmt.Errorf("attributes of issuer: %w: user %q, an issuer has none", ErrFormat, a.user)
		}
	} else if err := CheckUser(a.user); err != nil {
		return err
	}
	for _, g := range a.groups {
		if err := CheckGroup(g); err != nil {
			return err
		}
	}
	for _, n := range a.namespaces {
		if err := CheckNamespace(n); err != nil {
			return err
		}
	}
	for _, r := range a.roles {
		if err := checkName("role", string(r), namePattern, nameRule); err != nil {
			return err
		}
	}
	return nil
}

// checkNode: a node is one machine: one namespace, one machine role.
func (a *attributes) checkNode() error {
	if len(a.namespaces) != 1 {
		return fmt.Errorf("attributes of node: %w: %d namespaces, exactly one allowed", ErrFormat, len(a.namespaces))
	}
	n := 0
	for _, r := range a.roles {
		if slices.Contains(machineRoles, r) {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("attributes of node: %w: roles %q, exactly one of %q allowed", ErrFormat, a.roles, machineRoles)
	}
	if a.static == ([32]byte{}) {
		return fmt.Errorf("attributes of node: %w: no X25519 key", ErrFormat)
	}
	if !instancePattern.MatchString(a.instance) {
		return fmt.Errorf("attributes of node: %w: instance %q", ErrFormat, a.instance)
	}
	return nil
}

func ascending[T any](list []T, compare func(a, b T) int) bool {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return false
		}
	}
	return true
}

// within returns nil when a claims nothing that p does not have.
func (a *attributes) within(p *attributes) error {
	refuse := func(what string, has, may any, err error) error {
		return fmt.Errorf("%v certificate: %s %v, its %v has %v: %w", a.kind, what, has, p.kind, may, err)
	}
	if a.grid != p.grid {
		return refuse("grid", a.grid, p.grid, ErrWrongGrid)
	}
	if p.user != "" && a.user != p.user {
		return refuse("user", a.user, p.user, ErrWrongUser)
	}
	if !subset(a.groups, p.groups) {
		return refuse("groups", a.groups, p.groups, ErrWrongGroup)
	}
	if !subset(a.roles, p.roles) {
		return refuse("roles", a.roles, p.roles, ErrWrongRole)
	}
	if !subset(a.namespaces, p.namespaces) {
		return refuse("namespaces", a.namespaces, p.namespaces, ErrWrongNamespace)
	}
	if a.rights.Router && !p.rights.Router || a.rights.Gateway && !p.rights.Gateway ||
		!subset(a.rights.Addresses, p.rights.Addresses) || !routesWithin(a.rights.Routes, p.rights.Routes) {
		return refuse("rights", a.rights, p.rights, ErrWrongRight)
	}
	if a.quota.Leases > p.quota.Leases || a.quota.RelayMbit > p.quota.RelayMbit {
		return refuse("quota", a.quota, p.quota, ErrWrongRight)
	}
	return nil
}

func subset[T comparable](inner, outer []T) bool {
	for _, e := range inner {
		if !slices.Contains(outer, e) {
			return false
		}
	}
	return true
}

func routesWithin(inner, outer []netip.Prefix) bool {
	for _, r := range inner {
		if !slices.ContainsFunc(outer, func(o netip.Prefix) bool { return o.Bits() <= r.Bits() && o.Contains(r.Addr()) }) {
			return false
		}
	}
	return true
}
