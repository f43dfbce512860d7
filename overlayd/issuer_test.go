package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/control/controltest"
)

// played is a daemon's control socket that a test plays: the status of one
// machine, and whois over the lab.
type played struct {
	controltest.Node
	whois func(netip.Addr) (control.Whois, error)
}

func (p *played) Whois(_ context.Context, who control.Target) (control.Whois, error) {
	return p.whois(who.Address)
}

// issuing is a master and a worker on one wire, with everything real but the
// daemons.
type issuing struct {
	t              *testing.T
	grid           *credential.Grid
	dir            string
	master, worker *netlab.Node

	mu    sync.Mutex
	known map[netip.Addr]control.Whois
}

func newIssuing(t *testing.T) *issuing {
	t.Helper()
	lab := netlab.New(t)
	i := &issuing{t: t, dir: t.TempDir(), master: lab.Node("master"), worker: lab.Node("worker"), known: map[netip.Addr]control.Whois{}}
	lab.Cable(i.master, "10.250.0.2/16", i.worker, "10.250.0.17/16")
	var err error
	i.grid, err = credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 1, Namespaces: []credential.Namespace{{Name: "archer"}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := i.grid.Material[0]
	writeFloppy(t, i.dir+"/master.img", "master", i.grid,
		floppy.File{Name: floppy.HolderCertFile, Data: m.HolderCert}, floppy.File{Name: floppy.HolderKeyFile, Data: m.HolderKey},
		floppy.File{Name: floppy.NodeKeyFile, Data: m.NodeKey},
		floppy.File{Name: floppy.IssuerCertFile, Data: m.IssuerCert}, floppy.File{Name: floppy.IssuerKeyFile, Data: m.IssuerKey})
	cert, key, err := i.grid.IssueHolder(credential.HolderRequest{User: "alice", Group: "physics", Roles: []credential.Role{credential.RoleWorker}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	writeFloppy(t, i.dir+"/worker.img", "worker", i.grid,
		floppy.File{Name: floppy.HolderCertFile, Data: cert}, floppy.File{Name: floppy.HolderKeyFile, Data: key})
	machineID(t, i.dir+"/machine-id")
	i.socket("master", "10.250.0.2/16")
	i.socket("worker", "10.250.0.17/16")
	i.nodeKey()
	return i
}

// socket plays the daemon of a machine.
func (i *issuing) socket(name, address string) {
	i.t.Helper()
	s := control.Status{State: control.StateRunning, Grid: "archer", Address: netip.MustParsePrefix(address),
		Masters: []control.Master{{Name: "C250000002.ipop", Address: netip.MustParseAddr("10.250.0.2")}}}
	ln, err := control.Listen(filepath.Join(i.dir, name+".sock"))
	if err != nil {
		i.t.Fatal(err)
	}
	server := control.NewServer(&played{whois: func(addr netip.Addr) (control.Whois, error) {
		i.mu.Lock()
		defer i.mu.Unlock()
		if w, ok := i.known[addr]; ok {
			return w, nil
		}
		return control.Whois{}, control.ErrUnknown
	}}, s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(ctx, ln) }()
	i.t.Cleanup(func() { cancel(); <-done })
}

// nodeKey makes the worker's node key, where and as its daemon keeps it.
func (i *issuing) nodeKey() {
	i.t.Helper()
	key, err := credential.NewKey()
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := credential.FormatKey(key)
	if err != nil {
		i.t.Fatal(err)
	}
	instance, err := machineInstance(i.dir + "/machine-id")
	if err != nil {
		i.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	block.Headers = map[string]string{"Instance": instance}
	if err := os.Mkdir(i.dir+"/worker", 0o700); err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(i.dir+"/worker/node.key", pem.EncodeToMemory(block), 0o600); err != nil {
		i.t.Fatal(err)
	}
	i.know(control.Whois{Address: netip.MustParseAddr("10.250.0.17"), NodeID: credential.NodeIDOf(&key.PublicKey).String(),
		User: "alice", Group: "physics", Role: "worker"})
}

func (i *issuing) know(w control.Whois) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.known[w.Address] = w
}

func (i *issuing) args(verb, name string) []string {
	i.t.Helper()
	path, err := program()
	if err != nil {
		i.t.Fatal(err)
	}
	return []string{path, verb, "--floppy", filepath.Join(i.dir, name+".img"), "--state", filepath.Join(i.dir, name),
		"--control", filepath.Join(i.dir, name+".sock"), "--machine-id", i.dir + "/machine-id"}
}

// ask runs overlayd credential on the worker, as condorconf does.
func (i *issuing) ask() (stdout string, exit int) {
	i.t.Helper()
	key, err := credential.NewKey()
	if err != nil {
		i.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		i.t.Fatal(err)
	}
	request := filepath.Join(i.dir, "request.pem")
	if err := os.WriteFile(request, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), 0o600); err != nil {
		i.t.Fatal(err)
	}
	out, err := i.worker.Try(append([]string{"sh", "-c", `exec "$@" <` + request, "sh"}, i.args("credential", "worker")...)...)
	var failed *sysrun.Error
	if errors.As(err, &failed) {
		return failed.Stderr, failed.Exit
	}
	if err != nil {
		i.t.Fatal(err)
	}
	return out, diag.ExitDone
}

// TestCredentialFromAMaster: the two programs over a real network, and the
// exit status that tells a refusal from a master that does not answer.
func TestCredentialFromAMaster(t *testing.T) {
	i := newIssuing(t)
	if said, exit := i.ask(); exit != diag.ExitFailed || !strings.Contains(said, "10.250.0.2") {
		t.Errorf("without a service: exit %d, %s", exit, said)
	}
	service := i.master.Start(i.args("issuer", "master")...)
	service.WaitFor("issuing credentials", patience)

	out, exit := i.ask()
	if exit != diag.ExitDone {
		t.Fatalf("exit %d: %s\n%s", exit, out, service.Output())
	}
	chain, err := credential.ParseChain([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil || leaf.Subject.CommonName != "C250000017.ipop" {
		t.Errorf("certificate of %v, %v", leaf.Subject, err)
	}

	i.mu.Lock()
	other := i.known[netip.MustParseAddr("10.250.0.17")]
	i.mu.Unlock()
	other.NodeID = fmt.Sprintf("%032x", 1)
	i.know(other)
	if said, exit := i.ask(); exit != diag.ExitFailed || !strings.Contains(said, "is held by node") {
		t.Errorf("from another node's address: exit %d, %s", exit, said)
	}

	// The master's daemon hears of a revocation; the service needs no word.
	serial := i.grid.Ledger[len(i.grid.Ledger)-1].Serial
	if _, err := i.grid.Revoke([]string{serial}, "lost", nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	var trust credential.Trust
	if _, err := trust.AcceptDescriptor(i.grid.Descriptor.Text()); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.AcceptRevocations(i.grid.Revocations.Text()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(i.dir+"/master", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(i.dir+"/master/trust.json", trust.Append(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, exit := i.ask(); exit != diag.ExitDenied || !strings.Contains(said, "revoked") {
		t.Errorf("revoked: exit %d, %s", exit, said)
	}
}
