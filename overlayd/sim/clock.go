package sim

import "time"

// Start is what a true clock reads when a run begins.
var Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A Clock reads the time of one host: it may run fast or slow, be wrong, and
// jump. It only steps forward unless Jump takes it back.
//
// Its readings have no monotonic part, because only the standard library can
// make one: now.Sub measures what this clock measures. A step of the wall
// clock alone, which the daemon sees by comparing both, is therefore an event
// that a scenario hands to the machine, not something this clock can do.
type Clock struct {
	since time.Duration // engine time of the last change
	read  time.Time     // what it read then
	ppm   int64         // how much faster than true, in millionths
}

// NewClock returns a clock that is offset from true and gains ppm millionths.
func NewClock(offset time.Duration, ppm int64) Clock {
	return Clock{read: Start.Add(offset), ppm: ppm}
}

// At returns what the clock reads at an engine time.
func (c *Clock) At(real time.Duration) time.Time {
	return c.read.Add(scale(real-c.since, c.ppm, 1e6))
}

// scale returns d + d * ppm / per without overflow, rounded towards zero.
func scale(d time.Duration, ppm, per int64) time.Duration {
	n := int64(d)
	return d + time.Duration(n/per*ppm+n%per*ppm/per)
}

// When returns the first engine time at which the clock reads t or later.
func (c *Clock) When(t time.Time) time.Duration {
	if c.ppm == 0 {
		return c.since + t.Sub(c.read)
	}
	at := c.since + scale(t.Sub(c.read), -c.ppm, 1e6+c.ppm)
	for c.At(at).Before(t) {
		at++
	}
	for c.At(at-1).Compare(t) >= 0 {
		at--
	}
	return at
}

// SetRate makes the clock gain ppm millionths from an engine time on.
func (c *Clock) SetRate(real time.Duration, ppm int64) {
	c.read, c.since, c.ppm = c.At(real), real, ppm
}

// Jump moves the clock by d at an engine time.
func (c *Clock) Jump(real time.Duration, d time.Duration) {
	c.read, c.since = c.At(real).Add(d), real
}
