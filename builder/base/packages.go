package base

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"

	"gridappliance/builder/layer"
	"gridappliance/builder/progress"
	"gridappliance/images"
	"gridappliance/internal/diag"
	"gridappliance/internal/sysrun"
)

// packagesRecipe is raised when this package makes another layer from the
// same locks.
const packagesRecipe = "1"

// PackagesModule is the name of the module that a definition's packages make.
const PackagesModule = "site-packages"

// Additions are packages to be installed on top of a base, without changing
// one of the base's own: what they make is a layer of its own, the difference
// between two systems installed in the same way, one from base.lock, one from
// base.lock and the additions.
type Additions struct {
	Base     *Base
	Store    *Store
	Packages []string // NAME or NAME=VERSION
	Archives []Archive
	Mirror   string // of Debian; "" is the host's own
	Progress *progress.Reporter
	Now      func() time.Time // nil is time.Now
}

// Asked is the SHA-256 of what is asked for: a lock is for exactly this.
func (a *Additions) Asked() string {
	h := sha256.New()
	words := append([]string{}, a.Packages...)
	sort.Strings(words)
	fmt.Fprintf(h, "packages %q\n", words)
	for _, r := range a.Archives {
		fmt.Fprintf(h, "source %q %q %q %q %x\n", r.Name, r.URIs, r.Suites, r.Components, sha256.Sum256(r.Key))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// BaseLock is the SHA-256 of the base's own lock.
func (a *Additions) BaseLock() string {
	f, _ := a.Base.Manifest.File(LockFile) // Open found it
	return f.SHA256
}

// Fits says whether a lock is one for these additions on this base.
func (a *Additions) Fits(l *PackageLock) bool { return l.Asked == a.Asked() && l.Base == a.BaseLock() }

// PackageError is about one of the packages asked for.
type PackageError struct {
	Package string
	Message string
	Remedy  string
}

func (e *PackageError) Error() string {
	return fmt.Sprintf("resolve packages: %s %s (%s)", e.Package, e.Message, e.Remedy)
}

// Resolve finds the packages, and all they need that the base does not have,
// in Debian's archives and the additions' own. The error is a *PackageError
// when one package is the reason.
func (a *Additions) Resolve(ctx context.Context) (*PackageLock, error) {
	s := a.Progress.Start("resolve")
	lock, err := a.resolve(ctx)
	if err == nil {
		s.Note("%d packages, %.1f MB to download", len(lock.Packages), float64(lock.Download())/1e6)
	}
	return lock, s.End(err)
}

func (a *Additions) resolve(ctx context.Context) (*PackageLock, error) {
	work, err := a.Store.temp("packages")
	if err != nil {
		return nil, err
	}
	defer work.Remove()
	apt, err := a.openAPT(ctx, work.Path)
	if err != nil {
		return nil, err
	}
	if err := a.presume(apt); err != nil {
		return nil, err
	}
	now := a.Now
	if now == nil {
		now = time.Now
	}
	lock := &PackageLock{Base: a.BaseLock(), Asked: a.Asked()}
	if lock.Time, err = apt.released(now()); err != nil {
		return nil, err
	}
	if lock.Time.Before(a.Base.Manifest.Time) {
		lock.Time = a.Base.Manifest.Time
	}
	if lock.Packages, err = apt.closure(ctx, append([]string{"--no-remove"}, a.Packages...)); err != nil {
		return nil, a.explain(ctx, apt, err)
	}
	if _, err := ParsePackageLock("lock", lock.Text()); err != nil { // what is written must be what can be read again
		return nil, err
	}
	return lock, nil
}

func (a *Additions) openAPT(ctx context.Context, work string) (*apt, error) {
	apt, err := newAPT(ctx, filepath.Join(work, "apt"))
	if err != nil {
		return nil, err
	}
	if err := apt.useDebian(ctx, a.Mirror, a.Base.Manifest.Suite); err != nil {
		return nil, err
	}
	return apt, apt.useArchives(ctx, a.Archives)
}

// presume makes apt think that the base is installed, and keep it as it is.
func (a *Additions) presume(apt *apt) error {
	status, err := a.Base.ReadFile("var/lib/dpkg/status")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(apt.dir, "state", "status"), status, 0o644); err != nil {
		return err
	}
	pin := []byte("Package: *\nPin: release a=now\nPin-Priority: 1001\n")
	if err := os.WriteFile(filepath.Join(apt.dir, "preferences"), pin, 0o644); err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(apt.dir, "apt.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer conf.Close()
	_, err = fmt.Fprintf(conf, "Dir::Etc::Preferences %q;\n", filepath.Join(apt.dir, "preferences"))
	return err
}

var (
	unknownPackage = regexp.MustCompile(`(?m)^E: (?:Unable to locate package (\S+)|Package '([^']+)' has no installation candidate)`)
	unknownVersion = regexp.MustCompile(`(?m)^E: Version '([^']+)' for '([^']+)' was not found`)
	unmetNeeds     = regexp.MustCompile(`(?m)^ (\S+) : (?:Depends|PreDepends|Conflicts|Breaks): .*`)
)

// explain turns what apt said into what a person can do about it.
func (a *Additions) explain(ctx context.Context, apt *apt, err error) error {
	var said *sysrun.Error
	var refused *refusal
	if !errors.As(err, &said) || !errors.As(err, &refused) {
		return err
	}
	if m := unknownPackage.FindStringSubmatch(said.Stderr); m != nil {
		name := m[1] + m[2]
		known, _ := apt.run(ctx, "apt-cache", "pkgnames")
		return &PackageError{name, "is in no archive in use",
			diag.DidYouMean(name, strings.Fields(string(known)), "name the archive that has it in [[sources]]")}
	}
	if m := unknownVersion.FindStringSubmatch(said.Stderr); m != nil {
		return &PackageError{m[2], "has no version " + m[1] + " in the archives in use", "leave the version out, or name an archive that keeps it"}
	}
	if m := unmetNeeds.FindStringSubmatch(refused.stdout); m != nil {
		return &PackageError{m[1], "cannot be installed on this base: " + strings.TrimSpace(m[0]),
			"a newer base has newer packages: builder base build"}
	}
	return err
}

// layerKey names the module that a lock makes on the base.
func (a *Additions) layerKey(l *PackageLock) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s\n%s\n%s\n%s", packagesRecipe, treeRecipe, images.File("accounts.sh"), images.File("layout"), l.Text())
	return hex.EncodeToString(h.Sum(nil))[:idLength]
}

// Layer returns where in the store the layer of a lock is or will be, and
// whether it is there.
func (a *Additions) Layer(l *PackageLock) (path string, there bool) {
	path = a.Store.path("layers", a.layerKey(l)+".module")
	return path, exists(path)
}

// Missing is how many bytes of a lock's packages the store does not have.
func (a *Additions) Missing(l *PackageLock) (bytes int64) {
	for _, p := range a.Store.lacks(l.Packages) {
		bytes += p.Size
	}
	return bytes
}

// Guess is about how many bytes the module of a lock will have: packages are
// compressed harder (xz) than it (zstd).
func (a *Additions) Guess(l *PackageLock) int64 { return l.Download()*3/2 + 1<<20 }

// Install makes the layer of a lock, or finds it in the store, and returns its
// path. For equal locks the bytes are equal, whoever installs, root or an
// ordinary user.
func (a *Additions) Install(ctx context.Context, l *PackageLock) (string, error) {
	final, there := a.Layer(l)
	if there {
		return final, nil
	}
	text, err := os.ReadFile(a.Base.Path(LockFile))
	if err != nil {
		return "", err
	}
	below, err := ParseLock(a.Base.Path(LockFile), text)
	if err != nil {
		return "", err
	}
	above := &Lock{Suite: below.Suite, Time: l.Time, Base: merge(below.Base, l.Packages)}
	work, err := a.Store.temp("layer")
	if err != nil {
		return "", err
	}
	defer work.Remove()
	if err := a.step("download", func(s *progress.Step) error { return a.download(ctx, work.Path, above.Base, s) }); err != nil {
		return "", err
	}
	var trees [2]string
	for i, t := range []struct {
		name string
		lock *Lock
	}{{"base", below}, {"install", above}} {
		if err := a.step(t.name, func(s *progress.Step) (err error) { trees[i], err = installed(ctx, a.Store, t.lock, s); return err }); err != nil {
			return "", err
		}
	}
	out := work.Join("layer.module")
	if err := a.step("pack", func(s *progress.Step) error { return a.pack(trees[0], trees[1], l.Time, out, s) }); err != nil {
		return "", err
	}
	return final, a.Store.adopt(out, final, nil)
}

func (a *Additions) step(name string, f func(*progress.Step) error) error {
	s := a.Progress.Start(name)
	return s.End(f(s))
}

func (a *Additions) download(ctx context.Context, work string, packages []Package, s *progress.Step) error {
	if len(a.Store.lacks(packages)) == 0 {
		s.Note("all %d packages were in the store", len(packages))
		return nil
	}
	apt, err := a.openAPT(ctx, work)
	if err != nil {
		return err
	}
	return apt.download(ctx, a.Store, packages, s)
}

// merge returns both lists sorted by name.
func merge(a, b []Package) []Package {
	all := append(append([]Package{}, a...), b...)
	sort.SliceStable(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// pack writes what the system above has and the one below has not.
func (a *Additions) pack(below, above string, built time.Time, out string, s *progress.Step) error {
	var pair [2]*image
	for i, name := range []string{below, above} {
		source, err := os.Open(name)
		if err != nil {
			return err
		}
		defer source.Close()
		if pair[i], err = readImage(source); err != nil {
			return err
		}
		if err := fill(pair[i], a.Base.Manifest.Time, nil); err != nil {
			return err
		}
	}
	added, err := difference(pair[0], pair[1])
	if err != nil {
		return err
	}
	for _, r := range a.Archives {
		if text := r.deb822(); text != nil {
			added.addFile("etc/apt/keyrings/"+r.keyFile(), 0o644, r.Key)
			added.addFile("etc/apt/sources.list.d/"+r.Name+".sources", 0o644, text)
		}
	}
	shared, err := a.Base.shared()
	if err != nil {
		return err
	}
	m := layer.Manifest{Name: PackagesModule, Version: built.Format("20060102.150405")}
	if err := layer.Pack(out, m, "packages", added.squashEntries(built), shared, built); err != nil {
		return err
	}
	info, err := os.Stat(out)
	if err != nil {
		return err
	}
	s.Note("%d files, %.1f MB", len(added.entries), float64(info.Size())/1e6)
	return nil
}

// deb822 returns the archive as the image's apt reads it, or nil when only
// this machine can reach it.
func (r *Archive) deb822() []byte {
	var uris []string
	for _, u := range r.URIs {
		if !strings.HasPrefix(u, "file:") {
			uris = append(uris, u)
		}
	}
	if uris == nil {
		return nil
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\n", strings.Join(uris, " "), strings.Join(r.Suites, " "))
	if len(r.Components) > 0 {
		fmt.Fprintf(&b, "Components: %s\n", strings.Join(r.Components, " "))
	}
	fmt.Fprintf(&b, "Signed-By: /etc/apt/keyrings/%s\n", r.keyFile())
	return b.Bytes()
}
