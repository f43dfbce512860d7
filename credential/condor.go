package credential

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	// CondorLifetime is the whole validity of an HTCondor credential. HTCondor
	// 23.9 reads no revocation list, so it is short (TRUST "Chain").
	CondorLifetime = 24 * time.Hour

	// IssuerLifetime is the validity of a master's ISSUER.CRT.
	IssuerLifetime = 90 * 24 * time.Hour

	condorRootPathLength   = 1
	condorIssuerPathLength = 0
)

var (
	oidCommonName         = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidOrganization       = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidOrganizationalUnit = asn1.ObjectIdentifier{2, 5, 4, 11}
)

// CondorRequest names the one identity an HTCondor credential is for.
type CondorRequest struct {
	Grid      string
	Group     string
	Role      Role         // worker, client or master
	Name      string       // CN; with role and group HTCondor's <role>-<name>@<group>
	Addresses []netip.Addr // masters only: whose host names stand in the SAN
	Key       *ecdsa.PublicKey
	Now       time.Time
}

// IssueCondor makes a certificate with the subject
// /O=<grid>/OU=<group>/OU=<role>/CN=<name> for the request's key, signed by a
// master's ISSUER.CRT and ISSUER.KEY, from an hour ago to 24 hours after that
// or to the issuer's end. It returns the certificate followed by the issuer's,
// as HTCondor's AUTH_SSL_*_CERTFILE takes it. A certificate has a DNS name only
// when its role is master, so that nobody else can be taken for the central
// manager.
func IssueCondor(issuerCert, issuerKey []byte, req CondorRequest) (chainPEM []byte, err error) {
	by, err := openCondorIssuer(issuerCert, issuerKey, req)
	if err != nil {
		return nil, err
	}
	if err := req.check(); err != nil {
		return nil, err
	}
	b := blank{
		subject:   req.subject(),
		notBefore: req.Now.Add(-nodeBackdate),
		usage:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	b.notAfter = b.notBefore.Add(CondorLifetime)
	if by.cert.NotAfter.Before(b.notAfter) {
		b.notAfter = by.cert.NotAfter
	}
	for _, addr := range req.Addresses {
		b.dns = append(b.dns, HostName(addr))
	}
	cert, err := b.make(req.Key, by)
	if err != nil {
		return nil, err
	}
	return Chain{cert.Raw, by.cert.Raw}.PEM(), nil
}

func openCondorIssuer(issuerCert, issuerKey []byte, req CondorRequest) (signer, error) {
	by, err := parseSigner(issuerCert, issuerKey)
	if err != nil {
		return signer{}, fmt.Errorf("HTCondor issuer: %w", err)
	}
	cert := by.cert
	if len(cert.UnhandledCriticalExtensions) > 0 {
		return signer{}, fmt.Errorf("HTCondor issuer: %w: %v in %q: a holder's certificate is none", ErrCritical, cert.UnhandledCriticalExtensions, cert.Subject)
	}
	if !cert.IsCA || cert.MaxPathLen != condorIssuerPathLength || cert.KeyUsage != x509.KeyUsageCertSign {
		return signer{}, fmt.Errorf("HTCondor issuer: %w: %q is not one", ErrPathLength, cert.Subject)
	}
	if !slices.Equal(cert.Subject.Organization, []string{req.Grid}) {
		return signer{}, fmt.Errorf("HTCondor issuer: %w: it is of %q, the credential is asked for %q", ErrWrongGrid, cert.Subject.Organization, req.Grid)
	}
	return by, checkValidity("HTCondor issuer", cert, req.Now)
}

func (r CondorRequest) check() error {
	if r.Key == nil || r.Key.Curve != elliptic.P256() {
		return fmt.Errorf("HTCondor credential: %w: a P-256 key is expected", ErrKey)
	}
	if err := CheckGrid(r.Grid); err != nil {
		return err
	}
	if err := CheckGroup(r.Group); err != nil {
		return err
	}
	if !condorNamePattern.MatchString(r.Name) {
		return fmt.Errorf("HTCondor name %q: %w: letters, digits and . _ -, at most 64", r.Name, ErrFormat)
	}
	if !slices.Contains(machineRoles, r.Role) {
		return fmt.Errorf("HTCondor credential for role %q: %w: one of %q expected", r.Role, ErrWrongRole, machineRoles)
	}
	if (r.Role == RoleMaster) != (r.Group == GroupInfra) {
		return fmt.Errorf("HTCondor credential for role %s in group %s: %w: group infra and role master go together", r.Role, r.Group, ErrReserved)
	}
	if r.Role != RoleMaster {
		if len(r.Addresses) > 0 {
			return fmt.Errorf("HTCondor credential for role %s: %w: host names %v, only a master has them", r.Role, ErrWrongRight, r.Addresses)
		}
		return CheckUnreserved("somebody", r.Group)
	}
	for _, addr := range r.Addresses {
		if !addr.Is4() {
			return fmt.Errorf("HTCondor credential: %w: %v is not an IPv4 address", ErrFormat, addr)
		}
	}
	return nil
}

// subject keeps its parts in this order, which the map file's pattern expects;
// crypto/x509/pkix would sort both OUs into one set.
func (r CondorRequest) subject() pkix.Name {
	return pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
		{Type: oidOrganization, Value: r.Grid},
		{Type: oidOrganizationalUnit, Value: r.Group},
		{Type: oidOrganizationalUnit, Value: string(r.Role)},
		{Type: oidCommonName, Value: r.Name},
	}}
}
