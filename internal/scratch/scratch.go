// Package scratch makes files and folders that are under way: they have a
// name of their own until they are whole, and vanish when their maker dies,
// however it dies.
//
//	d, err := scratch.MkdirTemp(store, "base-")   // held by a lock of the kernel
//	defer d.Remove()
//	scratch.Sweep(store, "base-*", nil)           // whoever comes next removes what nobody holds
//
// A maker holds flock(2) on what it makes; the kernel lets go when the process
// ends, also when it is killed. Sweep removes what it can lock, and nothing
// else, so that it may run at any time, beside any number of makers. Where a
// file system or a system has no such locks, what is older than a day counts
// as left behind.
//
// All functions are safe for concurrent use, also by several processes.
package scratch

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

// abandoned is how old something unlocked must be where locks do not work.
const abandoned = 24 * time.Hour

// attempts bounds how often a sweeper may take a new name away before its
// maker has locked it.
const attempts = 100

// Dir is a folder under way.
type Dir struct {
	Path string
	held *os.File
}

// MkdirTemp makes a folder in dir, mode 0700, its name as os.MkdirTemp makes it.
func MkdirTemp(dir, pattern string) (*Dir, error) {
	for range attempts {
		path, err := os.MkdirTemp(dir, pattern)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // swept before it was open
		}
		if err != nil {
			os.RemoveAll(path)
			return nil, err
		}
		lock(f)
		if still(f, path) {
			return &Dir{path, f}, nil
		}
		f.Close()
	}
	return nil, errors.New("make a working folder: others remove it each time")
}

// Join returns a path inside the folder.
func (d *Dir) Join(elem ...string) string {
	return filepath.Join(append([]string{d.Path}, elem...)...)
}

// Remove removes the folder with all in it, if it is still under its name.
// Only the first Remove counts.
func (d *Dir) Remove() error {
	if d.held == nil {
		return nil
	}
	defer func() { d.held.Close(); d.held = nil }()
	if !still(d.held, d.Path) {
		return nil
	}
	return os.RemoveAll(d.Path)
}

// File is a file under way. Close says, as with any file, whether its bytes
// were written; it stays held until it has a name of its own or is removed.
type File struct {
	*os.File
	held  *os.File // the same open file, which keeps the lock
	named bool     // renamed or removed
}

// CreateTemp makes a file in dir, mode 0600, its name as os.CreateTemp makes it.
func CreateTemp(dir, pattern string) (*File, error) {
	for range attempts {
		f, err := os.CreateTemp(dir, pattern)
		if err != nil {
			return nil, err
		}
		lock(f)
		if !still(f, f.Name()) {
			f.Close()
			continue // swept before it was locked
		}
		held, err := same(f)
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			return nil, err
		}
		return &File{File: f, held: held}, nil
	}
	return nil, errors.New("make a file: others remove it each time")
}

// Rename closes the file, if it is open, and gives it its own name. No sweeper
// takes it away in between. When that fails it is still there, for Remove.
func (f *File) Rename(path string) error {
	if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	f.named = true
	f.held.Close()
	return nil
}

// Remove closes and removes the file, if it has not got its own name. Only the
// first Remove counts.
func (f *File) Remove() error {
	if f.named {
		return nil
	}
	f.named = true
	defer f.held.Close()
	f.Close()
	return os.Remove(f.Name())
}

// still says whether path is the file f.
func still(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Lstat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// Sweep removes the files and folders in dir whose names match pattern
// (filepath.Match) and whose makers are dead. remove removes one; nil is
// os.RemoveAll. What cannot be removed stays for the next time.
func Sweep(dir, pattern string, remove func(path string) error) {
	if remove == nil {
		remove = os.RemoveAll
	}
	found, _ := filepath.Glob(filepath.Join(dir, pattern))
	for _, path := range found {
		info, err := os.Lstat(path)
		if err != nil || !(info.Mode().IsRegular() || info.IsDir()) {
			continue // a link leads to what is not ours
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if dead(f, info) && still(f, path) {
			remove(path)
		}
		f.Close()
	}
}

func dead(f *os.File, info os.FileInfo) bool {
	free, known := tryLock(f)
	if known {
		return free
	}
	return time.Since(info.ModTime()) > abandoned
}
