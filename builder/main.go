// Command builder makes what a grid is started from: grids, floppies, the base
// system, bootable images; and boots them to show that they work.
//
//	definition + base + floppy --plan--> steps and layout --disk--> extents --format--> raw, qcow2
//
// Everything it writes is a function of its inputs: no host state, no root, no
// loop device, no clock. Each group of verbs has a file of its own here; the
// work is done by the packages below.
//
// Exit status of every verb: 0 done, 1 failed, 2 usage, 3 a floppy, definition
// or configuration is wrong, 4 a privilege is missing, 5 nothing to do was
// possible.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"gridappliance/internal/diag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command, with the process's surroundings passed in, so that
// tests run it as a user would. It returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	started := trackStart(root)
	err := root.ExecuteContext(ctx)
	if err != nil && !*started && diag.Of(err) == nil {
		err = diag.UsageError{Err: err} // cobra refused the command line
	}
	return diag.Report(stderr, "builder", err)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "builder",
		Short: "make grids, floppies and bootable images",
		Long: `builder makes what a grid is started from: the grid's keys, the floppies that
say what a machine is, the base system, and images that any hypervisor boots.

EXIT STATUS
  0 done, 1 failed, 2 usage, 3 a floppy, definition or configuration is wrong,
  4 a privilege is missing (the message names it), 5 nothing to do was possible`,
		Example: `  builder grid new archer
  builder floppy new --grid archer --role worker --group physics --user alice -o alice.img
  builder build --floppy alice.img --target qcow2 -o out/
  builder boot out/grid-private.qcow2 --until READY`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(commands()...)
	return root
}

// commands returns the verbs in the order in which a newcomer needs them; each
// constructor is in the file named after its verb.
func commands() []*cobra.Command {
	return []*cobra.Command{
		newGridCommand(),
		newFloppyCommand(),
		newBaseCommand(),
		newCheckCommand(),
		newPlanCommand(),
		newBuildCommand(),
		newBootCommand(),
	}
}

// trackStart wraps every verb below root so that the result tells whether one
// began to run: what fails before that is a mistake on the command line. So is
// a word after a group of verbs that is none of them.
func trackStart(root *cobra.Command) *bool {
	started := new(bool)
	var wrap func(*cobra.Command)
	wrap = func(c *cobra.Command) {
		if c.HasSubCommands() && !c.Runnable() {
			c.Args, c.RunE = cobra.ArbitraryArgs, runGroup
		} else if runE := c.RunE; runE != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				*started = true
				return runE(c, args)
			}
		}
		for _, sub := range c.Commands() {
			wrap(sub)
		}
	}
	wrap(root)
	return started
}

// runGroup is what a group of verbs does without one: it shows its help.
func runGroup(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	var names []string
	for _, sub := range c.Commands() {
		names = append(names, sub.Name())
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
	if near := diag.Suggest(args[0], names); near != "" {
		err = fmt.Errorf("%w, did you mean %q?", err, near)
	}
	return err
}

// writeJSON writes v as indented JSON and a final newline.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
