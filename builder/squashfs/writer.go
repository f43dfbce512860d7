package squashfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

var le = binary.LittleEndian

// Write writes a file system of entries, in any order, into an empty file.
// Directories that are missing above an entry are made, root's and 0755. The
// error names the entry it is about. created is the superblock's time, and
// that of what has none.
func Write(f *os.File, entries []*Entry, created time.Time) error {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
	if err != nil {
		return err
	}
	defer enc.Close()
	w := &writer{f: f, at: superSize, enc: enc, created: created, ids: map[owner]uint16{}, xattrs: map[string]uint32{}}
	root, err := w.tree(entries)
	if err != nil {
		return err
	}
	if err := w.numberOwners(); err != nil {
		return err
	}
	if err := w.data(root); err != nil {
		return err
	}
	if err := w.flushFragment(); err != nil {
		return err
	}
	if _, err := w.inode(root, 0); err != nil {
		return err
	}
	return w.finish(root)
}

// node is a file of the tree; hard links share one.
type node struct {
	*Entry
	names    map[string]*node // of a directory
	number   uint32
	links    uint32
	blocks   []uint32
	start    int64
	fragment uint32
	offset   uint32 // of the tail in its fragment
	written  bool
	ref      uint64
	xattr    uint32
}

type owner struct {
	group bool
	id    uint32
}

type writer struct {
	f        *os.File
	at       int64 // end of what is written
	enc      *zstd.Encoder
	created  time.Time
	nodes    []*node
	ids      map[owner]uint16
	idTable  []uint32
	tail     []byte
	frags    []byte // the fragment table
	inodes   meta
	dirs     meta
	export   []uint64 // inode number - 1 -> reference
	xattrs   map[string]uint32
	xattrKV  meta
	xattrIDs []byte
}

// tree arranges the entries and resolves hard links.
func (w *writer) tree(entries []*Entry) (*node, error) {
	byPath := map[string]*node{".": {Entry: &Entry{Path: ".", Mode: Dir | 0o755}}}
	sorted := slices.Clone(entries)
	sort.SliceStable(sorted, func(i, j int) bool { return Less(sorted[i].Path, sorted[j].Path) })
	for _, e := range sorted {
		if !Clean(e.Path) {
			return nil, fmt.Errorf("write squashfs: %q is no path inside it", e.Path)
		}
		if old := byPath[e.Path]; old != nil && e.Path != "." {
			return nil, fmt.Errorf("write squashfs: %s is there twice", e.Path)
		}
		if e.Link == "" {
			byPath[e.Path] = &node{Entry: e}
		}
	}
	for _, e := range sorted {
		if e.Link == "" {
			continue
		}
		to := byPath[e.Link]
		if to == nil || to.Type() == Dir {
			return nil, fmt.Errorf("write squashfs: %s is a hard link to %s, which is no file of it", e.Path, e.Link)
		}
		byPath[e.Path] = to
	}
	paths := make([]string, 0, len(byPath))
	for p := range byPath {
		paths = append(paths, p)
	}
	for _, p := range paths {
		for d := path.Dir(p); byPath[d] == nil; d = path.Dir(d) {
			byPath[d] = &node{Entry: &Entry{Path: d, Mode: Dir | 0o755}}
		}
	}
	for p, n := range byPath {
		n.links++
		if p == "." {
			continue
		}
		d := byPath[path.Dir(p)]
		if d.Type() != Dir {
			return nil, fmt.Errorf("write squashfs: %s lies in %s, which is no directory", p, d.Path)
		}
		if d.names == nil {
			d.names = map[string]*node{}
		}
		d.names[path.Base(p)] = n
	}
	return byPath["."], w.number(byPath["."])
}

