package format

import (
	"bytes"
	"fmt"
	"iter"

	"gridappliance/builder/disk"
)

// blocks walks a disk in blocks of one size and passes over those that hold
// nothing but zeros.
type blocks struct {
	im  *disk.Image
	buf []byte // one block
	at  int    // first extent of the disk that may still have content
	err error  // what ended a walk
}

func newBlocks(im *disk.Image, size int) *blocks { return &blocks{im: im, buf: make([]byte, size)} }

// in yields the blocks with content that begin at or after start, which is the
// beginning of one, and before end; ask err afterwards. A block that the disk's
// end cuts off is filled up with zeros. A block's data is valid until the next;
// walks never go backwards.
func (b *blocks) in(start, end int64) iter.Seq2[int64, []byte] {
	size := int64(len(b.buf))
	return func(yield func(int64, []byte) bool) {
		for pos := b.content(start); pos < end; pos = b.content(pos + size) {
			n, err := b.im.ReadAt(b.buf[:min(size, b.im.Size()-pos)], pos)
			if err != nil {
				b.err = err
				return
			}
			clear(b.buf[n:])
			if !zero(b.buf) && !yield(pos, b.buf) {
				return
			}
		}
	}
}

// content returns the beginning of the first block at or after pos that an
// extent reaches into.
func (b *blocks) content(pos int64) int64 {
	size := int64(len(b.buf))
	for extents := b.im.Extents(); b.at < len(extents); b.at++ {
		if e := extents[b.at]; e.Offset+e.Length > pos {
			return max(pos, e.Offset/size*size)
		}
	}
	return b.im.Size()
}

var zeros [64 << 10]byte

func zero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// wholeUnits refuses a disk whose size is not a whole number of units: a
// format's reader would round it, up or down.
func wholeUnits(im *disk.Image, unit int64) error {
	if im.Size() <= 0 || im.Size()%unit != 0 {
		return fmt.Errorf("a disk of %d bytes is not a whole number of %d bytes", im.Size(), unit)
	}
	return nil
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

func roundUp(n, unit int64) int64 { return ceilDiv(n, unit) * unit }
