package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Ranges returns the ranges of f that hold data (lseek(2), SEEK_DATA). A
// file system that does not know holes says that everything is data.
func Ranges(f *os.File, size int64) ([]Range, error) {
	var ranges []Range
	for pos := int64(0); pos < size; {
		start, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole from here
			break
		}
		if err != nil {
			return nil, err
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, Range{start, min(end, size)})
		pos = end
	}
	return ranges, nil
}
