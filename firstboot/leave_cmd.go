package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gridappliance/firstboot/apply"
	"gridappliance/firstboot/plan"
	"gridappliance/firstboot/watch"
	"gridappliance/internal/diag"
	"gridappliance/internal/sysrun"
)

// newLeaveCommand returns the verb leave.
func newLeaveCommand(m *machine) *cobra.Command {
	var planned bool
	condorconf := "/usr/lib/grid/condorconf"
	c := &cobra.Command{
		Use:   "leave",
		Short: "give somebody's own machine back as it was before join",
		Long: `leave ends this machine's place in the grid: jobs of the grid end, services stop,
and everything that join, and what it started, has changed is taken back: accounts,
units, host name, /etc/hosts, /etc/condor, the automounter's and the NFS server's
files, the packet filter's table, the virtual network's device, keys and leases.
What the owner changed meanwhile stays, and where nothing was changed the files
have the bytes of before. What people put into /mnt/local stays, too.

Ended half way it can be run again. --plan prints what would be done, and changes
nothing.

EXIT STATUS
  1 failed, 4 not root, 5 the machine is in no grid`,
		Example: `  sudo firstboot leave --plan
  sudo firstboot leave`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := m.mayChange("leave"); err != nil {
				return err
			}
			if planned {
				return m.leavePlan(c.Context(), condorconf, c.OutOrStdout())
			}
			return m.leave(c.Context(), condorconf, c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&planned, "plan", false, "print what would be done, and do nothing")
	c.Flags().StringVar(&condorconf, "condorconf", condorconf, "the program that configures HTCondor")
	return c
}

// errNoGrid is returned where there is nothing to leave.
var errNoGrid = fmt.Errorf("this machine is in no grid: %w", diag.ErrNothing)

// ours returns the units that leave stops, in this order: who gives orders
// first, who is needed by others last. An NFS server that is the owner's goes
// on.
func ours(stamp *apply.Stamp) []string {
	list := []string{"grid-watch.service", "condor.service", "grid-guard.service", "grid-issuer.service", "overlayd.service", "grid-firewall.service", "grid-firstboot.service"}
	if stamp == nil || stamp.Entries[plan.NFSDropIn] == "" {
		return list
	}
	return slices.Insert(list, 2, "nfs-server.service")
}

// joined returns the stamp and how the machine was before; errNoGrid where no
// floppy has changed it. The stamp is nil when a first join ended half way.
func (m *machine) joined() (*apply.Stamp, *apply.Before, error) {
	tree, err := apply.Open(m.root)
	if err != nil {
		return nil, nil, err
	}
	defer tree.Close()
	return apply.Joined(tree)
}

func (m *machine) leavePlan(ctx context.Context, condorconf string, out io.Writer) error {
	stamp, before, err := m.joined()
	if err != nil {
		return err
	}
	if before == nil {
		return errNoGrid
	}
	for _, name := range ours(stamp) {
		fmt.Fprintf(out, "stop %s\n", name)
	}
	text, err := sysrun.Output(ctx, condorconf, "remove", "--plan", "--root", m.root)
	if err != nil {
		return err
	}
	out.Write(text)
	if stamp != nil {
		for _, name := range slices.Backward(slices.Sorted(maps.Keys(stamp.Entries))) {
			fmt.Fprintf(out, "remove /%s\n", name)
		}
		for _, u := range stamp.Users {
			fmt.Fprintf(out, "remove account %s, number %d\n", u.Name, u.UID)
		}
	}
	fmt.Fprintf(out, "remove our lines from /etc/hosts\nhost name %s again\n", before.Name)
	for _, name := range before.Running {
		fmt.Fprintf(out, "start %s, which ran before\n", name)
	}
	return nil
}

// leave gives the machine back. The stamp, which says what there is to do, goes
// last.
func (m *machine) leave(ctx context.Context, condorconf string, out io.Writer) error {
	stamp, before, err := m.joined()
	if err != nil {
		return err
	}
	if before == nil {
		return errors.Join(errNoGrid, m.forget()) // a folder may be left of a join that died at once
	}
	live := m.live() && underSystemd()
	if live {
		if err := manage(ctx, watch.Units{Stop: ours(stamp)}); err != nil {
			return err
		}
	}
	removed, err := sysrun.Output(ctx, condorconf, "remove", "--root", m.root)
	if err != nil {
		return err
	}
	out.Write(removed)
	if live {
		if err := m.stillness(ctx, stamp, before); err != nil {
			return err
		}
	}
	// Not before grid-watch has ended: it may wait for the tree.
	tree, err := m.tree()
	if err != nil {
		return err
	}
	defer tree.Close()
	r, err := apply.Undo(tree)
	if err != nil {
		return err
	}
	for _, name := range r.Gone {
		fmt.Fprintf(out, "removed /%s\n", name)
	}
	if live {
		if err := reloadSystemd(ctx); err != nil {
			return err
		}
		if err := manage(ctx, watch.Units{Start: before.Running}); err != nil {
			return fmt.Errorf("as before joining: %w", err)
		}
	}
	if err := apply.Forget(tree); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "this machine is in no grid any more")
	return err
}

// forget removes what the machine kept.
func (m *machine) forget() error {
	tree, err := m.tree()
	if err != nil {
		return err
	}
	defer tree.Close()
	return apply.Forget(tree)
}

// stillness takes back what the kernel and running services know of the grid.
func (m *machine) stillness(ctx context.Context, stamp *apply.Stamp, before *apply.Before) error {
	// It comes back in leave, if it ran before, and takes the owner's mounts that
	// are in use over. Told to reload while its mount was taken away, it was once
	// found ended afterwards.
	if err := manage(ctx, watch.Units{Stop: []string{"autofs.service"}}); err != nil {
		return err
	}
	if err := m.unmount("/mnt/ganfs"); err != nil {
		return err
	}
	if nft, err := sysrun.Find("nft"); err == nil {
		// One that is not there is made first: deleting it then never fails.
		for _, verb := range []string{"add", "delete"} {
			if err := quick(ctx, programLimit, nft, verb, "table", "inet", "grid"); err != nil {
				return err
			}
		}
	}
	if stamp != nil && stamp.Device != "" {
		if _, err := net.InterfaceByName(stamp.Device); err == nil {
			if err := quick(ctx, programLimit, "ip", "link", "delete", stamp.Device); err != nil {
				return err
			}
		}
	}
	tree, err := apply.Open(m.root)
	if err != nil {
		return err
	}
	defer tree.Close()
	now, err := os.Hostname()
	if err != nil {
		return err
	}
	if now == apply.Named(tree) { // else the owner has changed it
		if err := unix.Sethostname([]byte(before.Name)); err != nil {
			return fmt.Errorf("set host name %s: %w", before.Name, err)
		}
	}
	return nil
}

// unmount detaches what is mounted at or below dir, the innermost first.
func (m *machine) unmount(dir string) error {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range slices.Backward(lines) {
		fields := strings.Fields(line) // what the kernel writes as \040 is in no name of ours
		if len(fields) < 2 || fields[1] != dir && !strings.HasPrefix(fields[1], dir+"/") {
			continue
		}
		if err := unix.Unmount(fields[1], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", fields[1], err)
		}
	}
	return nil
}
