package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func newCheckCommand() *cobra.Command {
	var f imageFlags
	cmd := &cobra.Command{
		Use:   "check [DEFINITION]",
		Short: "say what is wrong with an image definition and its floppy",
		Long: `check reads an image definition and the floppy it names, and reports every
problem with its place and a remedy. It writes nothing and needs no base.

EXIT STATUS is 3 when there is a problem.`,
		Example: `  builder check images/site.toml
  builder check --floppy alice.img`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			im, err := f.read(args, time.Now())
			if err != nil {
				return err
			}
			if f.json {
				return writeJSON(cmd.OutOrStdout(), struct {
					Valid bool `json:"valid"`
				}{true})
			}
			what := "the definition"
			if im.floppy != nil {
				what += " and the floppy " + im.def.Floppy
			}
			fmt.Fprintln(cmd.OutOrStdout(), what+": nothing wrong")
			return nil
		},
	}
	f.add(cmd)
	return cmd
}
