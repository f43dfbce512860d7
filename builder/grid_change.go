package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// gridRevoke is the flags of builder grid revoke.
type gridRevoke struct {
	serials []string
	users   []string
	reason  string
	dryRun  bool
	json    bool
}

func newGridRevokeCommand() *cobra.Command {
	var o gridRevoke
	c := &cobra.Command{
		Use:   "revoke GRID --user USER | --serial SERIAL",
		Short: "revoke credentials: sign the next revocation list",
		Long: `Adds credentials to the grid's revocation list, GRID/` + credential.RevocationsFile + `, and signs it
with the root key. --user revokes everything the person was ever given that has
not ended. The list does nothing until the grid has it: give it to any running
machine, whose overlayd passes it on.

A master's issuer of HTCondor credentials cannot be revoked, because HTCondor
reads no list; it ends after 90 days.

EXIT STATUS
  0 done, 5 all of it is revoked or has ended already`,
		Example: `  builder grid revoke archer --user alice --reason "left the group"
  builder grid revoke archer --serial 5f734a8bb624ff1c1e6108c8fc29108d --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0], time.Now()) },
	}
	f := c.Flags()
	f.StringSliceVar(&o.serials, "serial", nil, "the credential with this serial (builder grid list prints them)")
	f.StringSliceVar(&o.users, "user", nil, "everything this person has")
	f.StringVar(&o.reason, "reason", "", "why, for people; stands in the list")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "show what would be revoked, and do nothing")
	f.BoolVar(&o.json, "json", false, "print JSON")
	c.MarkFlagsOneRequired("user", "serial")
	return c
}

func (o *gridRevoke) run(c *cobra.Command, dir string, now time.Time) error {
	g, err := credential.LoadGrid(dir)
	if err != nil {
		return err
	}
	chosen, err := o.choose(g, now)
	if err != nil {
		return err
	}
	var serials []string
	for _, line := range chosen {
		serials = append(serials, line.Serial)
	}
	if len(serials) == 0 {
		return fmt.Errorf("revoke in %s: %w: all of it is revoked or has ended already", dir, diag.ErrNothing)
	}
	if !o.dryRun {
		if _, err := g.Revoke(serials, o.reason, nil, now); err != nil {
			return err
		}
		if err := g.Save(dir); err != nil {
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "wrote %s, version %d; revoked:\n", filepath.Join(dir, credential.RevocationsFile), g.Revocations.Version)
	}
	if o.json {
		return writeJSON(c.OutOrStdout(), chosen)
	}
	var b strings.Builder
	table(&b, []string{"SERIAL", "KIND", "USER", "GROUP", "ROLES", "UNTIL", "STATE"}, len(chosen), func(i int) []string { return chosen[i].columns() })
	_, err = fmt.Fprint(c.OutOrStdout(), b.String())
	return err
}

// choose returns the lines of the ledger that the flags mean and that are
// still good; a serial or person that never had anything is an error.
func (o *gridRevoke) choose(g *credential.Grid, now time.Time) ([]ledgerLine, error) {
	all := ledgerLines(g, "", now)
	for _, s := range o.serials {
		if !slices.ContainsFunc(all, func(l ledgerLine) bool { return l.Serial == s }) {
			return nil, fmt.Errorf("revoke serial %q: the grid has signed no such credential; builder grid list shows them", s)
		}
	}
	var users []string
	for _, l := range all {
		users = append(users, l.User)
	}
	for _, u := range o.users {
		if !slices.Contains(users, u) {
			return nil, fmt.Errorf("revoke user %q: the grid has signed nothing for them; %s", u, diag.DidYouMean(u, users, "builder grid list shows everybody"))
		}
	}
	var chosen []ledgerLine
	for _, l := range all {
		named := slices.Contains(o.serials, l.Serial)
		ofUser := slices.Contains(o.users, l.User) && l.Kind != credential.KindCondorIssuer
		if (named || ofUser) && (l.State == "good" || l.State == "early") {
			chosen = append(chosen, l)
		}
	}
	return chosen, nil
}

func newGridRenewCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "renew GRID [NAME...]",
		Short: "renew masters' floppies before their issuers end",
		Long: `Signs a new credential and a new issuer of HTCondor credentials for masters and
witnesses, all or those named, and writes them to their floppies in the folder.
Identity, address and configuration stay. A master's issuer lasts 90 days: renew
before that, and insert the new floppy into the running master.`,
		Example: `  builder grid renew archer
  builder grid renew archer master-2`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			report, err := renewMasters(args[0], args[1:], time.Now())
			if err != nil {
				return err
			}
			return report.print(c, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// renewMasters makes every image before it saves the ledger, and saves the
// ledger before it replaces a floppy.
func renewMasters(dir string, names []string, now time.Time) (madeReport, error) {
	report := madeReport{Folder: dir}
	g, err := credential.LoadGrid(dir)
	if err != nil {
		return report, err
	}
	report.Grid = g.Descriptor.Grid
	if len(names) == 0 {
		for _, w := range g.Descriptor.Witnesses {
			names = append(names, w.Name)
		}
	}
	var images [][]byte
	for _, name := range names {
		path := filepath.Join(dir, name+".img")
		image, err := renewedImage(g, name, path, now)
		if err != nil {
			return report, err
		}
		images = append(images, image)
		report.Floppies = append(report.Floppies, path)
	}
	if err := g.Save(dir); err != nil {
		return report, err
	}
	for i, path := range report.Floppies {
		if err := writeSecret(path, images[i]); err != nil {
			return report, err
		}
	}
	return report, nil
}

func renewedImage(g *credential.Grid, name, path string, now time.Time) ([]byte, error) {
	label, image, _, err := loadFloppy(path)
	if err != nil {
		return nil, err
	}
	files, err := floppy.ReadImage(image)
	if l := diag.Of(err); l != nil {
		return nil, inFloppy(label, l)
	}
	var nodeKey []byte
	others := []floppy.File{}
	for _, f := range files {
		switch floppy.CanonicalName(f.Name) {
		case floppy.NodeKeyFile:
			nodeKey = f.Data
		case floppy.DescriptorFile, floppy.HolderCertFile, floppy.HolderKeyFile, floppy.IssuerCertFile, floppy.IssuerKeyFile:
		default:
			others = append(others, f)
		}
	}
	m, err := g.IssueMaster(name, nodeKey, now)
	if err != nil {
		return nil, fmt.Errorf("renew %s: %w", path, err)
	}
	return masterImage(g, *m, others, now)
}
