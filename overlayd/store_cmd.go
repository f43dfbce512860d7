package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
)

// recordArg explains how records are named, for several verbs' help.
const recordArg = `A record is named KIND/NAME: service/collector, name/c250000002, route/10.1.0.0/16,
locator/NODE; or KIND alone: masters, descriptor, revocations. It is looked for
in this node's namespace.`

func newLookupCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "lookup KEY|RECORD",
		Short: "find the member of the ring nearest to a key",
		Long: `lookup asks the overlay which of its members is nearest to a key (32 hex digits,
as a node ID has), or to where a record is kept, and prints how many hops the
answer took.

` + recordArg + `

EXIT STATUS
  0 found; 1 no answer, or no node is running; 4 you may not ask it`,
		Example: `  overlayd lookup 0123456789abcdef0123456789abcdef
  overlayd lookup service/collector --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := control.ParseKey(args[0])
			if err != nil {
				return diag.UsageError{Err: fmt.Errorf("lookup: %w", err)}
			}
			found, err := q.client().Lookup(cmd.Context(), key)
			if err != nil {
				return explain(err)
			}
			return print(cmd, &q, found, func(w io.Writer, f control.Found) error {
				t := newTable(w)
				t.row("key", f.Key.String())
				t.row("nearest node", f.NodeID)
				t.row("hops", strconv.Itoa(f.Hops))
				t.row("took", rttText(f.Took))
				return t.w.Flush()
			})
		},
	}
	q.addFlags(cmd)
	return cmd
}

func newGetCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "get RECORD",
		Short: "show the records of a name in the grid's store",
		Long: `get prints every record that nodes have put under a name: each node's own, with
its signature and its right to it verified.

` + recordArg + `

EXIT STATUS
  0 there is one at least; 1 no answer, or no node is running;
  4 you may not ask it; 5 there is none`,
		Example: `  overlayd get service/collector
  overlayd get name/c250000002 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := recordName("get", args[0])
			if err != nil {
				return err
			}
			records, err := q.client().Get(cmd.Context(), name)
			if err != nil {
				return explain(err)
			}
			if err := print(cmd, &q, records, writeRecords); err != nil {
				return err
			}
			if len(records) == 0 {
				return nothing{fmt.Errorf("get %s: there is no record", name)}
			}
			return nil
		},
	}
	q.addFlags(cmd)
	return cmd
}

func recordName(verb, text string) (control.RecordName, error) {
	name, err := control.ParseRecordName(text)
	if err != nil {
		return name, diag.UsageError{Err: fmt.Errorf("%s: %w", verb, err)}
	}
	return name, nil
}

func writeRecords(w io.Writer, records []control.Record) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i, r := range records {
		if i == 0 {
			fmt.Fprintln(t, "OWNER\tROLE\tUSER\tSIGNED\tLIFETIME\tVALUE")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d s\t%s\n", r.Owner, dash(r.Role), dash(r.User), stamp(r.Signed), r.Lifetime, valueText(r.Value))
	}
	return t.Flush()
}

// valueText is a value as it is when a terminal can show it, else quoted.
func valueText(value []byte) string {
	text := string(value)
	if utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return text
	}
	return strconv.Quote(text)
}

// Bounds of a record's lifetime, as package dht has them.
const (
	minLifetime = 10 * time.Second
	maxLifetime = time.Hour
)

