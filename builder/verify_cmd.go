package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gridappliance/builder/base"
	"gridappliance/builder/disk"
	"gridappliance/builder/format"
	"gridappliance/builder/manifest"
	"gridappliance/builder/plan"
	"gridappliance/builder/progress"
	"gridappliance/internal/diag"
)

func newVerifyCommand() *cobra.Command {
	var asJSON, used bool
	cmd := &cobra.Command{
		Use:   "verify IMAGE|DIR",
		Short: "compare a base or images with their manifests",
		Long: `verify reads what a build wrote and says exactly what differs from the manifest
beside it: of a base every file; of images every file, and of disks that are
raw or qcow2 every part, down to the name of the partition, and that nothing
but zeros lies between them. DIR is a base's folder or an output
folder; IMAGE is one file of an output folder.

A machine that has run changes its own part of the disk, griduser; with --used
that part is left out.

EXIT STATUS
  0 all is as built, 1 something differs, 2 usage`,
		Example: `  builder verify out/
  builder verify --used out/site.qcow2
  builder verify $(builder base path)`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v := &verifier{used: used, progress: newProgress(cmd.ErrOrStderr(), asJSON), Differences: []string{}}
			if err := v.verify(args[0]); err != nil {
				return err
			}
			v.Equal = len(v.Differences) == 0
			if asJSON {
				if err := writeJSON(cmd.OutOrStdout(), v); err != nil {
					return err
				}
			} else {
				for _, d := range v.Differences {
					fmt.Fprintln(cmd.OutOrStdout(), d)
				}
			}
			if !v.Equal {
				return fmt.Errorf("verify %s: %d differences", args[0], len(v.Differences))
			}
			if !asJSON {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: as built (%d files, %d parts of disks)\n", args[0], v.Files, v.Regions)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the result as JSON, progress as JSON lines on stderr")
	cmd.Flags().BoolVar(&used, "used", false, "the machine has run: leave its own part of the disk out")
	return cmd
}

// verifier collects what differs.
type verifier struct {
	Equal       bool     `json:"equal"`
	Files       int      `json:"files"`   // compared
	Regions     int      `json:"regions"` // compared
	Differences []string `json:"differences"`

	used     bool
	progress *progress.Reporter
}

func (v *verifier) differ(format string, args ...any) {
	v.Differences = append(v.Differences, fmt.Sprintf(format, args...))
}

func (v *verifier) verify(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if !info.IsDir() {
		return v.one(path)
	}
	if _, err := os.Stat(filepath.Join(path, base.Manifest)); err == nil {
		return v.base(path)
	}
	found, err := manifests(path)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("verify %s: %w: no %s and no NAME%s in it", path, diag.ErrNothing, base.Manifest, manifest.ImageSuffix)
	}
	for _, name := range found {
		if err := v.image(name, ""); err != nil {
			return err
		}
	}
	return nil
}

func manifests(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	var found []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), manifest.ImageSuffix) {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return found, nil
}

// one compares one file of an image: the manifest that lists it lies in its
// folder or the one above.
func (v *verifier) one(path string) error {
	if strings.HasSuffix(path, manifest.ImageSuffix) {
		return v.image(path, "")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(abs), filepath.Dir(filepath.Dir(abs))} {
		found, err := manifests(dir)
		if err != nil {
			continue
		}
		rel, _ := filepath.Rel(dir, abs)
		rel = filepath.ToSlash(rel)
		for _, name := range found {
			m, err := readImageManifest(name)
			if err != nil {
				return err
			}
			for _, f := range m.Files {
				if f.Name == rel {
					return v.image(name, rel)
				}
			}
		}
	}
	return fmt.Errorf("verify %s: %w: no manifest beside it names it (builder build writes NAME%s)", path, diag.ErrNothing, manifest.ImageSuffix)
}

func readImageManifest(name string) (*manifest.Image, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return manifest.ParseImage(name, text)
}

// image compares the files that a manifest names, or only one of them.
func (v *verifier) image(name, only string) error {
	m, err := readImageManifest(name)
	if err != nil {
		return err
	}
	for _, f := range m.Files {
		if only != "" && f.Name != only {
			continue
		}
		step := v.progress.StartLate(f.Name)
		if err := step.End(v.file(m, filepath.Join(filepath.Dir(name), filepath.FromSlash(f.Name)), f, step)); err != nil {
			return err
		}
	}
	return nil
}

