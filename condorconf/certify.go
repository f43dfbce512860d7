package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"gridappliance/condorconf/pool"
	"gridappliance/condorconf/tree"
	"gridappliance/credential"
	"gridappliance/floppy"
)

// certify adds HTCondor's root and this machine's certificate and key to the
// files. The ones in the tree are kept as they are while they are this
// machine's and valid, on a master while at least half of their life is left.
// Else a master makes new ones, and any other machine waits to be given some.
func (d *decision) certify(f *floppy.Floppy, rootPEM []byte, now time.Time) error {
	cert, key, err := d.installed()
	if err != nil {
		return err
	}
	master := d.machine.Role == floppy.RoleMaster
	leaf, reason := d.trusted(cert, key, rootPEM, now)
	if reason == nil && master && now.After(half(leaf)) {
		reason = errors.New("less than half of its life is left")
	}
	if reason != nil && master {
		if cert, key, err = d.issue(f, now); err != nil {
			return err
		}
		leaf, reason = d.trusted(cert, key, rootPEM, now)
	}
	d.files = append(d.files, tree.File{Path: pool.CAFile, Mode: 0o644, Data: rootPEM})
	switch {
	case reason == nil:
		d.renew = half(leaf)
		d.files = append(d.files,
			tree.File{Path: pool.KeyFile, Mode: 0o600, Data: key},
			tree.File{Path: pool.CertFile, Mode: 0o644, Data: cert})
	case master:
		return fmt.Errorf("%s: the issuer's certificate is not good for this master: %w", f.Name, reason)
	case cert == nil && key == nil:
		d.waiting = "no HTCondor certificate has been issued to this " + string(d.machine.Role) + " yet"
	default:
		d.waiting = "the HTCondor certificate in /" + pool.CertFile + " cannot be used: " + reason.Error()
	}
	return nil
}

// installed returns certificate and key as they stand in the tree, nil for
// what is not there.
func (d *decision) installed() (cert, key []byte, err error) {
	if cert, err = d.root.ReadFile(pool.CertFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if key, err = d.root.ReadFile(pool.KeyFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	return cert, key, nil
}

// issue makes a certificate with the master's own issuer.
func (d *decision) issue(f *floppy.Floppy, now time.Time) (cert, key []byte, err error) {
	_, secret, chain, err := credential.IssueCondor(f.IssuerCert, f.IssuerKey, credential.CondorRequest{
		Grid: d.machine.Grid, Group: d.machine.Group, Role: credential.Role(d.machine.Role),
		Name: d.machine.Name, Addresses: []netip.Addr{d.machine.Net.Addr()}, Now: now,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	return chain, secret, nil
}

// trusted returns the leaf when HTCondor on any machine of the grid would
// take it for exactly this machine now, else why not.
func (d *decision) trusted(cert, key, rootPEM []byte, now time.Time) (*x509.Certificate, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(rootPEM)
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		between.AddCert(c)
	}
	leaf := pair.Leaf
	options := x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if d.machine.Role == floppy.RoleMaster {
		options.DNSName = d.machine.Name
	}
	if _, err := leaf.Verify(options); err != nil {
		return nil, err
	}
	if want := subject(d.machine); !slices.Equal(subjectOf(leaf), want) {
		return nil, fmt.Errorf("it is for %q, this machine is %q", subjectOf(leaf), want)
	}
	return leaf, nil
}

// subject is a machine's as IssueCondor writes it, in the order of the map
// file's pattern.
func subject(m pool.Machine) []string {
	return []string{"O=" + m.Grid, "OU=" + m.Group, "OU=" + string(m.Role), "CN=" + m.Name}
}

func subjectOf(c *x509.Certificate) []string {
	short := map[string]string{"2.5.4.10": "O=", "2.5.4.11": "OU=", "2.5.4.3": "CN="}
	var parts []string
	for _, n := range c.Subject.Names {
		name, ok := short[asn1.ObjectIdentifier(n.Type).String()]
		if !ok {
			name = n.Type.String() + "="
		}
		parts = append(parts, name+fmt.Sprint(n.Value))
	}
	return parts
}

// half is when half of a certificate's life is over.
func half(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
}
