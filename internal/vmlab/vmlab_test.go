package vmlab

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestPlaces: however many tests want machines, two run at once, and tests
// that want both at the same time do not block each other.
func TestPlaces(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // not the places of real machines
	var running, most atomic.Int32
	t.Run("group", func(t *testing.T) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for i := range 6 {
			n := 1 + i%2
			wg.Go(func() {
				t.Run("", func(t *testing.T) {
					reserve(t, n)
					now := running.Add(int32(n))
					for {
						old := most.Load()
						if now <= old || most.CompareAndSwap(old, now) {
							break
						}
					}
					time.Sleep(20 * time.Millisecond)
					running.Add(-int32(n))
				})
			})
		}
	})
	if most.Load() != places {
		t.Errorf("%d machines at once, want %d", most.Load(), places)
	}
}
