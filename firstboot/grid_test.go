package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/guide"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
)

// gridPatience is for machines that boot five at a time on two processors.
const gridPatience = 5 * time.Minute

// gridLab is machines booted from one grid's floppies, at sites that are each
// behind a translator of its own, and a first contact with a public address.
//
//	contact 198.51.100.10 ─┐
//	                       wan ~~~ NAT 198.51.100.1 ── 192.168.1.0/24: machines .10, .11, ...
//	                           ~~~ NAT 198.51.100.2 ── 192.168.2.0/24
//	                           ~~~ ...
type gridLab struct {
	t     *testing.T
	lab   *netlab.Lab
	grid  *credential.Grid
	wan   *netlab.Switch
	root  string
	sites int

	mu       sync.Mutex
	machines []*gridMachine
}

const (
	contact   = "198.51.100.10:4242" // where the grid's machines find each other first
	leaseTime = 60                   // seconds
)

type gridSite struct {
	lab    *gridLab
	router *netlab.NAT
	lan    *netlab.Switch
	n      int
	count  int
}

type gridMachine struct {
	*netlab.Container
	node  *netlab.Node
	name  string
	start time.Time
	ready time.Duration // from start to READY
	line  string        // READY line
	boot  func(prepare func(root string))
}

func newGridLab(t *testing.T, masters int) *gridLab {
	t.Helper()
	g := &gridLab{t: t, root: netlab.Root(t, need.Container(t)), lab: netlab.New(t)}
	g.found("archer", masters)
	g.wan = g.lab.Switch("wan")
	first := g.lab.Node("contact")
	g.wan.Plug(first, "198.51.100.10/24")
	first.Start(filepath.Join(programs(t), "overlayd"), "bootstrap", "--listen", contact)
	t.Cleanup(g.shutdown)
	return g
}

// found makes the grid. Its leases are the shortest that there are.
func (g *gridLab) found(name string, masters int) {
	g.t.Helper()
	var err error
	g.grid, err = credential.NewGrid(credential.GridOptions{Name: name, Masters: masters,
		Namespaces: []credential.Namespace{{Name: name, LeaseTime: leaseTime}}}, time.Now())
	if err != nil {
		g.t.Fatal(err)
	}
}

// another returns a second grid in the same lab, and a place for its machines in
// the network of a site.
func (g *gridLab) another(name string, at *gridSite) (*gridLab, *gridSite) {
	g.t.Helper()
	o := &gridLab{t: g.t, root: g.root, lab: g.lab, wan: g.wan}
	o.found(name, 1)
	g.t.Cleanup(o.shutdown)
	return o, &gridSite{lab: o, router: at.router, lan: at.lan, n: at.n, count: 100}
}

// site makes a network whose way out takes delay, one way.
func (g *gridLab) site(delay time.Duration) *gridSite {
	g.t.Helper()
	g.sites++
	s := &gridSite{lab: g, n: g.sites, lan: g.lab.Switch(fmt.Sprintf("site-%d", g.sites))}
	s.router = g.lab.NAT(fmt.Sprintf("router-%d", s.n), netlab.Home, netlab.Line{Delay: delay},
		g.wan, fmt.Sprintf("198.51.100.%d/24", s.n), s.lan, fmt.Sprintf("192.168.%d.1/24", s.n))
	return s
}

// master boots the grid's n-th master, from 0.
func (s *gridSite) master(n int) *gridMachine {
	s.lab.t.Helper()
	m := s.lab.grid.Material[n]
	return s.boot(m.Name, "master", "",
		file(floppy.HolderCertFile, m.HolderCert), file(floppy.HolderKeyFile, m.HolderKey),
		file(floppy.NodeKeyFile, m.NodeKey), file(floppy.IssuerCertFile, m.IssuerCert), file(floppy.IssuerKeyFile, m.IssuerKey))
}

