package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/credential"
	"gridappliance/overlayd/control"
)

func newGridCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "grid",
		Short: "make a grid, list and revoke what it has signed",
		Long: `A grid is a folder: the keys of its roots, its signed descriptor, the ledger of
every credential signed, and its masters' floppies. Keep it safe and offline
where you can: whoever has root.key is the grid (docs/trust.md).`,
		Example: `  builder grid new archer
  builder grid roster archer
  builder grid list archer
  builder grid revoke archer --user alice`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(newGridNewCommand(), newGridRosterCommand(), newGridListCommand(), newGridRevokeCommand(), newGridRenewCommand())
	return c
}

// rosterReport is what builder grid roster --json prints.
type rosterReport struct {
	Grid       string                 `json:"grid"`
	Version    uint64                 `json:"version"`
	Issued     time.Time              `json:"issued"`
	Epoch      uint64                 `json:"epoch"`
	Namespaces []credential.Namespace `json:"namespaces"`
	Masters    []masterReport         `json:"masters"`
	Witnesses  []credential.Witness   `json:"witnesses"`
	Bootstrap  []string               `json:"bootstrap"`
}

type masterReport struct {
	credential.Master
	Host string `json:"host"`
}

func newGridRosterCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "roster GRID",
		Short: "show the grid's networks, masters and witnesses",
		Long: `Shows what the descriptor in the grid's folder says: its namespaces with their
pools, its masters with their fixed addresses, and the witnesses whose votes
make leases. The descriptor's signature is checked first.`,
		Example: `  builder grid roster archer
  builder grid roster archer --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			g, err := credential.LoadGrid(args[0])
			if err != nil {
				return err
			}
			report := newRosterReport(g.Descriptor)
			if asJSON {
				return writeJSON(c.OutOrStdout(), report)
			}
			_, err = fmt.Fprint(c.OutOrStdout(), report)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newRosterReport(d *credential.Descriptor) rosterReport {
	r := rosterReport{
		Grid: d.Grid, Version: d.Version, Issued: d.Issued, Epoch: d.Epoch, Namespaces: d.Namespaces,
		Masters: []masterReport{}, Witnesses: d.Witnesses, Bootstrap: append([]string{}, d.Bootstrap...),
	}
	for _, m := range d.Masters {
		r.Masters = append(r.Masters, masterReport{m, control.HostName(m.Address)})
	}
	return r
}

func (r rosterReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "grid %s: descriptor version %d of %s, roster epoch %d\n\n", r.Grid, r.Version, r.Issued.Format(time.RFC3339), r.Epoch)
	table(&b, []string{"NAMESPACE", "POOL", "RESERVED", "LEASE", "HOLD"}, len(r.Namespaces), func(i int) []string {
		n := r.Namespaces[i]
		var reserved []string
		for _, v := range n.Reserved {
			reserved = append(reserved, fmt.Sprintf("%v/%v", v.Address, v.Mask))
		}
		return []string{n.Name, n.Pool.String(), strings.Join(reserved, ","), seconds(n.LeaseTime), seconds(n.HoldTime)}
	})
	b.WriteString("\n")
	table(&b, []string{"MASTER", "NAMESPACE", "ADDRESS", "HOST", "NODE"}, len(r.Masters), func(i int) []string {
		m := r.Masters[i]
		return []string{m.Name, m.Namespace, m.Address.String(), m.Host, m.ID.String()}
	})
	b.WriteString("\n")
	table(&b, []string{"WITNESS", "NODE"}, len(r.Witnesses), func(i int) []string {
		return []string{r.Witnesses[i].Name, r.Witnesses[i].ID.String()}
	})
	for _, e := range r.Bootstrap {
		fmt.Fprintf(&b, "\nbootstrap %s", e)
	}
	if len(r.Bootstrap) > 0 {
		b.WriteString("\n")
	}
	return b.String()
}

func seconds(n int) string { return (time.Duration(n) * time.Second).String() }

// table writes rows under their headings, columns aligned.
func table(b *strings.Builder, headings []string, rows int, row func(int) []string) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(headings, "\t"))
	for i := range rows {
		fmt.Fprintln(w, strings.Join(row(i), "\t"))
	}
	w.Flush()
}

// ledgerLine is one credential as builder grid list prints it.
type ledgerLine struct {
	credential.Issued
	State string `json:"state"` // good, early, expired, revoked
}

func newGridListCommand() *cobra.Command {
	var (
		asJSON bool
		user   string
	)
	c := &cobra.Command{
		Use:   "list GRID",
		Short: "list every credential the grid has signed",
		Long: `Lists the ledger in the grid's folder: serial, whom it is for, until when, and
whether it is good, expired or revoked.`,
		Example: `  builder grid list archer
  builder grid list archer --user alice --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			g, err := credential.LoadGrid(args[0])
			if err != nil {
				return err
			}
			lines := ledgerLines(g, user, time.Now())
			if asJSON {
				return writeJSON(c.OutOrStdout(), lines)
			}
			var b strings.Builder
			table(&b, []string{"SERIAL", "KIND", "USER", "GROUP", "ROLES", "UNTIL", "STATE"}, len(lines), func(i int) []string {
				return lines[i].columns()
			})
			_, err = fmt.Fprint(c.OutOrStdout(), b.String())
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&user, "user", "", "only this person's")
	return c
}

func ledgerLines(g *credential.Grid, user string, now time.Time) []ledgerLine {
	lines := []ledgerLine{}
	for _, e := range g.Ledger {
		state := "good"
		switch {
		case g.Revoked(e.Serial):
			state = "revoked"
		case now.After(e.NotAfter):
			state = "expired"
		case now.Before(e.NotBefore):
			state = "early"
		}
		if user == "" || e.User == user {
			lines = append(lines, ledgerLine{e, state})
		}
	}
	return lines
}

func (l ledgerLine) columns() []string {
	var roles []string
	for _, r := range l.Roles {
		roles = append(roles, string(r))
	}
	return []string{l.Serial, l.Kind, l.User, strings.Join(l.Groups, ","), strings.Join(roles, ","), l.NotAfter.Format(time.DateOnly), l.State}
}
