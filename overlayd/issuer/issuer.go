// Package issuer is how a machine of the grid gets the certificate with which
// HTCondor knows it: the service on masters, and the question put to it.
//
//	overlayd credential                        overlayd issuer, on a master
//	   │ TLS 1.3, both ends with their node certificates
//	   │ POST /v1/credential   certificate request for HTCondor's key (PKCS #10)
//	   ├──────────────────────────────────────────> chain good? revoked?
//	   │                                            whois(source address) = that node?
//	   │                                            request signed by its key?
//	   <──────────────────────────────────────────┤ IssueCondor, <= 24 h
//	     certificate and the issuer's, PEM
//
// A node certificate means nothing to other software (package credential), so
// both ends take any certificate in the handshake, which proves that the peer
// has its key, and then decide by credential.Verifier: the service about the
// caller, the caller about the master, whose ID and address stand in the
// roster. Nothing of a certificate request counts but its key and that it was
// signed with it; grid, group and role are the node certificate's, the name is
// that of the address the request came from.
//
// Answers: 200 with the certificates, 400 for a request that is none, 403 when
// the caller may not have a credential (ErrRefused), 409 when the address is
// not known as the caller's, which may be true in a moment, 500 otherwise.
//
// Invariants: the service signs for no address that whois does not give to the
// very node that asks, none behind a router, and none of a master: those make
// their own. It keeps no state and reads trust and certificate anew for each
// connection, so that a revocation counts at once.
//
// Concurrency: a Service and Ask may be used concurrently. Limits on purpose:
// requestTime and maxRequest for each caller; only members reach the port.
//
// Sources: RFC 2986; RFC 8446 §4.4.2; TRUST.md "Chain".
package issuer

import (
	"crypto/tls"
	"errors"
	"time"

	"gridappliance/credential"
)

// Port is the TCP port of the service on a master's virtual address.
const Port = 4243

const (
	resource    = "/v1/credential"
	mediaType   = "application/pkcs10" // RFC 5967
	maxRequest  = 8 << 10              // bytes of a certificate request
	maxAnswer   = 64 << 10             // bytes of an answer
	requestTime = 10 * time.Second     // for one request, handshake included
	askTime     = 5 * time.Second      // before the caller gives a master up: there may be others
)

// ErrRefused is wrapped by Ask when a master says that this machine may not
// have a credential: asking again will not help.
var ErrRefused = errors.New("refused")

// Verifier returns who decides about peers now.
type Verifier func() (*credential.Verifier, error)

// Certificate returns this machine's node certificate and key.
type Certificate func() (*tls.Certificate, error)

// TLS is a node's certificate as crypto/tls takes it.
func TLS(cert *credential.NodeCertificate, key any) *tls.Certificate {
	c := &tls.Certificate{PrivateKey: key}
	for _, der := range cert.Chain {
		c.Certificate = append(c.Certificate, der)
	}
	return c
}

// peer returns the node at the other end of a connection.
func peer(verifier Verifier, state *tls.ConnectionState, now time.Time) (*credential.Node, error) {
	v, err := verifier()
	if err != nil {
		return nil, err
	}
	var chain credential.Chain
	for _, c := range state.PeerCertificates {
		chain = append(chain, c.Raw)
	}
	return v.VerifyNode(chain, now)
}
