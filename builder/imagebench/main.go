// Command imagebench measures what an administrator waits for, the way they
// would see it: it runs builder and boots what it made, beside a stock Debian
// with the same services, round by round.
//
//	round 1..n:  cold base | warm build of each target | boots: ours, stock Debian, stock Debian with cloud-init
//	             └ an empty store    └ best of nothing: each counts     └ one after the other, never two at once
//
// It prints medians, each beside its target or its peer of the same run, and
// draws the picture of the documents. `make bench-image` runs it. It asserts
// nothing: the figures are a machine's, not a promise.
//
// The stock system has every advantage it can get: QEMU starts its kernel
// itself, where ours goes through firmware and GRUB, and it is done at a login
// prompt, where ours is done when HTCondor's daemons answer.
//
// Needs root, Debian's archives, and a machine that does nothing else.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"gridappliance/internal/cli"
	"gridappliance/internal/qemu"
)

func main() { os.Exit(cli.Main(run)) }

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var b bench
	cmd := &cobra.Command{
		Use:   "imagebench",
		Short: "measure bases, images and boots",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.log = cmd.ErrOrStderr()
			return b.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&b.builder, "builder", "bin/builder", "the program to measure")
	flags.StringVar(&b.floppy, "floppy", "demo/master-1.img", "floppy of the machine that boots")
	flags.StringVar(&b.mirror, "mirror", "", "root of a Debian mirror; the host's own if not given")
	flags.StringVar(&b.picture, "picture", "", "SVG file to draw")
	flags.IntVar(&b.rounds, "rounds", 3, "how often everything is done")
	flags.IntVar(&b.cold, "cold", -1, "how often a base is built into an empty store; as --rounds if negative")
	return cli.Run(ctx, cmd, args, stdin, stdout, stderr)
}

// bench is one run.
type bench struct {
	builder, floppy, mirror, picture string
	rounds, cold                     int
	log                              io.Writer

	accel qemu.Accelerator
	work  string
	table table
}

func (b *bench) run(ctx context.Context, out io.Writer) error {
	if b.cold < 0 {
		b.cold = b.rounds
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("install the stock system to compare with: %w: be root", os.ErrPermission)
	}
	var err error
	if b.accel, err = qemu.Accelerate(ctx); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "imagebench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	if b.builder, err = filepath.Abs(b.builder); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{b.zip, b.coldBase, b.warmBuilds, b.boots} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "accelerator %s, %d rounds\n\n", b.accel, b.rounds)
	if err := b.table.print(out); err != nil {
		return err
	}
	if b.picture == "" {
		return nil
	}
	return draw(b.picture, &b.table, b.accel)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.log, "imagebench: "+format+"\n", args...)
}
