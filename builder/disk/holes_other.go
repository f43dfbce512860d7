//go:build !linux

package disk

import "os"

func dataRanges(f *os.File, size int64) ([]dataRange, error) { return scanRanges(f, size) }
