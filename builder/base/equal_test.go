package base

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// ordinary is a user that this machine need not have: the test binds account
// files that know it over the machine's, in a mount namespace of its own.
const ordinary = 4242

var accounts = map[string]string{
	"passwd": "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/nonexistent:/bin/false\nordinary:x:4242:4242::/nonexistent:/bin/sh\n",
	"group":  "root:x:0:\nnogroup:x:65534:\nordinary:x:4242:\n",
	"subuid": "ordinary:1000000:65536\n",
	"subgid": "ordinary:1000000:65536\n",
}

// asOrdinary is a shell script: folder of account files, command.
const asOrdinary = `
for f in passwd group subuid subgid; do mount --bind "$1/$f" "/etc/$f"; done
shift
exec setpriv --reuid=4242 --regid=4242 --clear-groups "$@"`

// user is an ordinary user's place on this machine, in which the builder and
// the packages of a store are.
type user struct {
	t                     *testing.T
	etc, home, bin, store string
}

// newUser makes one. debs is the folder of packages, whose are copied.
func newUser(t *testing.T, debs string) *user {
	t.Helper()
	need.Root(t)
	need.Tool(t, "mmdebstrap", "newuidmap", "unshare", "setpriv")
	programs := os.Getenv("GRID_PROGRAMS")
	if programs == "" {
		t.Fatal("GRID_PROGRAMS does not name the folder of the programs in the base (make test sets it)")
	}
	dir, err := os.MkdirTemp("/var/tmp", "grid-equal-") // where an ordinary user can go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	u := &user{t, filepath.Join(dir, "etc"), filepath.Join(dir, "home"), filepath.Join(dir, "bin"), filepath.Join(dir, "home", "store")}
	for _, d := range []string{u.etc, u.home, u.bin, u.store, filepath.Join(u.store, "debs")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range accounts {
		if err := os.WriteFile(filepath.Join(u.etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	copyAll(t, programs, u.bin, 0o755)
	copyAll(t, debs, filepath.Join(u.store, "debs"), 0o644)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{u.home, u.store, filepath.Join(u.store, "debs")} {
		if err := os.Chown(d, ordinary, ordinary); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// builder runs the builder as this user.
func (u *user) builder(args ...string) {
	u.t.Helper()
	r, err := sysrun.Run(u.t.Context(), sysrun.Command{
		Name: "unshare", Args: append([]string{"--mount", "sh", "-ec", asOrdinary, "sh", u.etc, filepath.Join(u.bin, "builder")}, args...),
		Dir: u.home, Env: []string{"HOME=" + u.home, "TMPDIR=" + u.home, "PATH=" + os.Getenv("PATH")},
	})
	if err != nil {
		u.t.Fatalf("%v\n%s%s", err, r.Stdout, r.Stderr)
	}
}

// TestAnOrdinaryUserBuildsTheSameBytes builds the base's own lock again, as
// another user and in another folder. The manifest holds the sha256 of every
// file.
func TestAnOrdinaryUserBuildsTheSameBytes(t *testing.T) {
	b, err := Open(need.Base(t))
	if err != nil {
		t.Fatal(err)
	}
	u := newUser(t, debsOf(b))
	lock := filepath.Join(u.etc, LockFile)
	if err := linkOrCopy(b.Path(LockFile), lock); err != nil {
		t.Fatal(err)
	}
	u.builder("base", "build", "--locked", lock, "--store", u.store)
	bases, err := filepath.Glob(filepath.Join(u.store, "bases", "*", "manifest.json"))
	if err != nil || len(bases) != 1 {
		t.Fatalf("%d bases in the store, %v", len(bases), err)
	}
	got, err := Open(filepath.Dir(bases[0]))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(b.Manifest.Text()), string(got.Manifest.Text())); diff != "" {
		t.Errorf("root's base and uid %s's differ:\n%s", strconv.Itoa(ordinary), diff)
	}
	if err := got.Verify(); err != nil {
		t.Error(err)
	}
}

// debsOf is the folder of packages of the store that a base lies in.
func debsOf(b *Base) string { return filepath.Join(filepath.Dir(filepath.Dir(b.Dir)), "debs") }

// TestPackagesOfAnOrdinaryUser: a definition's packages, one of them with an
// account of its own, installed by root in the base's store and, from root's
// lock and nothing else, by an ordinary user in a store of their own: equal
// modules, equal images.
func TestPackagesOfAnOrdinaryUser(t *testing.T) {
	need.Long(t)
	b, err := Open(need.Base(t))
	if err != nil {
		t.Fatal(err)
	}
	defs := t.TempDir()
	const text = "version = 1\nname = \"site\"\ntargets = [\"qcow2\"]\npackages = [\"hello\", \"redis-server\"]\n"
	if err := os.WriteFile(filepath.Join(defs, "site.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	byRoot := filepath.Join(defs, "out")
	if _, err := sysrun.Output(t.Context(), filepath.Join(os.Getenv("GRID_PROGRAMS"), "builder"), "build", filepath.Join(defs, "site.toml"),
		"--base", b.Dir, "--store", filepath.Dir(debsOf(b)), "-o", byRoot); err != nil {
		t.Fatal(err)
	}
	u := newUser(t, debsOf(b)) // with what root downloaded
	if _, err := b.CopyTo(filepath.Join(u.etc, "base")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"site.toml", "site.lock"} {
		if err := linkOrCopy(filepath.Join(defs, name), filepath.Join(u.etc, name)); err != nil {
			t.Fatal(err)
		}
	}
	byUser := filepath.Join(u.home, "out")
	u.builder("build", filepath.Join(u.etc, "site.toml"), "--locked", "--base", filepath.Join(u.etc, "base"), "--store", u.store, "-o", byUser)
	want, got := sums(t, byRoot), sums(t, byUser)
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("root's image and uid %d's differ:\n%s", ordinary, diff)
	}
	layers := sums(t, filepath.Join(u.store, "layers"))
	all := sums(t, filepath.Join(filepath.Dir(debsOf(b)), "layers"))
	for name, sum := range layers {
		t.Logf("%s: root's %s, uid %d's %s", name, all[name], ordinary, sum)
		if all[name] != sum {
			t.Errorf("root's module and uid %d's differ", ordinary)
		}
	}
	if len(layers) != 1 {
		t.Errorf("%d modules", len(layers))
	}
}

// sums returns the SHA-256 of each file in a folder.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, e := range entries {
		if found[e.Name()], _, err = hashFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// copyAll copies the files of one folder into another.
func copyAll(t *testing.T, from, to string, perm os.FileMode) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), data, perm)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
