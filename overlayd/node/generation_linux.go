package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// WatchGeneration calls changed when the kernel says that this virtual machine
// is a copy, or was put back to an earlier moment (uevent NEW_VMGENID of the
// driver vmgenid, from Linux 6.10), until ctx ends. Without such a driver, and
// in a container, nothing is ever said.
func WatchGeneration(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("watch the machine's generation: %w", err)
	}
	events := os.NewFile(uintptr(fd), "uevents")
	defer events.Close()
	const kernel = 1 // the group of the kernel's own events
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernel}); err != nil {
		return fmt.Errorf("watch the machine's generation: %w", err)
	}
	defer context.AfterFunc(ctx, func() { events.Close() })()
	raw, err := events.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch the machine's generation: %w", err)
	}
	b := make([]byte, 16<<10)
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		switch {
		case err != nil: // closed
			return nil
		case errors.Is(failed, unix.ENOBUFS), errors.Is(failed, unix.EINTR):
			continue
		case failed != nil:
			return fmt.Errorf("watch the machine's generation: %w", failed)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid == 0 && isNewGeneration(b[:n]) { // 0: the kernel
			changed()
		}
	}
}

// isNewGeneration reads a uevent: "change@/devices/...", then NAME=VALUE, each
// with a zero byte behind it.
func isNewGeneration(event []byte) bool {
	for field := range bytes.SplitSeq(event, []byte{0}) {
		if string(field) == "NEW_VMGENID=1" {
			return true
		}
	}
	return false
}
