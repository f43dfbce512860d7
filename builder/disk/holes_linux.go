package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// dataRanges returns the ranges of f that hold data (lseek(2), SEEK_DATA). A
// file system that does not know holes says that everything is data.
func dataRanges(f *os.File, size int64) ([]dataRange, error) {
	var ranges []dataRange
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
		ranges = append(ranges, dataRange{start, min(end, size)})
		pos = end
	}
	return ranges, nil
}
