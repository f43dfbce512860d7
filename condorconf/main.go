// Command condorconf writes what a machine of the grid needs of HTCondor, the
// automounter and the NFS server, as its floppy and its virtual address say.
//
//	floppy ------+
//	overlayd ----+--> pool.Input --pool.New--> Machine --Files--> files --tree--> /etc
//	machine -----+                                 +--> units to start, restart, stop
//
// It starts and stops nothing itself: write prints which units whoever called
// it (grid-watch) must start, restart or stop. Files are replaced one by one,
// each in one step, and only where bytes differ; so running it again is always
// safe and usually does nothing.
//
// A master makes its own HTCondor certificate with its ISSUER, valid for 24
// hours, and a new one when less than half of that is left. Workers and clients
// have a master sign theirs, which overlayd credential asks for; without one
// condorconf says so and leaves HTCondor off.
package main

import (
	"context"
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
		Use:   "condorconf",
		Short: "write HTCondor, automounter and NFS settings of this machine's role",
		Long: `condorconf writes what a machine of the grid needs of HTCondor, the automounter
and the NFS server, from the floppy it runs on and the address overlayd has for
it. It starts nothing itself; write prints which units to start or restart.

EXIT STATUS
  0 done, 1 failed, 2 usage, 3 the floppy or the result is wrong,
  4 a privilege is missing, 5 the machine has no virtual address yet`,
		Example: `  condorconf plan
  condorconf write --json`,
	}
	root.AddCommand(newCheckCommand(), newPlanCommand(), newWriteCommand(), newRemoveCommand(), newAutomountCommand(), newGuardCommand(), newAdmitCommand(), newViewCommand())
	return root
}
