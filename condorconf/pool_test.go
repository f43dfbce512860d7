package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/condorconf/pool"
	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
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
	running := map[*machine]*netlab.Process{master: master.start()}
	master.until(30*time.Second, "archer", "condor_status", "-collector", "-af", "CollectorHost", "Name", "MyAddress")
	for _, m := range []*machine{worker, client, other} {
		if r := m.condorconf("write"); r.Waiting == "" || slices.Contains(r.Start, pool.CondorUnit) || !slices.Contains(r.Stop, pool.CondorUnit) {
			t.Errorf("%s without a certificate: %+v, want HTCondor stopped and the reason", m.Name, r)
		}
		l.certify(m)
		if r := m.condorconf("write"); r.Waiting != "" || !slices.Contains(r.Start, pool.CondorUnit) {
			t.Fatalf("%s with a certificate: %+v, want HTCondor started", m.Name, r)
		}
		running[m] = m.start()
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
		// The queue writes the history after the job's log.
		client.until(20*time.Second, "griduser@physics alice\n", "condor_history", "-autoformat", "User", "GridUser")
	})
	t.Run("a job on the machine it was submitted on", func(t *testing.T) {
		if got := client.submit("id -un; hostname", `requirements = Machine == "C250000018.ipop"`); got != "slot1\nC250000018.ipop\n" {
			t.Errorf("the job said %q", got)
		}
	})
	t.Run("a job's account submits nothing", func(t *testing.T) { client.refusesJobsOf("slot1") })
	t.Run("machines cannot be forged", func(t *testing.T) { testForgery(t, master, client) })
	t.Run("a job's owner cannot be forged", func(t *testing.T) { testForgedJob(t, worker, client, other) })
	t.Run("a floppy signs no master", func(t *testing.T) { testHoldersLeaf(t, l, master, other) })
	t.Run("own configuration forges nothing", func(t *testing.T) { testOwnConfiguration(t, master, worker, client, other, running) })
	t.Run("the group's job preempts another's", func(t *testing.T) { testPreemption(t, master, worker, client, other) })
	t.Run("a drained machine ends its jobs and takes none", func(t *testing.T) { testDrain(t, worker, client) })
	t.Run("a client that works takes its owner's jobs alone", func(t *testing.T) { testBusyClient(t, client, other) })
}