// person boots a worker or client from a new floppy of a user, with more lines
// of configuration.
func (s *gridSite) person(role credential.Role, group, user string, lines ...string) *gridMachine {
	s.lab.t.Helper()
	cert, key, err := s.lab.grid.IssueHolder(credential.HolderRequest{User: user, Group: group, Roles: []credential.Role{role}}, time.Now())
	if err != nil {
		s.lab.t.Fatal(err)
	}
	more := strings.Join(lines, "\n") + "\n[share]\nexport = \"\"\n" // a container has no NFS server: it is the kernel's
	return s.boot(string(role)+" of "+user, string(role), more, file(floppy.HolderCertFile, cert), file(floppy.HolderKeyFile, key))
}

// boot boots a machine of the site from a floppy.
func (s *gridSite) boot(name, role, more string, files ...floppy.File) *gridMachine {
	s.lab.t.Helper()
	g := s.lab
	address, gateway := fmt.Sprintf("192.168.%d.%d/24", s.n, 10+s.count), fmt.Sprintf("192.168.%d.1", s.n)
	s.count++
	config := fmt.Sprintf("version = 1\n[machine]\nrole = %q\n[network]\nbootstrap = [%q]\n%s", role, contact, more)
	disk := imageOf(g.t, append(files, file(floppy.ConfigFile, []byte(config)), file(floppy.DescriptorFile, g.grid.Descriptor.Text()))...)
	node := g.lab.Node(name)
	s.lan.Plug(node, address).Default(gateway)
	m := &gridMachine{name: name, node: node}
	m.boot = func(prepare func(root string)) {
		m.start, m.ready = time.Now(), 0
		m.Container = node.Boot(g.root, func(root string) {
			install(g.t, root, disk)
			copyInto(g.t, os.DirFS("../images/root/usr/share/grid"), filepath.Join(root, "usr/share/grid"), 0o644)
			os.Symlink("/usr/share/grid/examples", filepath.Join(root, "home/griduser/examples")) // there in newer bases
			put(g.t, root, "etc/systemd/network/05-lab.network",
				"[Match]\nName=eth0\n[Network]\nAddress="+address+"\nGateway="+gateway+"\nLLMNR=no\nMulticastDNS=no\n")
			prepare(root)
		})
	}
	m.boot(func(string) {})
	g.mu.Lock()
	g.machines = append(g.machines, m)
	g.mu.Unlock()
	return m
}

// shutdown stops all machines at once.
func (g *gridLab) shutdown() {
	var wg sync.WaitGroup
	for _, m := range g.machines {
		wg.Go(func() { m.Shutdown() })
	}
	wg.Wait()
}

// waitReady waits until every machine has said READY.
func (g *gridLab) waitReady() {
	g.t.Helper()
	waiting := slices.DeleteFunc(slices.Clone(g.machines), func(m *gridMachine) bool { return m.ready > 0 })
	for end := time.Now().Add(gridPatience); len(waiting) > 0; time.Sleep(200 * time.Millisecond) {
		var rest []*gridMachine
		for _, m := range waiting {
			line, err := m.Try("cat", "/"+readyPath)
			if err != nil {
				rest = append(rest, m)
				continue
			}
			m.ready, m.line = time.Since(m.start), strings.TrimSpace(line)
		}
		waiting = rest
		if time.Now().After(end) {
			for _, m := range waiting {
				status, _ := m.Try("cat", "/"+statusPath)
				journal, _ := m.Try("journalctl", "--no-pager", "--output=short-monotonic", "--lines=80",
					"--unit=grid-firstboot", "--unit=grid-watch", "--unit=overlayd", "--unit=grid-issuer", "--unit=condor")
				overlay, _ := m.Try("/usr/lib/grid/overlayd", "status")
				g.t.Errorf("%s is not READY after %v: %s\n%s\n%s", m.name, gridPatience, status, overlay, journal)
			}
			g.t.FailNow()
		}
	}
}

// until runs a program of the machine until its output contains text.
func (m *gridMachine) until(t *testing.T, patience time.Duration, text string, argv ...string) string {
	t.Helper()
	var out string
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if out, err = m.Try(argv...); err == nil && strings.Contains(out, text) {
			return out
		}
	}
	t.Fatalf("%s: %v has not said %q within %v: %q, %v", m.name, argv, text, patience, out, err)
	return ""
}

