package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gridappliance/condorconf/guard"
	"gridappliance/condorconf/pool"
	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
)

// rootfs returns an unpacked root with the real HTCondor in it: the folder
// that the environment variable GRID_ROOTFS names, else base.squashfs of the
// base, unpacked once beside the test cache.
func rootfs(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("GRID_ROOTFS"); dir != "" {
		return dir
	}
	base := need.Base(t)
	need.Root(t)
	image, err := os.Stat(filepath.Join(base, "base.squashfs"))
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "grid-appliance", "test-root")
	stamp := fmt.Sprintf("%s %d %d", base, image.Size(), image.ModTime().UnixNano())
	if have, _ := os.ReadFile(dir + ".stamp"); string(have) == stamp {
		return dir
	}
	os.RemoveAll(dir)
	must(t, sysrun.Command{Name: need.Tool(t, "unsquashfs"), Args: []string{"-quiet", "-no-progress", "-dest", dir, filepath.Join(base, "base.squashfs")}})
	if err := os.WriteFile(dir+".stamp", []byte(stamp), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func must(t *testing.T, c sysrun.Command) string {
	t.Helper()
	r, err := sysrun.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return string(r.Stdout)
}

// machine is one machine of the lab: a copy on write of the root, in a network
// of its own where the virtual device is a bridge to the others.
type machine struct {
	*netlab.Node
	t      *testing.T
	root   string
	floppy string // image file
	files  []floppy.File
	role   floppy.Role
	status string // file with overlayd's status; "" standalone
	member control.Status
}

// lab is a grid and its machines.
type lab struct {
	t      *testing.T
	net    *netlab.Lab
	bridge *netlab.Switch
	grid   *credential.Grid
	lower  string
	// Who has which address. It is filled before any job runs.
	members map[netip.Addr]control.Whois
}

func newLab(t *testing.T, masters int) *lab {
	t.Helper()
	l := &lab{t: t, net: netlab.New(t), lower: rootfs(t), members: map[netip.Addr]control.Whois{}}
	l.bridge = l.net.Switch("overlay")
	l.grid = newGrid(t, masters)
	return l
}

// master boots the n-th master.
func (l *lab) master(n int) *machine {
	l.t.Helper()
	m := l.grid.Material[n]
	return l.member(masterFiles(l.grid, n), floppy.RoleMaster, "infra", m.Name, m.Address)
}

// person boots a worker or client from the floppy of a user.
func (l *lab) person(role floppy.Role, group, user, address string) *machine {
	l.t.Helper()
	return l.member(holderFiles(l.t, l.grid, role, group, user), role, group, user, netip.MustParseAddr(address))
}

// member boots a machine of the grid, with overlayd's part played by a bridge
// and a file.
func (l *lab) member(files []floppy.File, role floppy.Role, group, user string, addr netip.Addr) *machine {
	l.t.Helper()
	m := l.machine(control.HostName(addr), files, role)
	l.bridge.Plug(m.Node, addr.String()+"/16")
	m.Run("ip", "link", "set", "eth0", "down")
	m.Run("ip", "link", "set", "eth0", "name", "tapipop")
	m.Run("ip", "link", "set", "tapipop", "up")
	m.member = memberStatus(l.grid, role, group, user, addr)
	hosts := "127.0.0.1 localhost\n"
	for n := range 32 {
		a := netip.AddrFrom4([4]byte{10, 250, 0, byte(n)})
		hosts += a.String() + " " + control.HostName(a) + "\n"
	}
	m.put("etc/hosts", hosts)
	l.members[addr] = control.Whois{Address: addr, Name: m.Name, User: user, Group: group, Role: string(role)}
	if role != floppy.RoleMaster {
		m.guarded(l)
	}
	m.status = filepath.Join(l.t.TempDir(), "status.json")
	m.address(addr)
	return m
}

// guarded gives the machine this command, which HTCondor runs before each job,
// and the guard that it asks.
func (m *machine) guarded(l *lab) {
	m.t.Helper()
	program := filepath.Join(m.root, "usr/lib/grid/condorconf")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		m.t.Fatal(err)
	}
	must(m.t, sysrun.Command{Name: need.Tool(m.t, "go"), Args: []string{"build", "-o", program, "."}, Env: append(os.Environ(), "CGO_ENABLED=0")})
	socket := filepath.Join(m.root, guard.SocketPath)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		m.t.Fatal(err)
	}
	ln, err := guard.Listen(socket)
	if err != nil {
		m.t.Fatal(err)
	}
	s := guard.Service{Overlay: labOverlay{m, l}, Log: slog.New(slog.NewTextHandler(m.t.Output(), nil)),
		Claim: func(_ context.Context, name, slot string) (pool.Claim, error) {
			out, err := m.Try(append([]string{"chroot", m.root, "condor_status"}, pool.ClaimQuery(name, slot)...)...)
			if err != nil {
				return pool.Claim{}, err
			}
			return pool.ParseClaim([]byte(out))
		}}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- s.Run(ctx, ln) }()
	m.t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			m.t.Error(err)
		}
	})
}

