//go:build !linux

package layer

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"gridappliance/builder/squashfs"
)

// ReadDir reads a folder; where the system knows no owners and modes of Unix,
// everything is root's and has the modes 0755 and 0644.
func ReadDir(dir string) ([]*squashfs.Entry, error) {
	var out []*squashfs.Entry
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := &squashfs.Entry{Path: filepath.ToSlash(rel), Time: info.ModTime()}
		switch {
		case info.IsDir():
			e.Mode = squashfs.Dir | 0o755
		case info.Mode()&fs.ModeSymlink != 0:
			e.Mode = squashfs.Symlink | 0o777
			if e.Target, err = os.Readlink(name); err != nil {
				return err
			}
			e.Target = filepath.ToSlash(e.Target)
		case info.Mode().IsRegular():
			e.Mode, e.Size = squashfs.Regular|0o644|uint32(info.Mode().Perm())&0o111, info.Size()
			e.Open = func() (io.ReadCloser, error) { return os.Open(name) }
		default:
			return fmt.Errorf("%s is neither file, folder nor link", rel)
		}
		out = append(out, e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read folder %s: %w", dir, err)
	}
	return out, nil
}
