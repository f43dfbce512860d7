// Package format writes a disk (builder/disk.Image) as a file of a form that
// hypervisors read. Each writer gets an empty file and leaves it complete,
// sparse where the disk is, its bytes a function of the disk alone: content
// decides what is stored, not the holes the host happens to keep.
//
//	Raw         the disk byte for byte
//	QCOW2       QEMU's: clusters of 64 KiB
//	VMDK        VMware's, to run from: grains of 64 KiB
//	StreamVMDK  VMware's, to ship: the same grains, deflated
//	VDI         VirtualBox's: blocks of 1 MiB
//
// Create makes a file appear under its name only once it is whole, CreateFolder
// a folder.
package format

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gridappliance/builder/disk"
	"gridappliance/internal/scratch"
)

// Create makes the file at path with what write puts into it. The file has
// another name until write is done, and is removed when write fails or ctx
// ends; an older file at path stays until then. A private file is readable by
// its owner alone from the first byte on.
//
// What a build that was killed left goes with the next of the same path. Create
// does not wait for the bytes to reach the medium: after a power failure of
// the host, build again.
func Create(path string, private bool, write func(*os.File) error) (err error) {
	sweep(path)
	f, err := scratch.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.part") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Remove()
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	makeSparse(f.File)
	if err := write(f.File); err != nil {
		return err
	}
	if !private {
		if err := f.Chmod(0o644); err != nil {
			return err
		}
	}
	return f.Rename(path)
}

// CreateFolder makes a folder with the files called names, each with what write
// puts into it. The folder has another name until all are done; an older one
// stays until then, and is replaced only if it holds nothing but such files: a
// machine that has run there has left others, and its disk must not go.
func CreateFolder(path string, private bool, names []string, write func(name string, f *os.File) error) (err error) {
	if err := replaceable(path, names); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	sweep(path)
	held, err := scratch.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.part") // mode 0700
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer held.Remove()
	dir := held.Path
	for _, name := range names {
		if err := Create(filepath.Join(dir, name), private, func(f *os.File) error { return write(name, f) }); err != nil {
			return err
		}
	}
	if !private {
		if err := os.Chmod(dir, 0o755); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	if err := replaceFolder(dir, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// sweep removes what builds of path left that were killed. An older folder that
// a living one is about to replace stays with it.
func sweep(path string) {
	dir, parts := filepath.Dir(path), "."+filepath.Base(path)+".*.part"
	scratch.Sweep(dir, parts, nil)
	scratch.Sweep(dir, parts+replaced, func(old string) error {
		if _, err := os.Lstat(strings.TrimSuffix(old, replaced)); err == nil {
			return nil
		}
		return os.RemoveAll(old)
	})
}

// replaceable says why the folder at path must not be replaced, if it is there.
func replaceable(path string, names []string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			return fmt.Errorf("the folder holds %s, so a machine may have run there: move it away, or write elsewhere", e.Name())
		}
	}
	return nil
}

// replaced follows the working name of a folder in the name that an older one
// has until the new one is in its place.
const replaced = ".old"

// replaceFolder gives the folder made the name path. What was there is gone
// afterwards, or back when that fails. Where the system can exchange two names
// there is no moment without a folder, and of several builds the last one stays.
func replaceFolder(made, path string) error {
	old := made + replaced
	for {
		switch err := exchange(made, path); {
		case err == nil:
			return os.RemoveAll(made)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errors.ErrUnsupported):
			return err
		}
		err := os.Rename(path, old)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		existed := err == nil
		if err = os.Rename(made, path); err == nil {
			return os.RemoveAll(old)
		}
		if existed {
			os.Rename(old, path)
		}
		if existed || !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

// Raw writes the disk byte for byte; what the disk leaves out stays a hole.
func Raw(ctx context.Context, w *os.File, im *disk.Image) error {
	if err := w.Truncate(im.Size()); err != nil {
		return err
	}
	for _, e := range im.Extents() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := copyExtent(w, im, e); err != nil {
			return err
		}
	}
	return nil
}

// copyExtent copies one extent to its place. From file to file the kernel
// copies (copy_file_range(2)), or shares the blocks where it can.
func copyExtent(w *os.File, im *disk.Image, e disk.Extent) error {
	if _, err := w.Seek(e.Offset, io.SeekStart); err != nil {
		return err
	}
	src, start := e.File()
	if src == nil {
		_, err := io.Copy(w, io.NewSectionReader(im, e.Offset, e.Length))
		return err
	}
	if _, err := src.Seek(start, io.SeekStart); err != nil {
		return err
	}
	n, err := io.CopyN(w, src, e.Length)
	if err == io.EOF {
		err = fmt.Errorf("read %s: ended %d bytes early", src.Name(), e.Length-n)
	}
	return err
}
