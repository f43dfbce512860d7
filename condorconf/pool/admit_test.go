package pool

import (
	"strings"
	"testing"

	"gridappliance/overlayd/control"
)

// claimText is what condor_status of HTCondor 23.9 says about a slot.
const claimText = `[
{
  "CurrentRank": 200.0,
  "GridGroup": "physics",
  "GridUser": "alice",
  "RemoteUser": "griduser@physics"
}
]
`

func TestClaimCheck(t *testing.T) {
	alices := control.Whois{Name: "C250000018.ipop", User: "alice", Group: "physics", Role: "client"}
	bobs := control.Whois{Name: "C250000019.ipop", User: "bob", Group: "chemistry", Role: "client"}
	carols := control.Whois{Name: "C250000020.ipop", User: "carol", Group: "physics", Role: "client"}
	cases := map[string]struct {
		who    control.Whois
		change []string // replacements
		want   string   // in the reason; "" for none
	}{
		"the owner's":                {who: alices},
		"the group's":                {who: carols, change: []string{"200.0", "100.0"}},
		"another group's":            {who: bobs, change: []string{"200.0", "0", "@physics", "@chemistry"}},
		"a machine without rank":     {who: alices, change: []string{"200.0", "0.0"}},
		"forged group":               {who: bobs, want: "a job of griduser@physics came from C250000019.ipop of the group chemistry"},
		"forged group without rank":  {who: bobs, change: []string{"200.0", "0.0"}, want: "of the group chemistry"},
		"forged owner":               {who: carols, want: "a job that came from C250000020.ipop of carol got the rank 200, where 100 is due"},
		"another ad to get the slot": {who: bobs, change: []string{"@physics", "@chemistry", "200.0", "100.0"}, want: "got the rank 100, where 0 is due"},
		"two signs":                  {who: bobs, change: []string{"@physics", "@chemistry@physics", "200.0", "0.0"}, want: "chemistry@physics"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			claim, err := ParseClaim([]byte(strings.NewReplacer(c.change...).Replace(claimText)))
			if err != nil {
				t.Fatal(err)
			}
			err = claim.Check(c.who)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestParseClaimRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no slot":      {"", "no such slot"},
		"no claim":     {strings.Replace(claimText, "RemoteUser", "Other", 1), "not claimed yet"},
		"no rank":      {strings.Replace(claimText, "CurrentRank", "Other", 1), "not claimed yet"},
		"rank of text": {strings.Replace(claimText, "200.0", `"200"`, 1), "startd's answer"},
		"two slots":    {"[{},{}]", "not claimed yet"},
		"no JSON":      {"condor_status: error", "startd's answer"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseClaim([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
