// Command overlayd is one node of a grid's virtual network.
//
//	floppy ──> overlayd run ──> tapipop        the virtual LAN, on this machine
//	              │    │
//	              │    └── UDP 4242            the underlay
//	              └── control.sock <── overlayd status, peers, why, ...; firstboot; condorconf
//	                        ^
//	                  overlayd issuer  <── TCP 4243 on tapipop ── overlayd credential
//
// The daemon is package node; the other verbs ask it over its control socket
// (package control). It runs as an ordinary user with CAP_NET_ADMIN.
//
// Exit status of every verb: 0 done, 1 failed, 2 usage, 3 the floppy is wrong,
// 4 a privilege is missing, 5 nothing to do was possible.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"gridappliance/internal/cli"
)

// version is what the status calls this program.
const version = "0.1.0"

func main() { os.Exit(cli.Main(run)) }

// run is the whole command, with the process's surroundings passed in, so that
// tests run it as a user would. It returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return cli.Run(ctx, newRootCommand(), args, stdin, stdout, stderr)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "overlayd",
		Short: "one node of a grid's virtual network",
		Long: `overlayd joins this machine to its grid's virtual network, whose device is
tapipop, as its floppy says: it finds other nodes of the grid, takes its place
on their ring, leases an address from the grid's witnesses (a master has a fixed
one), and carries packets to and from each node by the best path there is.

EXIT STATUS
  0 done, 1 failed, 2 usage, 3 the floppy is wrong,
  4 a privilege is missing (the message names it), 5 nothing to do was possible`,
		Example: `  overlayd run --floppy master-1.img
  overlayd status
  overlayd whois 10.250.0.2`,
		Args:    cobra.NoArgs,
		Version: version,
	}
	root.AddCommand(newRunCommand(), newKeygenCommand(),
		newStatusCommand(), newMetricsCommand(), newPeersCommand(), newWhyCommand(), newPingCommand(), newWhoisCommand(),
		newLookupCommand(), newGetCommand(), newPutCommand(), newPublishCommand(), newCrawlCommand(),
		newIssuerCommand(), newCredentialCommand(), newBootstrapCommand())
	return root
}