// user runs a shell command as the ordinary user of the machine.
func (m *gridMachine) user(command string) (string, error) {
	return m.Try("runuser", "-u", "griduser", "--", "sh", "-c", "cd && "+command)
}

// host and address are the machine's in the grid, from its READY line.
func (m *gridMachine) host() string    { return m.said("name") }
func (m *gridMachine) address() string { return m.said("address") }

func (m *gridMachine) said(what string) string {
	for _, word := range strings.Fields(m.line) {
		if value, ok := strings.CutPrefix(word, what+"="); ok {
			return value
		}
	}
	return ""
}

// queue submits a job of the ordinary user. Its output, error and log are
// NAME.out, NAME.err and NAME.log unless the description says otherwise.
func (m *gridMachine) queue(t *testing.T, name, description string) {
	t.Helper()
	command := fmt.Sprintf("cat >%[1]s.sub <<'END'\noutput = %[1]s.out\nerror = %[1]s.err\nlog = %[1]s.log\n%[2]s\nEND\nrm -f %[1]s.log; condor_submit %[1]s.sub", name, description)
	if out, err := m.user(command); err != nil {
		t.Fatalf("%s: submit %s: %v: %s", m.name, name, err, out)
	}
}

// finish waits for the end of what queue has submitted.
func (m *gridMachine) finish(t *testing.T, name string) {
	t.Helper()
	if out, err := m.user("condor_wait -wait 300 " + name + ".log"); err != nil {
		queue, _ := m.user("condor_q -better-analyze; tail -n 40 " + name + ".log")
		t.Fatalf("%s: job %s: %v: %s\n%s", m.name, name, err, out, queue)
	}
}

// submit queues a job and returns how long it took to its end.
func (m *gridMachine) submit(t *testing.T, name, description string) time.Duration {
	t.Helper()
	start := time.Now()
	m.queue(t, name, description)
	m.finish(t, name)
	return time.Since(start)
}

// executions returns how often a job was started, by its log.
func (m *gridMachine) executions(t *testing.T, name string) int {
	t.Helper()
	log, err := m.user("cat " + name + ".log")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count("\n"+log, "\n001 (")
}

// kill ends the machine as a power cut does, its network with it.
func (m *gridMachine) kill() {
	m.node.Run("ip", "link", "set", "eth0", "down")
	m.Kill()
}

