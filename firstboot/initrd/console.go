//go:build linux

package main

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// console writes to every console of the kernel, and to the kernel's log so
// that the journal has it too.
type console struct{}

// say writes "grid-appliance: line". A console that does not take it within
// a moment is passed over.
func (c *console) say(line string) {
	line = "grid-appliance: " + line
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		f.WriteString("<5>" + line + "\n")
		f.Close()
	}
	names := []string{"console"}
	if active, err := os.ReadFile("/sys/class/tty/console/active"); err == nil {
		names = strings.Fields(string(active))
	}
	for _, n := range names {
		fd, err := unix.Open("/dev/"+n, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		writeAll(fd, []byte("\r\n"+line+"\r\n"), time.Now().Add(time.Second))
		unix.Close(fd)
	}
}

func writeAll(fd int, b []byte, deadline time.Time) {
	for len(b) > 0 && time.Now().Before(deadline) {
		n, err := unix.Write(fd, b)
		if n > 0 {
			b = b[n:]
		} else if err != unix.EAGAIN && err != unix.EINTR {
			return
		} else {
			time.Sleep(10 * time.Millisecond)
		}
	}
}
