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

// TestAnOrdinaryUserBuildsTheSameBytes builds the base's own lock again, as
// another user and in another folder. The manifest holds the sha256 of every
// file.
func TestAnOrdinaryUserBuildsTheSameBytes(t *testing.T) {
	b, err := Open(need.Base(t))
	if err != nil {
		t.Fatal(err)
	}
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
	etc, home, bin := filepath.Join(dir, "etc"), filepath.Join(dir, "home"), filepath.Join(dir, "bin")
	store := filepath.Join(home, "store")
	for _, d := range []string{etc, home, bin, store, filepath.Join(store, "debs")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range accounts {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	copyAll(t, programs, bin, 0o755)
	copyAll(t, filepath.Join(filepath.Dir(filepath.Dir(b.Dir)), "debs"), filepath.Join(store, "debs"), 0o644)
	lock := filepath.Join(etc, LockFile)
	if err := linkOrCopy(b.Path(LockFile), lock); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, home, store, filepath.Join(store, "debs")} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if d != dir {
			if err := os.Chown(d, ordinary, ordinary); err != nil {
				t.Fatal(err)
			}
		}
	}

	r, err := sysrun.Run(t.Context(), sysrun.Command{
		Name: "unshare", Args: []string{"--mount", "sh", "-ec", asOrdinary, "sh", etc,
			filepath.Join(bin, "builder"), "base", "build", "--locked", lock, "--store", store},
		Dir: home, Env: []string{"HOME=" + home, "TMPDIR=" + home, "PATH=" + os.Getenv("PATH")},
	})
	if err != nil {
		t.Fatal(err)
	}
	bases, err := filepath.Glob(filepath.Join(store, "bases", "*", "manifest.json"))
	if err != nil || len(bases) != 1 {
		t.Fatalf("%d bases in the store, %v; builder wrote %s%s", len(bases), err, r.Stdout, r.Stderr)
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
