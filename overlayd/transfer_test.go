package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
)

// masters are machines of one grid with a fixed address each, which need no
// lease: 10.250.0.2 and so on.
func masters(t *testing.T, bootstrap []string, nodes ...*netlab.Node) (all []*machine) {
	t.Helper()
	builder, err := builderProgram()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"grid", "new", dir + "/grid", "--masters", fmt.Sprint(len(nodes))}
	for _, b := range bootstrap {
		args = append(args, "--bootstrap", b)
	}
	if out, err := sysrun.Output(t.Context(), builder, args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i, n := range nodes {
		m := newMachine(t, n, n.Name, fmt.Sprintf("%s/grid/master-%d.img", dir, i+1))
		m.boot()
		all = append(all, m)
	}
	for _, m := range all {
		m.running()
	}
	return all
}

// TestTransfer moves 64 MiB each way at once between two machines with a cable,
// and then between two that reach a third alone: by the data path, with nothing
// lost, refused or left to the event loop.
func TestTransfer(t *testing.T) {
	for _, c := range []struct {
		name  string
		build func(t *testing.T) (from, to, relay *machine)
	}{
		{"direct", func(t *testing.T) (*machine, *machine, *machine) {
			lab := netlab.New(t)
			a, b := lab.Node("a"), lab.Node("b")
			lab.Cable(a, "192.0.2.1/24", b, "192.0.2.2/24")
			all := masters(t, []string{"192.0.2.1:4242"}, a, b)
			return all[0], all[1], nil
		}},
		{"relayed", func(t *testing.T) (*machine, *machine, *machine) {
			lab := netlab.New(t)
			a, b, r := lab.Node("a"), lab.Node("b"), lab.Node("r")
			port, _ := lab.Cable(a, "198.51.100.1/24", r, "198.51.100.9/24")
			port.Default("198.51.100.9") // which does not forward
			port, _ = lab.Cable(b, "203.0.113.1/24", r, "203.0.113.9/24")
			port.Default("203.0.113.9")
			all := masters(t, []string{"198.51.100.9:4242", "203.0.113.9:4242"}, a, b, r)
			return all[0], all[1], all[2]
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to, relay := c.build(t)
			a, b := from.status().Address.Addr(), to.status().Address.Addr()
			from.ping(b.String(), 5) // by then there is a path
			if relay != nil {
				from.carries(relay, b)
			}
			const size = 64 << 20
			done := make(chan error, 2)
			go func() { done <- transfer(from.Node, to.Node, b, size) }()
			go func() { done <- transfer(to.Node, from.Node, a, size) }()
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			for _, m := range []*machine{from, to} {
				n := m.status().Counters
				// Superpackets stay whole on the device: far more datagrams than frames
				// that the kernel gave.
				if n["tx/datagrams"] < 5*n["rx/frames"] || n["tx/frames"] < size/1300 {
					t.Errorf("%s: %d datagrams sent for %d frames of the device, %d frames to it", m.name, n["tx/datagrams"], n["rx/frames"], n["tx/frames"])
				}
				for _, counter := range []string{"drop/unsent", "drop/unwritten", "drop/superpacket", "drop/packet-queue", "drop/datagram-queue", "drop/destination"} {
					if n[counter] != 0 {
						t.Errorf("%s: %s is %d", m.name, counter, n[counter])
					}
				}
			}
			from.rests()
			if relay != nil {
				relay.rests()
				if n := relay.status().Counters; n["tx/relayed"] < 2*size/1300 || n["core/relayed"] < 2*size/1300 {
					t.Errorf("the relay carried %d datagrams, and counts %d", n["tx/relayed"], n["core/relayed"])
				}
			}
		})
	}
}

// rests fails the test unless an idle daemon leaves the processor alone: a
// deadline that is always due shows in nothing else.
func (m *machine) rests() {
	m.t.Helper()
	time.Sleep(2 * time.Second) // what a transfer leaves behind
	const while = 5 * time.Second
	before := m.processorTime()
	time.Sleep(while)
	if used := m.processorTime() - before; used > while/10 {
		m.t.Errorf("%s: an idle daemon used %v of %v", m.name, used, while)
	}
}

// processorTime is what the daemon has used so far (proc(5), stat).
func (m *machine) processorTime() time.Duration {
	m.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.daemon.Pid()))
	if err != nil {
		m.t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks time.Duration
	for _, x := range f[11:13] { // utime, stime
		n, err := strconv.Atoi(x)
		if err != nil {
			m.t.Fatal(err)
		}
		ticks += time.Duration(n)
	}
	return ticks * time.Second / 100
}

// carries waits until a relay carries what m sends to addr.
func (m *machine) carries(relay *machine, addr netip.Addr) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		before := relay.status().Counters["tx/relayed"]
		m.Try("ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "1", addr.String())
		if relay.status().Counters["tx/relayed"] >= before+6 {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s does not relay: %v", relay.name, relay.status().Counters)
		}
	}
}

// transfer sends size random bytes by TCP and compares their digests.
func transfer(from, to *netlab.Node, address netip.Addr, size int64) error {
	const limit = time.Minute
	var l net.Listener
	var err error
	to.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String()) })
	if err != nil {
		return err
	}
	defer l.Close()
	got := make(chan []byte, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- nil
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(limit))
		h := sha256.New()
		io.Copy(h, conn) // what is cut off has another digest
		got <- h.Sum(nil)
	}()
	var conn net.Conn
	from.Do(func() { conn, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second) })
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(limit))
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(h, conn), rand.NewChaCha8([32]byte{1}), size); err != nil {
		conn.Close()
		return err
	}
	conn.Close()
	if !bytes.Equal(<-got, h.Sum(nil)) {
		return errors.New("what arrived is not what was sent")
	}
	return nil
}
