package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
)

func newPeersCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "list the nodes with which there is a session",
		Long: `peers lists every node with which this one has a session: one that carries the
overlay itself ("link", with its role on the ring), one that carries the packets
of the virtual network, or both; with the path each takes.

EXIT STATUS
  0 printed, and be it none; 1 no node is running; 4 you may not ask it`,
		Example: `  overlayd peers
  overlayd peers --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			peers, err := q.client().Peers(cmd.Context())
			if err != nil {
				return explain(err)
			}
			return print(cmd, &q, peers, writePeers)
		},
	}
	q.addFlags(cmd)
	return cmd
}

func writePeers(w io.Writer, peers []control.Peer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tADDRESS\tWHO\tCARRIES\tPATH\tRTT\tSENT\tRECEIVED")
	for _, p := range peers {
		for _, s := range p.Sessions {
			carries := s.Purpose
			if carries == control.PurposeLink && len(p.Ring) > 0 {
				carries += " (" + strings.Join(p.Ring, ", ") + ")"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(p.Name, p.NodeID), dash(addressText(p.Address)), dash(whoText(p)),
				carries, pathText(s), dash(rttText(s.RTT)), bytesText(s.Sent), bytesText(s.Received))
		}
	}
	return t.Flush()
}

// whoText is "worker of alice".
func whoText(p control.Peer) string {
	if p.User == "" {
		return p.Role
	}
	return p.Role + " of " + p.User
}

// pathText is "direct 192.0.2.9:4242", "relay 03..., checking", "ring".
func pathText(s control.Session) string {
	text := string(s.Path)
	switch {
	case s.Endpoint.IsValid():
		text += " " + s.Endpoint.String()
	case s.Relay != "":
		text += " " + cmp.Or(s.By, s.Relay)
	}
	if s.Checking {
		text += ", checking"
	}
	return text
}

func rttText(m control.Millis) string {
	if m == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f ms", float64(m)/float64(time.Millisecond))
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func dash(s string) string { return cmp.Or(s, "-") }

// bytesText writes a size in binary units, to three digits.
func bytesText(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; f >= 999.5 && i < len(units)-1; i++ {
		f /= 1024
	}
	return fmt.Sprintf("%.3g %s", f, units[i])
}

func newWhoisCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "whois ADDRESS|NAME|NODE",
		Short: "show who holds a virtual address or a name",
		Long: `whois prints the node, user, group and role behind an address or a host name of
the virtual network, or behind a node ID, as their certificate says.

EXIT STATUS
  0 somebody holds it; 1 no node is running here, or no answer came;
  4 you may not ask it; 5 nobody known holds it`,
		Example: `  overlayd whois 10.250.0.2
  overlayd whois C250000002
  overlayd whois 10.250.0.2 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := target("whois", args[0])
			if err != nil {
				return err
			}
			w, err := q.client().Find(cmd.Context(), who)
			if err != nil {
				return explain(err)
			}
			return print(cmd, &q, w, writeWhois)
		},
	}
	cmd.ValidArgsFunction = q.completePeers
	q.addFlags(cmd)
	return cmd
}

