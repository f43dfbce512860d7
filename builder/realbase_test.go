package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"gridappliance/builder/base"
	"gridappliance/internal/need"
)

// programs returns the folder of the programs that go into a base.
func programs(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("GRID_PROGRAMS")
	if dir == "" {
		t.Fatal("GRID_PROGRAMS does not name the folder of the programs in the base (make test sets it)")
	}
	return dir
}

// storeWithPackages makes a store in which nothing but downloading is done: it
// has the packages of another.
func storeWithPackages(t *testing.T, from string) string {
	t.Helper()
	store := t.TempDir()
	if _, err := base.OpenStore(store); err != nil {
		t.Fatal(err)
	}
	debs, err := filepath.Glob(filepath.Join(from, "debs", "*.deb"))
	if err != nil || len(debs) == 0 {
		t.Fatalf("%d packages in %s, %v", len(debs), from, err)
	}
	for _, deb := range debs {
		to := filepath.Join(store, "debs", filepath.Base(deb))
		if os.Link(deb, to) == nil {
			continue
		}
		data, err := os.ReadFile(deb)
		if err == nil {
			err = os.WriteFile(to, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return store
}

var sourceLine = regexp.MustCompile(`(?m)^deb (?:\[[^]]*\] )?(\S+) ` + base.DefaultSuite + ` `)

// withoutUpdates serves the mirror of this machine less its -updates and
// -security, so that what is resolved from it is older; it returns its root.
func withoutUpdates(t *testing.T) string {
	t.Helper()
	list, err := base.SourcesList(t.Context(), "", base.DefaultSuite)
	if err != nil {
		t.Fatal(err)
	}
	m := sourceLine.FindStringSubmatch(list)
	if m == nil {
		t.Fatalf("no mirror of %s in\n%s", base.DefaultSuite, list)
	}
	mirror, err := url.Parse(m[1])
	if err != nil {
		t.Fatal(err)
	}
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(mirror); r.Out.Host = mirror.Host }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, base.DefaultSuite+"-") {
			http.NotFound(w, r)
			return
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// versions are the packages of a base's lock.
func versions(t *testing.T, dir string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, base.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := base.ParseLock(base.LockFile, text)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, p := range lock.Base {
		found[p.Name] = p.Version
	}
	return found
}

// TestOlderAndNewerBase: two real bases in one store, one of Debian's release
// and one of the release with its updates. Either can be named in a
// definition; modules and a machine's changes made on the older one go on with
// the newer.
func TestOlderAndNewerBase(t *testing.T) {
	need.Long(t)
	from := need.Container(t)
	need.Tool(t, "mmdebstrap", "apt-get", "sgdisk", "mount")
	store := storeWithPackages(t, siteStore(from))
	build := []string{"base", "build", "--store", store, "--programs", programs(t)}
	newer := strings.TrimSpace(must(t, append(build, "--locked", filepath.Join(from, base.LockFile))...))
	// The older one is made later: the newest is that of the newest packages.
	older := strings.TrimSpace(must(t, append(build, "--mirror", withoutUpdates(t))...))
	was, is := versions(t, older), versions(t, newer)
	changed := 0
	for name, v := range is {
		if was[name] != v {
			changed++
			t.Logf("%s %s -> %s", name, was[name], v)
		}
	}
	if changed == 0 {
		t.Skip("Debian has no update for the base today: both locks name the same packages")
	}
	list := must(t, "base", "list", "--store", store)
	t.Log("base list\n" + list)
	ids := regexp.MustCompile(`(?m)^[0-9a-f]{32}`).FindAllString(list, -1)
	if len(ids) != 2 || ids[0] != filepath.Base(older) || ids[1] != filepath.Base(newer) {
		t.Errorf("listed %q, want %s and then %s", ids, older, newer)
	}
	if got := strings.TrimSpace(must(t, "base", "path", "--store", store)); got != newer {
		t.Errorf("the newest base is %s", got)
	}
	for _, dir := range []string{older, newer} {
		def, out := definition(t, "base = \""+filepath.Base(dir)[:12]+"\"\ntargets = [\"raw\"]\n", map[string]string{}), t.TempDir()
		var report buildReport
		if err := json.Unmarshal([]byte(must(t, "build", def, "--store", store, "-o", out, "--json")), &report); err != nil {
			t.Fatal(err)
		}
		if report.Base != filepath.Base(dir) {
			t.Errorf("named %s, built on %s", dir, report.Base)
		}
		must(t, "verify", out)
	}
	carriedOver(t, older, func(string) string { return newer }, func(*system) {})
}

// moment is when a build is killed: so long after a step began.
type moment struct {
	step  string
	after time.Duration
}

// killedAt runs builder with --json and kills it at a moment. It returns
// whether the moment came.
func killedAt(t *testing.T, m moment, env []string, args ...string) bool {
	t.Helper()
	cmd := process(t.Context(), append(args, "--json")...)
	cmd.Env = append(cmd.Env, env...)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var killed bool
	var timer *time.Timer
	for sc := bufio.NewScanner(said); sc.Scan(); {
		var e struct{ Step, Event string }
		if json.Unmarshal(sc.Bytes(), &e) == nil && e.Step == m.step && e.Event == "start" && timer == nil {
			timer = time.AfterFunc(m.after, func() { cmd.Process.Kill() })
		}
	}
	err = cmd.Wait()
	if timer != nil {
		killed = !timer.Stop() && err != nil
	}
	return killed
}

// remains returns the processes and mounts that have to do with one of dirs.
func remains(dirs ...string) (found []string) {
	within := func(s string) bool {
		for _, d := range dirs {
			if strings.Contains(s, d) {
				return true
			}
		}
		return false
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		cmdline, _ := os.ReadFile(p + "/cmdline")
		cwd, _ := os.Readlink(p + "/cwd")
		root, _ := os.Readlink(p + "/root")
		if within(string(cmdline)) || within(cwd) || within(root) {
			found = append(found, p+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(mounts), "\n") {
		if within(line) {
			found = append(found, line)
		}
	}
	return found
}

// nothingRemains waits a moment for the kernel to end what was tied to a
// process that was killed; after the next command no file is left either.
func nothingRemains(t *testing.T, store, temp string) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	found := remains(store, temp)
	for n := 0; len(found) > 0 && n < 100; n++ {
		<-tick.C
		found = remains(store, temp)
	}
	if len(found) > 0 {
		t.Errorf("still there after ten seconds:\n%s", strings.Join(found, "\n"))
	}
	list := process(t.Context(), "base", "list", "--store", store)
	list.Env = append(list.Env, "TMPDIR="+temp)
	if out, err := list.CombinedOutput(); err != nil {
		t.Fatalf("base list: %v\n%s", err, out)
	}
	for _, dir := range []string{filepath.Join(store, "tmp"), temp} {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) > 0 {
			t.Errorf("left in %s: %v %v", dir, entries, err)
		}
	}
}

// TestRealBuildsKilledAndTogether: real builds of a base and of packages over
// it, from an empty store, killed at many moments and two at once. Nothing of
// them stays, and what they make has the bytes that others have.
func TestRealBuildsKilledAndTogether(t *testing.T) {
	need.Long(t)
	need.Root(t)
	from := need.Base(t)
	need.Tool(t, "mmdebstrap", "apt-get")
	store, temp := t.TempDir(), t.TempDir()
	env := []string{"TMPDIR=" + temp}
	killedAtEach := func(moments []moment, args ...string) {
		for _, m := range moments {
			began := time.Now()
			t.Logf("%s, %v after %s began: killed %v, %.1f s", args[0], m.after, m.step, killedAt(t, m, env, args...), time.Since(began).Seconds())
			nothingRemains(t, store, temp)
		}
	}
	finish := func(args ...string) string {
		var said strings.Builder
		cmd := process(t.Context(), args...)
		cmd.Env = append(cmd.Env, env...)
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, said.String())
		}
		return strings.TrimSpace(string(out))
	}
	const s = time.Second
	build := []string{"base", "build", "--programs", programs(t), "--locked", filepath.Join(from, base.LockFile), "--store", store}
	killedAtEach([]moment{{"resolve", 0}, {"download", s}, {"tools", s / 5}, {"install", 0}, {"install", 5 * s}, {"install", 20 * s}}, build...)

	var both sync.WaitGroup
	var dirs [2]string
	for i := range dirs {
		both.Go(func() { dirs[i] = finish(build...) })
	}
	both.Wait()
	if t.Failed() || dirs[0] != dirs[1] {
		t.Fatalf("two at once made %q", dirs)
	}
	nothingRemains(t, store, temp)
	must(t, "verify", dirs[0])
	want := sum(t, filepath.Join(dirs[0], base.Manifest))
	if other := filepath.Join(from, base.Manifest); filepath.Base(from) == filepath.Base(dirs[0]) && sum(t, other) != want {
		t.Error("of the same lock and programs, the base under test has other bytes")
	}

	// The system is installed; what comes after is done and killed again.
	if err := os.RemoveAll(dirs[0]); err != nil {
		t.Fatal(err)
	}
	killedAtEach([]moment{{"boot", 0}, {"pack", 0}, {"pack", 3 * s}, {"manifest", 0}}, build...)
	if again := finish(build...); again != dirs[0] || sum(t, filepath.Join(again, base.Manifest)) != want {
		t.Errorf("the base made after all is another one: %s", again)
	}

	def, out := definition(t, "packages = [\"redis-server\"]\ntargets = [\"raw\"]\n", map[string]string{}), t.TempDir()
	image := []string{"build", def, "--base", dirs[0], "--store", store, "-o", out}
	killedAtEach([]moment{{"resolve", s}, {"download", s / 2}, {"install", s}, {"install", 20 * s}, {"pack", 0}, {"pack", s}, {"raw", 0}}, image...)
	finish(image...)
	nothingRemains(t, store, temp)
	must(t, "verify", out)
}
