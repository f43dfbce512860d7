package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// floppyReport is what show --json writes. Keys of the floppy are not in it.
type floppyReport struct {
	Floppy     string            `json:"floppy"`
	Files      []fileReport      `json:"files"`
	Config     map[string]any    `json:"config"` // key path -> value, defaults applied
	Credential *credentialReport `json:"credential"`
	Problems   []problemReport   `json:"problems"`
}

// fileReport is one file; the content of a secret one is never shown.
type fileReport struct {
	Name   string `json:"name"`
	Bytes  int    `json:"bytes"`
	Secret bool   `json:"secret"`
}

// credentialReport is what the verified credential allows.
type credentialReport struct {
	Grid       string    `json:"grid"`
	Descriptor uint64    `json:"descriptor"` // its version
	User       string    `json:"user"`
	Group      string    `json:"group"`
	Roles      []string  `json:"roles"`
	Namespaces []string  `json:"namespaces"`
	Router     bool      `json:"router"`
	Serial     string    `json:"serial"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
}

// problemReport is diag.Problem for scripts.
type problemReport struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

func reportProblems(l diag.List) []problemReport {
	out := make([]problemReport, len(l))
	for i, p := range l {
		out[i] = problemReport{p.File, p.Line, p.Column, p.Path, p.Message, p.Remedy}
	}
	return out
}

func newFloppyShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show FLOPPY",
		Short: "show what is on a floppy, without its secrets",
		Long: `Shows a floppy's files, the configuration a machine takes from it with every
default filled in, and what its credential allows. Keys are not shown. A floppy
whose files can be read but do not hold together is shown with its problems.` + exitInvalid,
		Example: `  builder floppy show alice.img
  builder floppy show --json alice.zip | jq .credential.not_after`,
		Args: cobra.ExactArgs(1),
	}
	at := addTimeFlag(c)
	c.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		name, image, _, err := loadFloppy(args[0])
		if err != nil {
			return err
		}
		f, err := floppy.Open(name, image)
		if err != nil {
			return err
		}
		r := newFloppyReport(f, at.now())
		if asJSON {
			return writeJSON(c.OutOrStdout(), r)
		}
		return r.write(c.OutOrStdout())
	}
	return c
}

func newFloppyReport(f *floppy.Floppy, now time.Time) floppyReport {
	r := floppyReport{Floppy: f.Name, Files: []fileReport{}, Problems: reportProblems(f.Check(now))}
	for _, file := range f.Files() {
		r.Files = append(r.Files, fileReport{Name: file.Name, Bytes: len(file.Data), Secret: strings.HasSuffix(file.Name, ".KEY")})
	}
	if id, err := f.Identity(now); err == nil && id != nil {
		f.Config.ApplyHolder(id.Holder)
		r.Credential = newCredentialReport(id)
	}
	r.Config = f.Config.Values()
	return r
}

func newCredentialReport(id *credential.Identity) *credentialReport {
	h := id.Holder
	c := &credentialReport{
		Grid: h.Grid, Descriptor: id.Descriptor.Version, User: h.User, Group: h.Group, Namespaces: h.Namespaces, Router: h.Rights.Router,
		Serial: h.Serial, NotBefore: h.NotBefore.UTC(), NotAfter: h.NotAfter.UTC(),
	}
	for _, role := range h.Roles {
		c.Roles = append(c.Roles, string(role))
	}
	return c
}

// write writes the report for a person.
func (r floppyReport) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\n\nfiles\n", r.Floppy)
	for _, f := range r.Files {
		note := ""
		if f.Secret {
			note = "secret"
		}
		fmt.Fprintf(t, "  %s\t%d bytes\t%s\n", f.Name, f.Bytes, note)
	}
	fmt.Fprintf(t, "\nconfiguration\n")
	for _, k := range floppy.Keys {
		v, ok := r.Config[k.Path]
		switch {
		case !ok: // of a module
		case k.Without != "" && (v == "" || v == 0 || reflect.DeepEqual(v, []string{})):
			fmt.Fprintf(t, "  %s\t(%s)\n", k.Path, k.Without)
		default:
			text, err := json.Marshal(v)
			if err != nil {
				return err
			}
			fmt.Fprintf(t, "  %s\t%s\n", k.Path, text)
		}
	}
	for i, m := range r.Config["modules"].([]map[string]string) {
		fmt.Fprintf(t, "  modules[%d]\t%s\t%s\n", i+1, m["source"], m["sha256"])
	}
	if c := r.Credential; c != nil {
		fmt.Fprintf(t, "\ncredential\n  grid\t%s (descriptor version %d)\n  user\t%s\n  group\t%s\n  roles\t%s\n  namespaces\t%s\n", c.Grid, c.Descriptor,
			c.User, c.Group, strings.Join(c.Roles, ", "), strings.Join(c.Namespaces, ", "))
		fmt.Fprintf(t, "  router\t%v\n  serial\t%s\n  valid\t%s to %s\n", c.Router, c.Serial, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
	}
	if len(r.Problems) > 0 {
		fmt.Fprintf(t, "\n%d problems; builder floppy check shows them\n", len(r.Problems))
	}
	return t.Flush()
}

// checkReport is what check --json writes.
type checkReport struct {
	Floppy   string          `json:"floppy"`
	Good     bool            `json:"good"`
	Problems []problemReport `json:"problems"`
}

func newFloppyCheckCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check FLOPPY...",
		Short: "say everything that is wrong with floppies",
		Long: `Reads floppies as a machine does and lists every problem at once: of the disk,
of the files, of the configuration, of the credential, and where they disagree.` + exitInvalid,
		Example: `  builder floppy check alice.img
  builder floppy check --at 2027-06-01 *.img`,
		Args: cobra.MinimumNArgs(1),
	}
	at := addTimeFlag(c)
	c.Flags().BoolVar(&asJSON, "json", false, "write JSON, one object a floppy")
	c.RunE = func(c *cobra.Command, args []string) error {
		var all diag.List
		for _, path := range args {
			problems, line, err := checkFloppy(path, at.now())
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				if err := writeJSON(c.OutOrStdout(), checkReport{path, len(problems) == 0, reportProblems(problems)}); err != nil {
					return err
				}
			case len(problems) == 0:
				fmt.Fprintf(c.OutOrStdout(), "%s: good: %s\n", path, line)
			}
			all = append(all, problems...)
		}
		return all.Err()
	}
	return c
}

// checkFloppy returns the problems of one floppy, or what it is in one line.
func checkFloppy(path string, now time.Time) (diag.List, string, error) {
	name, image, _, err := loadFloppy(path)
	if err == nil {
		var f *floppy.Floppy
		if f, err = floppy.CheckImage(name, image, now); err == nil {
			return nil, describe(f, now), nil
		}
	}
	if l := diag.Of(err); l != nil {
		return l, "", nil
	}
	return nil, "", err
}
