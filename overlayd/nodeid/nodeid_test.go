package nodeid

import (
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
)

// at returns the position n, counted from the top for a negative n.
func at(n int64) ID { return fromBig(big.NewInt(n)) }

var ring = new(big.Int).Lsh(big.NewInt(1), 8*Size)

func fromBig(n *big.Int) ID {
	var id ID
	new(big.Int).Mod(n, ring).FillBytes(id[:])
	return id
}

func toBig(id ID) *big.Int { return new(big.Int).SetBytes(id[:]) }

// half is the position opposite to 0.
var half = ID{0x80}

func TestDistance(t *testing.T) {
	for _, c := range []struct{ a, b, clockwise, distance ID }{
		{at(0), at(0), at(0), at(0)},
		{at(1), at(3), at(2), at(2)},
		{at(3), at(1), at(-2), at(2)},
		{at(-1), at(1), at(2), at(2)},
		{at(1), at(-1), at(-2), at(2)},
		{at(0), half, half, half},
		{half, at(0), half, half},
		{at(255), at(256), at(1), at(1)},
	} {
		if got := Clockwise(c.a, c.b); got != c.clockwise {
			t.Errorf("Clockwise(%s, %s) = %s, want %s", c.a, c.b, got, c.clockwise)
		}
		if got := Distance(c.a, c.b); got != c.distance {
			t.Errorf("Distance(%s, %s) = %s, want %s", c.a, c.b, got, c.distance)
		}
	}
}

func TestBetween(t *testing.T) {
	for _, c := range []struct {
		x, a, b ID
		want    bool
	}{
		{at(2), at(1), at(3), true},
		{at(1), at(1), at(3), false},
		{at(3), at(1), at(3), false},
		{at(4), at(1), at(3), false},
		{at(0), at(-1), at(1), true}, // over the top
		{at(2), at(3), at(1), false},
		{half, at(3), at(1), true},
		{at(1), at(1), at(1), false}, // whole ring but the point
		{at(2), at(1), at(1), true},
	} {
		if got := Between(c.x, c.a, c.b); got != c.want {
			t.Errorf("Between(%s, %s, %s) = %v, want %v", c.x, c.a, c.b, got, c.want)
		}
	}
}

// TestAgainstBigIntegers holds the byte arithmetic against math/big.
func TestAgainstBigIntegers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	draw := func() (id ID) {
		for i := range id {
			id[i] = byte(rng.Uint32())
		}
		return id
	}
	for range 1000 {
		a, b, x := draw(), draw(), draw()
		want := fromBig(new(big.Int).Sub(toBig(b), toBig(a)))
		if got := Clockwise(a, b); got != want {
			t.Fatalf("Clockwise(%s, %s) = %s, want %s", a, b, got, want)
		}
		if got := Add(a, Clockwise(a, b)); got != b {
			t.Fatalf("Add(%s, Clockwise(%s, %s)) = %s", a, a, b, got)
		}
		if a.Compare(b) != toBig(a).Cmp(toBig(b)) {
			t.Fatalf("Compare(%s, %s) = %d", a, b, a.Compare(b))
		}
		if Distance(a, b) != Distance(b, a) || Distance(a, b).Compare(half) > 0 {
			t.Fatalf("Distance(%s, %s) is not the shorter way from both ends", a, b)
		}
		if x != a && x != b && Between(x, a, b) == Between(x, b, a) {
			t.Fatalf("%s is on both or on neither arc of %s and %s", x, a, b)
		}
	}
}

func TestFraction(t *testing.T) {
	for _, f := range []float64{0.5, 0.25, 0.1, 1e-3, 1e-9, 0x1p-60, 0x1p-64, 0x1p-100, 0x1p-127, 0.999} {
		want, _ := new(big.Float).Mul(big.NewFloat(f), new(big.Float).SetInt(ring)).Int(nil)
		got := toBig(FromFraction(f))
		off := new(big.Int).Abs(new(big.Int).Sub(got, want))
		if off.Cmp(new(big.Int).Rsh(want, 50)) > 0 {
			t.Errorf("FromFraction(%g) = %x, want %x", f, got, want)
		}
		if back := FromFraction(f).Fraction(); f >= 1e-3 && (back-f)/f > 1e-12 {
			t.Errorf("FromFraction(%g).Fraction() = %g", f, back)
		}
	}
	for _, f := range []float64{0, 1, -1, 2} {
		if got := FromFraction(f); got != (ID{}) {
			t.Errorf("FromFraction(%g) = %s, want 0", f, got)
		}
	}
}

func TestParse(t *testing.T) {
	text := "0123456789abcdef0123456789abcdef"
	id, err := Parse(text)
	if err != nil || id.String() != text {
		t.Errorf("Parse(%q) = %s, %v", text, id, err)
	}
	for _, bad := range []string{"", text[1:], text + "0", strings.ToUpper(text), strings.Repeat("g", 32), strings.Repeat("x", 1<<20)} {
		if id, err := Parse(bad); err == nil {
			t.Errorf("Parse(%.50q) = %s, want an error", bad, id)
		} else if len(err.Error()) > 200 {
			t.Errorf("Parse of %d bytes: error of %d bytes", len(bad), len(err.Error()))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0123456789abcdef0123456789abcdef")
	f.Add("0x")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := Parse(text); err == nil && id.String() != text {
			t.Errorf("Parse(%q).String() = %q", text, id)
		}
	})
}
