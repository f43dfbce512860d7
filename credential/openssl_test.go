package credential

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// opensslVerify runs openssl verify at testTime and returns what it said.
func opensslVerify(t *testing.T, leaf, root []byte, untrusted []byte, flags ...string) (ok bool, output string) {
	t.Helper()
	openssl := need.Tool(t, "openssl")
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	args := append([]string{"verify", "-no-CApath", "-no-CAstore", "-attime", testUnix, "-CAfile", write("root", root)}, flags...)
	if untrusted != nil {
		args = append(args, "-untrusted", write("untrusted", untrusted))
	}
	result, err := sysrun.Run(t.Context(), sysrun.Command{Name: openssl, Args: append(args, write("leaf", leaf))})
	return err == nil, string(result.Stdout) + string(result.Stderr)
}

const testUnix = "1795262400" // testTime

// masterLeaf forges what a worker's holder must never achieve: a certificate
// with a master's HTCondor subject and host name. It is an ordinary TLS leaf,
// without any extension of ours.
func masterLeaf(t *testing.T, by signer) signer {
	return forge(t, issuerAttributes(), by, func(c *x509.Certificate) {
		c.Subject = pkix.Name{ExtraNames: CondorRequest{Grid: "archer", Group: "infra", Role: RoleMaster, Name: "master-1"}.subject().ExtraNames}
		c.DNSNames = []string{"C250000002.ipop"}
		c.IsCA, c.MaxPathLen, c.KeyUsage = false, 0, x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		c.ExtraExtensions = nil
	})
}

// The reason for the critical extension, TRUST "Chain": a worker's holder is a
// certificate authority, so it can sign a leaf with a master's subject. OpenSSL,
// and so HTCondor, must refuse it, even if someone made the grid root, or the
// holder itself, the trust anchor. The control is the same leaf below the same
// certificate authority without the extension: it is accepted.
func TestOpenSSLRefusesLeafOfHolder(t *testing.T) {
	w := newWorld(t)
	plain := forge(t, holderAttributes(), w.grid.root, func(c *x509.Certificate) { c.ExtraExtensions = nil })
	soft := forge(t, holderAttributes(), w.grid.root, func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false })
	for _, anchor := range []struct {
		name  string
		flags []string
		root  func(holder signer) []byte
	}{
		{"grid root", nil, func(signer) []byte { return w.grid.root.pem() }},
		{"grid root, strict", []string{"-x509_strict"}, func(signer) []byte { return w.grid.root.pem() }},
		{"holder", []string{"-partial_chain"}, func(h signer) []byte { return h.pem() }},
		{"holder, strict", []string{"-partial_chain", "-x509_strict"}, func(h signer) []byte { return h.pem() }},
		{"holder, as a TLS server", []string{"-partial_chain", "-purpose", "sslserver", "-verify_hostname", "C250000002.ipop"}, func(h signer) []byte { return h.pem() }},
	} {
		t.Run(anchor.name, func(t *testing.T) {
			for _, control := range []signer{plain, soft} {
				if ok, out := opensslVerify(t, masterLeaf(t, control).pem(), anchor.root(control), control.pem(), anchor.flags...); !ok {
					t.Fatalf("control: the leaf below an ordinary authority is refused:\n%s", out)
				}
			}
			ok, out := opensslVerify(t, masterLeaf(t, w.holder).pem(), anchor.root(w.holder), w.holder.pem(), anchor.flags...)
			if ok || !strings.Contains(out, "unhandled critical extension") {
				t.Errorf("openssl: accepted %v, want refusal for an unhandled critical extension:\n%s", ok, out)
			}
			ok, out = opensslVerify(t, masterLeaf(t, w.issued).pem(), w.grid.root.pem(), append(w.issued.pem(), w.issuer.pem()...), "-partial_chain")
			if ok || !strings.Contains(out, "unhandled critical extension") {
				t.Errorf("openssl, below an issuer: accepted %v:\n%s", ok, out)
			}
		})
	}
	leaf := masterLeaf(t, w.holder)
	_, err := w.verifier(t).VerifyNode(chainOf(leaf, w.holder), testTime)
	wantRefusal(t, err, ErrCritical)
	_, err = leaf.cert.Verify(x509.VerifyOptions{Roots: pool(w.grid.root), Intermediates: pool(w.holder), CurrentTime: testTime})
	if err == nil {
		t.Error("crypto/x509 accepts the leaf")
	}
}

// HTCondor's root does not know a holder at all.
func TestOpenSSLRefusesLeafUnderCondorRoot(t *testing.T) {
	w := newWorld(t)
	ok, out := opensslVerify(t, masterLeaf(t, w.holder).pem(), w.grid.Descriptor.CondorRootPEM(), append(w.holder.pem(), w.grid.root.pem()...))
	if ok {
		t.Errorf("accepted:\n%s", out)
	}
}

func pool(s signer) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(s.cert)
	return p
}

