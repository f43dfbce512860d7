package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/spf13/cobra"

	"gridappliance/firstboot/apply"
	"gridappliance/firstboot/units"
	"gridappliance/firstboot/watch"
	"gridappliance/internal/diag"
	"gridappliance/internal/splitdns"
)

// joinLimit is how long join waits for READY unless told otherwise: an address
// takes seconds, HTCondor a minute where a machine has much else to do.
const joinLimit = 5 * time.Minute

// newJoinCommand returns the verb join.
func newJoinCommand(m *machine) *cobra.Command {
	var file string
	limit := joinLimit
	c := &cobra.Command{
		Use:   "join",
		Short: "make somebody's own Debian machine a node of the floppy's grid",
		Long: `join is for a machine that is no appliance and has the package grid-appliance.
It makes of it what the floppy says, starts the services, waits until the machine
works, and prints the READY line. Until then it says how far the machine is.

The owner keeps what is the owner's: time zone, log-ins, sudo, ssh, clock, network,
/etc/resolv.conf, other tables of the packet filter, disks. A machine whose
HTCondor is configured for another pool, or that shares by NFS already what the
floppy wants to share, is refused before anything is changed. The machine stays a
node over restarts, until leave; joining with another floppy changes what differs.

check and plan say beforehand what join would do.

EXIT STATUS
  1 not READY in time, 3 the floppy is wrong or the machine cannot be that,
  4 not root`,
		Example: `  firstboot plan --floppy alice.img
  sudo firstboot join --floppy alice.img`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return m.join(c.Context(), file, limit, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	floppyFlag(c, &file)
	c.Flags().DurationVar(&limit, "timeout", limit, "how long to wait for READY")
	return c
}

// mayChange says why the services of this machine cannot be changed by the verb.
func (m *machine) mayChange(verb string) error {
	switch {
	case !m.own():
		return diag.UsageError{Err: fmt.Errorf("%s is for a machine with the package grid-appliance; an appliance has its floppy in a drive", verb)}
	case !m.live():
		return nil
	case os.Geteuid() != 0:
		return fmt.Errorf("%s changes accounts and services: %w (sudo firstboot %[1]s)", verb, os.ErrPermission)
	}
	return nil
}

func (m *machine) join(ctx context.Context, file string, limit time.Duration, stdout, stderr io.Writer) error {
	switch {
	case file == "":
		return diag.UsageError{Err: errors.New("which floppy? firstboot join --floppy alice.img; builder floppy new makes one")}
	case !m.live() || !underSystemd():
		return diag.UsageError{Err: errors.New("join works on a machine that systemd runs, without --root")}
	}
	if err := m.mayChange("join"); err != nil {
		return err
	}
	found, _, err := m.find(ctx, file)
	if err != nil {
		return err
	}
	stamp, err := m.stamp()
	if err != nil {
		return err
	}
	t, err := m.judge(found, stamp)
	if err != nil {
		return err
	}
	if now := time.Now(); now.Before(t.newest) { // the owner's clock is not ours to set
		return fmt.Errorf("the clock says %s, and the floppy was signed at %s: set it (timedatectl set-ntp true), then join again",
			now.Format(time.RFC3339), t.newest.Format(time.RFC3339))
	}
	_, r, err := m.accept(found)
	if err != nil {
		return err
	}
	for _, name := range r.Wrote {
		fmt.Fprintf(stderr, "wrote /%s\n", name)
	}
	for _, name := range r.Gone {
		fmt.Fprintf(stderr, "removed /%s\n", name)
	}
	if err := m.startUnits(ctx, r); err != nil {
		return err
	}
	line, err := m.waitReady(ctx, limit, stderr)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, line)
	if note := namesNote(ctx); note != "" && t.plan.Overlay() {
		fmt.Fprintln(stderr, note)
	}
	return nil
}

// startUnits has systemd run what the plan needs. What was running as it should
// goes on.
func (m *machine) startUnits(ctx context.Context, r apply.Result) error {
	if err := reloadSystemd(ctx); err != nil {
		return err
	}
	if !r.Changed() {
		return manage(ctx, watch.Units{Start: units.Enabled})
	}
	// READY is said anew, of what the machine is now.
	if err := os.Remove(m.path(readyPath)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	stop := []string{"grid-watch.service"}
	if r.Before == nil {
		stop = append(stop, "condor.service") // the pool of one that its package starts
	}
	if err := manage(ctx, watch.Units{Stop: stop}); err != nil {
		return err
	}
	changed := applied(r.Before, r.After).Units
	changed.Restart = append([]string{"grid-firstboot.service"}, changed.Restart...)
	changed.Start = units.Enabled
	if !r.After.Overlay() {
		changed.Stop = append(changed.Stop, "overlayd.service")
	}
	return manage(ctx, changed)
}

// reloadSystemd has systemd read its units again.
func reloadSystemd(ctx context.Context) error {
	conn, err := systemd.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reload systemd: %w", err)
	}
	return nil
}

// waitReady waits for the READY line and says meanwhile what is being waited
// for.
func (m *machine) waitReady(ctx context.Context, limit time.Duration, stderr io.Writer) (string, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	last := ""
	for {
		if line := m.text(readyPath); line != "" {
			return line, nil
		}
		s, err := m.readStatus()
		if err != nil {
			return "", err
		}
		if now := strings.TrimSpace(string(s.State) + " " + s.Detail); now != last {
			last = now
			fmt.Fprintln(stderr, now)
		}
		if s.State == watch.StateRefused {
			return "", s.verdict()
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-end:
			return "", fmt.Errorf("not READY within %v: %s (it goes on trying: firstboot status, grid doctor; firstboot leave gives up)", limit, last)
		case <-tick.C:
		}
	}
}

// namesNote is what the owner should know when this machine cannot ask overlayd
// for names; "" when it can.
func namesNote(ctx context.Context) string {
	c, err := splitdns.Open(ctx)
	if err != nil {
		return "names of other machines (.ipop) are not known here, because systemd-resolved does not run; jobs and /mnt/ganfs do not need them (docs/own-machine.md)"
	}
	c.Close()
	return ""
}
