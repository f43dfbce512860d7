package squashfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"slices"
	"sort"
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
