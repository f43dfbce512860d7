package main

import (
	"cmp"
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

	"gridappliance/condorconf/guard"
	"gridappliance/condorconf/pool"
	"gridappliance/overlayd/control"
)

const (
	guardPatience = 20 * time.Second       // a guard that is being restarted is back by then
	guardPause    = 500 * time.Millisecond // between two tries
	maxAd         = 1 << 20                // bytes of a job's ad
	viewEvery     = 5 * time.Second        // between two looks at the grid
	tellEvery     = time.Minute            // between two of which HTCondor is told
)

// Codes that a hook gives its answer in (HTCondor manual, "Hooks for the Job
// Router and condor_starter"): below 300 the job is held, from there on it
// waits for another slot.
const (
	holdJob  = 1
	laterJob = 300
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
			s := guard.Service{Overlay: control.Dial(overlay), Log: slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))}
			daemon.SdNotify(false, daemon.SdNotifyReady)
			return s.Run(c.Context(), ln)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", guard.SocketPath, "the `socket` to answer on")
	cmd.Flags().StringVar(&overlay, "control", control.SocketPath, "overlayd's control `socket`")
	return cmd
}

// newPrepareCommand is the hook that condor_starter runs as the job's account
// before the job's files travel: the job's ad on its standard input, the slot's
// in a file that the environment names.
func newPrepareCommand() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "say whether a job may start, for HTCondor",
		Long: `prepare asks the guard whether the job whose ad is on standard input is whose it
says it is. HTCondor runs it before a job starts. What it prints holds the job,
or has it wait for another slot when nobody can say now.`,
		Example: "  condorconf prepare < job.ad",
		Hidden:  true,
		Args:    cobra.MaximumNArgs(1), // the script that names this verb
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := ask(c.Context(), socket, c.InOrStdin())
			if err != nil {
				v.Unknown = err.Error()
			}
			return v.print(c.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&socket, "socket", guard.SocketPath, "the guard's `socket`")
	return cmd
}

// verdict is the guard's, as the hook prints it.
type verdict struct{ guard.Verdict }

// print writes the attributes that HTCondor reads of a hook, none for a job
// that may start.
func (v verdict) print(w io.Writer) error {
	code, text := holdJob, v.Refused
	if text == "" {
		code, text = laterJob, v.Unknown
	}
	if text == "" {
		return nil
	}
	_, err := fmt.Fprintf(w, "HookStatusCode = %d\nHookStatusMessage = %q\n", code, "refused here: "+text)
	return err
}

func ask(ctx context.Context, socket string, jobAd io.Reader) (v verdict, err error) {
	job, err := io.ReadAll(io.LimitReader(jobAd, maxAd))
	if err != nil {
		return v, err
	}
	slot, err := os.ReadFile(cmp.Or(os.Getenv("_CONDOR_MACHINE_AD"), ".machine.ad"))
	if err != nil {
		return v, err
	}
	claim, err := pool.ParseClaim(string(job), string(slot))
	if err != nil {
		return verdict{guard.Verdict{Refused: "its ads do not say whose it is: " + err.Error()}}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, guardPatience)
	defer cancel()
	for {
		if v.Verdict, err = guard.Ask(ctx, socket, claim); err == nil && v.Unknown == "" {
			return v, nil
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(guardPause):
		}
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
GridRTTms, and in GridBarred the names of machines whose certificate is refused;
once a minute, and at once when the last changes. It runs until SIGTERM or SIGINT.`,
		Example: "  condorconf view",
		Hidden:  true,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var last guard.View
			var told time.Time
			for tick := time.NewTicker(viewEvery); ; {
				v, err := guard.AskView(c.Context(), socket)
				if err != nil {
					v = guard.View{Barred: last.Barred} // who is refused stays so
				}
				if time.Since(told) >= tellEvery || !slices.Equal(v.Barred, last.Barred) {
					if err := printView(c.OutOrStdout(), v); err != nil {
						return err
					}
					told = time.Now()
				}
				last = v
				select {
				case <-c.Context().Done():
					tick.Stop()
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
	_, err := fmt.Fprintf(w, "GridPath = %s\nGridRTTms = %s\nGridBarred = %q\n-\n", path, rtt, strings.Join(v.Barred, ","))
	return err
}
