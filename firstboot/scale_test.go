package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/figures"
	"gridappliance/internal/need"
)

const (
	together    = 30               // machines that join at once; two processors make more boots long
	witnessWait = 65 * time.Second // until the only witness of a new grid votes, with some seconds to spare
)

// TestScale boots many workers from one floppy at one moment and measures how
// long each takes from the start of its overlayd to an address, and to READY,
// which the pool's knowing it is part of. JOINING_DOCUMENT gets the figures.
func TestScale(t *testing.T) {
	need.Long(t)
	roomForWatches(t)
	g := newGridLab(t, 1)
	north, west, south := g.site(10*time.Millisecond), g.site(20*time.Millisecond), g.site(40*time.Millisecond)
	master := north.master(0)
	g.waitReady()
	time.Sleep(witnessWait)
	cert, key, err := g.grid.IssueHolder(credential.HolderRequest{User: "alice", Group: "physics", Roles: []credential.Role{credential.RoleWorker}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var workers []*gridMachine
	for i := range together {
		site := []*gridSite{west, south}[i%2]
		workers = append(workers, site.boot(fmt.Sprintf("worker-%d", i+1), "worker", "",
			file(floppy.HolderCertFile, cert), file(floppy.HolderKeyFile, key)))
	}
	g.waitReady()
	known := master.Run("condor_status", "-autoformat", "Machine")
	var routable, ready series
	for _, m := range workers {
		if !strings.Contains(known, m.host()) {
			t.Errorf("%s is READY, and the pool does not know it", m.name)
		}
		start := m.moment(t, "ExecMainStartTimestamp")
		routable = append(routable, m.moment(t, "ActiveEnterTimestamp")-start)
		ready = append(ready, m.number(t, "stat", "-c", "%.6Y", "/"+readyPath)-start)
	}
	slices.Sort(routable)
	slices.Sort(ready)
	table := fmt.Sprintf(`| %d machines at once, seconds from overlayd's start | median | 90th percentile | last |
|---|---|---|---|
| to an address that carries packets | %s |
| to READY, when the pool knows the machine | %s |
| first generation, 150 machines at three sites, joining Condor | 34 | 49 | about 510 |
`, together, routable, ready)
	t.Logf("\n%s", table)
	if document := os.Getenv("JOINING_DOCUMENT"); document != "" {
		if err := writeJoining(document, table, routable, ready); err != nil {
			t.Error(err)
		}
	}
}

// roomForWatches raises the kernel's limit on inotify instances of one user
// (inotify(7)) until the test is over: each container's systemd takes six, and
// they are all root's.
func roomForWatches(t *testing.T) {
	t.Helper()
	const path = "/proc/sys/fs/inotify/max_user_instances"
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(old))); err != nil || n >= 16*together {
		return
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(16*together)), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, old, 0); err != nil {
			t.Errorf("put the limit on inotify instances back: %v", err)
		}
	})
}

// writeJoining puts the table and a plot of all machines into a document.
func writeJoining(document, table string, routable, ready series) error {
	pictures, err := figures.Pictures(document)
	if err != nil {
		return err
	}
	p := figures.Plot("seconds since the start of overlayd", "share of machines")
	p.Legend.Top, p.X.Min, p.Y.Min, p.Y.Max = false, 0, 0, 1.02
	for i, line := range []struct {
		name string
		s    series
	}{{"an address", routable}, {"READY", ready}} {
		if err := figures.Line(p, line.name, i, figures.Distribution(line.s)); err != nil {
			return err
		}
	}
	if err := figures.Save(p, filepath.Join(pictures, "joining.svg")); err != nil {
		return err
	}
	return figures.Write(document, "joining", table+fmt.Sprintf("\n![When each machine had an address, and when it was READY](%s/joining.svg)", filepath.Base(pictures)))
}

// series is seconds, sorted.
type series []float64

func (s series) at(share float64) float64 { return s[min(len(s)-1, int(share*float64(len(s))))] }

func (s series) String() string {
	return fmt.Sprintf("%.1f | %.1f | %.1f", s.at(0.5), s.at(0.9), s[len(s)-1])
}

// moment returns when overlayd's unit came to something, in seconds since 1970.
func (m *gridMachine) moment(t *testing.T, property string) float64 {
	t.Helper()
	out := m.Run("systemctl", "show", "--timestamp=us+utc", "--value", "--property="+property, "overlayd.service")
	at, err := time.Parse("Mon 2006-01-02 15:04:05.000000 MST", strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	return float64(at.UnixMicro()) / 1e6
}

func (m *gridMachine) number(t *testing.T, argv ...string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(strings.TrimSpace(m.Run(argv...)), 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
