package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/issuer"
	"gridappliance/overlayd/state"
)

const (
	controlEvery = time.Second // before the control socket is tried again
	maxRequest   = 16 << 10    // bytes of a certificate request on stdin
)

// memberOptions say where this machine's node has what proves who it is.
type memberOptions struct {
	floppy, state, control, machineID string
}

func (o *memberOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.floppy, "floppy", "/var/lib/grid/floppy.img", "the machine's floppy: an image, zipped or not")
	f.StringVar(&o.state, "state", "/var/lib/overlayd", "folder of the running node's key")
	f.StringVar(&o.control, "control", control.SocketPath, "control socket")
	f.StringVar(&o.machineID, "machine-id", "/etc/machine-id", "file that tells this machine from its copies")
}

func newIssuerCommand() *cobra.Command {
	var o memberOptions
	cmd := &cobra.Command{
		Use:   "issuer",
		Short: "on a master, give machines their HTCondor credentials",
		Long: `issuer runs on a master, beside overlayd, until SIGTERM or SIGINT. On port 4243 of
the master's virtual address it signs, with the floppy's ISSUER.KEY, certificates
for the HTCondor of workers and clients: each for the node that asks, at the
address that the node holds, for at most 24 hours.

EXIT STATUS
  5 on a machine that is no master`,
		Example: `  overlayd issuer
  overlayd issuer --floppy master-1.img --state /tmp/node --control /tmp/node.sock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runIssuer(cmd.Context(), o, newLogger(cmd.ErrOrStderr()))
		},
	}
	o.flags(cmd)
	return cmd
}

func newCredentialCommand() *cobra.Command {
	var o memberOptions
	cmd := &cobra.Command{
		Use:   "credential < REQUEST",
		Short: "get a certificate for this machine's HTCondor from a master",
		Long: `credential reads a certificate request (PKCS #10, PEM) and has a master sign its
key for what this machine is: grid, group, role and host name, whatever the
request says. The masters are asked one after the other. It prints the
certificate and its issuer's. It needs to read the node's key: be root.

EXIT STATUS
  1 no master could be asked, 4 every master refuses, 5 without a virtual address`,
		Example: `  openssl req -new -key node.key -subj /CN=x | overlayd credential`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			request, err := readRequest(cmd.InOrStdin())
			if err != nil {
				return diag.UsageError{Err: err}
			}
			chain, err := askMasters(cmd.Context(), o, request)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(chain)
			return err
		},
	}
	o.flags(cmd)
	return cmd
}

func readRequest(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxRequest))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("standard input holds no CERTIFICATE REQUEST in PEM")
	}
	return block.Bytes, nil
}

// member is this machine as the running node proves it.
type member struct {
	options  memberOptions
	floppy   *floppy.Floppy
	key      *ecdsa.PrivateKey
	instance string
}

func openMember(o memberOptions) (*member, error) {
	m := &member{options: o}
	var err error
	if m.floppy, err = readFloppy(o.floppy, time.Now()); err != nil {
		return nil, err
	}
	if m.floppy.Config.Machine.Role == floppy.RoleStandalone {
		return nil, fmt.Errorf("a standalone machine has no grid: %w", diag.ErrNothing)
	}
	if m.instance, err = machineInstance(o.machineID); err != nil {
		return nil, err
	}
	if m.key, err = state.OpenKey(m.floppy, o.state, m.instance); err != nil {
		return nil, err
	}
	return m, nil
}

// certificate makes a node certificate for the node's key: for this purpose it
// is as good as the one the daemon shows, with a session key that nobody has.
func (m *member) certificate() (*tls.Certificate, error) {
	now := time.Now()
	identity, err := m.floppy.Identity(now)
	if err != nil {
		return nil, err
	}
	r := credential.NodeRequest{Key: &m.key.PublicKey, Instance: m.instance,
		Role: credential.Role(m.floppy.Config.Machine.Role), Namespace: m.floppy.Config.Network.Namespace}
	rand.Read(r.X25519[:])
	cert, err := identity.MakeNode(r, now)
	if err != nil {
		return nil, err
	}
	return issuer.TLS(cert, m.key), nil
}

// verifier decides by what the running node has accepted, or by the floppy
// where it has not said yet.
func (m *member) verifier() (*credential.Verifier, error) {
	trust, err := state.OpenTrust(m.options.state)
	if errors.Is(err, fs.ErrNotExist) {
		trust = new(credential.Trust)
		_, err = trust.AcceptDescriptor(m.floppy.Descriptor)
	}
	if err != nil {
		return nil, err
	}
	return trust.Verifier()
}

// askMasters asks one master after the other, beginning anywhere. The error
// wraps fs.ErrPermission when there are masters and every one refuses.
func askMasters(ctx context.Context, o memberOptions, request []byte) ([]byte, error) {
	m, err := openMember(o)
	if err != nil {
		return nil, err
	}
	status, err := control.Dial(o.control).Status(ctx)
	if err != nil {
		return nil, explain(err)
	}
	if !status.Address.IsValid() {
		return nil, fmt.Errorf("the machine has no virtual address yet: %w", diag.ErrNothing)
	}
	var failures []error
	refused := true
	for _, i := range mathrand.Perm(len(status.Masters)) {
		master := netip.AddrPortFrom(status.Masters[i].Address, issuer.Port)
		chain, err := issuer.Ask(ctx, master, m.certificate, m.verifier, request)
		if err == nil {
			return chain, nil
		}
		failures = append(failures, err)
		refused = refused && errors.Is(err, issuer.ErrRefused)
	}
	if len(failures) == 0 {
		return nil, fmt.Errorf("the grid names no master: %w", diag.ErrNothing)
	}
	if refused {
		failures = append(failures, fs.ErrPermission)
	}
	return nil, oneLine(failures)
}

// oneLine joins errors as errors.Join does, on one line.
func oneLine(errs []error) error {
	format, args := strings.Repeat("; %w", len(errs))[2:], make([]any, len(errs))
	for i, err := range errs {
		args[i] = err
	}
	return fmt.Errorf(format, args...)
}

// runIssuer serves for as long as the node has the master's address, until ctx
// ends.
func runIssuer(ctx context.Context, o memberOptions, log *slog.Logger) error {
	m, err := openMember(o)
	if err != nil {
		return err
	}
	if m.floppy.Config.Machine.Role != floppy.RoleMaster {
		return fmt.Errorf("only a master has an issuer's key, this is a %s: %w", m.floppy.Config.Machine.Role, diag.ErrNothing)
	}
	identity, err := m.floppy.Identity(time.Now())
	if err != nil {
		return err
	}
	client := control.Dial(o.control)
	service := &issuer.Service{
		Grid: identity.Descriptor.Grid, IssuerCert: m.floppy.IssuerCert, IssuerKey: m.floppy.IssuerKey,
		Certificate: m.certificate, Verifier: m.verifier, Whois: client.Whois, Log: log,
	}
	notify(daemon.SdNotifyReady)
	for ctx.Err() == nil {
		if err := serveWhile(ctx, client, service, log); err != nil {
			log.Warn("not serving", "err", err, "after", controlEvery)
		}
		select {
		case <-ctx.Done():
		case <-time.After(controlEvery):
		}
	}
	return nil
}

// serveWhile serves on the node's address until the node has it no more.
func serveWhile(ctx context.Context, client *control.Client, service *issuer.Service, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		addr netip.Addr
		stop = func() {}
	)
	defer func() { stop() }()
	for s, err := range client.Watch(ctx) {
		if err != nil {
			return err
		}
		if s.Address.Addr() == addr {
			continue
		}
		stop()
		addr = s.Address.Addr()
		if !addr.IsValid() {
			stop = func() {}
			continue
		}
		ln, err := net.Listen("tcp", netip.AddrPortFrom(addr, issuer.Port).String())
		if err != nil {
			return err
		}
		log.Info("issuing credentials", "endpoint", ln.Addr())
		served := make(chan struct{})
		serving, end := context.WithCancel(ctx)
		go func() {
			defer close(served)
			if err := service.Serve(serving, ln); err != nil {
				log.Error("not serving any more", "err", err)
				cancel() // and begin anew
			}
		}()
		stop = func() { end(); <-served }
	}
	return nil
}
