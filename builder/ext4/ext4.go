// Package ext4 reads the user partition of an image that does not run: names,
// modes, owners, contents, extended attributes. It never writes.
//
// It reads what the kernel and mke2fs write with the features of the builder's
// template (kernel documentation, "ext4 Data Structures and Algorithms"):
// extents, 64-bit block numbers, checksums (not compared), hashed folders read
// as lists, attributes in the inode and in a block of their own. Anything else
// is refused by its name: a journal that was not replayed, encryption, inline
// data, indirect blocks.
//
// Bytes from anywhere never panic and never loop: every folder is read once,
// every tree of extents has at most five levels. A FS is safe for concurrent use.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"time"

	"gridappliance/builder/squashfs"
)

var le = binary.LittleEndian

// ErrUnclean says that the file system was in use when its machine stopped.
var ErrUnclean = errors.New("it was not shut down: its journal is not replayed")

// Limits on purpose.
const (
	maxEntries = 4 << 20
	maxFolder  = 64 << 20 // bytes of one folder
)

// FS is an opened file system.
type FS struct {
	r          io.ReaderAt
	blockSize  int64
	blocks     int64
	inodeSize  int64
	perGroup   uint32
	inodes     uint32
	descSize   int64
	firstBlock int64
}

// Features of the superblock that change how a file system is read.
const (
	incompatRecover = 0x4
	incompat64Bit   = 0x80
	incompatKnown   = 0x2 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 // filetype, extents, 64bit, flex_bg, ea_inode, csum_seed
)

// Open reads the superblock of the file system that begins at r's first byte.
func Open(r io.ReaderAt) (*FS, error) {
	s := make([]byte, 1024)
	if _, err := r.ReadAt(s, 1024); err != nil {
		return nil, fmt.Errorf("read ext4: %w", err)
	}
	if le.Uint16(s[0x38:]) != 0xef53 {
		return nil, errors.New("read ext4: no ext4 file system")
	}
	log := le.Uint32(s[0x18:])
	fs := &FS{r: r, inodes: le.Uint32(s), perGroup: le.Uint32(s[0x28:]), inodeSize: int64(le.Uint16(s[0x58:])), descSize: 32,
		firstBlock: int64(le.Uint32(s[0x14:])), blocks: int64(le.Uint32(s[4:]))}
	incompat := le.Uint32(s[0x60:])
	switch {
	case incompat&incompatRecover != 0:
		return nil, ErrUnclean
	case incompat&^incompatKnown != 0:
		return nil, fmt.Errorf("read ext4: features %#x are not known", incompat&^incompatKnown)
	case log > 6 || fs.perGroup == 0 || fs.inodeSize < 128 || fs.inodeSize > 4096:
		return nil, errors.New("read ext4: a superblock that says nonsense")
	}
	fs.blockSize = 1024 << log
	if incompat&incompat64Bit != 0 {
		fs.descSize = int64(le.Uint16(s[0xfe:]))
		fs.blocks |= int64(le.Uint32(s[0x150:])) << 32
		if fs.descSize < 64 || fs.descSize > 1024 {
			return nil, errors.New("read ext4: a superblock that says nonsense")
		}
	}
	return fs, nil
}

// inode is what is read of one.
type inode struct {
	number     uint32
	raw        []byte
	mode       uint32
	uid, gid   uint32
	size       int64
	flags      uint32
	links      uint16
	xattrBlock int64
}

func (fs *FS) inode(number uint32) (*inode, error) {
	if number == 0 || number > fs.inodes {
		return nil, fmt.Errorf("read ext4: inode %d of %d", number, fs.inodes)
	}
	group, index := (number-1)/fs.perGroup, (number-1)%fs.perGroup
	d := make([]byte, fs.descSize)
	if _, err := fs.r.ReadAt(d, (fs.firstBlock+1)*fs.blockSize+int64(group)*fs.descSize); err != nil {
		return nil, fmt.Errorf("read ext4: %w", err)
	}
	table := int64(le.Uint32(d[8:]))
	if fs.descSize >= 64 {
		table |= int64(le.Uint32(d[0x28:])) << 32
	}
	n := &inode{number: number, raw: make([]byte, fs.inodeSize)}
	if _, err := fs.r.ReadAt(n.raw, table*fs.blockSize+int64(index)*fs.inodeSize); err != nil {
		return nil, fmt.Errorf("read ext4: inode %d: %w", number, err)
	}
	b := n.raw
	n.mode = uint32(le.Uint16(b))
	n.uid = uint32(le.Uint16(b[2:])) | uint32(le.Uint16(b[0x78:]))<<16
	n.gid = uint32(le.Uint16(b[0x18:])) | uint32(le.Uint16(b[0x7a:]))<<16
	n.size = int64(le.Uint32(b[4:])) | int64(le.Uint32(b[0x6c:]))<<32
	n.flags, n.links = le.Uint32(b[0x20:]), le.Uint16(b[0x1a:])
	n.xattrBlock = int64(le.Uint32(b[0x68:])) | int64(le.Uint16(b[0x76:]))<<32
	if n.size < 0 {
		return nil, fmt.Errorf("read ext4: inode %d has %d bytes", number, n.size)
	}
	return n, nil
}

