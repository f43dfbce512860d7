package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/overlayd/control"
)

// Verdict is how a check ended.
type Verdict string

// The verdicts.
const (
	Good    Verdict = "ok"
	Wrong   Verdict = "wrong"
	Notice  Verdict = "notice"  // a person must know of it; it stops nothing here
	Unknown Verdict = "unknown" // it could not be looked at
)

// Finding is what a check has found.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Remedy  string  `json:"remedy,omitempty"`
}

func newDoctorCommand(m *machine) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "look for what is wrong, and say what to do about it",
		Long: `doctor looks at everything this machine needs for its place in the grid, in the
order in which one thing rests on the other, and says for each that is wrong
what to do. It changes nothing. Some of it only root may look at.

EXIT STATUS
  0 nothing is wrong, 1 something is, 5 the machine has no floppy`,
		Example: "  sudo grid doctor\n  sudo grid doctor --json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := m.report()
			if err != nil {
				return err
			}
			found := m.examine(c.Context(), r)
			if asJSON {
				err = writeJSON(c.OutOrStdout(), found)
			} else {
				err = writeFindings(c.OutOrStdout(), found)
			}
			if err != nil {
				return err
			}
			return verdict(found)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// verdict returns the error that gives the exit status.
func verdict(found []Finding) error {
	var wrong []string
	for _, f := range found {
		if f.Verdict == Wrong {
			wrong = append(wrong, f.Check)
		}
	}
	if wrong == nil {
		return nil
	}
	return fmt.Errorf("wrong: %s", strings.Join(wrong, ", "))
}

func writeFindings(w io.Writer, found []Finding) error {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%-8s %-11s %s\n", f.Verdict, f.Check, f.Detail)
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%21s-> %s\n", "", f.Remedy)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// examine makes every check that has a meaning for the machine. Where overlayd
// does not answer, what rests on it is left out.
func (m *machine) examine(ctx context.Context, r report) []Finding {
	found := []Finding{m.floppy(r), m.clock(ctx), m.disk()}
	if r.State == "refused" || r.State == "waiting" {
		return found
	}
	if r.Role != "standalone" {
		asking, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		s, err := m.overlay.Status(asking)
		found = append(found, overlay(s, err))
		if len(s.Alarms) > 0 {
			found = append(found, Finding{"alarms", Notice, strings.Join(s.Alarms, "; "), "tell the grid's founder, unless they expect it"})
		}
		if err == nil && s.Address.IsValid() {
			found = append(found, m.masters(ctx, s), m.names(ctx, s))
		}
		found = append(found, m.certificate())
	}
	return append(found, m.condor(ctx), m.inPool(ctx, r))
}

func (m *machine) floppy(r report) Finding {
	f := Finding{Check: "floppy", Verdict: Good, Detail: strings.TrimSpace(r.Role + " by the floppy of " + r.Source)}
	switch r.State {
	case "refused":
		f.Verdict, f.Detail = Wrong, strings.Join(append([]string{r.Detail}, r.Errors...), "; ")
		f.Remedy = "correct it (builder floppy check names each mistake) and put it in again"
	case "waiting":
		f.Verdict, f.Detail, f.Remedy = Wrong, "none was found", "attach one: it is picked up within seconds"
	}
	return f
}

// clock looks for a clock that certificates would end by: set below the time
// of the image, or never compared with others'.
func (m *machine) clock(ctx context.Context) Finding {
	f := Finding{Check: "clock", Verdict: Good, Detail: m.now().UTC().Format(time.RFC3339)}
	if text, err := m.read("usr/lib/grid/build-time"); err == nil {
		if built, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text))); err == nil && m.now().Before(built) {
			f.Verdict, f.Remedy = Wrong, "set the host's clock, then: sudo systemctl restart chrony"
			f.Detail += " is before this image was built, " + built.Format(time.RFC3339)
			return f
		}
	}
	if out, err := m.tool(ctx, "timedatectl", "show", "--property=NTPSynchronized", "--value"); err == nil && out == "no" {
		f.Verdict, f.Detail = Unknown, f.Detail+", and no time server has confirmed it"
	}
	return f
}

// lowDisk is the share of a disk below which jobs and logs fail soon.
const lowDisk = 0.02

func (m *machine) disk() Finding {
	free, all, err := m.free(m.root)
	if err != nil {
		return Finding{"disk", Unknown, err.Error(), ""}
	}
	f := Finding{Check: "disk", Verdict: Good, Detail: fmt.Sprintf("%d MiB free of %d", free>>20, all>>20)}
	if float64(free) < lowDisk*float64(all) {
		f.Verdict, f.Remedy = Wrong, "delete files, or make the disk larger: it grows at the next start"
	}
	return f
}

func overlay(s control.Status, err error) Finding {
	f := Finding{Check: "overlay", Verdict: Good}
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.Verdict, f.Detail = Unknown, "only root may ask overlayd: sudo grid doctor"
	case err != nil:
		f.Verdict, f.Detail, f.Remedy = Wrong, err.Error(), "journalctl -u overlayd says why it does not run"
	case s.State != control.StateRunning || !s.Address.IsValid():
		f.Verdict, f.Detail = Wrong, strings.TrimSpace("no virtual address: "+string(s.State)+" "+s.Reason)
		f.Remedy = "is UDP let out of this network? overlayd why and overlayd peers say more"
	default:
		f.Detail = fmt.Sprintf("%s on %s, ring of about %d", s.Address, s.Device, s.Ring.Size)
		if s.Reason != "" {
			f.Verdict, f.Detail, f.Remedy = Wrong, s.Reason, "overlayd status and overlayd peers say more"
		}
	}
	return f
}

