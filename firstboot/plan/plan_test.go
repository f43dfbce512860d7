package plan

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with testdata/name, or rewrites it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s:\n%s", name, diff)
	}
}

func config(t testing.TB, text string) *floppy.Config {
	t.Helper()
	c, err := floppy.DecodeConfig("GRID.TML", []byte("version = 1\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	c.ApplyDefaults()
	return c
}

// accounts of the image, as far as plans look at them.
var accounts = map[string]int{"root": 0, "condor": 808, "griduser": 1000, "slot1": 901, "slot2": 902, "slotmachine": 5}

// roles are the inputs of the golden tests.
func roles(t testing.TB) map[string]Input {
	inGrid := func(text string) Input {
		return Input{Config: config(t, text), Image: []byte("image"), SSHKeys: []byte("ssh-ed25519 AAAA alice@home\n"),
			Grid: "archer", Group: "physics", User: "alice", Overlay: []byte("descriptor and keys"),
			Pools: []netip.Prefix{netip.MustParsePrefix("10.251.0.0/16"), netip.MustParsePrefix("10.250.0.1/16")}}
	}
	return map[string]Input{
		"worker":     inGrid("[machine]\nrole = \"worker\"\n"),
		"client":     inGrid("[machine]\nrole = \"client\"\nconsole = \"off\"\ntimezone = \"Europe/Berlin\"\n[network]\nhostname = \"desk\"\n[users]\nnames = [\"bob\", \"alice\"]\n"),
		"master":     inGrid("[machine]\nrole = \"master\"\n"),
		"standalone": {Config: config(t, "[machine]\nrole = \"standalone\"\n"), Image: []byte("image")},
	}
}

func TestPlans(t *testing.T) {
	for name, in := range roles(t) {
		t.Run(name, func(t *testing.T) {
			p, err := Make(in, Facts{TimezoneKnown: true, Accounts: accounts})
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if err := p.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".golden", text.Bytes())
			asJSON, err := json.MarshalIndent(p, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json.golden", append(asJSON, '\n'))
			for _, secret := range [][]byte{in.Image, in.Overlay} {
				if len(secret) > 0 && (bytes.Contains(asJSON, secret) || bytes.Contains(text.Bytes(), secret)) {
					t.Errorf("the plan prints %q", secret)
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	in := Input{Config: config(t, "[machine]\nrole = \"client\"\n[network]\nmode = \"router\"\nlan-interface = \"eth1\"\n[users]\nnames = [\"condor\", \"bob\"]\n[[modules]]\nsource = \"/m\"\nsha256 = \""+strings.Repeat("0", 64)+"\"\n")}
	_, err := Make(in, Facts{Accounts: accounts})
	var got []string
	for _, p := range diag.Of(err) {
		got = append(got, p.Path+": "+p.Message)
	}
	want := []string{
		"machine.timezone: the image has no time zone Etc/UTC",
		"network.mode: this image cannot be a router yet",
		"modules[1]: the module /m is not in this image",
		"users.names: the image has an account condor already",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A unit's key changes with what the unit reads, and with nothing else.
func TestUnitKeys(t *testing.T) {
	key := func(unit string, change func(*Input)) string {
		in := roles(t)["client"]
		change(&in)
		p, err := Make(in, Facts{TimezoneKnown: true, Accounts: accounts})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range p.Units {
			if u.Name == unit {
				return u.Key
			}
		}
		t.Fatalf("no unit %s", unit)
		return ""
	}
	same := func(*Input) {}
	tests := []struct {
		name, unit string
		change     func(*Input)
		differs    bool
	}{
		{"ssh keys", "overlayd.service", func(in *Input) { in.SSHKeys, in.Image = nil, []byte("other") }, false},
		{"time zone", "overlayd.service", func(in *Input) { in.Config.Machine.Timezone = "Etc/UTC" }, false},
		{"additional name", "overlayd.service", func(in *Input) { in.Config.Network.Hostname = "x" }, false},
		{"credential", "overlayd.service", func(in *Input) { in.Overlay = []byte("x") }, true},
		{"mtu", "overlayd.service", func(in *Input) { in.Config.Network.MTU = 1280 }, true},
		{"pool", "grid-firewall.service", func(in *Input) { in.Pools = in.Pools[:1] }, true},
		{"credential", "grid-firewall.service", func(in *Input) { in.Overlay = []byte("x") }, false},
	}
	for _, test := range tests {
		if differs := key(test.unit, same) != key(test.unit, test.change); differs != test.differs {
			t.Errorf("another %s: key of %s differs: %v, want %v", test.name, test.unit, differs, test.differs)
		}
	}
}

// An account has its number whatever others stand beside it.
func TestUserNumbersStay(t *testing.T) {
	alone, problems := makeUsers([]string{"alice"}, accounts)
	among, more := makeUsers([]string{"zoe", "alice", "bob"}, map[string]int{"alice": alone[0].UID, "bob": 12345})
	if len(problems)+len(more) > 0 {
		t.Fatal(problems, more)
	}
	if among[0] != alone[0] {
		t.Errorf("alice is %v alone and %v among others", alone[0], among[0])
	}
	seen := map[int]bool{}
	var names []string
	for i := range 2000 {
		names = append(names, "user"+strings.Repeat("x", i%30)+string(rune('a'+i%26))+strings.Repeat("y", i/30))
	}
	users, _ := makeUsers(names, nil)
	for _, u := range users {
		if seen[u.UID] || !Floppy(u.UID) {
			t.Fatalf("%s has the number %d, which is taken or out of range", u.Name, u.UID)
		}
		seen[u.UID] = true
	}
}

// The kernel takes the rules, twice in a row as at a reload.
func TestRulesLoad(t *testing.T) {
	need.Netns(t)
	nft := need.Tool(t, "nft")
	ip := need.Tool(t, "ip")
	name := fmt.Sprintf("plan-%d", os.Getpid())
	if _, err := sysrun.Output(t.Context(), ip, "netns", "add", name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sysrun.Run(context.Background(), sysrun.Command{Name: ip, Args: []string{"netns", "del", name}})
	})
	for role, in := range roles(t) {
		p, err := Make(in, Facts{TimezoneKnown: true, Accounts: accounts})
		if err != nil {
			t.Fatal(err)
		}
		own, err := Make(in, ownMachine())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range append(p.Entries, own.Entries...) {
			if e.Path != RulesPath {
				continue
			}
			file := filepath.Join(t.TempDir(), role+".nft")
			if err := os.WriteFile(file, e.Content, 0o644); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := sysrun.Output(t.Context(), ip, "netns", "exec", name, nft, "-f", file); err != nil {
					t.Errorf("%s: %v", role, err)
				}
			}
		}
	}
}
