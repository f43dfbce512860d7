// Command grid tells people on a machine of the grid how things are.
//
//	/run/grid/status.json ──┐
//	overlayd (control) ─────┼──> grid status   where one is, the pool, one's jobs
//	HTCondor's tools ───────┤    grid usage    who has used the pool
//	files of the machine ───┴──> grid doctor   what is wrong, and what to do about it
//	HTCondor's condor_startd <── grid drain    takes no new jobs, or takes them again
//
// Only drain changes something. What needs a privilege the caller has not (overlayd's
// socket is closed to login users) is left out, and doctor says so.
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
	return cli.Run(ctx, newRootCommand(here()), args, stdin, stdout, stderr)
}

func newRootCommand(m *machine) *cobra.Command {
	root := &cobra.Command{
		Use:   "grid",
		Short: "how this machine of the grid is, and its pool",
		Long: `grid tells how this machine is and what its pool does. Only drain changes
something.

EXIT STATUS
  0 done, 1 something is wrong, 2 usage, 5 the machine has no floppy`,
		Example: `  grid status
  grid usage
  sudo grid doctor
  sudo grid drain --wait`,
	}
	root.AddCommand(newStatusCommand(m), newDoctorCommand(m), newUsageCommand(m), newDrainCommand(m))
	return root
}

// writeJSON writes v for scripts.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
