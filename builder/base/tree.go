package base

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"gridappliance/builder/progress"
	"gridappliance/images"
	"gridappliance/internal/scratch"
	"gridappliance/internal/sysrun"
)

// installed returns the tar of the system that the base packages of a lock
// make, from the store when they were installed before.
func installed(ctx context.Context, store *Store, lock *Lock, step *progress.Step) (string, error) {
	hook := images.File("accounts.sh")
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%d\n", treeRecipe, hook, lock.Time.Unix())
	for _, p := range lock.Base {
		io.WriteString(h, p.SHA256)
	}
	name := store.path("trees", hex.EncodeToString(h.Sum(nil))[:idLength]+".tar")
	if exists(name) {
		step.Note("in the store")
		return name, nil
	}
	dir, err := store.temp("tree")
	if err != nil {
		return "", err
	}
	defer dir.Remove()
	temp := dir.Join("tree.tar")
	if err := installTree(ctx, store, lock, hook, temp, step); err != nil {
		return "", err
	}
	return name, store.adopt(temp, name, nil)
}

// installTree installs the packages of the lock into a new system and writes
// it as an uncompressed tar to name. hook is a script that mmdebstrap runs with
// the system's root as its argument once the essential packages are there: it
// makes the accounts, so that the other packages find theirs and ids stay the
// same from base to base.
//
// mmdebstrap sees one flat archive, made here from exactly the packages of
// the lock, and no network. It runs as root where the caller is root and in a
// user namespace (mode unshare) otherwise.
func installTree(ctx context.Context, store *Store, lock *Lock, hook []byte, name string, step *progress.Step) error {
	// Below the system's temporary folder, not the store: in a user namespace
	// mmdebstrap is another uid, which cannot enter a home folder.
	if _, err := sysrun.Find("mmdebstrap"); err != nil {
		return fmt.Errorf("install packages: %w (it is in the package mmdebstrap)", err)
	}
	temp, err := scratch.MkdirTemp("", installing)
	if err != nil {
		return fmt.Errorf("install packages: %w", err)
	}
	defer temp.Remove()
	work := temp.Path
	defer removeTree(work)
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	if err := writeArchive(ctx, store, lock.Suite, lock.Base, filepath.Join(work, "archive")); err != nil {
		return err
	}
	hookFile := filepath.Join(work, "hook")
	if err := os.WriteFile(hookFile, hook, 0o755); err != nil {
		return err
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	mode := "root"
	if os.Geteuid() != 0 {
		mode = "unshare"
	}
	var names []string
	for _, p := range lock.Base {
		names = append(names, p.Name)
	}
	counted := &lineCounter{step: step}
	_, err = sysrun.Run(ctx, alone(ctx, mode, sysrun.Command{
		Name: "mmdebstrap",
		Args: []string{"--mode=" + mode, "--variant=apt", "--format=tar", "--architectures=amd64",
			"--dpkgopt=force-unsafe-io", "--include=" + strings.Join(names, ","), "--essential-hook=" + hookFile,
			// in which order groups come into it depends on the host
			`--customize-hook=LC_ALL=C sort -o "$1/etc/gshadow" "$1/etc/gshadow"`,
			lock.Suite, "-", "deb [trusted=yes] copy:" + filepath.Join(work, "archive") + " ./"},
		// INITRD=No: the hook of initramfs-tools makes none; ours replaces it.
		Env: append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", lock.Time.Unix()), "INITRD=No", "LC_ALL=C.UTF-8",
			"TZ=UTC", "DEBIAN_FRONTEND=noninteractive", "TMPDIR="+work),
		Stdout: io.MultiWriter(out, step), Stderr: counted,
	}))
	if err != nil {
		if mode == "unshare" && !sysrun.NotFound(err) {
			return fmt.Errorf("install packages: %w (as an ordinary user this needs the package uidmap, a range in "+
				"/etc/subuid and /etc/subgid, and user namespaces; or run as root)", err)
		}
		return fmt.Errorf("install packages: %w", err)
	}
	return out.Close()
}

