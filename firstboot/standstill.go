package main

import (
	"context"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A machine that its hypervisor suspends stands still, and its clock with it:
// when it goes on, that is behind by as long. Only the real-time clock, which is
// the host's, has gone on (QEMU's -rtc clock=host; the others do so too).

const (
	clockEvery = 2 * time.Second
	clockJump  = 5 * time.Second // the real-time clock has whole seconds, and a busy machine reads late
	clockEqual = 2 * time.Second
	rtcPath    = "sys/class/rtc/rtc0/since_epoch"
)

// clocks are a machine's three clocks at one moment, each since a beginning of
// its own.
type clocks struct {
	rtc  time.Duration // since 1970
	wall time.Duration // since 1970
	boot time.Duration // of the kernel's running, also while it slept
}

// readClocks returns false on a machine without a real-time clock, such as a
// container or a Xen PVH guest.
func (m *machine) readClocks() (c clocks, ok bool) {
	seconds, err := strconv.ParseInt(m.text(rtcPath), 10, 64)
	if err != nil {
		return c, false
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return c, false
	}
	return clocks{time.Duration(seconds) * time.Second, time.Duration(time.Now().UnixNano()), time.Duration(boot.Nano())}, true
}

// stoodStill returns for how long the machine stood still between two readings,
// as far as its wall clock does not know yet; 0 for not at all. A real-time
// clock that jumped to the wall clock was set by it (chrony's rtcsync).
func stoodStill(before, now clocks) time.Duration {
	rtc := now.rtc - before.rtc
	behind := rtc - (now.wall - before.wall)
	if rtc-(now.boot-before.boot) < clockJump || behind < clockJump || (now.rtc-now.wall).Abs() <= clockEqual {
		return 0
	}
	return behind
}

// followClock puts the clock right after the machine stood still.
func (w *watcher) followClock(ctx context.Context) {
	before, ok := w.readClocks()
	if !ok {
		return
	}
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, ok := w.readClocks()
		if !ok {
			continue
		}
		if d := stoodStill(before, now); d > 0 {
			if err := setClock(time.Now().Add(d)); err != nil {
				w.log.Error("clock is behind", "by", d, "err", err)
			} else {
				w.log.Warn("the machine stood still: clock put right", "by", d.Round(time.Second))
				now.wall += d
			}
		}
		before = now
	}
}
