package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gridappliance/builder/disk"
	"gridappliance/builder/ext4"
	"gridappliance/builder/format"
	"gridappliance/builder/spec"
	"gridappliance/builder/squashfs"
	"gridappliance/internal/diag"
)

func newRedactCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "redact IMAGE",
		Short: "make an image to share of one with a floppy inside",
		Long: `redact writes a copy of an image without the floppy's bytes: the partition
gridcfg is zeros. The copy is written anew, so that nothing stays in unused
parts of a qcow2; snapshots are left out. Its name is the image's without
-private, beside it. Reads and writes raw and qcow2.

An image whose machine has run is refused: its user layer holds keys. builder
module export takes what can be shared from it.`,
		Example: `  builder redact out/grid-private.qcow2
  builder redact out/grid-private.raw -o share/grid.raw`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := output
			if out == "" {
				ext := filepath.Ext(args[0])
				name, ok := strings.CutSuffix(strings.TrimSuffix(args[0], ext), "-private")
				if !ok {
					return diag.UsageError{Err: fmt.Errorf("the name of %s does not end in -private: say with -o what to write", args[0])}
				}
				out = name + ext
			}
			if same(args[0], out) {
				return diag.UsageError{Err: fmt.Errorf("%s would replace the image itself: choose another name", out)}
			}
			if err := redact(cmd, args[0], out); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), out)
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write (default: the image's name without -private)")
	cmd.MarkFlagFilename("output")
	return cmd
}

// same says whether two names are one file.
func same(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func redact(cmd *cobra.Command, from, to string) error {
	f, err := format.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	parts, err := disk.Table(f, f.Size)
	if err != nil {
		return fmt.Errorf("redact %s: %w", from, err)
	}
	cfg, ok := parts["gridcfg"]
	if !ok {
		return diag.List{{File: from, Message: "has no partition gridcfg", Remedy: "give an image that builder build made"}}
	}
	found, err := ownFiles(f, parts)
	if err != nil {
		return fmt.Errorf("redact %s: %w", from, err)
	}
	if len(found) > 0 {
		return diag.List{{File: from, Path: found[0],
			Message: fmt.Sprintf("its machine has run: the user layer holds %d files, keys among them", len(found)),
			Remedy:  "take what can be shared with builder module export --image, and build a new image"}}
	}
	ranges, err := f.Ranges()
	if err != nil {
		return fmt.Errorf("redact %s: %w", from, err)
	}
	im := disk.View(f, f.Size, ranges, []disk.Range{cfg})
	write := format.Raw
	if f.Target == spec.QCOW2 {
		write = format.QCOW2
	}
	return format.Create(to, false, func(w *os.File) error { return write(cmd.Context(), w, im) })
}

// ownFiles returns what lies in the user layer of an image: files of the
// machine's own. The builder leaves it empty.
func ownFiles(r io.ReaderAt, parts map[string]disk.Range) ([]string, error) {
	fs, err := userLayer(r, parts)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, tree := range []string{"state", "changes", "below"} {
		entries, err := fs.Tree(tree)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type() != squashfs.Dir || e.Link != "" {
				found = append(found, tree+"/"+e.Path)
			}
		}
	}
	return found, nil
}

// userLayer opens the user partition of an image.
func userLayer(r io.ReaderAt, parts map[string]disk.Range) (*ext4.FS, error) {
	p, ok := parts["griduser"]
	if !ok {
		return nil, fmt.Errorf("the image has no partition griduser")
	}
	fs, err := ext4.Open(io.NewSectionReader(r, p.Start, p.End-p.Start))
	if err == ext4.ErrUnclean {
		return nil, fmt.Errorf("griduser: %w (start the machine and shut it down)", err)
	}
	return fs, err
}
