package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/floppy"
	"gridappliance/internal/atomicfile"
	"gridappliance/internal/diag"
)

func newFloppyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "floppy",
		Short: "make, show, check, zip and edit floppies",
		Long: `A floppy says what a machine is: its role, its grid and the credential that
lets it in. These verbs make floppies and look at them. Wherever a floppy is
read it may be an image, a zipped image, or the base64 of one.`,
		Example: `  builder floppy new --role standalone -o try.img
  builder floppy check alice.img`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(newFloppyNewCommand(), newFloppyShowCommand(), newFloppyCheckCommand(), newFloppyZipCommand(), newFloppyEditCommand())
	return c
}

// exitInvalid is the line of a verb's help about a floppy that is wrong.
const exitInvalid = `

EXIT STATUS
  0 done, 3 the floppy is wrong; every problem is listed with what to do about it`

// maxFloppyFile bounds what is read: an image or anything that holds one.
const maxFloppyFile = 4 << 20

// loadFloppy returns the image in a file, and whether it was zipped. Problems
// call the floppy by the file's name, without the folder.
func loadFloppy(path string) (name string, image []byte, zipped bool, err error) {
	data, err := readBounded(path, maxFloppyFile)
	if err != nil {
		return "", nil, false, err
	}
	name = filepath.Base(path)
	image, err = floppy.Unwrap(data)
	if l := diag.Of(err); l != nil {
		return "", nil, false, inFloppy(name, l)
	}
	return name, image, len(image) != len(data), err
}

// inFloppy puts the floppy's name before the files that problems name.
func inFloppy(name string, l diag.List) diag.List {
	for i := range l {
		l[i].File = strings.TrimSuffix(name+"/"+l[i].File, "/")
	}
	return l
}

// readBounded reads a file that a person named.
func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, errors.Unwrap(err))
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("read %s: not a file of at most %d bytes", path, limit)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, errors.Unwrap(err))
	}
	return data, nil
}

// writeFloppy writes an image, or its zip, as a file of mode 0600 that is there
// whole or not at all. Without replace a file that exists is left alone.
func writeFloppy(path string, image []byte, zipped, replace bool) error {
	data := image
	if zipped {
		var err error
		if data, err = floppy.Zip(image); err != nil {
			return inFloppy(filepath.Base(path), diag.Of(err))
		}
	}
	if _, err := os.Lstat(path); err == nil && !replace {
		return fmt.Errorf("write %s: %w; --force replaces it", path, fs.ErrExist)
	}
	return writeSecret(path, data)
}

// writeSecret replaces a file by one of mode 0600.
func writeSecret(path string, data []byte) error {
	err := atomicfile.Write(path, data, 0o600)
	var p *fs.PathError
	if errors.As(err, &p) { // its path is that of the new file beside
		err = p.Err
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// isZipName reports whether a file's name asks for a zip.
func isZipName(path string) bool { return strings.EqualFold(filepath.Ext(path), ".zip") }

// timeFlag is the flag --at; its zero value is now.
type timeFlag struct{ at time.Time }

func (f *timeFlag) String() string { return "" }
func (f *timeFlag) Type() string   { return "time" }

// Set takes 2027-02-19 or 2027-02-19T10:00:00Z.
func (f *timeFlag) Set(text string) error {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			f.at = at
			return nil
		}
	}
	return errors.New("write it as 2027-02-19 or 2027-02-19T10:00:00Z")
}

// now returns the time the flag says.
func (f *timeFlag) now() time.Time {
	if f.at.IsZero() {
		return time.Now()
	}
	return f.at
}

func addTimeFlag(c *cobra.Command) *timeFlag {
	f := &timeFlag{}
	c.Flags().Var(f, "at", "judge the credential as of this `time`, such as 2027-02-19 (default now)")
	return f
}

// applySettings applies every --set to the text of a GRID.TML.
func applySettings(name string, text []byte, settings []string) ([]byte, error) {
	for _, s := range settings {
		path, value, err := floppy.SplitSetting(s)
		if err != nil {
			return nil, diag.UsageError{Err: err}
		}
		if text, err = floppy.SetKey(name, text, path, value); err != nil {
			return nil, err
		}
	}
	return text, nil
}

// replaceFile returns files with one of them replaced, added, or left out when
// data is nil.
func replaceFile(files []floppy.File, name string, data []byte) []floppy.File {
	var out []floppy.File
	for _, f := range files {
		if floppy.CanonicalName(f.Name) != name {
			out = append(out, f)
		}
	}
	if data != nil {
		out = append(out, floppy.File{Name: name, Data: data})
	}
	return out
}

// readKeys joins files of ssh public keys.
func readKeys(paths []string) ([]byte, error) {
	var keys []byte
	for _, p := range paths {
		data, err := readBounded(p, 64<<10)
		if err != nil {
			return nil, err
		}
		keys = append(append(keys, bytes.TrimSpace(data)...), '\n')
	}
	return keys, nil
}

// makeImage checks files as a floppy and returns its image.
func makeImage(name string, files []floppy.File, now time.Time) ([]byte, *floppy.Floppy, error) {
	f, err := floppy.CheckFiles(name, files, now)
	if err != nil {
		return nil, nil, err
	}
	image, err := floppy.WriteImage(f.Files())
	if err != nil {
		return nil, nil, inFloppy(name, diag.Of(err))
	}
	return image, f, nil
}
