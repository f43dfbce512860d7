package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// made is a result for every row and plot.
func made() Results {
	rs := Results{}
	for i, run := range Runs {
		rs[run] = Result{Run: run, Nodes: 100, Bootstraps: 5, Seed: 1, Figures: map[string]float64{}, Hops: []int{1, 5, 9, 2},
			Samples: map[string][]float64{"lookup": {0.1, 0.2, 0.3}, "join": {0.5, 0.9}, "load": {0, 1, 5}},
			Course:  []Point{{At: 1, Asked: 10, Right: 10}, {At: 2, Asked: 10, Right: 9}}, Seconds: float64(i)}
	}
	for _, r := range table {
		rs[r.run].Figures[r.key] = 0.5
	}
	return rs
}

const frame = "# before\n" + "<!-- written by make sim -->\nold\n<!-- end of what make sim writes -->\n" + "after\n"

func TestDocument(t *testing.T) {
	path := filepath.Join(t.TempDir(), "simulation.md")
	if err := os.WriteFile(path, []byte(frame), 0o644); err != nil {
		t.Fatal(err)
	}
	rs := made()
	for range 2 { // what is written can be written again
		if err := rs.Write(path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if !strings.HasPrefix(text, "# before\n") || !strings.HasSuffix(text, "after\n") || strings.Contains(text, "old\n") {
		t.Errorf("the text around is not what it was:\n%s", text)
	}
	for _, r := range table {
		if strings.Count(text, "| "+r.what+" |") != 1 {
			t.Errorf("no row %q", r.what)
		}
	}
	for _, p := range plots {
		svg, err := os.ReadFile(filepath.Join(strings.TrimSuffix(path, ".md"), p.file))
		if err != nil || !strings.Contains(string(svg), "<path") {
			t.Errorf("%s: nothing drawn, %v", p.file, err)
		}
		if !strings.Contains(text, "(simulation/"+p.file+")") {
			t.Errorf("the document does not show %s", p.file)
		}
	}
}

// TestLackingRow: each row and plot without its figures is an error.
func TestLackingRow(t *testing.T) {
	for _, r := range table {
		rs := made()
		delete(rs[r.run].Figures, r.key)
		if err := rs.Write("nowhere.md"); err == nil || !strings.Contains(err.Error(), r.run+": "+r.key) {
			t.Errorf("without %s of %s: %v", r.key, r.run, err)
		}
	}
	for _, p := range plots {
		if err := p.draw(Results{}, nil); err == nil {
			t.Errorf("%s was drawn of nothing", p.file)
		}
	}
}

func TestMet(t *testing.T) {
	for _, c := range []struct {
		u       unit
		v, goal float64
		want    string
	}{
		{seconds, 0.9, 1, "yes"}, {seconds, 1.1, 1, "**no**"}, {share, 0.99, 0.999, "**no**"}, {share, 1, 1, "yes"}, {number, 3, none, ""},
	} {
		if got := c.u.met(c.v, c.goal); got != c.want {
			t.Errorf("%v of goal %v: %q, want %q", c.v, c.goal, got, c.want)
		}
	}
}

func TestResume(t *testing.T) {
	o := Order{Dir: t.TempDir(), Nodes: 100}
	if !o.Wants("churn-10m", 100, 1) {
		t.Error("a run without result is not made")
	}
	if err := Save(o.Dir, Result{Run: "churn-10m", Nodes: 100, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	if o.Wants("churn-10m", 100, 1) {
		t.Error("a run with a result is made again")
	}
	if !o.Wants("churn-10m", 200, 1) || !o.Wants("churn-10m", 100, 2) {
		t.Error("a result of another size or seed is taken")
	}
	o.Only = []string{"churn"}
	if !o.Wants("churn-10m", 100, 1) || o.Wants("steady", 100, 1) {
		t.Error("a named run is not the one that is made")
	}
	if rs, err := Load(o); err != nil || len(rs) != 1 || rs["churn-10m"].Nodes != 100 {
		t.Errorf("loaded %v, %v", rs, err)
	}
	if rs, err := Load(Order{Dir: o.Dir, Nodes: 200}); err != nil || len(rs) != 0 {
		t.Errorf("of another size: %v, %v", rs, err)
	}
	if rs, err := Load(Order{Dir: o.Dir, Nodes: 200, Smaller: true}); err != nil || rs["churn-10m"].Nodes != 100 {
		t.Errorf("of a smaller size, which will do: %v, %v", rs, err)
	}
	if rs, err := Load(Order{Dir: o.Dir, Nodes: 50, Smaller: true}); err != nil || len(rs) != 0 {
		t.Errorf("of a larger size: %v, %v", rs, err)
	}
}

// TestSmallerRunsAreNamed: the table says of how many machines a figure is when
// other runs have more.
func TestSmallerRunsAreNamed(t *testing.T) {
	rs := Results{
		"nat":       {Nodes: 1000, Figures: map[string]float64{"success": 1}},
		"churn-10m": {Nodes: 100, Figures: map[string]float64{"success": 1}},
	}
	text := rs.Table()
	if !strings.Contains(text, "| lookups right, median session 10 min | 100 % (100 machines) |") || !strings.Contains(text, "| lookups right, 70 % behind NATs | 100 % |") {
		t.Error(text)
	}
}

// TestWriteDocument is the last step of make sim.
func TestWriteDocument(t *testing.T) {
	document := os.Getenv("SIM_DOCUMENT")
	if document == "" {
		t.Skip("the last step of make sim")
	}
	o, err := Ordered()
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("\n" + rs.Table() + "\n" + rs.Coarse() + "\n" + rs.Costs())
	if lacking := rs.Missing(); len(o.Only) > 0 && len(lacking) > 0 {
		t.Skipf("%s stays as it is until everything has run; not yet: %q", document, lacking)
	}
	if err := rs.Write(document); err != nil {
		t.Fatal(err)
	}
}
