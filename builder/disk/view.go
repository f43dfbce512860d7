package disk

import "io"

// View describes a disk that r holds, of which all but ranges is zeros. The
// parts that without lists are zeros too. r is the caller's to close.
func View(r io.ReaderAt, size int64, ranges, without []Range) *Image {
	im := &Image{size: size}
	for _, a := range ranges {
		parts := []Range{a}
		for _, w := range without {
			var rest []Range
			for _, p := range parts {
				for _, q := range []Range{{p.Start, min(p.End, w.Start)}, {max(p.Start, w.End), p.End}} {
					if q.Start < q.End {
						rest = append(rest, q)
					}
				}
			}
			parts = rest
		}
		for _, p := range parts {
			im.extents = append(im.extents, Extent{Offset: p.Start, Length: p.End - p.Start, source: r, sourceStart: p.Start})
		}
	}
	return im
}
