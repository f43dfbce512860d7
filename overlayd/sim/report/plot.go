package report

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"gridappliance/internal/figures"
)

// plots are the pictures of the document, by file name, and what is under each.
var plots = []struct {
	file, caption string
	draw          func(Results, *plot.Plot) error
}{
	{"hops.svg", "Hops of lookups, beside the means that theory and the static model give", hopsPlot},
	{"lookup.svg", "How long lookups took, round trip", func(rs Results, p *plot.Plot) error {
		return cdf(rs, p, "lookup", "seconds, round trip", "share of lookups", "steady", "nat", "churn-10m", "churn-84s")
	}},
	{"join.svg", "How long nodes took from their start to being on the ring", func(rs Results, p *plot.Plot) error {
		return cdf(rs, p, "join", "seconds since the start of the node", "share of nodes", "steady", "nat", "churn-84s", "flash")
	}},
	{"churn.svg", "Lookups that were right, under churn", func(rs Results, p *plot.Plot) error {
		return courses(rs, p, "seconds since the first lookup", "churn-10m", "churn-84s")
	}},
	{"death.svg", "Lookups that were right, after 30 % of all machines died at second 0", func(rs Results, p *plot.Plot) error {
		return courses(rs, p, "seconds since the deaths", "massacre")
	}},
	{"split.svg", "Lookups that were right, through a partition that heals at second 0; while it lasts the nearest node of the own half is right", func(rs Results, p *plot.Plot) error {
		return courses(rs, p, "seconds since the heal", "split")
	}},
	{"load.svg", "What each node forwarded while lookups were asked, over the mean", loadPlot},
}

// Draw writes the plots into a folder.
func (rs Results) Draw(dir string) error {
	for _, d := range plots {
		p := figures.Plot("", "")
		if err := d.draw(rs, p); err != nil {
			return fmt.Errorf("draw %s: %w", d.file, err)
		}
		if err := figures.Save(p, filepath.Join(dir, d.file)); err != nil {
			return err
		}
	}
	return nil
}

// hopsPlot has a bar for each number of hops.
func hopsPlot(rs Results, p *plot.Plot) error {
	r := rs["steady"]
	total := 0
	for _, n := range r.Hops {
		total += n
	}
	if total == 0 {
		return fmt.Errorf("no hops in steady")
	}
	bars := make(plotter.XYs, len(r.Hops))
	top := 0.0
	for hops, n := range r.Hops {
		bars[hops] = plotter.XY{X: float64(hops), Y: float64(n) / float64(total)}
		top = max(top, bars[hops].Y)
	}
	h, err := plotter.NewHistogram(bars, len(bars))
	if err != nil {
		return err
	}
	h.FillColor, h.LineStyle.Width = figures.Hues[0], vg.Points(0.5)
	h.Bins = h.Bins[:0]
	for _, b := range bars {
		h.Bins = append(h.Bins, plotter.HistogramBin{Min: b.X - 0.45, Max: b.X + 0.45, Weight: b.Y})
	}
	h.Width = 0.9
	p.Add(h)
	n := math.Log2(float64(r.Nodes + r.Bootstraps))
	for i, mark := range []struct {
		name string
		at   float64
	}{
		{"measured mean", r.Figures["hops.mean"]},
		{"Chord, ½ log₂N", n / 2},
		{"Symphony's bound, log₂²N/k, k = log₂N", n},
	} {
		l, err := plotter.NewLine(plotter.XYs{{X: mark.at, Y: 0}, {X: mark.at, Y: top * 1.05}})
		if err != nil {
			return err
		}
		l.Color, l.Width = figures.Hues[i+1], vg.Points(2)
		p.Add(l)
		p.Legend.Add(fmt.Sprintf("%s: %.1f", mark.name, mark.at), l)
	}
	p.X.Label.Text, p.Y.Label.Text, p.Y.Min = "hops", "share of lookups", 0
	p.X.Max, p.Y.Max = n+1.5, top*1.5 // room for the legend
	p.Legend.XOffs = vg.Points(250)
	return nil
}

// cdf has a line for each run.
func cdf(rs Results, p *plot.Plot, sample, x, y string, runs ...string) error {
	end := 0.0
	for i, run := range runs {
		all := rs[run].Samples[sample]
		if len(all) == 0 {
			return fmt.Errorf("no sample %s in %s", sample, run)
		}
		end = max(end, all[len(all)*99/100])
		if err := figures.Line(p, run, i, figures.Distribution(all)); err != nil {
			return err
		}
	}
	p.Legend.Top = false
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, end*1.2, 0, 1.02
	return nil
}

// courses has a line for each run: the share of right lookups over time.
func courses(rs Results, p *plot.Plot, x string, runs ...string) error {
	for i, run := range runs {
		var line plotter.XYs
		for _, c := range rs[run].Course {
			if c.Asked > 0 {
				line = append(line, plotter.XY{X: c.At, Y: 100 * float64(c.Right) / float64(c.Asked)})
			}
		}
		if len(line) == 0 {
			return fmt.Errorf("no course in %s", run)
		}
		if err := figures.Line(p, run, i, line); err != nil {
			return err
		}
	}
	p.Legend.Top = false
	p.X.Label.Text, p.Y.Label.Text = x, "% right"
	p.Y.Max = 100.2
	p.Y.Min = min(90, p.Y.Min)
	return nil
}

// loadPlot orders the nodes by what they forwarded.
func loadPlot(rs Results, p *plot.Plot) error {
	for i, run := range []string{"steady", "nat"} {
		load := slices.Clone(rs[run].Samples["load"])
		sum := 0.0
		for _, v := range load {
			sum += v
		}
		if sum == 0 {
			return fmt.Errorf("no load in %s", run)
		}
		line := make(plotter.XYs, len(load))
		for k, v := range load {
			line[k] = plotter.XY{X: 100 * float64(k+1) / float64(len(load)), Y: v / sum * float64(len(load))}
		}
		if err := figures.Line(p, run, i, line); err != nil {
			return err
		}
	}
	p.Legend.XOffs = vg.Points(12)
	p.X.Max = 104
	p.X.Label.Text, p.Y.Label.Text, p.Y.Min = "nodes, least first, in %", "forwarded, over the mean", 0
	return nil
}
