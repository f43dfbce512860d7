package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridappliance/condorconf/tree"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// insideVariable, when set, says that this test binary runs in a root with the
// real HTCondor, and names the folder of golden files there.
const insideVariable = "CONDORCONF_INSIDE"

// TestHTCondorReads lets the real HTCondor read every golden file, and two
// wrong ones, which it must refuse. It runs itself inside the root.
func TestHTCondorReads(t *testing.T) {
	if golden := os.Getenv(insideVariable); golden != "" {
		judgeGolden(t, golden)
		return
	}
	l := newLab(t, 1)
	m := l.machine("reader", nil, "standalone")
	binary := filepath.Join(m.root, "tmp/condorconf.test")
	must(t, sysrun.Command{Name: need.Tool(t, "go"), Args: []string{"test", "-c", "-o", binary, "."}, Env: append(os.Environ(), "CGO_ENABLED=0")})
	must(t, sysrun.Command{Name: "cp", Args: []string{"-r", "pool/testdata", filepath.Join(m.root, "tmp")}})
	out, err := m.Try("chroot", m.root, "env", insideVariable+"=/tmp/testdata", "/tmp/condorconf.test", "-test.v", "-test.run=^TestHTCondorReads$")
	if err != nil || !strings.Contains(out, "--- PASS: TestHTCondorReads/wrong_syntax") {
		t.Errorf("inside: %v\n%s", err, out)
	}
}

func judgeGolden(t *testing.T, dir string) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.golden"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("golden files in %s: %d, %v", dir, len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			tested, err := judge(t.Context(), goldenFiles(t, path))
			if err != nil || !tested {
				t.Errorf("tested %v: %v", tested, err)
			}
		})
	}
	wrong := map[string]string{
		"wrong syntax":     "FOO BAR\n",
		"wrong expression": "START = ((\n",
		"unknown template": "use ROLE:Nonsense\n",
	}
	for name, text := range wrong {
		t.Run(name, func(t *testing.T) {
			tested, err := judge(t.Context(), []tree.File{{Path: "etc/condor/config.d/10-grid-network.conf", Data: []byte(text)}})
			if err == nil || !tested {
				t.Errorf("tested %v, accepted %q", tested, text)
			}
		})
	}
}

// goldenFiles returns the files of a golden file of package pool.
func goldenFiles(t *testing.T, path string) []tree.File {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var files []tree.File
	for _, part := range strings.Split(string(text), "\n==> /")[1:] {
		head, body, _ := strings.Cut(part, "\n")
		name, _, _ := strings.Cut(head, " ")
		files = append(files, tree.File{Path: name, Data: []byte(body)})
	}
	return files
}
