package disk

import (
	"bytes"
	"io"
)

// Range is a part of a file or disk that may hold something: from Start up to
// End, which is not part of it.
type Range struct{ Start, End int64 }

// scanBlock is the size in which scanRanges looks for zeros.
const scanBlock = 64 << 10

// scanRanges finds holes by reading: what is zeros in whole blocks counts as
// one. It serves where the system cannot say where they are.
func scanRanges(r io.ReaderAt, size int64) ([]Range, error) {
	var ranges []Range
	buf, zeros := make([]byte, 16*scanBlock), make([]byte, scanBlock)
	for pos := int64(0); pos < size; pos += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), size-pos)]
		if n, err := r.ReadAt(b, pos); n < len(b) {
			return nil, err
		}
		for at := 0; at < len(b); at += scanBlock {
			block := b[at:min(at+scanBlock, len(b))]
			if bytes.Equal(block, zeros[:len(block)]) {
				continue
			}
			start := pos + int64(at)
			end := start + int64(len(block))
			if last := len(ranges) - 1; last >= 0 && ranges[last].End == start {
				ranges[last].End = end
			} else {
				ranges = append(ranges, Range{start, end})
			}
		}
	}
	return ranges, nil
}
