package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"gridappliance/firstboot/apply"
	"gridappliance/firstboot/source"
	"gridappliance/firstboot/watch"
)

// newCheckCommand returns the verb check.
func newCheckCommand(m *machine) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "check",
		Short: "find the floppy and say everything that is wrong with it",
		Long: `check looks for a floppy as apply does, checks all of it (configuration,
credential, what this machine can be), and prints every problem. It changes
nothing.`,
		Example: `  firstboot check
  firstboot check --floppy alice.img`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := m.prepare(c.Context(), file, c.ErrOrStderr())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: good: role %s\n", t.source, t.plan.Role)
			return err
		},
	}
	floppyFlag(c, &file)
	return c
}

// newPlanCommand returns the verb plan.
func newPlanCommand(m *machine) *cobra.Command {
	var file string
	var asJSON bool
	c := &cobra.Command{
		Use:   "plan",
		Short: "print what apply would make of this machine",
		Long: `plan prints every file with its contents (secrets left out), every account and
every unit that the floppy makes of this machine. It changes nothing.`,
		Example: `  firstboot plan
  firstboot plan --floppy alice.img --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := m.prepare(c.Context(), file, c.ErrOrStderr())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(t.plan)
			}
			return t.plan.WriteText(c.OutOrStdout())
		},
	}
	floppyFlag(c, &file)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func floppyFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "floppy", "", "a floppy (image, zip or its base64) instead of looking for one")
}

// prepare finds and judges a floppy without changing anything.
func (m *machine) prepare(ctx context.Context, file string, stderr io.Writer) (*taken, error) {
	found, passed, err := m.find(ctx, file)
	for _, p := range passed {
		fmt.Fprintf(stderr, "passed over %s: %s\n", p.Source, p.Reason)
	}
	if err != nil {
		return nil, err
	}
	stamp, err := m.stamp()
	if err != nil {
		return nil, err
	}
	return m.judge(found, stamp)
}

// stamp returns the tree's stamp, nil without one.
func (m *machine) stamp() (*apply.Stamp, error) {
	t, err := apply.Open(m.root)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	s, err := apply.ReadStamp(t)
	if errors.Is(err, os.ErrPermission) {
		return nil, nil // only its newest signed object matters to those who may not read it
	}
	return s, err
}

// newApplyCommand returns the verb apply.
func newApplyCommand(m *machine) *cobra.Command {
	var file string
	var boot bool
	c := &cobra.Command{
		Use:   "apply",
		Short: "make this machine what its floppy says",
		Long: `apply finds the floppy, checks all of it, and then writes what differs; what an
earlier floppy made and this one does not is removed. Ended at any moment it can
be run again: every file is the old one or the new one, and services of the role
start only when all are new. A machine that is a copy of another gets its own
machine-id, host keys and node key first.

With --boot, as grid-firstboot.service runs it, no floppy is no error, and what
was found is said on every console. Without, grid-watch.service restarts what
the change touches.`,
		Example: `  firstboot apply
  firstboot apply --floppy alice.img --root /mnt/tree`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if boot {
				return m.boot(c.Context(), file, c.ErrOrStderr())
			}
			found, passed, err := m.find(c.Context(), file)
			for _, p := range passed {
				fmt.Fprintf(c.ErrOrStderr(), "passed over %s: %s\n", p.Source, p.Reason)
			}
			if err != nil {
				return err
			}
			_, r, err := m.accept(found)
			if err != nil {
				return err
			}
			return writeResult(c.OutOrStdout(), found.Source, r)
		},
	}
	floppyFlag(c, &file)
	c.Flags().BoolVar(&boot, "boot", false, "this is the machine's start")
	return c
}

// accept judges a floppy and makes the machine what it says.
func (m *machine) accept(found *source.Found) (*taken, apply.Result, error) {
	tree, err := m.tree()
	if err != nil {
		return nil, apply.Result{}, err
	}
	defer tree.Close()
	stamp, err := apply.ReadStamp(tree)
	if err != nil {
		return nil, apply.Result{}, err
	}
	t, err := m.judge(found, stamp)
	if err != nil {
		return nil, apply.Result{}, err
	}
	if err := m.raiseClock(t.now); err != nil {
		return nil, apply.Result{}, err
	}
	o := apply.Options{Instance: m.instance(), Newest: t.newest, Source: t.source, Identity: freshIdentity}
	if m.own() {
		o.Identity = nil
		if o.Before, err = m.before(tree); err != nil {
			return nil, apply.Result{}, err
		}
	}
	r, err := apply.Apply(tree, t.plan, o)
	return t, r, err
}

// identify sees to the identity of a machine without a floppy.
func (m *machine) identify() (apply.Result, error) {
	tree, err := m.tree()
	if err != nil {
		return apply.Result{}, err
	}
	defer tree.Close()
	return apply.Apply(tree, nil, apply.Options{Instance: m.instance(), Identity: freshIdentity})
}

// boot is apply --boot: find, check, plan, apply, and say on every console
// how it went.
func (m *machine) boot(ctx context.Context, file string, stderr io.Writer) error {
	tell := func(lines ...string) {
		for _, l := range lines {
			fmt.Fprintln(stderr, l)
		}
		m.say(lines...)
	}
	// The build time first: everything after it writes files with times.
	if err := m.raiseClock(m.now(nil)); err != nil {
		return err
	}
	if m.live() {
		daemon.SdNotify(false, "STATUS=looking for a floppy")
	}
	media := source.Media(ctx, m.root)
	found, passed, err := m.find(ctx, file)
	s := status{Passed: passed}
	for _, p := range passed {
		tell(prefix + "passed over " + p.Source + ": " + p.Reason)
	}
	var r apply.Result
	switch {
	case isNone(err) && m.own():
		s.Report = watch.Report{State: watch.StateWaiting, Detail: "in no grid: firstboot join --floppy FILE"}
		tell(prefix + s.Detail)
		err = nil
	case isNone(err):
		s.Report = watch.Report{State: watch.StateWaiting, Detail: "no floppy found: attach one and it is picked up"}
		tell(prefix + s.Detail)
		r, err = m.identify()
	case err == nil:
		s.Source = found.Source
		var t *taken
		if t, r, err = m.accept(found); err == nil {
			s.Report = watch.Report{State: watch.StateApplied, Role: string(t.plan.Role), Grid: t.plan.Grid, Group: t.plan.Group}
			tell(fmt.Sprintf("%staken: the floppy of %s, role %s", prefix, found.Source, t.plan.Role))
		}
	}
	if r.Copied && m.own() {
		tell(prefix + "this disk was copied from another machine: it has a new node key")
	} else if r.Copied {
		tell(prefix + "this disk was copied from another machine: it has a new machine-id, new ssh host keys and a new node key")
		m.restartJournal(ctx)
	}
	if err != nil {
		s.Report = watch.Report{State: watch.StateFailed, Detail: oneLine(err)}
		if isBroken(err) {
			s.State = watch.StateRefused
			s.Errors = problemLines(err)
		}
		m.say(prefix+oneLine(err), prefix+"nothing was changed; mend the floppy and put it in again, or log in and run firstboot status")
	}
	if werr := m.writeStatus(s); werr != nil && err == nil {
		err = werr
	}
	if werr := m.rememberMedia(media); werr != nil && err == nil {
		err = werr
	}
	return err
}

// restartJournal has the journal filed under the new machine-id. It is a
// convenience for whoever reads it; the boot does not depend on it.
func (m *machine) restartJournal(ctx context.Context) {
	if m.live() {
		quick(ctx, programLimit, "systemctl", "--no-block", "try-restart", "systemd-journald.service")
	}
}

// mediaPath holds the media that boot has looked at, for watch.
const mediaPath = "run/grid/media"

func (m *machine) rememberMedia(media string) error {
	return os.WriteFile(m.path(mediaPath), []byte(media), 0o644)
}

// writeResult says what apply did.
func writeResult(w io.Writer, source string, r apply.Result) error {
	if !r.Changed() {
		_, err := fmt.Fprintf(w, "%s: nothing to change\n", source)
		return err
	}
	if r.Fresh {
		fmt.Fprintln(w, "identity new")
	}
	for _, name := range r.Wrote {
		fmt.Fprintf(w, "wrote /%s\n", name)
	}
	for _, name := range r.Gone {
		fmt.Fprintf(w, "removed /%s\n", name)
	}
	return nil
}
