package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"gridappliance/internal/figures"
	"gridappliance/overlayd/control"
)

func netipPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// natTable is the results as Markdown.
func natTable(results []natResult) string {
	var b strings.Builder
	b.WriteString("| behind | path | first reply | direct after | sent | lost | twice | out of order | direct path cut: lost | longest gap |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	span := func(d time.Duration) string {
		if d == 0 {
			return "-"
		}
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	for _, r := range results {
		lost, gap := "-", "-"
		if r.Broken {
			lost, gap = fmt.Sprint(r.BreakLost), span(r.BreakGap)
		}
		direct := span(r.Direct)
		if r.Path != control.PathDirect {
			direct = "-"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %d | %d | %d | %d | %s | %s |\n", r.Pair, cmp.Or(r.Path, control.PathNone), span(r.FirstReply), direct,
			r.Count.Sent, r.Count.Lost, r.Count.Duplicated, r.Count.Reordered, lost, gap)
	}
	return b.String()
}

// tracedPair is drawn beside the trace of 2009.
const tracedPair = "home, home"

func writeNATDocument(document string, results []natResult) error {
	pictures, err := figures.Pictures(document)
	if err != nil {
		return err
	}
	for _, r := range results {
		if r.Pair == tracedPair {
			if err := drawTrace(pictures+"/trace.svg", r); err != nil {
				return err
			}
		}
	}
	return figures.Write(document, "nat", natTable(results)+fmt.Sprintf("\n![Round trips of pings from the first on, beside 2009](%s/trace.svg)", filepath.Base(pictures)))
}

// drawTrace draws pings from the first on beside those of 2009: the first
// lost, 500 ms on the mean for 12 s over the ring, then 41.5 ms
// (research/overlay.md §0).
func drawTrace(path string, r natResult) error {
	p := figures.Plot("seconds since the first packet", "round trip, ms")
	p.Y.Min, p.Y.Max = 0, 700
	p.Legend.XOffs = vg.Points(390)
	var then, now plotter.XYs
	for s := 1; s < 18; s++ {
		ms := 500.0
		if s >= 12 {
			ms = 41.5
		}
		then = append(then, plotter.XY{X: float64(s), Y: ms})
	}
	for i, rtt := range r.Trace {
		if rtt > 0 {
			now = append(now, plotter.XY{X: (time.Duration(i) * pingInterval).Seconds(), Y: float64(rtt.Microseconds()) / 1000})
		}
	}
	for i, line := range []struct {
		name string
		xys  plotter.XYs
	}{{"2009, first lost", then}, {r.Pair, now}} {
		l, points, err := plotter.NewLinePoints(line.xys)
		if err != nil {
			return err
		}
		l.Color, l.Width = figures.Hues[1-i], vg.Points(1.5)
		points.Color, points.Radius = l.Color, vg.Points(2)
		p.Add(l, points)
		p.Legend.Add(line.name, l)
	}
	return figures.Save(p, path)
}
