package credential

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/diag"
)

func oneNamespace(n Namespace) GridOptions {
	return GridOptions{Name: "archer", Namespaces: []Namespace{n}}
}

func TestNewGridRoster(t *testing.T) {
	for _, tt := range []struct {
		name      string
		options   GridOptions
		masters   []string
		witnesses []string
	}{
		{"default", oneNamespace(Namespace{Name: "archer"}), []string{"10.250.0.2", "10.250.0.3", "10.250.0.4"}, []string{"master-1", "master-2", "master-3"}},
		{"one", GridOptions{Name: "archer", Masters: 1, Namespaces: []Namespace{{Name: "x"}}}, []string{"10.250.0.2"}, []string{"master-1"}},
		{"two get a witness", GridOptions{Name: "archer", Masters: 2, Namespaces: []Namespace{{Name: "x"}}}, []string{"10.250.0.2", "10.250.0.3"}, []string{"master-1", "master-2", "witness-1"}},
		{"reserved addresses are skipped", oneNamespace(Namespace{Name: "x", Pool: netip.MustParsePrefix("10.0.0.0/8"),
			Reserved: []Reserved{{netip.MustParseAddr("0.0.0.3"), netip.MustParseAddr("0.0.0.255")}}}), []string{"10.0.0.2", "10.0.0.4", "10.0.0.5"}, []string{"master-1", "master-2", "master-3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, err := NewGrid(tt.options, testTime)
			if err != nil {
				t.Fatal(err)
			}
			var masters, witnesses []string
			for _, m := range g.Descriptor.Masters {
				masters = append(masters, m.Address.String())
			}
			for _, w := range g.Descriptor.Witnesses {
				witnesses = append(witnesses, w.Name)
			}
			if diff := cmp.Diff(tt.masters, masters) + cmp.Diff(tt.witnesses, witnesses); diff != "" {
				t.Error(diff)
			}
			for _, m := range g.Material {
				checkMaterial(t, g, m)
			}
		})
	}
}