// file compares one file: its bytes, and the disk in it where that can be
// read. A used disk's bytes differ in any case; its parts tell more.
func (v *verifier) file(m *manifest.Image, path string, f manifest.File, step *progress.Step) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		v.differ("%s: is missing", f.Name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	v.Files++
	if !isDisk(f.Name) {
		return v.bytes(path, info.Size(), f, step)
	}
	if !v.used {
		if err := v.bytes(path, info.Size(), f, step); err != nil {
			return err
		}
	}
	d, err := format.Open(path)
	if err != nil {
		v.differ("%s: %v", f.Name, err)
		return nil
	}
	defer d.Close()
	return v.disk(m, f.Name, d)
}

func isDisk(name string) bool {
	switch filepath.Ext(name) {
	case ".raw", ".qcow2":
		return true
	}
	return false
}

func (v *verifier) bytes(path string, size int64, f manifest.File, step *progress.Step) error {
	if size != f.Size {
		v.differ("%s: has %d bytes, the manifest says %d", f.Name, size, f.Size)
		return nil
	}
	if f.SHA256 == "" {
		return nil
	}
	step.Expect(size, progress.Bytes)
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(h, step), in); err != nil {
		return fmt.Errorf("verify %s: %w", path, err)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != f.SHA256 {
		v.differ("%s: its sha256 is %s, the manifest says %s", f.Name, sum, f.SHA256)
	}
	return nil
}

// disk compares every part of a disk, and the zeros between them.
func (v *verifier) disk(m *manifest.Image, name string, d *format.File) error {
	if d.Size < m.Disk.Size || d.Size > m.Disk.Size && !v.used { // a used machine's disk may have been enlarged
		v.differ("%s: a disk of %d bytes, the manifest says %d", name, d.Size, m.Disk.Size)
		return nil
	}
	content, err := d.Ranges()
	if err != nil {
		return fmt.Errorf("verify %s: %w", name, err)
	}
	end := int64(0)
	between := func(to int64) error {
		at, err := firstByte(d, content, end, to)
		if err != nil {
			return fmt.Errorf("verify %s: %w", name, err)
		}
		if at >= 0 {
			v.differ("%s: data at byte %d, where no part of the disk is", name, at)
		}
		return nil
	}
	own := ownPart(m)
	for _, r := range m.Disk.Regions {
		if v.used && r.Offset+r.Size > own { // griduser and the table behind it
			return nil
		}
		if err := between(r.Offset); err != nil {
			return err
		}
		end = r.Offset + r.Size
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(d, r.Offset, r.Size)); err != nil {
			return fmt.Errorf("verify %s: %w", name, err)
		}
		v.Regions++
		// a disk that was enlarged has another table, with the same partitions but the last
		if sum := hex.EncodeToString(h.Sum(nil)); sum != r.SHA256 && !(v.used && r.Offset == 0) {
			v.differ("%s: the part %s (%d bytes at byte %d) differs from what was built", name, r.Name, r.Size, r.Offset)
		}
	}
	return between(m.Disk.Size)
}

// firstByte returns where in [from, to) of the disk the first byte is that is
// not zero, or -1. Only what the file holds is read.
func firstByte(d *format.File, content []disk.Range, from, to int64) (int64, error) {
	buf := make([]byte, 1<<16)
	for _, r := range content {
		for at, end := max(from, r.Start), min(to, r.End); at < end; {
			n, err := d.ReadAt(buf[:min(end-at, int64(len(buf)))], at)
			if n == 0 && err != nil {
				return 0, err
			}
			for i, b := range buf[:n] {
				if b != 0 {
					return at + int64(i), nil
				}
			}
			at += int64(n)
		}
	}
	return -1, nil
}

// ownPart is where the part of the disk begins that the machine changes.
func ownPart(m *manifest.Image) int64 {
	if r, ok := m.Region("griduser"); ok {
		return r.Offset
	}
	return m.Disk.Size - 33*plan.SectorSize
}

// base compares every file of a base.
func (v *verifier) base(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, base.Manifest))
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	m, err := manifest.Parse(filepath.Join(dir, base.Manifest), text)
	if err != nil {
		return err
	}
	for _, f := range m.Files {
		path := filepath.Join(dir, f.Name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			v.differ("%s: is missing", f.Name)
			continue
		}
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		v.Files++
		step := v.progress.StartLate(f.Name)
		if err := step.End(v.bytes(path, info.Size(), f, step)); err != nil {
			return err
		}
	}
	return nil
}
