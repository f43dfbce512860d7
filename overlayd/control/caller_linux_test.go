package control_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gridappliance/overlayd/control"
	"gridappliance/overlayd/control/controltest"
)

// TestPublishByAnotherUser connects as nobody, to a socket that lets everybody
// in: the socket's mode is not what keeps publish to root.
func TestPublishByAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	n := &controltest.Node{}
	_, _, path := serveBackend(t, n, control.Status{})
	for _, p := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path), path} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	answers := make(chan string)
	go func() {
		defer close(answers)
		runtime.LockOSThread() // and never unlocked: the thread ends with its user
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			answers <- errno.Error()
			return
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			answers <- err.Error()
			return
		}
		defer conn.Close()
		io.WriteString(conn, "POST /v1/publish HTTP/1.0\r\nContent-Length: 10\r\n\r\n-----BEGIN")
		text, _ := io.ReadAll(conn)
		answers <- string(text)
	}()
	if got := <-answers; !strings.Contains(got, "403 Forbidden") || !strings.Contains(got, "this needs root") {
		t.Errorf("answer to nobody:\n%s", got)
	}
	if n.Published() != nil {
		t.Error("nobody's descriptor was taken")
	}
}
