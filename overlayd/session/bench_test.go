package session

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func connected(t testing.TB, aes bool) (*net, *peer, *peer) {
	g := newGrid(t, "archer")
	set := func(c *Config) { c.AES = aes }
	a, b := g.node("a", g.holder("alice", 0, 0), set), g.node("b", g.holder("bob", 0, 0), set)
	n := newNet(t, a, b)
	n.open(a, b)
	n.run(time.Second)
	if a.up == nil || b.up == nil {
		t.Fatal("no session")
	}
	return n, a, b
}

func TestTheDataPathAllocatesNothing(t *testing.T) {
	for _, aes := range []bool{true, false} {
		_, a, b := connected(t, aes)
		sealer, keys := a.up.Keys().Sealer(1), b.up.Keys()
		buf := make([]byte, Overhead+1200)
		marked := make([]byte, RelaySize+1200)
		var marker Marker
		var checker Checker
		run := func() {
			if err := sealer.Seal(buf, 3, 45); err != nil {
				t.Fatal(err)
			}
			if o, _, err := keys.Open(buf); err != nil || o.Index != 3 || o.Total != 45 || len(o.Plain) != 1200 {
				t.Fatal(err)
			}
			if err := marker.Mark(sealer.keys, marked, 3); err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := checker.Check(keys, marked); err != nil {
				t.Fatal(err)
			}
		}
		run() // the windows and buffers of the first
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("AES %v: %v allocations", aes, n)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, aes := range []bool{true, false} {
		for _, size := range []int{64, 1200, 1420} {
			b.Run(fmt.Sprintf("aes=%v/%d", aes, size), func(b *testing.B) {
				_, p, _ := connected(b, aes)
				sealer := p.up.Keys().Sealer(1)
				buf := make([]byte, Overhead+size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if err := sealer.Seal(buf, 0, 1); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, aes := range []bool{true, false} {
		for _, size := range []int{64, 1200, 1420} {
			b.Run(fmt.Sprintf("aes=%v/%d", aes, size), func(b *testing.B) {
				_, p, q := connected(b, aes)
				sealer, keys := p.up.Keys().Sealer(1), q.up.Keys()
				buf, sealed := make([]byte, Overhead+size), make([]byte, Overhead+size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				sealer.Seal(sealed, 0, 1)
				for b.Loop() {
					copy(buf, sealed) // opened in place; a copy of 1,200 bytes is about 20 ns
					if w := keys.windows[1]; w != nil {
						*w = window{} // so that the same record is fresh again
					}
					if _, _, err := keys.Open(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkRelayHop(b *testing.B) {
	_, p, q := connected(b, true)
	var marker Marker
	var checker Checker
	mine, theirs := p.up.Keys(), q.up.Keys()
	buf := make([]byte, RelaySize+1228)
	b.SetBytes(1228)
	b.ReportAllocs()
	for b.Loop() { // what a relay does: check one mark, make another
		if err := marker.Mark(mine, buf, 1); err != nil {
			b.Fatal(err)
		}
		if _, _, _, err := checker.Check(theirs, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHandshake is both ends' work: first with unknown holders, then as a
// renewal.
func BenchmarkHandshake(b *testing.B) {
	for _, renewal := range []bool{false, true} {
		b.Run(fmt.Sprintf("renewal=%v", renewal), func(b *testing.B) {
			n, p, q := connected(b, true)
			for b.Loop() {
				n.now = n.now.Add(time.Second)
				if !renewal {
					n.do(p, Destroy{Closed})
					n.do(q, Destroy{Closed})
					p.chains, q.chains = newChains(10), newChains(10)
				}
				before := q.Counters().Answers
				n.open(p, q)
				n.run(200 * time.Millisecond)
				if q.Counters().Answers != before+1 {
					b.Fatal("no handshake", p.log)
				}
			}
			total := 0
			for _, bytes := range n.sent {
				total += bytes
			}
			b.ReportMetric(float64(total)/float64(b.N+1), "B/handshake")
		})
	}
}

func BenchmarkCookie(b *testing.B) {
	_, n, p, q := pair(b)
	all := n.capture()
	n.open(p, q)
	n.run(time.Second)
	hello := (*all)[0].data
	from := Direct(endpoint(77))
	b.ReportAllocs()
	for b.Loop() {
		hello[30]++
		if len(q.Handle(n.now, Datagram{from, hello})) != 1 {
			b.Fatal("no cookie")
		}
	}
}

// TestSealersShareACounter seals from several goroutines, as the control loop
// and the data path do.
func TestSealersShareACounter(t *testing.T) {
	_, a, b := connected(t, true)
	keys := a.up.Keys()
	records := make(chan []byte, 4000)
	var sealing sync.WaitGroup
	for range 4 {
		sealing.Go(func() {
			s := keys.Sealer(2)
			for range 500 { // together no more than the window
				r := make([]byte, Overhead+8)
				if err := s.Seal(r, 0, 1); err != nil {
					t.Error(err)
				}
				records <- r
			}
		})
	}
	sealing.Wait()
	close(records)
	for r := range records {
		if _, drop, err := b.up.Keys().Open(r); err != nil {
			t.Fatal(drop)
		}
	}
}
