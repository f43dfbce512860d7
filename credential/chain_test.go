package credential

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is a grid with one holder alice, signed by the root, and one issuer,
// both with everything that a rule can take away.
type world struct {
	grid   *Grid
	issuer signer
	holder signer // signed by the root
	issued signer // signed by the issuer
	key    *ecdsa.PrivateKey
}

func newWorld(t *testing.T) *world {
	t.Helper()
	g, err := NewGrid(GridOptions{
		Name: "archer",
		Namespaces: []Namespace{
			{Name: "one", Pool: netip.MustParsePrefix("10.250.0.0/16")},
			{Name: "two", Pool: netip.MustParsePrefix("10.251.0.0/16")},
			{Name: "three", Pool: netip.MustParsePrefix("10.252.0.0/16")},
		},
	}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{grid: g, key: newTestKey(t)}
	w.issuer = forge(t, issuerAttributes(), g.root, nil)
	w.holder = forge(t, holderAttributes(), g.root, nil)
	w.issued = forge(t, holderAttributes(), w.issuer, nil)
	return w
}

func issuerAttributes() *attributes {
	return &attributes{
		kind: kindIssuer, grid: "archer", groups: []string{"chemistry", "physics"},
		roles: []Role{RoleClient, RoleWorker}, namespaces: []string{"one", "two"},
		rights: testRights(), quota: Quota{Leases: 64, RelayMbit: 100},
	}
}

func holderAttributes() *attributes {
	return &attributes{
		kind: kindHolder, grid: "archer", user: "alice", groups: []string{"physics"},
		roles: []Role{RoleWorker}, namespaces: []string{"one"},
		rights: Rights{Addresses: []netip.Addr{netip.MustParseAddr("10.250.9.9")}, Routes: []netip.Prefix{netip.MustParsePrefix("192.168.8.0/24")}},
		quota:  Quota{Leases: 10, RelayMbit: 10},
	}
}

func testRights() Rights {
	return Rights{
		Addresses: []netip.Addr{netip.MustParseAddr("10.250.9.9")},
		Routes:    []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")},
	}
}

func (w *world) nodeAttributes() *attributes {
	return &attributes{
		kind: kindNode, grid: "archer", user: "alice", groups: []string{"physics"},
		roles: []Role{RoleWorker}, namespaces: []string{"one"},
		quota: Quota{Leases: 10, RelayMbit: 10},
		id:    NodeIDOf(&w.key.PublicKey), static: [32]byte{1}, instance: "machine-1",
	}
}

func newTestKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// forge signs what no code of the package would: attributes are not checked,
// and change may do anything to the certificate.
func forge(t testing.TB, a *attributes, by signer, change func(*x509.Certificate)) signer {
	return forgeFor(t, newTestKey(t), a, by, change)
}

func forgeFor(t testing.TB, key *ecdsa.PrivateKey, a *attributes, by signer, change func(*x509.Certificate)) signer {
	t.Helper()
	value, err := a.encode()
	if err != nil {
		t.Fatal(err)
	}
	serial, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	id := KeyIDOf(&key.PublicKey)
	c := &x509.Certificate{
		SerialNumber: serial, Subject: a.subject(), SubjectKeyId: id[:20], SignatureAlgorithm: x509.ECDSAWithSHA256,
		NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(23 * time.Hour),
		BasicConstraintsValid: true, IsCA: a.kind != kindNode, MaxPathLen: 1, KeyUsage: x509.KeyUsageCertSign,
		ExtraExtensions: []pkix.Extension{{Id: attributesOID, Critical: true, Value: value}},
	}
	switch a.kind {
	case kindHolder:
		c.MaxPathLen, c.MaxPathLenZero = 0, true
	case kindNode:
		c.MaxPathLen, c.KeyUsage = 0, x509.KeyUsageDigitalSignature
	}
	if change != nil {
		change(c)
	}
	var public any = &key.PublicKey
	if c.PublicKey != nil {
		public = c.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by.cert, public, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signer{cert, key}
}

func chainOf(signers ...signer) Chain {
	var c Chain
	for _, s := range signers {
		c = append(c, s.cert.Raw)
	}
	return c
}

func (w *world) verifier(t testing.TB, lists ...*RevocationList) *Verifier {
	t.Helper()
	v, err := NewVerifier(w.grid.Descriptor, lists...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantRefusal checks the sentinel, and that the message names both values.
func wantRefusal(t *testing.T, err, want error, values ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	for _, v := range values {
		if !strings.Contains(err.Error(), v) {
			t.Errorf("error %q does not name %q", err, v)
		}
	}
}

// rule is one way to break a certificate that is otherwise good.
type rule struct {
	name   string
	change func(a *attributes)
	cert   func(c *x509.Certificate)
	want   error
	values []string // both, in the message
}

// certificateRules hold for every place in the chain.
var certificateRules = []rule{
	{name: "wrong grid", change: func(a *attributes) { a.grid = "rover" }, want: ErrWrongGrid, values: []string{"rover", "archer"}},
	{name: "expired", cert: func(c *x509.Certificate) { c.NotAfter = testTime.Add(-time.Second) }, want: ErrExpired,
		values: []string{"2026-11-21T11:59:59Z", "2026-11-21T12:00:00Z"}},
	{name: "not yet valid", cert: func(c *x509.Certificate) { c.NotBefore = testTime.Add(time.Second) }, want: ErrNotYetValid,
		values: []string{"2026-11-21T12:00:01Z", "2026-11-21T12:00:00Z"}},
	{name: "unknown critical extension", cert: func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})
	}, want: ErrCritical, values: []string{"1.2.3.4"}},
	{name: "name constraints, critical, which crypto/x509 handles only in Verify", cert: func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"example.org"}, true
	}, want: ErrCritical, values: []string{"2.5.29.30"}},
	{name: "attributes not critical", cert: func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false }, want: ErrCritical},
	{name: "no attributes", cert: func(c *x509.Certificate) { c.ExtraExtensions = nil }, want: ErrCritical},
	{name: "attributes garbled", cert: func(c *x509.Certificate) { c.ExtraExtensions[0].Value = append(c.ExtraExtensions[0].Value, 0) }, want: ErrFormat},
	{name: "subject is another's", cert: func(c *x509.Certificate) { c.Subject.CommonName = "C250000002.ipop" }, want: ErrFormat, values: []string{"C250000002.ipop"}},
	{name: "key of another curve", cert: func(c *x509.Certificate) {
		key, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		c.PublicKey = &key.PublicKey
	}, want: ErrKey, values: []string{"P-256"}},
	{name: "more key usage", cert: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, want: ErrPathLength},
	{name: "no basic constraints", cert: func(c *x509.Certificate) { c.BasicConstraintsValid = false }, want: ErrPathLength},
}

