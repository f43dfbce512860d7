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
	"golang.org/x/sys/unix"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/guide"
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

	doc := guide.New(t, "../docs/own-machine.md", gridPatience, func(c guide.Command) string {
		out, err := desk.Try("sh", "-c", "cd /root; "+c.Line+" 2>&1")
		if out == "" && err != nil {
			return err.Error()
		}
		return out
	})
	t.Run("it joins", func(t *testing.T) {
		zone := desk.files("/etc/localtime", "/etc/resolv.conf", "/etc/machine-id", "/etc/nsswitch.conf")
		doc.Section("Joining")
		testJoined(t, desk, g)
		if difference := cmp.Diff(zone, desk.files("/etc/localtime", "/etc/resolv.conf", "/etc/machine-id", "/etc/nsswitch.conf")); difference != "" {
			t.Errorf("the owner's own is changed:\n%s", difference)
		}
	})
	t.Run("it restarts", func(t *testing.T) {
		desk.Run("systemctl", "stop", "grid-watch") // which would say READY until the end
		desk.Run("rm", "-r", "/run/grid")
		desk.Try("systemctl", "soft-reboot") // all but the kernel begins anew
		desk.until(t, gridPatience, desk.line, "cat", "/"+readyPath)
		desk.WaitBooted(bootPatience)
	})
	t.Run("it leaves", func(t *testing.T) {
		plan := desk.Run("firstboot", "leave", "--plan")
		for _, line := range []string{"remove /etc/condor/grid/node.key\n", "remove account slot1, number ", "host name desk again\n", "start condor.service, which ran before\n"} {
			if !strings.Contains(plan, line) {
				t.Errorf("leave --plan says nothing of %q:\n%s", line, plan)
			}
		}
		doc.Section("Leaving")
		if difference := installed.difference(desk.tree()); difference != "" {
			t.Errorf("left behind:\n%s", difference)
		}
		if difference := cmp.Diff(running, desk.running()); difference != "" {
			t.Errorf("runs otherwise than before:\n%s", difference)
		}
	})
	if t.Failed() {
		out, _ := desk.Try("sh", "-c", "systemctl status autofs --no-pager; journalctl --no-pager -u autofs -u grid-watch -u grid-firstboot | tail -n 60")
		t.Logf("%s", out)
	}
	t.Run("its package is purged", func(t *testing.T) {
		testPurged(t, desk, before, running)
	})
}