// Flags of an inode.
const (
	flagEncrypted = 0x800
	flagExtents   = 0x80000
	flagInline    = 0x10000000
)

// run is a piece of a file: length blocks from logical on, at physical.
type run struct{ logical, length, physical int64 }

// runs returns the written pieces of a file, in order.
func (fs *FS) runs(n *inode) ([]run, error) {
	switch {
	case n.flags&flagInline != 0, n.flags&flagEncrypted != 0:
		return nil, fmt.Errorf("read ext4: inode %d is encrypted or inline, which is not read", n.number)
	case n.flags&flagExtents == 0:
		if n.size == 0 {
			return nil, nil
		}
		return nil, fmt.Errorf("read ext4: inode %d has no extents", n.number)
	}
	var out []run
	if err := fs.extents(n.raw[0x28:0x28+60], 5, &out); err != nil {
		return nil, fmt.Errorf("read ext4: inode %d: %w", n.number, err)
	}
	return out, nil
}

func (fs *FS) extents(b []byte, levels int, out *[]run) error {
	count, depth := int(le.Uint16(b[2:])), le.Uint16(b[6:])
	if le.Uint16(b) != 0xf30a || 12+12*count > len(b) || int(depth) > levels || len(*out) > 1<<20 {
		return errors.New("a tree of extents that is none")
	}
	for i := range count {
		e := b[12+12*i:]
		if depth > 0 {
			child := make([]byte, fs.blockSize)
			at := int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32
			if _, err := fs.r.ReadAt(child, at*fs.blockSize); err != nil {
				return err
			}
			if le.Uint16(child[6:]) >= depth {
				return errors.New("a tree of extents that does not end")
			}
			if err := fs.extents(child, levels-1, out); err != nil {
				return err
			}
			continue
		}
		length := int64(le.Uint16(e[4:]))
		if length > 32768 { // reserved, not written: reads as zeros
			continue
		}
		*out = append(*out, run{int64(le.Uint32(e)), length, int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32})
	}
	return nil
}

// file reads an inode's content.
type file struct {
	fs   *FS
	runs []run
	size int64
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	var end error
	if off >= f.size {
		return 0, io.EOF
	}
	if int64(len(p)) > f.size-off {
		p, end = p[:f.size-off], io.EOF
	}
	clear(p)
	bs := f.fs.blockSize
	for _, r := range f.runs {
		from, to := max(off, r.logical*bs), min(off+int64(len(p)), (r.logical+r.length)*bs)
		if from >= to {
			continue
		}
		if _, err := f.fs.r.ReadAt(p[from-off:to-off], r.physical*bs+from-r.logical*bs); err != nil {
			return 0, err
		}
	}
	return len(p), end
}

func (fs *FS) open(n *inode) (*file, error) {
	runs, err := fs.runs(n)
	return &file{fs, runs, n.size}, err
}

type child struct {
	name  string
	inode uint32
}

