package squashfs

import (
	"errors"
	"fmt"
)

type metaCached struct {
	data []byte
	next int64
}

type xattrID struct {
	ref   uint64
	count uint32
}

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
