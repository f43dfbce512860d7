package netlab

import (
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// echo answers every datagram to addr in n with the sender's address.
func echo(t *testing.T, n *Node, addr string) {
	t.Helper()
	var conn *net.UDPConn
	n.Do(func() {
		var err error
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		check(t, err)
	})
	t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort([]byte(from.String()), from)
		}
	}()
}

// ask sends a datagram from n to addr and returns the answer, "" for none.
func ask(t *testing.T, n *Node, addr string) string {
	t.Helper()
	var conn net.Conn
	n.Do(func() {
		var err error
		conn, err = net.Dial("udp4", addr)
		check(t, err)
	})
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
	conn.Write([]byte("?"))
	b := make([]byte, 100)
	k, _ := conn.Read(b)
	return string(b[:k])
}

func TestCableAndSeparation(t *testing.T) {
	lab := New(t)
	a, b, c := lab.Node("a"), lab.Node("b"), lab.Node("c")
	lab.Cable(a, "192.0.2.1/24", b, "192.0.2.2/24")
	echo(t, b, "0.0.0.0:4000")
	if got := ask(t, a, "192.0.2.2:4000"); !strings.HasPrefix(got, "192.0.2.1:") {
		t.Errorf("over the cable: answer %q, want from 192.0.2.1", got)
	}
	if out, err := c.Try("ip", "route", "get", "192.0.2.2"); err == nil {
		t.Errorf("a node without a cable has a route: %s", out)
	}
}

func TestProcess(t *testing.T) {
	lab := New(t)
	n := lab.Node("n")
	lab.Cable(n, "192.0.2.1/24", lab.Node("other"), "")
	show := n.Start("ip", "-brief", "address")
	if code := show.Wait(10 * time.Second); code != 0 || !strings.Contains(show.Output(), "192.0.2.1/24") {
		t.Errorf("exit %d, output %q: not in the node's namespace", code, show.Output())
	}
	sleep := n.Start("sleep", "1000")
	sleep.Signal(syscall.SIGKILL)
	if code := sleep.Wait(10 * time.Second); code != -1 {
		t.Errorf("killed process: exit %d, want -1", code)
	}

	// What the test leaves running ends with it.
	var left *Process
	t.Run("left", func(t *testing.T) { left = New(t).Node("m").Start("sleep", "1000") })
	if err := syscall.Kill(left.Pid(), 0); err != syscall.ESRCH {
		t.Errorf("process %d after its test: %v, want no such process", left.Pid(), err)
	}
}
