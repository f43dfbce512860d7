package base

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"gridappliance/builder/progress"
	"gridappliance/internal/sysrun"
)

// keyrings are where the keys that sign Debian's archives lie on a host with
// the package debian-archive-keyring.
var keyrings = []string{
	"/usr/share/keyrings/debian-archive-keyring.gpg",
	"/usr/share/keyrings/debian-archive-keyring.pgp",
}

// aptHelper is apt's own downloader; it honours the host's proxies and
// passwords and checks what it got.
const aptHelper = "/usr/lib/apt/apt-helper"

// apt is a package manager's state of our own in dir: it shares with the
// host's apt nothing but how to reach the network (the Acquire settings).
type apt struct {
	dir     string
	sources []source
	named   map[string]string // root of a mirror that is not Debian's -> its name
	env     []string
}

// hostAcquire matches the settings of the host that say how to reach a
// mirror. All others, notably hooks that run after an update, stay out.
var hostAcquire = regexp.MustCompile(`^Acquire::(http|https|socks|ftp|Check-Valid-Until|Check-Date|Retries|ForceIPv4|ForceIPv6)\b`)

func newAPT(ctx context.Context, dir string) (*apt, error) {
	if _, err := os.Stat(aptHelper); err != nil {
		return nil, fmt.Errorf("start apt: %w; a base is built on Debian or Ubuntu (elsewhere: builder base fetch)", err)
	}
	dump, err := sysrun.Output(ctx, "apt-config", "dump")
	if err != nil {
		return nil, err
	}
	var conf bytes.Buffer
	for _, line := range strings.Split(string(dump), "\n") {
		if hostAcquire.MatchString(line) {
			fmt.Fprintln(&conf, line)
		}
	}
	set := func(key, value string) { fmt.Fprintf(&conf, "%s %q;\n", key, value) }
	set("Dir::Etc::Main", "/dev/null")
	set("Dir::Etc::Parts", "/dev/null")
	set("Dir::Etc::Preferences", "/dev/null")
	set("Dir::Etc::PreferencesParts", "/dev/null")
	set("Dir::Etc::SourceParts", "/dev/null")
	set("Dir::Etc::SourceList", filepath.Join(dir, "sources.list"))
	set("Dir::State", filepath.Join(dir, "state"))
	set("Dir::State::lists", filepath.Join(dir, "lists"))
	set("Dir::State::status", filepath.Join(dir, "state", "status"))
	set("Dir::Cache", filepath.Join(dir, "cache"))
	set("APT::Architecture", "amd64")
	set("APT::Architectures", "amd64")
	set("APT::Install-Recommends", "0")
	set("APT::Sandbox::User", "root") // as root apt would otherwise want to become _apt
	set("Acquire::Languages", "none")
	set("Acquire::ForceHash", "SHA256")
	for _, sub := range []string{"state", "lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	files := map[string][]byte{"apt.conf": conf.Bytes(), "state/status": nil}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return nil, err
		}
	}
	env := append(os.Environ(), "APT_CONFIG="+filepath.Join(dir, "apt.conf"), "LC_ALL=C")
	return &apt{dir: dir, named: map[string]string{}, env: env}, nil
}

func (a *apt) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	r, err := sysrun.Run(ctx, sysrun.Command{Name: name, Args: args, Env: a.env})
	return r.Stdout, err
}

// useDebian takes packages from mirror, or where it is "" from where the
// host's own apt takes Debian's, else from where mmdebstrap would.
func (a *apt) useDebian(ctx context.Context, mirror, suite string) error {
	candidates := mirrorSources(mirror, suite)
	if mirror == "" {
		candidates = debianSources(hostSources("/"), debianCodename("/"), suite)
	}
	if candidates == nil {
		var err error
		if candidates, err = defaultSources(ctx, suite); err != nil {
			return err
		}
	}
	return a.useSources(ctx, candidates)
}