// certify puts a certificate from the first master's issuer into m, as the
// issuing service will.
func (l *lab) certify(m *machine) {
	l.t.Helper()
	private, err := credential.NewKey()
	if err != nil {
		l.t.Fatal(err)
	}
	chain, err := credential.IssueCondor(l.grid.Material[0].IssuerCert, l.grid.Material[0].IssuerKey, credential.CondorRequest{
		Grid: "archer", Group: m.member.Group, Role: credential.Role(m.member.Role), Name: m.member.Name, Key: &private.PublicKey, Now: time.Now(),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	key, err := credential.FormatKey(private)
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
	cpus := strings.TrimSpace(master.inside("condor_status", worker.Name, "-constraint", "PartitionableSlot", "-af", "TotalCpus"))
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

// testDrain drains a machine while a job runs there. Only its own root may.
func testDrain(t *testing.T, worker, client *machine) {
	there := fmt.Sprintf("requirements = Machine == %q", worker.Name)
	client.queue("sleep 15; echo done", there)
	client.until(40*time.Second, "\n2\n", "sh", "-c", "echo; condor_q -allusers -autoformat JobStatus")
	if out, err := client.Try("chroot", client.root, "condor_drain", worker.Name); err == nil {
		t.Errorf("a client drained another machine: %s", out)
	}
	worker.inside("condor_drain", worker.Name)
	worker.until(30*time.Second, "Drained Retiring", "condor_status", worker.Name, "-autoformat", "State", "Activity")
	worker.until(60*time.Second, "Drained Idle", "condor_status", worker.Name, "-autoformat", "State", "Activity")
	log, err := os.ReadFile(filepath.Join(client.root, "home/griduser/job.log"))
	if err != nil || !strings.Contains(string(log), "005 (") || strings.Contains(string(log), "004 (") {
		t.Errorf("the job did not end in its own time (%v):\n%s", err, log)
	}
	client.queue("echo again", there)
	if out, err := client.as("griduser", "condor_wait", "-wait", "15", "job.log"); err == nil {
		t.Errorf("a drained machine took a job: %s", out)
	}
	worker.inside("condor_drain", "-cancel", worker.Name)
	if out, err := client.as("griduser", "condor_wait", "-wait", "60", "job.log"); err != nil {
		t.Errorf("the machine takes no jobs again: %v: %s\n%s", err, out, worker.logs())
	}
}

// testBusyClient has a program run on a client that is no job.
func testBusyClient(t *testing.T, client, other *machine) {
	work := client.Start("sh", "-c", "while :; do :; done")
	defer work.Wait(10 * time.Second)
	defer work.Signal(syscall.SIGKILL)
	client.until(3*time.Minute, "true", "condor_status", client.Name, "-autoformat", "TotalLoadAvg - TotalCondorLoadAvg > 0.6")
	there := fmt.Sprintf("requirements = Machine == %q", client.Name)
	other.queue("echo guest", there)
	if got := client.submit("echo own", there); got != "own\n" {
		t.Errorf("the owner's job said %q", got)
	}
	if out, err := other.as("griduser", "condor_wait", "-wait", "15", "job.log"); err == nil {
		t.Errorf("a guest's job began: %s", out)
	}
	other.inside("condor_rm", "-all")
}

// TestOwnersActivity evaluates a client's policy with HTCondor's own evaluator
// as condor_startd does.
func TestOwnersActivity(t *testing.T) {
	l := newLab(t, 1)
	m := l.machine("client", nil, floppy.RoleStandalone)
	expressions := map[string]string{}
	for _, f := range goldenFiles(t, "pool/testdata/client.golden") {
		for line := range strings.Lines(string(f.Data)) {
			if name, value, ok := strings.Cut(line, " = "); ok {
				expressions[name] = strings.TrimSpace(value)
			}
		}
	}
	const own, group, guest = `User = "griduser@physics"; GridUser = "alice"`, `User = "griduser@physics"; GridUser = "carol"`, `User = "griduser@chemistry"; GridUser = "alice"`
	for _, c := range []struct {
		what, machine, job, want string
	}{
		{"nobody is there", "KeyboardIdle = 301; TotalLoadAvg = 2.1; TotalCondorLoadAvg = 2.0; CurrentRank = 0.0", guest, "START CONTINUE"},
		{"somebody was there lately", "KeyboardIdle = 100; TotalLoadAvg = 0.1; TotalCondorLoadAvg = 0.0; CurrentRank = 100.0", group, ""},
		{"somebody types", "KeyboardIdle = 5; TotalLoadAvg = 0.1; TotalCondorLoadAvg = 0.0; CurrentRank = 100.0", group, "SUSPEND"},
		{"somebody types, the job is the owner's", "KeyboardIdle = 5; TotalLoadAvg = 0.1; TotalCondorLoadAvg = 0.0; CurrentRank = 200.0", own, "START"},
		{"the machine works", "KeyboardIdle = 9999; TotalLoadAvg = 2.1; TotalCondorLoadAvg = 1.0; CurrentRank = 0.0", guest, "SUSPEND"},
		{"suspended for long", `KeyboardIdle = 5; TotalLoadAvg = 0.1; TotalCondorLoadAvg = 0.0; CurrentRank = 0.0; Activity = "Suspended"; EnteredCurrentActivity = time() - 601`, guest, "SUSPEND PREEMPT"},
		{"suspended just now", `KeyboardIdle = 5; TotalLoadAvg = 0.1; TotalCondorLoadAvg = 0.0; CurrentRank = 0.0; Activity = "Suspended"; EnteredCurrentActivity = time() - 9`, guest, "SUSPEND"},
		{"without what the machine measures", "CurrentRank = 0.0", guest, ""},
	} {
		m.put("tmp/my", "["+c.machine+`; GridUser = "alice"; GridGroup = "physics"]`)
		m.put("tmp/target", "["+c.job+"]")
		var holds []string
		for _, name := range []string{"START", "SUSPEND", "CONTINUE", "PREEMPT"} {
			out := m.inside("classad_eval", "-quiet", "-my-file", "/tmp/my", "-target-file", "/tmp/target", expressions[name])
			if strings.TrimSpace(out) == "true" {
				holds = append(holds, name)
			}
		}
		if got := strings.Join(holds, " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
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

// TestMovesToAnotherPool: a worker whose pool has died reports to another's
// master, and the job that runs on it goes on.
func TestMovesToAnotherPool(t *testing.T) {
	l := newLab(t, 2)
	first, second := l.master(0), l.master(1)
	worker := l.person(floppy.RoleWorker, "physics", "alice", "10.250.0.17")
	client := l.person(floppy.RoleClient, "physics", "alice", "10.250.0.18")
	first.configure("masters = [\"" + first.member.Name + "\"]")
	second.configure("masters = [\"" + second.member.Name + "\"]")
	for _, m := range []*machine{worker, client} {
		m.configure("masters = [\"" + first.member.Name + "\"]")
		l.certify(m)
	}
	running := first.start()
	second.start()
	worker.condorconf("write")
	client.condorconf("write")
	onWorker, onClient := worker.start(), client.start()
	first.until(30*time.Second, worker.Name, "condor_status", "-af", "Machine")
	client.queue("sleep 25; echo done", `requirements = Machine == "C250000017.ipop"`)
	first.until(40*time.Second, "griduser@physics", "condor_status", worker.Name, "-af", "RemoteUser")

	first.kill(running)
	for m, p := range map[*machine]*netlab.Process{worker: onWorker, client: onClient} {
		m.configure("masters = [\"" + second.member.Name + "\"]")
		r := m.condorconf("write")
		if diff := cmp.Diff([]string{"/" + pool.MastersFile}, r.Changed); diff != "" {
			t.Errorf("%s: changed (-want +got):\n%s", m.Name, diff)
		}
		if diff := cmp.Diff([]string{pool.CondorUnit}, r.Reload); diff != "" || len(r.Restart) > 0 {
			t.Errorf("%s: restart %v, reload (-want +got):\n%s", m.Name, r.Restart, diff)
		}
		m.reload(p)
	}
	moved := time.Now()
	second.until(time.Minute, worker.Name, "condor_status", "-af", "Machine")
	t.Logf("the worker is in the other pool after %.1f s", time.Since(moved).Seconds())
	if out, err := client.as("griduser", "condor_wait", "-wait", "90", "job.log"); err != nil {
		t.Fatalf("the job: %v: %s\n%s", err, out, client.logs())
	}
	log, err := os.ReadFile(filepath.Join(client.root, "home/griduser/job.log"))
	if err != nil || strings.Contains(string(log), "004 (") || strings.Count(string(log), "001 (") != 1 {
		t.Errorf("the job did not run through (%v):\n%s", err, log)
	}
	if got := client.submit("echo next", `requirements = Machine == "C250000017.ipop"`); got != "next\n" {
		t.Errorf("in the other pool a job said %q", got)
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