// TestGridForms: machines that were given a floppy each, at three sites behind
// translators of their own, become one pool in which an ordinary user's jobs
// run; and it stays so when an address changes and the master dies. Nobody
// configures anything.
func TestGridForms(t *testing.T) {
	g := newGridLab(t, 1)
	north, west, south := g.site(10*time.Millisecond), g.site(20*time.Millisecond), g.site(40*time.Millisecond)
	master := north.master(0)
	alice := north.person(credential.RoleClient, "physics", "alice")
	physics := west.person(credential.RoleWorker, "physics", "carol")
	// All containers see the load of the whole lab: without this line bob's would
	// suspend alice's jobs for it.
	bob := west.person(credential.RoleClient, "chemistry", "bob", "[condor]", "owner-preempts = false")
	chemistry := south.person(credential.RoleWorker, "chemistry", "dave")
	g.waitReady()
	for _, m := range g.machines {
		t.Logf("%-17s READY %5.1f s after its start: %s", m.name, m.ready.Seconds(), m.line)
	}
	machines := master.Run("condor_status", "-autoformat", "Machine")
	for _, m := range []*gridMachine{alice, physics, bob, chemistry} {
		if !strings.Contains(machines, m.host()) {
			t.Errorf("%s is READY, and the pool knows %v", m.name, strings.Fields(machines))
		}
	}

	t.Run("a job crosses the sites", func(t *testing.T) {
		if _, err := alice.user("echo from the north >message"); err != nil {
			t.Fatal(err)
		}
		took := alice.submit(t, "far", job("id -un; hostname; cat message", chemistry, "transfer_input_files = message"))
		if out, err := alice.user("cat far.out"); err != nil || out != "slot1\n"+chemistry.host()+"\nfrom the north\n" {
			t.Errorf("the job said %q, %v", out, err)
		}
		t.Logf("%.1f s from submission to its end", took.Seconds())
	})
	t.Run("a sweep of 100", func(t *testing.T) { testSweep(t, bob, physics, chemistry) })
	t.Run("one job says where it ran", func(t *testing.T) {
		took := bob.example(t, "hello")
		if out, err := bob.user("cat hello.out"); err != nil || !strings.HasPrefix(out, "hello from slot1 on C") {
			t.Errorf("it said %q, %v", out, err)
		}
		t.Logf("%.1f s", took.Seconds())
	})
	t.Run("ten jobs with two licences", func(t *testing.T) {
		need.Long(t)
		testLicences(t, bob)
	})
	t.Run("a guest's job is preempted and resumes", func(t *testing.T) { testPreemption(t, alice, bob, chemistry) })
	t.Run("the master says that it lives", func(t *testing.T) {
		out := chemistry.until(t, gridPatience, `"value"`, "/usr/lib/grid/overlayd", "get", "service/collector", "--json")
		var records []control.Record
		if err := json.Unmarshal([]byte(out), &records); err != nil {
			t.Fatal(err)
		}
		if got := string(records[0].Value); len(records) != 1 || got != `{"master":"C250000002.ipop","pool":["C250000002.ipop"]}` {
			t.Errorf("%d records, %s", len(records), got)
		}
	})
	t.Run("people are told so", func(t *testing.T) {
		for _, m := range []*gridMachine{master, chemistry, alice} {
			if out, err := m.Try("/usr/lib/grid/grid", "doctor"); err != nil {
				t.Errorf("%s: grid doctor: %v\n%s", m.name, err, out)
			}
		}
		if out, err := alice.user("/usr/lib/grid/grid status"); err != nil || !strings.Contains(out, alice.host()) || !strings.Contains(out, "4 machines") {
			t.Errorf("grid status: %v\n%s", err, out)
		}
		if out, err := alice.user("/usr/lib/grid/grid usage"); err != nil || !strings.Contains(out, "\nphysics ") || !strings.Contains(out, "\nchemistry ") {
			t.Errorf("grid usage: %v\n%s", err, out)
		}
	})
	t.Run("two groups share, as the guide says", func(t *testing.T) {
		testGuide(t, g, map[string]*gridMachine{"alice": alice, "bob": bob})
	})
	t.Run("a machine is drained", func(t *testing.T) {
		if out := chemistry.Run("/usr/lib/grid/grid", "drain", "--wait"); out != chemistry.host()+" takes no new jobs; none runs\n" {
			t.Errorf("grid drain says %q", out)
		}
		alice.until(t, gridPatience, "Drained Idle", "condor_status", chemistry.host(), "-autoformat", "State", "Activity")
		if out := chemistry.Run("/usr/lib/grid/grid", "drain", "--off"); out != chemistry.host()+" takes jobs\n" {
			t.Errorf("grid drain --off says %q", out)
		}
	}) // and the next one's job runs there
	t.Run("who types on a client is noticed", func(t *testing.T) {
		typed := func() string {
			out, err := alice.Try("condor_status", "-direct", alice.host(), "-constraint", "PartitionableSlot", "-autoformat", "KeyboardIdle < 60")
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(out)
		}
		if got := typed(); got != "false" {
			t.Errorf("before, KeyboardIdle < 60 is %s", got)
		}
		alice.Run("sh", "-c", "(sleep 1; echo hello; sleep 1) | script --quiet --command cat /dev/null")
		for end := time.Now().Add(30 * time.Second); typed() != "true"; time.Sleep(time.Second) {
			if time.Now().After(end) {
				t.Fatal("HTCondor does not notice it within 30 s")
			}
		}
	})
	t.Run("a job is shut in", func(t *testing.T) { testSandbox(t, g, alice, chemistry) })
	t.Run("another grid sees nothing", func(t *testing.T) { testStranger(t, g, north, master, alice) })
	t.Run("overlayd restarted, the same address: jobs go on", func(t *testing.T) {
		alice.queue(t, "on", job("sleep 15; echo done", chemistry))
		alice.until(t, gridPatience, "\n2\n", "sh", "-c", "echo; runuser -u griduser -- condor_q -autoformat JobStatus")
		chemistry.Run("systemctl", "restart", "overlayd")
		alice.finish(t, "on")
		if n := alice.executions(t, "on"); n != 1 {
			t.Errorf("the job was started %d times", n)
		}
	})
	t.Run("another address", func(t *testing.T) { testAnotherAddress(t, alice, physics) })
	t.Run("the only master dies, a new machine has its floppy", func(t *testing.T) {
		need.Long(t)
		alice.queue(t, "over", job("sleep 60; echo done", chemistry))
		alice.until(t, gridPatience, "\n2\n", "sh", "-c", "echo; runuser -u griduser -- condor_q -autoformat JobStatus")
		died := time.Now()
		master.kill()
		alice.queue(t, "after", job("echo after", physics))
		again := north.master(0)
		g.waitReady()
		alice.finish(t, "after")
		t.Logf("a job submitted right after the death ended %.1f s after it; the new master was READY %.1f s after its start",
			time.Since(died).Seconds(), again.ready.Seconds())
		alice.finish(t, "over")
		if n := alice.executions(t, "over"); n != 1 {
			t.Errorf("the job that ran meanwhile was started %d times", n)
		}
	})
}

