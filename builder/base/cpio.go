package base

import (
	"fmt"
	"io"
	"io/fs"
)

// cpioWriter writes an archive in the "newc" form that Linux unpacks as its
// initial RAM file system (Documentation/driver-api/early-userspace/
// buffer-format.rst in the kernel's source):
//
//	"070701" and 13 fields of 8 hex digits: inode, mode, uid, gid, links,
//	mtime, size, device major and minor, rdev major and minor, name size,
//	checksum (0); the name with its NUL, padded to 4; the data, padded to 4
//
// All owners are root, all times 0, inodes count from 1: equal input is equal
// output. Close writes the trailer.
type cpioWriter struct {
	w     io.Writer
	inode int
	err   error
}

// Modes of st_mode that an entry may have.
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

func (c *cpioWriter) entry(name string, mode fs.FileMode, kind uint32, major, minor int, data []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	links := 1
	if kind == cpioDir {
		links = 2
	}
	_, c.err = fmt.Fprintf(c.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00%s",
		c.inode, kind|uint32(mode.Perm()), 0, 0, links, 0, len(data), 0, 0, major, minor, len(name)+1, 0,
		name, padding(110+len(name)+1))
	if c.err == nil {
		_, c.err = c.w.Write(data)
	}
	if c.err == nil {
		_, c.err = io.WriteString(c.w, padding(len(data)))
	}
}

func padding(n int) string { return "\x00\x00\x00"[:(4-n%4)%4] }

func (c *cpioWriter) dir(name string) { c.entry(name, 0o755, cpioDir, 0, 0, nil) }
func (c *cpioWriter) file(name string, mode fs.FileMode, b []byte) {
	c.entry(name, mode, cpioFile, 0, 0, b)
}
func (c *cpioWriter) char(name string, mode fs.FileMode, major, minor int) {
	c.entry(name, mode, cpioChar, major, minor, nil)
}

// Close writes the trailer; it returns the first error of any entry.
func (c *cpioWriter) Close() error {
	c.inode = -1 // the trailer's inode is 0
	c.entry("TRAILER!!!", 0, 0, 0, 0, nil)
	if c.err != nil {
		return fmt.Errorf("write cpio: %w", c.err)
	}
	return nil
}