// labOverlay is overlayd as a machine's guard asks it.
type labOverlay struct {
	m *machine
	l *lab
}

func (o labOverlay) Status(context.Context) (control.Status, error) { return o.m.member, nil }

func (o labOverlay) Whois(_ context.Context, addr netip.Addr) (control.Whois, error) {
	if who, ok := o.l.members[addr]; ok {
		return who, nil
	}
	return control.Whois{}, control.ErrUnknown
}

func (o labOverlay) Ping(_ context.Context, who control.Target) (control.Pong, error) {
	return control.Pong{Address: who.Address, Path: control.PathDirect, RTT: control.Millis(1500 * time.Microsecond)}, nil
}

// address makes overlayd's status say that the machine has the address.
func (m *machine) address(addr netip.Addr) {
	m.t.Helper()
	m.member.Address, m.member.Name = netip.PrefixFrom(addr, 16), control.HostName(addr)
	writeStatus(m.t, m.status, m.member)
}

// machine makes a root from the shared one, with what an image has and a
// minimal Debian root has not: job accounts and the login account.
func (l *lab) machine(name string, files []floppy.File, role floppy.Role) *machine {
	l.t.Helper()
	dir := l.t.TempDir()
	m := &machine{t: l.t, Node: l.net.Node(name), root: filepath.Join(dir, "root"), floppy: filepath.Join(dir, "floppy.img")}
	for _, d := range []string{"root", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	must(l.t, sysrun.Command{Name: "mount", Args: []string{"-t", "overlay", "overlay", "-o",
		"lowerdir=" + l.lower + ",upperdir=" + dir + "/upper,workdir=" + dir + "/work", m.root}})
	l.t.Cleanup(func() { unmount(l.t, m.root) })
	for _, special := range []string{"proc", "dev", "sys"} {
		must(l.t, sysrun.Command{Name: "mount", Args: []string{"--bind", "/" + special, filepath.Join(m.root, special)}})
		l.t.Cleanup(func() { unmount(l.t, filepath.Join(m.root, special)) })
	}
	m.put("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n") // no DNS here
	m.put("etc/hosts", "127.0.0.1 localhost\n")
	m.accounts()
	for _, d := range []string{"run/condor", "run/lock/condor", "var/log/condor", "var/spool/condor", "var/lib/condor/execute"} {
		m.inside("install", "-d", "-o", "condor", "-g", "condor", "/"+d)
	}
	m.files, m.role = files, role
	m.write("")
	return m
}

// write gives the machine its floppy, with more lines of configuration.
func (m *machine) write(more string) {
	m.t.Helper()
	writeFloppy(m.t, m.floppy, fmt.Sprintf("version = 1\n[machine]\nrole = %q\n%s\n", m.role, more), m.files)
}

// configure changes the table [condor] of the machine's floppy, and the files.
func (m *machine) configure(condor string) {
	m.t.Helper()
	m.write("[condor]\n" + condor)
	if m.role == floppy.RoleMaster {
		m.condorconf("write")
	}
}

func unmount(t *testing.T, dir string) {
	if _, err := sysrun.Run(context.Background(), sysrun.Command{Name: "umount", Args: []string{"--lazy", dir}}); err != nil {
		t.Error(err)
	}
}

// accounts adds griduser and slot1 .. slot16 where the root lacks them.
func (m *machine) accounts() {
	m.t.Helper()
	have, err := os.ReadFile(filepath.Join(m.root, "etc/passwd"))
	if err != nil {
		m.t.Fatal(err)
	}
	if strings.Contains(string(have), "\nslot1:") {
		return
	}
	names := []string{"griduser"}
	for n := range 16 {
		names = append(names, fmt.Sprintf("slot%d", n+1))
	}
	for i, n := range names {
		if !strings.Contains(string(have), "\n"+n+":") {
			m.inside("useradd", "--uid", fmt.Sprint(3000+i), "--create-home", n)
		}
	}
}

// put writes a file of the machine's root.
func (m *machine) put(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	os.Remove(path) // it may be a link to what is not there
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// inside runs a program of the machine as root and returns its output.
func (m *machine) inside(argv ...string) string {
	m.t.Helper()
	return m.Run(append([]string{"chroot", m.root}, argv...)...)
}

// as runs a program of the machine as a user, in that user's home.
func (m *machine) as(user string, argv ...string) (string, error) {
	m.t.Helper()
	return m.Try(append([]string{"chroot", "--userspec=" + user + ":" + user, m.root, "env", "--chdir=/home/" + user, "HOME=/home/" + user}, argv...)...)
}

// condorconf runs this command for the machine and returns its result.
func (m *machine) condorconf(verb string) Result {
	m.t.Helper()
	args := []string{verb, "--json", "--root", m.root, "--floppy", m.floppy}
	if m.status != "" {
		args = append(args, "--status", m.status)
	}
	var stdout, stderr strings.Builder
	if code := run(m.t.Context(), args, strings.NewReader(""), &stdout, &stderr); code != 0 {
		m.t.Fatalf("condorconf %v: exit %d: %s", args, code, stderr.String())
	}
	var r Result
	if err := json.Unmarshal([]byte(stdout.String()), &r); err != nil {
		m.t.Fatal(err)
	}
	return r
}

// start starts HTCondor as its unit does, with process numbers of its own:
// killing number 1 of them ends all. HTCondor changes users, so the kernel
// does not end it with its parent.
func (m *machine) start() *netlab.Process {
	m.t.Helper()
	p := m.Start("unshare", "--uts", "--pid", "--fork", "--mount-proc="+filepath.Join(m.root, "proc"),
		"chroot", m.root, "sh", "-c", `hostname "$0" && exec condor_master -f`, m.Name)
	m.t.Cleanup(func() { m.kill(p) })
	return p
}

// kill ends all of a started HTCondor.
func (m *machine) kill(p *netlab.Process) {
	for _, pid := range m.inner(p) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	p.Wait(10 * time.Second)
}

// inner returns the condor_master of a started HTCondor, nothing when it has
// ended.
func (m *machine) inner(p *netlab.Process) (pids []int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.Pid()))
	if err != nil {
		return nil
	}
	for _, child := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			m.t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// reload tells a started HTCondor that its files have changed, as its unit does.
func (m *machine) reload(p *netlab.Process) {
	m.t.Helper()
	for _, pid := range m.inner(p) {
		syscall.Kill(pid, syscall.SIGHUP)
	}
}

// until runs a program of the machine until its output contains text.
func (m *machine) until(patience time.Duration, text string, argv ...string) string {
	m.t.Helper()
	var out string
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		out, err = m.Try(append([]string{"chroot", m.root}, argv...)...)
		if err == nil && strings.Contains(out, text) {
			return out
		}
	}
	m.t.Fatalf("%s: %v has not said %q within %v: %q, %v\n%s", m.Name, argv, text, patience, out, err, m.logs())
	return ""
}

