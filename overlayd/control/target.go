package control

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"gridappliance/overlayd/nodeid"
)

// Target names a node: by virtual address, by name or by node ID. One of the
// three is set.
type Target struct {
	Address netip.Addr // IPv4 is not mapped into IPv6
	Name    string     // lower case, without Domain
	NodeID  nodeid.ID
}

// ParseTarget reads an address, 32 hex digits, or a host name: C250000002,
// C250000002.ipop, pc. The error says what is wanted.
func ParseTarget(text string) (Target, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return Target{Address: addr.Unmap()}, nil
	}
	if id, err := nodeid.Parse(strings.ToLower(text)); err == nil {
		return Target{NodeID: id}, nil
	}
	name := strings.TrimSuffix(strings.ToLower(strings.TrimSuffix(text, ".")), Domain)
	if !isLabel(name) {
		return Target{}, fmt.Errorf("%q: want a virtual address, a host name or a node ID", text)
	}
	return Target{Name: name}, nil
}

// isLabel says whether s is one DNS label in lower case (RFC 1123 §2.1).
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func (t Target) String() string {
	switch {
	case t.Address.IsValid():
		return t.Address.String()
	case t.Name != "":
		return t.Name + Domain
	}
	return t.NodeID.String()
}

// query is the target as the parameter of a request.
func (t Target) query() string {
	switch {
	case t.Address.IsValid():
		return "?addr=" + url.QueryEscape(t.Address.String())
	case t.Name != "":
		return "?name=" + url.QueryEscape(t.Name)
	}
	return "?node=" + t.NodeID.String()
}

// targetOf reads what query wrote.
func targetOf(q url.Values) (Target, error) {
	for kind := range q {
		if len(q) != 1 {
			break
		}
		t, err := ParseTarget(q.Get(kind))
		if err != nil {
			return Target{}, err
		}
		if !strings.HasPrefix(t.query(), "?"+kind+"=") {
			return Target{}, fmt.Errorf("%s %q: not of that kind", kind, q.Get(kind))
		}
		return t, nil
	}
	return Target{}, errors.New("want one of addr, name and node")
}
