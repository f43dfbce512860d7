// Package report keeps what simulations found, and makes of it the table, the
// plots and the generated part of docs/simulation.md.
//
//	overlayd/sim/scenario  nodes and datagrams ─┐                  ┌─ table beside published figures
//	                                            ├─ DIR/RUN.json ───┼─ seconds and memory of each run
//	overlayd/ring          100,000, no datagrams┘                  └─ plots (SVG)
//
// Each run leaves one file when it is done, so a long set that is killed loses
// one run. The package knows neither the scenarios nor the ring: they are tests
// above and below it, and hand over numbers under the names that rows ask for.
//
// Invariant: a row without a figure is an error, never an empty cell.
//
// For tests only. Not safe for concurrent use.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Result is what one run found.
type Result struct {
	Run        string
	What       string // for people: what happens in it
	Nodes      int    // besides bootstrap nodes
	Bootstraps int
	Seed       uint64

	Figures map[string]float64 // under the names that rows use; times in seconds
	Hops    []int              // how many lookups took so many hops
	Samples map[string][]float64
	Course  []Point // lookups over time, where the run has a course

	VirtualSeconds float64
	Seconds        float64
	HeapMiB        int
	Events         uint64
	Trace          string
	Notes          []string
}

// Point is the lookups asked in a piece of a run's time.
type Point struct {
	At           float64 // the piece's middle, in seconds from the event of the run
	Asked, Right int
}

// Thin keeps at most n of a sorted sample, the ends among them.
func Thin(sorted []float64, n int) []float64 {
	if len(sorted) <= n {
		return sorted
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = sorted[i*(len(sorted)-1)/(n-1)]
	}
	return out
}

// Order is asked of the tests by make sim, through the environment.
type Order struct {
	Dir    string   // where results lie: SIM_DIR; empty: this is not make sim
	Nodes  int      // SIM_NODES
	Coarse int      // of the run coarse: SIM_COARSE
	Only   []string // SIM: these runs, anew; empty: all that have no result yet

	// Smaller takes results of fewer nodes into the document: SIM_SMALLER. The
	// document says of how many.
	Smaller bool
}

// Ordered reads the environment.
func Ordered() (Order, error) {
	o := Order{Dir: os.Getenv("SIM_DIR"), Only: strings.Fields(strings.ReplaceAll(os.Getenv("SIM"), ",", " ")), Smaller: os.Getenv("SIM_SMALLER") != ""}
	if o.Dir == "" {
		return o, nil
	}
	for _, size := range []struct {
		name  string
		to    *int
		least int
	}{{"SIM_NODES", &o.Nodes, 20}, {"SIM_COARSE", &o.Coarse, 1000}} {
		var err error
		if *size.to, err = strconv.Atoi(os.Getenv(size.name)); err != nil || *size.to < size.least {
			return o, fmt.Errorf("read %s %q: want a number of nodes, at least %d", size.name, os.Getenv(size.name), size.least)
		}
	}
	return o, nil
}

// Wants says whether a run is to be made: it is named, or nothing is named and
// there is no result of it with so many nodes and that seed. A name stands for
// all runs that begin with it: churn for churn-10m and churn-84s.
func (o Order) Wants(run string, nodes int, seed uint64) bool {
	if len(o.Only) > 0 {
		return slices.ContainsFunc(o.Only, func(name string) bool { return run == name || strings.HasPrefix(run, name+"-") })
	}
	old, err := load(o.Dir, run)
	return err != nil || old.Nodes != nodes || old.Seed != seed
}

// Save writes a result, whole or not at all.
func Save(dir string, r Result) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("save result of %s: %w", r.Run, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, r.Run+".json")
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func load(dir, run string) (r Result, err error) {
	path := filepath.Join(dir, run+".json")
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// Results are by the names of their runs.
type Results map[string]Result

// size is how many nodes a run is to have.
func (o Order) size(run string) int {
	switch run {
	case "coarse":
		return o.Coarse
	case "coarse-tenth":
		return o.Coarse / 10
	}
	return o.Nodes
}

// Load reads the results there are of runs of the sizes that are ordered, and of
// smaller ones if they will do.
func Load(o Order) (Results, error) {
	rs := Results{}
	for _, run := range Runs {
		r, err := load(o.Dir, run)
		switch {
		case err == nil && (r.Nodes == o.size(run) || o.Smaller && r.Nodes < o.size(run)):
			rs[run] = r
		case err == nil: // of another size
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return rs, nil
}

// Runs is the full set, in the order of the document.
var Runs = []string{"steady", "nat", "churn-10m", "churn-84s", "massacre", "split", "flash", "coarse-tenth", "coarse"}
