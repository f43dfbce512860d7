package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gridappliance/internal/netlab"
	"gridappliance/overlayd/control"
)

// TestTwentyNodes starts twenty machines of five sites at once. All get
// addresses, and no first ping of one to another is lost: each pings six others,
// under LONG=1 all, four pings at once.
func TestTwentyNodes(t *testing.T) {
	needLab(t)
	w := newWorld(t, ordinary)
	sites := []struct {
		name string
		make func() func() *station
	}{
		{"open", func() func() *station { return w.open }},
		{"home", func() func() *station { return w.site(netlab.Home).machine }},
		{"restricted", func() func() *station { return w.site(netlab.Restricted).machine }},
		{"full cone", func() func() *station { return w.site(netlab.FullCone).machine }},
		{"symmetric", func() func() *station { return w.site(netlab.Symmetric).machine }},
	}
	const each = 4
	var all []*station
	kind := map[*station]string{}
	for _, s := range sites {
		machine := s.make()
		for range each {
			m := machine()
			all, kind[m] = append(all, m), s.name
		}
	}
	started := map[*station]time.Time{}
	for _, m := range all {
		started[m] = time.Now()
		m.start()
	}
	var joins []time.Duration
	for _, m := range all {
		joins = append(joins, m.waitRunning().Since.Sub(started[m]))
	}
	slices.Sort(joins)
	t.Logf("address after %v (median), %v (last)", joins[len(joins)/2], joins[len(joins)-1])

	time.Sleep(settling)
	others := []int{1, 2, 5, 8, 11, 17}
	if os.Getenv("LONG") != "" {
		others = nil
		for j := 1; j < len(all); j++ {
			others = append(others, j)
		}
	}
	var mu sync.Mutex
	var replies []time.Duration
	var pinging sync.WaitGroup
	atOnce := make(chan struct{}, 4)
	for i, a := range all {
		for _, j := range others {
			b := all[(i+j)%len(all)]
			pinging.Go(func() {
				atOnce <- struct{}{}
				defer func() { <-atOnce }()
				out, _ := a.Try("ping", "-n", "-c", "1", "-W", "5", b.Address.String())
				m := pingLine.FindStringSubmatch(out)
				mu.Lock()
				defer mu.Unlock()
				if m == nil {
					t.Errorf("%s (%s) to %s (%s): the first ping was lost", a.Name, kind[a], b.Name, kind[b])
					return
				}
				ms, _ := strconv.ParseFloat(m[2], 64)
				replies = append(replies, time.Duration(ms*float64(time.Millisecond)))
			})
		}
	}
	pinging.Wait()
	slices.Sort(replies)
	if n := len(replies); n > 0 {
		t.Logf("%d first replies: %v (median), %v (90 %%), %v (last)", n, replies[n/2], replies[n*9/10], replies[n-1])
	}

	time.Sleep(2 * time.Second)
	paths := map[string]map[control.Path]int{}
	for i, a := range all {
		for _, b := range all[:i] {
			name := kind[b] + " - " + kind[a]
			if paths[name] == nil {
				paths[name] = map[control.Path]int{}
			}
			paths[name][a.path(b)]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		t.Logf("%-24s %v", name, paths[name])
	}
	for _, m := range []*station{w.master, all[0], all[len(all)-1]} {
		t.Logf("%s: %d MiB, %v of a processor", m.Name, rss(t, m.process.Pid()), cpuTime(t, m.process.Pid()))
	}
}

// cpuTime is what a process has used of processors.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}
