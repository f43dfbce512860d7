package layer

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/builder/squashfs"
)

// ReadDir reads a folder as it is: owners, hard links, whiteouts and opaque
// directories of overlayfs. It follows no symbolic link below dir.
func ReadDir(dir string) ([]*squashfs.Entry, error) {
	var out []*squashfs.Entry
	first := map[[2]uint64]string{}
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		inode := [2]uint64{uint64(st.Dev), st.Ino}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if to, ok := first[inode]; ok {
				out = append(out, &squashfs.Entry{Path: rel, Link: to})
				return nil
			}
			first[inode] = rel
		}
		e := &squashfs.Entry{Path: rel, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Time: time.Unix(st.Mtim.Unix()).Truncate(time.Second),
			Major: unix.Major(uint64(st.Rdev)), Minor: unix.Minor(uint64(st.Rdev))}
		switch e.Type() {
		case squashfs.Symlink:
			if e.Target, err = os.Readlink(name); err != nil {
				return err
			}
		case squashfs.Regular:
			e.Size = st.Size
			e.Open = func() (io.ReadCloser, error) { return os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0) }
		}
		if e.Xattrs, err = xattrs(name); err != nil {
			return err
		}
		if rel != "." || len(e.Xattrs) > 0 {
			out = append(out, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read folder %s: %w", dir, err)
	}
	return out, nil
}

// xattrs reads what keptXattr keeps. trusted.* is seen by root alone.
func xattrs(name string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(name, buf)
	if err == unix.ENOTSUP || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, x := range strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if !keptXattr(x) {
			continue
		}
		v := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(name, x, v)
		if err != nil {
			return nil, err
		}
		out[x] = string(v[:k])
	}
	return out, nil
}
