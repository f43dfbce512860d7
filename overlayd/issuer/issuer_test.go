package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/control"
)

// lab is a grid with the service of one master on a real socket.
type lab struct {
	t        *testing.T
	grid     *credential.Grid
	endpoint string
	whois    map[netip.Addr]control.Whois
}

var (
	here   = netip.MustParseAddr("127.0.0.1") // where every caller comes from
	master = netip.AddrPortFrom(netip.MustParseAddr("10.250.0.2"), Port)
)

func newGrid(t *testing.T) *credential.Grid {
	t.Helper()
	grid, err := credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 2,
		Namespaces: []credential.Namespace{{Name: "archer", Pool: credential.DefaultPool}}},
		time.Now().Add(-26*time.Hour)) // so that a node of yesterday can be
	if err != nil {
		t.Fatal(err)
	}
	return grid
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, grid: newGrid(t), whois: map[netip.Addr]control.Whois{}}
	l.serve(l.master(0))
	return l
}

// serve runs the first master's service, proving itself with cert.
func (l *lab) serve(cert Certificate) {
	l.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	l.endpoint = ln.Addr().String()
	m := l.grid.Material[0]
	s := &Service{Grid: "archer", IssuerCert: m.IssuerCert, IssuerKey: m.IssuerKey,
		Certificate: cert, Verifier: l.verifier, Log: slog.New(slog.DiscardHandler),
		Whois: func(_ context.Context, addr netip.Addr) (control.Whois, error) {
			if w, ok := l.whois[addr]; ok {
				return w, nil
			}
			return control.Whois{}, control.ErrUnknown
		}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, ln) }()
	l.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
}

func (l *lab) verifier() (*credential.Verifier, error) {
	if l.grid.Revocations != nil {
		return credential.NewVerifier(l.grid.Descriptor, l.grid.Revocations)
	}
	return credential.NewVerifier(l.grid.Descriptor)
}

// node makes a node certificate at a time.
func (l *lab) node(holderCert, holderKey []byte, nodeKey *ecdsa.PrivateKey, role credential.Role, at time.Time) (*credential.NodeCertificate, Certificate) {
	l.t.Helper()
	identity, err := credential.Open(l.grid.Descriptor.Text(), holderCert, holderKey, at)
	if err != nil {
		l.t.Fatal(err)
	}
	cert, err := identity.MakeNode(credential.NodeRequest{Key: &nodeKey.PublicKey, X25519: [32]byte{1}, Instance: "machine-1", Role: role}, at)
	if err != nil {
		l.t.Fatal(err)
	}
	return cert, func() (*tls.Certificate, error) { return TLS(cert, nodeKey), nil }
}

func (l *lab) master(n int) Certificate {
	l.t.Helper()
	m := l.grid.Material[n]
	key, err := credential.ParseKey(m.NodeKey)
	if err != nil {
		l.t.Fatal(err)
	}
	_, cert := l.node(m.HolderCert, m.HolderKey, key, credential.RoleMaster, time.Now())
	return cert
}

