package node

import (
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is CLOCK_BOOTTIME (clock_gettime(2)): it counts while the machine
// sleeps.
func BootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("node: CLOCK_BOOTTIME: " + err.Error()) // every Linux since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}

// maxAway is how much two clocks may disagree about the time between two
// events before this machine counts as having been away.
const maxAway = 5 * time.Second

// clocks notices that a machine was suspended, restored or moved, or that its
// clock was set: the wall clock, the monotonic clock and the one that counts
// while the machine sleeps disagree about the time since the last look. The
// zero value has not looked yet.
type clocks struct {
	at   time.Time
	boot time.Duration
}

func (c *clocks) jumped(now time.Time, boot time.Duration) bool {
	before := *c
	c.at, c.boot = now, boot
	if before.at.IsZero() {
		return false
	}
	monotonic := now.Sub(before.at)
	wall := now.Round(0).Sub(before.at.Round(0))
	return (wall-monotonic).Abs() > maxAway || (boot-before.boot-monotonic).Abs() > maxAway
}
