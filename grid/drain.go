package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// drainPoll is how often a drained machine is asked whether jobs still run.
const drainPoll = time.Second

func newDrainCommand(m *machine) *cobra.Command {
	var now, off, wait bool
	c := &cobra.Command{
		Use:   "drain",
		Short: "take no new jobs on this machine, or take them again",
		Long: `drain takes no new jobs on this machine. Those that run may go on, for a week at
most; with --now they are stopped, have ten seconds for that, and start again
elsewhere. It holds until --off, or until HTCondor or the machine restarts.
The jobs that one has submitted here go on. Only root may drain.

EXIT STATUS
  0 done, 1 it failed, 2 usage, 4 the caller is not root, 5 the machine has no floppy`,
		Example: "  sudo grid drain --wait\n  sudo grid drain --off",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := m.report()
			if err != nil {
				return err
			}
			if off {
				return m.undrain(c.Context(), r, c.OutOrStdout())
			}
			return m.drain(c.Context(), r, now, wait, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.BoolVar(&now, "now", false, "stop the jobs that run")
	f.BoolVar(&wait, "wait", false, "return when no job runs any more")
	f.BoolVar(&off, "off", false, "take jobs again")
	c.MarkFlagsMutuallyExclusive("off", "now")
	c.MarkFlagsMutuallyExclusive("off", "wait")
	return c
}

// drainable says why this machine cannot be drained.
func (m *machine) drainable(r report) error {
	switch {
	case m.uid() != 0:
		return fmt.Errorf("only root may drain this machine, use sudo: %w", os.ErrPermission)
	case r.Role == "master":
		return errors.New("a master runs no jobs: there is nothing to drain")
	case r.Role == "standalone":
		return errors.New("a grid of one takes only the jobs of its own users: hold them with condor_hold -all")
	case r.Name == "":
		return fmt.Errorf("the machine is %s and takes no jobs yet", r.State)
	}
	return nil
}

// drain asks the machine's condor_startd, unless it drains already.
func (m *machine) drain(ctx context.Context, r report, now, wait bool, w io.Writer) error {
	if err := m.drainable(r); err != nil {
		return err
	}
	drained, jobs, err := m.drained(ctx, r)
	if err != nil {
		return err
	}
	if drained && now { // of two requests the first holds
		if _, err := m.tool(ctx, "condor_drain", "-cancel", r.Name); err != nil {
			return err
		}
		drained = false
	}
	if !drained {
		how := "-graceful"
		if now {
			how = "-quick"
		}
		if _, err := m.tool(ctx, "condor_drain", how, "-reason", "grid drain", r.Name); err != nil {
			return err
		}
	}
	for wait && (!drained || jobs > 0) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(drainPoll):
		}
		if drained, jobs, err = m.drained(ctx, r); err != nil {
			return err
		}
	}
	switch jobs {
	case 0:
		_, err = fmt.Fprintf(w, "%s takes no new jobs; none runs\n", r.Name)
	case 1:
		_, err = fmt.Fprintf(w, "%s takes no new jobs; one still runs\n", r.Name)
	default:
		_, err = fmt.Fprintf(w, "%s takes no new jobs; %d still run\n", r.Name, jobs)
	}
	return err
}

func (m *machine) undrain(ctx context.Context, r report, w io.Writer) error {
	if err := m.drainable(r); err != nil {
		return err
	}
	drained, _, err := m.drained(ctx, r)
	if err != nil {
		return err
	}
	if drained {
		if _, err := m.tool(ctx, "condor_drain", "-cancel", r.Name); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, "%s takes jobs\n", r.Name)
	return err
}

// drained asks the machine's own condor_startd whether it drains, and how many
// jobs it has: the collector's word may be old.
func (m *machine) drained(ctx context.Context, r report) (bool, int, error) {
	slots, err := m.lines(ctx, "condor_status", "-direct", r.Name, "-autoformat", "State", "Draining ?: false")
	if err != nil {
		return false, 0, err
	}
	if len(slots) == 0 {
		return false, 0, fmt.Errorf("HTCondor offers no slot of %s; see grid doctor", r.Name)
	}
	drained, jobs := false, 0
	for _, s := range slots {
		if len(s) != 2 {
			return false, 0, fmt.Errorf("condor_status says %q", s)
		}
		drained = drained || s[1] == "true"
		if s[0] == "Claimed" || s[0] == "Preempting" {
			jobs++
		}
	}
	return drained, jobs, nil
}
