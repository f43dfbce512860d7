package apply

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHostsText: our lines are replaced whatever they were, everybody else's
// stay, and a master does not stand there twice.
func TestHostsText(t *testing.T) {
	one := Host{"C250000002.ipop", netip.MustParseAddr("10.250.0.2")}
	two := Host{"C250000003.ipop", netip.MustParseAddr("10.250.0.3")}
	pc := Host{"C250000017.ipop", netip.MustParseAddr("10.250.0.17")}
	text := "127.0.0.1 localhost\n192.0.2.9 printer" // no end of line
	for _, c := range []struct {
		self    Host
		alias   string
		masters []Host
		want    string
	}{
		{pc, "oak", []Host{one, two}, "10.250.0.17 C250000017.ipop C250000017 oak # this machine, by firstboot\n" +
			"10.250.0.2 C250000002.ipop C250000002 # a master, by firstboot\n10.250.0.3 C250000003.ipop C250000003 # a master, by firstboot\n"},
		{one, "", []Host{one, two}, "10.250.0.2 C250000002.ipop C250000002 # this machine, by firstboot\n" +
			"10.250.0.3 C250000003.ipop C250000003 # a master, by firstboot\n"},
		{Host{"standalone", netip.MustParseAddr("127.0.0.1")}, "", nil, "127.0.0.1 standalone # this machine, by firstboot\n"},
	} {
		text = hostsText(text, c.self, c.alias, c.masters)
		if diff := cmp.Diff("127.0.0.1 localhost\n192.0.2.9 printer\n"+c.want, text); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.self.Name, diff)
		}
	}
}
