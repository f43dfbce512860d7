package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/builder/base"
	"gridappliance/builder/disk"
	"gridappliance/builder/format"
	"gridappliance/builder/plan"
)

func newBuildCommand() *cobra.Command {
	var f imageFlags
	var out string
	cmd := &cobra.Command{
		Use:   "build [DEFINITION]",
		Short: "make a bootable image of a base and a floppy",
		Long: `build puts a base and, if one is given, a floppy together as a disk that boots
under BIOS and UEFI. It needs no root and no loop device and takes about a
second; for equal inputs the bytes are equal.

The floppy is checked before anything is written. An image with a floppy in it
is a secret: its name ends in -private and only its owner can read it. A
floppy in the drive of the machine wins over the one in the image.

A file appears under its name only when it is whole.`,
		Example: `  builder build --floppy alice.img --target raw,qcow2 -o out/
  builder build --no-floppy images/site.toml
  builder build images/site.toml --floppy alice.img --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			im, err := f.read(args, start)
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
			report := buildReport{Base: p.BaseID, Private: p.Private}
			if report.Files, err = im.write(cmd.Context(), b, layers, p, out); err != nil {
				return err
			}
			report.Seconds = time.Since(start).Seconds()
			if f.json {
				return writeJSON(cmd.OutOrStdout(), report)
			}
			for _, file := range report.Files {
				fmt.Fprintln(cmd.OutOrStdout(), file)
			}
			if p.Private {
				fmt.Fprintf(cmd.ErrOrStderr(), "builder: the floppy %s is inside: do not share; --no-floppy makes an image to share\n", im.def.Floppy)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "builder: built in %.2f s\n", report.Seconds)
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.locked, "locked", false, "fail where the lock beside the definition is missing or for something else")
	cmd.Flags().BoolVar(&f.update, "update", false, "look for packages anew and write a new lock")
	cmd.MarkFlagsMutuallyExclusive("locked", "update")
	cmd.Flags().StringVarP(&out, "output", "o", "out", "folder for the files")
	cmd.MarkFlagDirname("output")
	return cmd
}

type buildReport struct {
	Base    string   `json:"base"`
	Private bool     `json:"private"`
	Files   []string `json:"files"`
	Seconds float64  `json:"seconds"`
}

// write composes the disk and writes it in every form of the plan into the
// folder out, which is made when it is not there. It returns the files' paths.
func (im *image) write(ctx context.Context, b *base.Base, s *stack, p *plan.Plan, out string) ([]string, error) {
	d, err := disk.Compose(p.Layout, im.contents(b, s))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := os.MkdirAll(out, 0o777); err != nil {
		return nil, fmt.Errorf("make output folder: %w", err)
	}
	var files []string
	for _, o := range p.Outputs {
		path := filepath.Join(out, o.File)
		err := format.Create(path, p.Private, func(w *os.File) error { return format.For(o.Target)(ctx, w, d) })
		if err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	return files, nil
}
