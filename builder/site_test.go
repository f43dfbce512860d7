package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridappliance/builder/manifest"
	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
)

// definition writes a definition into a folder of its own and returns its path.
func definition(t *testing.T, text string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["site.toml"] = "version = 1\nname = \"site\"\n" + text
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "site.toml")
}

// TestSiteProblems: what is wrong with the files that a definition names is
// reported at the key that names them.
func TestSiteProblems(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "motd")
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const source = "packages = [\"x1\"]\n[[sources]]\nname = \"lab\"\nuris = [\"https://example.org\"]\nsuites = [\"./\"]\nsigned-by = \"lab.asc\"\n"
	file := func(name, more string) string {
		return "[[files]]\nsource = \"" + name + "\"\npath = \"/etc/x\"\n" + more
	}
	tests := []struct {
		name, text string
		files      map[string]string
		want       string // of the first problem; "" is none
	}{
		{"no key", source, nil, "site.toml:8:1: sources[0].signed-by: "},
		{"a private key", source, map[string]string{"lab.asc": "-----BEGIN PGP PRIVATE KEY BLOCK-----"}, "lab.asc: it is a private key"},
		{"no OpenPGP key", source, map[string]string{"lab.asc": "ssh-ed25519 A"}, "lab.asc: it is no OpenPGP public key"},
		{"a key", source, map[string]string{"lab.asc": "-----BEGIN PGP PUBLIC KEY BLOCK-----"}, ""},
		{"no file", file("motd", ""), nil, "site.toml:4:1: files[0].source: "},
		{"a file", file("motd", ""), map[string]string{"motd": ""}, ""},
		{"a folder", file(".", ""), nil, "is not a file"},
		{"outside", file(outside, ""), nil, "is not below the definition's folder"},
		{"outside, meant", file(outside, "allow = [\"outside\"]"), nil, ""},
		{"a key by its name", file("id_ed25519", ""), map[string]string{"id_ed25519": ""}, "has the name of a key or password, id_ed25519"},
		{"a key by its text", file("x", ""), map[string]string{"x": "a\n-----BEGIN RSA PRIVATE KEY-----\n"}, "holds PRIVATE KEY"},
		{"a key, meant", file("x", "allow = [\"credential\"]"), map[string]string{"x": "-----BEGIN RSA PRIVATE KEY-----\n"}, ""},
		{"set-uid", file("x", "mode = \"4755\""), map[string]string{"x": ""}, "is set-uid or set-gid"},
		{"a broken lock", "packages = [\"x1\"]\n", map[string]string{"site.lock": "x"}, "site.lock:1: the first line is not"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{}
			for n, c := range tt.files {
				files[n] = c
			}
			code, stdout, stderr := builder(t, "check", definition(t, tt.text, files))
			if tt.want == "" && code == 0 {
				return
			}
			if code != 3 || tt.want == "" || !strings.Contains(stderr, tt.want) || !strings.Contains(stderr, "  remedy: ") {
				t.Errorf("exit %d\n%s%s", code, stdout, stderr)
			}
		})
	}
}

// TestExamples checks the definitions that we ship, and on a base finds the
// packages of each in Debian's archives.
func TestExamples(t *testing.T) {
	found, err := filepath.Glob("../images/*.toml")
	if err != nil || len(found) < 3 {
		t.Fatalf("%d definitions, %v", len(found), err)
	}
	for _, def := range found {
		must(t, "check", def)
	}
	dir := need.Base(t)
	need.Tool(t, "apt-get")
	for _, def := range found {
		if got := must(t, "plan", def, "--base", dir); !strings.Contains(got, "module site-packages") {
			t.Errorf("%s:\n%s", def, got)
		}
	}
}

// inside runs a script in the stacked layers of a raw image, over the unpacked
// base, as the machine has them but for the user's own layer.
func inside(t *testing.T, baseDir, raw, script string) string {
	t.Helper()
	need.Tool(t, "unshare", "unsquashfs", "mount", "chroot")
	text, err := os.ReadFile(strings.TrimSuffix(raw, ".raw") + manifest.ImageSuffix)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.ParseImage("m", text)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	dir, lower := t.TempDir(), netlab.Root(t, baseDir)
	for _, r := range m.Disk.Regions {
		if !strings.HasPrefix(r.Name, "gridmod") && r.Name != "gridglue" {
			continue
		}
		layer := filepath.Join(dir, r.Name)
		f, err := os.Create(layer + ".squashfs")
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(f, io.NewSectionReader(disk, r.Offset, r.Size))
		f.Close()
		if err == nil {
			_, err = sysrun.Output(t.Context(), "unsquashfs", "-no-progress", "-quiet", "-dest", layer, f.Name())
		}
		if err != nil {
			t.Fatal(err)
		}
		lower = layer + ":" + lower
	}
	const stack = `mount -t overlay overlay -o "lowerdir=$1" "$2" && mount -t proc proc "$2/proc" && mount -t tmpfs tmpfs "$2/tmp" &&
mount --bind /dev "$2/dev" && exec chroot "$2" /bin/sh -ec "$3"`
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := sysrun.Run(t.Context(), sysrun.Command{Name: "unshare", Args: []string{"--mount", "sh", "-c", stack, "sh", lower, root, script},
		Env: []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LC_ALL=C.UTF-8"}})
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Stdout)
	}
	return string(r.Stdout)
}

