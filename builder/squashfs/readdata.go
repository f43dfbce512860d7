package squashfs

import (
	"bytes"
	"io"
)

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
