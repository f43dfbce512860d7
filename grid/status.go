package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// status is what grid status shows. Pool and Jobs are null when they could not
// be asked for, with the reason in Problem.
type status struct {
	State   string `json:"state"`
	Detail  string `json:"detail,omitempty"`
	Name    string `json:"name,omitempty"`
	Address string `json:"address,omitempty"`
	Role    string `json:"role,omitempty"`
	Group   string `json:"group,omitempty"`
	Grid    string `json:"grid,omitempty"`
	Pool    *pool  `json:"pool"`
	Jobs    *jobs  `json:"jobs"`
	Problem string `json:"problem,omitempty"`
}

// pool is what the pool has.
type pool struct {
	Machines   int     `json:"machines"`
	Processors float64 `json:"processors"`
	Busy       float64 `json:"busy"` // processors that jobs have
}

// jobs are the caller's on this machine; null on one without a queue.
type jobs struct {
	Idle    int `json:"idle"`
	Running int `json:"running"`
	Held    int `json:"held"`
}

func newStatusCommand(m *machine) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "show where one is, what the pool has, and one's jobs",
		Long: `status prints the machine's name and role in the grid, how many machines and
processors the pool has, and on a client the caller's jobs.`,
		Example: "  grid status\n  grid status --json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := m.status(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), s)
			}
			return s.write(c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (m *machine) status(ctx context.Context) (status, error) {
	r, err := m.report()
	if err != nil {
		return status{}, err
	}
	s := status{State: r.State, Detail: r.Detail, Name: r.Name, Address: r.Address, Role: r.Role, Group: r.Group, Grid: r.Grid}
	if r.Name == "" {
		return s, nil // nothing runs yet that could be asked
	}
	if s.Pool, err = m.pool(ctx); err != nil {
		s.Problem = err.Error()
	}
	if r.Role == "client" || r.Role == "standalone" {
		if s.Jobs, err = m.jobs(ctx); err != nil && s.Problem == "" {
			s.Problem = err.Error()
		}
	}
	return s, nil
}

// pool adds the slots up: of one that is divided, the collector has what is
// left of it and each part.
func (m *machine) pool(ctx context.Context) (*pool, error) {
	slots, err := m.lines(ctx, "condor_status", "-autoformat", "Machine", "State", "Cpus")
	if err != nil {
		return nil, err
	}
	var p pool
	machines := map[string]bool{}
	for _, s := range slots {
		if len(s) != 3 {
			return nil, fmt.Errorf("condor_status says %q", s)
		}
		cpus, err := strconv.ParseFloat(s[2], 64)
		if err != nil {
			return nil, fmt.Errorf("condor_status says %q", s)
		}
		machines[s[0]] = true
		p.Processors += cpus
		if s[1] == "Claimed" {
			p.Busy += cpus
		}
	}
	p.Machines = len(machines)
	return &p, nil
}

// jobs counts by JobStatus (HTCondor manual, "Job ClassAd Attributes").
func (m *machine) jobs(ctx context.Context) (*jobs, error) {
	all, err := m.lines(ctx, "condor_q", "-autoformat", "JobStatus")
	if err != nil {
		return nil, err
	}
	var j jobs
	for _, words := range all {
		switch words[0] {
		case "1":
			j.Idle++
		case "2", "6":
			j.Running++
		case "5":
			j.Held++
		}
	}
	return &j, nil
}

func (s status) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	if s.Name != "" {
		row("machine", "%s, %s", s.Name, s.Address)
	}
	if s.Role != "" {
		row("role", "%s", s.Role)
	}
	if s.Grid != "" {
		row("grid", "%s, group %s", s.Grid, s.Group)
	}
	row("state", "%s", s.State)
	if s.Detail != "" {
		row("", "%s", s.Detail)
	}
	if p := s.Pool; p != nil {
		row("pool", "%d machines, %g processors, %g of them busy", p.Machines, p.Processors, p.Busy)
	}
	if j := s.Jobs; j != nil {
		row("your jobs", "%d running, %d idle, %d held", j.Running, j.Idle, j.Held)
	}
	if s.Problem != "" {
		row("", "%s", s.Problem)
	}
	return t.Flush()
}
