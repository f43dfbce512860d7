package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
)

// question is what verbs have in common that ask the running node.
type question struct {
	socket string
	json   bool
}

func (q *question) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&q.socket, "control", control.SocketPath, "control socket")
	cmd.Flags().BoolVar(&q.json, "json", false, "print JSON")
}

func (q *question) client() *control.Client { return control.Dial(q.socket) }

// print prints an answer as JSON or by text, which is handed the writer.
func print[T any](cmd *cobra.Command, q *question, v T, text func(io.Writer, T) error) error {
	if q.json {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	return text(cmd.OutOrStdout(), v)
}

// target reads the argument that names a node.
func target(verb, text string) (control.Target, error) {
	who, err := control.ParseTarget(text)
	if err != nil {
		return who, diag.UsageError{Err: fmt.Errorf("%s %w", verb, err)}
	}
	return who, nil
}

// completePeers offers the names of the nodes with which there is a session.
func (q *question) completePeers(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	peers, _ := q.client().Peers(ctx)
	var names []cobra.Completion
	for _, p := range peers {
		if p.Name != "" {
			names = append(names, cobra.CompletionWithDesc(p.Name, p.Role+" of "+p.User))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// explain says what it means that the daemon did not answer, or not as hoped.
func explain(err error) error {
	switch {
	case errors.Is(err, control.ErrUnknown):
		return nothing{err}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (overlayd is not running)", err)
	case errors.Is(err, fs.ErrPermission) && !errors.As(err, new(control.AnswerError)):
		return fmt.Errorf("%w (be root or in the group overlayd)", err)
	}
	return err
}

// nothing is an error after which nothing to do was possible: its exit status
// says so, its text need not.
type nothing struct{ err error }

func (n nothing) Error() string   { return n.err.Error() }
func (n nothing) Unwrap() []error { return []error{n.err, diag.ErrNothing} }

// table prints rows of a name and a value; empty values are left out.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer) table { return table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)} }

func (t table) row(name, value string) {
	if value != "" {
		fmt.Fprintf(t.w, "%s\t%s\n", name, value)
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