// person makes a worker's node certificate, and has whois know it.
func (l *lab) person(group, user string, at time.Time) (*credential.NodeCertificate, Certificate) {
	l.t.Helper()
	holder, holderKey, err := l.grid.IssueHolder(credential.HolderRequest{User: user, Group: group, Roles: []credential.Role{credential.RoleWorker}}, at)
	if err != nil {
		l.t.Fatal(err)
	}
	node, cert := l.node(holder, holderKey, newKey(l.t), credential.RoleWorker, at)
	l.whois[here] = control.Whois{Address: here, NodeID: node.Node.ID.String(), User: user, Group: group, Role: "worker"}
	return node, cert
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := credential.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// request is a certificate request that names a master.
func request(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{Organization: []string{"archer"}, OrganizationalUnit: []string{"infra", "master"}, CommonName: "C250000002.ipop"},
		DNSNames: []string{"C250000002.ipop"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// ask asks the service as if it had the address of the first master.
func (l *lab) ask(cert Certificate, request []byte) ([]byte, error) {
	return l.askAt(master, cert, request)
}

func (l *lab) askAt(master netip.AddrPort, cert Certificate, request []byte) ([]byte, error) {
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, l.endpoint)
	}
	return ask(l.t.Context(), dial, master, cert, l.verifier, request)
}

func TestCredentialIsForTheNodeThatAsks(t *testing.T) {
	l := newLab(t)
	_, cert := l.person("physics", "alice", time.Now())
	key := newKey(t)
	text, err := l.ask(cert, request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := credential.ParseChain(text)
	if err != nil || len(chain) != 2 {
		t.Fatalf("chain of %d, %v", len(chain), err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the certificate is for another key")
	}
	var subject []string
	for _, n := range leaf.Subject.Names {
		subject = append(subject, n.Value.(string))
	}
	if got := strings.Join(subject, "/"); got != "archer/physics/worker/C000000001.ipop" {
		t.Errorf("subject %s: the request's must not count", got)
	}
	if len(leaf.DNSNames) > 0 {
		t.Errorf("host names %v: only a master has one", leaf.DNSNames)
	}
	if left := time.Until(leaf.NotAfter); left > 24*time.Hour || left < 22*time.Hour {
		t.Errorf("valid for %v", left)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(l.grid.Descriptor.CondorRootPEM())
	between.AppendCertsFromPEM(credential.Certificate(chain[1]).PEM())
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
}

func TestServiceRefuses(t *testing.T) {
	tampered := func(t *testing.T) []byte {
		der := request(t, newKey(t))
		der[len(der)-1] ^= 1
		return der
	}
	wider, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		cert    func(*lab) Certificate
		request func(*testing.T) []byte
		final   bool // asking again will not help
		want    string
	}{
		"nobody holds the address": {func(l *lab) Certificate {
			_, c := l.person("physics", "alice", time.Now())
			delete(l.whois, here)
			return c
		}, nil, false, "nobody known holds"},
		"another node holds the address": {func(l *lab) Certificate {
			_, c := l.person("physics", "alice", time.Now())
			l.person("physics", "alice", time.Now())
			return c
		}, nil, false, "is held by node"},
		"another group's address": {func(l *lab) Certificate {
			_, c := l.person("physics", "alice", time.Now())
			w := l.whois[here]
			w.Group = "chemistry"
			l.whois[here] = w
			return c
		}, nil, false, `held by group "chemistry"`},
		"behind a router": {func(l *lab) Certificate {
			_, c := l.person("physics", "alice", time.Now())
			w := l.whois[here]
			w.Router = true
			l.whois[here] = w
			return c
		}, nil, false, "behind a router"},
		"a master": {func(l *lab) Certificate { return l.master(1) }, nil, true, "makes its own"},
		"revoked": {func(l *lab) Certificate {
			n, c := l.person("physics", "alice", time.Now())
			if _, err := l.grid.Revoke([]string{n.Node.Holder.Serial}, "lost", nil, time.Now()); err != nil {
				l.t.Fatal(err)
			}
			return c
		}, nil, true, "revoked"},
		"of another grid": {func(l *lab) Certificate {
			other := &lab{t: l.t, grid: newGrid(l.t), whois: map[netip.Addr]control.Whois{}}
			_, c := other.person("physics", "alice", time.Now())
			l.whois = other.whois
			return c
		}, nil, true, ""},
		"a node certificate that has ended": {func(l *lab) Certificate {
			_, c := l.person("physics", "alice", time.Now().Add(-25*time.Hour))
			return c
		}, nil, false, "expired"},
		"a certificate that is none of a node": {func(l *lab) Certificate {
			key := newKey(l.t)
			template := &x509.Certificate{SerialNumber: newKey(l.t).X, Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
			der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
			if err != nil {
				l.t.Fatal(err)
			}
			return func() (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
			}
		}, nil, true, ""},
		"a key that is not proven": {nil, tampered, false, "not proven"},
		"a key of another curve":   {nil, func(t *testing.T) []byte { return request(t, wider) }, false, "P-256"},
		"no certificate request":   {nil, func(*testing.T) []byte { return []byte("please") }, false, "read certificate request"},
		"an endless request":       {nil, func(*testing.T) []byte { return make([]byte, 1<<20) }, false, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			if c.cert == nil {
				c.cert = func(l *lab) Certificate {
					_, cert := l.person("physics", "alice", time.Now())
					return cert
				}
			}
			if c.request == nil {
				c.request = func(t *testing.T) []byte { return request(t, newKey(t)) }
			}
			text, err := l.ask(c.cert(l), c.request(t))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %q, %v; want an error with %q", text, err, c.want)
			}
			if errors.Is(err, ErrRefused) != c.final {
				t.Errorf("%v: final %v, want %v", err, !c.final, c.final)
			}
		})
	}
}

// A caller without a certificate gets no answer at all.
func TestStrangersAreNotAnswered(t *testing.T) {
	l := newLab(t)
	none := func() (*tls.Certificate, error) { return new(tls.Certificate), nil }
	if text, err := l.ask(none, request(t, newKey(t))); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("got %q, %v", text, err)
	}
}

// The caller gives its request to nobody but the master it means.
func TestCallerRefusesWhoIsNotTheMaster(t *testing.T) {
	cases := map[string]struct {
		server func(*lab) Certificate
		at     netip.AddrPort
		want   string
	}{
		"a worker":       {func(l *lab) Certificate { _, c := l.person("physics", "mallory", time.Now()); return c }, master, "no master but a worker of mallory"},
		"another master": {func(l *lab) Certificate { return l.master(1) }, master, "another master"},
		"another grid's": {func(l *lab) Certificate { return (&lab{t: l.t, grid: newGrid(l.t)}).master(0) }, master, "what answers is no master"},
		"no address of the roster": {func(l *lab) Certificate { return l.master(0) },
			netip.AddrPortFrom(netip.MustParseAddr("10.250.0.9"), Port), "another master"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l := &lab{t: t, grid: newGrid(t), whois: map[netip.Addr]control.Whois{}}
			l.serve(c.server(l))
			_, cert := l.person("physics", "alice", time.Now())
			text, err := l.askAt(c.at, cert, request(t, newKey(t)))
			if err == nil || errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, %v; want %q", text, err, c.want)
			}
		})
	}
}