// number gives inode numbers in order of paths and checks each node once.
func (w *writer) number(n *node) error {
	if n.number == 0 {
		w.nodes = append(w.nodes, n)
		n.number = uint32(len(w.nodes))
		if inodeTypes[n.Type()] == 0 {
			return fmt.Errorf("write squashfs: %s has no type", n.Path)
		}
		for _, o := range []owner{{false, n.UID}, {true, n.GID}} {
			w.ids[o] = 0
		}
	}
	for _, name := range sortedNames(n.names) {
		if len(name) > 255 {
			return fmt.Errorf("write squashfs: the name of %s/%s is longer than 255 bytes", n.Path, name)
		}
		if err := w.number(n.names[name]); err != nil {
			return err
		}
	}
	return nil
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// numberOwners puts users, then groups, in the id table.
func (w *writer) numberOwners() error {
	all := make([]owner, 0, len(w.ids))
	for o := range w.ids {
		all = append(all, o)
	}
	if len(all) > 0xffff {
		return fmt.Errorf("write squashfs: %d owners, at most %d fit", len(all), 0xffff)
	}
	slices.SortFunc(all, func(a, b owner) int {
		if a.group != b.group {
			if b.group {
				return -1
			}
			return 1
		}
		return int(int64(a.id) - int64(b.id))
	})
	for i, o := range all {
		w.ids[o] = uint16(i)
		w.idTable = append(w.idTable, o.id)
	}
	return nil
}

func (w *writer) put(b []byte) error {
	_, err := w.f.WriteAt(b, w.at)
	w.at += int64(len(b))
	return err
}

// data writes the content of all files, in order of inodes.
func (w *writer) data(*node) error {
	buf := make([]byte, blockSize)
	for _, n := range w.nodes {
		if n.Type() != Regular {
			continue
		}
		if err := w.fileData(n, buf); err != nil {
			return fmt.Errorf("write squashfs: %s: %w", n.Path, err)
		}
	}
	return nil
}

func (w *writer) fileData(n *node, buf []byte) error {
	n.fragment, n.start = none32, w.at
	if n.Size == 0 {
		n.start = 0
		return nil
	}
	r, err := n.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	for left := n.Size; left > 0; {
		b := buf[:min(left, blockSize)]
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("its content ends early: %w", err)
		}
		left -= int64(len(b))
		if len(b) < blockSize { // a tail goes into a fragment
			if len(w.tail)+len(b) > blockSize {
				if err := w.flushFragment(); err != nil {
					return err
				}
			}
			n.fragment, n.offset = uint32(len(w.frags)/16), uint32(len(w.tail))
			w.tail = append(w.tail, b...)
			break
		}
		if zero(b) {
			n.blocks = append(n.blocks, 0)
			continue
		}
		size, err := w.block(b)
		if err != nil {
			return err
		}
		n.blocks = append(n.blocks, size)
	}
	if len(n.blocks) == 0 {
		n.start = 0
	}
	if k, _ := r.Read(buf[:1]); k > 0 {
		return fmt.Errorf("its content is longer than its %d bytes", n.Size)
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// block writes a data block and returns its size field.
func (w *writer) block(b []byte) (uint32, error) {
	if c := w.enc.EncodeAll(b, nil); len(c) < len(b) {
		return uint32(len(c)), w.put(c)
	}
	return uint32(len(b)) | rawBlock, w.put(b)
}

func (w *writer) flushFragment() error {
	if len(w.tail) == 0 {
		return nil
	}
	e := make([]byte, 16)
	le.PutUint64(e, uint64(w.at))
	size, err := w.block(w.tail)
	le.PutUint32(e[8:], size)
	w.frags = append(w.frags, e...)
	w.tail = w.tail[:0]
	return err
}

// inode writes the inode of n, after those of all it contains, and returns
// its reference.
func (w *writer) inode(n *node, parent uint32) (uint64, error) {
	if n.written {
		return n.ref, nil
	}
	n.written = true
	var err error
	if n.xattr, err = w.xattrSet(n); err != nil {
		return 0, err
	}
	var body []byte
	ext := n.xattr != none32
	switch n.Type() {
	case Dir:
		if body, err = w.directory(n, parent); err != nil {
			return 0, err
		}
		ext = true
	case Regular:
		ext = ext || n.links > 1 || n.Size > 1<<31 || n.start > 1<<31
		body = n.fileBody(ext)
	case Symlink:
		body = le.AppendUint32(nil, n.links)
		body = le.AppendUint32(body, uint32(len(n.Target)))
		body = append(body, n.Target...)
	default:
		body = le.AppendUint32(nil, n.links)
		if t := n.Type(); t == Block || t == Char {
			body = le.AppendUint32(body, n.Minor&0xff|n.Major<<8|n.Minor&^0xff<<12)
		}
	}
	if ext && n.Type() != Dir && n.Type() != Regular {
		body = le.AppendUint32(body, n.xattr)
	}
	kind := inodeTypes[n.Type()]
	if ext {
		kind += extended
	}
	h := make([]byte, 16, 16+len(body))
	le.PutUint16(h, kind)
	le.PutUint16(h[2:], uint16(n.Mode&0o7777))
	le.PutUint16(h[4:], w.ids[owner{false, n.UID}])
	le.PutUint16(h[6:], w.ids[owner{true, n.GID}])
	le.PutUint32(h[8:], uint32(w.time(n.Time).Unix()))
	le.PutUint32(h[12:], n.number)
	n.ref = w.inodes.ref()
	w.inodes.write(w.enc, append(h, body...))
	return n.ref, nil
}

func (w *writer) time(t time.Time) time.Time {
	if t.IsZero() || t.Unix() < 0 || t.Unix() > 1<<32-1 {
		return w.created
	}
	return t
}

func (n *node) fileBody(ext bool) []byte {
	var b []byte
	if ext {
		var sparse int64
		for _, s := range n.blocks {
			if s == 0 {
				sparse += blockSize
			}
		}
		b = le.AppendUint64(b, uint64(n.start))
		b = le.AppendUint64(b, uint64(n.Size))
		b = le.AppendUint64(b, uint64(sparse))
		for _, v := range []uint32{n.links, n.fragment, n.offset, n.xattr} {
			b = le.AppendUint32(b, v)
		}
	} else {
		for _, v := range []uint32{uint32(n.start), n.fragment, n.offset, uint32(n.Size)} {
			b = le.AppendUint32(b, v)
		}
	}
	for _, s := range n.blocks {
		b = le.AppendUint32(b, s)
	}
	return b
}

// directory writes the listing of n and returns the body of its extended
// inode.
func (w *writer) directory(n *node, parent uint32) ([]byte, error) {
	names := sortedNames(n.names)
	subdirs := uint32(0)
	for _, name := range names {
		c := n.names[name]
		if c.Type() == Dir {
			subdirs++
		}
		if _, err := w.inode(c, n.number); err != nil {
			return nil, err
		}
	}
	ref := w.dirs.ref()
	size := 0
	for len(names) > 0 {
		run := w.run(n, names)
		w.dirs.write(w.enc, run.bytes)
		size += len(run.bytes)
		names = names[run.count:]
	}
	if parent == 0 {
		parent = uint32(len(w.nodes)) + 1 // the root's, as mksquashfs does
	}
	var b []byte
	for _, v := range []uint32{2 + subdirs, uint32(size + listingExtra), uint32(ref >> 16), parent} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint16(b, 0) // no index
	b = le.AppendUint16(b, uint16(ref))
	return le.AppendUint32(b, n.xattr), nil
}

type listing struct {
	bytes []byte
	count int
}

// run returns one header and the entries that fit under it: at most 256, all
// in one block of inodes, numbers within 16 bits of the first.
func (w *writer) run(n *node, names []string) listing {
	first := n.names[names[0]]
	l := listing{bytes: make([]byte, 12)}
	for _, name := range names {
		c := n.names[name]
		delta := int64(c.number) - int64(first.number)
		if l.count == 256 || c.ref>>16 != first.ref>>16 || delta > 32767 || delta < -32768 {
			break
		}
		l.bytes = le.AppendUint16(l.bytes, uint16(c.ref))
		l.bytes = le.AppendUint16(l.bytes, uint16(delta))
		l.bytes = le.AppendUint16(l.bytes, inodeTypes[c.Type()])
		l.bytes = le.AppendUint16(l.bytes, uint16(len(name)-1))
		l.bytes = append(l.bytes, name...)
		l.count++
	}
	le.PutUint32(l.bytes, uint32(l.count-1))
	le.PutUint32(l.bytes[4:], uint32(first.ref>>16))
	le.PutUint32(l.bytes[8:], first.number)
	return l
}

// xattrSet stores the attributes of n and returns their number.
func (w *writer) xattrSet(n *node) (uint32, error) {
	if len(n.Xattrs) == 0 {
		return none32, nil
	}
	var b []byte
	for _, name := range sortedNames(n.Xattrs) {
		kind := slices.IndexFunc(xattrPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if kind < 0 {
			return 0, fmt.Errorf("write squashfs: %s: attributes such as %s cannot be kept", n.Path, name)
		}
		short := strings.TrimPrefix(name, xattrPrefixes[kind])
		b = le.AppendUint16(b, uint16(kind))
		b = le.AppendUint16(b, uint16(len(short)))
		b = append(b, short...)
		b = le.AppendUint32(b, uint32(len(n.Xattrs[name])))
		b = append(b, n.Xattrs[name]...)
	}
	if i, ok := w.xattrs[string(b)]; ok {
		return i, nil
	}
	i := uint32(len(w.xattrIDs) / 16)
	w.xattrs[string(b)] = i
	w.xattrIDs = le.AppendUint64(w.xattrIDs, w.xattrKV.ref())
	w.xattrIDs = le.AppendUint32(w.xattrIDs, uint32(len(n.Xattrs)))
	w.xattrIDs = le.AppendUint32(w.xattrIDs, uint32(len(b)))
	w.xattrKV.write(w.enc, b)
	return i, nil
}

// finish writes all tables and the superblock.
func (w *writer) finish(root *node) error {
	super := make([]byte, superSize)
	flags := uint16(flagRawIDs | flagExport | flagDuplic)
	le.PutUint64(super[64:], uint64(w.at))
	if err := w.put(w.inodes.close(w.enc)); err != nil {
		return err
	}
	le.PutUint64(super[72:], uint64(w.at))
	if err := w.put(w.dirs.close(w.enc)); err != nil {
		return err
	}
	le.PutUint64(super[80:], none64)
	if len(w.frags) > 0 {
		if err := w.table(super[80:], w.frags, w.enc); err != nil {
			return err
		}
	}
	refs := make([]byte, 8*len(w.nodes))
	for _, n := range w.nodes {
		le.PutUint64(refs[8*(n.number-1):], n.ref)
	}
	if err := w.table(super[88:], refs, w.enc); err != nil {
		return err
	}
	var ids []byte
	for _, id := range w.idTable {
		ids = le.AppendUint32(ids, id)
	}
	if err := w.table(super[48:], ids, nil); err != nil {
		return err
	}
	if err := w.xattrTable(super[56:]); err != nil {
		return err
	}
	if len(w.xattrIDs) == 0 {
		flags |= flagNoXattrs
	}
	for at, v := range map[int]uint32{0: magic, 4: uint32(len(w.nodes)), 8: uint32(w.created.Unix()), 12: blockSize, 16: uint32(len(w.frags) / 16)} {
		le.PutUint32(super[at:], v)
	}
	for at, v := range map[int]uint16{20: compressZstd, 22: blockLog, 24: flags, 26: uint16(len(w.idTable)), 28: 4} {
		le.PutUint16(super[at:], v)
	}
	le.PutUint64(super[32:], root.ref)
	le.PutUint64(super[40:], uint64(w.at))
	if err := w.put(make([]byte, (4096-w.at%4096)%4096)); err != nil {
		return err
	}
	_, err := w.f.WriteAt(super, 0)
	return err
}

// table writes metadata blocks and, after them, where each begins; the place
// of that list goes into the superblock's field.
func (w *writer) table(field, b []byte, enc *zstd.Encoder) error {
	var index []byte
	for len(b) > 0 {
		n := min(len(b), metaSize)
		index = le.AppendUint64(index, uint64(w.at))
		if err := w.put(metaBlock(enc, b[:n])); err != nil {
			return err
		}
		b = b[n:]
	}
	le.PutUint64(field, uint64(w.at))
	return w.put(index)
}

func (w *writer) xattrTable(field []byte) error {
	le.PutUint64(field, none64)
	if len(w.xattrIDs) == 0 {
		return nil
	}
	kv := w.at
	if err := w.put(w.xattrKV.close(w.enc)); err != nil {
		return err
	}
	var index bytes.Buffer
	for b := w.xattrIDs; len(b) > 0; {
		n := min(len(b), metaSize)
		index.Write(le.AppendUint64(nil, uint64(w.at)))
		if err := w.put(metaBlock(w.enc, b[:n])); err != nil {
			return err
		}
		b = b[n:]
	}
	le.PutUint64(field, uint64(w.at))
	head := le.AppendUint64(nil, uint64(kv))
	head = le.AppendUint32(head, uint32(len(w.xattrIDs)/16))
	head = le.AppendUint32(head, 0)
	return w.put(append(head, index.Bytes()...))
}

// meta is a stream of metadata blocks.
type meta struct {
	out  []byte // finished blocks
	open []byte // less than one block
}

// ref is where the next byte will be: the block's place << 16, the offset in it.
func (m *meta) ref() uint64 { return uint64(len(m.out))<<16 | uint64(len(m.open)) }

func (m *meta) write(enc *zstd.Encoder, b []byte) {
	m.open = append(m.open, b...)
	for len(m.open) >= metaSize {
		m.out = append(m.out, metaBlock(enc, m.open[:metaSize])...)
		m.open = append([]byte(nil), m.open[metaSize:]...)
	}
}

func (m *meta) close(enc *zstd.Encoder) []byte {
	if len(m.open) > 0 {
		m.out = append(m.out, metaBlock(enc, m.open)...)
		m.open = nil
	}
	return m.out
}

// metaBlock returns one metadata block; without an encoder it is stored as it is.
func metaBlock(enc *zstd.Encoder, b []byte) []byte {
	if enc != nil {
		if c := enc.EncodeAll(b, nil); len(c) < len(b) {
			return append(le.AppendUint16(nil, uint16(len(c))), c...)
		}
	}
	return append(le.AppendUint16(nil, uint16(len(b))|rawMeta), b...)
}
