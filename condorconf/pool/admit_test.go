package pool

import (
	"strings"
	"testing"

	"gridappliance/overlayd/control"
)

// Ads as HTCondor 23.9 writes them, but for the attributes that nobody reads.
const (
	jobAd = `AutoClusterAttrs = "GridUser,User,Rank"
ClusterId = 7
GridUser = "alice"
User = "griduser@physics"
`
	slotAd = `ClientMachine = "C250000018.ipop"
CurrentRank = 200.0
GridGroup = "physics"
GridUser = "alice"
Rank = ifThenElse(split(TARGET.User ?: "@-","@")[1] =?= MY.GridGroup,100 + 100 * (TARGET.GridUser =?= MY.GridUser),0)
RemoteUser = "griduser@physics"
`
)

var alices = control.Whois{Name: "C250000018.ipop", User: "alice", Group: "physics", Role: "client"}

func TestClaimCheck(t *testing.T) {
	bobs := control.Whois{Name: "C250000019.ipop", User: "bob", Group: "chemistry", Role: "client"}
	carols := control.Whois{Name: "C250000020.ipop", User: "carol", Group: "physics", Role: "client"}
	cases := map[string]struct {
		who  control.Whois
		job  []string // replacements
		slot []string
		want string // in the reason; "" for none
	}{
		"the owner's":            {who: alices},
		"the group's":            {who: carols, job: []string{"alice", "carol"}, slot: []string{"200.0", "100.0"}},
		"another group's":        {who: bobs, job: []string{"alice", "bob", "physics", "chemistry"}, slot: []string{"200.0", "0.0", "@physics", "@chemistry"}},
		"a machine without rank": {who: alices, slot: []string{"200.0", "0.0"}},
		"forged group":           {who: bobs, want: "the job says that it is of griduser@physics, but comes from C250000019.ipop of the group chemistry"},
		"forged to get the slot": {who: bobs, job: []string{"physics", "chemistry", "alice", "bob"}, want: "the claim says that it is of griduser@physics"},
		"forged owner":           {who: carols, want: "the job says that it is alice's, but comes from C250000020.ipop, which is carol's"},
		"forged owner to get the slot": {who: carols, job: []string{"alice", "carol"},
			want: "the claim got the rank 200, but a job from C250000020.ipop is due 100"},
		"rank of a job that is not shown": {who: bobs, job: []string{"alice", "bob", "physics", "chemistry"}, slot: []string{"@physics", "@chemistry", "200.0", "100.0"},
			want: "the claim got the rank 100, but a job from C250000019.ipop is due 0"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			claim, err := ParseClaim(strings.NewReplacer(c.job...).Replace(jobAd), strings.NewReplacer(c.slot...).Replace(slotAd))
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
	for name, c := range map[string]struct{ job, slot, want string }{
		"no user":         {strings.Replace(jobAd, "User =", "Uzer =", 2), slotAd, "User: is \"\""},
		"an expression":   {strings.Replace(jobAd, `"griduser@physics"`, `strcat("griduser", "@physics")`, 1), slotAd, "User: is"},
		"an escape":       {strings.Replace(jobAd, `"alice"`, `"al\"ice"`, 1), slotAd, "GridUser: is"},
		"a rank of words": {jobAd, strings.Replace(slotAd, "200.0", "undefined", 1), "CurrentRank"},
		"nothing at all":  {"", "", "RemoteUser"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseClaim(c.job, c.slot); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// FuzzParseClaim holds that ads, which come from strangers, make no panic, and
// that what is taken is plain.
func FuzzParseClaim(f *testing.F) {
	f.Add(jobAd, slotAd)
	f.Add("User = \"a\\\"b\"\nuser=\"c\"", "CurrentRank = NaN\n")
	f.Add(jobAd, strings.Replace(slotAd, "200.0", "NaN", 1))
	f.Fuzz(func(t *testing.T, job, slot string) {
		c, err := ParseClaim(job, slot)
		if err == nil && strings.ContainsAny(c.JobUser+c.JobOwner+c.Claimer+c.Group+c.Owner, "\"\\") {
			t.Errorf("%+v has quotation marks", c)
		}
		if err == nil && c.Rank != c.Rank && c.Check(alices) == nil {
			t.Error("a rank that is no number is fine")
		}
	})
}