// TestSecondMasterTakesOver: of two masters the one that negotiates dies, jobs
// start all the same, and nobody is READY less for it.
func TestSecondMasterTakesOver(t *testing.T) {
	need.Long(t)
	g := newGridLab(t, 2)
	north, south := g.site(10*time.Millisecond), g.site(40*time.Millisecond)
	first := north.master(0)
	second := south.master(1)
	alice := north.person(credential.RoleClient, "physics", "alice")
	worker := south.person(credential.RoleWorker, "physics", "carol")
	g.waitReady()
	for _, m := range g.machines {
		t.Logf("%-17s READY %5.1f s after its start: %s", m.name, m.ready.Seconds(), m.line)
	}
	for _, m := range []*gridMachine{first, second} {
		second.until(t, gridPatience, worker.host(), "condor_status", "-pool", m.host(), "-autoformat", "Machine")
	}
	first.until(t, gridPatience, first.host(), "condor_status", "-pool", first.host(), "-negotiator", "-autoformat", "Machine")
	alice.submit(t, "before", job("echo before", worker))
	died := time.Now()
	first.kill()
	alice.queue(t, "after", job("echo after", worker))
	second.until(t, gridPatience, second.host(), "condor_status", "-pool", second.host(), "-negotiator", "-autoformat", "Machine")
	t.Logf("the second negotiates %.1f s after the first's death", time.Since(died).Seconds())
	alice.finish(t, "after")
	t.Logf("a job submitted right after the death ended %.1f s after it", time.Since(died).Seconds())
}

// job describes a job that runs a shell command on a machine, with more lines.
func job(command string, on *gridMachine, more ...string) string {
	return fmt.Sprintf(`executable = /bin/bash
arguments = "-c '%s'"
transfer_executable = false
request_memory = 32
requirements = Machine == "%s"
%s
queue`, command, on.host(), strings.Join(more, "\n"))
}

// example submits one of ~/examples as it is and waits for its end.
func (m *gridMachine) example(t *testing.T, name string) time.Duration {
	t.Helper()
	start := time.Now()
	if out, err := m.user("rm -f " + name + ".log; condor_submit examples/" + name + ".sub"); err != nil {
		t.Fatalf("%s: submit %s: %v: %s", m.name, name, err, out)
	}
	m.finish(t, name)
	return time.Since(start)
}

