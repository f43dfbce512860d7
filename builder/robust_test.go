package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gridappliance/builder/base"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// TestMain lets a test run the command as a process of its own, which it can
// kill: this program again, with the arguments of builder.
func TestMain(m *testing.M) {
	if os.Getenv("BUILDER_RUNS") != "" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// process is the command as a process.
func process(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "BUILDER_RUNS=1")
	return cmd
}

// address returns what base fetch is given for a base in a folder.
func address(t *testing.T, dir string) string {
	t.Helper()
	return filepath.Join(dir, base.Manifest) + "?checksum=sha256:" + sum(t, filepath.Join(dir, base.Manifest))
}

// killed runs the command again and again, each time killed a little later,
// until it ends by itself, and calls check after each.
func killed(t *testing.T, check func(), args ...string) {
	t.Helper()
	step := 2 * time.Millisecond
	for n := 1; n < 400; n++ {
		cmd := process(t.Context(), args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(n)*step, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		check()
		if err == nil {
			t.Logf("killed %d times", n-1)
			return
		}
		if n%20 == 0 {
			step *= 2
		}
	}
	t.Fatal("it never came to its end")
}

// TestKilledBuild: a build that is killed leaves the older image or the new
// one, and nothing else once the next has run.
func TestKilledBuild(t *testing.T) {
	baseDir, out, other := smallBase(t), t.TempDir(), t.TempDir()
	args := []string{"build", "--base", baseDir, "--disk", "160MiB", "--target", "qcow2,kvm", "--store", t.TempDir()}
	must(t, append(args, "-o", other)...)
	names := []string{"grid.qcow2", "grid-kvm/grid.qcow2", "grid-kvm/grid.xml"}
	want := map[string]string{}
	for _, n := range names {
		want[n] = sum(t, filepath.Join(other, n))
	}
	killed(t, func() {
		for _, n := range names {
			if path := filepath.Join(out, n); fileExists(path) && sum(t, path) != want[n] {
				t.Fatalf("%s is half-written", n)
			}
		}
	}, append(args, "-o", out)...)
	must(t, "verify", out)
	entries, err := os.ReadDir(out)
	if err != nil || len(entries) != 4 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestKilledFetch: a store in which work was killed has whole bases and
// nothing else, and works on.
func TestKilledFetch(t *testing.T) {
	from, store := smallBase(t), t.TempDir()
	killed(t, func() {
		s, err := base.OpenStore(store) // sweeps
		if err != nil {
			t.Fatal(err)
		}
		found, err := base.List(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range found {
			if err := b.Verify(); err != nil {
				t.Fatal(err)
			}
		}
		if left, _ := os.ReadDir(filepath.Join(store, "tmp")); len(left) > 0 {
			t.Fatalf("left in the store: %v", left)
		}
	}, "base", "fetch", "--store", store, address(t, from))
}

// TestLitterOfAKilledGlue: what a build that was killed left in the temporary
// folder goes with whatever next opens a store.
func TestLitterOfAKilledGlue(t *testing.T) {
	temp := t.TempDir()
	for _, name := range []string{gluing + "1", "of-somebody-else"} {
		if err := os.Mkdir(filepath.Join(temp, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := process(t.Context(), "base", "list", "--store", t.TempDir())
	cmd.Env = append(cmd.Env, "TMPDIR="+temp)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 1 || left[0].Name() != "of-somebody-else" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// inMounts runs a shell script in a mount namespace of its own; "$@" is the
// command with its arguments.
func inMounts(t *testing.T, script string, args ...string) (code int, out string) {
	t.Helper()
	need.Root(t)
	need.Tool(t, "unshare", "mount")
	r, err := sysrun.Run(t.Context(), sysrun.Command{Name: "unshare",
		Args: append([]string{"--mount", "sh", "-c", script, "sh", os.Args[0]}, args...),
		Env:  append(os.Environ(), "BUILDER_RUNS=1")})
	if r.Exit < 0 {
		t.Fatal(err)
	}
	return r.Exit, string(r.Stdout) + string(r.Stderr)
}

// TestDiskFull: the reason is named, and nothing is left, in the output folder
// and in the store.
func TestDiskFull(t *testing.T) {
	from, dir := smallBase(t), t.TempDir()
	const full = `mount -t tmpfs -o size=600k tmpfs "$DIR" || exit 99; "$@"; code=$?; find "$DIR" -type f; exit $code`
	script := "DIR=" + dir + "; " + full
	for _, target := range []string{"qcow2", "kvm", "vmware", "ova"} {
		code, out := inMounts(t, script, "build", "--base", from, "--disk", "160MiB", "--target", target, "-o", dir, "--store", t.TempDir())
		if code != 1 || !strings.Contains(out, "no space left on device") || strings.Contains(out, dir+"/") && strings.Contains(out, ".part\n") {
			t.Errorf("%s: exit %d\n%s", target, code, out)
		}
		if strings.Contains(out, "\n"+dir) {
			t.Errorf("%s: left behind:\n%s", target, out)
		}
	}
	code, out := inMounts(t, script, "base", "fetch", "--store", dir, address(t, from))
	if code != 1 || !strings.Contains(out, "no space left on device") || strings.Contains(out, "\n"+dir) {
		t.Errorf("fetch: exit %d\n%s", code, out)
	}
}

// TestReadOnlyStore: what needs no writing works, the rest says why not.
func TestReadOnlyStore(t *testing.T) {
	from, store, out := smallBase(t), t.TempDir(), t.TempDir()
	must(t, "base", "fetch", "--store", store, address(t, from))
	script := fmt.Sprintf(`mount --bind "%s" "%[1]s" && mount -o remount,ro,bind "%[1]s" || exit 99; "$@"`, store)
	code, got := inMounts(t, script, "build", "--store", store, "--disk", "160MiB", "-o", out)
	if code != 0 {
		t.Errorf("build: exit %d\n%s", code, got)
	}
	must(t, "verify", out)
	if code, got := inMounts(t, script, "base", "list", "--store", store); code != 0 || !strings.Contains(got, strings.Repeat("5a", 16)) {
		t.Errorf("list: exit %d\n%s", code, got)
	}
	if code, got := inMounts(t, script, "base", "fetch", "--store", store, address(t, from)); code != 1 || !strings.Contains(got, "read-only file system") {
		t.Errorf("fetch: exit %d\n%s", code, got)
	}
}

// TestTwoAtOnce: builds and fetches of several processes on one store and into
// one folder all succeed, and what they leave is whole.
func TestTwoAtOnce(t *testing.T) {
	from, store, out := smallBase(t), t.TempDir(), t.TempDir()
	together := func(args ...string) {
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if b, err := process(t.Context(), args...).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, b)
				}
			})
		}
		all.Wait()
	}
	together("base", "fetch", "--store", store, address(t, from))
	must(t, "verify", strings.TrimSpace(must(t, "base", "path", "--store", store)))
	together("build", "--store", store, "--disk", "160MiB", "--target", "raw,qcow2,vmware", "-o", out)
	must(t, "verify", out)
	var names []string
	for _, dir := range []string{out, filepath.Join(store, "tmp")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	if want := []string{"grid-vmware", "grid.manifest.json", "grid.qcow2", "grid.raw", "grid.spdx.json"}; !slices.Equal(names, want) {
		t.Errorf("left: %q", names)
	}
}
