// Package tree makes the files below a root be the ones wanted: it compares,
// says what differs, and writes just that.
//
// Every file is replaced in one step: written beside its place as ".NAME.new"
// (which HTCondor, exportfs, nfs.conf and autofs all skip), synced, renamed,
// the folder synced. A machine that dies between two steps has each file old
// or new, and the next run finishes; a leftover ".NAME.new" is removed by it.
// Nothing outside the root is reached, whatever links lie in it (os.Root).
//
// Contents are compared, not times: wanting what is there changes nothing.
// One writer at a time; readers need no lock.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// maxSize is the largest file read for comparing, in bytes. What is written
// here is far smaller, so a longer one only needs to be found different.
const maxSize = 1 << 20

// File is a file as it should be, owned by root.
type File struct {
	Path string // relative to the root, with slashes
	Mode fs.FileMode
	Data []byte
}

// Change is one difference between the tree and what is wanted.
type Change struct {
	File
	Remove bool   // the file should not be there
	Old    []byte // what is there now; nil when there is nothing
}

// Compare returns, in the order of owned, what must change so that of all the
// paths in owned exactly the files are there. A file that is not in owned is
// an error of the caller.
func Compare(root *os.Root, files []File, owned []string) ([]Change, error) {
	wanted := map[string]File{}
	for _, f := range files {
		if !slices.Contains(owned, f.Path) {
			return nil, fmt.Errorf("compare /%s: is not an owned path", f.Path)
		}
		wanted[f.Path] = f
	}
	var changes []Change
	for _, name := range owned {
		old, mode, err := read(root, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("compare /%s: %w", name, err)
		}
		there := err == nil
		f, want := wanted[name]
		switch {
		case want && (!there || mode != f.Mode || !bytes.Equal(old, f.Data)):
			changes = append(changes, Change{File: f, Old: old})
		case !want && there:
			changes = append(changes, Change{File: File{Path: name}, Remove: true, Old: old})
		}
	}
	return changes, nil
}

// read returns the contents of a regular file and its permission bits.
func read(root *os.Root, name string) ([]byte, fs.FileMode, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, nil // anything else is there, and different
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize))
	return data, info.Mode().Perm(), err
}

// Apply makes the changes in their order and stops at the first that fails.
func Apply(root *os.Root, changes []Change) error {
	for _, c := range changes {
		var err error
		if c.Remove {
			err = remove(root, c.Path)
		} else {
			err = replace(root, c.File)
		}
		if err != nil {
			return fmt.Errorf("write /%s: %w", c.Path, err)
		}
	}
	return nil
}

// Clean removes what a run that was cut short left beside the owned paths.
func Clean(root *os.Root, owned []string) error {
	for _, name := range owned {
		if err := root.Remove(beside(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove /%s: %w", beside(name), err)
		}
	}
	return nil
}

// beside is where the new contents of name are written first.
func beside(name string) string { return path.Dir(name) + "/." + path.Base(name) + ".new" }

func remove(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil {
		return err
	}
	return syncFolder(root, path.Dir(name))
}

func replace(root *os.Root, f File) error {
	if err := root.MkdirAll(path.Dir(f.Path), 0o755); err != nil {
		return err
	}
	temporary := beside(f.Path)
	if err := writeSynced(root, temporary, f); err != nil {
		return errors.Join(err, root.Remove(temporary))
	}
	if err := root.Rename(temporary, f.Path); err != nil {
		return errors.Join(err, root.Remove(temporary))
	}
	return syncFolder(root, path.Dir(f.Path))
}

// writeSynced creates name with f's contents. The mode is set after creation,
// because the process's mask would narrow it, and never widens a file that
// holds a key: it is created for its owner only.
func writeSynced(root *os.Root, name string, f File) error {
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.Write(f.Data); err != nil {
		return err
	}
	if err := out.Chmod(f.Mode); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}

func syncFolder(root *os.Root, name string) error {
	folder, err := root.Open(name)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// Diff returns a change for reading: a line for the file, then the lines that
// go and come. Contents of files that only their owner may read are left out.
func (c Change) Diff() string {
	var b strings.Builder
	switch {
	case c.Remove:
		fmt.Fprintf(&b, "remove /%s\n", c.Path)
		return b.String()
	case c.Old == nil:
		fmt.Fprintf(&b, "create /%s %04o\n", c.Path, c.Mode)
	default:
		fmt.Fprintf(&b, "change /%s %04o\n", c.Path, c.Mode)
	}
	if c.Mode&0o077 == 0 {
		b.WriteString("  (contents not shown)\n")
		return b.String()
	}
	for _, l := range lineDiff(lines(c.Old), lines(c.Data)) {
		b.WriteString("  " + l + "\n")
	}
	return b.String()
}

func lines(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

// lineDiff returns a's lines that go ("- ") and b's that come ("+ ") along a
// longest common subsequence; common lines are left out. Its table has
// len(a)*len(b) cells: files here have at most some hundred lines.
func lineDiff(a, b []string) []string {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}