// testGuide types docs/two-groups.md; what the administrator does, in a folder
// with the grid's.
func testGuide(t *testing.T, g *gridLab, machines map[string]*gridMachine) {
	dir := t.TempDir()
	if err := g.grid.Save(filepath.Join(dir, "archer")); err != nil {
		t.Fatal(err)
	}
	doc := guide.New(t, "../docs/two-groups.md", gridPatience, func(typed guide.Command) string {
		if typed.Where == guide.Typist {
			path := "PATH=" + programs(t) + ":" + os.Getenv("PATH")
			r, err := sysrun.Run(t.Context(), sysrun.Command{Name: "sh", Args: []string{"-c", typed.Line}, Dir: dir, Env: append(os.Environ(), path)})
			if err != nil {
				t.Error(err)
			}
			return string(r.Stdout) + string(r.Stderr)
		}
		out, err := machines[typed.Where].user("PATH=$PATH:/usr/lib/grid; " + typed.Line + " 2>&1")
		if err != nil {
			return err.Error()
		}
		return out
	})
	for _, section := range []string{"Two groups that share", "One pool", "A job on the other group's machine", "Whose job comes first", "Who has used what"} {
		doc.Section(section)
	}
}

func testSweep(t *testing.T, bob *gridMachine, workers ...*gridMachine) {
	took := bob.example(t, "sweep")
	out, err := bob.user("cat sweep.*.out")
	if err != nil {
		t.Fatal(err)
	}
	where, results := map[string]int{}, map[int]int{}
	for line := range strings.Lines(out) {
		var n, result int
		var machine string
		if _, err := fmt.Sscanf(line, "parameter %d result %d machine %s", &n, &result, &machine); err != nil {
			t.Fatalf("a job said %q", line)
		}
		results[n] = result
		where[machine]++
	}
	for n := range 100 {
		if result, ok := results[n]; !ok || result != n*(n+1)*(2*n+1)/6 {
			t.Errorf("parameter %d has the result %d (there: %v)", n, result, ok)
		}
	}
	for _, w := range workers {
		if where[w.host()] == 0 {
			t.Errorf("the sweep ran on %v, and not on %s", where, w.host())
		}
	}
	t.Logf("%.1f s, on %v", took.Seconds(), where)
}

// testLicences runs ten jobs of which two may run at a time, and looks at how
// many did.
func testLicences(t *testing.T, bob *gridMachine) {
	took := bob.example(t, "licence")
	log, err := bob.user("cat licence.log")
	if err != nil {
		t.Fatal(err)
	}
	running, most, ended := 0, 0, 0
	for line := range strings.Lines(log) {
		switch {
		case strings.HasPrefix(line, "001 ("):
			running++
			most = max(most, running)
		case strings.HasPrefix(line, "005 ("):
			running--
			ended++
		}
	}
	if most != 2 || ended != 10 {
		t.Errorf("%d jobs ended, up to %d ran at a time, want 10 and 2", ended, most)
	}
	t.Logf("%.1f s", took.Seconds())
}

// testPreemption has a job of another group run on a worker until it has left
// a checkpoint, and then wants all of the worker for the group that owns it.
func testPreemption(t *testing.T, guest, owner, worker *gridMachine) {
	there := fmt.Sprintf("-append 'requirements = Machine == \"%s\"'", worker.host())
	if out, err := guest.user("rm -f resume.log; condor_submit " + there + " examples/resume.sub"); err != nil {
		t.Fatalf("submit: %v: %s", err, out)
	}
	guest.until(t, gridPatience, "resume.state", "find", "/var/spool/condor", "-name", "resume.state")
	cpus := strings.TrimSpace(worker.Run("condor_status", worker.host(), "-autoformat", "TotalCpus"))
	cpus, _, _ = strings.Cut(strings.Fields(cpus)[0], ".")
	took := owner.submit(t, "mine", job("echo mine", worker, "request_cpus = "+cpus))
	guest.finish(t, "resume")
	log, err := guest.user("cat resume.log")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains("\n"+log, "\n004 (") {
		t.Errorf("the guest's job was not evicted:\n%s", log)
	}
	out, err := guest.user("cat resume.out")
	if err != nil || !strings.HasPrefix(out, "60 steps; started at:"+worker.host()+":0 ") || strings.Count(out, ":0 ") != 1 {
		t.Errorf("the guest's job said %q, %v: it must have begun once only", out, err)
	}
	t.Logf("the owner's group had the machine after %.1f s; the guest's job: %s", took.Seconds(), strings.TrimSpace(out))
}