// alone has a program and all that it starts die when this process dies,
// however it dies, and its mounts with it. In mode root it gets process ids
// and mounts of its own for that; in mode unshare mmdebstrap makes these.
func alone(ctx context.Context, mode string, c sysrun.Command) sysrun.Command {
	c.Tied = true
	unshare, err := sysrun.Find("unshare")
	if mode != "root" || err != nil {
		return c
	}
	args := []string{"--fork", "--pid", "--mount", "--mount-proc", "--kill-child"}
	if _, err := sysrun.Output(ctx, unshare, append(args, "true")...); err != nil {
		return c // a container that forbids it
	}
	c.Name, c.Args = unshare, append(append(args, c.Name), c.Args...)
	return c
}

// Working begins the names of all working folders in the system's temporary
// folder: what a killed builder left there goes when a store is next opened.
const Working = "grid-work-"

// installing begins the names of folders that packages are installed in.
const installing = Working + "install-"

// removeTree removes such a folder. What an ordinary user's mmdebstrap left
// belongs to ids of the user's own range, which only it can act as.
func removeTree(path string) error {
	err := os.RemoveAll(path)
	if err == nil || os.Geteuid() == 0 {
		return err
	}
	sysrun.Run(context.Background(), sysrun.Command{Name: "mmdebstrap",
		Args: []string{"--unshare-helper", "find", path, "-mindepth", "2", "-delete"}})
	return os.RemoveAll(path)
}

// lineCounter passes mmdebstrap's stages ("I: extracting archives...") to the
// step's note, so that a failure says where it was.
type lineCounter struct{ step *progress.Step }

func (c *lineCounter) Write(p []byte) (int, error) {
	for _, line := range strings.Split(string(p), "\n") {
		if s, ok := strings.CutPrefix(line, "I: "); ok {
			c.step.Note("%s", s)
		}
	}
	return len(p), nil
}

// writeArchive makes dir a flat apt archive of exactly the given packages. It
// has a Release file, because mmdebstrap (1.5 on) takes as essential only
// packages of an archive with the suite's name.
func writeArchive(ctx context.Context, store *Store, suite string, packages []Package, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	var index bytes.Buffer
	for _, p := range packages {
		file := p.SHA256 + ".deb"
		if err := linkOrCopy(store.deb(p), filepath.Join(dir, file)); err != nil {
			return err
		}
		control, err := sysrun.Output(ctx, "dpkg-deb", "--field", store.deb(p))
		if err != nil {
			return err
		}
		fmt.Fprintf(&index, "%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n\n", bytes.TrimSpace(control), file, p.Size, p.SHA256)
	}
	if err := os.WriteFile(filepath.Join(dir, "Packages"), index.Bytes(), 0o644); err != nil {
		return err
	}
	release := fmt.Sprintf("Suite: %s\nCodename: %[1]s\nSHA256:\n %x %d Packages\n", suite, sha256.Sum256(index.Bytes()), index.Len())
	return os.WriteFile(filepath.Join(dir, "Release"), []byte(release), 0o644)
}

func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return out.Close()
}

// defaultSources asks mmdebstrap which archives it would use by itself: what
// a host that is not Debian takes.
func defaultSources(ctx context.Context, suite string) ([]source, error) {
	dir, err := os.MkdirTemp("", "grid-mirror-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	// The hook prints the list and then ends mmdebstrap before it does anything.
	r, err := sysrun.Run(ctx, sysrun.Command{Name: "mmdebstrap", Args: []string{"--variant=extract", "--format=null",
		`--setup-hook=cat "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* >&2 2>/dev/null; exit 1`, suite, "-"}})
	if sysrun.NotFound(err) {
		return nil, err
	}
	out := debianSources(parseSourcesList(r.Stderr), suite, suite)
	if out == nil {
		out = debianSources(parseSourcesDeb822(r.Stderr), suite, suite)
	}
	if out == nil {
		return nil, fmt.Errorf("find a mirror of %s: name one with --mirror", suite)
	}
	return out, nil
}
