// Package squashfs writes and reads squashfs 4.0 file systems, zstd-compressed:
// the form of every read-only layer. It runs wherever the builder runs, needs
// no program and no root, and gives equal bytes for equal entries.
//
//	offset size field of the superblock, little endian (kernel, fs/squashfs/squashfs_fs.h)
//	     0    4 magic "hsqs"            40    8 bytes used
//	     4    4 inodes                  48    8 id table
//	     8    4 time                    56    8 xattr table
//	    12    4 block size              64    8 inode table
//	    16    4 fragments               72    8 directory table
//	    20    2 compression, 6 is zstd  80    8 fragment table
//	    22    2 log2 of the block size  88    8 export table
//	    24    2 flags
//	    26    2 ids
//	    28    4 version 4.0
//	    32    8 root inode
//
// A file: superblock | data | inodes | directories | fragments | export | ids | xattrs.
//
// The id table is ours: users and groups have entries of their own, and it is
// not compressed. So the owners of a finished layer are changed by changing
// four bytes an owner, without unpacking it (Image.Reown).
//
// go-diskfs is not used: it cannot pack a Debian root (it follows links on
// the host), knows neither whiteouts nor extended attributes, and its result
// depends on the clock.
//
// Read checks everything it follows: it never loops, a name is never "", "."
// or "..", never has a slash, and stands once in its folder. An Image is safe
// for concurrent use; it holds all inodes in memory, at most maxInodes.
package squashfs

import (
	"io"
	"path"
	"strings"
	"time"
)

// Types in Entry.Mode, as in stat(2).
const (
	TypeMask = 0o170000
	Socket   = 0o140000
	Symlink  = 0o120000
	Regular  = 0o100000
	Block    = 0o060000
	Dir      = 0o040000
	Char     = 0o020000
	FIFO     = 0o010000
)

// Entry is one name of a file system.
type Entry struct {
	Path         string // clean, relative, with slashes; "." is the root
	Mode         uint32 // type and permissions as in stat(2)
	UID, GID     uint32
	Time         time.Time // whole seconds
	Size         int64     // of a regular file
	Target       string    // of a symbolic link
	Major, Minor uint32    // of a device
	Xattrs       map[string]string
	// Link names the entry that this one is a hard link to; the rest of the
	// entry is then empty. A reader gives it to all names but the first.
	Link string
	// Open opens a regular file's content.
	Open func() (io.ReadCloser, error)
}

// Type returns the type bits of the mode.
func (e *Entry) Type() uint32 { return e.Mode & TypeMask }

// Whiteout says whether the entry hides what layers below have under its
// name (kernel documentation, overlayfs, "whiteouts and opaque directories").
func (e *Entry) Whiteout() bool { return e.Type() == Char && e.Major == 0 && e.Minor == 0 }

// OpaqueXattr, set to "y", hides what layers below have inside a directory.
const OpaqueXattr = "trusted.overlay.opaque"

// Clean says whether p is a path that an Entry may have.
func Clean(p string) bool {
	return p != "" && path.Clean(p) == p && !strings.HasPrefix(p, "/") && p != ".." && !strings.HasPrefix(p, "../") &&
		!strings.Contains(p, "\x00")
}

// Less orders paths so that a directory's content directly follows it.
func Less(a, b string) bool {
	return strings.ReplaceAll(a, "/", "\x00") < strings.ReplaceAll(b, "/", "\x00")
}

// Protocol: squashfs 4.0.
const (
	magic        = 0x73717368
	compressZstd = 6
	superSize    = 96
	metaSize     = 8192
	none64       = ^uint64(0)
	none32       = ^uint32(0)
	rawBlock     = 1 << 24 // in a data block's size: stored as it is
	rawMeta      = 1 << 15 // in a metadata block's header
	listingExtra = 3       // a directory's size counts "." and ".."

	flagRawIDs   = 0x0800
	flagNoXattrs = 0x0200
	flagExport   = 0x0080
	flagDuplic   = 0x0040
)

// Implementation.
const (
	blockLog  = 17 // 128 KiB, as the base has
	blockSize = 1 << blockLog
	maxInodes = 4 << 20
)

// Inode types: basic ones, and the extended ones 7 above them.
const (
	inodeDir = iota + 1
	inodeFile
	inodeSymlink
	inodeBlock
	inodeChar
	inodeFIFO
	inodeSocket
	extended = 7
)

var inodeTypes = map[uint32]uint16{
	Dir: inodeDir, Regular: inodeFile, Symlink: inodeSymlink, Block: inodeBlock, Char: inodeChar, FIFO: inodeFIFO, Socket: inodeSocket,
}

var modeTypes = map[uint16]uint32{
	inodeDir: Dir, inodeFile: Regular, inodeSymlink: Symlink, inodeBlock: Block, inodeChar: Char, inodeFIFO: FIFO, inodeSocket: Socket,
}

// xattrPrefixes are the kinds of names the format knows, by number.
var xattrPrefixes = []string{"user.", "trusted.", "security."}
