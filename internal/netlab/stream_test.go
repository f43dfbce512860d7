package netlab

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFlight(t *testing.T) {
	const ms = time.Millisecond
	f := Flight{
		{Sent: 0, Got: 90 * ms, Copies: 1},
		{Sent: 10 * ms, Got: 100 * ms, Copies: 2},
		{Sent: 20 * ms},
		{Sent: 30 * ms, Got: 200 * ms, Copies: 1, Late: true},
		{Sent: 40 * ms, Got: 60 * ms, Copies: 1},
		{Sent: 50 * ms, Got: 70 * ms, Copies: 1},
	}
	for _, c := range []struct {
		name string
		f    Flight
		want Count
	}{
		{"all", f, Count{Sent: 6, Lost: 1, Duplicated: 1, Reordered: 1, Gap: 100 * ms}},
		{"none", nil, Count{}},
		{"20 to 40 ms", f.Between(20*ms, 40*ms), Count{Sent: 2, Lost: 1, Reordered: 1}},
		{"after the end", f.Between(time.Second, 2*time.Second), Count{}},
	} {
		if d := cmp.Diff(c.want, c.f.Count()); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
	if at, found := f.Within(20*ms, 2); !found || at != 40*ms {
		t.Errorf("within 20 ms from %v (%v) on, want 40 ms", at, found)
	}
	if at, found := f.Within(20*ms, 3); found {
		t.Errorf("three in a row within 20 ms at %v", at)
	}
}

// TestStream counts over a line that is whole and over one that loses, and
// sees a cut as long as it was.
func TestStream(t *testing.T) {
	const delay = 20 * time.Millisecond
	lab := New(t)
	wan, home := lab.Switch("wan"), lab.Switch("home")
	nat := lab.NAT("nat", Home, Line{Delay: delay}, wan, "192.0.2.1/24", home, "192.168.1.1/24")
	pc, server := lab.Node("pc"), lab.Node("server")
	home.Plug(pc, "192.168.1.10/24").Default("192.168.1.1")
	wan.Plug(server, "192.0.2.9/24")

	s := lab.Stream(pc, server, netip.MustParseAddrPort("192.0.2.9:5000"), 1000)
	time.Sleep(500 * time.Millisecond)
	cut := s.Now()
	nat.Cut(netip.MustParseAddr("192.0.2.9"))
	time.Sleep(300 * time.Millisecond)
	nat.Mend()
	mended := s.Now()
	time.Sleep(300 * time.Millisecond)
	f := s.Stop(quiet)
	if c := f.Between(0, cut).Count(); c.Sent < 300 || c.Lost != 0 || c.Duplicated != 0 || c.Reordered != 0 {
		t.Errorf("before the cut: %+v", c)
	}
	if c := f.Between(cut, mended).Count(); c.Lost < c.Sent/2 {
		t.Errorf("during the cut: %+v", c)
	}
	if c := f.Between(mended, time.Hour).Count(); c.Lost != 0 {
		t.Errorf("after the cut: %+v", c)
	}
	if c := f.Count(); c.Gap < 300*time.Millisecond {
		t.Errorf("all: longest gap %v, want that of the cut", c.Gap)
	}
	if at, found := f.Within(delay+10*time.Millisecond, 50); !found || at > cut {
		t.Errorf("never within %v (%v)", delay, at)
	}

	lossy := lab.Node("lossy")
	wan.PlugLine(lossy, "192.0.2.10/24", Line{Loss: 0.3})
	s = lab.Stream(server, lossy, netip.MustParseAddrPort("192.0.2.10:5000"), 1000)
	time.Sleep(time.Second)
	c := s.Stop(quiet).Count()
	if share := float64(c.Lost) / float64(c.Sent); share < 0.2 || share > 0.45 || c.Duplicated != 0 || c.Reordered != 0 {
		t.Errorf("a line that loses 30 %%: %+v", c)
	}
}