// queue submits a job of the login account that runs a shell command.
func (m *machine) queue(command string, more ...string) {
	m.t.Helper()
	job := fmt.Sprintf("executable = /bin/sh\ntransfer_executable = false\narguments = \"-c '%s'\"\n"+
		"output = job.out\nerror = job.err\nlog = job.log\nrequest_memory = 16\n%s\nqueue\n", command, strings.Join(more, "\n"))
	m.put("tmp/job.sub", job) // where every account can read it
	for _, old := range []string{"job.log", "job.out"} {
		os.Remove(filepath.Join(m.root, "home/griduser", old))
	}
	if out, err := m.as("griduser", "condor_submit", "/tmp/job.sub"); err != nil {
		m.t.Fatalf("%s: submit: %v: %s\n%s", m.Name, err, out, m.logs())
	}
}

// submit queues a job, waits for its end and returns its output.
func (m *machine) submit(command string, more ...string) string {
	m.t.Helper()
	m.queue(command, more...)
	if out, err := m.as("griduser", "condor_wait", "-wait", "60", "job.log"); err != nil {
		held, _ := m.as("griduser", "condor_q", "-af", "JobStatus", "HoldReason", "LastRejMatchReason")
		m.t.Fatalf("%s: wait for the job: %v: %s %s\n%s", m.Name, err, out, held, m.logs())
	}
	out, err := os.ReadFile(filepath.Join(m.root, "home/griduser/job.out"))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(out)
}

// logs is the end of HTCondor's logs, for a failed test's message.
func (m *machine) logs() string {
	out, _ := m.Try("sh", "-c", "tail -n 15 "+m.root+"/var/log/condor/*Log")
	return out
}
