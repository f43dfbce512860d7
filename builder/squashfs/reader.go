package squashfs

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Image is an opened file system.
type Image struct {
	r       io.ReaderAt
	size    int64
	dec     *zstd.Decoder
	super   [superSize]byte
	block   uint32
	ids     []uint32
	idAt    int64 // of the id table's first entry; 0 when it is compressed
	frags   []byte
	xattrs  []xattrID
	entries []*Entry // in order of paths
	byPath  map[string]*Entry
	owners  map[*Entry][2]uint16 // index of user and group in ids

	mu   sync.Mutex
	meta map[int64]metaCached
}

// errFormat is wrapped where the bytes are not what the format allows.
var errFormat = errors.New("not a whole squashfs of the form the builder writes")

func malformed(what string, args ...any) error {
	return fmt.Errorf("%w: "+what, append([]any{errFormat}, args...)...)
}

// Open reads the tables of the file system that begins at r's first byte and
// has at most size bytes. r is read as long as the Image is used.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	im := &Image{r: r, byPath: map[string]*Entry{}, owners: map[*Entry][2]uint16{}, meta: map[int64]metaCached{}}
	if _, err := r.ReadAt(im.super[:], 0); err != nil || le.Uint32(im.super[:]) != magic || le.Uint16(im.super[28:]) != 4 {
		return nil, malformed("no superblock")
	}
	if c := le.Uint16(im.super[20:]); c != compressZstd {
		return nil, malformed("compression %d instead of zstd", c)
	}
	im.block = le.Uint32(im.super[12:])
	if log := le.Uint16(im.super[22:]); log < 12 || log > 20 || im.block != 1<<log {
		return nil, malformed("block size %d", im.block)
	}
	used := le.Uint64(im.super[40:])
	if used < superSize || used > uint64(size) {
		return nil, malformed("%d bytes instead of %d: cut short?", size, used)
	}
	im.size = int64(used)
	if le.Uint32(im.super[4:]) > maxInodes {
		return nil, malformed("%d files, more than %d", le.Uint32(im.super[4:]), maxInodes)
	}
	var err error
	if im.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4<<20)); err != nil {
		return nil, err
	}
	if err := im.tables(); err != nil {
		return nil, err
	}
	if err := im.walk(); err != nil {
		return nil, err
	}
	im.meta = map[int64]metaCached{} // what content needs comes again
	return im, nil
}

// Entries returns everything but the root, a directory before its content.
// The caller must not change them.
func (im *Image) Entries() []*Entry { return im.entries }

// Lookup returns the entry with a path, or nil. No link is followed.
func (im *Image) Lookup(p string) *Entry { return im.byPath[p] }

// ReadFile returns a regular file of at most limit bytes, hard links
// followed. The error wraps ErrAbsent where there is none.
func (im *Image) ReadFile(p string, limit int64) ([]byte, error) {
	e := im.byPath[p]
	if e != nil && e.Link != "" {
		e = im.byPath[e.Link]
	}
	if e == nil || e.Type() != Regular {
		return nil, fmt.Errorf("read %s: %w", p, ErrAbsent)
	}
	if e.Size > limit {
		return nil, fmt.Errorf("read %s: %d bytes, more than %d", p, e.Size, limit)
	}
	f, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	return b, nil
}

// ErrAbsent says that a file is not there.
var ErrAbsent = errors.New("no such file in the squashfs")

// listed is what a directory needs to be read.
type listed struct {
	path   string
	start  uint64 // reference of the listing
	size   int
	number uint32
}

// walk reads all inodes, breadth first. An inode that is a directory is read
// once, so that a loop is an error and not a loop.
func (im *Image) walk() error {
	names := map[uint32]*Entry{} // inode number -> first name
	root, dir, _, err := im.inode(".", le.Uint64(im.super[32:]))
	if err != nil {
		return err
	}
	if dir == nil {
		return malformed("the root is no directory")
	}
	im.byPath["."] = root
	seen := map[uint32]bool{dir.number: true}
	for queue := []*listed{dir}; len(queue) > 0; queue = queue[1:] {
		children, err := im.list(queue[0])
		if err != nil {
			return err
		}
		for _, c := range children {
			e, sub, number, err := im.inode(path.Join(queue[0].path, c.name), c.ref)
			if err != nil {
				return err
			}
			switch first := names[number]; {
			case im.byPath[e.Path] != nil:
				return malformed("%s is there twice", e.Path)
			case sub != nil && seen[number]:
				return malformed("the directory %s is inside itself, or in two places", e.Path)
			case sub != nil:
				seen[number] = true
				queue = append(queue, sub)
			case first != nil:
				e = &Entry{Path: e.Path, Link: first.Path}
			default:
				names[number] = e
			}
			im.byPath[e.Path] = e
			im.entries = append(im.entries, e)
			if len(im.entries) > maxInodes {
				return malformed("more than %d names", maxInodes)
			}
		}
	}
	slices.SortFunc(im.entries, func(a, b *Entry) int {
		return strings.Compare(strings.ReplaceAll(a.Path, "/", "\x00"), strings.ReplaceAll(b.Path, "/", "\x00"))
	})
	im.orderLinks()
	return nil
}

