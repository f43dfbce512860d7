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

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/need"
)

const (
	together    = 30               // machines that join at once; two processors make more boots long
	witnessWait = 65 * time.Second // until the only witness of a new grid votes, with some seconds to spare
)

// TestScale boots many workers from one floppy at one moment and measures how
// long each takes from the start of its overlayd to an address, and to READY,
// which the pool's knowing it is part of. JOINING_DOCUMENT names the page
// whose generated part gets the table and the plot.
func TestScale(t *testing.T) {
	need.Long(t)
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
| first generation, 150 nodes, to an address | 34 | 49 | |
`, together, routable, ready)
	t.Logf("\n%s", table)
	if page := os.Getenv("JOINING_DOCUMENT"); page != "" {
		if err := writeJoining(page, table, routable, ready); err != nil {
			t.Fatal(err)
		}
	}
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

// Marks between which the page is generated.
const (
	joiningStart = "<!-- written by make joining -->"
	joiningEnd   = "<!-- until here -->"
)

func writeJoining(page, table string, routable, ready series) error {
	content, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(content), joiningStart)
	_, after, ends := strings.Cut(rest, joiningEnd)
	if !begins || !ends {
		return fmt.Errorf("write %s: want the marks %q and %q", page, joiningStart, joiningEnd)
	}
	picture := strings.TrimSuffix(page, filepath.Ext(page)) + ".svg"
	if err := drawJoining(picture, routable, ready); err != nil {
		return err
	}
	generated := fmt.Sprintf("\n%s\n![Share of machines over the seconds](%s)\n\n", table, filepath.Base(picture))
	return os.WriteFile(page, []byte(before+joiningStart+generated+joiningEnd+after), 0o644)
}

// drawJoining draws the share of machines that have come so far over time.
func drawJoining(path string, routable, ready series) error {
	p := plot.New()
	p.Add(plotter.NewGrid())
	p.X.Label.Text, p.Y.Label.Text = "seconds since overlayd's start", "share of machines"
	p.X.Min, p.Y.Min, p.Y.Max = 0, 0, 1
	p.Legend.Left, p.Legend.Top, p.Legend.XOffs = true, true, vg.Points(10)
	for _, style := range []*text.Style{&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Font.Variant = "Sans"
		style.Font.Size = vg.Points(11)
	}
	for i, s := range []struct {
		name string
		list series
	}{{"has an address", routable}, {"READY", ready}} {
		xys := plotter.XYs{{}}
		for n, seconds := range s.list {
			xys = append(xys, plotter.XY{X: seconds, Y: float64(n+1) / float64(len(s.list))})
		}
		line, err := plotter.NewLine(xys)
		if err != nil {
			return err
		}
		line.StepStyle, line.Width = plotter.PostStep, vg.Points(1.5)
		if i > 0 {
			line.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
		}
		p.Add(line)
		p.Legend.Add(s.name, line)
	}
	return p.Save(vg.Points(560), vg.Points(260), path)
}