// testSandbox has a job try what a job may not. What it may, and root trying
// the same, show that a closed door is not one that nobody stands behind.
func testSandbox(t *testing.T, g *gridLab, alice, on *gridMachine) {
	outside := g.lab.Node("outside")
	g.wan.Plug(outside, "198.51.100.99/24")
	answer(t, outside, ":80")
	answer(t, alice.node, ":22")
	answer(t, on.node, ":22")
	doors := []struct {
		name, host, port string
		job              string // what the job finds
	}{
		{"the pool's collector", "10.250.0.2", "9618", "open"},
		{"the outside", "198.51.100.99", "80", "closed"},
		{"the issuing service", "10.250.0.2", "4243", "closed"},
		{"ssh of another machine", alice.address(), "22", "closed"},
		{"ssh of this machine", "127.0.0.1", "22", "closed"},
	}
	var script strings.Builder
	for _, d := range doors {
		fmt.Fprintf(&script, "timeout 5 bash -c \"exec 3<>/dev/tcp/%s/%s\" 2>/dev/null && echo open || echo closed\n", d.host, d.port)
	}
	put := func(m *gridMachine) {
		if _, err := m.user("cat >doors.sh <<'END'\n" + script.String() + "END"); err != nil {
			t.Fatal(err)
		}
	}
	put(alice)
	alice.submit(t, "doors", job("bash doors.sh", on, "transfer_input_files = doors.sh"))
	out, err := alice.user("cat doors.out")
	if err != nil {
		t.Fatal(err)
	}
	put(on)
	control := strings.Fields(on.Run("bash", "/home/griduser/doors.sh"))
	found := strings.Fields(out)
	if len(found) != len(doors) || len(control) != len(doors) {
		t.Fatalf("the job found %q, root %q", found, control)
	}
	for i, d := range doors {
		if control[i] != "open" {
			t.Errorf("%s (%s port %s) is closed to root: the test shows nothing", d.name, d.host, d.port)
		}
		if found[i] != d.job {
			t.Errorf("%s (%s port %s) is %s to a job, want %s", d.name, d.host, d.port, found[i], d.job)
		}
	}
}

