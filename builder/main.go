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
	"io"
	"os"

	"github.com/spf13/cobra"

	"gridappliance/internal/cli"
)

func main() { os.Exit(cli.Main(run)) }

// run is the whole command, with the process's surroundings passed in, so that
// tests run it as a user would. It returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return cli.Run(ctx, newRootCommand(), args, stdin, stdout, stderr)
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
		newModuleCommand(),
		newRedactCommand(),
		newCheckCommand(),
		newPlanCommand(),
		newBuildCommand(),
		newVerifyCommand(),
		newBootCommand(),
	}
}

// writeJSON writes v as indented JSON and a final newline.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
