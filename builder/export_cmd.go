package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/builder/disk"
	"gridappliance/builder/ext4"
	"gridappliance/builder/format"
	"gridappliance/builder/layer"
	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/diag"
)

func newModuleExportCommand() *cobra.Command {
	var m moduleFlags
	var image, owner string
	var include []string
	var list bool
	cmd := &cobra.Command{
		Use:   "export",
		Short: "make a module of what a machine changed",
		Long: `export makes a module of this machine's changes, or of those in an image file
whose machine is off. It reads only the user layer's changes/, takes what lies
below /etc, /opt, /srv, /usr and dpkg's records, and prints every file with
whether it is taken and why not.

Never taken: accounts and passwords, keys, host name and what else makes this
machine this machine, what firstboot made from the floppy. Files that are
set-uid, or like a credential by name, mode or content, stay unless --include
names them; --include also takes a folder elsewhere, such as /var/lib/cad.
Read the list before you share the module: export knows only what secrets
usually look like.

EXIT STATUS
  0 done, 1 failed, 3 a path of --include must not leave, 4 not root`,
		Example: `  sudo builder module export --list
  sudo builder module export --name cad --include /var/lib/cad -o cad.module
  builder module export --image grid.qcow2 -o cad.module`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if m.output == "" && !list {
				return diag.UsageError{Err: fmt.Errorf("say with -o what to write, or ask for the --list")}
			}
			if owner != "" && owner != "root" {
				return diag.UsageError{Err: fmt.Errorf("--owner: only root can be named, not %q", owner)}
			}
			c, from, done, err := openChanges(image)
			if err != nil {
				return err
			}
			defer done()
			choices, err := layer.Choose(c, include)
			if err != nil {
				return err
			}
			printChoices(cmd.OutOrStdout(), choices)
			if list {
				return nil
			}
			entries := layer.Export(c, choices)
			if owner == "root" {
				for _, e := range entries {
					e.UID, e.GID = 0, 0
				}
			}
			if err := layer.Pack(m.output, m.manifest(), from, entries, c.Below, time.Unix(0, 0).UTC()); err != nil {
				return err
			}
			return showModule(cmd.OutOrStdout(), m.output, false)
		},
	}
	m.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&image, "image", "", "image of a machine that is off (default: this machine)")
	flags.StringArrayVar(&include, "include", nil, "take this path too; again for more")
	flags.StringVar(&owner, "owner", "", "root gives all files to root")
	flags.BoolVar(&list, "list", false, "only print what would be taken")
	cmd.MarkFlagFilename("image", "raw", "qcow2", "img")
	return cmd
}

// openChanges opens the changes of an image, or of this machine.
func openChanges(image string) (c *layer.Changes, from string, done func(), err error) {
	if image == "" {
		c, err = machineChanges("/run/grid", "/var/lib/grid/stamp.json")
		return c, "this machine", func() {}, err
	}
	f, err := format.Open(image)
	if err != nil {
		return nil, "", nil, err
	}
	c, err = imageChanges(f)
	if err != nil {
		f.Close()
		return nil, "", nil, fmt.Errorf("export %s: %w", image, err)
	}
	return c, image, func() { f.Close() }, nil
}

// imageChanges reads the changes of a machine that is off.
func imageChanges(f *format.File) (*layer.Changes, error) {
	parts, err := disk.Table(f, f.Size)
	if err != nil {
		return nil, err
	}
	fs, err := userLayer(f, parts)
	if err != nil {
		return nil, err
	}
	c := &layer.Changes{}
	if c.Entries, err = fs.Tree("changes"); err != nil {
		return nil, err
	}
	if c.Below, err = sharedBelow(f, parts); err != nil {
		return nil, err
	}
	c.Managed, err = stampOf(fs)
	return c, err
}

// sharedBelow returns the shared files of an image's layers: a higher layer's
// hides a lower one's.
func sharedBelow(r io.ReaderAt, parts map[string]disk.Range) (compose.Files, error) {
	names := []string{"gridbase"}
	for i := 0; parts[moduleName(i)].End > 0; i++ {
		names = append(names, moduleName(i))
	}
	out := compose.Files{}
	for _, n := range append(names, "gridglue") {
		p, ok := parts[n]
		if !ok {
			continue
		}
		im, err := squashfs.Open(io.NewSectionReader(r, p.Start, p.End-p.Start), p.End-p.Start)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		files, err := layer.SharedFiles(im)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		for path, text := range files {
			out[path] = text
		}
	}
	return out, nil
}

// stampOf returns what firstboot made on a machine that is off.
func stampOf(fs *ext4.FS) (map[string]bool, error) {
	entries, err := fs.Tree("state/var/lib/grid")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Path != "stamp.json" || e.Type() != squashfs.Regular {
			continue
		}
		r, err := e.Open()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		text, err := io.ReadAll(io.LimitReader(r, 16<<20))
		if err != nil {
			return nil, err
		}
		return stampPaths(text)
	}
	return nil, nil
}

// stampPaths returns the paths that firstboot's stamp names.
func stampPaths(text []byte) (map[string]bool, error) {
	var stamp struct {
		Entries map[string]string `json:"entries"`
	}
	if err := json.Unmarshal(text, &stamp); err != nil {
		return nil, fmt.Errorf("read firstboot's stamp: %w", err)
	}
	out := map[string]bool{}
	for p := range stamp.Entries {
		out[p] = true
	}
	return out, nil
}

// printChoices prints what is taken, then what stays.
func printChoices(w io.Writer, choices []layer.Choice) {
	sort.SliceStable(choices, func(i, j int) bool { return squashfs.Less(choices[i].Entry.Path, choices[j].Entry.Path) })
	for _, stays := range []bool{false, true} {
		for _, c := range choices {
			if (c.Reason != "") != stays || plainDir(c.Entry) {
				continue
			}
			if !stays {
				fmt.Fprintf(w, "take   %s\n", describeEntry(c.Entry))
				continue
			}
			remedy := ""
			if !c.Never {
				remedy = fmt.Sprintf(" (--include /%s takes it)", c.Entry.Path)
			}
			fmt.Fprintf(w, "leave  /%s: %s%s\n", c.Entry.Path, c.Reason, remedy)
		}
	}
}

func plainDir(e *squashfs.Entry) bool {
	return e.Link == "" && e.Type() == squashfs.Dir && e.Xattrs[squashfs.OpaqueXattr] == ""
}
