package squashfs

import (
	"fmt"
	"io"
)

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
