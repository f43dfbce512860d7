package units

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// every returns all files of FS by relative path.
func every(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(FS, path)
		files[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestEveryOrderingLineHasAComment(t *testing.T) {
	ordering := regexp.MustCompile(`^(After|Before|Requires|Requisite|BindsTo|PartOf|DefaultDependencies|ConditionPathExists)=`)
	for path, text := range every(t) {
		explained := false
		for i, line := range strings.Split(text, "\n") {
			switch {
			case strings.HasPrefix(line, "#"):
				explained = true
			case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "["):
				explained = false
			case ordering.MatchString(line) && !explained:
				t.Errorf("%s:%d: %s: no comment says why", path, i+1, line)
			}
		}
	}
}

func TestEnabledUnitsHaveAnInstallSection(t *testing.T) {
	files := every(t)
	enabled := map[string]bool{}
	for _, unit := range Enabled {
		enabled[unit] = true
		if !strings.Contains(files[unit], "\n[Install]\nWantedBy=") {
			t.Errorf("%s is enabled, but has no [Install] section", unit)
		}
	}
	for path, text := range files {
		if strings.Contains(text, "[Install]") && !enabled[path] {
			t.Errorf("%s has an [Install] section, but is not in Enabled", path)
		}
	}
}

// Everything that serves a role must wait for a floppy applied in full.
func TestRoleServicesAreGated(t *testing.T) {
	files := every(t)
	for _, path := range []string{"overlayd.service", "grid-issuer.service", "grid-guard.service", "condor.service.d/grid.conf", "autofs.service.d/grid.conf", "nfs-server.service.d/grid.conf"} {
		if !strings.Contains(files[path], "\nConditionPathExists=/run/grid/applied\n") {
			t.Errorf("%s is not gated on /run/grid/applied", path)
		}
	}
}

// The units load in systemd's own parser, without a cycle or an unknown key.
func TestSystemdAnalyzeVerify(t *testing.T) {
	analyze := need.Tool(t, "systemd-analyze")
	const host = "/usr/lib/systemd/system"
	if _, err := os.Stat(host + "/sysinit.target"); err != nil {
		t.Skip(err)
	}
	root := t.TempDir()
	copyUnits(t, os.DirFS(host), filepath.Join(root, "usr/lib/systemd/system"))
	copyUnits(t, FS, filepath.Join(root, Dir))
	for _, program := range []string{"/usr/lib/grid/firstboot", "/usr/lib/grid/overlayd", "/usr/sbin/nft", "/usr/bin/install"} {
		write(t, filepath.Join(root, program), "#!/bin/true\n", 0o755)
	}
	var args []string
	for _, unit := range Enabled {
		args = append(args, filepath.Join(root, Dir, unit))
	}
	r, err := sysrun.Run(t.Context(), sysrun.Command{Name: analyze, Args: append([]string{"verify", "--man=no", "--recursive-errors=no", "--root=" + root}, args...)})
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(r.Stderr)) {
		if strings.Contains(line, "grid-") || strings.Contains(line, "overlayd") {
			t.Errorf("systemd-analyze: %s", line)
		}
	}
}

func copyUnits(t *testing.T, from fs.FS, to string) {
	t.Helper()
	err := fs.WalkDir(from, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return err
		}
		text, err := fs.ReadFile(from, path)
		if err == nil {
			write(t, filepath.Join(to, path), string(text), 0o644)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