func TestIssueCondor(t *testing.T) {
	w := newWorld(t)
	m := w.grid.Material[0]
	root := w.grid.Descriptor.CondorRootPEM()
	for _, tt := range []struct {
		req CondorRequest
		dns []string
	}{
		{CondorRequest{Grid: "archer", Group: "physics", Role: RoleWorker, Name: "C250000017"}, nil},
		{CondorRequest{Grid: "archer", Group: "infra", Role: RoleMaster, Name: "C250000002", Addresses: []netip.Addr{netip.MustParseAddr("10.250.0.2")}},
			[]string{"C250000002.ipop"}},
	} {
		t.Run(string(tt.req.Role), func(t *testing.T) {
			key := newTestKey(t)
			tt.req.Now, tt.req.Key = testTime, &key.PublicKey
			chainPEM, err := IssueCondor(m.IssuerCert, m.IssuerKey, tt.req)
			if err != nil {
				t.Fatal(err)
			}
			chain, err := ParseChain(chainPEM)
			if err != nil || len(chain) != 2 {
				t.Fatalf("chain of %d, %v", len(chain), err)
			}
			certPEM := Certificate(chain[0]).PEM()
			keyPEM, err := FormatKey(key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parseSigner(certPEM, keyPEM); err != nil {
				t.Errorf("key and certificate: %v", err)
			}
			cert, err := parseCertificate(chain[0])
			if err != nil {
				t.Fatal(err)
			}
			if life := cert.NotAfter.Sub(cert.NotBefore); life > CondorLifetime || cert.NotAfter.Before(testTime.Add(12*time.Hour)) {
				t.Errorf("valid %v to %v", cert.NotBefore, cert.NotAfter)
			}
			if strings.Join(cert.DNSNames, " ") != strings.Join(tt.dns, " ") || len(cert.IPAddresses)+len(cert.EmailAddresses)+len(cert.URIs) > 0 {
				t.Errorf("DNS names %q, want %q", cert.DNSNames, tt.dns)
			}
			for _, flags := range [][]string{nil, {"-x509_strict"}, {"-purpose", "sslserver"}, {"-purpose", "sslclient"}} {
				if ok, out := opensslVerify(t, certPEM, root, m.IssuerCert, flags...); !ok {
					t.Errorf("openssl verify %v:\n%s", flags, out)
				}
			}
			if ok, _ := opensslVerify(t, certPEM, w.grid.root.pem(), m.IssuerCert); ok {
				t.Error("accepted under the grid root")
			}
			// The order that HTCondor's map file sees.
			openssl := need.Tool(t, "openssl")
			r, err := sysrun.Run(t.Context(), sysrun.Command{Name: openssl, Args: []string{"x509", "-noout", "-subject", "-nameopt", "compat"}, Stdin: strings.NewReader(string(certPEM))})
			want := "subject=/O=archer/OU=" + tt.req.Group + "/OU=" + string(tt.req.Role) + "/CN=" + tt.req.Name
			if got := strings.ReplaceAll(strings.TrimSpace(string(r.Stdout)), "subject= ", "subject="); err != nil || got != want {
				t.Errorf("got %s, %v; want %s", got, err, want)
			}
			// It is nobody's issuer.
			below, err := parseSigner(certPEM, keyPEM)
			if err != nil {
				t.Fatal(err)
			}
			if ok, out := opensslVerify(t, masterLeaf(t, below).pem(), root, chainPEM); ok {
				t.Errorf("a leaf below it is accepted:\n%s", out)
			}
		})
	}
}

func TestIssueCondorRefuses(t *testing.T) {
	w := newWorld(t)
	m, other := w.grid.Material[0], w.grid.Material[1]
	good := CondorRequest{Grid: "archer", Group: "physics", Role: RoleWorker, Name: "C250000017", Key: &newTestKey(t).PublicKey, Now: testTime}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*CondorRequest)
		want   error
	}{
		"other grid":                {func(r *CondorRequest) { r.Grid = "rover" }, ErrWrongGrid},
		"worker in infra":           {func(r *CondorRequest) { r.Group = "infra" }, ErrReserved},
		"master in physics":         {func(r *CondorRequest) { r.Role = RoleMaster }, ErrReserved},
		"group condor":              {func(r *CondorRequest) { r.Group = "condor" }, ErrReserved},
		"no role":                   {func(r *CondorRequest) { r.Role = "" }, ErrWrongRole},
		"role waypoint":             {func(r *CondorRequest) { r.Role = RoleWaypoint }, ErrWrongRole},
		"slash in the name":         {func(r *CondorRequest) { r.Name = "a/OU=master/CN=b" }, ErrFormat},
		"newline in the group":      {func(r *CondorRequest) { r.Group = "physics\nx" }, ErrFormat},
		"worker with a host name":   {func(r *CondorRequest) { r.Addresses = []netip.Addr{netip.MustParseAddr("10.250.0.2")} }, ErrWrongRight},
		"no key":                    {func(r *CondorRequest) { r.Key = nil }, ErrKey},
		"another curve":             {func(r *CondorRequest) { r.Key = &weak.PublicKey }, ErrKey},
		"issuer ended":              {func(r *CondorRequest) { r.Now = testTime.Add(IssuerLifetime + time.Hour) }, ErrExpired},
		"issuer does not begin yet": {func(r *CondorRequest) { r.Now = testTime.Add(-backdate - time.Hour) }, ErrNotYetValid},
	} {
		req := good
		tt.change(&req)
		if _, err := IssueCondor(m.IssuerCert, m.IssuerKey, req); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantRefusal(t, err, tt.want)
		}
	}
	_, err = IssueCondor(m.IssuerCert, other.IssuerKey, good)
	wantRefusal(t, err, ErrKey)
	_, err = IssueCondor(m.HolderCert, m.HolderKey, good)
	wantRefusal(t, err, ErrCritical)
	_, err = IssueCondor(w.grid.condor.pem(), mustFormat(t, w.grid.condor), good)
	wantRefusal(t, err, ErrPathLength)

	// Near the issuer's end the credential ends with it.
	late := good
	late.Now = testTime.Add(IssuerLifetime - time.Hour)
	cert, err := IssueCondor(m.IssuerCert, m.IssuerKey, late)
	if err != nil {
		t.Fatal(err)
	}
	chain, _ := ParseChain(cert)
	if c, _ := parseCertificate(chain[0]); !c.NotAfter.Equal(testTime.Add(IssuerLifetime)) {
		t.Errorf("ends %v", c.NotAfter)
	}
}

func mustFormat(t *testing.T, s signer) Secret {
	t.Helper()
	key, err := FormatKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