func writeWhois(w io.Writer, who control.Whois) error {
	t := newTable(w)
	t.row("address", addressText(who.Address))
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

func newWhyCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "why ADDRESS|NAME|NODE",
		Short: "explain why packets to a node go the way they go",
		Long: `why says whether the path to a node is direct, relayed or still over the ring;
what the network address translators at both ends do; what became of every
endpoint of the other node that was tried; and what would make it better.

A path is made when there is traffic: for a node to which nothing was sent
lately, "overlayd ping" makes one.

EXIT STATUS
  0 explained; 1 no node is running here, or no answer came;
  4 you may not ask it; 5 nobody known has that address or name`,
		Example: `  overlayd why 10.250.3.7
  overlayd why C250003007 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := target("why", args[0])
			if err != nil {
				return err
			}
			w, err := q.client().Why(cmd.Context(), who)
			if err != nil {
				return explain(err)
			}
			return print(cmd, &q, w, writeWhy)
		},
	}
	cmd.ValidArgsFunction = q.completePeers
	q.addFlags(cmd)
	return cmd
}

func writeWhy(w io.Writer, why control.Why) error {
	name := cmp.Or(why.Name, "node "+why.NodeID)
	if why.Address.IsValid() {
		name += " (" + why.Address.String() + ")"
	}
	if len(why.Sessions) == 0 {
		fmt.Fprintf(w, "%s: no session. Nothing was sent to it lately; \"overlayd ping %s\" makes a path.\n", name, cmp.Or(why.Name, why.NodeID))
		return nil
	}
	for i, e := range why.Sessions {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s, %s: %s.\n", name, carriesText(e.Purpose), sentence(e.Session))
		writeExplanation(w, e)
	}
	return nil
}

func carriesText(purpose string) string {
	if purpose == control.PurposeLink {
		return "the overlay's own link"
	}
	return "packets of " + purpose
}

// sentence says how records go now.
func sentence(s control.Session) string {
	var text string
	switch s.Path {
	case control.PathDirect:
		text = "direct to " + s.Endpoint.String()
	case control.PathRelay:
		text = "relayed by " + cmp.Or(s.By, "node "+s.Relay)
	case control.PathRing:
		text = "over the ring, hop by hop"
	default:
		text = "no path"
	}
	if s.RTT != 0 {
		text += ", round trip " + rttText(s.RTT)
	}
	if s.Checking {
		text += "; a direct path is being looked for"
	}
	return text
}

func writeExplanation(w io.Writer, e control.Explanation) {
	t := newTable(w)
	own := mappingText(e.OwnMapping)
	if e.Own.IsValid() {
		own = "seen by others as " + e.Own.String() + "; " + own
	}
	t.row("  this end", own)
	t.row("  other end", mappingText(e.PeerMapping))
	t.w.Flush()

	switch {
	case len(e.Pairs) == 0 && e.Path == control.PathDirect:
		fmt.Fprintln(w, "  The endpoint was known: none had to be looked for.")
	case len(e.Pairs) == 0:
		fmt.Fprintln(w, "  The other node has named no endpoint.")
	default:
		fmt.Fprintf(w, "  Endpoints of the other node, after %s of checks:\n", counted(e.Rounds, "round"))
		pairs := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		for _, p := range e.Pairs {
			fmt.Fprintf(pairs, "    %s\t%s\t%s\n", p.Endpoint, p.Kind, outcomeText(p))
		}
		pairs.Flush()
	}
	if e.Sprayed {
		fmt.Fprintln(w, "  Ports of the other end's translator were tried at random, too.")
	}
	for i, improvement := range e.Improvements {
		if i == 0 {
			fmt.Fprintln(w, "  What would make it better:")
		}
		fmt.Fprintln(w, "    - "+improvement)
	}
	if len(e.Improvements) == 0 {
		fmt.Fprintln(w, "  Nothing would make it better that this node knows of.")
	}
}

// mappingText says what a translator does, RFC 4787's term last.
func mappingText(m control.Mapping) string {
	switch m {
	case control.MappingIndependent:
		return "one port for all destinations, or no translator (endpoint-independent mapping)"
	case control.MappingDependent:
		return "its translator gives every destination another port (address-dependent mapping)"
	}
	return "nothing known of its translator yet"
}

// counted is "1 check" or "2 checks".
func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func outcomeText(p control.Pair) string {
	text := p.Outcome
	if p.Checks > 0 {
		text += ", " + counted(p.Checks, "check")
	}
	if p.RTT != 0 {
		text += ", " + rttText(p.RTT)
	}
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	return text
}

type pingOptions struct {
	question
	count          int
	interval, wait time.Duration
}

func newPingCommand() *cobra.Command {
	var o pingOptions
	cmd := &cobra.Command{
		Use:   "ping ADDRESS|NAME|NODE",
		Short: "ask a node for signs of life, and say which path they take",
		Long: `ping asks the overlayd of another node for a sign of life, again and again, and
prints the path that each answer took: the first ones over the ring or a relay,
later ones direct, where the translators in between allow it. The path stays
for what comes after. Unlike ping(8) it needs no answer from the other
machine's own network.

EXIT STATUS
  0 an answer came; 1 none came; 4 you may not ask; 5 nobody known has that
  address or name`,
		Example: `  overlayd ping C250003007
  overlayd ping 10.250.3.7 --count 1 --wait 2s`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := target("ping", args[0])
			if err != nil {
				return err
			}
			return o.run(cmd, who)
		},
	}
	cmd.ValidArgsFunction = o.completePeers
	o.addFlags(cmd)
	cmd.Flags().IntVarP(&o.count, "count", "c", 4, "how often to ask")
	cmd.Flags().DurationVarP(&o.interval, "interval", "i", time.Second, "time between two questions")
	cmd.Flags().DurationVarP(&o.wait, "wait", "W", 5*time.Second, "time for an answer")
	return cmd
}

// pinged is one question as JSON.
type pinged struct {
	Seq   int           `json:"seq"`
	Pong  *control.Pong `json:"pong"` // null: none came
	Error string        `json:"error,omitempty"`
}

func (o *pingOptions) run(cmd *cobra.Command, who control.Target) error {
	if o.count < 1 || o.interval < 0 || o.wait <= 0 {
		return diag.UsageError{Err: errors.New("ping: --count and --wait must be above 0")}
	}
	var all []pinged
	var rtts []time.Duration
	for seq := 1; seq <= o.count; seq++ {
		began := time.Now()
		pong, err := o.ask(cmd.Context(), who)
		switch {
		case err == nil:
			rtts = append(rtts, time.Duration(pong.RTT))
			all = append(all, pinged{Seq: seq, Pong: &pong})
			o.say(cmd, "answer %d of %s (%s): %s\n", seq, cmp.Or(pong.Name, pong.NodeID), dash(addressText(pong.Address)),
				sentence(control.Session{Path: pong.Path, Endpoint: pong.Endpoint, Relay: pong.Relay, By: pong.By, RTT: pong.RTT}))
		case errors.Is(err, control.ErrNoAnswer), errors.Is(err, context.DeadlineExceeded):
			all = append(all, pinged{Seq: seq, Error: control.ErrNoAnswer.Error()})
			o.say(cmd, "answer %d: none within %v\n", seq, o.wait)
		default:
			return explain(err)
		}
		if seq < o.count && !sleep(cmd.Context(), o.interval-time.Since(began)) {
			break
		}
	}
	if o.json {
		if err := print(cmd, &o.question, all, nil); err != nil {
			return err
		}
	}
	if len(rtts) == 0 {
		return fmt.Errorf("ping %s: no answer to %s: %w", who, counted(len(all), "question"), control.ErrNoAnswer)
	}
	slices.Sort(rtts)
	o.say(cmd, "%d of %d answered; round trip %s at least, %s median, %s at most\n", len(rtts), len(all),
		rttText(control.Millis(rtts[0])), rttText(control.Millis(rtts[len(rtts)/2])), rttText(control.Millis(rtts[len(rtts)-1])))
	return nil
}

func (o *pingOptions) ask(ctx context.Context, who control.Target) (control.Pong, error) {
	ctx, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	return o.client().Ping(ctx, who)
}

// say prints a line for a person.
func (o *pingOptions) say(cmd *cobra.Command, format string, args ...any) {
	if !o.json {
		fmt.Fprintf(cmd.OutOrStdout(), format, args...)
	}
}

// sleep waits for d and says whether ctx still runs.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
