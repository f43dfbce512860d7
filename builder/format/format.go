// Package format writes a disk (builder/disk.Image) as a file of a form that
// hypervisors read: raw and qcow2. Each writer gets an empty file and leaves it
// complete, sparse where the disk is, its bytes a function of the disk alone:
// content decides what is stored, not the holes the host happens to keep.
//
// Create makes the file appear under its name only once it is whole.
package format

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gridappliance/builder/disk"
	"gridappliance/builder/spec"
)

// Writer writes a disk into an empty file.
type Writer func(ctx context.Context, w *os.File, im *disk.Image) error

// For returns the writer of a target.
func For(t spec.Target) Writer {
	switch t {
	case spec.Raw:
		return Raw
	case spec.QCOW2:
		return QCOW2
	}
	return func(context.Context, *os.File, *disk.Image) error {
		return fmt.Errorf("write image: no writer for target %q", string(t))
	}
}

// Create makes the file at path with what write puts into it. The file has
// another name until write is done, and is removed when write fails or ctx
// ends; an older file at path stays until then. A private file is readable by
// its owner alone from the first byte on.
//
// It does not wait for the bytes to reach the medium: after a power failure of
// the host, build again.
func Create(path string, private bool, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.part") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	makeSparse(f)
	if err := write(f); err != nil {
		return err
	}
	if !private {
		if err := f.Chmod(0o644); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
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
