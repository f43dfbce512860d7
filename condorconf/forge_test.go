package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gridappliance/condorconf/pool"
	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/netlab"
	"gridappliance/overlayd/control"
)

// testForgedJob lets bob of chemistry say in every way a user has that a job is
// alice's of physics. Alice's own job is the control: the worker's RANK
// gives it 200.
func testForgedJob(t *testing.T, worker, client, other *machine) {
	there := fmt.Sprintf("requirements = Machine == %q", worker.Name)
	client.queue("sleep 600", there)
	worker.until(40*time.Second, "griduser@physics 200", "condor_status", worker.Name, "-autoformat", "RemoteUser", "CurrentRank")
	client.inside("condor_rm", "-all")

	// In the submit file.
	other.queue("sleep 600", there, `+User = "griduser@physics"`, `+GridUser = "alice"`, `+GridGroup = "physics"`)
	worker.until(40*time.Second, "griduser@chemistry 0", "condor_status", worker.Name, "-autoformat", "RemoteUser", "CurrentRank")
	other.inside("condor_rm", "-all")

	// By condor_qedit, while the job is held. What may be changed is the control.
	other.queue("sleep 600", there, "hold = true")
	edit := func(name, value string) (string, error) {
		return other.as("griduser", "condor_qedit", "-constraint", "JobStatus == 5", name, value)
	}
	if out, err := edit("Note", `"changed"`); err != nil {
		t.Fatalf("condor_qedit does not work: %v: %s", err, out)
	}
	for name, value := range map[string]string{"GridUser": `"alice"`, "User": `"griduser@physics"`, "Owner": `"root"`} {
		if out, err := edit(name, value); err == nil {
			t.Errorf("condor_qedit changed %s: %s", name, out)
		}
	}
	got := other.inside("condor_q", "-allusers", "-constraint", "JobStatus == 5", "-autoformat", "Note", "GridUser", "User", "Owner")
	if want := "changed bob griduser@chemistry griduser\n"; got != want {
		t.Errorf("after condor_qedit the job is %q, want %q", got, want)
	}
	other.inside("condor_rm", "-all")

	// As a user of another group in the accounting. One of the own, the control, may be anybody.
	if got := other.submit("echo counted", there, "accounting_group_user = carol"); got != "counted\n" {
		t.Errorf("with accounting_group_user the job said %q", got)
	}
	other.queue("echo forged", there, "accounting_group_user = griduser@physics")
	stayIdle(t, "griduser@chemistry", other)
	other.inside("condor_rm", "-all")
}

// stayIdle holds that the one job of each machine is not begun within three
// cycles of the negotiator.
func stayIdle(t *testing.T, user string, queues ...*machine) {
	t.Helper()
	want := "1 " + user + "\n"
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		for _, m := range queues {
			if got := m.inside("condor_q", "-allusers", "-autoformat", "JobStatus", "User"); got != want {
				t.Fatalf("%s: the job is %q, want it idle: %q", m.Name, got, want)
			}
		}
	}
}

// testOwnConfiguration makes root on a client and on a worker configure what
// they like: the client says that its users are of another group, the worker
// runs a job queue. Neither gets a job through; as before both do what they may.
func testOwnConfiguration(t *testing.T, master, worker, client, other *machine, running map[*machine]*netlab.Process) {
	const mine = "etc/condor/config.d/90-mine.conf"
	there := fmt.Sprintf("requirements = Machine == %q", worker.Name)
	restart := func(m *machine) {
		t.Helper()
		m.kill(running[m])
		running[m] = m.start()
	}
	if out, err := worker.Try("chroot", worker.root, "condor_submit", "-remote", client.Name, "/tmp/job.sub"); err == nil {
		t.Errorf("the worker submitted at the client: %s", out)
	}
	other.put(mine, "NETWORK_HOSTNAME = "+client.Name+"\nUID_DOMAIN = physics\nJOB_TRANSFORM_GridUser = SET GridUser \"alice\"\nIMMUTABLE_JOB_ATTRS =\n")
	worker.put(mine, "DAEMON_LIST = $(DAEMON_LIST), SCHEDD\n")
	for _, m := range []*machine{other, worker} {
		restart(m)
		m.until(40*time.Second, "0 jobs", "condor_q", "-allusers", "-totals")
		m.queue("echo forged", there)
	}
	stayIdle(t, "griduser@physics", other, worker)
	client.submit("echo own", there) // the pool works
	if got := master.inside("condor_status", "-schedd", "-autoformat", "Machine"); strings.Contains(got, worker.Name) {
		t.Errorf("the collector took the worker's job queue: %s", got)
	}

	// A collector that takes the lie, as it takes a modified queue's, gives the job the worker's slot: its guard has it held.
	const lax = "etc/condor/config.d/90-lax.conf"
	master.put(lax, "COLLECTOR_REQUIREMENTS = True\n")
	master.reload(running[master])
	reason := other.until(time.Minute, "not whose it says", "condor_q", "-allusers", "-constraint", "JobStatus == 5", "-autoformat", "HoldReasonCode", "HoldReason")
	if !strings.HasPrefix(reason, "21 ") { // StartdHeldJob
		t.Errorf("the forged job is held for %q, want code 21", reason)
	}
	if out, err := os.ReadFile(filepath.Join(other.root, "home/griduser/job.out")); err == nil && len(out) > 0 {
		t.Errorf("the forged job has said %q", out)
	}
	if err := os.Remove(filepath.Join(master.root, lax)); err != nil {
		t.Fatal(err)
	}
	master.reload(running[master])

	for _, m := range []*machine{other, worker} {
		m.inside("condor_rm", "-all")
		if err := os.Remove(filepath.Join(m.root, mine)); err != nil {
			t.Fatal(err)
		}
		restart(m)
	}
	master.until(time.Minute, other.Name, "condor_status", "-schedd", "-autoformat", "Machine")
	if got := other.submit("echo honest", there); got != "honest\n" {
		t.Errorf("with its own configuration gone the client's job said %q", got)
	}
}

