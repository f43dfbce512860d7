package session

import (
	"math/rand/v2"
	"testing"
)

// TestWindow compares the window with a set, for counters that come in any
// order, twice, and after gaps of any length.
func TestWindow(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var w window
		seen := map[uint64]bool{}
		top, n := uint64(0), uint64(0) // one above the highest seen, and the next new one
		for range 20_000 {
			switch counter := n; rng.IntN(40) {
			case 0:
				n += uint64(rng.IntN(3 * Window)) // lost
			default:
				if late := uint64(rng.IntN(1 + rng.IntN(Window+200))); rng.IntN(4) == 0 && late <= counter {
					counter -= late
				} else {
					n++
				}
				want := counter >= top || top-counter <= Window && !seen[counter]
				if got := w.fresh(counter); got != want {
					t.Fatalf("seed %d: counter %d is fresh: %v, want %v; the highest seen is %d", seed, counter, got, want, int64(top)-1)
				}
				if want {
					w.accept(counter)
					seen[counter] = true
					top = max(top, counter+1)
				}
			}
		}
	}
}