// SourcesList returns, as the text of a sources.list(5), the archives that a
// base of suite would be built from; mirror is as in Options.
func SourcesList(ctx context.Context, mirror, suite string) (string, error) {
	dir, err := os.MkdirTemp("", "grid-sources-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	a, err := newAPT(ctx, dir)
	if err != nil {
		return "", err
	}
	if err := a.useDebian(ctx, mirror, suite); err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(dir, "sources.list"))
	return string(text), err
}

// useSources keeps those of candidates that can be reached. The first must be
// there; it is the suite itself.
func (a *apt) useSources(ctx context.Context, candidates []source) error {
	for i, s := range candidates {
		probe := filepath.Join(a.dir, "probe")
		_, err := a.run(ctx, aptHelper, "-q", "download-file", s.URI+"/dists/"+s.Suite+"/InRelease", probe)
		switch {
		case err == nil:
			a.sources = append(a.sources, s)
			os.Remove(probe)
		case i == 0:
			return fmt.Errorf("reach the mirror of suite %s: %w (name one with --mirror)", s.Suite, err)
		}
	}
	keyring := ""
	for _, k := range keyrings {
		if keyring == "" && exists(k) {
			keyring = k
		}
	}
	if keyring == "" {
		return fmt.Errorf("find %s: install the package debian-archive-keyring", keyrings[0])
	}
	var text strings.Builder
	for _, s := range a.sources {
		fmt.Fprintf(&text, "deb [arch=amd64 signed-by=%s] %s %s %s\n", keyring, s.URI, s.Suite, strings.Join(s.Components, " "))
	}
	if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(text.String()), 0o644); err != nil {
		return err
	}
	_, err := a.run(ctx, "apt-get", "-q", "update", "--error-on=any")
	return err
}

// released returns the newest release date of the archives in use, at most
// now: what the lock takes as its time.
func (a *apt) released(now time.Time) (time.Time, error) {
	names, err := filepath.Glob(filepath.Join(a.dir, "lists", "*Release"))
	if err != nil {
		return time.Time{}, err
	}
	var newest time.Time
	for _, n := range names {
		text, err := os.ReadFile(n)
		if err != nil {
			return time.Time{}, err
		}
		for _, line := range strings.Split(string(text), "\n") {
			if v, ok := strings.CutPrefix(line, "Date: "); ok {
				t, err := time.Parse(time.RFC1123, v)
				if err == nil && t.After(newest) {
					newest = t
				}
			}
		}
	}
	if newest.IsZero() {
		return time.Time{}, fmt.Errorf("read the release date of the archives: none found")
	}
	if newest.After(now) {
		newest = now
	}
	return newest.UTC().Truncate(time.Second), nil
}

// uriLine is a line of apt-get --print-uris: 'URI' file size SHA256:hex
var uriLine = regexp.MustCompile(`^'([^']+)' (\S+) ([0-9]+) SHA256:([0-9a-f]{64})$`)

