package pool

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var exampleMap = Map{Pool: netip.MustParsePrefix("10.250.0.0/16"), Self: netip.MustParseAddr("10.250.0.7"), Export: "/mnt/local"}

func TestMapReadsItself(t *testing.T) {
	for _, m := range []Map{exampleMap, {Pool: exampleMap.Pool, Self: exampleMap.Self}} {
		got, err := ParseMap(m.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m.String(), got.String()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestParseMapRefuses(t *testing.T) {
	good := exampleMap.String()
	for name, text := range map[string]string{
		"nothing":        "",
		"another line":   good + "self 10.250.0.8\n",
		"no pool":        strings.Replace(good, "10.250.0.0/16", "10.250", 1),
		"no address":     strings.Replace(good, "10.250.0.7", "me", 1),
		"another option": strings.Replace(good, "/mnt/local", "/mnt/local,suid", 1),
		"one more word":  strings.Replace(good, "/mnt/local", "/mnt/local x", 1),
		"other program":  strings.Replace(good, "condorconf", "sh", 1),
	} {
		if m, err := ParseMap(text); err == nil {
			t.Errorf("%s: parsed as %+v", name, m)
		}
	}
}

func TestLookup(t *testing.T) {
	remote := "-fstype=nfs4,vers=4.2,proto=tcp,soft,timeo=50,retrans=2,retry=0,nosuid,nodev,noatime,fsc "
	cases := map[string]struct{ want, err string }{
		"C250000009":      {want: remote + "10.250.0.9:/"},
		"C250000009.ipop": {want: remote + "10.250.0.9:/"},
		"C250000007":      {want: "-fstype=bind,nosuid,nodev :/mnt/local"},
		"C251000009":      {err: "outside the pool"},
		"C250000256":      {err: "is not an octet"},
		"C25000000":       {err: "want C, nine digits"},
		"C250000009 rw":   {err: "want C, nine digits"},
		"-o":              {err: "want C, nine digits"},
		"":                {err: "want C, nine digits"},
		"C2500\n0009":     {err: "is not an octet"},
		"../etc":          {err: "want C, nine digits"},
	}
	for key, c := range cases {
		got, err := exampleMap.Lookup(key)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("Lookup(%q) = %q, %v, want %q, %q", key, got, err, c.want, c.err)
		}
	}
	private := exampleMap
	private.Export = ""
	if got, err := private.Lookup("C250000007"); err == nil {
		t.Errorf("Lookup of itself without a share gave %q", got)
	}
}

// FuzzLookup holds that every key gives either an error or one line that
// mounts an address of the pool, written as netip writes it.
func FuzzLookup(f *testing.F) {
	for _, s := range []string{"C250000009", "C250000009.ipop", "c250000007", "C250000009\n-fstype=bind :/etc", "$(x)", "&", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		got, err := exampleMap.Lookup(key)
		if err != nil {
			return
		}
		location := got[strings.LastIndexByte(got, ' ')+1:]
		addr, parseErr := netip.ParseAddr(strings.TrimSuffix(location, ":/"))
		if strings.Contains(got, "\n") || location != ":/mnt/local" && (parseErr != nil || !exampleMap.Pool.Contains(addr)) {
			t.Errorf("Lookup(%q) = %q", key, got)
		}
	})
}

// FuzzParseMap holds that what parses prints as it was.
func FuzzParseMap(f *testing.F) {
	f.Add(exampleMap.String())
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := ParseMap(text); err == nil && m.String() != text {
			t.Errorf("ParseMap(%q) prints as %q", text, m)
		}
	})
}
