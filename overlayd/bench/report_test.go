package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// titles are what a table's heading says of an underlay.
var titles = []struct {
	underlay
	text string
}{
	{cable, "A cable that carries UDP segmentation whole"},
	{plain, "A network device that cannot segment UDP"},
	{lossy, "The same without grouping at the receiver, 1 % of the datagrams lost each way"},
	{relayed, "Through a third machine"},
}

// better says whether more is, for the ratio.
func better(measure string) bool {
	return strings.HasPrefix(measure, "TCP") || strings.HasPrefix(measure, "UDP")
}

// TestReport writes what the rounds in BENCH_DIR came to into BENCH_DOCUMENT,
// below the line that says so. BENCH_NOTE is said of the circumstances.
func TestReport(t *testing.T) {
	dir, document := os.Getenv("BENCH_DIR"), os.Getenv("BENCH_DOCUMENT")
	if dir == "" || document == "" {
		t.Skip("BENCH_DIR and BENCH_DOCUMENT are not set: make bench-overlay")
	}
	files, err := filepath.Glob(filepath.Join(dir, "round-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no rounds in %s: %v", dir, err)
	}
	var all []result
	for _, f := range files {
		var round []result
		if err := json.Unmarshal([]byte(read(t, f)), &round); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all = append(all, round...)
	}
	text := fmt.Sprintf("Linux %s, %d processors, %d rounds; medians, and in brackets how many times better overlayd is.%s\n%s",
		kernel(), runtime.NumCPU(), len(files), os.Getenv("BENCH_NOTE"), tables(all))
	const line = "<!-- written by make bench-overlay; what is below is replaced -->\n"
	before, _, found := strings.Cut(read(t, document), line)
	if !found {
		t.Fatalf("%s has no line %q", document, line)
	}
	if err := os.WriteFile(document, []byte(before+line+"\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text)
}

// tables are one table for each underlay that was measured: a row a measure, a
// column a contender.
func tables(all []result) string {
	var b strings.Builder
	for _, title := range titles {
		values := map[string]map[string][]float64{} // by contender and measure
		for _, r := range all {
			if r.Underlay != title.underlay {
				continue
			}
			if values[r.Contender] == nil {
				values[r.Contender] = map[string][]float64{}
			}
			for name, v := range r.Values {
				values[r.Contender][name] = append(values[r.Contender][name], v)
			}
		}
		var columns []string
		for _, c := range contenders {
			if values[c.name] != nil {
				columns = append(columns, c.name)
			}
		}
		if len(columns) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n| | %s |\n|%s\n", title.text, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)+1))
		for _, name := range measures {
			own, ok := values["overlayd"][name]
			var cells []string
			some := false
			for _, c := range columns {
				v := values[c][name]
				if len(v) == 0 {
					cells = append(cells, "")
					continue
				}
				some = true
				cell := figure(median(v))
				if ratio := median(own) / median(v); ok && c != "overlayd" && c != "no overlay" {
					if !better(name) {
						ratio = 1 / ratio
					}
					if !math.IsNaN(ratio) && !math.IsInf(ratio, 0) {
						cell += fmt.Sprintf(" (%.2f)", ratio)
					}
				}
				cells = append(cells, cell)
			}
			if some {
				fmt.Fprintf(&b, "| %s | %s |\n", name, strings.Join(cells, " | "))
			}
		}
	}
	return b.String()
}

// median returns that of a copy; of nothing, not a number.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}

// figure prints three digits of x.
func figure(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

func TestTables(t *testing.T) {
	all := []result{
		{cable, "no overlay", map[string]float64{tcp1: 30000}},
		{cable, "overlayd", map[string]float64{tcp1: 6000, cpuGiB: 2}},
		{cable, "overlayd", map[string]float64{tcp1: 8000, cpuGiB: 2}},
		{cable, "wireguard-go", map[string]float64{tcp1: 2000, cpuGiB: 5}},
		{relayed, "overlayd", map[string]float64{tcp1: 1500}},
	}
	want := `
## A cable that carries UDP segmentation whole

| | no overlay | overlayd | wireguard-go |
|---|---|---|---|
| TCP, one stream (Mbit/s) | 30000 | 7000 | 2000 (3.50) |
| daemons' CPU per GiB (s) |  | 2.00 | 5.00 (2.50) |

## Through a third machine

| | overlayd |
|---|---|
| TCP, one stream (Mbit/s) | 1500 |
`
	if got := tables(all); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
