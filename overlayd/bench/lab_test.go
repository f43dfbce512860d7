package bench

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gridappliance/internal/netlab"
)

// underlay is what is between the two machines.
type underlay string

const (
	cable   underlay = "cable"   // carries UDP_SEGMENT messages whole, as a virtual machine's network does
	plain   underlay = "plain"   // the kernel cuts them, as for a network card that cannot
	lossy   underlay = "lossy"   // plain, and 1 % of the datagrams are lost, each way
	relayed underlay = "relayed" // the two reach a third machine alone
)

// machines are where the daemons run. r is nil unless relayed.
type machines struct {
	t       testing.TB
	lab     *netlab.Lab
	a, b, r *netlab.Node
	dir     string
}

const (
	underA = "192.0.2.1"
	underB = "192.0.2.2"
	// relayed: a's network is 198.51.100.0/24 and b's 203.0.113.0/24.
	farA, relayA = "198.51.100.1", "198.51.100.9"
	farB, relayB = "203.0.113.1", "203.0.113.9"
)

func newMachines(t testing.TB, u underlay) *machines {
	lab := netlab.New(t)
	dir, err := os.MkdirTemp(built.dir, "") // a test's name is in TempDir, and not every peer takes it
	if err != nil {
		t.Fatal(err)
	}
	m := &machines{t: t, lab: lab, a: lab.Node("a"), b: lab.Node("b"), dir: dir}
	if u == relayed {
		m.r = lab.Node("r")
		lab.Cable(m.a, farA+"/24", m.r, relayA+"/24")
		lab.Cable(m.b, farB+"/24", m.r, relayB+"/24")
		m.a.Run("ip", "route", "add", "default", "via", relayA) // r does not forward
		m.b.Run("ip", "route", "add", "default", "via", relayB)
		return m
	}
	lab.Cable(m.a, underA+"/24", m.b, underB+"/24")
	for _, n := range []*netlab.Node{m.a, m.b} {
		if u != cable {
			// A veth groups what it receives (GRO) only when told to.
			n.Run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off", "generic-receive-offload", "on")
		}
		if u == lossy {
			// Each datagram is to meet the rule by itself.
			n.Run("ethtool", "-K", "eth0", "generic-receive-offload", "off", "tcp-segmentation-offload", "off", "generic-segmentation-offload", "off")
			n.Run("nft", "add table netdev bench")
			n.Run("nft", "add chain netdev bench in { type filter hook ingress device eth0 priority 0; }")
			n.Run("nft", "add rule netdev bench in numgen random mod 100 < 1 drop")
		}
	}
	return m
}

// cpu is the processor time of processes so far, in seconds, or of the machine
// without any.
func cpu(t testing.TB, pids ...int) (seconds float64) {
	const hertz = 100 // of /proc, on every Linux that Go runs on
	if len(pids) == 0 {
		f := strings.Fields(strings.SplitN(read(t, "/proc/stat"), "\n", 2)[0])
		for i, x := range f[1:] {
			if i != 3 && i != 4 && i < 8 { // idle, iowait, and guests, who are in user
				seconds += number(t, x) / hertz
			}
		}
		return seconds
	}
	for _, pid := range pids {
		s := read(t, fmt.Sprintf("/proc/%d/stat", pid))
		f := strings.Fields(s[strings.LastIndex(s, ")")+1:])
		seconds += (number(t, f[11]) + number(t, f[12])) / hertz
	}
	return seconds
}

// memory is the resident memory of processes in MiB: "VmRSS" or "VmHWM".
func memory(t testing.TB, field string, pids []int) (mib float64) {
	for _, pid := range pids {
		for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
			if rest, ok := strings.CutPrefix(line, field+":"); ok {
				mib = max(mib, number(t, strings.Fields(rest)[0])/1024)
			}
		}
	}
	return mib
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func number(t testing.TB, text string) (n float64) {
	t.Helper()
	if _, err := fmt.Sscanf(text, "%g", &n); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return n
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