func TestVerifyNodeRefuses(t *testing.T) {
	w := newWorld(t)
	now := func(f func(a *attributes)) func(*attributes) { return f }
	rules := append(slices.Clone(certificateRules), []rule{
		{name: "other user", change: now(func(a *attributes) { a.user = "bob" }), want: ErrWrongUser, values: []string{"bob", "alice"}},
		{name: "other group", change: now(func(a *attributes) { a.groups = []string{"chemistry"} }), want: ErrWrongGroup, values: []string{"chemistry", "physics"}},
		{name: "reserved group", change: now(func(a *attributes) { a.groups = []string{GroupInfra} }), want: ErrWrongGroup, values: []string{"infra", "physics"}},
		{name: "two groups", change: now(func(a *attributes) { a.groups = []string{"chemistry", "physics"} }), want: ErrFormat},
		{name: "other namespace", change: now(func(a *attributes) { a.namespaces = []string{"two"} }), want: ErrWrongNamespace, values: []string{"two", "one"}},
		{name: "two namespaces", change: now(func(a *attributes) { a.namespaces = []string{"one", "two"} }), want: ErrFormat},
		{name: "more role: client", change: now(func(a *attributes) { a.roles = []Role{RoleClient} }), want: ErrWrongRole, values: []string{"client", "worker"}},
		{name: "more role: master", change: now(func(a *attributes) { a.roles = []Role{RoleMaster} }), want: ErrWrongRole, values: []string{"master", "worker"}},
		{name: "more role: waypoint", change: now(func(a *attributes) { a.roles = []Role{RoleWaypoint, RoleWorker} }), want: ErrWrongRole, values: []string{"waypoint"}},
		{name: "no machine role", change: now(func(a *attributes) { a.roles = []Role{RoleWaypoint} }), want: ErrFormat},
		{name: "more right: router", change: now(func(a *attributes) { a.rights.Router = true }), want: ErrWrongRight},
		{name: "more right: gateway", change: now(func(a *attributes) { a.rights.Gateway = true }), want: ErrWrongRight},
		{name: "more right: address", change: now(func(a *attributes) { a.rights.Addresses = []netip.Addr{netip.MustParseAddr("10.250.0.2")} }), want: ErrWrongRight,
			values: []string{"10.250.0.2", "10.250.9.9"}},
		{name: "more right: wider route", change: now(func(a *attributes) { a.rights.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.8.0/23")} }), want: ErrWrongRight,
			values: []string{"192.168.8.0/23", "192.168.8.0/24"}},
		{name: "more right: other route", change: now(func(a *attributes) { a.rights.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.9.0/24")} }), want: ErrWrongRight},
		{name: "more right: leases", change: now(func(a *attributes) { a.quota.Leases = 11 }), want: ErrWrongRight, values: []string{"11", "10"}},
		{name: "more right: relaying", change: now(func(a *attributes) { a.quota.RelayMbit = 11 }), want: ErrWrongRight},
		{name: "ID of another key", change: now(func(a *attributes) { a.id[0] ^= 1 }), want: ErrKey},
		{name: "no session key", change: now(func(a *attributes) { a.static = [32]byte{} }), want: ErrFormat},
		{name: "no instance", change: now(func(a *attributes) { a.instance = "" }), want: ErrFormat},
		{name: "a holder in its place", change: now(func(a *attributes) { a.kind = kindHolder; a.instance = "" }), want: ErrPathLength},
		{name: "certificate authority", cert: func(c *x509.Certificate) { c.IsCA = true }, want: ErrPathLength},
		{name: "longer than a day", cert: func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(NodeLifetime + time.Second) }, want: ErrLifetime,
			values: []string{"24h0m1s", "24h0m0s"}},
	}...)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, holder := range []struct {
				name  string
				above []signer
			}{{"holder by root", []signer{w.holder}}, {"holder by issuer", []signer{w.issued, w.issuer}}} {
				a := w.nodeAttributes()
				if r.change != nil {
					r.change(a)
				}
				node := forgeFor(t, w.key, a, holder.above[0], r.cert)
				_, err := w.verifier(t).VerifyNode(chainOf(append([]signer{node}, holder.above...)...), testTime)
				wantRefusal(t, err, r.want, r.values...)
			}
		})
	}
}

func TestVerifyNodeAccepts(t *testing.T) {
	w := newWorld(t)
	w.holder = forge(t, func() *attributes {
		a := holderAttributes()
		a.roles = []Role{RoleClient, RoleWaypoint, RoleWorker}
		a.rights.Router = true
		return a
	}(), w.grid.root, nil)
	a := w.nodeAttributes()
	a.roles = []Role{RoleClient, RoleWaypoint}
	a.rights = Rights{Addresses: []netip.Addr{netip.MustParseAddr("10.250.9.9")}, Routes: []netip.Prefix{netip.MustParsePrefix("192.168.8.128/25")}, Router: true}
	a.quota.Leases = 3
	node := forgeFor(t, w.key, a, w.holder, nil)
	got, err := w.verifier(t).VerifyNode(chainOf(node, w.holder), testTime)
	if err != nil {
		t.Fatal(err)
	}
	want := &Node{
		ID: NodeIDOf(&w.key.PublicKey), Grid: "archer", User: "alice", Group: "physics", Role: RoleClient, Roles: a.roles,
		Namespace: "one", Rights: a.rights, Quota: Quota{Leases: 3, RelayMbit: 10}, Key: &w.key.PublicKey, X25519: [32]byte{1}, Instance: "machine-1",
		Serial: serialText(node.cert), NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(23 * time.Hour),
		Holder: &Holder{
			Grid: "archer", User: "alice", Group: "physics", Roles: []Role{RoleClient, RoleWaypoint, RoleWorker}, Namespaces: []string{"one"},
			Rights: Rights{Addresses: a.rights.Addresses, Routes: []netip.Prefix{netip.MustParsePrefix("192.168.8.0/24")}, Router: true},
			Quota:  Quota{Leases: 10, RelayMbit: 10}, Serial: serialText(w.holder.cert), Key: keyIDOfCert(w.holder.cert),
			NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(23 * time.Hour),
		},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	for _, at := range []time.Time{node.cert.NotBefore, node.cert.NotAfter} {
		if _, err := w.verifier(t).VerifyNode(chainOf(node, w.holder), at); err != nil {
			t.Errorf("at its very first or last second: %v", err)
		}
	}
}

func TestVerifyHolderRefuses(t *testing.T) {
	w := newWorld(t)
	rules := append(slices.Clone(certificateRules), []rule{
		{name: "group infra without role master", change: func(a *attributes) { a.groups = []string{GroupInfra} }, want: ErrReserved},
		{name: "role master without group infra", change: func(a *attributes) { a.roles = []Role{RoleMaster} }, want: ErrReserved},
		{name: "master with a person's name", change: func(a *attributes) { a.groups, a.roles = []string{GroupInfra}, []Role{RoleMaster} }, want: ErrReserved, values: []string{"infra"}},
		{name: "master with a second role", change: func(a *attributes) {
			a.user, a.groups, a.roles = "master-1", []string{GroupInfra}, []Role{RoleMaster, RoleWorker}
		}, want: ErrReserved},
		{name: "group condor", change: func(a *attributes) { a.groups = []string{"condor"} }, want: ErrReserved, values: []string{"condor"}},
		{name: "group root", change: func(a *attributes) { a.groups = []string{"root"} }, want: ErrReserved},
		{name: "user C and nine digits", change: func(a *attributes) { a.user = "c250000002" }, want: ErrReserved, values: []string{"c250000002"}},
		{name: "user master*", change: func(a *attributes) { a.user = "masterpiece" }, want: ErrReserved},
		{name: "user witness*", change: func(a *attributes) { a.user = "witness-9" }, want: ErrReserved},
		{name: "user root", change: func(a *attributes) { a.user = "root" }, want: ErrReserved},
		{name: "user in capitals", change: func(a *attributes) { a.user = "C250000002" }, want: ErrFormat},
		{name: "issuer's attributes in a holder's shape", change: func(a *attributes) { a.kind, a.user = kindIssuer, "" }, cert: func(c *x509.Certificate) {
			c.MaxPathLen, c.MaxPathLenZero = 0, true
		}, want: ErrPathLength, values: []string{"issuer", "holder"}},
		{name: "no role", change: func(a *attributes) { a.roles = nil }, want: ErrFormat},
		{name: "no namespace", change: func(a *attributes) { a.namespaces = nil }, want: ErrFormat},
		{name: "unsorted roles", change: func(a *attributes) { a.roles = []Role{RoleWorker, RoleClient} }, want: ErrFormat},
		{name: "a namespace twice", change: func(a *attributes) { a.namespaces = []string{"one", "one"} }, want: ErrFormat},
		{name: "route with host bits", change: func(a *attributes) { a.rights.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.8.1/24")} }, want: ErrFormat},
		{name: "path length 1", cert: func(c *x509.Certificate) { c.MaxPathLen = 1 }, want: ErrPathLength, values: []string{"length 1"}},
		{name: "no path length", cert: func(c *x509.Certificate) { c.MaxPathLen = -1 }, want: ErrPathLength},
		{name: "no certificate authority", cert: func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }, want: ErrPathLength},
		{name: "an issuer in its place", change: func(a *attributes) { a.kind, a.user = kindIssuer, "" }, want: ErrPathLength},
	}...)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			a := holderAttributes()
			if r.change != nil {
				r.change(a)
			}
			holder := forge(t, a, w.grid.root, r.cert)
			_, err := w.verifier(t).VerifyHolder(chainOf(holder), testTime)
			wantRefusal(t, err, r.want, r.values...)

			if r.want == ErrKey { // nothing can be signed below it
				return
			}
			// The refusal reaches a node below it.
			node := forgeFor(t, w.key, w.nodeAttributes(), holder, nil)
			_, err = w.verifier(t).VerifyNode(chainOf(node, holder), testTime)
			wantRefusal(t, err, r.want)
		})
	}
	if _, err := w.verifier(t).VerifyHolder(chainOf(w.holder), testTime); err != nil {
		t.Errorf("control: %v", err)
	}
}

