package main

import (
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/builder/base"
	"gridappliance/builder/layer"
	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/diag"
)

func newModuleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "module",
		Short: "pack, show and export modules",
		Long: `A module is a site's software as one file, a layer that is stacked on any base.
It is named by its address and its SHA-256 in an image definition, by --module,
or in a floppy's [[modules]]; the SHA-256 is all the trust there is in it.`,
		Example: `  builder module pack tree/ --name cad --version 2.1 -o cad.module
  builder build --module "cad.module?checksum=sha256:$(sha256sum < cad.module | cut -c1-64)"`,
	}
	cmd.AddCommand(newModulePackCommand(), newModuleShowCommand(), newModuleExportCommand())
	return cmd
}

// moduleFlags are what pack and export say of a module.
type moduleFlags struct {
	name, version, output string
	needs                 []string
}

func (f *moduleFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", "", "file of the module")
	flags.StringVar(&f.name, "name", "", "name of the module (default: the file's, without its ending)")
	flags.StringVar(&f.version, "version", "1", "version of the module")
	flags.StringSliceVar(&f.needs, "needs", nil, "modules that must lie below it")
	cmd.MarkFlagFilename("output", "module")
}

func (f *moduleFlags) manifest() layer.Manifest {
	name := f.name
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(f.output), filepath.Ext(f.output))
	}
	return layer.Manifest{Name: name, Version: f.version, Needs: f.needs}
}

func newModulePackCommand() *cobra.Command {
	var m moduleFlags
	var baseName, store, owner string
	var created int64
	cmd := &cobra.Command{
		Use:   "pack FOLDER|TAR",
		Short: "make a module of a folder or a tar",
		Long: `pack makes a module of a tree: what make install DESTDIR= wrote, a tar, or the
upper directory of an overlayfs in which packages were installed. A tar may be
packed by gzip, xz or zstd.

Of files that all layers share, such as dpkg's status and /etc/passwd, the
module keeps what they have more than the base's: records of packages, system
accounts without passwords. Owners are kept by name, and get the number that
the name has where the module is used.

Refused: device nodes, sockets, paths and links that climb out. Left out:
caches, logs, locks, what every machine makes anew. Equal trees give equal
bytes.`,
		Example: `  builder module pack tree/ --name cad --version 2.1 --owner root -o cad.module
  builder module pack cad.tar.zst --needs libs -o cad.module`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := layer.OpenSource(args[0])
			if err != nil {
				return err
			}
			defer src.Close()
			if owner == "root" {
				for _, e := range src.Entries {
					e.UID, e.GID = 0, 0
				}
			} else if owner != "" {
				return diag.UsageError{Err: fmt.Errorf("--owner: only root can be named, not %q", owner)}
			}
			below, err := baseFiles(store, baseName)
			if err != nil {
				return err
			}
			if err := layer.Pack(m.output, m.manifest(), args[0], src.Entries, below, time.Unix(created, 0).UTC()); err != nil {
				return err
			}
			return showModule(cmd.OutOrStdout(), m.output, false)
		},
	}
	m.add(cmd)
	cmd.MarkFlagRequired("output")
	flags := cmd.Flags()
	flags.StringVar(&baseName, "base", "", "id or folder of the base that the tree was made on (default: the newest in the store)")
	flags.StringVar(&owner, "owner", "", "root gives all files to root")
	flags.Int64Var(&created, "time", 0, "time of what has none, in seconds since 1970")
	flags.StringVar(&store, "store", "", "folder of the store (default: grid-appliance in the user's cache)")
	cmd.MarkFlagDirname("base")
	cmd.MarkFlagDirname("store")
	return cmd
}

// baseFiles returns the shared files of a base; none when the store has no
// base and none is named.
func baseFiles(store, name string) (compose.Files, error) {
	var b *base.Base
	s, err := base.OpenStore(store)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(name, "/\\") || name == "." {
		b, err = base.Open(name)
	} else if b, err = base.Find(s, name); err != nil && name == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	im, f, err := openSquashfs(b.Path(base.Squashfs))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return layer.SharedFiles(im)
}