// checkMaterial makes the node of a master's or witness's floppy, as its
// machine does.
func checkMaterial(t *testing.T, g *Grid, m MasterMaterial) {
	t.Helper()
	id, err := Open(g.Descriptor.Text(), m.HolderCert, m.HolderKey, testTime)
	if err != nil {
		t.Fatalf("%s: %v", m.Name, err)
	}
	key, err := ParseKey(m.NodeKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := id.MakeNode(NodeRequest{Key: &key.PublicKey, X25519: [32]byte{1}, Instance: "a"}, testTime)
	if err != nil {
		t.Fatalf("%s: %v", m.Name, err)
	}
	if cert.Node.Role != m.Role || cert.Node.User != m.Name || (m.IssuerCert == nil) != (m.Role != RoleMaster) {
		t.Errorf("%s: role %s, user %s, issuer %v", m.Name, cert.Node.Role, cert.Node.User, m.IssuerCert != nil)
	}
	if m.Role == RoleMaster && (cert.Node.Group != GroupInfra || cert.Node.Rights.Addresses[0] != m.Address) {
		t.Errorf("%s: group %s, addresses %v", m.Name, cert.Node.Group, cert.Node.Rights.Addresses)
	}
}

func TestNewGridRefuses(t *testing.T) {
	pool := func(s string) GridOptions {
		return oneNamespace(Namespace{Name: "archer", Pool: netip.MustParsePrefix(s)})
	}
	for name, tt := range map[string]struct {
		options GridOptions
		message string
	}{
		"name in capitals":     {GridOptions{Name: "Archer", Namespaces: []Namespace{{Name: "x"}}}, `grid "Archer"`},
		"no name":              {GridOptions{Namespaces: []Namespace{{Name: "x"}}}, `grid ""`},
		"no namespace":         {GridOptions{Name: "archer"}, "none given"},
		"namespace with blank": {oneNamespace(Namespace{Name: "a b"}), `namespace "a b"`},
		"ten masters":          {GridOptions{Name: "archer", Masters: 10, Namespaces: []Namespace{{Name: "x"}}}, "10 masters, 1 to 9 allowed"},
		"mask too wide":        {pool("10.0.0.0/7"), "too wide"},
		"pool too small":       {pool("10.250.0.0/29"), "too small: 8 addresses"},
		"host bits":            {pool("10.250.0.1/16"), "did you mean 10.250.0.0/16?"},
		"public addresses":     {pool("5.0.0.0/8"), "used on the internet"},
		"loopback":             {pool("127.0.0.0/8"), "used on the internet"},
		"wider than private":   {pool("172.0.0.0/8"), "used on the internet"},
		"IPv6":                 {pool("fd00::/64"), "not an IPv4 network"},
		"no room":              {oneNamespace(Namespace{Name: "x", Reserved: []Reserved{{netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("0.0.0.1")}, {netip.MustParseAddr("0.0.0.1"), netip.MustParseAddr("0.0.0.1")}}}), "no room for 3 masters"},
		"everything reserved":  {oneNamespace(Namespace{Name: "x", Reserved: []Reserved{{netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("0.0.0.0")}}}), "reserves nothing or everything"},
		"lease of a second":    {oneNamespace(Namespace{Name: "x", LeaseTime: 1}), "1 s is not between"},
		"hold below the lease": {oneNamespace(Namespace{Name: "x", LeaseTime: 7200, HoldTime: 3600}), "3600 s is not between the lease time, 7200 s"},
		"bootstrap, no port":   {GridOptions{Name: "archer", Namespaces: []Namespace{{Name: "x"}}, Bootstrap: []string{"example.org"}}, "host.example.org:4242"},
		"bootstrap, bad port":  {GridOptions{Name: "archer", Namespaces: []Namespace{{Name: "x"}}, Bootstrap: []string{"example.org:99999"}}, `"99999" is not a port`},
		"namespaces of a name": {GridOptions{Name: "archer", Namespaces: []Namespace{{Name: "x"}, {Name: "x", Pool: netip.MustParsePrefix("10.9.0.0/16")}}}, `"x" is there twice`},
		"overlapping pools":    {GridOptions{Name: "archer", Namespaces: []Namespace{{Name: "x"}, {Name: "y"}}}, "10.250.0.0/16, and y, 10.250.0.0/16, overlap"},
		"two mistakes, both":   {GridOptions{Name: "A", Masters: 99, Namespaces: []Namespace{{Name: "x"}}}, "99 masters"},
		"two mistakes, other":  {GridOptions{Name: "A", Masters: 99, Namespaces: []Namespace{{Name: "x"}}}, `grid "A"`},
	} {
		_, err := NewGrid(tt.options, testTime)
		l := diag.Of(err)
		if l == nil || !strings.Contains(l.Format(), tt.message) {
			t.Errorf("%s: got %v, want a list with %q", name, err, tt.message)
		}
	}
}

func TestIssueHolderRefuses(t *testing.T) {
	g := newWorld(t).grid
	good := HolderRequest{User: "alice", Group: "physics", Roles: []Role{RoleWorker}}
	for name, tt := range map[string]struct {
		change func(*HolderRequest)
		want   error
	}{
		"reserved group":         {func(r *HolderRequest) { r.Group = "infra" }, ErrReserved},
		"reserved name":          {func(r *HolderRequest) { r.User = "master-4" }, ErrReserved},
		"host name":              {func(r *HolderRequest) { r.User = "C250000002" }, ErrReserved},
		"bad group":              {func(r *HolderRequest) { r.Group = "Physics" }, ErrFormat},
		"bad user":               {func(r *HolderRequest) { r.User = "alice/CN=x" }, ErrFormat},
		"no role":                {func(r *HolderRequest) { r.Roles = nil }, ErrWrongRole},
		"role master":            {func(r *HolderRequest) { r.Roles = []Role{RoleMaster} }, ErrWrongRole},
		"unknown namespace":      {func(r *HolderRequest) { r.Namespaces = []string{"four"} }, ErrWrongNamespace},
		"a master's address":     {func(r *HolderRequest) { r.Rights.Addresses = []netip.Addr{netip.MustParseAddr("10.250.0.2")} }, ErrWrongRight},
		"address outside a pool": {func(r *HolderRequest) { r.Rights.Addresses = []netip.Addr{netip.MustParseAddr("10.9.0.2")} }, ErrWrongRight},
		"reserved address":       {func(r *HolderRequest) { r.Rights.Addresses = []netip.Addr{netip.MustParseAddr("10.250.7.1")} }, ErrWrongRight},
		"negative quota":         {func(r *HolderRequest) { r.Quota.Leases = -1 }, ErrFormat},
		"ended before it began":  {func(r *HolderRequest) { r.Valid = -time.Hour }, ErrExpired},
	} {
		req := good
		tt.change(&req)
		before := len(g.Ledger)
		_, _, err := g.IssueHolder(req, testTime)
		if !errors.Is(err, tt.want) || len(g.Ledger) != before {
			t.Errorf("%s: got %v, want %v; ledger grew by %d", name, err, tt.want, len(g.Ledger)-before)
		}
	}
}

func TestOpenAndMakeNode(t *testing.T) {
	w := newWorld(t)
	cert, key, err := w.grid.IssueHolder(HolderRequest{User: "alice", Group: "physics", Roles: []Role{RoleClient, RoleWorker}, Rights: Rights{Router: true}}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	descriptor := w.grid.Descriptor.Text()
	id, err := Open(descriptor, cert, key, testTime)
	if err != nil {
		t.Fatal(err)
	}
	request := func() NodeRequest {
		return NodeRequest{Key: &w.key.PublicKey, X25519: [32]byte{1}, Instance: "machine", Role: RoleWorker, Namespace: "two"}
	}
	made, err := id.MakeNode(request(), testTime)
	if err != nil {
		t.Fatal(err)
	}
	if n := made.Node; n.NotAfter.Sub(n.NotBefore) != NodeLifetime || !n.NotBefore.Equal(testTime.Add(-time.Hour)) || !made.Renew.Equal(testTime.Add(11*time.Hour+30*time.Minute)) {
		t.Errorf("valid %v to %v, renew %v", n.NotBefore, n.NotAfter, made.Renew)
	}
	if _, err := w.verifier(t).VerifyNode(made.Chain, testTime); err != nil {
		t.Error(err)
	}
	for name, tt := range map[string]struct {
		change func(*NodeRequest)
		want   error
	}{
		"other role":         {func(r *NodeRequest) { r.Role = RoleMaster }, ErrWrongRole},
		"no role, two held":  {func(r *NodeRequest) { r.Role = "" }, ErrFormat},
		"no namespace":       {func(r *NodeRequest) { r.Namespace = "" }, ErrFormat},
		"other namespace":    {func(r *NodeRequest) { r.Namespace = "four" }, ErrWrongNamespace},
		"gateway":            {func(r *NodeRequest) { r.Gateway = true }, ErrWrongRight},
		"address":            {func(r *NodeRequest) { r.Addresses = []netip.Addr{netip.MustParseAddr("10.251.0.9")} }, ErrWrongRight},
		"route":              {func(r *NodeRequest) { r.Routes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, ErrWrongRight},
		"no key":             {func(r *NodeRequest) { r.Key = nil }, ErrKey},
		"instance with LF":   {func(r *NodeRequest) { r.Instance = "a\nb" }, ErrFormat},
		"control: router":    {func(r *NodeRequest) { r.Router = true }, nil},
		"control: as client": {func(r *NodeRequest) { r.Role = RoleClient }, nil},
	} {
		req := request()
		tt.change(&req)
		if _, err := id.MakeNode(req, testTime); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	end := testTime.Add(DefaultHolderLifetime)
	if made, err = id.MakeNode(request(), end.Add(-time.Hour)); err != nil || !made.Node.NotAfter.Equal(end) || made.Renew.After(end) {
		t.Errorf("an hour before the holder's end: %v, %v", made, err)
	}
	if _, err = id.MakeNode(request(), end.Add(time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("after the holder's end: %v", err)
	}
	_, otherKey, err := w.grid.IssueHolder(HolderRequest{User: "bob", Group: "physics", Roles: []Role{RoleWorker}}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(descriptor, cert, otherKey, testTime)
	wantRefusal(t, err, ErrKey, KeyIDOf(&id.key.PublicKey).String())
	_, err = Open(newWorld(t).grid.Descriptor.Text(), cert, key, testTime)
	wantRefusal(t, err, ErrWrongGrid)
	// A machine whose clock keeps local time as UTC is up to 14 h behind.
	if _, err = Open(descriptor, cert, key, testTime.Add(-14*time.Hour)); err != nil {
		t.Errorf("14 h behind: %v", err)
	}
}

func TestMasterRoster(t *testing.T) {
	w := newWorld(t)
	one, two := w.grid.Material[0], w.grid.Material[1]
	open := func(m MasterMaterial) *Identity {
		id, err := Open(w.grid.Descriptor.Text(), m.HolderCert, m.HolderKey, testTime)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	node := func(id *Identity, nodeKey Secret, change func(*NodeRequest)) error {
		key, err := ParseKey(nodeKey)
		if err != nil {
			t.Fatal(err)
		}
		req := NodeRequest{Key: &key.PublicKey, X25519: [32]byte{1}, Instance: "a"}
		if change != nil {
			change(&req)
		}
		_, err = id.MakeNode(req, testTime)
		return err
	}
	if err := node(open(one), one.NodeKey, nil); err != nil {
		t.Errorf("control: %v", err)
	}
	wantRefusal(t, node(open(one), two.NodeKey, nil), ErrRoster, w.grid.Descriptor.Masters[0].ID.String(), w.grid.Descriptor.Masters[1].ID.String())
	wantRefusal(t, node(open(one), mustFormat(t, signer{nil, newTestKey(t)}), nil), ErrRoster)

	// A master's holder that the roster no longer lists.
	var trust Trust
	mustAccept(t, &trust, w.grid.Descriptor)
	mustAccept(t, &trust, next(t, w.grid.Descriptor, func(d *Descriptor) {
		d.Version, d.Masters = 2, d.Masters[1:]
		d.ChangeWitnesses(d.Witnesses, nil, false, nil)
	}, w.grid.root))
	id := open(one)
	id.Descriptor, _ = trust.Descriptor()
	wantRefusal(t, node(id, one.NodeKey, nil), ErrRoster)
}

func TestIssuerIssues(t *testing.T) {
	w := newWorld(t)
	cert, key, err := w.grid.IssueIssuer(IssuerRequest{Groups: []string{"physics"}, Namespaces: []string{"one", "two"}}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := OpenIssuer(w.grid.Descriptor, cert, key, testTime)
	if err != nil {
		t.Fatal(err)
	}
	holder, holderKey, err := issuer.IssueHolder(HolderRequest{User: "carol", Group: "physics", Roles: []Role{RoleClient}}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	id, err := Open(w.grid.Descriptor.Text(), holder, holderKey, testTime)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"one", "two"}, id.Holder.Namespaces); diff != "" {
		t.Error(diff)
	}
	for want, req := range map[error]HolderRequest{
		ErrWrongGroup:     {User: "carol", Group: "chemistry", Roles: []Role{RoleClient}},
		ErrWrongNamespace: {User: "carol", Group: "physics", Roles: []Role{RoleClient}, Namespaces: []string{"three"}},
		ErrWrongRight:     {User: "carol", Group: "physics", Roles: []Role{RoleClient}, Rights: Rights{Router: true}},
		ErrWrongRole:      {User: "carol", Group: "physics", Roles: []Role{RoleMaster}},
		ErrReserved:       {User: "master-1", Group: "physics", Roles: []Role{RoleClient}},
	} {
		_, _, err := issuer.IssueHolder(req, testTime)
		wantRefusal(t, err, want)
	}
	for _, group := range []string{"infra", "root"} {
		_, _, err := w.grid.IssueIssuer(IssuerRequest{Groups: []string{group}}, testTime)
		wantRefusal(t, err, ErrReserved)
	}
}

func TestStore(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "archer")
	if err := w.grid.Save(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v", info.Mode())
	}
	g, err := LoadGrid(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadGrid(dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := g.IssueHolder(HolderRequest{User: "alice", Group: "physics", Roles: []Role{RoleWorker}, Namespaces: []string{"one"}}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Save(dir); err != nil {
		t.Fatal(err)
	}
	t.Run("a second writer is refused", func(t *testing.T) {
		if _, _, err := second.IssueHolder(HolderRequest{User: "bob", Group: "physics", Roles: []Role{RoleWorker}}, testTime); err != nil {
			t.Fatal(err)
		}
		if err := second.Save(dir); err == nil || !strings.Contains(err.Error(), "has changed since it was read") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another grid is not overwritten", func(t *testing.T) {
		if err := newWorld(t).grid.Save(dir); err == nil {
			t.Error("overwritten")
		}
	})
	t.Run("revoke", func(t *testing.T) {
		again, err := LoadGrid(dir)
		if err != nil {
			t.Fatal(err)
		}
		serial := again.Ledger[len(again.Ledger)-1].Serial
		if changed, err := again.Revoke([]string{serial}, "lost", nil, testTime); !changed || err != nil {
			t.Fatalf("%v, %v", changed, err)
		}
		if changed, err := again.Revoke([]string{serial}, "lost", nil, testTime); changed || err != nil {
			t.Errorf("again: %v, %v", changed, err)
		}
		if _, err := again.Revoke([]string{"1234"}, "", nil, testTime); err == nil {
			t.Error("unknown serial revoked")
		}
		if err := again.Save(dir); err != nil {
			t.Fatal(err)
		}
		if again, err = LoadGrid(dir); err != nil {
			t.Fatal(err)
		}
		if !again.Revoked(serial) || again.Revocations.Version != 1 {
			t.Errorf("revoked %v, version %d", again.Revoked(serial), again.Revocations.Version)
		}
		v, err := NewVerifier(again.Descriptor, again.Revocations)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := ParseChain(cert)
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.VerifyHolder(chain, testTime)
		wantRefusal(t, err, ErrRevoked, serial, "lost")
		if _, err := ParseKey(key); err != nil {
			t.Error(err)
		}
	})
	t.Run("parts of another grid", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "other")
		if err := newWorld(t).grid.Save(other); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{fileRootKey, fileRootCert, fileCondorCert, fileDescriptor} {
			mixed := t.TempDir()
			if err := os.CopyFS(mixed, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(other, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(mixed, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadGrid(mixed); err == nil {
				t.Errorf("%s of another grid is accepted", name)
			}
		}
	})
	if _, err := LoadGrid(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "builder grid new") {
		t.Errorf("no grid: %v", err)
	}
}

func TestIssueMaster(t *testing.T) {
	g, err := NewGrid(GridOptions{Name: "archer", Masters: 2, Namespaces: []Namespace{{Name: "one"}}}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range g.Material {
		m, err := g.IssueMaster(old.Name, old.NodeKey, testTime)
		if err != nil {
			t.Fatal(err)
		}
		checkMaterial(t, g, *m)
		if bytes.Equal(m.HolderKey, old.HolderKey) || m.Address != old.Address || m.Role != old.Role {
			t.Errorf("%s: same holder key, or another address %v or role %s", m.Name, m.Address, m.Role)
		}
	}
	_, err = g.IssueMaster("master-1", g.Material[1].NodeKey, testTime)
	wantRefusal(t, err, ErrKey)
	_, err = g.IssueMaster("master-3", g.Material[1].NodeKey, testTime)
	wantRefusal(t, err, ErrRoster)
}

func TestSecretNeverPrints(t *testing.T) {
	const key = "-----BEGIN PRIVATE KEY-----"
	s := Secret(key)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("made", "key", s, "material", MasterMaterial{HolderKey: s})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "key", s, "material", MasterMaterial{HolderKey: s})
	asJSON, err := json.Marshal(MasterMaterial{HolderKey: s})
	if err != nil {
		t.Fatal(err)
	}
	out := log.String() + string(asJSON) + s.String() + fmt.Sprint(s) + fmt.Sprintf("%s %v %+v %#v %x %q %d", s, s, s, s, s, s, s) +
		fmt.Sprintf("%v %+v %#v", MasterMaterial{HolderKey: s}, &MasterMaterial{HolderKey: s}, []Secret{s})
	hexKey := fmt.Sprintf("%x", []byte(key))
	if strings.Contains(out, "PRIVATE") || strings.Contains(out, hexKey) || strings.Contains(out, "45 45 45") || strings.Contains(out, "LS0tLS1") {
		t.Errorf("the key is in:\n%s", out)
	}
	if !strings.Contains(out, redacted) {
		t.Error("nothing was redacted")
	}
	if _, err := ParseKey([]byte(key)); err == nil || strings.Contains(err.Error(), "BEGIN") {
		t.Errorf("an error quotes the key: %v", err)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	good, err := FormatKey(newTestKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseKey(bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n"))); err != nil {
		t.Errorf("CRLF: %v", err)
	}
	for name, text := range map[string][]byte{
		"empty":       nil,
		"certificate": Certificate(newWorld(t).grid.root.cert.Raw).PEM(),
		"two keys":    append(bytes.Clone(good), good...),
		"text before": append([]byte("key:\n"), good...),
		"cut short":   good[:len(good)/2],
	} {
		if _, err := ParseKey(text); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCertificateShapes(t *testing.T) {
	g := newWorld(t).grid
	for _, tt := range []struct {
		name string
		cert *x509.Certificate
		path int
	}{{"grid root", g.root.cert, rootPathLength}, {"HTCondor root", g.condor.cert, condorRootPathLength}} {
		if tt.cert.MaxPathLen != tt.path || !tt.cert.NotBefore.Equal(testTime.Add(-backdate)) || !tt.cert.NotAfter.Equal(testTime.Add(rootLifetime)) {
			t.Errorf("%s: path length %d, %v to %v", tt.name, tt.cert.MaxPathLen, tt.cert.NotBefore, tt.cert.NotAfter)
		}
	}
	if keyIDOfCert(g.root.cert) == keyIDOfCert(g.condor.cert) {
		t.Error("HTCondor trusts the grid root")
	}
}
