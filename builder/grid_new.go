package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/credential"
	"gridappliance/floppy"
	floppytemplates "gridappliance/floppy-templates"
	"gridappliance/internal/diag"
)

// gridNew is the flags of builder grid new.
type gridNew struct {
	masters   int
	pool      string
	namespace string
	from      string
	bootstrap []string
	json      bool
}

// madeReport is what builder grid new and renew print with --json.
type madeReport struct {
	Grid     string   `json:"grid"`
	Folder   string   `json:"folder"`
	Floppies []string `json:"floppies"`
}

func (r madeReport) String() string { return strings.Join(r.Floppies, "\n") + "\n" }

func newGridNewCommand() *cobra.Command {
	var o gridNew
	c := &cobra.Command{
		Use:   "new GRID",
		Short: "make a grid: its keys, its descriptor and its masters' floppies",
		Long: `Makes the folder GRID with the keys of a new grid, its signed descriptor, and a
floppy for each master: GRID/master-1.img and so on. The last part of GRID is
the grid's name. A grid of two masters also gets GRID/witness-1.img for any
third machine, so that it can lose one of three and still give out addresses.

The masters have the pool's first addresses from .2 upwards, for ever. A
master's floppy boots one machine at a time. Everything in the folder is secret
and has mode 0600; nothing is overwritten.

--from takes namespace, pool, reserved addresses and lease time from a
first-generation DHCP configuration.`,
		Example: `  builder grid new archer
  builder grid new archer --masters 1 --pool 172.20.0.0/16 --bootstrap grid.example.org:4242
  builder grid new archer --from DHCPServerConfig.xml`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			report, err := o.run(args[0], time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "made grid %s in %s; its masters' floppies:\n", report.Grid, report.Folder)
			return report.print(c, o.json)
		},
	}
	f := c.Flags()
	f.IntVar(&o.masters, "masters", credential.DefaultMasters, "how many masters")
	f.StringVar(&o.pool, "pool", credential.DefaultPool.String(), "the virtual network's addresses")
	f.StringVar(&o.namespace, "namespace", "", "the virtual network's `name` (default the grid's)")
	f.StringVar(&o.from, "from", "", "first-generation DHCP configuration, an XML `file`")
	f.StringArrayVar(&o.bootstrap, "bootstrap", nil, "`host:port` of a first contact; may be repeated")
	f.BoolVar(&o.json, "json", false, "print JSON")
	c.MarkFlagsMutuallyExclusive("from", "pool")
	c.MarkFlagsMutuallyExclusive("from", "namespace")
	c.MarkFlagFilename("from", "xml", "XML")
	return c
}

func (r madeReport) print(c *cobra.Command, asJSON bool) error {
	if asJSON {
		return writeJSON(c.OutOrStdout(), r)
	}
	_, err := fmt.Fprint(c.OutOrStdout(), r)
	return err
}

// run makes the grid in a folder beside dir and renames it, so that dir is
// there whole or not at all.
func (o *gridNew) run(dir string, now time.Time) (madeReport, error) {
	dir = filepath.Clean(dir)
	if _, err := os.Lstat(dir); err == nil {
		return madeReport{}, fmt.Errorf("make grid %s: %w; nothing was changed, choose another name or move it away", dir, fs.ErrExist)
	}
	options, err := o.options(filepath.Base(dir))
	if err != nil {
		return madeReport{}, err
	}
	g, err := credential.NewGrid(options, now)
	if err != nil {
		return madeReport{}, inFlags(err)
	}
	temporary, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+"-*") // 0700
	if err != nil {
		return madeReport{}, fmt.Errorf("make grid %s: %w", dir, err)
	}
	defer os.RemoveAll(temporary) // finds nothing after the rename
	if err := g.Save(temporary); err != nil {
		return madeReport{}, err
	}
	report := madeReport{Grid: options.Name, Folder: dir}
	for _, m := range g.Material {
		image, err := masterImage(g, m, nil, now)
		if err != nil {
			return madeReport{}, err
		}
		if err := writeSecret(filepath.Join(temporary, m.Name+".img"), image); err != nil {
			return madeReport{}, err
		}
		report.Floppies = append(report.Floppies, filepath.Join(dir, m.Name+".img"))
	}
	if err := os.Rename(temporary, dir); err != nil {
		return madeReport{}, fmt.Errorf("make grid %s: %w", dir, errors.Unwrap(err))
	}
	return report, nil
}

// options turns the command line into what credential makes a grid of.
func (o *gridNew) options(name string) (credential.GridOptions, error) {
	options := credential.GridOptions{Name: name, Masters: o.masters, Bootstrap: o.bootstrap}
	if o.masters < 1 { // 0 would mean the default
		return options, diag.UsageError{Err: fmt.Errorf("--masters %d: a grid has at least one", o.masters)}
	}
	if o.from != "" {
		text, err := readBounded(o.from, 1<<20)
		if err != nil {
			return options, err
		}
		s, err := floppy.DecodeDHCPXML(o.from, text)
		if err != nil {
			return options, err
		}
		options.Namespaces = []credential.Namespace{{
			Name: s.Namespace, Pool: s.Pool, LeaseTime: s.LeaseTime,
			Reserved: append([]credential.Reserved{}, s.Reserved...), // none is none, not the default
		}}
		return options, nil
	}
	pool, err := netip.ParsePrefix(o.pool)
	if err != nil {
		return options, diag.UsageError{Err: fmt.Errorf("--pool %q: not a network, such as 10.250.0.0/16", o.pool)}
	}
	n := credential.Namespace{Name: o.namespace, Pool: pool}
	if n.Name == "" {
		n.Name = name
	}
	options.Namespaces = []credential.Namespace{n}
	return options, nil
}

// inFlags names the grid as the place of problems that have none.
func inFlags(err error) error {
	l := diag.Of(err)
	for i := range l {
		if l[i].File == "" {
			l[i].File = "grid new"
		}
	}
	if l != nil {
		return l
	}
	return err
}

// masterImage makes the floppy of a master or witness. others are the files
// that it keeps from the floppy before: nil for the template of its role.
func masterImage(g *credential.Grid, m credential.MasterMaterial, others []floppy.File, now time.Time) ([]byte, error) {
	if others == nil {
		text, err := floppytemplates.FS.ReadFile(string(m.Role) + ".toml")
		if err != nil {
			return nil, err
		}
		others = []floppy.File{{Name: floppy.ConfigFile, Data: text}}
	}
	files := append(others,
		floppy.File{Name: floppy.DescriptorFile, Data: g.Descriptor.Text()},
		floppy.File{Name: floppy.HolderCertFile, Data: m.HolderCert},
		floppy.File{Name: floppy.HolderKeyFile, Data: m.HolderKey},
		floppy.File{Name: floppy.NodeKeyFile, Data: m.NodeKey},
	)
	if m.IssuerCert != nil {
		files = append(files,
			floppy.File{Name: floppy.IssuerCertFile, Data: m.IssuerCert},
			floppy.File{Name: floppy.IssuerKeyFile, Data: m.IssuerKey},
		)
	}
	image, _, err := makeImage(m.Name+".img", files, now)
	return image, err
}
