package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
)

// ownPackages make a machine that its owner uses: what the package
// grid-appliance depends on is there, HTCondor runs as its package starts it,
// and systemd-resolved serves names.
var ownPackages = []string{"systemd-sysv", "systemd-resolved", "libnss-resolve", "libnss-myhostname", "libpam-systemd", "dbus", "udev",
	"iputils-ping", "procps", "login", "passwd",
	"autofs", "condor", "iproute2", "nfs-common", "nfs-kernel-server", "nftables"}

// TestOwnMachine: a Debian machine that is somebody's own joins a grid and
// leaves it, twice: by the verb, and because its package is purged. Each time
// everything is as it was before, but for what the owner has changed.
func TestOwnMachine(t *testing.T) {
	deb := makePackage(t)
	netlab.Debian(t, need.Container(t), ownPackages...) // before machines wait for it
	g := newGridLab(t, 1)
	g.site(10 * time.Millisecond).master(0)
	desk := g.site(20*time.Millisecond).own(t, deb)
	g.waitReady()
	desk.WaitBooted(bootPatience)
	desk.WaitUnit("condor.service", "active", bootPatience)
	before, running := desk.tree(), desk.running()

	desk.Run("dpkg", "--install", "/root/grid-appliance.deb")
	if difference := cmp.Diff(running, desk.running()); difference != "" {
		t.Errorf("installing the package alone changes what runs:\n%s", difference)
	}
	installed := desk.tree()
	for _, name := range changed(before, installed) {
		if !strings.HasPrefix(name, "/usr/") {
			t.Errorf("installing the package alone changes %s", name)
		}
	}
	if out, err := desk.Try("firstboot", "leave"); err == nil || !strings.Contains(err.Error(), "this machine is in no grid") {
		t.Errorf("leave says %q, %v", out, err)
	}

	t.Run("a machine of another pool is refused", func(t *testing.T) {
		desk.Run("sh", "-c", "echo CONDOR_HOST=pool.example.org >/etc/condor/config.d/10-mine.config")
		_, err := desk.Try("firstboot", "join", "--floppy", "/root/alice.img")
		if err == nil || !strings.Contains(err.Error(), "/etc/condor/config.d/10-mine.config: HTCondor is configured on this machine already") {
			t.Errorf("join says %v", err)
		}
		desk.Run("rm", "/etc/condor/config.d/10-mine.config")
		if difference := installed.difference(desk.tree()); difference != "" {
			t.Errorf("a join that was refused changed\n%s", difference)
		}
	})

	t.Run("it joins", func(t *testing.T) { testJoins(t, desk, g) })
	t.Run("it leaves", func(t *testing.T) {
		desk.Run("firstboot", "leave")
		if difference := installed.difference(desk.tree()); difference != "" {
			t.Errorf("left behind:\n%s", difference)
		}
		if difference := cmp.Diff(running, desk.running()); difference != "" {
			t.Errorf("runs otherwise than before:\n%s", difference)
		}
	})
	t.Run("its package is purged", func(t *testing.T) {
		testPurged(t, desk, before, running)
	})
}

// makePackage makes the Debian package of this tree's programs.
func makePackage(t *testing.T) string {
	t.Helper()
	need.Container(t)
	need.Tool(t, "dpkg-deb")
	out := t.TempDir()
	r, err := sysrun.Run(t.Context(), sysrun.Command{Name: "sh", Args: []string{"make/package", programs(t), out}, Dir: ".."})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(r.Stdout))
}

