package main

import (
	"fmt"
	"image/color"
	"io"
	"slices"
	"text/tabwriter"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"gridappliance/internal/qemu"
)

// table is what was measured, in the order in which it is printed.
type table struct{ rows []*row }

// row is one quantity: its values of all rounds, and what it is held against.
type row struct {
	name, unit string
	limit      float64 // 0: nothing
	against    string
	values     []float64
}

func (t *table) add(name, unit string, limit float64, against string) *row {
	r := &row{name: name, unit: unit, limit: limit, against: against}
	t.rows = append(t.rows, r)
	return r
}

func (t *table) find(name string) *row {
	return t.rows[slices.IndexFunc(t.rows, func(r *row) bool { return r.name == name })]
}

func (r *row) value(v float64) { r.values = append(r.values, v) }

// median of the values; 0 without any.
func (r *row) median() float64 {
	n := len(r.values)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.values))
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (t *table) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "what\tmedian\tlowest\thighest\tn\tratio to")
	for _, r := range t.rows {
		if len(r.values) == 0 {
			fmt.Fprintf(tw, "%s\tnot measured\t\t\t0\t\n", r.name)
			continue
		}
		ratio := ""
		if r.limit > 0 {
			ratio = fmt.Sprintf("%.2f  %s %.4g %s", r.median()/r.limit, r.against, r.limit, r.unit)
		}
		fmt.Fprintf(tw, "%s\t%.2f %s\t%.2f\t%.2f\t%d\t%s\n", r.name, r.median(), r.unit,
			slices.Min(r.values), slices.Max(r.values), len(r.values), ratio)
	}
	return tw.Flush()
}

// draw makes the picture of the boots: a bar a machine, a mark a round.
func draw(path string, t *table, accel qemu.Accelerator) error {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("From power-on, in seconds (QEMU, %s, one processor)", accel)
	p.X.Min = 0
	rows := []*row{t.find(rowCloud), t.find(rowStock), t.find(rowOurs)}
	var names []string
	for i, r := range rows {
		bar, err := plotter.NewBarChart(plotter.Values{r.median()}, vg.Points(18))
		if err != nil {
			return err
		}
		bar.Horizontal, bar.XMin, bar.LineStyle.Width = true, float64(i), 0
		bar.Color = color.RGBA{R: 0x9a, G: 0xa5, B: 0xb1, A: 0xff}
		if r.name == rowOurs {
			bar.Color = color.RGBA{R: 0x2b, G: 0x6c, B: 0xb0, A: 0xff}
		}
		var marks plotter.XYs
		for _, v := range r.values {
			marks = append(marks, plotter.XY{X: v, Y: float64(i)})
		}
		rounds, err := plotter.NewScatter(marks)
		if err != nil {
			return err
		}
		p.Add(bar, rounds)
		names = append(names, fmt.Sprintf("%s: %.1f s", r.name, r.median()))
	}
	p.NominalY(names...)
	return p.Save(vg.Points(640), vg.Points(170), path)
}