// orderLinks lets the first name in order of paths be the file.
func (im *Image) orderLinks() {
	first := map[string]string{}
	for i, e := range im.entries {
		if e.Link == "" {
			first[e.Path] = e.Path
			continue
		}
		to := e.Link
		if first[to] == "" { // the file comes later: exchange the two
			file := im.byPath[to]
			owners := im.owners[file]
			delete(im.owners, file)
			moved := *file
			moved.Path = e.Path
			*file = Entry{Path: to, Link: e.Path}
			im.entries[i], im.byPath[e.Path] = &moved, &moved
			im.owners[&moved] = owners
			first[to], first[e.Path] = e.Path, e.Path
			continue
		}
		e.Link = first[to]
	}
}

type child struct {
	name string
	ref  uint64
}

// list reads a directory.
func (im *Image) list(d *listed) ([]child, error) {
	var out []child
	s := im.stream(int64(le.Uint64(im.super[72:])), d.start)
	for left := d.size; left > 0; {
		count, start := s.u32(), s.u32()
		s.u32() // the first inode's number; inodes have their own
		left -= 12
		if count >= 256 {
			return nil, malformed("%d names under one header in %s", count, d.path)
		}
		for range count + 1 {
			offset := s.u16()
			s.bytes(4)
			n := int(s.u16()) + 1
			if n > 255 {
				return nil, malformed("a name of %d bytes in %s", n, d.path)
			}
			name := string(s.bytes(n))
			if s.fail != nil {
				return nil, s.fail
			}
			if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return nil, fmt.Errorf("%s holds the name %q, which climbs out of it", d.path, name)
			}
			left -= 8 + n
			out = append(out, child{name, uint64(start)<<16 | uint64(offset)})
		}
	}
	return out, s.fail
}

// inode reads one inode; dir is set for a directory.
func (im *Image) inode(p string, ref uint64) (e *Entry, dir *listed, number uint32, err error) {
	s := im.stream(int64(le.Uint64(im.super[64:])), ref)
	kind, mode, uid, gid := s.u16(), s.u16(), s.u16(), s.u16()
	mtime := s.u32()
	number = s.u32()
	ext := kind > extended
	if ext {
		kind -= extended
	}
	if s.fail == nil && (modeTypes[kind] == 0 || int(uid) >= len(im.ids) || int(gid) >= len(im.ids)) {
		return nil, nil, 0, malformed("%s: a type or an owner that is not known", p)
	}
	if s.fail != nil {
		return nil, nil, 0, s.fail
	}
	e = &Entry{Path: p, Mode: modeTypes[kind] | uint32(mode)&0o7777, UID: im.ids[uid], GID: im.ids[gid], Time: time.Unix(int64(mtime), 0).UTC()}
	im.owners[e] = [2]uint16{uid, gid}
	xattr := none32
	switch kind {
	case inodeDir:
		dir, xattr = s.dir(p, number, ext)
	case inodeFile:
		xattr, err = im.file(s, e, ext)
	case inodeSymlink:
		s.u32()
		n := s.u32()
		if n > 4096 {
			return nil, nil, 0, malformed("%s: a link of %d bytes", p, n)
		}
		e.Target = string(s.bytes(int(n)))
	case inodeBlock, inodeChar:
		s.u32()
		rdev := s.u32()
		e.Major, e.Minor = rdev>>8&0xfff, rdev&0xff|rdev>>12&^0xff
	default:
		s.u32()
	}
	if ext && kind != inodeDir && kind != inodeFile {
		xattr = s.u32()
	}
	if err == nil {
		err = s.fail
	}
	if err == nil && xattr != none32 {
		e.Xattrs, err = im.xattrSet(xattr)
	}
	return e, dir, number, err
}

func (s *stream) dir(p string, number uint32, ext bool) (*listed, uint32) {
	d := &listed{path: p, number: number}
	xattr := none32
	var start uint32
	var offset uint16
	if ext {
		s.u32()
		d.size, start = int(s.u32()), s.u32()
		s.u32()
		s.u16()
		offset, xattr = s.u16(), s.u32()
	} else {
		start = s.u32()
		s.u32()
		d.size, offset = int(s.u16()), s.u16()
		s.u32()
	}
	d.start = uint64(start)<<16 | uint64(offset)
	d.size -= listingExtra
	return d, xattr
}

// file reads the rest of a regular file's inode.
func (im *Image) file(s *stream, e *Entry, ext bool) (xattr uint32, err error) {
	c := &content{im: im, fragment: none32}
	xattr = none32
	if ext {
		c.start, e.Size = int64(s.u64()), int64(s.u64())
		s.u64()
		s.u32()
		c.fragment, c.offset, xattr = s.u32(), s.u32(), s.u32()
	} else {
		c.start, c.fragment, c.offset, e.Size = int64(s.u32()), s.u32(), s.u32(), int64(s.u32())
	}
	if e.Size < 0 || e.Size > 1<<44 {
		return 0, malformed("%s: %d bytes", e.Path, e.Size)
	}
	blocks := e.Size / int64(im.block)
	if c.fragment == none32 && e.Size%int64(im.block) != 0 {
		blocks++
	}
	// An honest list lies in the file, so it cannot be longer than it.
	if blocks*4 > im.size*64 {
		return 0, malformed("%s: %d blocks", e.Path, blocks)
	}
	list := s.bytes(int(blocks) * 4)
	for i := 0; i < len(list); i += 4 {
		c.blocks = append(c.blocks, le.Uint32(list[i:]))
	}
	c.size = e.Size
	e.Open = func() (io.ReadCloser, error) { return io.NopCloser(&reader{content: c, at: c.start}), nil }
	return xattr, s.fail
}
