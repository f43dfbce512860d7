package main

import (
	"cmp"
	"fmt"
	"image/color"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"

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

// What stands between these lines of docs/nat.md is generated.
const (
	natStart = "<!-- written by make nat -->\n"
	natEnd   = "<!-- end of what make nat writes -->\n"
)

// tracedPair is drawn beside the trace of 2009.
const tracedPair = "home, home"

func writeNATDocument(document string, results []natResult) error {
	content, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(content), natStart)
	_, after, ends := strings.Cut(rest, natEnd)
	if !ok || !ends {
		return fmt.Errorf("write %s: want the marks %q and %q", document, natStart, natEnd)
	}
	pictures := strings.TrimSuffix(document, filepath.Ext(document))
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		return err
	}
	for _, r := range results {
		if r.Pair == tracedPair {
			if err := drawTrace(pictures+"/trace.svg", r); err != nil {
				return err
			}
		}
	}
	generated := "\n" + natTable(results) + fmt.Sprintf("\n![Round trips of pings from the first on, beside 2009](%s/trace.svg)\n\n", filepath.Base(pictures))
	return os.WriteFile(document, []byte(before+natStart+generated+natEnd+after), 0o644)
}

// drawTrace draws pings from the first on beside those of 2009: the first
// lost, 500 ms on the mean for 12 s over the ring, then 41.5 ms
// (research/overlay.md §0).
func drawTrace(path string, r natResult) error {
	p := plot.New()
	p.Add(plotter.NewGrid())
	p.X.Label.Text, p.Y.Label.Text = "seconds since the first packet", "round trip, ms"
	p.Y.Min, p.Y.Max = 0, 700
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs, p.Legend.Padding = true, true, vg.Points(390), vg.Points(3)
	for _, style := range []*text.Style{&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Font.Variant = "Sans"
		style.Font.Size = vg.Points(11)
	}
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
		l.Color = []color.Color{color.RGBA{0xb0, 0x55, 0x22, 0xff}, color.RGBA{0x1f, 0x60, 0xa8, 0xff}}[i]
		l.Width = vg.Points(1.5)
		points.Color, points.Radius = l.Color, vg.Points(2)
		p.Add(l, points)
		p.Legend.Add(line.name, l)
	}
	return p.Save(vg.Points(560), vg.Points(260), path)
}
