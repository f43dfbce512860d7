package credential

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"testing"
)

// Every decoder: no panic, and what is accepted is written back byte for byte.

func fuzzWorld(f *testing.F) (*Grid, *Trust) {
	f.Helper()
	g, err := NewGrid(GridOptions{Name: "archer", Masters: 2, Namespaces: []Namespace{{Name: "one"}}, Bootstrap: []string{"example.org:4242"}}, testTime)
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := g.IssueHolder(HolderRequest{User: "alice", Group: "physics", Roles: []Role{RoleWorker}}, testTime); err != nil {
		f.Fatal(err)
	}
	if _, err := g.Revoke([]string{g.Ledger[len(g.Ledger)-1].Serial}, "lost", nil, testTime); err != nil {
		f.Fatal(err)
	}
	trust := &Trust{}
	if _, err := trust.AcceptDescriptor(g.Descriptor.Text()); err != nil {
		f.Fatal(err)
	}
	if _, err := trust.AcceptRevocations(g.Revocations.Text()); err != nil {
		f.Fatal(err)
	}
	return g, trust
}

// unix is how a text looks without what Windows does to it.
func unix(text []byte) []byte {
	return append(bytes.TrimSpace(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))), '\n')
}

func FuzzParseDescriptor(f *testing.F) {
	g, _ := fuzzWorld(f)
	f.Add(g.Descriptor.Text())
	f.Add([]byte("-----BEGIN GRID DESCRIPTOR-----\nAAAA\n-----END GRID DESCRIPTOR-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseDescriptor(text)
		if err != nil {
			return
		}
		if !bytes.Equal(d.Text(), unix(text)) {
			t.Fatalf("not written back:\n%q\n%q", text, d.Text())
		}
		d.CheckSignature(nil)
		d.CheckSignature(g.Descriptor.Roots)
		if _, err := NewVerifier(d); err != nil {
			t.Fatal(err)
		}
	})
}

// The body is fuzzed without its PEM, or most mutations would stop there.
func FuzzDescriptorBody(f *testing.F) {
	g, _ := fuzzWorld(f)
	f.Add(g.Descriptor.signed.body)
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &signed{label: descriptorLabel, body: body}
		d, err := ParseDescriptor(s.text())
		if err != nil {
			return
		}
		again, err := encodeBody(d)
		if err != nil || !bytes.Equal(again, body) {
			t.Fatalf("not written back: %v\n%q\n%q", err, body, again)
		}
		for _, n := range d.Namespaces {
			n.firstAddresses(maxMasters)
		}
	})
}

func FuzzDecodeAttributes(f *testing.F) {
	for _, a := range []*attributes{issuerAttributes(), holderAttributes(), {
		kind: kindNode, grid: "archer", user: "alice", groups: []string{"physics"}, roles: []Role{RoleWorker}, namespaces: []string{"one"},
		static: [32]byte{1}, instance: "a",
	}} {
		value, err := a.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		a, err := decodeAttributes(value)
		if err != nil {
			return
		}
		again, err := a.encode()
		if err != nil || !bytes.Equal(again, value) {
			t.Fatalf("not written back: %v\n%x\n%x", err, value, again)
		}
		if err := a.within(a); err != nil {
			t.Fatalf("not within itself: %v", err)
		}
		checkReserved(a, true)
		checkReserved(a, false)
	})
}

func FuzzParseRevocations(f *testing.F) {
	g, _ := fuzzWorld(f)
	f.Add(g.Revocations.signed.body)
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &signed{label: revocationsLabel, body: body}
		if err := s.sign(g.root.key); err != nil {
			t.Fatal(err)
		}
		l, err := ParseRevocations(s.text())
		if err != nil {
			return
		}
		if !bytes.Equal(l.signed.body, body) || !bytes.Equal(l.Text(), s.text()) {
			t.Fatal("not written back")
		}
		if v, err := NewVerifier(g.Descriptor, l); err == nil {
			v.checkRevoked("root", kindHolder, g.root.cert, nil)
		}
		l.grows(g.Revocations)
		g.Revocations.grows(l)
	})
}

func FuzzParseTrust(f *testing.F) {
	g, trust := fuzzWorld(f)
	f.Add(trust.Append(nil))
	f.Add((&Trust{}).Append(nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		trust, err := ParseTrust(text)
		if err != nil {
			return
		}
		if again := trust.Append(nil); !bytes.Equal(again, text) {
			t.Fatalf("not written back:\n%q\n%q", text, again)
		}
		trust.Descriptor()
		trust.Verifier()
		trust.Publishable()
		trust.AcceptRevocations(g.Revocations.Text())
		trust.AcceptDescriptor(g.Descriptor.Text())
	})
}

func FuzzParseChain(f *testing.F) {
	g, _ := fuzzWorld(f)
	m := g.Material[0]
	f.Add(m.HolderCert)
	f.Add(append(bytes.Clone(m.HolderCert), m.IssuerCert...))
	v, err := NewVerifier(g.Descriptor, g.Revocations)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		chain, err := ParseChain(text)
		if err != nil {
			return
		}
		if !bytes.Equal(chain.PEM(), unix(text)) {
			t.Fatalf("not written back:\n%q\n%q", text, chain.PEM())
		}
		v.VerifyHolder(chain, testTime)
		v.VerifyNode(chain, testTime)
	})
}

// FuzzVerify puts arbitrary attributes into certificates that are properly
// signed: whatever passes is within its holder.
func FuzzVerify(f *testing.F) {
	g, _ := fuzzWorld(f)
	holder := forge(f, holderAttributes(), g.root, nil)
	key := newTestKey(f)
	shape := &attributes{
		kind: kindNode, grid: "archer", user: "alice", groups: []string{"physics"}, roles: []Role{RoleWorker}, namespaces: []string{"one"},
		id: NodeIDOf(&key.PublicKey), static: [32]byte{1}, instance: "a",
	}
	value, err := shape.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	v, err := NewVerifier(g.Descriptor)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		var a asn1.RawValue
		if _, err := asn1.Unmarshal(value, &a); err != nil {
			return
		}
		node := forgeFor(t, key, shape, holder, func(c *x509.Certificate) { c.ExtraExtensions[0].Value = value })
		n, err := v.VerifyNode(chainOf(node, holder), testTime)
		if err != nil {
			return
		}
		if n.User != "alice" || n.Group != "physics" || n.Role != RoleWorker || len(n.Roles) != 1 || n.Namespace != "one" ||
			n.Rights.Router || n.Rights.Gateway || n.Quota.Leases > 10 || n.Quota.RelayMbit > 10 || n.ID != NodeIDOf(&key.PublicKey) {
			t.Fatalf("accepted %+v", n)
		}
	})
}
