package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/builder/base"
	"gridappliance/builder/deliver"
	"gridappliance/builder/disk"
	"gridappliance/builder/plan"
	"gridappliance/builder/progress"
	"gridappliance/builder/spec"
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

TARGETS are written side by side, --name standing for grid:

  raw         grid.raw            the disk byte for byte, sparse
  qcow2       grid.qcow2          for QEMU
  kvm         grid-kvm/           .qcow2, libvirt's XML, a network's
  vmware      grid-vmware/        .vmx, .vmdk: Workstation, Player, Fusion
  virtualbox  grid-virtualbox/    .vbox, .vdi
  ova         grid.ova            to import: VirtualBox, VMware, ESXi, vCenter
  xen         grid-xen/           .raw, kernel, initrd, xl's files for PVH and HVM

Each folder has a README.txt, the OVA a grid.ova.txt: how to start the machine,
what was tried and what never was. With a floppy the folders hold it too, in
the machine's drive. A folder in which a machine has run is not replaced.

The floppy is checked before anything is written. An image with a floppy in it
is a secret: its name ends in -private (grid-private.qcow2,
grid-vmware-private/) and only its owner can read it. A floppy in the drive of
the machine wins over the one in the image.

A file or folder appears under its name only when it is whole.`,
		Example: `  builder build --floppy alice.img --target raw,qcow2 -o out/
  builder build --no-floppy --target vmware,virtualbox,ova -o out/
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
			w := imageWriter{flags: &f, image: im, base: b, stack: layers, plan: p, out: out, progress: progress}
			if err := w.write(cmd.Context(), &report); err != nil {
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
	Base    string         `json:"base"`
	Private bool           `json:"private"`
	Files   []string       `json:"files"`
	Targets []targetReport `json:"targets"`
	Seconds float64        `json:"seconds"`

	Manifest string `json:"manifest"` // path: what went in, and what every part must be
	SPDX     string `json:"spdx"`     // path: the same as an SPDX 2.3 document
}

type targetReport struct {
	Target  spec.Target `json:"target"`
	Bytes   int64       `json:"bytes"` // of its files, holes counted
	Seconds float64     `json:"seconds"`
}

// imageWriter writes an image into the folder out.
type imageWriter struct {
	flags    *imageFlags
	image    *image
	base     *base.Base
	stack    *stack
	plan     *plan.Plan
	out      string
	progress *progress.Reporter
}

// write composes the disk and writes it for every target of the plan into the
// folder out, which is made when it is not there, and what went in beside it.
func (w *imageWriter) write(ctx context.Context, report *buildReport) error {
	im, p, out := w.image, w.plan, w.out
	contents := im.contents(w.base, w.stack)
	d, err := disk.Compose(p.Layout, contents)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := os.MkdirAll(out, 0o777); err != nil {
		return fmt.Errorf("make output folder: %w", err)
	}
	image := deliver.Image{Plan: p, Disk: d, Floppy: im.floppy, Kernel: contents.Kernel, Initrd: contents.Initrd, Time: w.base.Manifest.Time}
	var names []string
	for _, o := range p.Outputs {
		start := time.Now()
		if err := w.step(string(o.Target), func(*progress.Step) error { return image.Write(ctx, out, o) }); err != nil {
			return err
		}
		names = append(names, o.Paths()...)
		t := targetReport{Target: o.Target, Seconds: time.Since(start).Seconds()}
		for _, name := range o.Paths() {
			path := filepath.Join(out, filepath.FromSlash(name))
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			t.Bytes += info.Size()
			report.Files = append(report.Files, path)
		}
		report.Targets = append(report.Targets, t)
	}
	return w.step("manifest", func(*progress.Step) error {
		report.Manifest, report.SPDX, err = w.describe(d, names)
		return err
	})
}

// step runs a step that is shown where it takes longer than a moment.
func (w *imageWriter) step(name string, f func(*progress.Step) error) error {
	s := w.progress.StartLate(name)
	return s.End(f(s))
}
