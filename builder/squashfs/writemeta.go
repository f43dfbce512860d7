package squashfs

import (
	"bytes"

	"github.com/klauspost/compress/zstd"
)

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
