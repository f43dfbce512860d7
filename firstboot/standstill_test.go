package main

import (
	"testing"
	"time"
)

func TestStoodStill(t *testing.T) {
	const s, hour = time.Second, time.Hour
	at := func(rtc, wall, boot time.Duration) clocks { return clocks{1000*hour + rtc, 1000*hour + wall, boot} }
	for name, c := range map[string]struct {
		before, now clocks
		want        time.Duration
	}{
		"two seconds later":                    {at(0, 0, 9*s), at(2*s, 2*s, 11*s), 0},
		"read late":                            {at(0, 0, 9*s), at(4*s, 2*s, 11*s), 0},
		"suspended for an hour":                {at(0, 0, 9*s), at(hour+2*s, 2*s, 11*s), hour},
		"the real-time clock is local time":    {at(-2*hour, 0, 9*s), at(-hour+2*s, 2*s, 11*s), hour},
		"slept, and the kernel has counted it": {at(0, 0, 9*s), at(hour+2*s, hour+2*s, hour+11*s), 0},
		"suspended, and NTP was quicker":       {at(0, 0, 9*s), at(hour+2*s, hour+2*s, 11*s), 0},
		"chrony set the real-time clock":       {at(-2*hour, 0, 9*s), at(2*s, 2*s, 11*s), 0},
		"the wall clock was set back":          {at(0, 0, 9*s), at(2*s, -hour, 11*s), 0},
		"the wall clock was set forward":       {at(0, 0, 9*s), at(2*s, hour, 11*s), 0},
		"the real-time clock went back":        {at(0, 0, 9*s), at(-hour, 2*s, 11*s), 0},
	} {
		if got := stoodStill(c.before, c.now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
