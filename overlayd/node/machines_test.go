package node

import (
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// TestRenewal walks every arrow of renewal's drawing, and the clock's jumps.
func TestRenewal(t *testing.T) {
	day := made{begin: noon, renew: noon.Add(12 * time.Hour), end: noon.Add(24 * time.Hour)}
	type step struct {
		at    time.Duration // after noon
		event any
		want  renewalAction
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"first certificate", []step{{0, tick{}, makeCertificate}, {0, day, wait}, {1 * time.Hour, tick{}, wait}}},
		{"first fails", []step{{0, tick{}, makeCertificate}, {0, notMade{}, end}}},
		{"half life", []step{{0, day, wait}, {12*time.Hour - 1, tick{}, wait}, {12 * time.Hour, tick{}, makeCertificate}}},
		{"renewal fails, then works", []step{
			{0, day, wait}, {12 * time.Hour, tick{}, makeCertificate}, {12 * time.Hour, notMade{}, wait},
			{12*time.Hour + retryDelay - 1, tick{}, wait}, {12*time.Hour + retryDelay, tick{}, makeCertificate},
			{12*time.Hour + retryDelay, made{noon, noon.Add(20 * time.Hour), noon.Add(30 * time.Hour)}, wait},
			{19 * time.Hour, tick{}, wait}, {20 * time.Hour, tick{}, makeCertificate},
		}},
		{"renewal fails until the end", []step{
			{0, day, wait}, {23 * time.Hour, tick{}, makeCertificate}, {23 * time.Hour, notMade{}, wait},
			{24 * time.Hour, tick{}, makeCertificate}, {24 * time.Hour, notMade{}, end},
		}},
		{"clock jumps ahead a year", []step{{0, day, wait}, {8760 * time.Hour, tick{}, makeCertificate}}},
		{"clock jumps back a year", []step{{0, day, wait}, {-8760 * time.Hour, tick{}, makeCertificate}}},
		{"clock jumps back while a retry waits", []step{
			{0, day, wait}, {12 * time.Hour, tick{}, makeCertificate}, {12 * time.Hour, notMade{}, wait}, {-8760 * time.Hour, tick{}, makeCertificate},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r renewal
			for i, s := range c.steps {
				if got := r.Handle(noon.Add(s.at), s.event); got != s.want {
					t.Fatalf("step %d, %v after noon, %T: action %d, want %d", i, s.at, s.event, got, s.want)
				}
			}
		})
	}
}

func TestRenewalDeadline(t *testing.T) {
	var r renewal
	r.Handle(noon, made{begin: noon, renew: noon.Add(12 * time.Hour), end: noon.Add(24 * time.Hour)})
	if got, want := r.NextDeadline(), noon.Add(12*time.Hour); !got.Equal(want) {
		t.Errorf("after made: %v, want %v", got, want)
	}
	r.Handle(noon.Add(12*time.Hour), tick{})
	r.Handle(noon.Add(12*time.Hour), notMade{})
	if got, want := r.NextDeadline(), noon.Add(12*time.Hour+retryDelay); !got.Equal(want) {
		t.Errorf("after a failure: %v, want %v", got, want)
	}
}
