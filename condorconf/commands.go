package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/condorconf/pool"
	"gridappliance/condorconf/tree"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
)

// options are the flags that check, plan and write share.
type options struct {
	floppy  string // image of the floppy in force
	root    string // root of the tree to write
	status  string // file with a control.Status instead of overlayd; "" asks overlayd
	control string // overlayd's socket
	json    bool

	overlayd string // program that puts a request to the masters
	// sign returns the certificate and its issuer's for a request, both in PEM;
	// nil for a verb that only looks.
	sign func(ctx context.Context, request []byte) ([]byte, error)
}

func (o *options) flags(c *cobra.Command) {
	c.Args = cobra.NoArgs
	f := c.Flags()
	f.StringVar(&o.floppy, "floppy", "/var/lib/grid/floppy.img", "the floppy `image` in force")
	f.StringVar(&o.root, "root", "/", "the `folder` whose etc/ is meant")
	f.StringVar(&o.status, "status", "", "read overlayd's status from this JSON `file` instead of asking it")
	f.StringVar(&o.control, "control", control.SocketPath, "overlayd's control `socket`")
	f.BoolVar(&o.json, "json", false, "print the result as JSON")
}

func newCheckCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "check",
		Short: "check the inputs, and the result against the installed HTCondor",
		Long: `check reads the floppy and overlayd's status, makes every file in memory, and
lets the installed HTCondor read them: its syntax, and each of its expressions.
Nothing is written. Where HTCondor is not installed, it says so.

EXIT STATUS
  3 when the floppy or the result is wrong, 5 without a virtual address`,
		Example: "  condorconf check\n  condorconf check --floppy alice.img --status status.json",
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := o.decide(c.Context(), time.Now())
			if err != nil {
				return err
			}
			defer d.Close()
			tested, err := judge(c.Context(), d.files)
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(c.OutOrStdout(), map[string]any{"files": len(d.files), "htcondor": tested})
			}
			if !tested {
				fmt.Fprintln(c.ErrOrStderr(), "condorconf: HTCondor is not installed here, so it has not read the files")
			}
			fmt.Fprintf(c.OutOrStdout(), "%s %s: %d files, no problem\n", d.machine.Role, d.machine.Name, len(d.files))
			return nil
		},
	}
	o.flags(c)
	return c
}

func newPlanCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "plan",
		Short: "print what write would change",
		Long: `plan prints each file that write would create, change or remove, with the lines
that go and come, and the units that would be started, reloaded, restarted or
stopped.
Keys are not printed. Nothing is written.`,
		Example: "  condorconf plan\n  condorconf plan --root /mnt/image --floppy alice.img --status status.json --json",
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := o.decide(c.Context(), time.Now())
			if err != nil {
				return err
			}
			defer d.Close()
			if o.json {
				return printJSON(c.OutOrStdout(), d.plan())
			}
			_, err = io.WriteString(c.OutOrStdout(), d.describe())
			return err
		},
	}
	o.flags(c)
	return c
}

func newWriteCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "write",
		Short: "write what differs, print which units to start and restart",
		Long: `write makes the files be what plan prints. Each is replaced in one step; equal
bytes are not written; files of an earlier role are removed. It prints the units
to stop, reload, restart and start, in that order, and when to call it again so that the
HTCondor certificate is renewed. A renewed certificate restarts nothing.

A worker or client has a master sign its certificate, by overlayd credential.

EXIT STATUS
  4 when the files may not be written, 5 without a virtual address`,
		Example: "  condorconf write\n  condorconf write --json",
		RunE: func(c *cobra.Command, _ []string) error {
			o.sign = o.askMasters
			d, err := o.decide(c.Context(), time.Now())
			if err != nil {
				return err
			}
			defer d.Close()
			if err := tree.Clean(d.root, pool.Owned()); err != nil {
				return err
			}
			if err := tree.Apply(d.root, d.changes); err != nil {
				return err
			}
			if o.json {
				return printJSON(c.OutOrStdout(), d.result())
			}
			_, err = io.WriteString(c.OutOrStdout(), d.result().String())
			return err
		},
	}
	o.flags(c)
	c.Flags().StringVar(&o.overlayd, "overlayd", "/usr/lib/grid/overlayd", "the `program` that asks a master for HTCondor's certificate")
	return c
}

// newAutomountCommand is what the kernel runs for the program map's first line:
// the map's path, then the key that automount looks up. Flags are not parsed,
// because a key is whatever somebody typed.
func newAutomountCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "automount MAP KEY",
		Short: "look up a host for the automounter",
		Long: `automount prints the automounter's entry for a host of the virtual network, as
the program map /etc/auto.ganfs does. A name that is not C and nine digits (with
or without .ipop) of the pool has none.

EXIT STATUS
  1 without an entry`,
		Example:            "  condorconf automount /etc/auto.ganfs C250000007",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return diag.UsageError{Err: fmt.Errorf("automount takes MAP and KEY, not %d words", len(args))}
			}
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			m, err := pool.ParseMap(string(text))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			entry, err := m.Lookup(args[1])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), entry)
			return err
		},
	}
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Result is what write has done and what its caller must do now, in the order
// stop, reload, restart, start. Lists are never null.
type Result struct {
	Changed []string `json:"changed"` // absolute paths written or removed
	Reload  []string `json:"reload"`  // units to reload: they take a changed file in while they run
	Restart []string `json:"restart"` // units to restart: they read a changed file only when they start
	Start   []string `json:"start"`   // units that should run
	Stop    []string `json:"stop"`    // units that should not
	Renew   string   `json:"renew"`   // when to call write again for the certificate, RFC 3339; "" never
	Waiting string   `json:"waiting"` // why HTCondor is not among Start; "" when it is

	// Offer is a master's, to be published as the record service/collector
	// while its collector answers.
	Offer *pool.Offer `json:"offer,omitempty"`
}

// String returns the result for reading.
func (r Result) String() string {
	var b strings.Builder
	for _, p := range r.Changed {
		fmt.Fprintf(&b, "changed %s\n", p)
	}
	for _, l := range []struct {
		verb  string
		units []string
	}{{"stop", r.Stop}, {"reload", r.Reload}, {"restart", r.Restart}, {"start", r.Start}} {
		if len(l.units) > 0 {
			fmt.Fprintf(&b, "%s %s\n", l.verb, strings.Join(l.units, " "))
		}
	}
	if r.Renew != "" {
		fmt.Fprintf(&b, "renew %s\n", r.Renew)
	}
	if r.Waiting != "" {
		fmt.Fprintf(&b, "waiting: %s\n", r.Waiting)
	}
	return b.String()
}
