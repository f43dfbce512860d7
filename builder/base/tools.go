package base

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gridappliance/builder/progress"
	"gridappliance/internal/sysrun"
)

// tools is a folder with the unpacked packages of a lock's tools section. Its
// programs run through its own dynamic loader and libraries, so that a base
// depends on no program of the host that shapes its bytes, and neither root
// nor chroot is needed.
type tools struct{ dir string }

// toolLibraries is where Debian's amd64 packages put libraries, and the loader.
const toolLibraries = "usr/lib/x86_64-linux-gnu"

// openTools unpacks the packages into the store, or finds them there.
func openTools(ctx context.Context, store *Store, packages []Package, step *progress.Step) (*tools, error) {
	h := sha256.New()
	for _, p := range packages {
		io.WriteString(h, p.SHA256)
	}
	dir := store.path("tools", hex.EncodeToString(h.Sum(nil))[:idLength])
	if exists(dir) {
		step.Note("in the store")
		return &tools{dir}, nil
	}
	temp, err := store.temp("tools")
	if err != nil {
		return nil, err
	}
	defer temp.Remove()
	step.Expect(int64(len(packages)), progress.Items)
	for _, p := range packages {
		if _, err := sysrun.Run(ctx, sysrun.Command{Name: "dpkg-deb", Args: []string{"-x", store.deb(p), temp.Path}}); err != nil {
			return nil, err
		}
		step.Add(1)
	}
	if err := os.Chmod(temp.Path, 0o755); err != nil {
		return nil, err
	}
	return &tools{dir}, store.adopt(temp.Path, dir, nil)
}

// command returns the command that runs a program of the tools, named by its
// path below their root such as "usr/bin/mksquashfs".
func (t *tools) command(program string, args ...string) sysrun.Command {
	loader := filepath.Join(t.dir, toolLibraries, "ld-linux-x86-64.so.2")
	args = append([]string{"--library-path", filepath.Join(t.dir, toolLibraries), filepath.Join(t.dir, program)}, args...)
	return sysrun.Command{Name: loader, Args: args}
}

// environ is the caller's environment with what makes the tools' output a
// function of their input.
func (t *tools) environ(epoch int64) []string {
	return append(os.Environ(), "LC_ALL=C", "TZ=UTC", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch),
		"MKE2FS_CONFIG="+filepath.Join(t.dir, "etc/mke2fs.conf"))
}