// testStranger boots another grid's master in the network of the first one's,
// where it finds the same first contact, has the same address and name, and could
// send to any machine. Then it has its credential tried from within.
func testStranger(t *testing.T, g *gridLab, site *gridSite, master, alice *gridMachine) {
	running := func() string {
		return master.Run("condor_status", "-master", "-constraint", "Machine == \""+master.host()+"\"", "-autoformat", "MyAddress", "DaemonStartTime")
	}
	before := running()
	other, place := g.another("quarry", site)
	stranger := place.master(0)
	other.waitReady()
	if stranger.host() != master.host() || stranger.address() != master.address() {
		t.Errorf("the first master of a grid is %s at %s, of the other %s at %s; want the same", master.host(), master.address(), stranger.host(), stranger.address())
	}
	stranger.until(t, gridPatience, stranger.host(), "condor_status", "-any", "-autoformat", "Machine")
	if out := stranger.Run("condor_status", "-any", "-autoformat", "Machine"); strings.Contains(out, alice.host()) {
		t.Errorf("the other grid's pool knows %s: %q", alice.host(), strings.Fields(out))
	}
	if after := running(); after != before {
		t.Errorf("the pool knew %q under this name before the stranger came, now %q", before, after)
	}
	if out, err := stranger.Try("/usr/lib/grid/overlayd", "ping", alice.host(), "--count", "1", "--wait", "2s"); err == nil {
		t.Errorf("the stranger reaches %s: %s", alice.host(), out)
	}

	lan := func(m *gridMachine) string {
		return strings.TrimSpace(m.Run("sh", "-c", "ip -4 -o address show dev eth0 | awk '{sub(/\\/.*/, \"\", $4); print $4}'"))
	}
	door := "timeout 3 bash -c \"exec 3<>/dev/tcp/$0/9618\" 2>/dev/null && echo open || echo closed"
	if got := master.Run("sh", "-c", door, alice.address()); got != "open\n" {
		t.Errorf("HTCondor of %s is %q to its own master: the test shows nothing", alice.host(), got)
	}
	for _, route := range []string{"", lan(alice)} { // by the overlay, and past it
		if route != "" {
			stranger.Run("ip", "route", "replace", alice.address()+"/32", "via", route)
			stranger.Try("ping", "-c", "1", "-W", "2", route) // no firewall hides who answers for an address of its network
			if out := stranger.Run("ip", "neigh", "show", route); !strings.Contains(out, "lladdr") {
				t.Errorf("%s is not in the stranger's network: %q; the test shows nothing", route, out)
			}
		}
		for _, address := range []string{alice.address(), lan(alice), lan(master)} {
			if got := stranger.Run("sh", "-c", door, address); got != "closed\n" {
				t.Errorf("HTCondor at %s is %q to the other grid, with a route by %q", address, got, route)
			}
		}
	}

	for _, name := range []string{"node.crt", "node.key"} {
		alice.Run("sh", "-c", "install -m 600 /dev/null /root/"+name+" && cat >/root/"+name+" <<'END'\n"+stranger.Run("cat", "/etc/condor/grid/"+name)+"END")
	}
	knock := func(dir string) (string, error) {
		return alice.Try("sh", "-c", "_CONDOR_AUTH_SSL_CLIENT_CERTFILE="+dir+"/node.crt _CONDOR_AUTH_SSL_CLIENT_KEYFILE="+dir+"/node.key condor_ping -verbose -type COLLECTOR ADVERTISE_STARTD 2>&1")
	}
	if out, err := knock("/etc/condor/grid"); err != nil {
		t.Errorf("the collector refuses a member: %v: %s", err, out)
	}
	out, err := knock("/root")
	if err == nil {
		t.Errorf("the collector takes another grid's certificate: %s", out)
	}
	t.Logf("another grid's certificate: %s", strings.TrimSpace(out))
	alice.Run("rm", "/root/node.crt", "/root/node.key")
	stranger.Shutdown()
}

// answer has somebody answer at an address of a node.
func answer(t *testing.T, n *netlab.Node, address string) {
	t.Helper()
	n.Do(func() {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
	})
}

// testAnotherAddress makes a worker another node, which gets another address,
// and wants everything to follow.
func testAnotherAddress(t *testing.T, alice, worker *gridMachine) {
	old := worker.host()
	worker.Run("systemctl", "stop", "overlayd")
	worker.Run("sh", "-c", "rm /var/lib/overlayd/node.key /var/lib/overlayd/lease-*")
	worker.Run("systemctl", "start", "overlayd")
	var leased time.Time
	for end := time.Now().Add(gridPatience); worker.host() == old; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no other address: %s", worker.Run("/usr/lib/grid/overlayd", "status"))
		}
		if leased.IsZero() {
			if out, err := worker.Try("/usr/lib/grid/overlayd", "status"); err == nil && strings.Contains(out, "is running") && !strings.Contains(out, old) {
				leased = time.Now()
			}
		}
		if line, err := worker.Try("cat", "/"+readyPath); err == nil {
			worker.line = strings.TrimSpace(line)
		}
	}
	t.Logf("%s is %s, READY %.1f s after the address came", old, worker.host(), time.Since(leased).Seconds())
	if got := worker.Run("hostname", "-f"); got != worker.host()+"\n" {
		t.Errorf("hostname -f is %q", got)
	}
	took := alice.submit(t, "moved", job("hostname", worker))
	t.Logf("a job there: %.1f s", took.Seconds())
}
