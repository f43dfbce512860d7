// Command firstboot makes this machine what its floppy says, at boot and when
// the floppy changes.
//
//	source ──> floppy ──> plan ──> apply ──> stamp        firstboot apply --boot
//	                                           │           (grid-firstboot.service)
//	                 overlayd's address ──> watch ──> host name, HTCondor, READY
//	                 floppy put in later ──>  │            firstboot watch
//	                                                       (grid-watch.service)
//
// On somebody's own machine (own.go) join does all of it when its owner says
// so, and leave takes it back.
//
// The packages below decide (plan, watch: pure) or do one thing (source finds,
// apply writes); this one connects them to the machine: clock, consoles,
// systemd, overlayd's control socket, condorconf.
//
// Invariants: a floppy is accepted only after every check, and only then is a
// file touched; when something is wrong one line a person can act on stands on
// every console and in firstboot status, and login stays possible; the clock
// is never below the image's build time or the newest signed object seen.
//
// Exit status of every verb: 0 done, 1 failed, 2 usage, 3 the floppy is wrong,
// 4 a privilege is missing, 5 there is no floppy.
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
		Use:   "firstboot",
		Short: "make this machine what its floppy says",
		Long: `firstboot looks for a floppy in a fixed order (the floppy drive; a disk or CD
labelled GRIDCONF; the credential grid.cfg by SMBIOS, fw_cfg or VMware
guestinfo; the image's own gridcfg partition; the floppy accepted before),
checks all of it, and makes the machine what it says: files, accounts, packet
filter, services of the role. Doing it twice changes nothing.

EXIT STATUS
  0 done, 1 failed, 2 usage, 3 the floppy is wrong, 4 a privilege is missing,
  5 there is no floppy`,
		Example: `  firstboot status
  firstboot check --floppy alice.img
  firstboot plan
  sudo firstboot join --floppy alice.img     # a machine of one's own`,
	}
	var m machine
	root.PersistentFlags().StringVar(&m.root, "root", "/", "the tree to work on; anything but / is only files: no clock, no services")
	root.AddCommand(newCheckCommand(&m), newPlanCommand(&m), newApplyCommand(&m), newStatusCommand(&m), newWatchCommand(&m), newLocalDiskCommand(),
		newJoinCommand(&m), newLeaveCommand(&m))
	return root
}