// siteStore returns the store that the base lies in, so that its packages need
// not be downloaded again.
func siteStore(baseDir string) string { return filepath.Dir(filepath.Dir(baseDir)) }

// TestSiteBuild really installs packages on the base and lays a file over it:
// their programs run, dpkg knows them, the file's owner is an account of the base;
// and the lock makes the same image again.
func TestSiteBuild(t *testing.T) {
	need.Root(t)
	dir := need.Base(t)
	need.Tool(t, "mmdebstrap", "apt-get")
	def := definition(t, "packages = [\"hello\", \"cowsay\"]\ntargets = [\"raw\"]\n[[files]]\nsource = \"x.conf\"\npath = \"/var/lib/condor/x.conf\"\nowner = \"condor\"\nmode = \"0640\"\n",
		map[string]string{"x.conf": "x = 1\n"})
	first, second := t.TempDir(), t.TempDir()
	args := []string{"build", def, "--base", dir, "--store", siteStore(dir)}
	if code, _, stderr := builder(t, append(args, "--locked", "-o", first)...); code != 3 || !strings.Contains(stderr, "site.lock: there is none") {
		t.Errorf("locked without a lock: exit %d\n%s", code, stderr)
	}
	must(t, append(args, "-o", first)...)
	must(t, "verify", first)
	if got := must(t, append([]string{"plan"}, args[1:]...)...); strings.Count(got, ": in the store\n") != 2 || !strings.Contains(got, ": beside the definition\n") {
		t.Errorf("plan after the build:\n%s", got)
	}
	must(t, append(args, "--locked", "-o", second)...)
	for _, name := range []string{"site.manifest.json", "site.spdx.json"} {
		if sum(t, filepath.Join(first, name)) != sum(t, filepath.Join(second, name)) {
			t.Errorf("the lock made another %s", name)
		}
	}
	got := inside(t, dir, filepath.Join(first, "site.raw"), `hello; /usr/games/cowsay ok | grep -o "< ok >"; dpkg-query -W -f '${db:Status-Status}\n' hello bash; dpkg --audit
stat -c '%U:%G %a' /var/lib/condor/x.conf /var/lib/condor; cat /var/lib/condor/x.conf`)
	if want := "Hello, world!\n< ok >\ninstalled\ninstalled\ncondor:condor 640\ncondor:condor 755\nx = 1\n"; got != want {
		t.Errorf("inside:\n%s\nwant:\n%s", got, want)
	}
	text, err := os.ReadFile(filepath.Join(first, "site.spdx.json"))
	if err != nil || !strings.Contains(string(text), "pkg:deb/debian/hello@") || !strings.Contains(string(text), "pkg:golang/") {
		t.Errorf("the SPDX document lacks hello or our programs' modules: %v", err)
	}
	other := definition(t, "packages = [\"hello\", \"helo\"]\n", map[string]string{})
	code, _, stderr := builder(t, "plan", other, "--base", dir, "--store", siteStore(dir))
	if code != 3 || !strings.Contains(stderr, `site.toml:3:22: packages[1]: "helo" is in no archive in use`) || !strings.Contains(stderr, "did you mean") {
		t.Errorf("a package that nobody has: exit %d\n%s", code, stderr)
	}
}

// TestExamplesRun builds both examples, hundreds of megabytes of packages, and
// runs their programs.
func TestExamplesRun(t *testing.T) {
	need.Long(t)
	need.Root(t)
	dir := need.Base(t)
	need.Tool(t, "mmdebstrap", "apt-get")
	for name, tt := range map[string]struct{ script, want string }{
		"simulator": {`cd /tmp
printf 'module t; initial begin $display("%%0d", 6*7); $finish; end endmodule\n' >t.v
iverilog -o t t.v && ./t | head -1
verilator --binary -Wno-fatal -j 2 --top-module t t.v >log 2>&1 || { cat log; exit 1; }
./obj_dir/Vt | head -1
ghdl --version | head -1 | cut -c1-4
printf 'v\nV1 1 0 1\nR1 1 0 1k\n.op\n.end\n' >c.cir; ngspice -b c.cir 2>&1 | grep -c 'v1#branch'
dpkg --audit`, "42\n42\nGHDL\n1\n"},
		"statistics": {`cd /tmp
Rscript -e 'library(data.table); library(jsonlite); cat(toJSON(data.table(x=1:3)[, sum(x)]), "\n")'
python3 -c 'import numpy, scipy.linalg, pandas; print(int(numpy.round(scipy.linalg.det(numpy.diag([2, 3, 7]))), ), len(pandas.DataFrame({"a": [1, 2]})))'
dpkg --audit`, "[6] \n42 2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile("../images/" + name + ".toml")
			if err != nil {
				t.Fatal(err)
			}
			def := filepath.Join(t.TempDir(), name+".toml")
			if err := os.WriteFile(def, text, 0o644); err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			must(t, "build", def, "--base", dir, "--store", siteStore(dir), "--target", "raw", "-o", out)
			if got := inside(t, dir, filepath.Join(out, name+".raw"), tt.script); got != tt.want {
				t.Errorf("inside:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}