// TestMakeJoin: a machine that has nothing of ours nor of HTCondor's gets all of
// it by make join, and has none of it after make leave.
func TestMakeJoin(t *testing.T) {
	deb, base := makePackage(t), need.Container(t)
	root := netlab.Debian(t, base, "systemd-sysv", "libpam-systemd", "dbus", "udev", "iproute2", "procps", "login", "passwd",
		"tzdata", // without it systemd-nspawn mounts a file over /etc/localtime
		// of priority required or important: every installed Debian has them
		"adduser", "sensible-utils", "libtext-charwidth-perl", "libtext-wrapi18n-perl")
	cache, err := os.UserCacheDir() // where the packages can be linked to
	if err != nil {
		t.Fatal(err)
	}
	work, err := os.MkdirTemp(filepath.Join(cache, "grid-appliance", "netlab"), "archive-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(work) })
	netlab.Archive(t, base, work+"/archive")
	m := &gridMachine{name: "desk", Container: netlab.Boot(t, root, func(root string) {
		if err := os.MkdirAll(filepath.Join(root, "srv/archive"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(work+"/archive", filepath.Join(root, "srv/archive"), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		put(t, root, "root/grid-appliance.deb", string(content))
		put(t, root, "root/standalone.img", string(standaloneDisk(t, "")))
		for _, name := range []string{"join", "leave"} {
			script, err := os.ReadFile("../make/" + name)
			if err != nil {
				t.Fatal(err)
			}
			put(t, root, "root/"+name, string(script))
		}
		put(t, root, "etc/apt/sources.list", "deb [trusted=yes] copy:/srv/archive ./\n")
		put(t, root, "etc/machine-id", strings.Repeat("8", 32)+"\n")
		put(t, root, "etc/hostname", "desk\n")
		put(t, root, "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 desk\n")
	})}
	m.WaitBooted(bootPatience)
	m.Run("apt-get", "update", "-q")
	before := m.tree()
	if _, err := m.Try("sh", "/root/join", "/root/grid-appliance.deb", ""); err == nil || !strings.Contains(err.Error(), "make join FLOPPY=alice.img") {
		t.Errorf("without a floppy: %v", err)
	}
	start := time.Now()
	if out, err := m.Try("sh", "/root/join", "/root/grid-appliance.deb", "/root/standalone.img"); err != nil || !strings.Contains(out, "READY name=standalone ") {
		log, _ := m.Try("cat", "/var/log/apt/term.log")
		t.Fatalf("join prints %q, %v\n%s", out, err, log)
	}
	t.Logf("READY %.1f s after make join", time.Since(start).Seconds())
	m.until(t, gridPatience, "localhost", "condor_status", "-autoformat", "Machine")
	if ports := m.Run("ss", "-Hltn"); strings.Contains(ports, ":111 ") {
		t.Errorf("rpcbind listens:\n%s", ports)
	}
	start = time.Now()
	m.Run("sh", "/root/leave")
	t.Logf("left %.1f s after make leave", time.Since(start).Seconds())
	after := m.tree()
	for _, name := range []string{"passwd", "group", "shadow", "gshadow"} { // userdel keeps what was there before it
		delete(before, "/etc/"+name+"-")
		delete(after, "/etc/"+name+"-")
	}
	if difference := before.difference(after); difference != "" {
		t.Errorf("left behind:\n%s", difference)
	}
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
		put(t, root, "root/standalone.img", string(standaloneDisk(t, "")))
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

// testJoined looks at a machine that has joined: what the grid gets of it, and
// what it does not.
func testJoined(t *testing.T, desk *gridMachine, g *gridLab) {
	desk.line = strings.TrimSpace(desk.Run("sh", "-c", "firstboot join --floppy /root/alice.img 2>&1"))
	if strings.Contains(desk.line, "\n") {
		t.Errorf("joining again does more than to say READY:\n%s", desk.line)
	}
	master := g.machines[0]
	master.until(t, gridPatience, desk.host(), "condor_status", "-autoformat", "Machine")
	desk.until(t, gridPatience, "10.250.0.2", "getent", "ahostsv4", "C250000002")
	desk.Run("ping", "-c1", "-W5", "C250000002.ipop")

	// The owner's account is the one that submits here.
	job := "executable = /usr/bin/id\narguments = -un\noutput = job.out\nlog = job.log\nerror = job.err\nrequirements = Machine == \"" + desk.host() + "\"\nqueue\n"
	desk.Run("runuser", "-u", "owner", "--", "sh", "-c", "cd; printf '%s' '"+job+"' >job.sub; condor_submit job.sub")
	desk.until(t, gridPatience, "slot", "cat", "/home/owner/job.out")
	if owner := desk.Run("stat", "-c", "%U", "/var/lib/grid/condor/spool/job_queue.log"); owner != "condor\n" {
		t.Errorf("the grid's job queue belongs to %q", owner)
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

// testPurged joins once more, a grid of one this time, and purges the package
// in the middle of it. What the owner does meanwhile stays.
func testPurged(t *testing.T, desk *gridMachine, before tree, running string) {
	if line := desk.Run("firstboot", "join", "--floppy", "/root/standalone.img"); !strings.Contains(line, "READY name=standalone ") {
		t.Errorf("join says %q", line)
	}
	desk.until(t, gridPatience, "localhost", "condor_status", "-autoformat", "Machine")
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

// files returns what stands at some paths.
func (m *gridMachine) files(names ...string) map[string]string {
	all, some := m.tree(), map[string]string{}
	for _, name := range names {
		some[name] = all[name]
	}
	return some
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
		m.Run("sh", "-c", "findmnt --list --noheadings --output TARGET,FSTYPE | grep -v ^/run/credentials/ | sort"),
		m.Run("systemctl", "list-unit-files", "--state=enabled,disabled,masked", "--no-legend", "--plain", "[!go]*"),
		m.Run("sh", "-c", "systemctl is-active condor autofs nfs-server rpcbind systemd-resolved filter || true"),
		m.Run("sh", "-c", "resolvectl domain; resolvectl dns"),
	}, "---\n")
}
