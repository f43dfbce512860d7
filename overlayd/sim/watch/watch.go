package watch

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/sim/scenario"
)

// page is everything but the recording.
//
//go:embed page.html
var page string

// hole is where the recording goes in the page.
const hole = "@recording@"

// Run lets n machines and n/20 bootstrap nodes, at least 4, live through six
// minutes.
func Run(seed uint64, n int) (*Recording, *scenario.World) {
	r := newRecording(seed)
	cfg := scenario.Config{Seed: seed, Machines: n, Bootstraps: max(4, n/20), Net: sim.Usual, NAT: scenario.NAT70, Drift: 100, Recorder: r}
	w := scenario.Make(cfg)
	r.world = w

	r.mark(MarkStep, fmt.Sprintf("%d bootstrap nodes find each other", cfg.Bootstraps))
	for i, m := range w.Bootstraps {
		w.After(time.Duration(i)*400*time.Millisecond, func() { w.Boot(m) })
	}
	w.Run(10 * time.Second)

	r.mark(MarkStep, fmt.Sprintf("%d machines join, 70 %% of them behind NATs", n))
	scatter(w, w.Machines, 60*time.Second)
	w.Look(n/2, 60*time.Second)
	w.Run(75 * time.Second)

	r.mark(MarkStep, "everybody looks keys up")
	w.Look(n, 30*time.Second)
	w.Run(105 * time.Second)

	w.Cut(half)
	r.mark(MarkCut, "the network is cut in halves: each closes a ring of its own")
	w.Look(2*n, 90*time.Second)
	w.Run(195 * time.Second)

	w.Mend()
	r.mark(MarkHeal, "the network is whole again: the rings find each other and merge")
	w.Look(2*n, 75*time.Second)
	w.Run(270 * time.Second)

	dead := w.Machines[:n*3/10]
	for _, m := range dead {
		w.Kill(m)
	}
	r.mark(MarkStep, "30 % of all machines die at once")
	w.Look(n, 40*time.Second)
	w.Run(310 * time.Second)

	r.mark(MarkStep, "as many new machines join within ten seconds")
	scatter(w, dead, 10*time.Second)
	w.Look(n, 40*time.Second)
	w.Run(360 * time.Second)
	r.Length = w.Now().Milliseconds()
	return r, w
}

// scatter boots machines evenly over a time.
func scatter(w *scenario.World, ms []*scenario.Machine, over time.Duration) {
	for i, m := range ms {
		w.After(over*time.Duration(i)/time.Duration(len(ms)), func() { w.Boot(m) })
	}
}

// Page returns the recording's page.
func (r *Recording) Page() ([]byte, error) {
	data, err := json.Marshal(r) // escapes <, > and &, so that it cannot end the script
	if err != nil {
		return nil, fmt.Errorf("write page: %w", err)
	}
	return []byte(strings.Replace(page, hole, string(data), 1)), nil
}
