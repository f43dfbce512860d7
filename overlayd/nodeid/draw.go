package nodeid

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// Add returns the position d clockwise of a: Clockwise(a, Add(a, d)) == d.
func Add(a, d ID) ID {
	var sum ID
	low, carry := bits.Add64(a.suffix(), d.suffix(), 0)
	high, _ := bits.Add64(a.Prefix(), d.Prefix(), carry)
	binary.BigEndian.PutUint64(sum[:8], high)
	binary.BigEndian.PutUint64(sum[8:], low)
	return sum
}

// PrefixDistance is Distance between prefixes.
func PrefixDistance(a, b uint64) uint64 { return min(a-b, b-a) }

// Fraction returns an arc as a share of the ring, in [0, 1).
func (id ID) Fraction() float64 {
	return float64(id.Prefix()>>11) / (1 << 53)
}

// FromFraction returns the arc that is the share f of the ring, 0 <= f < 1,
// to 53 significant bits.
func FromFraction(f float64) ID {
	var id ID
	if f <= 0 || f >= 1 || math.IsNaN(f) {
		return id
	}
	mantissa, exponent := math.Frexp(f) // f = mantissa * 2^exponent
	m := uint64(mantissa * (1 << 53))
	hi, lo := m<<11, uint64(0) // as a share: m / 2^53
	if down := uint(-exponent); down < 64 {
		hi, lo = hi>>down, hi<<(64-down)
	} else {
		hi, lo = 0, hi>>(min(down, 127)-64)
	}
	binary.BigEndian.PutUint64(id[:], hi)
	binary.BigEndian.PutUint64(id[8:], lo)
	return id
}