func newPutCommand() *cobra.Command {
	var q question
	var lifetime time.Duration
	var withdraw bool
	cmd := &cobra.Command{
		Use:   "put RECORD VALUE",
		Short: "keep a record in the grid's store, or take it back",
		Long: `put has the running node sign a record and keep it in the store until it is taken
back with --withdraw or the node stops; "-" reads the value from standard input.
A node makes the records of its address, names and place by itself; what can be
put are services. A value "PROTOCOL PORT", such as "tcp 9618", makes the service
known to DNS too: _NAME._tcp.ipop.

EXIT STATUS
  0 so many nodes as printed have confirmed it; 1 no answer, refused, or no
  node is running; 4 you may not ask it; 5 there is nothing to take back`,
		Example: `  overlayd put service/web "tcp 80"
  overlayd put service/web --withdraw
  overlayd put service/notes - < notes.txt`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := recordName("put", args[0])
			if err != nil {
				return err
			}
			if withdraw != (len(args) == 1) {
				return diag.UsageError{Err: errors.New("put: want a value, or --withdraw and none")}
			}
			if lifetime != 0 && (lifetime < minLifetime || lifetime > maxLifetime) {
				return diag.UsageError{Err: fmt.Errorf("put: --lifetime %v: want 10s to 1h", lifetime)}
			}
			var stored control.Stored
			if withdraw {
				stored, err = q.client().Withdraw(cmd.Context(), name)
			} else {
				var value []byte
				if value, err = valueArg(cmd, args[1]); err != nil {
					return err
				}
				stored, err = q.client().Put(cmd.Context(), name, value, lifetime)
			}
			if err != nil {
				return explain(err)
			}
			return print(cmd, &q, stored, func(w io.Writer, s control.Stored) error {
				_, err := fmt.Fprintf(w, "%s: confirmed by %s\n", name, counted(s.Copies, "node"))
				return err
			})
		},
	}
	q.addFlags(cmd)
	cmd.Flags().DurationVar(&lifetime, "lifetime", 0, "how long the record lives without this node, 10s to 1h (default: its kind's)")
	cmd.Flags().BoolVar(&withdraw, "withdraw", false, "take the record back")
	return cmd
}

// maxValue bounds what is read as a value; the node refuses what is too long.
const maxValue = 64 << 10

func valueArg(cmd *cobra.Command, arg string) ([]byte, error) {
	if arg != "-" {
		return []byte(arg), nil
	}
	return io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxValue))
}

func newPublishCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "publish FILE",
		Short: "give the grid a newer descriptor or revocation list",
		Long: `publish hands a descriptor (as "builder grid renew" and "roster" write it) or a
revocation list (as "builder grid revoke" writes it) to the running node, which
verifies it and passes it on to every node of the grid. Any member's machine
will do; root's is needed on it. "-" reads standard input.

EXIT STATUS
  0 the node has taken it; 1 no node is running;
  3 it is refused: not signed by the grid's root, or older than what is known;
  4 you are not root`,
		Example: `  overlayd publish archer/revoked.pem
  overlayd publish - < GRID.DSC`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readArg(cmd, args[0])
			if err != nil {
				return err
			}
			err = q.client().Publish(cmd.Context(), text)
			if errors.Is(err, control.ErrRefused) {
				return diag.Problem{File: args[0], Message: err.Error()}
			}
			if err != nil {
				return explain(err)
			}
			return print(cmd, &q, map[string]bool{"published": true}, func(w io.Writer, _ map[string]bool) error {
				_, err := fmt.Fprintln(w, "published")
				return err
			})
		},
	}
	q.addFlags(cmd)
	return cmd
}

// maxFile bounds what is read to be published; the node refuses earlier.
const maxFile = 1 << 20

func readArg(cmd *cobra.Command, path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxFile))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func newCrawlCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "crawl",
		Short: "walk the ring and list its members",
		Long: `crawl asks one member of the ring after the other for its neighbours, from this
node clockwise until it comes round, and prints each as it comes by: whether its
neighbours agree with it, how many hops away it is and how long its answer took.
In a grid of thousands that takes minutes. With --json there is one object a
line.

EXIT STATUS
  0 it came round and all agree; 1 it did not come round, or some do not agree,
  or no node is running; 4 you may not ask it`,
		Example: `  overlayd crawl
  overlayd crawl --json | wc -l`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return crawl(cmd, &q) },
	}
	q.addFlags(cmd)
	return cmd
}

func crawl(cmd *cobra.Command, q *question) error {
	w := cmd.OutOrStdout()
	members, apart := 0, 0
	for c, err := range q.client().Crawl(cmd.Context()) {
		if err != nil {
			return explain(err)
		}
		members++
		if !c.Consistent {
			apart++
		}
		if q.json {
			line, err := json.Marshal(c)
			if err != nil {
				return err
			}
			w.Write(append(line, '\n'))
			continue
		}
		note := ""
		if !c.Consistent {
			note = "  its neighbours do not agree with it"
		}
		fmt.Fprintf(w, "%s  %2d hops  %s%s\n", c.NodeID, c.Hops, cmp.Or(rttText(c.Took), "here"), note)
	}
	if !q.json {
		fmt.Fprintln(w, counted(members, "member"))
	}
	if apart > 0 {
		return fmt.Errorf("crawl: the neighbours of %d of %d members do not agree with them (the ring may be changing: ask again in a minute)", apart, members)
	}
	return nil
}
