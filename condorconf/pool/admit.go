package pool

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"gridappliance/overlayd/control"
)

// A Claim is a job that a job queue wants to start on a slot of this machine,
// as its two ads say: the job's comes from the queue, the slot's from this
// machine's startd, which has noted in it what the queue said to get the slot.
type Claim struct {
	JobUser  string  `json:"job_user"`  // User of the job: account@group
	JobOwner string  `json:"job_owner"` // GridUser of the job: the person whose floppy it comes from
	Claimer  string  `json:"claimer"`   // RemoteUser of the slot: User of the job that got it
	Rank     float64 `json:"rank"`      // CurrentRank of the slot
	Group    string  `json:"group"`     // GridGroup of the slot
	Owner    string  `json:"owner"`     // GridUser of the slot
}

// ParseClaim reads both ads, in the form NAME = VALUE, a line each (HTCondor
// manual, "ClassAd Syntax", long form). An attribute that is missing or not of
// the form is an error that names it.
func ParseClaim(job, slot string) (Claim, error) {
	var c Claim
	err := errors.Join(
		adString(job, "User", &c.JobUser),
		adString(job, "GridUser", &c.JobOwner),
		adString(slot, "RemoteUser", &c.Claimer),
		adString(slot, "GridGroup", &c.Group),
		adString(slot, "GridUser", &c.Owner),
	)
	rank, rankErr := strconv.ParseFloat(adValue(slot, "CurrentRank"), 64)
	if rankErr != nil {
		rankErr = fmt.Errorf("CurrentRank: %w", rankErr)
	}
	c.Rank = rank
	return c, errors.Join(err, rankErr)
}

// plain is a string of an ad without any escape; no name of the grid has one.
var plain = regexp.MustCompile(`^"([^"\\]*)"$`)

func adString(ad, name string, to *string) error {
	found := plain.FindStringSubmatch(adValue(ad, name))
	if found == nil {
		return fmt.Errorf("%s: is %q, want a plain string", name, adValue(ad, name))
	}
	*to = found[1]
	return nil
}

// adValue returns the value of an attribute as it is written, "" without one.
// Names of attributes have no case.
func adValue(ad, name string) string {
	for line := range strings.Lines(ad) {
		if have, value, ok := strings.Cut(line, "="); ok && strings.EqualFold(strings.TrimSpace(have), name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Check returns why the job must not start, nil when it may. who is the holder
// of the address that the slot was claimed from, which the job queue cannot
// choose; all else in the claim is what the queue says, stock or not.
func (c Claim) Check(who control.Whois) error {
	for _, u := range []struct{ what, user string }{{"the job", c.JobUser}, {"the claim", c.Claimer}} {
		if _, group, _ := strings.Cut(u.user, "@"); group != who.Group {
			return fmt.Errorf("%s says that it is of %s, but comes from %s of the group %s", u.what, u.user, who.Name, who.Group)
		}
	}
	if c.JobOwner != who.User {
		return fmt.Errorf("the job says that it is %s's, but comes from %s, which is %s's", c.JobOwner, who.Name, who.User)
	}
	if due := rank(who.Group == c.Group, who.User == c.Owner); !(c.Rank <= due) { // nor is a rank that is no number due
		return fmt.Errorf("the claim got the rank %g, but a job from %s is due %g", c.Rank, who.Name, due)
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
