//go:build unix

package scratch

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lock holds f until it is closed; it waits for a sweeper that looks at it.
func lock(f *os.File) {
	for unix.Flock(int(f.Fd()), unix.LOCK_EX) == unix.EINTR {
	}
}

// tryLock says whether nobody holds f, and whether that can be known.
func tryLock(f *os.File) (free, known bool) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, true
	}
	return err == nil, err == nil
}
