package report

import (
	"fmt"
	"math"
	"strings"
)

// row is a line of the table: a figure of a run, what it is to be, and what
// others published. A share is to be at least its goal, anything else at most.
type row struct {
	what      string
	run, key  string
	unit      unit
	goal      float64 // NaN: none
	published string
}

type unit uint8

const (
	seconds unit = iota
	share        // of 1
	number
	bytes
	perSecond // bytes
)

var none = math.NaN()

func (u unit) text(v float64) string {
	switch u {
	case seconds:
		if v == math.Trunc(v) || v >= 100 {
			return fmt.Sprintf("%.0f s", v)
		}
		return fmt.Sprintf("%.2f s", v)
	case share:
		return fmt.Sprintf("%.5g %%", 100*v)
	case bytes:
		return fmt.Sprintf("%.0f KiB", v/1024)
	case perSecond:
		return fmt.Sprintf("%.0f B/s", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (u unit) goal(v float64) string {
	switch {
	case math.IsNaN(v):
		return "—"
	case u == share && v == 1:
		return u.text(v)
	case u == share:
		return "≥ " + u.text(v)
	case u == number:
		return fmt.Sprintf("≤ %.4g", v)
	}
	return "≤ " + u.text(v)
}

func (u unit) met(v, goal float64) string {
	switch {
	case math.IsNaN(goal):
		return ""
	case u == share && v >= goal, u != share && v <= goal:
		return "yes"
	}
	return "**no**"
}

// What others published, and where. Those called model are a static graph of
// this project's own, without repair, from before the code.
const (
	wow      = "WOW: 90 % of pairs within 10 s (Ganguly et al., HPDC'06)"
	ipfs     = "IPFS: 80 % of retrievals from Europe within 0.5 s (ProbeLab, IETF 118)"
	bamboo   = "Bamboo works at a median of 1.4 min, 1,000 nodes (Rhea et al., USENIX'04)"
	cost     = "Bamboo below 900 B/s, 1,000 nodes, median session 1.4 min (Rhea et al., USENIX'04)"
	oneHop   = "OneHop: 99 % at the first try (Gupta et al., HotOS'03, NSDI'04)"
	zave     = "three periods of 5 s; Chord of 2001 may never (Zave, arXiv 1502.06461)"
	shafaat  = "two periods of 30 s of looking for others (method: Shafaat et al. 2009; Ring Reunion, Future Internet 17(6) 248)"
	staticTo = "model: 99.85 % of routes"
	hubs     = "model: 500 nodes without a bound carry 3,245–3,733 connections each"
)

// table is the metrics that were agreed before the code, and what stands
// beside them.
var table = []row{
	{"start to being on the ring, median", "steady", "join.p50", seconds, 1, wow},
	{"start to being on the ring, p99", "steady", "join.p99", seconds, 3, wow},
	{"start to being on the ring, 70 % behind NATs, median", "nat", "join.p50", seconds, 1, wow},
	{"start to being on the ring, 70 % behind NATs, p99", "nat", "join.p99", seconds, 3, wow},
	{"start to being on the ring, flash join, p99", "flash", "join.p99", seconds, none, wow},
	{"hops of a lookup, mean", "steady", "hops.mean", number, 6, "model of 10,000: 4.5; Brunet's parameters in it: 9.4; Chord ½ log₂N: 6.6"},
	{"hops of a lookup, p99", "steady", "hops.p99", number, none, "model of 10,000: 7; Brunet's parameters in it: 19"},
	{"hops of a route, coarse, mean", "coarse", "hops.mean", number, 6, "model of 100,000: 5.4; Brunet's parameters in it: 14.0; bound log₂²N/k of Symphony (Manku et al., USITS'03): 16"},
	{"law of far links, Kolmogorov–Smirnov distance over critical", "coarse", "ks.ratio", number, 1, "harmonic law (Symphony §3.1)"},
	{"lookup, round trip, median", "steady", "lookup.p50", seconds, none, ipfs},
	{"lookup, round trip, p99", "steady", "lookup.p99", seconds, 1, ipfs},
	{"lookup, round trip, 70 % behind NATs, p99", "nat", "lookup.p99", seconds, 1, ipfs},
	{"lookups right, nothing happening", "steady", "success", share, 1, oneHop},
	{"lookups right, 70 % behind NATs", "nat", "success", share, 0.999, oneHop},
	{"lookups right, median session 10 min", "churn-10m", "success", share, 0.999, oneHop},
	{"lookups right, median session 1.4 min", "churn-84s", "success", share, 0.99, bamboo},
	{"lookups right, first 5 s after 30 % died", "massacre", "success.first", share, 0.99, staticTo},
	{"lookups right, from 30 s after 30 % died", "massacre", "success", share, 1, staticTo},
	{"lookups right, during a cut, on the own side", "split", "success.cut", share, none, "IPOP: no promise"},
	{"lookups right, one minute after the heal", "split", "success", share, 1, "—"},
	{"lookups right, while a tenth joins in 10 s", "flash", "success", share, none, oneHop},
	{"maintenance, sent by an idle node", "steady", "bytes", perSecond, 1024, cost},
	{"maintenance, 70 % behind NATs", "nat", "bytes", perSecond, 1024, cost},
	{"sent by a node, median session 1.4 min, lookups among it", "churn-84s", "bytes", perSecond, none, cost},
	{"all successors right after 30 % died", "massacre", "recovered", seconds, 15, zave},
	{"all successors right after a flash join", "flash", "recovered", seconds, 15, zave},
	{"one ring after a cut healed", "split", "recovered", seconds, 60, shafaat},
	{"load: busiest node forwards, times the mean", "steady", "load", number, 8, hubs},
	{"load, 70 % behind NATs", "nat", "load", number, 8, hubs},
	{"load, 70 % behind NATs, with datagrams relayed for others", "nat", "carried", number, none, "who is connected directly with both ends relays: mostly the third with public addresses"},
	{"a live member skipped by its predecessor, the longest, looked at every 10 s", "nat", "skipped.longest", seconds, 0, zave},
	{"the same, median session 10 min", "churn-10m", "skipped.longest", seconds, none, zave},
	{"the same, median session 1.4 min", "churn-84s", "skipped.longest", seconds, none, zave},
	{"lists out of order, connections over the bound: looks at every node, median session 1.4 min", "churn-84s", "broken", number, 0, "—"},
	{"connections of a node, mean", "steady", "degree", number, none, "model of 10,000: 18"},
	{"connections of a node, most", "nat", "degree.max", number, none, hubs},
	{"state of a node, as memory of the simulation", "steady", "heap.node", bytes, none, "of this project's first plan: 8 KiB"},
}

// figure returns what a row asks for.
func (rs Results) figure(run, key string) (float64, bool) {
	v, ok := rs[run].Figures[key]
	return v, ok
}

// Missing names what the table has no figure for.
func (rs Results) Missing() (lacking []string) {
	for _, r := range table {
		if _, ok := rs.figure(r.run, r.key); !ok {
			lacking = append(lacking, r.run+": "+r.key)
		}
	}
	return lacking
}

// Table is the table in Markdown.
func (rs Results) Table() string {
	var b strings.Builder
	b.WriteString("| what | measured | goal | met | published, or expected |\n|---|---|---|---|---|\n")
	for _, r := range table {
		text, met := "not run", ""
		if v, ok := rs.figure(r.run, r.key); ok {
			text, met = r.unit.text(v), r.unit.met(v, r.goal)
			if r.unit == seconds && v >= never {
				text = "not within the run"
			}
			if n := rs[r.run].Nodes; n < rs.most() && !strings.HasPrefix(r.run, "coarse") {
				text += fmt.Sprintf(" (%d machines)", n)
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.what, text, r.unit.goal(r.goal), met, r.published)
	}
	return b.String()
}

// most is how many machines the largest run with datagrams has.
func (rs Results) most() (n int) {
	for run, r := range rs {
		if !strings.HasPrefix(run, "coarse") {
			n = max(n, r.Nodes)
		}
	}
	return n
}

// never stands for a time that did not come; in seconds.
const never = 1e9

// Costs is what each run cost, in Markdown.
func (rs Results) Costs() string {
	var b strings.Builder
	b.WriteString("| run | what happens | nodes | bootstrap | virtual | real | heap | events | trace |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, run := range Runs {
		r, ok := rs[run]
		if !ok {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %.0f s | %.0f s | %d MiB | %s | %.12s |\n",
			r.Run, r.What, r.Nodes, r.Bootstraps, r.VirtualSeconds, r.Seconds, r.HeapMiB, millions(r.Events), r.Trace)
	}
	return b.String()
}

func millions(n uint64) string {
	if n == 0 {
		return "—"
	}
	return fmt.Sprintf("%.1f M", float64(n)/1e6)
}

// Coarse is the table of the runs without datagrams, in Markdown, beside the
// static model that came before the code.
func (rs Results) Coarse() string {
	var b strings.Builder
	b.WriteString("| nodes | degree, mean / most | hops, mean / p99 | one way in ms, p50 / p90 / p99; direct p50 | coordinates off by, p50 / p90 | routes that fail with 10 / 30 / 50 % dead, no repair | seconds | heap |\n|---|---|---|---|---|---|---|---|\n")
	for _, run := range []string{"coarse-tenth", "coarse"} {
		r, ok := rs[run]
		if !ok {
			continue
		}
		f := func(key string) float64 { return r.Figures[key] }
		fmt.Fprintf(&b, "| %d | %.1f / %.0f | %.1f / %.0f | %.0f / %.0f / %.0f; %.0f | %.0f / %.0f %% | %.2f / %.2f / %.2f %% (after retries %.2f / %.2f / %.2f %%) | %.0f | %d MiB |\n",
			r.Nodes, f("degree"), f("degree.max"), f("hops.mean"), f("hops.p99"),
			1000*f("oneway.p50"), 1000*f("oneway.p90"), 1000*f("oneway.p99"), 1000*f("direct.p50"), 100*f("coord.p50"), 100*f("coord.p90"),
			100*f("fail.10"), 100*f("fail.30"), 100*f("fail.50"), 100*f("retry.10"), 100*f("retry.30"), 100*f("retry.50"), r.Seconds, r.HeapMiB)
	}
	b.WriteString("| 10,000, model | 18 | 4.5 / 7 | 94 / 153 / 211; 35 | exact | 0 / 0.10 / 2.4 % | | |\n")
	b.WriteString("| 100,000, model | 21.9 | 5.4 / 8 | 107 / 167 / 226; 35 | exact | 0 / 0.15 / 3.1 % | | |\n")
	b.WriteString("| 100,000, model, Brunet's parameters | 11.0 | 14.0 / 27 | 500 / 781 / 1033; 35 | none | 4 / 43 / 88 % | | |\n")
	return b.String()
}
