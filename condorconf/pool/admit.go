package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"gridappliance/overlayd/control"
)

// Claim is what a job queue said to get a slot of this machine, as startd has
// noted it in the slot's ad (HTCondor manual, "Machine ClassAd Attributes").
type Claim struct {
	User  string   `json:"RemoteUser"`  // User of the job: account@group
	Rank  *float64 `json:"CurrentRank"` // what RANK gave it
	Group string   `json:"GridGroup"`   // the machine's
	Owner string   `json:"GridUser"`    // the machine's
}

// ClaimQuery is the arguments with which condor_status asks this machine's own
// startd for the claim of a slot; ParseClaim reads the answer.
func ClaimQuery(machine, slot string) []string {
	return []string{"-direct", machine, "-constraint", fmt.Sprintf("Name =?= %q", slot+"@"+machine), "-json",
		"-attributes", "RemoteUser,CurrentRank,GridGroup,GridUser"}
}

// ParseClaim reads condor_status's answer. No slot, or one without a claim, is
// an error.
func ParseClaim(text []byte) (Claim, error) {
	var claims []Claim
	if len(strings.TrimSpace(string(text))) == 0 {
		return Claim{}, errors.New("startd has no such slot")
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return Claim{}, fmt.Errorf("startd's answer: %w", err)
	}
	if len(claims) != 1 || claims[0].User == "" || claims[0].Rank == nil {
		return Claim{}, errors.New("the slot is not claimed yet")
	}
	return claims[0], nil
}

// Check returns why the claim's job must not start, nil when it may. who is the
// holder of the address that the slot was claimed from, which the job queue
// cannot choose; all in the claim but the machine's own is what the queue says,
// stock or not.
func (c Claim) Check(who control.Whois) error {
	if _, group, _ := strings.Cut(c.User, "@"); group != who.Group {
		return fmt.Errorf("a job of %s came from %s of the group %s", c.User, who.Name, who.Group)
	}
	if due := rank(who.Group == c.Group, who.User == c.Owner); *c.Rank > due {
		return fmt.Errorf("a job that came from %s of %s got the rank %g, where %g is due", who.Name, who.User, *c.Rank, due)
	}
	return nil
}

// rank is what policy's RANK gives a job.
func rank(group, owner bool) float64 {
	switch {
	case !group:
		return 0
	case !owner:
		return groupRank
	}
	return groupRank + ownerRank
}
