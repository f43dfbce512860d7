package base

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"

	"gridappliance/builder/manifest"
	"gridappliance/builder/progress"
	"gridappliance/firstboot/units"
	"gridappliance/images"
)

// recipe is raised when this package makes other bytes from the same input,
// so that stores do not answer with a base of an older recipe.
const recipe = "3"

// treeRecipe is the same for installed systems: installing takes minutes, so
// their place in the store does not depend on recipe.
const treeRecipe = "2"

// Programs of this project that go into the image, and the initrd's /init,
// as their build left them in Options.Programs.
var (
	programNames = []string{"builder", "condorconf", "firstboot", "grid", "overlayd"}
	initProgram  = "initrd"
)

// Options of Build. The zero value of each field but Programs is usable.
type Options struct {
	Store    *Store
	Lock     []byte // the text of a lock to build exactly; nil resolves a new one
	LockName string // its file, for messages
	Mirror   string // root of a Debian mirror; "" is the host's own
	Suite    string // "" is DefaultSuite
	Programs string // folder with the programs
	Progress *progress.Reporter
	Now      func() time.Time // nil is time.Now
}

// DefaultSuite is the Debian release that bases are made of.
const DefaultSuite = "trixie"

type build struct {
	Options
	ctx      context.Context
	apt      *apt
	lock     *Lock
	lockText []byte
	tools    *tools
	programs map[string][]byte
	id       string
}

// Build builds a base, or finds it in the store when it is there already.
func Build(ctx context.Context, o Options) (*Base, error) {
	if o.Suite == "" {
		o.Suite = DefaultSuite
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	b := &build{Options: o, ctx: ctx}
	if err := b.readPrograms(); err != nil {
		return nil, err
	}
	work, err := o.Store.temp("base")
	if err != nil {
		return nil, err
	}
	defer work.Remove()
	if err := b.step("resolve", func(s *progress.Step) error { return b.resolve(work.Path, s) }); err != nil {
		return nil, err
	}
	b.id = b.identity()
	final := o.Store.path("bases", b.id)
	if found, err := Open(final); err == nil {
		return found, b.step("base", func(s *progress.Step) error { s.Note("%s is in the store", b.id); return nil })
	}
	if err := b.step("download", func(s *progress.Step) error { return b.download(work.Path, s) }); err != nil {
		return nil, err
	}
	if err := b.step("tools", func(s *progress.Step) (err error) {
		b.tools, err = openTools(ctx, o.Store, b.lock.Tools, s)
		return err
	}); err != nil {
		return nil, err
	}
	tree := ""
	if err := b.step("install", func(s *progress.Step) (err error) { tree, err = installed(ctx, o.Store, b.lock, s); return err }); err != nil {
		return nil, err
	}
	out := work.Join("out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return nil, err
	}
	if err := b.pack(tree, out); err != nil {
		return nil, err
	}
	if err := o.Store.adopt(out, final, isBase); err != nil {
		return nil, err
	}
	return Open(final)
}

// step runs one timed step.
func (b *build) step(name string, f func(*progress.Step) error) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	s := b.Progress.Start(name)
	return s.End(f(s))
}

func (b *build) readPrograms() error {
	b.programs = map[string][]byte{}
	for _, name := range append([]string{initProgram}, programNames...) {
		data, err := os.ReadFile(filepath.Join(b.Programs, name))
		if err != nil {
			return fmt.Errorf("read the image's programs: %w (make programs builds them; --programs says where they are)", err)
		}
		b.programs[name] = data
	}
	return nil
}

