package format

import (
	"errors"

	"golang.org/x/sys/unix"
)

// exchange swaps the names a and b of one folder's file system, renameat2(2).
func exchange(a, b string) error {
	err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	if err == unix.EINVAL { // of a file system that cannot
		return errors.ErrUnsupported
	}
	return err
}
