package issuer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"gridappliance/credential"
)

// Ask asks the master at an address for a credential for the key of request, a
// certificate request in DER, and returns certificate and issuer in PEM. The
// error wraps ErrRefused when the master, and it is one, says no.
func Ask(ctx context.Context, master netip.AddrPort, cert Certificate, verifier Verifier, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var d net.Dialer
	chain, err := ask(ctx, d.DialContext, master, cert, verifier, request)
	var wrapped *url.Error // names a URL that no user knows
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if err != nil {
		return nil, fmt.Errorf("ask master %s for a credential: %w", master.Addr(), err)
	}
	return chain, nil
}

// dialer is net.Dialer's DialContext.
type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

func ask(ctx context.Context, dial dialer, master netip.AddrPort, cert Certificate, verifier Verifier, request []byte) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext:       dial,
		DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{
			MinVersion:           tls.VersionTLS13,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert() },
			InsecureSkipVerify:   true, // crypto/x509 accepts no node certificate: the next line verifies it
			VerifyConnection:     func(s tls.ConnectionState) error { return isMaster(verifier, &s, master.Addr()) },
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+master.String()+resource, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusForbidden:
		return nil, fmt.Errorf("%w: %s", ErrRefused, strings.TrimSpace(string(text)))
	case resp.StatusCode != http.StatusOK:
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	if _, err := credential.ParseChain(text); err != nil {
		return nil, err
	}
	return text, nil
}

// isMaster returns nil when the peer is the master of the roster at addr.
func isMaster(verifier Verifier, state *tls.ConnectionState, addr netip.Addr) error {
	node, err := peer(verifier, state, time.Now())
	if err != nil {
		return fmt.Errorf("what answers is no master: %w", err)
	}
	if node.Role != credential.RoleMaster {
		return fmt.Errorf("what answers is no master but a %s of %s", node.Role, node.User)
	}
	if !slices.Contains(node.Rights.Addresses, addr) {
		return fmt.Errorf("what answers is another master, %s at %v", node.User, node.Rights.Addresses)
	}
	return nil
}