// testHoldersLeaf signs a master's certificate with the key of a client's
// floppy. The master's collector refuses it, also where the floppy's
// certificate is an authority it trusts; below any other authority that it
// trusts, the control, the same leaf is a master.
func testHoldersLeaf(t *testing.T, l *lab, master, other *machine) {
	file := func(name string) []byte {
		return other.files[slices.IndexFunc(other.files, func(f floppy.File) bool { return f.Name == name })].Data
	}
	chain, err := credential.ParseChain(file(floppy.HolderCertFile))
	if err != nil {
		t.Fatal(err)
	}
	holder := parsed(t, chain[0])
	holderKey, err := credential.ParseKey(file(floppy.HolderKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, RawSubject: holder.RawSubject}
	plainKey, err := credential.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	plain := forge(t, authority, authority, plainKey, plainKey)

	trust := func(more ...*x509.Certificate) {
		text := l.grid.Descriptor.CondorRootPEM()
		for _, c := range more {
			text = append(bytes.Clone(text), credential.Certificate(c.Raw).PEM()...)
		}
		master.put(pool.CAFile, string(text))
	}
	mine, err := os.ReadFile(filepath.Join(other.root, pool.CertFile))
	if err != nil {
		t.Fatal(err)
	}
	mineKey, err := os.ReadFile(filepath.Join(other.root, pool.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	const nobody, obeyed = "READ", "READ ADVERTISE_MASTER NEGOTIATOR"
	for _, c := range []struct {
		what   string
		by     *x509.Certificate
		key    *ecdsa.PrivateKey
		trusts []*x509.Certificate
		want   string
	}{
		{"below a floppy", holder, holderKey, nil, nobody},
		{"below a floppy that is trusted", holder, holderKey, []*x509.Certificate{holder}, nobody},
		{"below an authority that is trusted", plain, plainKey, []*x509.Certificate{plain}, obeyed},
	} {
		l.posesAsMaster(other, c.by, c.key)
		trust(c.trusts...)
		if got := other.privileges(); got != c.want {
			t.Errorf("a master's leaf %s may %s, want %s", c.what, got, c.want)
		}
	}
	trust()
	other.put(pool.CertFile, string(mine))
	other.put(pool.KeyFile, string(mineKey))
}

// posesAsMaster gives m a certificate with the subject of the first master's,
// signed by the key.
func (l *lab) posesAsMaster(m *machine, by *x509.Certificate, key *ecdsa.PrivateKey) {
	l.t.Helper()
	own, err := credential.NewKey()
	if err != nil {
		l.t.Fatal(err)
	}
	material := l.grid.Material[0]
	chain, err := credential.IssueCondor(material.IssuerCert, material.IssuerKey, credential.CondorRequest{
		Grid: "archer", Group: pool.MasterGroup, Role: credential.RoleMaster, Name: control.HostName(material.Address), Key: &own.PublicKey, Now: time.Now(),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	genuine, err := credential.ParseChain(chain)
	if err != nil {
		l.t.Fatal(err)
	}
	leaf := forge(l.t, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: by.NotBefore, NotAfter: by.NotAfter, RawSubject: parsed(l.t, genuine[0]).RawSubject,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, by, own, key)
	text, err := credential.FormatKey(own)
	if err != nil {
		l.t.Fatal(err)
	}
	m.put(pool.CertFile, string(credential.Chain{leaf.Raw, by.Raw}.PEM()))
	m.put(pool.KeyFile, string(text))
}

// forge makes the certificate of key, signed by another's.
func forge(t *testing.T, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, der)
}

func parsed(t *testing.T, der credential.Certificate) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
