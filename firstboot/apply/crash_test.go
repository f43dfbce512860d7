package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/firstboot/plan"
	"gridappliance/floppy"
	"gridappliance/internal/need"
)

// errDied is what a process ended in the middle would have seen.
var errDied = errors.New("died")

// planOf returns the plan of a floppy with the given machine, users and keys.
func planOf(t testing.TB, text, image, keys string) *plan.Plan {
	t.Helper()
	config, err := floppy.DecodeConfig("GRID.TML", []byte("version = 1\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	config.ApplyDefaults()
	p, err := plan.Make(plan.Input{Config: config, Image: []byte(image), SSHKeys: []byte(keys)},
		plan.Facts{TimezoneKnown: true, Accounts: map[string]int{"root": 0, "slot1": 901}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Two floppies that differ in every kind of thing: files, links, folders,
// accounts, marks.
func planA(t testing.TB) *plan.Plan {
	return planOf(t, "[machine]\nrole = \"standalone\"\ntimezone = \"Europe/Berlin\"\nconsole = \"off\"\n[users]\nnames = [\"alice\", \"carol\"]\n",
		strings.Repeat("A", 5000), "ssh-ed25519 AAAA alice\n")
}

func planB(t testing.TB) *plan.Plan {
	return planOf(t, "[machine]\nrole = \"worker\"\ntimezone = \"America/Denver\"\n[users]\nnames = [\"bob\", \"carol\"]\n",
		strings.Repeat("B", 3000), "")
}

// base makes a tree as the image has it.
func base(t testing.TB) string {
	t.Helper()
	// In memory where there is such a place: this syncs some ten thousand times.
	root, err := os.MkdirTemp("/dev/shm", "apply")
	if err != nil {
		root = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	for name, content := range map[string]string{
		"etc/passwd":                  "root:x:0:0:root:/root:/bin/bash\nslot1:x:901:901::/:/usr/sbin/nologin\n",
		"etc/group":                   "root:x:0:\nslot1:x:901:\n",
		"etc/shadow":                  "root:*:1:0:99999:7:::\n",
		"etc/motd":                    "welcome\n",
		"home/keep":                   "",
		"var/lib/grid/machine-id":     strings.Repeat("0", 32) + "\n",
		"var/lib/overlayd/node.key":   "made here",
		"var/lib/overlayd/trust.json": "{}",
		"run/machine-id":              strings.Repeat("0", 32) + "\n",
	} {
		writeIn(t, root, name, content)
	}
	if err := os.Chmod(filepath.Join(root, "etc/shadow"), 0o640); err != nil {
		t.Fatal(err)
	}
	return root
}

func writeIn(t testing.TB, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// options of one machine; the identity is the same every time, so that trees
// compare.
func options() Options {
	return Options{Instance: Instance{UUID: "one"}, Source: "/dev/fd0", Newest: time.Unix(1e9, 0).UTC(),
		Identity: func() (Identity, error) {
			return Identity{MachineID: []byte(strings.Repeat("1", 32) + "\n"), HostKey: []byte("key"), HostPublic: []byte("public")}, nil
		}}
}

// applyTo applies p to root, dying before step n (never when n < 0). It
// returns the number of steps begun.
func applyTo(t testing.TB, root string, p *plan.Plan, n int) (steps int, err error) {
	t.Helper()
	tree, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	tree.Before = func(string, string) error {
		if steps == n {
			return errDied
		}
		steps++
		return nil
	}
	_, err = Apply(tree, p, options())
	return steps, err
}

func mustApply(t testing.TB, root string, p *plan.Plan) int {
	t.Helper()
	n, err := applyTo(t, root, p, -1)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// snapshot returns everything in a tree: path -> kind, mode, owner, contents.
func snapshot(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := fmt.Sprintf("%v %d:%d", info.Mode(), info.Sys().(*syscall.Stat_t).Uid, info.Sys().(*syscall.Stat_t).Gid)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			s += " -> " + target
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			s += " " + string(b)
		}
		name, err := filepath.Rel(root, path)
		all[name] = s
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// settled holds the trees after A and after B.
type settled struct{ a, b map[string]string }

func settle(t *testing.T) settled {
	root := base(t)
	mustApply(t, root, planA(t))
	a := snapshot(t, root)
	mustApply(t, root, planB(t))
	b := snapshot(t, root)
	fresh := base(t)
	mustApply(t, fresh, planB(t))
	if diff := cmp.Diff(snapshot(t, fresh), b); diff != "" {
		t.Fatalf("B after A differs from B alone:\n%s", diff)
	}
	mustApply(t, root, planA(t))
	if diff := cmp.Diff(a, snapshot(t, root)); diff != "" {
		t.Fatalf("A after B differs from A alone:\n%s", diff)
	}
	return settled{a, b}
}

// between checks a tree whose way from A to B, or back, was cut short. On the
// way there the stamp is A's until everything else is B's.
func (s settled) between(t *testing.T, root string, there bool) {
	t.Helper()
	now := snapshot(t, root)
	allA, allB := true, true
	for _, name := range union(s.a, s.b, now) {
		if name == pendingPath || strings.HasSuffix(name, ".grid-new") || strings.HasPrefix(name, "run/") {
			continue
		}
		isA, isB := now[name] == s.a[name], now[name] == s.b[name]
		if !isA && !isB {
			t.Errorf("%s is neither old nor new: %.60q", name, now[name])
		}
		if name != StampPath {
			allA, allB = allA && isA, allB && isB
		}
	}
	if there && now[StampPath] != s.a[StampPath] && !allB {
		t.Error("the stamp is new, but something else is not")
	}
	if _, marked := now[AppliedMark]; marked && !(allA && now[StampPath] == s.a[StampPath]) && !(allB && now[StampPath] == s.b[StampPath]) {
		t.Error("services may start on a tree between two plans")
	}
}

func union(maps3 ...map[string]string) []string {
	all := map[string]string{}
	for _, m := range maps3 {
		maps.Copy(all, m)
	}
	names := make([]string, 0, len(all))
	for n := range all {
		names = append(names, n)
	}
	return names
}

// TestDiesBeforeEveryStep is the promise of docs/decisions/0020: for every n,
// apply ends before its n-th step; the tree is old or new file by file, the
// stamp old until everything is new; then either floppy gives exactly its
// tree, also when the second run dies half way too.
func TestDiesBeforeEveryStep(t *testing.T) {
	s := settle(t)
	probe := base(t)
	mustApply(t, probe, planA(t))
	total := mustApply(t, probe, planB(t))
	if total < 50 {
		t.Fatalf("going from A to B takes %d steps: too few to mean anything", total)
	}
	for n := range total {
		for finish, want := range map[string]map[string]string{"A": s.a, "B": s.b} {
			t.Run(fmt.Sprintf("%d then %s", n, finish), func(t *testing.T) {
				root := base(t)
				mustApply(t, root, planA(t))
				if _, err := applyTo(t, root, planB(t), n); !errors.Is(err, errDied) {
					t.Fatalf("died before step %d: %v", n, err)
				}
				s.between(t, root, true)
				p := planA(t)
				if finish == "B" {
					p = planB(t)
				}
				applyTo(t, root, p, n*7%total) // dies too, or is done
				s.between(t, root, false)
				mustApply(t, root, p)
				if diff := cmp.Diff(want, snapshot(t, root)); diff != "" {
					t.Errorf("after another run the tree is not %s's:\n%s", finish, diff)
				}
			})
		}
	}
}

// The same on a machine's first boot, where there is no stamp and an identity
// is made.
func TestFirstBootDiesBeforeEveryStep(t *testing.T) {
	whole := base(t)
	total := mustApply(t, whole, planA(t))
	want := snapshot(t, whole)
	for n := range total {
		root := base(t)
		if _, err := applyTo(t, root, planA(t), n); !errors.Is(err, errDied) {
			t.Fatalf("step %d: %v", n, err)
		}
		now := snapshot(t, root)
		if _, marked := now[AppliedMark]; marked && !cmp.Equal(now, want) {
			t.Errorf("step %d: services may start", n)
		}
		mustApply(t, root, planA(t))
		if diff := cmp.Diff(want, snapshot(t, root)); diff != "" {
			t.Errorf("step %d: after another run:\n%s", n, diff)
		}
	}
}

// TestKilled ends a real process with SIGKILL at steps spread over the run,
// or at every one with LONG=1.
func TestKilled(t *testing.T) {
	s := settle(t)
	probe := base(t)
	mustApply(t, probe, planA(t))
	total := mustApply(t, probe, planB(t))
	stride := 9
	if os.Getenv("LONG") != "" {
		stride = 1
	}
	for n := 0; n < total; n += stride {
		root := base(t)
		mustApply(t, root, planA(t))
		child := exec.Command(os.Args[0], "-test.run=^TestChildOfKilled$")
		child.Env = append(os.Environ(), "APPLY_ROOT="+root, "APPLY_DIE="+strconv.Itoa(n))
		out, err := child.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: the child was not killed: %v\n%s", n, err, out)
		}
		s.between(t, root, true)
		mustApply(t, root, planB(t))
		if diff := cmp.Diff(s.b, snapshot(t, root)); diff != "" {
			t.Errorf("step %d: after another run:\n%s", n, diff)
		}
	}
}

// TestChildOfKilled is the process that TestKilled kills.
func TestChildOfKilled(t *testing.T) {
	root := os.Getenv("APPLY_ROOT")
	if root == "" {
		t.Skip("run by TestKilled only")
	}
	n, err := strconv.Atoi(os.Getenv("APPLY_DIE"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	tree.Before = func(string, string) error {
		if steps == n {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		steps++
		return nil
	}
	_, err = Apply(tree, planB(t), options())
	t.Fatalf("still alive after %d steps: %v", steps, err)
}

// Owners can be changed by root only; the trees above compare them too.
func TestOwners(t *testing.T) {
	need.Root(t)
	root := base(t)
	if err := os.Chown(filepath.Join(root, "etc/shadow"), 0, 42); err != nil {
		t.Fatal(err)
	}
	mustApply(t, root, planA(t))
	now := snapshot(t, root)
	if got := now["etc/shadow"]; !strings.HasPrefix(got, "-rw-r----- 0:42 ") {
		t.Errorf("etc/shadow: %.40q, want its mode and group kept", got)
	}
	users := planA(t).Users
	if got, want := now["home/alice"], fmt.Sprintf("drwx------ %d:%d", users[0].UID, users[0].UID); got != want {
		t.Errorf("home/alice: %q, want %q", got, want)
	}
}
