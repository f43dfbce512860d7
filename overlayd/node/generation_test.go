package node

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestIsNewGeneration(t *testing.T) {
	for _, c := range []struct {
		event string
		want  bool
	}{
		{"change@/devices/LNXSYSTM:00/QEMUVGID:00|ACTION=change|SUBSYSTEM=platform|NEW_VMGENID=1|SEQNUM=4711|", true},
		{"NEW_VMGENID=1", true},
		{"change@/devices/NEW_VMGENID=1/x|ACTION=change|", false},
		{"change@/devices/virtual/net/tapipop|NEW_VMGENID=12|", false},
		{"libudev|NEW_VMGENID=", false},
		{"", false},
	} {
		if got := isNewGeneration([]byte(strings.ReplaceAll(c.event, "|", "\x00"))); got != c.want {
			t.Errorf("%q: %v", c.event, got)
		}
	}
}

// TestWatchGenerationEnds: nothing happens to this machine meanwhile.
func TestWatchGenerationEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- WatchGeneration(ctx, func() { t.Error("this machine was copied") }) }()
	time.AfterFunc(50*time.Millisecond, cancel)
	select {
	case err := <-ended:
		if ctx.Err() == nil {
			t.Skip("no uevents here: ", err)
		}
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
	}
}
