//go:build unix

package control

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// narrow gives a socket its mode before it has a name.
func narrow(_, _ string, c syscall.RawConn) error {
	var chmodErr error
	err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) })
	return errors.Join(err, chmodErr)
}
