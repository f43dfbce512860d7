package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
)

// The names of what is measured, and in what.
const (
	tcp1     = "TCP, one stream (Mbit/s)"
	tcp4     = "TCP, four streams (Mbit/s)"
	reverse  = "TCP, reverse (Mbit/s)"
	cpuGiB   = "daemons' CPU per GiB (s)"
	allGiB   = "machine's CPU per GiB (s)"
	retrans  = "retransmissions per GiB"
	udp64    = "UDP, 64 bytes, received (1,000/s)"
	udp1200  = "UDP, 1,200 bytes, received (1,000/s)"
	pingMean = "round trip (ms)"
	ping99   = "round trip, p99 (ms)"
	rssIdle  = "memory before (MiB)"
	rssPeak  = "memory, peak (MiB)"
)

var measures = []string{tcp1, tcp4, reverse, cpuGiB, allGiB, retrans, udp64, udp1200, pingMean, ping99, rssIdle, rssPeak}

// result is one contender in one round over one underlay.
type result struct {
	Underlay  underlay
	Contender string
	Values    map[string]float64
}

// TestBench measures every contender once and adds a file to BENCH_DIR.
// BENCH_ONLY is a pattern for "underlay/contender".
func TestBench(t *testing.T) {
	dir := os.Getenv("BENCH_DIR")
	if dir == "" {
		t.Skip("BENCH_DIR=DIRECTORY measures for minutes: make bench-overlay")
	}
	need.Tool(t, "iperf3")
	need.Tool(t, "ethtool")
	only := regexp.MustCompile(os.Getenv("BENCH_ONLY"))
	seconds := 4
	if s := os.Getenv("BENCH_SECONDS"); s != "" {
		seconds, _ = strconv.Atoi(s)
	}
	var results []result
	for _, u := range []underlay{cable, plain, lossy, relayed} {
		for _, c := range contenders {
			if u == relayed && !c.relays || !only.MatchString(string(u)+"/"+c.name) {
				continue
			}
			t.Run(string(u)+"/"+c.name, func(t *testing.T) {
				for _, tool := range c.tools {
					need.Tool(t, tool)
				}
				r := measure(t, newMachines(t, u), c, seconds, u == cable)
				r.Underlay = u
				results = append(results, r)
				for _, name := range measures {
					if v, ok := r.Values[name]; ok {
						t.Logf("%-40s %10.2f", name, v)
					}
				}
			})
		}
	}
	if t.Failed() {
		return
	}
	text, err := json.MarshalIndent(results, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("round-%d.json", time.Now().Unix())), append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// measure starts a contender and measures it: everything on a cable, and one
// stream of TCP elsewhere.
func measure(t *testing.T, m *machines, c contender, seconds int, everything bool) result {
	address, daemons := c.start(m)
	var pids []int
	for _, d := range daemons {
		pids = append(pids, d.Pid())
	}
	connected(t, m, address, daemons)
	r := result{Contender: c.name, Values: map[string]float64{}}
	if !c.alone {
		r.Values[rssIdle] = memory(t, "VmRSS", pids)
	}
	m.b.Start("iperf3", "-s")
	listening(t, m.b)

	before, machineBefore := cpuOf(t, c, pids), cpu(t)
	one := iperf(t, m.a, "-c", address, "-C", "cubic", "-t", strconv.Itoa(seconds))
	gib := one.End.SumReceived.Bytes / (1 << 30)
	if gib == 0 {
		t.Fatal("nothing was received over TCP")
	}
	r.Values[tcp1] = one.End.SumReceived.Bits / 1e6
	r.Values[allGiB] = (cpu(t) - machineBefore) / gib
	r.Values[retrans] = one.End.SumSent.Retransmits / gib
	if !c.alone {
		r.Values[cpuGiB] = (cpuOf(t, c, pids) - before) / gib
	}
	if everything {
		r.Values[tcp4] = iperf(t, m.a, "-c", address, "-C", "cubic", "-P", "4", "-t", strconv.Itoa(seconds)).End.SumReceived.Bits / 1e6
		r.Values[reverse] = iperf(t, m.a, "-c", address, "-C", "cubic", "-R", "-t", strconv.Itoa(seconds)).End.SumReceived.Bits / 1e6
		for name, size := range map[string]string{udp64: "64", udp1200: "1200"} {
			u := iperf(t, m.a, "-c", address, "-u", "-b", "0", "-l", size, "-t", strconv.Itoa(max(2, seconds/2)))
			r.Values[name] = (u.End.Sum.Packets - u.End.Sum.Lost) / u.End.Sum.Seconds / 1e3
		}
	}
	m.a.Run("ping", "-n", "-q", "-c", "20", "-i", "0.01", address) // what the streams left in the queues
	if times := ping(m.a.Run("ping", "-n", "-c", "200", "-i", "0.01", address)); len(times) == 0 {
		t.Error("ping: no answers")
	} else {
		sum := 0.0
		for _, x := range times {
			sum += x
		}
		r.Values[pingMean] = sum / float64(len(times))
		slices.Sort(times)
		r.Values[ping99] = times[len(times)*99/100]
	}
	if !c.alone {
		r.Values[rssPeak] = memory(t, "VmHWM", pids)
	}
	return r
}

func cpuOf(t testing.TB, c contender, pids []int) float64 {
	if c.alone {
		return 0
	}
	return cpu(t, pids...)
}

// connected waits until b answers a, for a second without a loss, so that
// paths have settled.
func connected(t *testing.T, m *machines, address string, daemons []*netlab.Process) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := m.a.Try("ping", "-n", "-q", "-c", "10", "-i", "0.1", "-W", "1", address); err == nil {
			return
		}
		if time.Now().After(deadline) {
			for _, d := range daemons {
				t.Log(d.Output())
			}
			t.Fatalf("%s does not answer", address)
		}
	}
}

func listening(t *testing.T, n *netlab.Node) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(n.Run("ss", "-Hltn"), ":5201"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("iperf3 does not listen")
		}
	}
}

// run is what iperf3 --json says, as far as it is used.
type run struct {
	Error string
	End   struct {
		SumSent struct {
			Retransmits float64
		} `json:"sum_sent"`
		SumReceived struct {
			Bytes float64
			Bits  float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		Sum struct {
			Seconds, Packets float64
			Lost             float64 `json:"lost_packets"`
		}
	}
}

func iperf(t *testing.T, n *netlab.Node, args ...string) (r run) {
	t.Helper()
	// The server needs a moment after the last client.
	for try := 0; ; try++ {
		out, err := n.Try(append([]string{"iperf3", "--json"}, args...)...)
		if err == nil {
			err = json.Unmarshal([]byte(out), &r)
		}
		if err == nil && r.Error == "" {
			return r
		}
		if try == 5 {
			t.Fatalf("iperf3 %v: %v %s\n%s", args, err, r.Error, out)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

var pingTime = regexp.MustCompile(`time=([0-9.]+) ms`)

func ping(out string) (ms []float64) {
	for _, f := range pingTime.FindAllStringSubmatch(out, -1) {
		if x, err := strconv.ParseFloat(f[1], 64); err == nil {
			ms = append(ms, x)
		}
	}
	return ms
}
