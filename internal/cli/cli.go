// Package cli runs a command of the project: streams and arguments passed in,
// interrupts turned into the end of a context, errors reported once, exit
// codes as in package diag.
//
// A command's main.go is
//
//	func main() { os.Exit(cli.Main(run)) }
//
//	func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
//		return cli.Run(ctx, newRootCommand(), args, stdin, stdout, stderr)
//	}
//
// so that the whole command runs inside a test.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gridappliance/internal/diag"
)

// RunFunc is a whole command; it returns the exit status.
type RunFunc func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int

// Main calls run with the process's own surroundings. The context ends at the
// first interrupt or SIGTERM; a second one ends the process at once.
func Main(run RunFunc) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// Run executes root with args and reports its error, if any, on stderr. An
// error that comes before a verb began to run is a mistake on the command
// line (exit 2).
func Run(ctx context.Context, root *cobra.Command, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	started := trackStart(root)
	err := unknownVerb(root, args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if err != nil && !*started && diag.Of(err) == nil {
		err = diag.UsageError{Err: err}
	}
	return diag.Report(stderr, root.Name(), err)
}

// unknownVerb is the error for a word where a verb should stand. Cobra alone
// would print the help of the group it stands in, and call that success.
func unknownVerb(root *cobra.Command, args []string) error {
	c, rest, _ := root.Find(args)
	if c.Runnable() || len(rest) == 0 || strings.HasPrefix(rest[0], "-") ||
		strings.HasPrefix(rest[0], cobra.ShellCompRequestCmd) {
		return nil
	}
	var verbs []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			verbs = append(verbs, sub.Name())
		}
	}
	return fmt.Errorf("%s has no verb %q: %s", c.CommandPath(), rest[0],
		diag.DidYouMean(rest[0], verbs, "it has "+strings.Join(verbs, ", ")))
}

// trackStart wraps every verb below root; the result tells whether one began
// to run.
func trackStart(c *cobra.Command) *bool {
	started := new(bool)
	var wrap func(*cobra.Command)
	wrap = func(c *cobra.Command) {
		if runE := c.RunE; runE != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				*started = true
				return runE(c, args)
			}
		}
		for _, sub := range c.Commands() {
			wrap(sub)
		}
	}
	wrap(c)
	return started
}