// resolve sets the lock: the one given, or a new one from the archives.
func (b *build) resolve(work string, s *progress.Step) error {
	if b.Lock != nil {
		lock, err := ParseLock(b.LockName, b.Lock)
		if err != nil {
			return err
		}
		s.Note("%d packages of %s", len(lock.Base), b.LockName)
		b.lock, b.lockText = lock, lock.Text()
		return nil
	}
	if err := b.openAPT(work); err != nil {
		return err
	}
	lock := &Lock{Suite: b.Suite}
	var err error
	if lock.Time, err = b.apt.released(b.Now()); err != nil {
		return err
	}
	essential := append([]string{"?essential"}, images.Words("base-packages")...)
	if lock.Base, err = b.apt.closure(b.ctx, essential); err != nil {
		return err
	}
	if lock.Tools, err = b.apt.closure(b.ctx, images.Words("tools-packages")); err != nil {
		return err
	}
	b.lock, b.lockText = lock, lock.Text()
	// What is written must be what can be read again.
	if _, err := ParseLock(LockFile, b.lockText); err != nil {
		return err
	}
	s.Note("%d packages", len(lock.Base))
	return nil
}

// openAPT starts apt on the sources in effect, once.
func (b *build) openAPT(work string) error {
	if b.apt != nil {
		return nil
	}
	a, err := newAPT(b.ctx, filepath.Join(work, "apt"))
	if err != nil {
		return err
	}
	b.apt = a
	return a.useDebian(b.ctx, b.Mirror, b.Suite)
}

func (b *build) download(work string, s *progress.Step) error {
	packages := unique(b.lock.Base, b.lock.Tools)
	if len(b.Store.lacks(packages)) == 0 {
		s.Note("all %d packages were in the store", len(packages))
		return nil
	}
	b.Suite = b.lock.Suite
	if err := b.openAPT(work); err != nil {
		return err
	}
	return b.apt.download(b.ctx, b.Store, packages, s)
}

// identity hashes everything the base is made from.
func (b *build) identity() string {
	h := sha256.New()
	add := func(name string, data []byte) { fmt.Fprintf(h, "%s %d\n%s\n", name, len(data), data) }
	add("recipe", []byte(recipe))
	add("lock", b.lockText)
	for _, tree := range []fs.FS{images.FS, units.FS} {
		fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				data, _ := fs.ReadFile(tree, name) // embedded: cannot fail
				add(name, data)
			}
			return err
		})
	}
	names := append([]string{initProgram}, programNames...)
	sort.Strings(names)
	for _, n := range names {
		add(n, b.programs[n])
	}
	return hex.EncodeToString(h.Sum(nil))[:idLength]
}

// pack makes the files of the base in out.
func (b *build) pack(tree, out string) error {
	source, err := os.Open(tree)
	if err != nil {
		return err
	}
	defer source.Close()
	var img *image
	kernel := ""
	if err := b.step("boot", func(*progress.Step) error {
		if img, err = readImage(source); err != nil {
			return err
		}
		kernel, err = b.packBoot(img, out)
		return err
	}); err != nil {
		return err
	}
	if err := b.step("pack", func(s *progress.Step) error {
		if err := fill(img, b.lock.Time, b.programs); err != nil {
			return err
		}
		return makeSquashfs(b.ctx, b.tools, img, filepath.Join(out, Squashfs), b.lock.Time)
	}); err != nil {
		return err
	}
	return b.step("manifest", func(s *progress.Step) error { return b.writeManifest(kernel, out, s) })
}

// packBoot makes everything but the root file system and returns the kernel's
// version.
func (b *build) packBoot(img *image, out string) (string, error) {
	kernel, err := img.kernelVersion()
	if err != nil {
		return "", err
	}
	vmlinuz, err := img.readFile("boot/vmlinuz-" + kernel)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(out, Kernel), vmlinuz, 0o644); err != nil {
		return "", err
	}
	plan := initrdPlan{state: images.File("state")}
	plan.modules, plan.preload = parseModules(images.File("modules"))
	if err := writeInitrd(filepath.Join(out, Initrd), img, kernel, b.programs[initProgram], plan); err != nil {
		return "", err
	}
	if err := makeGRUB(b.ctx, b.tools, out, b.lock.Time.Unix()); err != nil {
		return "", err
	}
	return kernel, makeUser(b.ctx, b.tools, out, b.lock.Time)
}

