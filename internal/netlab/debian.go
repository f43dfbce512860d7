package netlab

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// Debian returns the root of a plain Debian system with the packages named and
// what these need, as a folder that must not be changed: somebody's own machine,
// with nothing of ours. It is installed from the packages that the base was made
// of, which lie in the store, so that nothing is downloaded; once for each lock
// and choice, into the cache.
func Debian(t testing.TB, base string, packages ...string) string {
	t.Helper()
	need.Root(t)
	need.Tool(t, "mmdebstrap", "dpkg-deb")
	lock, err := os.ReadFile(filepath.Join(base, "base.lock"))
	check(t, err)
	sum := sha256.Sum256(fmt.Appendf(lock, "\n%s", strings.Join(packages, " ")))
	cache, err := os.UserCacheDir()
	check(t, err)
	dir := filepath.Join(cache, "grid-appliance", "netlab", "debian-"+hex.EncodeToString(sum[:])[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	check(t, os.MkdirAll(filepath.Dir(dir), 0o700))
	work, err := os.MkdirTemp(filepath.Dir(dir), "unpacking-*")
	check(t, err)
	defer os.RemoveAll(work)
	check(t, os.Chmod(work, 0o755))
	suite := Archive(t, base, work+"/archive")
	_, err = sysrun.Run(t.Context(), sysrun.Command{Name: "mmdebstrap", Tied: true,
		Args: []string{"--mode=root", "--variant=apt", "--architectures=amd64", "--dpkgopt=force-unsafe-io",
			"--include=" + strings.Join(packages, ","), suite, work + "/root", "deb [trusted=yes] copy:" + work + "/archive ./"},
		Env: append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")})
	check(t, err)
	if err := os.Rename(work+"/root", dir); err != nil && !os.IsExist(err) { // another test was faster
		check(t, err)
	}
	return dir
}

// Archive makes dir a flat apt archive of the packages that the base was made
// of, and returns their suite. The form of a lock is builder/base's.
func Archive(t testing.TB, base, dir string) (suite string) {
	t.Helper()
	lock, err := os.ReadFile(filepath.Join(base, "base.lock"))
	check(t, err)
	check(t, os.Mkdir(dir, 0o755))
	debs := filepath.Join(base, "..", "..", "debs")
	var index bytes.Buffer
	for line := range strings.Lines(string(lock)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "suite":
			suite = f[1]
		case len(f) == 1 && f[0] == "[tools]":
			goto done
		case len(f) == 6:
			deb := filepath.Join(debs, f[3]+".deb")
			control, err := sysrun.Output(t.Context(), "dpkg-deb", "--field", deb)
			check(t, err)
			check(t, os.Link(deb, filepath.Join(dir, f[3]+".deb")))
			fmt.Fprintf(&index, "%s\nFilename: ./%s.deb\nSize: %s\nSHA256: %[2]s\n\n", bytes.TrimSpace(control), f[3], f[4])
		}
	}
done:
	check(t, os.WriteFile(filepath.Join(dir, "Packages"), index.Bytes(), 0o644))
	release := fmt.Sprintf("Suite: %s\nCodename: %[1]s\nSHA256:\n %x %d Packages\n", suite, sha256.Sum256(index.Bytes()), index.Len())
	check(t, os.WriteFile(filepath.Join(dir, "Release"), []byte(release), 0o644))
	return suite
}