// closure resolves names, with everything they depend on, into packages
// sorted by name. The archives' signatures were checked by update; so the
// hashes are those that Debian signed.
func (a *apt) closure(ctx context.Context, names []string) ([]Package, error) {
	out, err := a.run(ctx, "apt-get", append([]string{"-q", "--yes", "--print-uris", "install"}, names...)...)
	if err != nil {
		return nil, &refusal{string(out), err}
	}
	var packages []Package
	for _, line := range strings.Split(string(out), "\n") {
		if !strings.HasPrefix(line, "'") {
			continue
		}
		p, err := a.parseURILine(line)
		if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
	sort.Slice(packages, func(i, j int) bool { return packages[i].Name < packages[j].Name })
	return packages, nil
}

// refusal is apt's error with what it wrote to its standard output: there it
// says which dependency is the reason.
type refusal struct {
	stdout string
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func (a *apt) parseURILine(line string) (Package, error) {
	m := uriLine.FindStringSubmatch(line)
	if m == nil {
		return Package{}, fmt.Errorf("resolve packages: apt printed %q", line)
	}
	parts := strings.Split(strings.TrimSuffix(m[2], ".deb"), "_") // name_version_arch.deb, ':' as %3a
	if len(parts) != 3 {
		return Package{}, fmt.Errorf("resolve packages: apt named a file %q", m[2])
	}
	version, err := url.PathUnescape(parts[1])
	if err != nil {
		return Package{}, fmt.Errorf("resolve packages: apt named a file %q", m[2])
	}
	size, err := strconv.ParseInt(m[3], 10, 64)
	if err != nil {
		return Package{}, fmt.Errorf("resolve packages: apt printed %q", line)
	}
	for _, s := range a.sources {
		if rel, ok := strings.CutPrefix(m[1], s.URI+"/"); ok {
			if rel, err = url.PathUnescape(path.Clean(rel)); err != nil {
				return Package{}, fmt.Errorf("resolve packages: apt printed %q", line)
			}
			return Package{Name: parts[0], Version: version, Arch: parts[2], SHA256: m[4], Size: size, Path: rel, Source: a.named[s.URI]}, nil
		}
	}
	return Package{}, fmt.Errorf("resolve packages: %s is on no mirror in use", m[1])
}

// batch is how many packages one apt-helper fetches: enough to keep its
// connections busy, few enough to show progress and to fit a command line.
const batch = 40

// download brings into the store what it lacks of packages, trying each
// mirror root in turn, and checks every byte against the lock.
func (a *apt) download(ctx context.Context, store *Store, packages []Package, step *progress.Step) error {
	missing := store.lacks(packages)
	var bytes int64
	for _, p := range missing {
		bytes += p.Size
	}
	step.Expect(bytes, progress.Bytes)
	step.Note("%d of %d packages were in the store", len(packages)-len(missing), len(packages))
	dir, err := store.temp("download")
	if err != nil {
		return err
	}
	defer dir.Remove()
	tried := map[string]bool{}
	var last error
	for _, s := range a.sources {
		if tried[s.URI] || len(missing) == 0 {
			continue
		}
		tried[s.URI] = true
		var still []Package
		for len(missing) > 0 {
			n := min(batch, len(missing))
			got, err := a.downloadBatch(ctx, store, dir.Path, s.URI, missing[:n], step)
			if err != nil {
				last = err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			still = append(still, got...)
			missing = missing[n:]
		}
		missing = still
	}
	if len(missing) > 0 {
		return unavailable(missing, last)
	}
	return nil
}

// downloadBatch returns those packages that root did not have.
func (a *apt) downloadBatch(ctx context.Context, store *Store, dir, root string, packages []Package, step *progress.Step) ([]Package, error) {
	args := []string{"-q", "download-file"}
	for _, p := range packages {
		args = append(args, root+"/"+p.Path, filepath.Join(dir, p.SHA256), "SHA256:"+p.SHA256)
	}
	_, runErr := a.run(ctx, aptHelper, args...)
	var missing []Package
	for _, p := range packages {
		file := filepath.Join(dir, p.SHA256)
		sum, _, err := hashFile(file)
		if err != nil || sum != p.SHA256 {
			os.Remove(file)
			missing = append(missing, p)
			continue
		}
		if err := store.adopt(file, store.deb(p), nil); err != nil {
			return packages, err
		}
		step.Add(p.Size)
	}
	return missing, runErr
}

func unavailable(missing []Package, cause error) error {
	var names []string
	for i, p := range missing {
		if i == 5 {
			names = append(names, fmt.Sprintf("and %d more", len(missing)-i))
			break
		}
		names = append(names, p.Name+" "+p.Version)
	}
	return fmt.Errorf("get packages: no mirror has %s: %w (use --mirror with a mirror that keeps old versions, such as a snapshot, "+
		"--store with a store that has them, or build without --locked for a new lock)", strings.Join(names, ", "), cause)
}
