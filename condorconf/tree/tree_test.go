package tree

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var owned = []string{"etc/a.conf", "etc/keys/node.key", "etc/map"}

// open returns a root with the files, by path.
func open(t *testing.T, files map[string]string) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, dir
}

func compare(t *testing.T, root *os.Root, files []File) []Change {
	t.Helper()
	changes, err := Compare(root, files, owned)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

func TestApplyMakesTheTreeMatch(t *testing.T) {
	root, dir := open(t, map[string]string{"etc/a.conf": "old\n", "etc/map": "of another role\n", "etc/other": "not ours\n"})
	files := []File{{"etc/a.conf", 0o644, []byte("new\n")}, {"etc/keys/node.key", 0o600, []byte("secret\n")}}
	changes := compare(t, root, files)
	if len(changes) != 3 {
		t.Fatalf("%d changes, want 3: %+v", len(changes), changes)
	}
	if err := Apply(root, changes); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if !d.IsDir() {
			data, _ := os.ReadFile(path)
			info, _ := d.Info()
			name, _ := filepath.Rel(dir, path)
			got[name] = info.Mode().String() + " " + string(data)
		}
		return err
	})
	want := map[string]string{
		"etc/a.conf":        "-rw-r--r-- new\n",
		"etc/keys/node.key": "-rw------- secret\n",
		"etc/other":         "-rw-r--r-- not ours\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	if again := compare(t, root, files); len(again) != 0 {
		t.Errorf("a second look finds changes: %+v", again)
	}
}

func TestEqualBytesAreNotWritten(t *testing.T) {
	root, dir := open(t, map[string]string{"etc/a.conf": "same\n"})
	before, _ := os.Stat(filepath.Join(dir, "etc/a.conf"))
	if err := Apply(root, compare(t, root, []File{{"etc/a.conf", 0o644, []byte("same\n")}})); err != nil {
		t.Fatal(err)
	}
	after, _ := os.Stat(filepath.Join(dir, "etc/a.conf"))
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("the file was written again")
	}
}

func TestModeAloneIsAChange(t *testing.T) {
	root, _ := open(t, map[string]string{"etc/map": "#!x\n"})
	changes := compare(t, root, []File{{"etc/map", 0o755, []byte("#!x\n")}})
	if len(changes) != 1 {
		t.Fatalf("changes %+v, want the mode", changes)
	}
}

func TestALinkIsReplacedNotFollowed(t *testing.T) {
	root, dir := open(t, map[string]string{"etc/victim": "untouched\n"})
	if err := os.Symlink("victim", filepath.Join(dir, "etc/a.conf")); err != nil {
		t.Fatal(err)
	}
	if err := Apply(root, compare(t, root, []File{{"etc/a.conf", 0o644, []byte("new\n")}})); err != nil {
		t.Fatal(err)
	}
	victim, _ := os.ReadFile(filepath.Join(dir, "etc/victim"))
	info, _ := os.Lstat(filepath.Join(dir, "etc/a.conf"))
	if string(victim) != "untouched\n" || !info.Mode().IsRegular() {
		t.Errorf("victim %q, a.conf %v", victim, info.Mode())
	}
}

func TestAFolderLinkLeadsNowhereOutside(t *testing.T) {
	root, dir := open(t, nil)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	err := Apply(root, []Change{{File: File{"etc/a.conf", 0o644, []byte("x")}}})
	if left, _ := os.ReadDir(outside); err == nil || len(left) != 0 {
		t.Errorf("error %v, outside %v", err, left)
	}
}

func TestLeftoverOfACutShortRun(t *testing.T) {
	root, dir := open(t, map[string]string{"etc/.a.conf.new": "half"})
	if err := Clean(root, owned); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "etc")); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestForeignPathIsRefused(t *testing.T) {
	root, _ := open(t, nil)
	if _, err := Compare(root, []File{{Path: "etc/passwd"}}, owned); err == nil {
		t.Error("a path that is not owned was accepted")
	}
}

func TestDiff(t *testing.T) {
	cases := map[string]struct {
		change Change
		want   string
	}{
		"change": {Change{File: File{"etc/a", 0o644, []byte("1\ntwo\n3\n")}, Old: []byte("1\n2\n3\n")},
			"change /etc/a 0644\n  - 2\n  + two\n"},
		"create": {Change{File: File{"etc/a", 0o755, []byte("1\n2\n")}}, "create /etc/a 0755\n  + 1\n  + 2\n"},
		"remove": {Change{File: File{Path: "etc/a"}, Remove: true, Old: []byte("1\n")}, "remove /etc/a\n"},
		"secret": {Change{File: File{"etc/key", 0o600, []byte("secret")}, Old: []byte("old secret")},
			"change /etc/key 0600\n  (contents not shown)\n"},
	}
	for name, c := range cases {
		if diff := cmp.Diff(c.want, c.change.Diff()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
