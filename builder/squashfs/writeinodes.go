package squashfs

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

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
