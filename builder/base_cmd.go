package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"gridappliance/builder/base"
	"gridappliance/builder/progress"
	"gridappliance/internal/diag"
)

func newBaseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "base",
		Short: "build, fetch and list bases",
		Long: `A base is the read-only Debian system that images start from, with the kernel,
initrd and boot loaders that belong to it. It is built rarely, kept in the
store, and shared by all images.`,
		Example: `  builder base build
  builder base path`,
	}
	cmd.AddCommand(newBaseBuildCommand(), newBaseFetchCommand(), newBaseListCommand(), newBasePathCommand())
	return cmd
}

// storeFlag adds --store.
func storeFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("store", "", "store folder (default $XDG_CACHE_HOME/grid-appliance)")
}

// newProgress returns what shows progress on stderr: JSON lines with --json,
// else a bar on a terminal and plain lines elsewhere.
func newProgress(stderr io.Writer, asJSON bool) *progress.Reporter {
	if asJSON {
		return progress.New(stderr, progress.JSON)
	}
	return progress.New(stderr, progress.Auto)
}

func newBaseBuildCommand() *cobra.Command {
	var locked, mirror, suite, programs, out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "build",
		Short: "build a base from Debian packages",
		Long: `Resolves Debian packages with apt, checks their signatures, and builds a base
from them; needs neither root nor a loop device. What was resolved is written
into the base as base.lock; with --locked the same packages are used again, and
the base has the same bytes.

Packages come from where this machine's own apt gets Debian's (else from where
mmdebstrap would), or from --mirror. Needs apt, dpkg and mmdebstrap, so Debian
or Ubuntu; as an ordinary user also uidmap. Prints the base's folder.

EXIT STATUS
  0 done, 1 failed, 2 usage, 3 the lock is wrong, 4 a privilege is missing`,
		Example: `  builder base build
  builder base build --locked base.lock --mirror http://mirror.example.org/debian -o base/`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&locked, "locked", "", "build exactly the packages of this base.lock")
	f.StringVar(&mirror, "mirror", "", "root of the Debian mirror to use")
	f.StringVar(&suite, "suite", base.DefaultSuite, "release of Debian")
	f.StringVar(&programs, "programs", "", "folder of condorconf, firstboot, grid, initrd, overlayd (default the builder's own)")
	f.StringVarP(&out, "output", "o", "", "also copy the base into this folder")
	f.BoolVar(&asJSON, "json", false, "progress as JSON lines on stderr, the result as JSON on stdout")
	store := storeFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o := base.Options{Mirror: mirror, Suite: suite, Programs: programs, Progress: newProgress(cmd.ErrOrStderr(), asJSON)}
		var err error
		if o.Programs == "" {
			if o.Programs, err = ownFolder(); err != nil {
				return err
			}
		}
		if locked != "" {
			if o.Lock, err = os.ReadFile(locked); err != nil {
				return fmt.Errorf("read lock: %w", err)
			}
			o.LockName = locked
		}
		if o.Store, err = base.OpenStore(*store); err != nil {
			return err
		}
		b, err := base.Build(cmd.Context(), o)
		if err != nil {
			return err
		}
		if out != "" {
			if b, err = b.CopyTo(out); err != nil {
				return err
			}
		}
		return printBase(cmd.OutOrStdout(), b, asJSON)
	}
	return cmd
}

// ownFolder is where the builder's own program lies, links followed.
func ownFolder() (string, error) {
	exe, err := os.Executable()
	if err == nil {
		exe, err = filepath.EvalSymlinks(exe)
	}
	if err != nil {
		return "", fmt.Errorf("find the builder's own folder: %w", err)
	}
	return filepath.Dir(exe), nil
}

// baseResult is what --json prints of a base.
type baseResult struct {
	ID     string `json:"id"`
	Dir    string `json:"dir"`
	Suite  string `json:"suite"`
	Time   string `json:"time"`
	Kernel string `json:"kernel"`
	Size   int64  `json:"size"` // of base.squashfs, in bytes
}

func resultOf(b *base.Base) baseResult {
	m := b.Manifest
	f, _ := m.File(base.Squashfs)
	return baseResult{m.ID, b.Dir, m.Suite, m.Time.Format("2006-01-02T15:04:05Z"), m.Kernel, f.Size}
}

func printBase(w io.Writer, b *base.Base, asJSON bool) error {
	if asJSON {
		return writeJSON(w, resultOf(b))
	}
	_, err := fmt.Fprintln(w, b.Dir)
	return err
}

func newBaseFetchCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fetch URL",
		Short: "bring a base that somebody else built",
		Long: `Brings the base whose manifest.json URL names into the store: the manifest, and
beside it each file that it lists. The manifest's own SHA-256 must be given in
the URL; it names the SHA-256 of everything else, and every file is checked.
URL is http, https, or a path. Prints the base's folder.`,
		Example: `  builder base fetch 'https://example.org/base/manifest.json?checksum=sha256:9f2c...'`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "progress as JSON lines on stderr, the result as JSON on stdout")
	store := storeFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := base.OpenStore(*store)
		if err != nil {
			return err
		}
		b, err := base.Fetch(cmd.Context(), s, args[0], newProgress(cmd.ErrOrStderr(), asJSON))
		if err != nil {
			return err
		}
		return printBase(cmd.OutOrStdout(), b, asJSON)
	}
	return cmd
}

func newBaseListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "list the bases in the store, the newest last",
		Example: `  builder base list`,
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	store := storeFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := base.OpenStore(*store)
		if err != nil {
			return err
		}
		found, err := base.List(s)
		if err != nil {
			return err
		}
		results := []baseResult{}
		for _, b := range found {
			results = append(results, resultOf(b))
		}
		if asJSON {
			return writeJSON(cmd.OutOrStdout(), results)
		}
		for _, r := range results {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %s  kernel %s  %.1f MB\n", r.ID, r.Suite, r.Time, r.Kernel, float64(r.Size)/1e6)
		}
		return nil
	}
	return cmd
}

func newBasePathCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "path [ID]",
		Short: "print the folder of a base, by default of the newest",
		Long: `Prints the folder of the base whose id begins with ID, or of the newest one in
the store.

EXIT STATUS
  0 done, 1 failed, 2 usage, 5 there is no such base`,
		Example: `  ls $(builder base path)`,
		Args:    cobra.MaximumNArgs(1),
	}
	store := storeFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		prefix := ""
		if len(args) == 1 {
			prefix = args[0]
		}
		s, err := base.OpenStore(*store)
		if err != nil {
			return err
		}
		b, err := base.Find(s, prefix)
		if errors.Is(err, base.ErrNoBase) {
			return fmt.Errorf("%w: %w", diag.ErrNothing, err)
		}
		if err != nil {
			return err
		}
		return printBase(cmd.OutOrStdout(), b, false)
	}
	return cmd
}