// list reads a folder, which may also be hashed: its tree is hidden in
// entries without an inode.
func (fs *FS) list(n *inode) ([]child, error) {
	if n.size > maxFolder {
		return nil, fmt.Errorf("read ext4: a folder of %d bytes", n.size)
	}
	f, err := fs.open(n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n.size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	var out []child
	for at := int64(0); at+8 <= int64(len(b)); {
		number, length, nameLen := le.Uint32(b[at:]), int64(le.Uint16(b[at+4:])), int64(b[at+6])
		if fs.blockSize == 65536 && (length == 0 || length == 65535) {
			length = 65536
		}
		if length < 8 || at+length > int64(len(b)) || 8+nameLen > length {
			return nil, errors.New("read ext4: a folder that is none")
		}
		name := string(b[at+8 : at+8+nameLen])
		at += length
		if number == 0 || name == "." || name == ".." {
			continue
		}
		if name == "" || strings.ContainsAny(name, "/\x00") {
			return nil, fmt.Errorf("read ext4: the name %q", name)
		}
		out = append(out, child{name, number})
	}
	return out, nil
}

// Tree returns everything below a folder, named from the root, with paths
// relative to it, a folder before its content. A folder that is not there has
// nothing.
func (fs *FS) Tree(folder string) ([]*squashfs.Entry, error) {
	n, err := fs.inode(2)
	if err != nil {
		return nil, err
	}
	for _, part := range strings.Split(path.Clean(folder), "/") {
		if part == "." || part == "" {
			continue
		}
		children, err := fs.list(n)
		if err != nil {
			return nil, err
		}
		found := false
		for _, c := range children {
			if c.name == part {
				if n, err = fs.inode(c.inode); err != nil {
					return nil, err
				}
				found = true
			}
		}
		if !found {
			return nil, nil
		}
	}
	w := &walker{fs: fs, seen: map[uint32]string{}}
	if n.mode&squashfs.TypeMask != squashfs.Dir {
		return nil, nil
	}
	err = w.walk(".", n)
	return w.out, err
}

type walker struct {
	fs   *FS
	seen map[uint32]string // inode -> its first path
	out  []*squashfs.Entry
}

func (w *walker) walk(at string, n *inode) error {
	w.seen[n.number] = at
	children, err := w.fs.list(n)
	if err != nil {
		return err
	}
	sort.Slice(children, func(i, j int) bool { return children[i].name < children[j].name })
	for _, c := range children {
		p := path.Join(at, c.name)
		first, again := w.seen[c.inode]
		ci, err := w.fs.inode(c.inode)
		if err != nil {
			return err
		}
		dir := ci.mode&squashfs.TypeMask == squashfs.Dir
		if again && dir || len(w.out) > maxEntries {
			return fmt.Errorf("read ext4: the folder %s is in two places, or there are too many files", p)
		}
		if again {
			w.out = append(w.out, &squashfs.Entry{Path: p, Link: first})
			continue
		}
		w.seen[c.inode] = p
		e, err := w.fs.entry(p, ci)
		if err != nil {
			return err
		}
		w.out = append(w.out, e)
		if dir {
			if err := w.walk(p, ci); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry describes an inode.
func (fs *FS) entry(p string, n *inode) (*squashfs.Entry, error) {
	e := &squashfs.Entry{Path: p, Mode: n.mode, UID: n.uid, GID: n.gid, Time: time.Unix(int64(int32(le.Uint32(n.raw[0x10:]))), 0).UTC()}
	var err error
	switch e.Type() {
	case squashfs.Regular:
		e.Size = n.size
		e.Open = func() (io.ReadCloser, error) {
			f, err := fs.open(n)
			return io.NopCloser(io.NewSectionReader(f, 0, n.size)), err
		}
	case squashfs.Symlink:
		if e.Target, err = fs.link(n); err != nil {
			return nil, err
		}
	case squashfs.Char, squashfs.Block:
		old, dev := le.Uint32(n.raw[0x28:]), le.Uint32(n.raw[0x2c:])
		e.Major, e.Minor = dev>>8&0xfff, dev&0xff|dev>>12&^0xff
		if old != 0 {
			e.Major, e.Minor = old>>8&0xff, old&0xff
		}
	}
	e.Xattrs, err = fs.xattrs(n)
	return e, err
}

func (fs *FS) link(n *inode) (string, error) {
	if n.size < 60 {
		return string(n.raw[0x28 : 0x28+n.size]), nil
	}
	if n.size > 4096 {
		return "", fmt.Errorf("read ext4: a link of %d bytes", n.size)
	}
	f, err := fs.open(n)
	if err != nil {
		return "", err
	}
	b := make([]byte, n.size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return "", err
	}
	return string(b), nil
}

// xattrPrefixes are names by number (fs/ext4/xattr.h); 2 and 3 are access
// lists, which nothing here reads.
var xattrPrefixes = map[byte]string{1: "user.", 4: "trusted.", 6: "security."}

const xattrMagic = 0xea020000

// xattrs reads the attributes in the inode and those in its block.
func (fs *FS) xattrs(n *inode) (map[string]string, error) {
	out := map[string]string{}
	if fs.inodeSize > 128+4 {
		at := 128 + int64(le.Uint16(n.raw[0x80:]))
		if at+4 <= fs.inodeSize && le.Uint32(n.raw[at:]) == xattrMagic {
			body := n.raw[at+4:]
			if err := readXattrs(body, body, out); err != nil {
				return nil, err
			}
		}
	}
	if n.xattrBlock != 0 {
		b := make([]byte, fs.blockSize)
		if _, err := fs.r.ReadAt(b, n.xattrBlock*fs.blockSize); err != nil {
			return nil, fmt.Errorf("read ext4: %w", err)
		}
		if le.Uint32(b) == xattrMagic {
			if err := readXattrs(b[32:], b, out); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// readXattrs reads entries; their values lie at offsets in values.
func readXattrs(entries, values []byte, out map[string]string) error {
	for len(entries) >= 16 && le.Uint32(entries) != 0 {
		nameLen := int(entries[0])
		offset, inum, size := int64(le.Uint16(entries[2:])), le.Uint32(entries[4:]), int64(le.Uint32(entries[8:]))
		if 16+nameLen > len(entries) || inum == 0 && offset+size > int64(len(values)) {
			return errors.New("read ext4: attributes that are none")
		}
		if prefix, ok := xattrPrefixes[entries[1]]; ok && inum == 0 {
			out[prefix+string(entries[16:16+nameLen])] = string(values[offset : offset+size])
		}
		entries = entries[min(len(entries), (16+nameLen+3)&^3):]
	}
	return nil
}
