package credential

import (
	"net/netip"
	"testing"
)

func TestHostName(t *testing.T) {
	for addr, want := range map[string]string{
		"10.250.0.2":        "C250000002.ipop",
		"5.240.195.38":      "C240195038.ipop",
		"::ffff:10.250.0.2": "C250000002.ipop",
		"fd00::1":           "",
	} {
		if got := HostName(netip.MustParseAddr(addr)); got != want {
			t.Errorf("HostName(%s) = %q, want %q", addr, got, want)
		}
	}
	if got := HostName(netip.Addr{}); got != "" {
		t.Errorf("HostName of no address = %q, want none", got)
	}
}

func TestParseHostName(t *testing.T) {
	const bad = ""
	for _, c := range []struct{ name, pool, want string }{
		{"C250000002.ipop", "10.250.0.0/16", "10.250.0.2"},
		{"c250000002", "10.250.0.0/16", "10.250.0.2"},
		{"C250000002.IPOP.", "10.250.0.0/16", "10.250.0.2"},
		{"C240195038.ipop", "5.0.0.0/8", "5.240.195.38"},
		{"C251000002.ipop", "10.250.0.0/16", bad}, // outside the pool
		{"C256000002.ipop", "10.0.0.0/8", bad},    // not an octet
		{"C25000002.ipop", "10.250.0.0/16", bad},  // eight digits
		{"C+50000002.ipop", "10.0.0.0/8", bad},
		{"D250000002.ipop", "10.250.0.0/16", bad},
		{"C250000002.example", "10.250.0.0/16", bad},
		{"C250000002.ipop", "0.0.0.0/0", bad}, // first octet unknown
		{"C250000002.ipop", "fd00::/8", bad},
		{"", "10.250.0.0/16", bad},
	} {
		got, err := ParseHostName(c.name, netip.MustParsePrefix(c.pool))
		switch {
		case c.want == bad && err == nil:
			t.Errorf("ParseHostName(%q, %s) = %s, want an error", c.name, c.pool, got)
		case c.want != bad && (err != nil || got.String() != c.want):
			t.Errorf("ParseHostName(%q, %s) = %s, %v, want %s", c.name, c.pool, got, err, c.want)
		}
	}
}

func FuzzParseHostName(f *testing.F) {
	pool := netip.MustParsePrefix("10.0.0.0/8")
	f.Add("C250000002.ipop")
	f.Add("c25-000002")
	f.Fuzz(func(t *testing.T, name string) {
		addr, err := ParseHostName(name, pool)
		if err != nil {
			return
		}
		again, err := ParseHostName(HostName(addr), pool)
		if err != nil || again != addr {
			t.Errorf("%q -> %s -> %q -> %s, %v", name, addr, HostName(addr), again, err)
		}
	})
}