// An issuer's limits, seen from the holders below it.
func TestIssuerLimits(t *testing.T) {
	w := newWorld(t)
	for _, r := range []rule{
		{name: "group it does not have", change: func(a *attributes) { a.groups = []string{"biology"} }, want: ErrWrongGroup, values: []string{"biology", "chemistry physics"}},
		{name: "namespace it does not have", change: func(a *attributes) { a.namespaces = []string{"three"} }, want: ErrWrongNamespace, values: []string{"three", "one two"}},
		{name: "role master", change: func(a *attributes) { a.user, a.groups, a.roles = "master-1", []string{"physics"}, []Role{RoleMaster} }, want: ErrWrongRole, values: []string{"master"}},
		{name: "group infra", change: func(a *attributes) { a.groups = []string{GroupInfra} }, want: ErrWrongGroup},
		{name: "a master's name", change: func(a *attributes) { a.user = "master-1" }, want: ErrReserved},
		{name: "a witness's name", change: func(a *attributes) { a.user = "witness-1" }, want: ErrReserved},
		{name: "role publisher", change: func(a *attributes) { a.roles = []Role{RolePublisher, RoleWorker} }, want: ErrWrongRole},
		{name: "right router", change: func(a *attributes) { a.rights.Router = true }, want: ErrWrongRight},
		{name: "right gateway", change: func(a *attributes) { a.rights.Gateway = true }, want: ErrWrongRight},
		{name: "address", change: func(a *attributes) { a.rights.Addresses = []netip.Addr{netip.MustParseAddr("10.250.9.8")} }, want: ErrWrongRight},
		{name: "route", change: func(a *attributes) { a.rights.Routes = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/16")} }, want: ErrWrongRight},
		{name: "quota", change: func(a *attributes) { a.quota.Leases = 65 }, want: ErrWrongRight},
	} {
		t.Run("holder: "+r.name, func(t *testing.T) {
			a := holderAttributes()
			r.change(a)
			_, err := w.verifier(t).VerifyHolder(chainOf(forge(t, a, w.issuer, nil), w.issuer), testTime)
			wantRefusal(t, err, r.want, r.values...)
		})
	}
	for _, r := range append(slices.Clone(certificateRules), []rule{
		{name: "role master", change: func(a *attributes) { a.roles = []Role{RoleMaster, RoleWorker} }, want: ErrWrongRole, values: []string{"master", "worker"}},
		{name: "role publisher", change: func(a *attributes) { a.roles = []Role{RolePublisher} }, want: ErrWrongRole},
		{name: "group infra", change: func(a *attributes) { a.groups = []string{GroupInfra} }, want: ErrReserved},
		{name: "group condor", change: func(a *attributes) { a.groups = []string{"condor", "physics"} }, want: ErrReserved},
		{name: "a user", change: func(a *attributes) { a.user = "alice" }, want: ErrFormat},
		{name: "no group", change: func(a *attributes) { a.groups = nil }, want: ErrFormat},
		{name: "path length 2", cert: func(c *x509.Certificate) { c.MaxPathLen = 2 }, want: ErrPathLength},
		{name: "path length 0", cert: func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }, want: ErrPathLength},
	}...) {
		t.Run("issuer: "+r.name, func(t *testing.T) {
			a := issuerAttributes()
			if r.change != nil {
				r.change(a)
			}
			issuer := forge(t, a, w.grid.root, r.cert)
			if r.want == ErrKey { // nothing can be signed below it
				_, err := w.verifier(t).VerifyHolder(chainOf(w.issued, issuer), testTime)
				wantRefusal(t, err, r.want, r.values...)
				return
			}
			_, err := w.verifier(t).VerifyHolder(chainOf(forge(t, holderAttributes(), issuer, nil), issuer), testTime)
			wantRefusal(t, err, r.want, r.values...)
		})
	}
	if _, err := w.verifier(t).VerifyHolder(chainOf(w.issued, w.issuer), testTime); err != nil {
		t.Errorf("control: %v", err)
	}
}

func TestPathLength(t *testing.T) {
	w := newWorld(t)
	second := forge(t, holderAttributes(), w.holder, nil)
	subIssuer := forge(t, issuerAttributes(), w.issuer, nil)
	below := forge(t, holderAttributes(), subIssuer, nil)
	for _, tt := range []struct {
		name  string
		chain []signer
	}{
		{"holder signs a holder", []signer{second, w.holder}},
		{"issuer signs an issuer", []signer{below, subIssuer}},
		{"issuer signs an issuer, whole chain", []signer{below, subIssuer, w.issuer}},
		{"issuer signs a node", []signer{w.issuer}},
		{"root signs a node", nil},
		{"node signs a node", []signer{forge(t, w.nodeAttributes(), w.holder, nil), w.holder}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			by := w.grid.root
			if len(tt.chain) > 0 {
				by = tt.chain[0]
			}
			node := forgeFor(t, w.key, w.nodeAttributes(), by, nil)
			_, err := w.verifier(t).VerifyNode(chainOf(append([]signer{node}, tt.chain...)...), testTime)
			if !errors.Is(err, ErrPathLength) && !errors.Is(err, ErrWrongGrid) {
				t.Errorf("got %v, want ErrPathLength or ErrWrongGrid", err)
			}
		})
	}
}