// pingTime is how long a master may take to answer.
const pingTime = 3 * time.Second

func (m *machine) masters(ctx context.Context, s control.Status) Finding {
	var answers, silent []string
	for _, master := range s.Masters {
		if master.Address == s.Address.Addr() {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, pingTime)
		p, err := m.overlay.Ping(asking, control.Target{Address: master.Address})
		cancel()
		if err != nil {
			silent = append(silent, master.Name)
			continue
		}
		answers = append(answers, fmt.Sprintf("%s in %s, %s", master.Name, p.RTT, p.Path))
	}
	f := Finding{Check: "masters", Verdict: Good, Detail: strings.Join(answers, "; ")}
	if silent != nil {
		f.Detail = strings.Join(append(answers, strings.Join(silent, ", ")+" silent"), "; ")
	}
	switch {
	case answers == nil && silent == nil:
		f.Detail = "this is the only one"
	case answers == nil:
		f.Verdict, f.Remedy = Wrong, "is the master's machine on? overlayd why "+silent[0]+" says what was tried"
	}
	return f
}

func (m *machine) names(ctx context.Context, s control.Status) Finding {
	f := Finding{Check: "names", Verdict: Good, Detail: "the masters' names resolve"}
	for _, master := range s.Masters {
		asking, cancel := context.WithTimeout(ctx, pingTime)
		addrs, err := m.resolve(asking, master.Name)
		cancel()
		if err != nil || !slices.Contains(addrs, master.Address.String()) {
			f.Verdict, f.Remedy = Wrong, "firstboot writes them into /etc/hosts: systemctl restart grid-watch"
			f.Detail = fmt.Sprintf("%s resolves to %v, not %s", master.Name, addrs, master.Address)
			if err != nil {
				f.Detail = err.Error()
			}
		}
	}
	return f
}

func (m *machine) certificate() Finding {
	f := Finding{Check: "certificate", Verdict: Good}
	text, err := m.read("etc/condor/grid/node.crt")
	block, _ := pem.Decode(text)
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.Verdict, f.Detail = Unknown, "only root may see it: sudo grid doctor"
		return f
	case errors.Is(err, fs.ErrNotExist):
		f.Verdict, f.Detail = Wrong, "a master has given this machine none yet"
		f.Remedy = "sudo condorconf write asks once more, and says why not"
		return f
	case err != nil || block == nil:
		f.Verdict, f.Detail = Unknown, fmt.Sprintf("/etc/condor/grid/node.crt cannot be read: %v", err)
		return f
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		f.Verdict, f.Detail, f.Remedy = Wrong, err.Error(), "sudo condorconf write replaces it"
		return f
	}
	f.Detail = fmt.Sprintf("of %s, until %s", c.Subject.CommonName, c.NotAfter.UTC().Format(time.RFC3339))
	if m.now().After(c.NotAfter) || m.now().Before(c.NotBefore) {
		f.Verdict, f.Remedy = Wrong, "is the clock right? sudo condorconf write asks a master for a new one, and says why not"
	}
	return f
}

func (m *machine) condor(ctx context.Context) Finding {
	f := Finding{Check: "htcondor", Verdict: Good, Detail: "every daemon is up"}
	out, err := m.tool(ctx, "condor_who", "-quick")
	switch {
	case err != nil:
		f.Verdict, f.Detail, f.Remedy = Wrong, err.Error(), "systemctl status condor grid-watch; grid-watch starts it when all before is right"
	case !strings.Contains(out, "IsReady = true"):
		f.Verdict, f.Detail, f.Remedy = Wrong, "still starting", "condor_who -quick says which daemon is not up; its log is under /var/log/condor"
	}
	return f
}

func (m *machine) inPool(ctx context.Context, r report) Finding {
	f := Finding{Check: "pool", Verdict: Good}
	machines, err := m.lines(ctx, "condor_status", "-any", "-constraint", fmt.Sprintf("Machine =?= %q", r.Name), "-autoformat", "MyType")
	if r.Role == "standalone" {
		machines, err = m.lines(ctx, "condor_status", "-any", "-autoformat", "MyType")
	}
	switch {
	case err != nil:
		f.Verdict, f.Detail, f.Remedy = Wrong, err.Error(), "the collector is the master's: is it on, and does it answer above?"
	case len(machines) == 0:
		f.Verdict, f.Detail = Wrong, "the pool does not know "+r.Name
		f.Remedy = "grep -i -e denied -e failed /var/log/condor/*Log here, and CollectorLog on the master"
	default:
		var kinds []string
		for _, words := range machines {
			if !slices.Contains(kinds, words[0]) {
				kinds = append(kinds, words[0])
			}
		}
		f.Detail = "has this machine's " + strings.Join(kinds, ", ")
	}
	return f
}
