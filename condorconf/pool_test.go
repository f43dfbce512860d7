package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/condorconf/pool"
	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/need"
)

func TestStandaloneRunsAJob(t *testing.T) {
	l := newLab(t, 1)
	m := l.machine("standalone", nil, floppy.RoleStandalone)
	first := m.condorconf("write")
	if diff := cmp.Diff([]string{pool.CondorUnit}, first.Start); diff != "" {
		t.Errorf("start (-want +got):\n%s", diff)
	}
	if again := m.condorconf("write"); len(again.Changed)+len(again.Restart) > 0 {
		t.Errorf("the second write changed %v and restarts %v", again.Changed, again.Restart)
	}
	m.start()
	m.until(30*time.Second, "slot1@", "condor_status")
	for line := range strings.Lines(m.Run("ss", "-lntuH")) {
		if local := strings.Fields(line)[4]; !strings.HasPrefix(local, "127.0.0.1:") {
			t.Errorf("HTCondor listens on %s", local)
		}
	}
	if got := m.submit("echo done; id -un"); got != "done\nslot1\n" {
		t.Errorf("the job said %q, want done as slot1", got)
	}
	m.refusesJobsOf("slot1")
}

// TestPool is a grid of a master, a worker and two clients of two groups, with
// certificates that the master's issuer made, and what each of them may do.
func TestPool(t *testing.T) {
	l := newLab(t, 1)
	master := l.master(0)
	worker := l.person(floppy.RoleWorker, "physics", "alice", "10.250.0.17")
	client := l.person(floppy.RoleClient, "physics", "alice", "10.250.0.18")
	other := l.person(floppy.RoleClient, "chemistry", "bob", "10.250.0.19")

	if r := master.condorconf("write"); !slices.Contains(r.Start, pool.CondorUnit) || r.Renew == "" || r.Waiting != "" {
		t.Fatalf("master: %+v, want HTCondor started and a time of renewal", r)
	}
	master.start()
	master.until(30*time.Second, "archer", "condor_status", "-collector", "-af", "CollectorHost", "Name", "MyAddress")
	for _, m := range []*machine{worker, client, other} {
		if r := m.condorconf("write"); r.Waiting == "" || slices.Contains(r.Start, pool.CondorUnit) || !slices.Contains(r.Stop, pool.CondorUnit) {
			t.Errorf("%s without a certificate: %+v, want HTCondor stopped and the reason", m.Name, r)
		}
		l.certify(m)
		if r := m.condorconf("write"); r.Waiting != "" || !slices.Contains(r.Start, pool.CondorUnit) {
			t.Fatalf("%s with a certificate: %+v, want HTCondor started", m.Name, r)
		}
		m.start()
	}
	for _, m := range []*machine{worker, client, other} {
		master.until(30*time.Second, m.Name, "condor_status", "-af", "Machine")
	}
	for _, m := range []*machine{client, other} {
		master.until(30*time.Second, m.Name, "condor_status", "-schedd", "-af", "Machine")
	}

	t.Run("identities come from certificates", func(t *testing.T) {
		got := master.inside("condor_status", "-af", "Machine", "AuthenticatedIdentity", "AuthenticationMethod", "GridGroup", "GridUser")
		want := "C250000017.ipop worker-C250000017.ipop@physics SSL physics alice\n" +
			"C250000018.ipop client-C250000018.ipop@physics SSL physics alice\n" +
			"C250000019.ipop client-C250000019.ipop@chemistry SSL chemistry bob\n"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("machines (-want +got):\n%s", diff)
		}
	})
	t.Run("privileges", func(t *testing.T) {
		for m, allowed := range map[*machine]string{
			master: "READ ADVERTISE_MASTER DAEMON ADMINISTRATOR",
			worker: "READ ADVERTISE_STARTD ADVERTISE_MASTER",
			client: "READ ADVERTISE_STARTD ADVERTISE_SCHEDD ADVERTISE_MASTER",
		} {
			if diff := cmp.Diff(allowed, m.privileges()); diff != "" {
				t.Errorf("%s at the collector (-want +got):\n%s", m.Name, diff)
			}
		}
	})
	t.Run("only the virtual network is listened on", func(t *testing.T) {
		for _, m := range []*machine{master, worker, client} {
			for line := range strings.Lines(m.Run("ss", "-lntuH")) {
				if local := strings.Fields(line)[4]; !strings.HasPrefix(local, m.member.Address.Addr().String()+":") {
					t.Errorf("%s: HTCondor listens on %s", m.Name, local)
				}
			}
		}
	})
	t.Run("a job of a client runs on the worker", func(t *testing.T) {
		got := client.submit("id -un; hostname", `requirements = Machine == "C250000017.ipop"`, `+GridUser = "bob"`)
		if got != "slot1\nC250000017.ipop\n" {
			t.Errorf("the job said %q", got)
		}
		history, err := client.as("griduser", "condor_history", "-af", "User", "GridUser")
		if err != nil || history != "griduser@physics alice\n" {
			t.Errorf("the job was of %q (%v), want griduser@physics alice", history, err)
		}
	})
	t.Run("a job on the machine it was submitted on", func(t *testing.T) {
		if got := client.submit("id -un; hostname", `requirements = Machine == "C250000018.ipop"`); got != "slot1\nC250000018.ipop\n" {
			t.Errorf("the job said %q", got)
		}
	})
	t.Run("a job's account submits nothing", func(t *testing.T) { client.refusesJobsOf("slot1") })
	t.Run("machines cannot be forged", func(t *testing.T) { testForgery(t, master, client) })
	t.Run("the group's job preempts another's", func(t *testing.T) { testPreemption(t, master, worker, client, other) })
}

