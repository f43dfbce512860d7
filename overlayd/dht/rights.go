package dht

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

// Kind says what a record is about.
type Kind uint8

// The kinds of records, and who may sign one. An owner's namespace must be the
// record's, where the record has one.
const (
	KindLocator     Kind = 1 // which address a node has; name: its ID. Itself
	KindName        Kind = 2 // a host name. Who Config.NameRight says
	KindService     Kind = 3 // an offer; name: the service. By serviceRoles
	KindRoute       Kind = 4 // a network behind a node; name: the prefix. Who may announce it
	KindMasters     Kind = 5 // the namespace's masters; no name. A master
	KindDescriptor  Kind = 6 // which descriptor is the newest; no namespace, no name. A master or witness
	KindRevocations Kind = 7 // which revocation lists are; likewise
)

// kindNames are the kinds' texts.
var kindNames = map[Kind]string{
	KindLocator: "locator", KindName: "name", KindService: "service", KindRoute: "route",
	KindMasters: "masters", KindDescriptor: "descriptor", KindRevocations: "revocations",
}

// ParseKind returns the kind of a text that String returned.
func ParseKind(text string) (Kind, bool) {
	for k, name := range kindNames {
		if name == text {
			return k, true
		}
	}
	return 0, false
}

func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// kinds has for each kind whether its records are also kept by witnesses
// (TRUST.md: "records the grid depends on"), and the usual lifetime.
var kinds = map[Kind]struct {
	witnessed bool
	lifetime  time.Duration
}{
	KindLocator:     {false, 600 * time.Second},
	KindName:        {true, 600 * time.Second},
	KindService:     {false, 600 * time.Second},
	KindRoute:       {false, 600 * time.Second},
	KindMasters:     {true, 600 * time.Second},
	KindDescriptor:  {true, 600 * time.Second},
	KindRevocations: {true, 600 * time.Second},
}

// serviceRoles says which roles may offer a service: those on which something
// rests. A service that is not listed may be offered by any member.
var serviceRoles = map[string][]credential.Role{
	"collector":  {credential.RoleMaster},
	"negotiator": {credential.RoleMaster},
	"issuer":     {credential.RoleMaster},
	"portal":     {credential.RoleMaster},
	"schedd":     {credential.RoleMaster, credential.RoleClient},
	"startd":     {credential.RoleWorker},
}

// Witnessed says whether witnesses keep records of the kind too.
func (k Kind) Witnessed() bool { return kinds[k].witnessed }

// Lifetime returns the usual lifetime of a kind's records.
func (k Kind) Lifetime() time.Duration { return kinds[k].lifetime }

// check returns ErrFormat when no record can have the name.
func (n Name) check() error {
	refuse := fmt.Errorf("record of kind %d, namespace %.40q, name %.70q: %w", n.Kind, n.Namespace, n.Name, ErrFormat)
	if _, known := kinds[n.Kind]; !known {
		return refuse
	}
	grid := n.Kind == KindDescriptor || n.Kind == KindRevocations
	if grid && n.Namespace != "" || !grid && credential.CheckNamespace(n.Namespace) != nil {
		return refuse
	}
	ok := false
	switch n.Kind {
	case KindLocator:
		_, err := nodeid.Parse(n.Name)
		ok = err == nil
	case KindRoute:
		p, err := netip.ParsePrefix(n.Name)
		ok = err == nil && p == p.Masked() && p.String() == n.Name
	case KindName, KindService:
		ok = plain(n.Name)
	default:
		ok = n.Name == ""
	}
	if !ok {
		return refuse
	}
	return nil
}

// plain says whether a name is 1 to 63 of a-z 0-9 - and no more.
func plain(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return len(name) >= 1 && len(name) <= 63
}

// NameRight says whether a node may have a host name, which its record's value
// proves (package lease): nil, or why not.
type NameRight func(n Name, owner *credential.Node, value []byte, now time.Time) error

// May returns nil when a node may keep a record, or what it would be refused
// for. Whoever stores the record judges for himself.
func (m *Machine) May(n Name, value []byte, owner *credential.Node, now time.Time) error {
	if err := n.check(); err != nil {
		return err
	}
	if len(value) == 0 || len(value) > MaxValue {
		return fmt.Errorf("record's value: %d bytes, want 1 to %d: %w", len(value), MaxValue, ErrFormat)
	}
	return checkRight(Record{Name: n, Owner: nodeid.ID(owner.ID), Value: value}, owner, m.cfg.NameRight, now)
}

// checkRight returns ErrRight unless the owner's certificate allows the record.
func checkRight(r Record, owner *credential.Node, right NameRight, now time.Time) error {
	refuse := fmt.Errorf("record of kind %d, name %q, by %s of %q, role %q: %w",
		r.Kind, r.Name.Name, owner.ID, owner.Namespace, owner.Role, ErrRight)
	if r.Owner != nodeid.ID(owner.ID) || r.Namespace != "" && r.Namespace != owner.Namespace {
		return refuse
	}
	allowed := false
	switch r.Kind {
	case KindLocator:
		allowed = r.Name.Name == r.Owner.String()
	case KindName:
		if right != nil {
			if err := right(r.Name, owner, r.Value, now); err != nil {
				return fmt.Errorf("%w: %w", refuse, err)
			}
			allowed = true
		}
	case KindService:
		roles, listed := serviceRoles[r.Name.Name]
		allowed = !listed || slices.Contains(roles, owner.Role)
	case KindRoute:
		allowed = mayRoute(r.Name.Name, owner.Rights)
	case KindMasters:
		allowed = owner.Role == credential.RoleMaster
	case KindDescriptor, KindRevocations:
		allowed = owner.Role == credential.RoleMaster || owner.Group == credential.GroupWitnesses
	}
	if !allowed {
		return refuse
	}
	return nil
}

func mayRoute(name string, rights credential.Rights) bool {
	p, err := netip.ParsePrefix(name)
	if err != nil {
		return false
	}
	if p.Bits() == 0 {
		return rights.Gateway
	}
	return slices.ContainsFunc(rights.Routes, func(r netip.Prefix) bool { return r.Bits() <= p.Bits() && r.Contains(p.Addr()) })
}