// own boots a Debian machine of the site, on which nothing of ours is but the
// package and alice's floppy in /root.
func (s *gridSite) own(t *testing.T, deb string) *gridMachine {
	t.Helper()
	g := s.lab
	cert, key, err := g.grid.IssueHolder(credential.HolderRequest{User: "alice", Group: "physics", Roles: []credential.Role{credential.RoleClient}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	// A container has no NFS server, it is the kernel's; and sees the lab's load.
	config := fmt.Sprintf("version = 1\n[machine]\nrole = \"client\"\ntimezone = \"Europe/Berlin\"\n[network]\nbootstrap = [%q]\n"+
		"[condor]\nowner-preempts = false\n[share]\nexport = \"\"\n[users]\nnames = [\"mallory\"]\n", contact)
	disk := imageOf(t, file(floppy.ConfigFile, []byte(config)), file(floppy.DescriptorFile, g.grid.Descriptor.Text()),
		file(floppy.HolderCertFile, cert), file(floppy.HolderKeyFile, key))
	content, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	node := g.lab.Node("desk")
	s.lan.Plug(node, fmt.Sprintf("192.168.%d.10/24", s.n)).Default(fmt.Sprintf("192.168.%d.1", s.n))
	m := &gridMachine{name: "desk", node: node, start: time.Now()}
	m.Container = node.Boot(netlab.Debian(t, need.Container(t), ownPackages...), func(root string) {
		put(t, root, "root/grid-appliance.deb", string(content))
		put(t, root, "root/alice.img", string(disk))
		put(t, root, "etc/machine-id", strings.Repeat("7", 32)+"\n")
		put(t, root, "etc/hostname", "desk\n")
		put(t, root, "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 desk\n192.0.2.9 printer") // no end of line
		if err := os.Chmod(filepath.Join(root, "etc/hosts"), 0o664); err != nil {
			t.Fatal(err)
		}
		put(t, root, "etc/systemd/system/filter.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=nft add table inet mine\n[Install]\nWantedBy=multi-user.target\n")
		if err := os.Symlink("/etc/systemd/system/filter.service", filepath.Join(root, "etc/systemd/system/multi-user.target.wants/filter.service")); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { m.Shutdown() })
	m.Run("useradd", "--create-home", "owner")
	return m
}

func testJoins(t *testing.T, desk *gridMachine, g *gridLab) {
	if out := desk.Run("firstboot", "plan", "--floppy", "/root/alice.img"); !strings.Contains(out, "user overlayd, number") {
		t.Errorf("the plan names no account of overlayd:\n%s", out)
	}
	zone, resolver, clock := desk.Run("readlink", "/etc/localtime"), desk.Run("readlink", "/etc/resolv.conf"), desk.Run("cat", "/etc/machine-id")
	start := time.Now()
	desk.line = strings.TrimSpace(desk.Run("firstboot", "join", "--floppy", "/root/alice.img"))
	t.Logf("READY %.1f s after join: %s", time.Since(start).Seconds(), desk.line)
	if !strings.HasPrefix(desk.line, "grid-appliance: READY name=C") {
		t.Fatalf("join prints %q", desk.line)
	}
	master := g.machines[0]
	master.until(t, gridPatience, desk.host(), "condor_status", "-autoformat", "Machine")
	if out := desk.Run("firstboot", "join", "--floppy", "/root/alice.img"); strings.TrimSpace(out) != desk.line {
		t.Errorf("joining again prints %q", out)
	}
	desk.until(t, gridPatience, "10.250.0.2", "getent", "ahostsv4", "C250000002")
	desk.Run("ping", "-c1", "-W5", "C250000002.ipop")

	// The owner's account is the one that submits here.
	job := "executable = /usr/bin/id\narguments = -un\noutput = job.out\nlog = job.log\nerror = job.err\nrequirements = Machine == \"" + desk.host() + "\"\nqueue\n"
	desk.Run("runuser", "-u", "owner", "--", "sh", "-c", "cd; printf '%s' '"+job+"' >job.sub; condor_submit job.sub")
	desk.until(t, gridPatience, "slot", "cat", "/home/owner/job.out")
	if owner := desk.Run("stat", "-c", "%U", "/var/lib/grid/condor/spool/job_queue.log"); owner != "condor\n" {
		t.Errorf("the grid's job queue belongs to %q", owner)
	}
	for _, c := range []struct{ what, was, is string }{
		{"time zone", zone, desk.Run("readlink", "/etc/localtime")},
		{"/etc/resolv.conf", resolver, desk.Run("readlink", "/etc/resolv.conf")},
		{"machine-id", clock, desk.Run("cat", "/etc/machine-id")},
	} {
		if c.was != c.is {
			t.Errorf("%s was %q and is %q", c.what, c.was, c.is)
		}
	}
	if rules := desk.Run("nft", "list", "tables"); !strings.Contains(rules, "table inet mine\n") || !strings.Contains(rules, "table inet grid\n") {
		t.Errorf("tables of the packet filter:\n%s", rules)
	}
	if _, err := desk.Try("id", "mallory"); err == nil {
		t.Error("the floppy made a log-in account")
	}
	if out, err := desk.Try("grid", "doctor"); err != nil {
		t.Errorf("grid doctor: %v\n%s", err, out)
	}
	// What the owner runs is not for the grid, HTCondor is.
	desk.Run("systemd-run", "--unit=web", "python3", "-m", "http.server", "8080")
	desk.until(t, gridPatience, "", "bash", "-c", "exec 3<>/dev/tcp/"+desk.address()+"/8080")
	for port, reached := range map[int]bool{9618: true, 8080: false} {
		_, err := master.Try("timeout", "5", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", desk.address(), port))
		if (err == nil) != reached {
			t.Errorf("the master reaches port %d: %v, want %v", port, err == nil, reached)
		}
	}
	desk.Run("systemctl", "stop", "web")
}

// testPurged joins once more, and purges the package in the middle of it. What
// the owner does meanwhile stays.
func testPurged(t *testing.T, desk *gridMachine, before tree, running string) {
	desk.Run("firstboot", "join", "--floppy", "/root/alice.img")
	desk.Run("useradd", "--no-create-home", "--no-log-init", "bob")
	desk.Run("sh", "-c", "echo 192.0.2.7 scanner >>/etc/hosts")
	desk.Run("dpkg", "--purge", "grid-appliance")
	after := desk.tree()
	for _, name := range changed(before, after) {
		if !slices.Contains([]string{"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid", "/etc/hosts",
			"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"}, name) {
			t.Errorf("%s was %q and is %q", name, before[name], after[name])
		}
	}
	if difference := cmp.Diff(running, desk.running()); difference != "" {
		t.Errorf("runs otherwise than before:\n%s", difference)
	}
	for _, name := range []string{"passwd", "group", "shadow", "gshadow"} {
		text := desk.Run("cat", "/etc/"+name)
		if !strings.Contains(text, "\nbob:") || strings.Contains(text, "\nslot1:") || strings.Contains(text, "\noverlayd:") {
			t.Errorf("/etc/%s:\n%s", name, text)
		}
	}
	if got := desk.Run("cat", "/etc/hosts"); got != "127.0.0.1 localhost\n127.0.1.1 desk\n192.0.2.9 printer\n192.0.2.7 scanner\n" {
		t.Errorf("/etc/hosts: %q", got)
	}
}

// tree is every file of a machine: path -> kind, mode, owner, target or sum.
type tree map[string]string

// passing is what a running Debian changes by itself, whoever joins what.
var passing = regexp.MustCompile(`^/(` + strings.Join([]string{
	"(dev|proc|run|sys|tmp)(/.*)?", // not on a disk
	"var/tmp(/.*)?",                // of programs that run
	"var/log/.*",                   // what was done is told, and stays told
	"var/lib/dpkg/.*",              // the package's own entry, and older copies
	"var/cache/.*",
	"var/lib/systemd/.*",       // timers, random seed
	"var/lib/condor/spool/.*",  // the owner's own pool, which runs before and afterwards
	"var/lib/condor/execute.*", //
	"var/lib/nfs/.*",           // what the kernel exports and mounts at the moment
	"home/owner/.*",            // the job's output, which is the owner's
}, "|") + `)$`)

// tree returns the machine's files.
func (m *gridMachine) tree() tree {
	files := tree{}
	const fields = `%p\0%y %m %u %g %l\0`
	words := strings.Split(m.Run("find", "/", "-xdev", "-printf", fields), "\x00")
	for i := 0; i+1 < len(words); i += 2 {
		if !passing.MatchString(words[i]) {
			files[words[i]] = words[i+1]
		}
	}
	for line := range strings.Lines(m.Run("find", "/", "-xdev", "-type", "f", "-not", "-path", "/var/log/*", "-exec", "sha256sum", "{}", "+")) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if _, ok := files[name]; ok {
			files[name] += " " + sum
		}
	}
	return files
}

// difference says in which files b is another tree than a, "" in none.
func (a tree) difference(b tree) string {
	var text strings.Builder
	for _, name := range changed(a, b) {
		fmt.Fprintf(&text, "%s was %q and is %q\n", name, a[name], b[name])
	}
	return text.String()
}

// changed returns the paths in which two trees differ.
func changed(a, b tree) []string {
	var names []string
	for name := range maps.Keys(a) {
		if a[name] != b[name] {
			names = append(names, name)
		}
	}
	for name := range maps.Keys(b) {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// running returns what the machine does at the moment, beside its files.
func (m *gridMachine) running() string {
	return strings.Join([]string{
		m.Run("hostname"),
		m.Run("nft", "list", "ruleset"),
		m.Run("sh", "-c", "ip -o link | cut -d: -f2; ip -o address | cut -d' ' -f2-8; ip route; ip -6 route"),
		m.Run("findmnt", "--noheadings", "--output", "TARGET,FSTYPE"),
		m.Run("systemctl", "list-unit-files", "--state=enabled,disabled,masked", "--no-legend", "--plain", "[!go]*"),
		m.Run("sh", "-c", "systemctl is-active condor autofs nfs-server rpcbind systemd-resolved filter || true"),
		m.Run("sh", "-c", "resolvectl domain; resolvectl dns"),
	}, "---\n")
}