// What follows a good holder in a chain is not ignored.
func TestLongChain(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	_, err := v.VerifyHolder(chainOf(w.holder, w.issuer, w.issuer), testTime)
	wantRefusal(t, err, ErrPathLength)
	_, err = v.VerifyHolder(chainOf(w.holder, w.issuer), testTime)
	wantRefusal(t, err, ErrSignature)
	node := forgeFor(t, w.key, w.nodeAttributes(), w.holder, nil)
	for _, chain := range []Chain{nil, chainOf(node), chainOf(node, w.holder, w.issuer, w.issuer)} {
		_, err = v.VerifyNode(chain, testTime)
		wantRefusal(t, err, ErrPathLength)
	}
}

func TestCheckReserved(t *testing.T) {
	holder := func(user, group string, role Role) *attributes {
		a := holderAttributes()
		a.user, a.groups, a.roles = user, []string{group}, []Role{role}
		return a
	}
	for _, tt := range []struct {
		a              *attributes
		byRoot, issued error
	}{
		{holder("alice", "physics", RoleWorker), nil, nil},
		{holder("master-1", "infra", RoleMaster), nil, ErrReserved},
		{holder("master-100", "infra", RoleMaster), ErrReserved, ErrReserved},
		{holder("witness-1", "witnesses", RoleWorker), nil, ErrReserved},
		{holder("witness-1", "physics", RoleWorker), ErrReserved, ErrReserved},
	} {
		for byRoot, want := range map[bool]error{true: tt.byRoot, false: tt.issued} {
			if err := checkReserved(tt.a, byRoot); !errors.Is(err, want) {
				t.Errorf("user %s group %s, by root %v: got %v, want %v", tt.a.user, tt.a.groups, byRoot, err, want)
			}
		}
	}
}

