package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// usage is what one user has had of the pool.
type usage struct {
	User       string    `json:"user"`
	Group      string    `json:"group"`
	Processors float64   `json:"processors"` // now
	Hours      float64   `json:"hours"`      // of processors, since the first
	Last       time.Time `json:"last"`       // a job ran
}

func newUsageCommand(m *machine) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "usage",
		Short: "show who uses the pool, and has used it",
		Long: `usage prints for each user the processors that jobs have now, and the processor
hours they have had since the pool's first day, the most first. The pool's
negotiator keeps count. A user is an account of a group's machines: griduser,
unless more were made.`,
		Example: "  grid usage\n  grid usage --json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := m.report(); err != nil {
				return err
			}
			all, err := m.usage(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), all)
			}
			return writeUsage(c.OutOrStdout(), all)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// usage asks the negotiator, whose collector keeps only those who have used the
// pool lately. Attributes: HTCondor manual, "Accounting ClassAd Attributes";
// processors are slot weights.
func (m *machine) usage(ctx context.Context) ([]usage, error) {
	ads, err := m.lines(ctx, "condor_userprio", "-negotiator", "-allusers", "-constraint", "!IsAccountingGroup",
		"-autoformat", "Name", "WeightedResourcesUsed", "WeightedAccumulatedUsage", "LastUsageTime")
	if err != nil {
		return nil, err
	}
	all := []usage{}
	for _, ad := range ads {
		u, err := readUsage(ad)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b usage) int {
		return cmp.Or(cmp.Compare(b.Hours, a.Hours), cmp.Compare(a.Group, b.Group), cmp.Compare(a.User, b.User))
	})
	return all, nil
}

func readUsage(ad []string) (usage, error) {
	bad := fmt.Errorf("condor_userprio says %q", ad)
	if len(ad) != 4 {
		return usage{}, bad
	}
	var u usage
	u.User, u.Group, _ = strings.Cut(ad[0], "@")
	processors, err1 := strconv.ParseFloat(ad[1], 64)
	seconds, err2 := strconv.ParseFloat(ad[2], 64)
	last, err3 := strconv.ParseInt(ad[3], 10, 64)
	if cmp.Or(err1, err2, err3) != nil {
		return usage{}, bad
	}
	u.Processors, u.Hours, u.Last = processors, seconds/3600, time.Unix(last, 0).UTC()
	return u, nil
}

func writeUsage(w io.Writer, all []usage) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "nobody has used the pool yet")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "GROUP\tUSER\tPROCESSORS NOW\tHOURS\tLAST")
	for _, u := range all {
		fmt.Fprintf(t, "%s\t%s\t%g\t%.2f\t%s\n", u.Group, u.User, u.Processors, u.Hours, u.Last.Format("2006-01-02 15:04"))
	}
	return t.Flush()
}
