package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"gridappliance/builder/squashfs"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// TestKernelWrote reads what the kernel wrote: a folder large enough to be
// hashed, a file in many pieces, links, a whiteout, attributes in the inode
// and outside.
func TestKernelWrote(t *testing.T) {
	need.Root(t)
	need.Tool(t, "mke2fs", "mount")
	image := filepath.Join(t.TempDir(), "x.ext4")
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^orphan_file,metadata_csum,64bit", image, "64M")
	dir := t.TempDir()
	tool(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	fill(t, dir)
	want := describe(t, kernelTree(t, dir))
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	got, err := fs.Tree("changes")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, describe(t, got)); diff != "" {
		t.Errorf("-kernel +ours:\n%s", diff)
	}
	if none, err := fs.Tree("nowhere"); none != nil || err != nil {
		t.Errorf("a folder that is not there: %v, %v", none, err)
	}
	b[1024+0x60] |= incompatRecover
	if _, err := Open(bytes.NewReader(b)); !errors.Is(err, ErrUnclean) {
		t.Errorf("an unclean file system: %v", err)
	}
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := sysrun.Output(t.Context(), name, args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func fill(t *testing.T, dir string) {
	t.Helper()
	root := filepath.Join(dir, "changes")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(root, "many"), 0o755))
	for i := range 2000 {
		check(os.WriteFile(filepath.Join(root, "many", fmt.Sprintf("a-rather-long-name-%05d", i)), []byte{byte(i)}, 0o600))
	}
	f, err := os.Create(filepath.Join(root, "pieces"))
	check(err)
	for i := range 300 { // holes between, so that the extents need a tree
		_, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 100), int64(i)*20000)
		check(err)
	}
	check(f.Close())
	check(os.Chown(filepath.Join(root, "pieces"), 70000, 70001))
	check(os.Symlink("short", filepath.Join(root, "link")))
	check(os.Symlink(strings.Repeat("long/", 30), filepath.Join(root, "long")))
	check(os.Link(filepath.Join(root, "pieces"), filepath.Join(root, "zhard")))
	check(unix.Mknod(filepath.Join(root, "gone"), unix.S_IFCHR, 0))
	check(unix.Mknod(filepath.Join(root, "dev"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 300))))
	check(unix.Lsetxattr(filepath.Join(root, "many"), squashfs.OpaqueXattr, []byte("y"), 0))
	check(unix.Lsetxattr(filepath.Join(root, "pieces"), "user.big", bytes.Repeat([]byte("v"), 2000), 0))
}

// kernelTree reads a mounted folder.
func kernelTree(t *testing.T, dir string) []*squashfs.Entry {
	t.Helper()
	root := filepath.Join(dir, "changes")
	var out []*squashfs.Entry
	err := filepath.WalkDir(root, func(name string, _ os.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		e := &squashfs.Entry{Path: rel, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), Xattrs: map[string]string{}}
		if e.Type() != squashfs.Regular {
			e.Size = 0
		}
		e.Target, _ = os.Readlink(name)
		if rel == "zhard" {
			e = &squashfs.Entry{Path: rel, Link: "pieces"}
		}
		for _, x := range []string{squashfs.OpaqueXattr, "user.big"} {
			v := make([]byte, 4096)
			if n, err := unix.Lgetxattr(name, x, v); err == nil && e.Link == "" {
				e.Xattrs[x] = string(v[:n])
			}
		}
		if e.Type() == squashfs.Regular {
			e.Open = func() (io.ReadCloser, error) { return os.Open(name) }
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			e.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
		}
		out = append(out, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func describe(t *testing.T, entries []*squashfs.Entry) []string {
	t.Helper()
	var out []string
	for _, e := range entries {
		line := fmt.Sprintf("%s %o %d:%d %d %d,%d %s|%s|%d", e.Path, e.Mode, e.UID, e.GID, e.Size, e.Major, e.Minor, e.Target, e.Link, len(e.Xattrs))
		if e.Open != nil {
			r, err := e.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %x", sum(b))
		}
		out = append(out, line)
	}
	return out
}

func sum(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// FuzzOpen: bytes from anywhere never panic, loop or take memory without end.
func FuzzOpen(f *testing.F) {
	name := filepath.Join(f.TempDir(), "x.ext4")
	if mke2fs, err := sysrun.Find("mke2fs"); err == nil {
		if _, err := sysrun.Output(f.Context(), mke2fs, "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^has_journal,^orphan_file", name, "256K"); err == nil {
			if b, err := os.ReadFile(name); err == nil {
				f.Add(b)
			}
		}
	}
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs, err := Open(bytes.NewReader(b))
		if err != nil {
			return
		}
		if entries, err := fs.Tree("."); err == nil {
			for _, e := range entries {
				if !squashfs.Clean(e.Path) {
					t.Fatalf("path %q", e.Path)
				}
			}
		}
	})
}