// fill changes the installed tree into the image's root.
func fill(img *image, built time.Time, programs map[string][]byte) error {
	rules, err := parseLayout("images/layout", images.File("layout"))
	if err != nil {
		return err
	}
	if err := img.drop(rules); err != nil {
		return err
	}
	for _, t := range []struct {
		from fs.FS
		to   string
	}{{images.Root(), ""}, {units.FS, units.Dir}} {
		if err := img.addTree(t.from, t.to); err != nil {
			return err
		}
	}
	if err := img.enable(units.FS, units.Enabled); err != nil {
		return err
	}
	for _, name := range programNames {
		img.addFile("usr/lib/grid/"+name, 0o755, programs[name])
		img.addLink("usr/bin/"+name, "../lib/grid/"+name)
	}
	img.addFile("usr/lib/grid/build-time", 0o644, []byte(built.Format(time.RFC3339)+"\n"))
	release, err := img.readFile("usr/lib/os-release")
	if err != nil {
		return err
	}
	img.addFile("usr/lib/os-release", 0o644, osRelease(release, built))
	return img.arrange(rules)
}

// addTree adds the files of an embedded tree below to, mode 0644.
func (img *image) addTree(from fs.FS, to string) error {
	return fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(from, name)
		if err != nil {
			return err
		}
		img.addFile(path.Join(to, name), 0o644, data)
		return nil
	})
}

var wantedBy = regexp.MustCompile(`(?m)^WantedBy=(\S+)$`)

// enable links units as systemctl enable would.
func (img *image) enable(from fs.FS, names []string) error {
	for _, name := range names {
		text, err := fs.ReadFile(from, name)
		if err != nil {
			return fmt.Errorf("enable %s: %w", name, err)
		}
		m := wantedBy.FindSubmatch(text)
		if m == nil {
			return fmt.Errorf("enable %s: it has no WantedBy", name)
		}
		img.addLink("etc/systemd/system/"+string(m[1])+".wants/"+name, "/"+units.Dir+"/"+name)
	}
	return nil
}

// osRelease adds the image's identity to Debian's os-release(5).
func osRelease(debian []byte, built time.Time) []byte {
	var out bytes.Buffer
	for _, line := range strings.SplitAfter(string(debian), "\n") {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME=\""); ok {
			line = "PRETTY_NAME=\"Grid Appliance on " + name
		}
		out.WriteString(line)
	}
	fmt.Fprintf(&out, "VARIANT=\"Grid Appliance\"\nVARIANT_ID=grid\nIMAGE_ID=grid-appliance\nIMAGE_VERSION=%s\n", built.Format("20060102"))
	return out.Bytes()
}

func (b *build) writeManifest(kernel, out string, s *progress.Step) error {
	if err := os.WriteFile(filepath.Join(out, LockFile), b.lockText, 0o644); err != nil {
		return err
	}
	m := &manifest.Manifest{Version: manifest.Version, ID: b.id, Suite: b.lock.Suite, Time: b.lock.Time, Kernel: kernel,
		Packages: materials(b.lock.Base), Tools: materials(b.lock.Tools)}
	for _, name := range append([]string{initProgram}, programNames...) {
		sum := sha256.Sum256(b.programs[name])
		m.Programs = append(m.Programs, manifest.File{Name: name, Size: int64(len(b.programs[name])), SHA256: hex.EncodeToString(sum[:])})
	}
	var total int64
	for _, name := range files {
		sum, size, err := hashFile(filepath.Join(out, name))
		if err != nil {
			return err
		}
		m.Files = append(m.Files, manifest.File{Name: name, Size: size, SHA256: sum})
		if name != User {
			total += size
		}
	}
	s.Note("%.1f MB", float64(total)/1e6)
	return os.WriteFile(filepath.Join(out, Manifest), m.Text(), 0o644)
}

func materials(packages []Package) []manifest.Package {
	out := make([]manifest.Package, len(packages))
	for i, p := range packages {
		out[i] = manifest.Package{Name: p.Name, Version: p.Version, Architecture: p.Arch, SHA256: p.SHA256}
	}
	return out
}
