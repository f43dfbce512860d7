package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
)

func newStatusCommand() *cobra.Command {
	var socket string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show what the running node knows about itself",
		Long: `status asks the running overlayd and prints its state, its address once it has
one, and what it counted.

EXIT STATUS
  0 the node answered, in whatever state it is; 1 no node is running;
  4 you may not ask it: be root or in the group overlayd`,
		Example: `  overlayd status
  overlayd status --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := control.Dial(socket).Status(cmd.Context())
			if err != nil {
				return explain(err)
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), s)
			}
			return writeStatus(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().StringVar(&socket, "control", control.SocketPath, "control socket")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newWhoisCommand() *cobra.Command {
	var socket string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "whois ADDRESS",
		Short: "show who holds a virtual address",
		Long: `whois prints the node, user, group and role behind an address of the virtual
network, as their certificate says.

EXIT STATUS
  0 somebody holds it; 1 no node is running here; 5 nobody known holds it`,
		Example: `  overlayd whois 10.250.0.2
  overlayd whois 10.250.0.2 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := netip.ParseAddr(args[0])
			if err != nil {
				return diag.UsageError{Err: fmt.Errorf("whois %q: not an address", args[0])}
			}
			w, err := control.Dial(socket).Whois(cmd.Context(), addr)
			if errors.Is(err, control.ErrUnknown) {
				return fmt.Errorf("whois %s: %w (%w)", addr, control.ErrUnknown, diag.ErrNothing)
			}
			if err != nil {
				return explain(err)
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), w)
			}
			return writeWhois(cmd.OutOrStdout(), w)
		},
	}
	cmd.Flags().StringVar(&socket, "control", control.SocketPath, "control socket")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// explain says what it means that the daemon did not answer.
func explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (overlayd is not running)", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w (be root or in the group overlayd)", err)
	}
	return err
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints rows of a name and a value; empty values are left out.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer) table { return table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)} }

func (t table) row(name, value string) {
	if value != "" {
		fmt.Fprintf(t.w, "%s\t%s\n", name, value)
	}
}

func writeStatus(w io.Writer, s control.Status) error {
	t := newTable(w)
	t.row("state", string(s.State))
	t.row("reason", s.Reason)
	if s.Address.IsValid() {
		t.row("address", s.Address.String()+" on "+s.Device+" since "+stamp(s.Since))
	}
	t.row("name", s.Name)
	t.row("role", s.Role)
	t.row("user", s.User)
	t.row("group", s.Group)
	t.row("grid", fmt.Sprintf("%s, namespace %s, descriptor %d", s.Grid, s.Namespace, s.Descr))
	t.row("node", s.NodeID)
	t.row("certificate", "until "+stamp(s.Cert.NotAfter)+", serial "+s.Cert.Serial)
	for _, m := range s.Masters {
		t.row("master", m.Name+" "+m.Address.String())
	}
	for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
		t.row(name, fmt.Sprint(s.Counters[name]))
	}
	t.row("version", s.Version)
	return t.w.Flush()
}

func writeWhois(w io.Writer, who control.Whois) error {
	t := newTable(w)
	t.row("address", who.Address.String())
	t.row("name", who.Name)
	t.row("node", who.NodeID)
	t.row("user", who.User)
	t.row("group", who.Group)
	t.row("role", who.Role)
	if who.Router {
		t.row("behind", "router")
	}
	return t.w.Flush()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