// certify puts a certificate from the first master's issuer into m, as the
// issuing service will.
func (l *lab) certify(m *machine) {
	l.t.Helper()
	_, key, chain, err := credential.IssueCondor(l.grid.Material[0].IssuerCert, l.grid.Material[0].IssuerKey, credential.CondorRequest{
		Grid: "archer", Group: m.member.Group, Role: credential.Role(m.member.Role), Name: m.member.Name, Now: time.Now(),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	m.put(pool.CertFile, string(chain))
	m.put(pool.KeyFile, string(key))
	if err := os.Chmod(filepath.Join(m.root, pool.KeyFile), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// privileges returns what the machine's root may do at the collector.
func (m *machine) privileges() string {
	m.t.Helper()
	var allowed []string
	for _, p := range strings.Fields("READ ADVERTISE_STARTD ADVERTISE_SCHEDD ADVERTISE_MASTER DAEMON NEGOTIATOR ADMINISTRATOR CONFIG") {
		if out, err := m.Try("chroot", m.root, "condor_ping", "-quiet", "-type", "COLLECTOR", p); err == nil {
			allowed = append(allowed, p)
		} else if strings.Contains(out, "not found") {
			m.t.Fatal(out)
		}
	}
	return strings.Join(allowed, " ")
}

// refusesJobsOf holds that the account cannot submit on m.
func (m *machine) refusesJobsOf(account string) {
	m.t.Helper()
	out, err := m.Try("chroot", "--userspec="+account+":"+account, m.root, "env", "--chdir=/tmp", "HOME=/tmp", "condor_submit", "job.sub")
	if err == nil {
		m.t.Errorf("%s submitted a job: %s", account, out)
	} else if !strings.Contains(err.Error(), "DENIED") && !strings.Contains(err.Error(), "Failed to connect") && !strings.Contains(err.Error(), "authoriz") {
		m.t.Errorf("%s could not submit, but for another reason: %v", account, err)
	}
}

// testForgery lets a client's root advertise machines. Its own is the control:
// without it the test could not tell a refusal from a mistake.
func testForgery(t *testing.T, master, client *machine) {
	advertise := func(command, ad string) {
		t.Helper()
		client.put("tmp/ad", ad)
		client.Try("chroot", client.root, "condor_advertise", command, "/tmp/ad")
	}
	ad := func(name, machine, group string) string {
		return fmt.Sprintf("MyType = \"Machine\"\nTargetType = \"Job\"\nName = %q\nMachine = %q\nGridGroup = %q\nMyAddress = \"<%s:9618>\"\n", name, machine, group, client.member.Address.Addr())
	}
	advertise("UPDATE_STARTD_AD", ad("own@C250000018.ipop", "C250000018.ipop", "physics"))
	advertise("UPDATE_STARTD_AD", ad("group@C250000018.ipop", "C250000018.ipop", "chemistry"))
	advertise("UPDATE_STARTD_AD", ad("host@C250000017.ipop", "C250000017.ipop", "physics"))
	advertise("UPDATE_STARTD_AD", ad("master@C250000002.ipop", "C250000002.ipop", "infra"))
	advertise("UPDATE_NEGOTIATOR_AD", "MyType = \"Negotiator\"\nName = \"forged\"\nMachine = \"C250000018.ipop\"\n")
	master.until(10*time.Second, "own@C250000018.ipop", "condor_status", "-af", "Name")
	machines := master.inside("condor_status", "-af", "Name")
	for _, name := range []string{"group@", "host@", "master@"} {
		if strings.Contains(machines, name) {
			t.Errorf("the collector took %s from the client", name)
		}
	}
	if negotiators := master.inside("condor_status", "-negotiator", "-af", "Name"); strings.Contains(negotiators, "forged") {
		t.Errorf("the collector took a negotiator from the client: %s", negotiators)
	}
}

// testPreemption fills the worker of physics with a job of chemistry, and then
// wants it for physics.
func testPreemption(t *testing.T, master, worker, client, other *machine) {
	cpus := strings.TrimSpace(master.inside("condor_status", worker.Name, "-af", "TotalCpus"))
	there := fmt.Sprintf("requirements = Machine == %q\nrequest_cpus = %s", worker.Name, strings.TrimSuffix(cpus, ".0"))
	other.queue("sleep 600", there)
	master.until(40*time.Second, "griduser@chemistry", "condor_status", worker.Name, "-af", "RemoteUser")
	if got := client.submit("echo first", there); got != "first\n" {
		t.Errorf("the group's job said %q", got)
	}
	log, err := os.ReadFile(filepath.Join(other.root, "home/griduser/job.log"))
	if err != nil || !strings.Contains(string(log), "004 (") {
		t.Errorf("the other group's job was not evicted (%v):\n%s", err, log)
	}
}

// TestAddressChange: the new address reaches every file that names it, and
// restarts what listens on it; the master's certificate is made anew.
func TestAddressChange(t *testing.T) {
	l := newLab(t, 1)
	m := l.person(floppy.RoleClient, "physics", "alice", "10.250.0.18")
	m.condorconf("write")
	l.certify(m)
	m.condorconf("write")
	m.address(netip.MustParseAddr("10.250.0.28"))
	r := m.condorconf("write")
	want := []string{"/" + pool.KeyFile, "/" + pool.CertFile, "/" + pool.NetworkFile, "/" + pool.ProgramMap, "/" + pool.NFSFile}
	if diff := cmp.Diff(want, r.Changed); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
	if !strings.Contains(r.Waiting, `"CN=C250000018.ipop"`) {
		t.Errorf("waiting %q, want that the certificate is another host's", r.Waiting)
	}
	if diff := cmp.Diff([]string{pool.NFSUnit}, r.Restart); diff != "" {
		t.Errorf("restart (-want +got):\n%s", diff)
	}
}

// TestTwoMasters: one negotiator at a time, and another when its machine dies.
func TestTwoMasters(t *testing.T) {
	need.Long(t)
	l := newLab(t, 2)
	first, second := l.master(0), l.master(1)
	worker := l.person(floppy.RoleWorker, "physics", "alice", "10.250.0.17")
	client := l.person(floppy.RoleClient, "physics", "alice", "10.250.0.18")
	first.condorconf("write")
	second.condorconf("write")
	l.certify(worker)
	l.certify(client)
	worker.condorconf("write")
	client.condorconf("write")
	running := first.start()
	second.start()
	worker.start()
	client.start()
	// The client's tools may ask either collector, so each is asked by itself.
	negotiator := func(m *machine) string { return m.member.Name + "\n" }
	first.until(2*time.Minute, negotiator(first), "condor_status", "-pool", first.member.Name, "-negotiator", "-af", "Machine")
	second.until(time.Minute, worker.Name, "condor_status", "-pool", second.member.Name, "-af", "Machine")
	if got := client.submit("echo one"); got != "one\n" {
		t.Errorf("the job said %q", got)
	}
	first.kill(running)
	second.until(3*time.Minute, negotiator(second), "condor_status", "-pool", second.member.Name, "-negotiator", "-af", "Machine")
	if got := client.submit("echo two"); got != "two\n" {
		t.Errorf("after the first master's end the job said %q", got)
	}
}