// Where a node stands in the descriptor, whatever a root has signed for it.
func TestPlace(t *testing.T) {
	w := newWorld(t)
	material := w.grid.Material[0]
	masterKey, err := ParseKey(material.NodeKey)
	if err != nil {
		t.Fatal(err)
	}
	addresses := func(list ...string) (r []netip.Addr) {
		for _, s := range list {
			r = append(r, netip.MustParseAddr(s))
		}
		return r
	}
	master := func(a *attributes) { a.user, a.groups, a.roles = "master-1", []string{GroupInfra}, []Role{RoleMaster} }
	all := addresses("10.249.0.9", "10.250.0.1", "10.250.0.2", "10.250.0.3", "10.250.9.9")
	for _, tt := range []struct {
		name   string
		key    *ecdsa.PrivateKey
		change func(node *attributes)
		want   error
	}{
		{"control: a person's fixed address", w.key, func(a *attributes) { a.rights.Addresses = addresses("10.250.9.9") }, nil},
		{"a master's address", w.key, func(a *attributes) { a.rights.Addresses = addresses("10.250.0.2") }, ErrWrongRight},
		{"a reserved address", w.key, func(a *attributes) { a.rights.Addresses = addresses("10.250.0.1") }, ErrWrongRight},
		{"an address outside the pool", w.key, func(a *attributes) { a.rights.Addresses = addresses("10.249.0.9") }, ErrWrongRight},
		{"a namespace the descriptor does not have", w.key, func(a *attributes) { a.namespaces = []string{"four"} }, ErrWrongNamespace},
		{"control: master", masterKey, func(a *attributes) { master(a); a.rights.Addresses = addresses("10.250.0.2") }, nil},
		{"master with another key", w.key, func(a *attributes) { master(a); a.rights.Addresses = addresses("10.250.0.2") }, ErrRoster},
		{"master at another's address", masterKey, func(a *attributes) { master(a); a.rights.Addresses = addresses("10.250.0.3") }, ErrRoster},
		{"master at two addresses", masterKey, func(a *attributes) { master(a); a.rights.Addresses = addresses("10.250.0.2", "10.250.0.3") }, ErrRoster},
		{"master without its address", masterKey, master, ErrRoster},
		{"master in another namespace", masterKey, func(a *attributes) {
			master(a)
			a.rights.Addresses = addresses("10.250.0.2")
			a.namespaces = []string{"two"}
		}, ErrRoster},
		{"master that the roster lacks", masterKey, func(a *attributes) { master(a); a.user = "master-9"; a.rights.Addresses = addresses("10.250.0.2") }, ErrRoster},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.nodeAttributes()
			a.id = NodeIDOf(&tt.key.PublicKey)
			tt.change(a)
			h := holderAttributes()
			h.user, h.groups, h.roles, h.namespaces, h.rights.Addresses = a.user, a.groups, a.roles, []string{"four", "one", "two"}, all
			holder := forge(t, h, w.grid.root, nil)
			_, err := w.verifier(t).VerifyNode(chainOf(forgeFor(t, tt.key, a, holder, nil), holder), testTime)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestWrongSignature(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	node := forgeFor(t, w.key, w.nodeAttributes(), w.holder, nil)
	v := w.verifier(t)
	t.Run("other grid of the same name", func(t *testing.T) {
		_, err := other.verifier(t).VerifyNode(chainOf(node, w.holder), testTime)
		wantRefusal(t, err, ErrWrongGrid, keyIDs([]*x509.Certificate{other.grid.root.cert})[0])
	})
	t.Run("other holder of the same name", func(t *testing.T) {
		_, err := v.VerifyNode(chainOf(node, forge(t, holderAttributes(), w.grid.root, nil)), testTime)
		wantRefusal(t, err, ErrSignature)
	})
	t.Run("root's key identifier borrowed", func(t *testing.T) {
		fake := signer{&x509.Certificate{RawSubject: w.grid.root.cert.RawSubject, Subject: w.grid.root.cert.Subject, SubjectKeyId: w.grid.root.cert.SubjectKeyId}, other.grid.root.key}
		_, err := v.VerifyHolder(chainOf(forge(t, holderAttributes(), fake, nil)), testTime)
		wantRefusal(t, err, ErrSignature)
	})
	t.Run("every byte of a certificate", func(t *testing.T) {
		for i := range node.cert.Raw {
			bad := slices.Clone(node.cert.Raw)
			bad[i] ^= 0x01
			if _, err := v.VerifyNode(Chain{bad, w.holder.cert.Raw}, testTime); err == nil {
				t.Fatalf("byte %d changed, accepted", i)
			}
		}
	})
	t.Run("signature rewritten", func(t *testing.T) {
		// (r, -s) verifies as well as (r, s). It must change neither the node
		// nor what a revocation matches.
		again, err := v.VerifyNode(Chain{rewriteSignature(t, node.cert), w.holder.cert.Raw}, testTime)
		if err != nil {
			t.Fatal(err)
		}
		if again.Serial != serialText(node.cert) {
			t.Error("another serial")
		}
	})
}

// rewriteSignature returns c with the other valid form of its ECDSA signature.
func rewriteSignature(t *testing.T, c *x509.Certificate) Certificate {
	t.Helper()
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(c.Signature, &sig); err != nil {
		t.Fatal(err)
	}
	sig.S.Sub(elliptic.P256().Params().N, sig.S)
	value, err := asn1.Marshal(sig)
	if err != nil {
		t.Fatal(err)
	}
	var outer struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.Raw, &outer); err != nil {
		t.Fatal(err)
	}
	outer.Signature = asn1.BitString{Bytes: value, BitLength: 8 * len(value)}
	der, err := asn1.Marshal(outer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
