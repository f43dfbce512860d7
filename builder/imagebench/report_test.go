package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	var tab table
	r := tab.add("boot", "s", 30, "peer")
	for _, v := range []float64{45, 15, 21} {
		r.value(v)
	}
	tab.add("base", "s", 0, "")
	var b strings.Builder
	if err := tab.print(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if got := strings.Fields(lines[1]); strings.Join(got, " ") != "boot 21.00 s 15.00 45.00 3 0.70 peer 30 s" {
		t.Errorf("row: %q", got)
	}
	if !strings.Contains(lines[2], "not measured") {
		t.Errorf("a row without values: %q", lines[2])
	}
	r.value(19)
	if m := r.median(); m != 20 {
		t.Errorf("median of four = %v, want 20", m)
	}
}

func TestPictureShowsEveryRow(t *testing.T) {
	var tab table
	for _, name := range []string{rowStock, rowCloud, rowOurs} {
		tab.add(name, "s", 0, "").value(30)
	}
	path := filepath.Join(t.TempDir(), "p.svg")
	if err := draw(path, &tab, "tcg"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{rowStock, rowCloud, rowOurs, "30.0 s", "tcg"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the picture does not say %q", want)
		}
	}
}
