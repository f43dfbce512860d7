package ring

import (
	"math"
	"time"

	"gridappliance/overlayd/wire"
)

// coord is this node's place in Vivaldi's plane with heights (§5.4), in ms.
type coord struct{ x, y, height, err float64 }

// Implementation: Vivaldi's constants (§3.4, §5.4).
const (
	coordStep = 0.25
	minHeight = 0.1 // ms
	maxCoord  = 4000
)

// update moves this node so that its distance from a peer's coordinate is
// nearer to a round trip that was measured. The peer's error is taken as equal
// to the own: it is not told.
func (c *coord) update(d time.Duration, peer wire.Coord) {
	ms := d.Seconds() * 1000
	if ms <= 0 || ms > maxCoord {
		return
	}
	if c.err == 0 {
		*c = coord{height: minHeight, err: 1}
	}
	px, py, ph := float64(peer.X)/8, float64(peer.Y)/8, float64(peer.Height)/8
	dx, dy := c.x-px, c.y-py
	plane := math.Hypot(dx, dy)
	if plane < 1e-6 { // both at the origin: any direction, the same each time
		dx, dy, plane = math.Cos(ms), math.Sin(ms), 1
	}
	predicted := math.Hypot(c.x-px, c.y-py) + c.height + ph
	c.err += (math.Abs(predicted-ms)/ms - c.err) * coordStep / 2
	c.err = min(max(c.err, 0.05), 1)
	move := coordStep * max(c.err, 0.2) * (ms - predicted)
	c.x = clamp(c.x+dx/plane*move, -maxCoord, maxCoord)
	c.y = clamp(c.y+dy/plane*move, -maxCoord, maxCoord)
	c.height = clamp(c.height+move*(c.height+ph)/max(predicted, 1), minHeight, maxCoord)
}

// to predicts the round trip to a peer, in ms.
func (c *coord) to(peer wire.Coord) float64 {
	return math.Hypot(c.x-float64(peer.X)/8, c.y-float64(peer.Y)/8) + c.height + float64(peer.Height)/8
}

func (c *coord) wire() wire.Coord {
	return wire.Coord{X: int16(c.x * 8), Y: int16(c.y * 8), Height: uint16(c.height * 8)}
}

func clamp(v, low, high float64) float64 { return min(max(v, low), high) }
