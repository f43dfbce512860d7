package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/builder/plan"
)

func newPlanCommand() *cobra.Command {
	f := imageFlags{planning: true}
	cmd := &cobra.Command{
		Use:   "plan [DEFINITION]",
		Short: "show what build would do, to the sector",
		Long: `plan prints the partitions of the image and the steps that make it, and does
nothing. The same definition, base and floppy give the same plan.`,
		Example: `  builder plan images/site.toml
  builder plan --floppy alice.img --target raw,qcow2 --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			im, err := f.read(args, time.Now())
			if err != nil {
				return err
			}
			progress := newProgress(cmd.ErrOrStderr(), f.json)
			b, err := f.openBase(cmd.Context(), im.def, progress)
			if err != nil {
				return err
			}
			layers, err := f.openStack(cmd.Context(), im, b, progress)
			if err != nil {
				return err
			}
			defer layers.Close()
			p, err := im.plan(b, layers)
			if err != nil {
				return err
			}
			if f.json {
				return writeJSON(cmd.OutOrStdout(), planJSON(p))
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), p)
			return err
		},
	}
	f.add(cmd)
	return cmd
}

type partitionReport struct {
	Name     string `json:"name"`
	FirstLBA uint64 `json:"first-lba"`
	LastLBA  uint64 `json:"last-lba"`
	GUID     string `json:"guid"`
}

type planReport struct {
	Base       string            `json:"base"`
	Private    bool              `json:"private"`
	DiskBytes  int64             `json:"disk-bytes"`
	DiskGUID   string            `json:"disk-guid"`
	Partitions []partitionReport `json:"partitions"`
	Files      []string          `json:"files"`
	Steps      []string          `json:"steps"`
}

func planJSON(p *plan.Plan) planReport {
	r := planReport{Base: p.BaseID, Private: p.Private, DiskBytes: p.Layout.Size, DiskGUID: p.Layout.GUID.String(), Steps: p.Steps()}
	for _, part := range p.Layout.Partitions {
		r.Partitions = append(r.Partitions, partitionReport{part.Name, part.First, part.Last, part.GUID.String()})
	}
	for _, o := range p.Outputs {
		r.Files = append(r.Files, o.Paths()...)
	}
	return r
}
