package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
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
	"gridappliance/internal/diag"
	"gridappliance/internal/sysrun"
)

// retry is how long after a renewal that failed the next is tried.
const retry = 5 * time.Minute

// certify adds HTCondor's root and this machine's certificate and key to the
// files. The ones in the tree are kept as they are while they are this
// machine's, valid, and at least half of their life is left; then a master
// signs its own key anew, and any other machine has a master sign it.
//
// A certificate that cannot be renewed serves to its end, except where every
// master refuses: then it is withdrawn, and HTCondor stops.
func (d *decision) certify(ctx context.Context, o options, f *floppy.Floppy, rootPEM []byte, now time.Time) error {
	cert, key, err := d.installed()
	if err != nil {
		return err
	}
	leaf, reason := d.trusted(cert, key, rootPEM, now)
	if reason != nil || now.After(half(leaf)) {
		if reason != nil {
			key = nil // whose it was counts no more
		}
		newCert, newKey, failed := d.obtain(ctx, o, f, key, now)
		if failed == nil {
			newLeaf, unusable := d.trusted(newCert, newKey, rootPEM, now)
			if failed = unusable; failed == nil {
				leaf, reason, cert, key = newLeaf, nil, newCert, newKey
			}
		}
		switch master := d.machine.Role == floppy.RoleMaster; {
		case failed == nil:
		case master && reason != nil:
			return fmt.Errorf("%s: the issuer's certificate is not good for this master: %w", f.Name, failed)
		case reason != nil && cert != nil:
			reason = fmt.Errorf("%w (the one there: %w)", failed, reason)
		case reason != nil || errors.Is(failed, fs.ErrPermission):
			reason = failed
		default:
			d.renew = now.Add(retry)
		}
	}
	d.files = append(d.files, tree.File{Path: pool.CAFile, Mode: 0o644, Data: rootPEM})
	if reason != nil {
		d.waiting = "no HTCondor certificate for this " + string(d.machine.Role) + ": " + reason.Error()
		return nil
	}
	if d.renew.IsZero() {
		d.renew = half(leaf)
	}
	d.files = append(d.files,
		tree.File{Path: pool.KeyFile, Mode: 0o600, Data: key},
		tree.File{Path: pool.CertFile, Mode: 0o644, Data: cert})
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

// obtain has a certificate signed for the key there is, so that renewing
// replaces one file, or for a new key where there is none. The error wraps
// fs.ErrPermission when this machine may not have one.
func (d *decision) obtain(ctx context.Context, o options, f *floppy.Floppy, keyPEM []byte, now time.Time) (cert, key []byte, err error) {
	private, err := credential.ParseKey(keyPEM)
	if err != nil {
		if private, err = credential.NewKey(); err != nil {
			return nil, nil, err
		}
	}
	if key, err = credential.FormatKey(private); err != nil {
		return nil, nil, err
	}
	if d.machine.Role == floppy.RoleMaster {
		cert, err = credential.IssueCondor(f.IssuerCert, f.IssuerKey, credential.CondorRequest{
			Grid: d.machine.Grid, Group: d.machine.Group, Role: credential.Role(d.machine.Role),
			Name: d.machine.Name, Addresses: []netip.Addr{d.machine.Net.Addr()}, Key: &private.PublicKey, Now: now,
		})
		return cert, key, err
	}
	if o.sign == nil {
		return nil, nil, errors.New("a master is yet to be asked")
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		return nil, nil, err
	}
	cert, err = o.sign(ctx, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}))
	return cert, key, err
}

// askMasters has overlayd, which is a member of the grid where condorconf is
// not, put the request to the masters.
func (o options) askMasters(ctx context.Context, request []byte) ([]byte, error) {
	r, err := sysrun.Run(ctx, sysrun.Command{Name: o.overlayd, Stdin: bytes.NewReader(request),
		Args: []string{"credential", "--floppy", o.floppy, "--control", o.control}})
	var failed *sysrun.Error
	switch {
	case errors.As(err, &failed) && failed.Exit == diag.ExitDenied:
		return nil, fmt.Errorf("%w: %s", fs.ErrPermission, failed.Stderr)
	case errors.As(err, &failed) && failed.Stderr != "":
		return nil, errors.New(failed.Stderr)
	}
	return r.Stdout, err
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
