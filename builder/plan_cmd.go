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
		Long: `plan prints what goes into the image and where it is now (in the store, or
what a build would do to have it), the partitions, the steps, and the files
with their sizes; sizes that depend on what is made say "about". It makes
nothing; a base or module that has to be fetched from a server comes into the
store. The same definition, base, floppy and store give the same plan.`,
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

type takesReport struct {
	Name     string `json:"name"`
	What     string `json:"what"`
	Bytes    int64  `json:"bytes"`
	Estimate bool   `json:"estimate"`
	Where    string `json:"where"`
}

type writesReport struct {
	File        string `json:"file"`
	Bytes       int64  `json:"bytes"` // holes counted
	Estimate    bool   `json:"estimate"`
	StoredBytes int64  `json:"stored-bytes"` // an estimate where it is less
}

type planReport struct {
	Base       string            `json:"base"`
	Private    bool              `json:"private"`
	DiskBytes  int64             `json:"disk-bytes"`
	DiskGUID   string            `json:"disk-guid"`
	Partitions []partitionReport `json:"partitions"`
	Takes      []takesReport     `json:"takes"`
	Files      []string          `json:"files"`
	Writes     []writesReport    `json:"writes"`
	Steps      []string          `json:"steps"`
}

func planJSON(p *plan.Plan) planReport {
	r := planReport{Base: p.BaseID, Private: p.Private, DiskBytes: p.Layout.Size, DiskGUID: p.Layout.GUID.String(), Steps: p.Steps()}
	for _, part := range p.Layout.Partitions {
		r.Partitions = append(r.Partitions, partitionReport{part.Name, part.First, part.Last, part.GUID.String()})
	}
	for _, i := range p.Ingredients {
		r.Takes = append(r.Takes, takesReport{i.Name, i.What, i.Size, i.Guess, i.Where})
	}
	for _, o := range p.Outputs {
		r.Files = append(r.Files, o.Paths()...)
		for _, f := range p.Written(o) {
			r.Writes = append(r.Writes, writesReport{f.Path, f.Size, f.About, f.Held})
		}
	}
	return r
}
