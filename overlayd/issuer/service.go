package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/control"
)

// Service answers machines that ask for their credential. All fields are
// required.
type Service struct {
	Grid        string
	IssuerCert  []byte            // ISSUER.CRT
	IssuerKey   credential.Secret // ISSUER.KEY
	Certificate Certificate
	Verifier    Verifier
	Whois       func(context.Context, netip.Addr) (control.Whois, error)
	Log         *slog.Logger
}

// Serve answers on ln until ctx ends, then closes it and returns nil. Any
// other end is an error.
func (s *Service) Serve(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+resource, s.serve)
	srv := &http.Server{
		Handler:           mux,
		ReadTimeout:       requestTime,
		WriteTimeout:      requestTime,
		ReadHeaderTimeout: requestTime,
		MaxHeaderBytes:    maxRequest,
		ErrorLog:          log.New(io.Discard, "", 0), // handshakes of strangers
		TLSConfig: &tls.Config{
			MinVersion:             tls.VersionTLS13,
			ClientAuth:             tls.RequireAnyClientCert, // serve verifies it
			SessionTicketsDisabled: true,
			GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.Certificate() },
		},
	}
	srv.SetKeepAlivesEnabled(false)
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	err := srv.ServeTLS(ln, "", "")
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}

// refusal is an answer that is not a certificate.
type refusal struct {
	status int
	err    error
}

func (s *Service) serve(w http.ResponseWriter, r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	addr := from.Addr().Unmap()
	node, chain, refused := s.issue(w, r, addr)
	if refused != nil {
		s.Log.Warn("no credential", "addr", addr, "reason", refused.err)
		http.Error(w, refused.err.Error(), refused.status)
		return
	}
	s.Log.Info("credential issued", "addr", addr, "node", node.ID, "role", node.Role, "group", node.Group, "user", node.User)
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Write(chain)
}

// issue decides about one request.
func (s *Service) issue(w http.ResponseWriter, r *http.Request, addr netip.Addr) (*credential.Node, []byte, *refusal) {
	now := time.Now()
	node, err := peer(s.Verifier, r.TLS, now)
	switch {
	case errors.Is(err, credential.ErrExpired), errors.Is(err, credential.ErrNotYetValid): // by one of two clocks
		return nil, nil, &refusal{http.StatusConflict, err}
	case err != nil:
		return nil, nil, &refusal{http.StatusForbidden, err}
	}
	if node.Role == credential.RoleMaster {
		return nil, nil, &refusal{http.StatusForbidden, errors.New("a master makes its own credential")}
	}
	if err := s.holds(r.Context(), node, addr); err != nil {
		return nil, nil, &refusal{http.StatusConflict, err}
	}
	key, err := requestedKey(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return nil, nil, &refusal{http.StatusBadRequest, err}
	}
	chain, err := credential.IssueCondor(s.IssuerCert, s.IssuerKey, credential.CondorRequest{
		Grid: s.Grid, Group: node.Group, Role: node.Role, Name: control.HostName(addr), Key: key, Now: now,
	})
	if err != nil {
		return nil, nil, &refusal{http.StatusInternalServerError, err}
	}
	return node, chain, nil
}

// holds returns nil when the address is the node's own, as its certificate
// names the node.
func (s *Service) holds(ctx context.Context, node *credential.Node, addr netip.Addr) error {
	who, err := s.Whois(ctx, addr)
	if err != nil {
		return fmt.Errorf("whois %s: %w", addr, err)
	}
	if who.Router {
		return fmt.Errorf("%s is behind a router and has no role: a machine of its own floppy gets a credential", addr)
	}
	for _, c := range []struct{ what, whois, node string }{
		{"node", who.NodeID, node.ID.String()}, {"user", who.User, node.User},
		{"group", who.Group, node.Group}, {"role", who.Role, string(node.Role)},
	} {
		if c.whois != c.node {
			return fmt.Errorf("%s is held by %s %q, the certificate is of %q", addr, c.what, c.whois, c.node)
		}
	}
	return nil
}

// requestedKey returns the key of a certificate request that it has signed.
func requestedKey(body io.Reader) (*ecdsa.PublicKey, error) {
	der, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read certificate request: %w", err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: the key is not proven: %w", err)
	}
	key, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("certificate request: the key is a %T, want ECDSA on P-256", request.PublicKey)
	}
	return key, nil
}
