package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/firstboot/source"
	"gridappliance/firstboot/watch"
	"gridappliance/internal/diag"
)

// statusPath is where apply and watch say how far the machine is.
const statusPath = "run/grid/status.json"

// status is what firstboot knows of the machine. watch.Report says what each
// state means.
type status struct {
	watch.Report
	Source string          `json:"source,omitempty"` // where the floppy came from
	Passed []source.Passed `json:"passed,omitempty"` // and where it did not
	Errors []string        `json:"errors,omitempty"` // every problem, one a line
	Since  time.Time       `json:"since"`
}

// write makes s the status, whole or not at all.
func (m *machine) writeStatus(s status) error {
	s.Since = time.Now().UTC().Truncate(time.Second)
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	name := m.path(statusPath)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// readStatus returns the status; the zero one when none is written.
func (m *machine) readStatus() (status, error) {
	var s status
	b, err := os.ReadFile(m.path(statusPath))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read /%s: %w", statusPath, err)
	}
	return s, nil
}

// newStatusCommand returns the verb status.
func newStatusCommand(m *machine) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "say how far this machine is, and what is wrong",
		Long: `status prints which floppy was taken, why other places were passed over, the
role, name and address, and, when something is wrong, what to do about it.

EXIT STATUS
  0 the machine is what its floppy says, or on the way to it
  1 something that should work does not
  3 the floppy is wrong
  5 there is no floppy, or firstboot has not run since the start`,
		Example: `  firstboot status
  firstboot status --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := m.readStatus()
			if err != nil {
				return err
			}
			if s.State == "" && m.own() {
				return errNoGrid
			}
			if asJSON {
				err = json.NewEncoder(c.OutOrStdout()).Encode(s)
			} else {
				err = s.writeText(c.OutOrStdout())
			}
			if err != nil {
				return err
			}
			return s.verdict()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// verdict returns the error that gives the exit status of s.
func (s status) verdict() error {
	switch s.State {
	case "":
		return fmt.Errorf("firstboot has not run since the machine started: %w", diag.ErrNothing)
	case watch.StateWaiting:
		return errNoFloppy
	case watch.StateRefused:
		return diag.List{{Message: "the floppy is refused: " + s.Detail}}
	case watch.StateFailed:
		return errors.New(s.Detail)
	}
	return nil
}

// writeText writes s for a person.
func (s status) writeText(w io.Writer) error {
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-9s %s\n", name, value)
		}
	}
	row("state", string(s.State))
	row("detail", s.Detail)
	row("floppy", s.Source)
	row("role", s.Role)
	row("grid", s.Grid)
	row("group", s.Group)
	row("name", s.Name)
	row("address", s.Address)
	for _, p := range s.Passed {
		row("passed", p.Source+": "+p.Reason)
	}
	for _, e := range s.Errors {
		row("error", e)
	}
	if !s.Since.IsZero() {
		row("since", s.Since.Format(time.RFC3339))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
