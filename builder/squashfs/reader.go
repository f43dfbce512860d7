package squashfs

import (
	"bytes"
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

type metaCached struct {
	data []byte
	next int64
}

type xattrID struct {
	ref   uint64
	count uint32
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

// tables reads ids, fragments and attributes.
func (im *Image) tables() error {
	ids, at, err := im.table(48, int(le.Uint16(im.super[26:]))*4)
	if err != nil {
		return err
	}
	im.idAt = at
	for i := 0; i < len(ids); i += 4 {
		im.ids = append(im.ids, le.Uint32(ids[i:]))
	}
	n := le.Uint32(im.super[16:])
	if n > maxInodes {
		return malformed("%d fragments", n)
	}
	if im.frags, _, err = im.table(80, int(n)*16); err != nil {
		return err
	}
	xattrs := le.Uint64(im.super[56:])
	if xattrs == none64 {
		return nil
	}
	head := make([]byte, 16)
	if err := im.readAt(head, int64(xattrs)); err != nil {
		return err
	}
	count := le.Uint32(head[8:])
	if count > maxInodes {
		return malformed("%d sets of attributes", count)
	}
	b, _, err := im.tableAt(int64(xattrs)+16, int(count)*16)
	if err != nil {
		return err
	}
	for i := 0; i < len(b); i += 16 {
		im.xattrs = append(im.xattrs, xattrID{le.Uint64(b[i:]), le.Uint32(b[i+8:])})
	}
	return nil
}

func (im *Image) table(field, size int) ([]byte, int64, error) {
	if size == 0 {
		return nil, 0, nil
	}
	return im.tableAt(int64(le.Uint64(im.super[field:])), size)
}

// tableAt reads a table of size bytes whose list of blocks is at index. at is
// where its bytes lie when they lie in one uncompressed block.
func (im *Image) tableAt(index int64, size int) (b []byte, at int64, err error) {
	blocks := (size + metaSize - 1) / metaSize
	list := make([]byte, 8*blocks)
	if err := im.readAt(list, index); err != nil {
		return nil, 0, err
	}
	for i := range blocks {
		place := int64(le.Uint64(list[8*i:]))
		m, err := im.metaBlock(place)
		if err != nil {
			return nil, 0, err
		}
		if blocks == 1 && m.next-place-2 == int64(len(m.data)) {
			at = place + 2
		}
		b = append(b, m.data...)
	}
	if len(b) != size {
		return nil, 0, malformed("a table has %d bytes instead of %d", len(b), size)
	}
	return b, at, nil
}

func (im *Image) readAt(b []byte, at int64) error {
	if at < 0 || at > im.size-int64(len(b)) {
		return malformed("it points outside itself")
	}
	if _, err := im.r.ReadAt(b, at); err != nil {
		return fmt.Errorf("read squashfs: %w", err)
	}
	return nil
}

// metaBlock returns the metadata block at a place of the file.
func (im *Image) metaBlock(at int64) (metaCached, error) {
	im.mu.Lock()
	m, ok := im.meta[at]
	im.mu.Unlock()
	if ok {
		return m, nil
	}
	var head [2]byte
	if err := im.readAt(head[:], at); err != nil {
		return m, err
	}
	n := le.Uint16(head[:])
	b := make([]byte, n&^rawMeta)
	if err := im.readAt(b, at+2); err != nil {
		return m, err
	}
	m = metaCached{data: b, next: at + 2 + int64(len(b))}
	if n&rawMeta == 0 {
		var err error
		if m.data, err = im.dec.DecodeAll(b, nil); err != nil {
			return m, malformed("%v", err)
		}
	}
	if len(m.data) > metaSize || len(m.data) == 0 {
		return m, malformed("a metadata block of %d bytes", len(m.data))
	}
	im.mu.Lock()
	im.meta[at] = m
	im.mu.Unlock()
	return m, nil
}

// stream reads metadata from a reference on.
type stream struct {
	im   *Image
	at   int64 // the block
	off  int
	fail error
}

func (im *Image) stream(table int64, ref uint64) *stream {
	return &stream{im: im, at: table + int64(ref>>16), off: int(ref & 0xffff)}
}

// bytes returns the next n bytes, zeros after an error.
func (s *stream) bytes(n int) []byte {
	out := make([]byte, 0, min(n, 1<<16))
	for s.fail == nil && len(out) < n {
		m, err := s.im.metaBlock(s.at)
		if err != nil {
			s.fail = err
			break
		}
		if s.off > len(m.data) {
			s.fail = malformed("a reference outside its block")
			break
		}
		k := min(n-len(out), len(m.data)-s.off)
		out = append(out, m.data[s.off:s.off+k]...)
		if s.off += k; s.off == len(m.data) {
			s.at, s.off = m.next, 0
		}
	}
	if s.fail != nil {
		return make([]byte, n)
	}
	return out
}

func (s *stream) u16() uint16 { return le.Uint16(s.bytes(2)) }
func (s *stream) u32() uint32 { return le.Uint32(s.bytes(4)) }
func (s *stream) u64() uint64 { return le.Uint64(s.bytes(8)) }

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

// xattrSet reads a set of attributes.
func (im *Image) xattrSet(i uint32) (map[string]string, error) {
	if int64(i) >= int64(len(im.xattrs)) {
		return nil, malformed("attributes that are not there")
	}
	head := make([]byte, 8)
	if err := im.readAt(head, int64(le.Uint64(im.super[56:]))); err != nil {
		return nil, err
	}
	kv := int64(le.Uint64(head))
	s := im.stream(kv, im.xattrs[i].ref)
	out := map[string]string{}
	for range min(im.xattrs[i].count, 1<<10) {
		kind, n := s.u16(), s.u16()
		name := string(s.bytes(int(n)))
		value := s.u32()
		if int(kind&0xff) >= len(xattrPrefixes) || value > 1<<16 || s.fail != nil {
			return nil, malformed("attributes")
		}
		data := s.bytes(int(value))
		if kind&0x100 != 0 { // the value lies elsewhere
			if value != 8 {
				return nil, malformed("attributes")
			}
			o := im.stream(kv, le.Uint64(data))
			n := o.u32()
			if n > 1<<16 || o.fail != nil {
				return nil, malformed("attributes")
			}
			data = o.bytes(int(n))
			s.fail = errors.Join(s.fail, o.fail)
		}
		out[xattrPrefixes[kind&0xff]+name] = string(data)
	}
	return out, s.fail
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

// content is where a file's bytes are.
type content struct {
	im       *Image
	start    int64
	size     int64
	blocks   []uint32
	fragment uint32
	offset   uint32
}

// reader reads a content once.
type reader struct {
	*content
	at   int64 // of the next block in the image
	next int   // block
	done int64
	buf  bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if r.buf.Len() == 0 {
		if r.done >= r.size {
			return 0, io.EOF
		}
		b, err := r.more(min(r.size-r.done, int64(r.im.block)))
		if err != nil {
			return 0, err
		}
		r.done += int64(len(b))
		r.buf.Reset(b)
	}
	return r.buf.Read(p)
}

// more returns the next n bytes, one block or the tail.
func (r *reader) more(n int64) ([]byte, error) {
	if r.next < len(r.blocks) {
		size := r.blocks[r.next]
		r.next++
		if size == 0 {
			return make([]byte, n), nil
		}
		b, err := r.im.dataBlock(r.at, size)
		r.at += int64(size &^ rawBlock)
		if err == nil && int64(len(b)) != n {
			err = malformed("a block of %d bytes instead of %d", len(b), n)
		}
		return b, err
	}
	i := int64(r.fragment) * 16
	if i+16 > int64(len(r.im.frags)) {
		return nil, malformed("a tail that is not there")
	}
	b, err := r.im.dataBlock(int64(le.Uint64(r.im.frags[i:])), le.Uint32(r.im.frags[i+8:]))
	if err != nil {
		return nil, err
	}
	if int64(r.offset)+n > int64(len(b)) {
		return nil, malformed("a tail outside its block")
	}
	return b[r.offset : int64(r.offset)+n], nil
}

func (im *Image) dataBlock(at int64, size uint32) ([]byte, error) {
	n := size &^ rawBlock
	if n > im.block {
		return nil, malformed("a block of %d bytes", n)
	}
	b := make([]byte, n)
	if err := im.readAt(b, at); err != nil {
		return nil, err
	}
	if size&rawBlock != 0 {
		return b, nil
	}
	out, err := im.dec.DecodeAll(b, nil)
	if err != nil || len(out) > int(im.block) {
		return nil, malformed("a data block: %v", err)
	}
	return out, nil
}

// Reown returns what to write where, so that files of each user and group
// that the maps name belong to another. Ids that the maps do not name stay.
func (im *Image) Reown(users, groups map[uint32]uint32) (offset int64, data []byte, err error) {
	want := make(map[uint16]uint32)
	for _, e := range append([]*Entry{im.byPath["."]}, im.entries...) {
		o, ok := im.owners[e]
		if !ok || e.Link != "" {
			continue
		}
		for i, to := range []map[uint32]uint32{users, groups} {
			id := im.ids[o[i]]
			if n, ok := to[id]; ok {
				id = n
			}
			if old, ok := want[o[i]]; ok && old != id {
				return 0, nil, errors.New("user and group of one number cannot be given different ones: pack it with builder module pack")
			}
			want[o[i]] = id
		}
	}
	data = make([]byte, 4*len(im.ids))
	changed := false
	for i, id := range im.ids {
		n, ok := want[uint16(i)]
		if !ok {
			n = id
		}
		changed = changed || n != id
		le.PutUint32(data[4*i:], n)
	}
	if !changed {
		return 0, nil, nil
	}
	if im.idAt == 0 {
		return 0, nil, errors.New("its table of owners is compressed: pack it with builder module pack")
	}
	return im.idAt, data, nil
}
