package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gridappliance/overlayd/control"
)

func newStatusCommand() *cobra.Command {
	var q question
	var counters bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show what the running node knows about itself",
		Long: `status asks the running overlayd and prints its state, its addresses and names
once it has them, how it stands on the ring and on the underlay, and what a
person must see.

EXIT STATUS
  0 the node answered, in whatever state it is; 1 no node is running;
  4 you may not ask it: be root or in the group overlayd`,
		Example: `  overlayd status
  overlayd status --counters
  overlayd status --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := q.client().Status(cmd.Context())
			if err != nil {
				return explain(err)
			}
			return print(cmd, &q, s, func(w io.Writer, s control.Status) error { return writeStatus(w, s, counters) })
		},
	}
	q.addFlags(cmd)
	cmd.Flags().BoolVar(&counters, "counters", false, "print what was counted, too, if it was at all")
	return cmd
}

func writeStatus(w io.Writer, s control.Status, counters bool) error {
	name := cmp.Or(s.Name, "this node")
	fmt.Fprintf(w, "%s is %s", name, s.State)
	if s.Address.IsValid() {
		fmt.Fprintf(w, ": %s on %s since %s", s.Address, s.Device, stamp(s.Since))
	}
	fmt.Fprintln(w)
	for _, alarm := range s.Alarms {
		fmt.Fprintln(w, "ALARM: "+alarm)
	}
	t := newTable(w)
	t.row("reason", s.Reason)
	if s.Address6.IsValid() {
		t.row("IPv6", s.Address6.String())
	}
	t.row("also called", strings.Join(s.HostNames, ", "))
	if s.Lease.State != "" {
		lease := s.Lease.State
		if !s.Lease.Until.IsZero() {
			lease += " until " + stamp(s.Lease.Until)
		}
		t.row("lease", lease)
	}
	t.row("grid", fmt.Sprintf("%s, namespace %s, descriptor %d, revocations %d", s.Grid, s.Namespace, s.Descr, s.Revoked))
	t.row("role", roleText(s.Role, s.User, s.Group))
	t.row("peers", peersText(s.Peers))
	if s.Ring.Member {
		t.row("ring", fmt.Sprintf("member, among about %d", s.Ring.Size))
	}
	t.row("underlay", underlayText(s.Underlay))
	t.row("names", s.DNS.State)
	if s.Cert.Serial != "" {
		t.row("certificate", "until "+stamp(s.Cert.NotAfter)+", serial "+s.Cert.Serial)
	}
	t.row("node", s.NodeID)
	for _, m := range s.Masters {
		t.row("master", m.Name+" "+m.Address.String())
	}
	t.row("version", s.Version)
	if counters {
		for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
			if n := s.Counters[name]; n > 0 {
				t.row(name, fmt.Sprint(n))
			}
		}
	}
	return t.w.Flush()
}

func roleText(role, user, group string) string {
	if user == "" {
		return role
	}
	return fmt.Sprintf("%s of %s, group %s", role, user, group)
}

// peersText is "3 sessions: 2 direct, 1 relay".
func peersText(peers map[string]int) string {
	if len(peers) == 0 {
		return ""
	}
	total := 0
	var parts []string
	for _, path := range slices.Sorted(maps.Keys(peers)) {
		total += peers[path]
		parts = append(parts, fmt.Sprintf("%d %s", peers[path], path))
	}
	return counted(total, "session") + ": " + strings.Join(parts, ", ")
}

func underlayText(u control.Underlay) string {
	var parts []string
	if u.Listen.IsValid() {
		parts = append(parts, "listening on "+u.Listen.String())
	}
	if u.Reflexive.IsValid() {
		parts = append(parts, "seen by others as "+u.Reflexive.String())
	}
	if u.Mapping != "" && u.Mapping != control.MappingUnknown {
		parts = append(parts, "mapping "+string(u.Mapping))
	}
	return strings.Join(parts, ", ")
}

func newMetricsCommand() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "print the node's counters for Prometheus",
		Long: `metrics prints what the running node counts and measures in Prometheus's text
exposition, for a node exporter's textfile collector. The counters are those of
"overlayd status --counters": drop/no-session is overlayd_drop_no_session_total.
A client that speaks HTTP over a Unix socket reads the same from /metrics of
the control socket.

EXIT STATUS
  0 printed; 1 no node is running; 4 you may not ask it`,
		Example: `  overlayd metrics
  overlayd metrics > overlayd.prom.new && mv overlayd.prom.new overlayd.prom`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := control.Dial(socket).Metrics(cmd.Context())
			if err != nil {
				return explain(err)
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().StringVar(&socket, "control", control.SocketPath, "control socket")
	return cmd
}
