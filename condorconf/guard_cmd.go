package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gridappliance/condorconf/guard"
	"gridappliance/condorconf/pool"
	"gridappliance/internal/diag"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
)

const (
	admitPause = time.Second     // between two questions about one claim
	viewEvery  = 5 * time.Second // between two looks at the grid
	tellEvery  = time.Minute     // between two of which HTCondor is told
)

func newGuardCommand() *cobra.Command {
	var socket, overlay string
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "refuse jobs that are not whose they say they are",
		Long: `guard runs beside HTCondor on a machine that runs jobs, until SIGTERM or SIGINT.
It says whose a job is by the address its slot was claimed from (overlayd whois),
so that no job queue, stock or not, gets a job begun in another's name; how far
the pool's master is; and which machines are refused. It needs to be root.

EXIT STATUS
  1 when the socket cannot be opened`,
		Example: "  condorconf guard",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ln, err := guard.Listen(socket)
			if err != nil {
				return err
			}
			s := guard.Service{Overlay: control.Dial(overlay), Log: slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil)),
				Claim: func(ctx context.Context, machine, slot string) (pool.Claim, error) {
					out, err := sysrun.Output(ctx, "condor_status", pool.ClaimQuery(machine, slot)...)
					if err != nil {
						return pool.Claim{}, err
					}
					return pool.ParseClaim(out)
				}}
			daemon.SdNotify(false, daemon.SdNotifyReady)
			return s.Run(c.Context(), ln)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", guard.SocketPath, "the `socket` to answer on")
	cmd.Flags().StringVar(&overlay, "control", control.SocketPath, "overlayd's control `socket`")
	return cmd
}

// newAdmitCommand is HTCondor's USER_JOB_WRAPPER: condor_starter runs it in the
// place of each job, as the job's account, with the job's command line behind
// the name of the script that names this verb. Flags are not parsed, because
// those are the job's.
func newAdmitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "admit WRAPPER COMMAND [ARG]...",
		Short: "become a job that may start, for HTCondor",
		Long: `admit asks the guard whether the job that it is to become is whose it says it is,
and becomes it. A job that is not, it keeps from starting until startd, which the
guard tells, has it held. While nobody can say, it waits.

EXIT STATUS
  1 when the command cannot be run, else the command's`,
		Example:            "  condorconf admit /etc/condor/grid-run-job /bin/sh -c hostname",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return diag.UsageError{Err: fmt.Errorf("admit takes WRAPPER and COMMAND, not %d words", len(args))}
			}
			for {
				v, err := guard.Ask(c.Context(), guard.SocketPath)
				if err == nil && v == (guard.Verdict{}) {
					break
				}
				again := time.After(admitPause)
				if v.Refused != "" {
					again = nil // startd has the job held, and ends this
				}
				select {
				case <-c.Context().Done():
					return c.Context().Err()
				case <-again:
				}
			}
			err := fmt.Errorf("run %s: %w", args[1], unix.Exec(args[1], args[1:], os.Environ()))
			if file := os.Getenv("_CONDOR_WRAPPER_ERROR_FILE"); file != "" {
				os.WriteFile(file, []byte(err.Error()+"\n"), 0o600)
			}
			return err
		},
	}
}

// newViewCommand is what condor_startd keeps running: each part of what it
// prints, up to a line with a hyphen, is taken into the ads of the slots.
func newViewCommand() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "view",
		Short: "print what this machine sees of its grid, for HTCondor",
		Long: `view prints, for the ads of the machine's slots, how packets to the pool's master
go and how long one takes there and back: GridPath ("direct", "relay", "ring") and
GridRTTms, in GridBarred the names of machines whose certificate is refused, and in
GridRefused the slots whose job must not start; once a minute, and at once when one
of the last changes. It runs until SIGTERM or SIGINT.`,
		Example: "  condorconf view",
		Hidden:  true,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var last guard.View
			var told time.Time
			tick := time.NewTicker(viewEvery)
			defer tick.Stop()
			for {
				v, err := guard.AskView(c.Context(), socket)
				if err != nil {
					v = guard.View{Barred: last.Barred, Refused: last.Refused} // stay so
				}
				if time.Since(told) >= tellEvery || !slices.Equal(v.Barred, last.Barred) || !slices.Equal(v.Refused, last.Refused) {
					if err := printView(c.OutOrStdout(), v); err != nil {
						return err
					}
					told = time.Now()
				}
				last = v
				select {
				case <-c.Context().Done():
					return nil
				case <-tick.C:
				}
			}
		},
	}
	cmd.Flags().StringVar(&socket, "socket", guard.SocketPath, "the guard's `socket`")
	return cmd
}

// printView writes attributes of an ad. What is not known is not defined.
func printView(w io.Writer, v guard.View) error {
	path, rtt := "undefined", "undefined"
	if v.Path != "" {
		path, rtt = strconv.Quote(string(v.Path)), fmt.Sprintf("%.1f", float64(v.RTT)/float64(time.Millisecond))
	}
	_, err := fmt.Fprintf(w, "GridPath = %s\nGridRTTms = %s\nGridBarred = %q\nGridRefused = %q\n-\n", path, rtt,
		strings.Join(v.Barred, ","), strings.Join(v.Refused, ","))
	return err
}
