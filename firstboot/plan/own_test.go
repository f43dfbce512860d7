package plan

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/firstboot/units"
	"gridappliance/internal/diag"
)

// ownMachine is somebody's: HTCondor is installed, and numbers are taken from
// both ends.
func ownMachine() Facts {
	return Facts{Accounts: map[string]int{"root": 0, "_apt": 100, "condor": 101, "systemd-network": 998, "owner": 1000},
		Own: &Own{Groups: map[string]int{"root": 0, "condor": 103, "systemd-journal": 999, "systemd-network": 998, "render": 996, "owner": 1000}, CPUs: 1}}
}

func TestOwnPlans(t *testing.T) {
	for name, in := range roles(t) {
		t.Run(name, func(t *testing.T) {
			p, err := Make(in, ownMachine())
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if err := p.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			golden(t, "own-"+name+".golden", text.Bytes())
			for _, e := range p.Entries {
				for _, theirs := range []string{"etc/localtime", "etc/timezone", "etc/ssh", "etc/grid", "home", "var/lib/grid/ssh", "getty", "resolv"} {
					if strings.Contains(e.Path, theirs) {
						t.Errorf("/%s is the owner's", e.Path)
					}
				}
			}
			var links []string
			for _, e := range p.Entries {
				if e.Kind == KindLink {
					links = append(links, strings.TrimPrefix(e.Path, "etc/systemd/system/"))
				}
			}
			if diff := cmp.Diff(slices.Sorted(maps.Keys(units.Links())), links); diff != "" {
				t.Errorf("links:\n%s", diff)
			}
		})
	}
}

// Numbers are free ones for account and group, and stay what they are.
func TestOwnNumbers(t *testing.T) {
	facts := ownMachine()
	in := roles(t)["worker"]
	numbers := func() map[string]int {
		t.Helper()
		p, err := Make(in, facts)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, u := range p.Users {
			got[u.Name] = u.UID
		}
		return got
	}
	want := map[string]int{"overlayd": 997, "slot1": 995, "slot2": 994}
	if diff := cmp.Diff(want, numbers()); diff != "" {
		t.Error(diff)
	}
	for name, uid := range want {
		facts.Accounts[name], facts.Own.Groups[name] = uid, uid
		facts.Own.Made = append(facts.Own.Made, name)
	}
	facts.Own.CPUs = 2
	delete(facts.Own.Groups, "systemd-journal") // a number that has become free moves nobody
	want["slot3"], want["slot4"] = 999, 993
	if diff := cmp.Diff(want, numbers()); diff != "" {
		t.Error(diff)
	}
}

func TestOwnRefused(t *testing.T) {
	for name, c := range map[string]struct {
		role   string
		change func(*Facts)
		want   string
	}{
		"another pool":               {"worker", func(f *Facts) { f.Own.Taken = []string{"/etc/condor/config.d/10-mine"} }, "/etc/condor/config.d/10-mine: HTCondor is configured"},
		"shares":                     {"client", func(f *Facts) { f.Own.Shares = []string{"/etc/exports"} }, "/etc/exports: this machine shares files by NFS already"},
		"shares, and not the floppy": {"worker", func(f *Facts) { f.Own.Shares = []string{"/etc/exports"} }, ""},
		"no HTCondor":                {"worker", func(f *Facts) { delete(f.Own.Groups, "condor") }, "/etc/group: has no group condor"},
		"a name is taken":            {"worker", func(f *Facts) { f.Accounts["slot1"] = 1001 }, "/etc/passwd: the name slot1"},
		"a group is":                 {"worker", func(f *Facts) { f.Own.Groups["overlayd"] = 1001 }, "/etc/passwd: the name overlayd"},
		"no number is free": {"worker", func(f *Facts) {
			for id := firstSystemUID; id <= lastSystemUID; id++ {
				f.Own.Groups[fmt.Sprint("g", id)] = id
			}
		}, "/etc/passwd: no number from 100 to 999 is free for overlayd"},
	} {
		t.Run(name, func(t *testing.T) {
			facts := ownMachine()
			c.change(&facts)
			_, err := Make(roles(t)[c.role], facts)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			problems := diag.Of(err)
			if len(problems) == 0 || !strings.HasPrefix(problems[0].Error(), c.want) || problems[0].Remedy == "" {
				t.Errorf("refused with %v, want %q and a remedy", err, c.want)
			}
		})
	}
}

// What the owner has is not flushed, and the policy of other networks is not
// ours.
func TestOwnRules(t *testing.T) {
	for name, in := range roles(t) {
		p, err := Make(in, ownMachine())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(p.Entries, func(e Entry) bool { return e.Path == RulesPath })
		rules := string(p.Entries[i].Content)
		if strings.Contains(rules, "policy drop") || strings.Contains(rules, "flush") || strings.Contains(rules, outside) {
			t.Errorf("%s:\n%s", name, rules)
		}
	}
}
