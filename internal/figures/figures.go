// Package figures puts what was measured into documents: a part between two
// marks that a target of the Makefile replaces, and plots that look alike.
//
// For tests and benchmarks only.
package figures

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
)

// Write replaces what stands in a document between the lines that say what make
// TARGET writes. Every other byte stays. A document without both lines is an
// error, and is left as it is.
func Write(document, target, content string) error {
	start := fmt.Sprintf("<!-- written by make %s -->\n", target)
	end := fmt.Sprintf("<!-- end of what make %s writes -->\n", target)
	old, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), start)
	_, after, ends := strings.Cut(rest, end)
	if !ok || !ends {
		return fmt.Errorf("write %s: want the lines %q and %q", document, start, end)
	}
	return os.WriteFile(document, []byte(before+start+"\n"+strings.TrimSpace(content)+"\n\n"+end+after), 0o644)
}

// Pictures makes the folder that a document's plots are in, and returns it:
// docs/nat for docs/nat.md.
func Pictures(document string) (string, error) {
	dir := strings.TrimSuffix(document, filepath.Ext(document))
	return dir, os.MkdirAll(dir, 0o755)
}

// Hues are told apart by people who see red and green alike (Okabe and Ito).
var Hues = []color.RGBA{
	{0x00, 0x72, 0xb2, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0xcc, 0x79, 0xa7, 0xff}, {0xe6, 0x9f, 0x00, 0xff},
}

// Plot returns an empty plot. Its legend, on the right, stands left of its
// text: there it fits whatever font a browser takes.
func Plot(x, y string) *plot.Plot {
	p := plot.New()
	p.Add(plotter.NewGrid())
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs, p.Legend.Padding = true, true, vg.Points(420), vg.Points(3)
	for _, style := range []*text.Style{&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Font.Variant = "Sans"
		style.Font.Size = vg.Points(11)
	}
	return p
}

// Line adds a line of the i-th hue.
func Line(p *plot.Plot, name string, i int, xys plotter.XYs) error {
	l, err := plotter.NewLine(xys)
	if err != nil {
		return err
	}
	l.Color, l.Width = Hues[i%len(Hues)], vg.Points(1.5)
	p.Add(l)
	p.Legend.Add(name, l)
	return nil
}

// Distribution is the cumulative distribution of a sample: to each value the
// share of values up to it.
func Distribution(sample []float64) plotter.XYs {
	sorted := slices.Sorted(slices.Values(sample))
	xys := make(plotter.XYs, len(sorted))
	for i, v := range sorted {
		xys[i] = plotter.XY{X: v, Y: float64(i+1) / float64(len(sorted))}
	}
	return xys
}

// Save writes a plot as a picture that fills a page's width.
func Save(p *plot.Plot, path string) error {
	return p.Save(vg.Points(560), vg.Points(280), path)
}
