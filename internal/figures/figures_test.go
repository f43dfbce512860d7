package figures

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.md")
	const marks = "<!-- written by make nat -->\nold\n<!-- end of what make nat writes -->\n"
	for _, tc := range []struct{ name, before, after string }{
		{"replaced", "first\n" + marks + "last\n", "first\n<!-- written by make nat -->\n\nnew\n\n<!-- end of what make nat writes -->\nlast\n"},
		{"no end", "first\n" + strings.Replace(marks, "end of", "", 1), ""},
		{"no marks", "first\n", ""},
		{"another target's", strings.ReplaceAll(marks, "nat", "sim"), ""},
	} {
		if err := os.WriteFile(path, []byte(tc.before), 0o644); err != nil {
			t.Fatal(err)
		}
		err := Write(path, "nat", "\nnew\n")
		got, _ := os.ReadFile(path)
		switch {
		case tc.after == "" && (err == nil || string(got) != tc.before):
			t.Errorf("%s: error %v, content %q; want an error and %q", tc.name, err, got, tc.before)
		case tc.after != "" && (err != nil || string(got) != tc.after):
			t.Errorf("%s: error %v, content %q, want %q", tc.name, err, got, tc.after)
		}
	}
}

func TestDistribution(t *testing.T) {
	sample := []float64{3, 1, 2, 2}
	d := Distribution(sample)
	want := [][2]float64{{1, 0.25}, {2, 0.5}, {2, 0.75}, {3, 1}}
	for i, w := range want {
		if d[i].X != w[0] || d[i].Y != w[1] {
			t.Errorf("%d: %v, want %v", i, d[i], w)
		}
	}
	if sample[0] != 3 {
		t.Error("the sample was sorted in place")
	}
}

func TestSave(t *testing.T) {
	dir, err := Pictures(filepath.Join(t.TempDir(), "nat.md"))
	if err != nil {
		t.Fatal(err)
	}
	p := Plot("seconds", "share")
	if err := Line(p, "all of them", 0, Distribution([]float64{1, 2})); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "plot.svg")
	if err := Save(p, path); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(svg), "all of them") || !strings.Contains(string(svg), "seconds") {
		t.Errorf("%v: %.100s", err, svg)
	}
}
