package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/internal/diag"
	"gridappliance/internal/netlab"
	"gridappliance/overlayd/control"
)

// reaches waits until a ping to a peer is answered, and says how long that
// took.
func (m *station) reaches(t *testing.T, to *station, patience time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		if _, err := m.Try("ping", "-n", "-c", "1", "-W", "1", to.Address.String()); err == nil {
			return time.Since(start)
		}
		if time.Since(start) > patience {
			t.Fatalf("%s does not reach %s within %v\n%s\n%s\n%s\n%s", m.Name, to.Name, patience, m.why(to), tail(m.process.Output()), m.drops(), to.drops())
		}
	}
}

// drops is what the machine has dropped, and why.
func (m *station) drops() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s dropped", m.Name)
	for name, n := range m.counters() {
		if strings.HasPrefix(name, "drop/") && n > 0 {
			fmt.Fprintf(&b, " %s %d", name, n)
		}
	}
	return b.String()
}

// TestDrills does to machines what happens to machines: TRUST.md says what
// must come of it.
func TestDrills(t *testing.T) {
	needLab(t)
	w := newWorld(t, hurried)
	home := w.site(netlab.Home)
	still, frozen, killed, original, full, shaken := w.open(), home.machine(), home.machine(), home.machine(), w.site(netlab.Home).machine(), w.open()
	state := full.dir + "/state"
	must(t, os.Mkdir(state, 0o700))
	must(t, unix.Mount("tmpfs", state, "tmpfs", 0, "size=256k,mode=0700"))
	t.Cleanup(func() { unix.Unmount(state, unix.MNT_DETACH) })
	all := []*station{still, frozen, killed, original, full, shaken}
	for _, m := range all {
		m.start()
	}
	for _, m := range all {
		m.waitRunning()
	}
	for _, m := range all[1:] {
		m.reaches(t, still, patience)
	}

	// The longest first: it is looked at last.
	lease, err := frozen.status()
	must(t, err)
	if lease.Lease.Until.IsZero() {
		t.Fatalf("no end of the lease in the status: %+v", lease)
	}
	stream := w.net.Stream(frozen.Node, still.Node, netip.AddrPortFrom(still.Address, 5000), 200)
	defer stream.Stop(0)
	time.Sleep(time.Second)
	frozen.process.Signal(syscall.SIGSTOP)
	stopped := stream.Now()

	ballast := filepath.Join(state, "ballast")
	fill(t, ballast)

	t.Run("killed and started again", func(t *testing.T) {
		before, err := killed.status()
		must(t, err)
		killed.process.Signal(syscall.SIGKILL)
		killed.process.Wait(patience)
		killed.start()
		after := killed.waitRunning()
		if after.NodeID != before.NodeID || after.Address != before.Address {
			t.Errorf("node %s with %s, before %s with %s", after.NodeID, after.Address, before.NodeID, before.Address)
		}
		t.Logf("it reaches others after %v", killed.reaches(t, still, 5*time.Second).Round(time.Millisecond))
		t.Logf("and is reached after %v", still.reaches(t, killed, 5*time.Second).Round(time.Millisecond))
	})

	t.Run("device deleted", func(t *testing.T) {
		killed.Run("ip", "link", "delete", "tapipop")
		if code := killed.process.Wait(patience); code != diag.ExitFailed {
			t.Errorf("exit %d, want %d", code, diag.ExitFailed)
		}
		killed.start() // as systemd does
		killed.waitRunning()
		t.Logf("it is reached after %v", still.reaches(t, killed, 10*time.Second).Round(time.Millisecond))
	})

	t.Run("interface flapping", func(t *testing.T) {
		for range 5 {
			shaken.Run("ip", "link", "set", "eth0", "down")
			time.Sleep(200 * time.Millisecond)
			shaken.Run("ip", "link", "set", "eth0", "up")
			time.Sleep(300 * time.Millisecond)
		}
		t.Logf("it reaches others after %v", shaken.reaches(t, still, 10*time.Second).Round(time.Millisecond))
	})

	t.Run("copy of the state on another machine", func(t *testing.T) {
		other := home.machine()
		copyTree(t, other.dir+"/state", original.dir+"/state")
		other.floppy = original.floppy
		other.start()
		s := other.waitRunning()
		before, err := original.status()
		must(t, err)
		if s.NodeID == before.NodeID || s.Address == before.Address {
			t.Errorf("the copy is node %s with %s, the original %s with %s", s.NodeID, s.Address, before.NodeID, before.Address)
		}
		other.reaches(t, still, 5*time.Second)
		original.reaches(t, still, 5*time.Second)
		original.reaches(t, other, 5*time.Second)
	})

	t.Run("disk full", func(t *testing.T) {
		// The peers are to be remembered soon, the lease when it is renewed, at half
		// its time: that is what the status tells of.
		full.process.WaitFor("no space left on device", 45*time.Second)
		tells := func(s control.Status) bool { return strings.Contains(s.Reason, "no space left on device") }
		if s := full.waitStatus("telling of the disk", 45*time.Second, tells); s.State != control.StateRunning {
			t.Errorf("state %q", s.State)
		}
		full.reaches(t, still, 5*time.Second)
		must(t, os.Remove(ballast))
		said := func() int { return strings.Count(full.process.Output(), "no space left on device") }
		time.Sleep(3 * time.Second)
		before := said()
		time.Sleep(3 * time.Second)
		if n := said() - before; n != 0 {
			t.Errorf("%d more complaints when there is room again", n)
		}
		full.waitStatus("well again", 5*time.Second, func(s control.Status) bool { return s.Reason == "" })
	})

	t.Run("stopped beyond the lease", func(t *testing.T) {
		time.Sleep(time.Until(lease.Lease.Until) + 2*time.Second)
		before := stream.Flight()
		frozen.process.Signal(syscall.SIGCONT)
		frozen.waitStatus("running again", patience, func(s control.Status) bool { return s.State == control.StateRunning })
		time.Sleep(time.Second)
		resumed := len(before)
		f := stream.Stop(time.Second)
		held := f.Between(stopped+100*time.Millisecond, f[resumed-1].Sent).Count()
		if held.Lost != held.Sent {
			t.Errorf("%d of %d packets of a lease that had ended were delivered", held.Sent-held.Lost, held.Sent)
		}
		// Those that came before the end was noticed, and those after.
		if c := frozen.counters(); c["drop/lease"]+c["drop/source"] == 0 {
			t.Error("no counter shows it")
		}
		t.Logf("it reaches others after %v more", frozen.reaches(t, still, 15*time.Second).Round(time.Millisecond))
	})
}

// fill writes a file until its filesystem has no room left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for size := 4096; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}