func newModuleShowCommand() *cobra.Command {
	var asJSON, list bool
	cmd := &cobra.Command{
		Use:   "show MODULE",
		Short: "say what is in a module",
		Long: `show checks a module and prints its name, version, SHA-256, the modules it
needs, the Debian packages and system accounts it brings, and what in it runs
with other rights than the caller's.`,
		Example: `  builder module show cad.module
  builder module show cad.module --files`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := layer.Open(args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), moduleJSON(m))
			}
			return printModule(cmd.OutOrStdout(), m, list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the result as JSON")
	cmd.Flags().BoolVar(&list, "files", false, "list every file")
	return cmd
}

func showModule(w io.Writer, name string, list bool) error {
	m, err := layer.Open(name)
	if err != nil {
		return err
	}
	defer m.Close()
	return printModule(w, m, list)
}

type moduleReport struct {
	File     string   `json:"file"`
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	SHA256   string   `json:"sha256"`
	Bytes    int64    `json:"bytes"`
	Needs    []string `json:"needs"`
	Packages []string `json:"packages"`
	Accounts []string `json:"accounts"`
	SetID    []string `json:"set-id"`
	Files    []string `json:"files"`
}

func moduleJSON(m *layer.Module) moduleReport {
	r := moduleReport{File: m.File, Name: m.Name, Version: m.Version, SHA256: m.SHA256, Bytes: m.Size, Needs: m.Needs,
		Packages: m.Packages(), Accounts: compose.Names(m.Shared["etc/passwd"]), SetID: []string{}, Files: []string{}}
	for _, list := range []*[]string{&r.Needs, &r.Packages, &r.Accounts} {
		if *list == nil {
			*list = []string{}
		}
	}
	sort.Strings(r.Accounts)
	for _, e := range m.Image.Entries() {
		switch {
		case strings.HasPrefix(e.Path, layer.Dir+"/"), e.Type() == squashfs.Dir && e.Xattrs[squashfs.OpaqueXattr] == "":
			continue
		case e.Type() == squashfs.Regular && e.Mode&0o6000 != 0, e.Xattrs["security.capability"] != "":
			r.SetID = append(r.SetID, "/"+e.Path)
		}
		r.Files = append(r.Files, "/"+e.Path)
	}
	return r
}

func printModule(w io.Writer, m *layer.Module, list bool) error {
	r := moduleJSON(m)
	fmt.Fprintf(w, "module    %s %s\nsha256    %s\nsize      %d bytes, %d files\n", r.Name, r.Version, r.SHA256, r.Bytes, len(r.Files))
	for _, l := range []struct {
		what  string
		words []string
	}{{"needs", r.Needs}, {"packages", r.Packages}, {"accounts", r.Accounts}, {"set-id", r.SetID}} {
		if len(l.words) > 0 {
			fmt.Fprintf(w, "%-9s %s\n", l.what, strings.Join(l.words, ", "))
		}
	}
	if list {
		for _, e := range m.Image.Entries() {
			if !strings.HasPrefix(e.Path, layer.Dir+"/") {
				fmt.Fprintln(w, describeEntry(e))
			}
		}
	}
	return nil
}

// describeEntry is a line of a module's list.
func describeEntry(e *squashfs.Entry) string {
	switch {
	case e.Whiteout():
		return "hides      /" + e.Path
	case e.Link != "":
		return "hard link  /" + e.Path + " to /" + e.Link
	case e.Type() == squashfs.Symlink:
		return "link       /" + e.Path + " to " + e.Target
	case e.Type() == squashfs.Dir && e.Xattrs[squashfs.OpaqueXattr] != "":
		return "replaces   /" + e.Path + "/"
	case e.Type() == squashfs.Dir:
		return fmt.Sprintf("%04o %4d:%-4d /%s/", e.Mode&0o7777, e.UID, e.GID, e.Path)
	}
	return fmt.Sprintf("%04o %4d:%-4d /%s", e.Mode&0o7777, e.UID, e.GID, e.Path)
}
