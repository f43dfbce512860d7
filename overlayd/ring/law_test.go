package ring

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// smirnov returns the Kolmogorov-Smirnov distance between samples and a law.
func smirnov(samples []float64, law func(float64) float64) float64 {
	slices.Sort(samples)
	n, d := float64(len(samples)), 0.0
	for i, x := range samples {
		f := law(x)
		d = max(d, math.Abs(f-float64(i)/n), math.Abs(f-float64(i+1)/n))
	}
	return d
}

// critical is the distance that samples of the law exceed once in a thousand.
func critical(n int) float64 { return 1.95 / math.Sqrt(float64(n)) }

// harmonic is the law p(x) = 1/(x ln(1/a)) on [a, 1].
func harmonic(a float64) func(float64) float64 {
	return func(x float64) float64 { return min(max(1-math.Log(x)/math.Log(a), 0), 1) }
}

// TestFarDrawsAreHarmonic tests the sampler, and that the same test finds
// Evio's sampler, which mixes bases, wrong.
func TestFarDrawsAreHarmonic(t *testing.T) {
	const draws = 20000
	for _, n := range []float64{100, 10_000, 100_000} {
		m := New(Config{Rand: rand.New(rand.NewPCG(1, uint64(n)))})
		m.size = math.Log2(n)
		distance := func() float64 {
			samples := make([]float64, draws)
			for i := range samples {
				samples[i] = nodeid.FromFraction(m.draw()).Fraction()
			}
			return smirnov(samples, harmonic(1/n))
		}
		if d := distance(); d > critical(draws) {
			t.Errorf("n = %g: KS distance %.4f, at most %.4f", n, d, critical(draws))
		} else {
			t.Logf("n = %g: KS distance %.4f, critical %.4f", n, d, critical(draws))
		}
		m.rules.mixedBase = true
		if d := distance(); d <= critical(draws) {
			t.Errorf("n = %g: the mixed-base mutant passes with %.4f", n, d)
		} else {
			t.Logf("n = %g: mutant %.4f", n, d)
		}
	}
}

// TestFarLinksAreHarmonic tests the far links of a living ring, beyond where
// the choice among 16 neighbours blurs the distance. On [a, 1] the law is the
// same whatever a node takes the size for.
func TestFarLinksAreHarmonic(t *testing.T) {
	n := runs(250, 1500)
	l := grown(t, 51, n)
	l.run(30 * time.Second)
	const blur = 40 // nodes
	a := blur / float64(n)
	var samples []float64
	for _, x := range l.members() {
		for _, c := range x.conns {
			if d := c.cw.Fraction(); c.roles&wire.RoleFar != 0 && d >= a {
				samples = append(samples, d)
			}
		}
	}
	d := smirnov(samples, harmonic(a))
	t.Logf("%d nodes, %d far links beyond %.3f: KS distance %.4f, critical %.4f", n, len(samples), a, d, critical(len(samples)))
	if d > critical(len(samples)) {
		t.Error("far links do not follow the harmonic law")
	}
}

// TestFarLinksPreferNearNodes places nodes in five regions; far links are to
// be shorter in time than pairs are by chance.
func TestFarLinksPreferNearNodes(t *testing.T) {
	l := newLab(t, 52)
	l.jitter = time.Millisecond
	region := func(id nodeid.ID) int { return int(id[15]) % 5 }
	l.delay = func(a, b nodeid.ID) time.Duration {
		if d := (region(a) - region(b)); d != 0 {
			return time.Duration(20+30*max(d, -d)) * time.Millisecond
		}
		return 5 * time.Millisecond
	}
	l.grow(runs(90, 600), 15*time.Second)
	l.run(6 * time.Minute) // coordinates settle, links are renewed
	var far, any time.Duration
	members, n := l.members(), 0
	for _, x := range members {
		for _, c := range x.conns {
			if c.roles&wire.RoleFar != 0 {
				far += l.delay(x.id, c.peer.ID)
				any += l.delay(x.id, members[l.rng.IntN(len(members))].id)
				n++
			}
		}
	}
	t.Logf("%d far links: %s one way on average, random pairs %s", n, far/time.Duration(n), any/time.Duration(n))
	if far*10 > any*6 {
		t.Error("far links are not clearly shorter than random pairs")
	}
}

func TestSizeEstimate(t *testing.T) {
	for _, n := range []int{3, 9, 30, 200} {
		l := grown(t, uint64(n)+60, n)
		var off []float64
		for _, x := range l.members() {
			off = append(off, math.Abs(math.Log2(x.Size()/float64(n))))
		}
		slices.Sort(off)
		t.Logf("%d nodes: log2 of the estimate is off by %.2f in the median, %.2f at most", n, off[n/2], off[n-1])
		if off[n-1] > 1 {
			t.Errorf("%d nodes: an estimate is off by more than a factor of two", n)
		}
	}
}

// TestIdleCost counts what a node of a quiet ring sends and receives, each
// datagram with 60 bytes for IP, UDP and the record, and what its state takes.
// What grows with the ring are r and the number of far links, so the size that
// nodes believe in is set to that of the target.
func TestIdleCost(t *testing.T) {
	for _, c := range []struct {
		n       int
		believe float64
	}{{runs(100, 1000), 0}, {runs(100, 1000), 10_000}} {
		l := newLab(t, 71)
		if c.believe > 0 {
			l.rules.list = int(math.Ceil(math.Log2(c.believe) / 2))
			l.rules.size = math.Log2(c.believe)
		}
		l.grow(c.n, 20*time.Second)
		l.run(90 * time.Second)
		before, opens := l.total(), l.opens
		const seconds = 60
		l.run(seconds * time.Second)
		perNode := float64(l.total()-before) / seconds / float64(c.n)
		handshakes := float64(l.opens-opens) * handshakeBytes * 2 / seconds / float64(c.n)
		degree, state := 0, 0
		for _, x := range l.members() {
			degree += len(x.conns)
			state += size(reflect.ValueOf(x.Machine).Elem())
		}
		t.Logf("%d nodes that believe in %.0f: degree %.1f, %.0f B/s messages and %.0f B/s handshakes of merge probes, in and out together; %d bytes of state",
			c.n, max(c.believe, float64(c.n)), float64(degree)/float64(c.n), perNode, handshakes, state/c.n)
		if perNode+handshakes > 1000 {
			t.Errorf("%.0f B/s, at most 1000", perNode+handshakes)
		}
	}
}

// handshakeBytes is what a handshake sends over the wire, both ways: the first
// message is padded to 1,200 bytes; the others carry certificates.
const handshakeBytes = 3*1200 + 3*28

func (l *lab) total() (sum int) {
	for _, n := range l.nodes {
		sum += n.bytes
	}
	return sum
}

// size is what a value takes in memory with all it points to but the source of
// randomness and the configuration.
func size(v reflect.Value) int {
	n := int(v.Type().Size())
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "cfg" && name != "epoch" && name != "actions" && name != "Endpoints" {
				n += size(v.Field(i)) - int(v.Field(i).Type().Size())
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			n += size(v.Elem())
		}
	case reflect.Slice:
		n += (v.Cap() - v.Len()) * int(v.Type().Elem().Size())
		for i := range v.Len() {
			n += size(v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			n += size(v.Index(i)) - int(v.Type().Elem().Size())
		}
	}
	return n
}
