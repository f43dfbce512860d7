package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/builder/base"
	"gridappliance/builder/disk"
	"gridappliance/builder/plan"
	"gridappliance/builder/progress"
	"gridappliance/builder/spec"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// imageFlags are the flags of check, plan and build: each overrides one key of
// the definition, or stands for it when there is no definition.
type imageFlags struct {
	name, base, floppy, disk string
	targets, modules         []string
	noFloppy                 bool
	mirror                   string
	locked, update           bool
	planning                 bool // nothing is made
	store                    string
	json                     bool
}

func (f *imageFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "name of the outputs (default "+spec.DefaultName+")")
	flags.StringVar(&f.base, "base", "", "id, folder or URL of the base (default: the newest in the store)")
	flags.StringVar(&f.floppy, "floppy", "", "floppy image whose bytes go into the image")
	flags.BoolVar(&f.noFloppy, "no-floppy", false, "leave the definition's floppy out: an image to share")
	flags.StringVar(&f.disk, "disk", "", "size of the disk (default "+spec.DefaultDisk.String()+")")
	flags.StringSliceVar(&f.targets, "target", nil, "what to write: "+targetNames()+" (default qcow2)")
	flags.StringArrayVar(&f.modules, "module", nil, "module to stack on the base: path or URL, and ?checksum=sha256:HEX; again for more")
	flags.StringVar(&f.mirror, "mirror", "", "root of the Debian mirror for the definition's packages (default: where this machine's apt gets them)")
	flags.StringVar(&f.store, "store", "", "folder of the store (default: grid-appliance in the user's cache)")
	flags.BoolVar(&f.json, "json", false, "write the result as JSON")
	cmd.MarkFlagsMutuallyExclusive("floppy", "no-floppy")
	cmd.MarkFlagDirname("base")
	cmd.MarkFlagDirname("store")
	cmd.MarkFlagFilename("floppy", "img", "flp", "ima")
	cmd.RegisterFlagCompletionFunc("target", cobra.FixedCompletions(strings.Split(targetNames(), ", "), cobra.ShellCompDirectiveNoFileComp))
}

func targetNames() string {
	var names []string
	for _, t := range spec.Targets() {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}

// image is what check, plan and build are about: a valid definition and the
// floppy that goes with it, checked.
type image struct {
	def    *spec.Definition
	floppy []byte // nil when none goes in

	floppyModules []spec.Address // its [[modules]]

	file   string  // the definition's; "" when there is none
	locked bool    // the lock beside it is in use
	at     spec.At // where its keys stand
}

// read reads the definition that args names, if any, lets the flags override
// it, and reads and checks the floppy. The error carries every problem of both.
func (f *imageFlags) read(args []string, now time.Time) (*image, error) {
	def, at := &spec.Definition{}, spec.At(func(string) diag.Problem { return diag.Problem{} })
	if len(args) > 0 {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return nil, fmt.Errorf("read definition: %w", err)
		}
		decoded, positions, err := spec.Decode(args[0], text)
		if err != nil {
			return nil, err
		}
		decoded.Resolve(filepath.Dir(args[0]))
		def, at = decoded, positions.At
	}
	overridden, err := f.override(def)
	if err != nil {
		return nil, err
	}
	def.ApplyDefaults()
	problems := def.Validate(func(key string) diag.Problem {
		list, _, _ := strings.Cut(key, "[")
		if flag := overridden[list]; flag != "" {
			return diag.Problem{File: flag}
		}
		return at(key)
	})
	im := &image{def: def, at: at}
	if len(args) > 0 {
		im.file = args[0]
	}
	problems = append(problems, im.checkSite()...)
	if def.Floppy != "" {
		if err := im.readFloppy(def.Floppy, now); err != nil {
			found := diag.Of(err)
			if found == nil {
				return nil, err
			}
			problems = append(problems, found...)
		}
	}
	return im, problems.Err()
}

// override puts the flags that were given into the definition and returns
// which keys they stand for.
func (f *imageFlags) override(def *spec.Definition) (map[string]string, error) {
	overridden := map[string]string{}
	for _, s := range []struct {
		key   string
		value string
		into  *string
	}{{"name", f.name, &def.Name}, {"base", f.base, (*string)(&def.Base)}, {"floppy", f.floppy, &def.Floppy}} {
		if s.value != "" {
			*s.into = s.value
			overridden[s.key] = "--" + s.key
		}
	}
	if f.noFloppy {
		def.Floppy = ""
	}
	if len(f.targets) > 0 {
		def.Targets = nil
		for _, t := range f.targets {
			def.Targets = append(def.Targets, spec.Target(t))
		}
		overridden["targets"] = "--target"
	}
	if len(f.modules) > 0 {
		def.Modules = nil
		for _, m := range f.modules {
			def.Modules = append(def.Modules, spec.Address(m))
		}
		overridden["modules"] = "--module"
	}
	if f.disk != "" {
		size, err := spec.ParseSize(f.disk)
		if err != nil {
			return nil, diag.UsageError{Err: fmt.Errorf("--disk: %w", err)}
		}
		def.Disk = size
		overridden["disk"] = "--disk"
	}
	return overridden, nil
}

// readFloppy reads a floppy, zipped or not, and checks it as firstboot will.
func (im *image) readFloppy(path string, now time.Time) error {
	name, image, _, err := loadFloppy(path)
	if err != nil {
		return err
	}
	flp, err := floppy.CheckImage(name, image, now)
	if err != nil {
		return err
	}
	im.floppy = image
	for _, m := range flp.Config.Modules {
		im.floppyModules = append(im.floppyModules, spec.Address(m.Source+"?checksum=sha256:"+m.SHA256))
	}
	return nil
}

// openBase opens the definition's base: the newest of the store when it names
// none, else by folder, by the beginning of its id, or from a server.
func (f *imageFlags) openBase(ctx context.Context, def *spec.Definition, p *progress.Reporter) (*base.Base, error) {
	address := def.Base
	if address != "" && !address.IsURL() && !address.IsID() {
		b, err := base.Open(address.Place())
		if err != nil {
			return nil, err
		}
		return b, b.Is(address.SHA256())
	}
	store, err := base.OpenStore(f.store)
	if err != nil {
		return nil, err
	}
	if address.IsURL() {
		return base.Fetch(ctx, store, string(address), p)
	}
	b, err := base.Find(store, address.Place())
	if err != nil {
		return nil, err
	}
	return b, b.Is(address.SHA256())
}

// plan makes the plan of an image on a base.
func (im *image) plan(b *base.Base, s *stack) (*plan.Plan, error) {
	in := plan.Inputs{BaseID: b.Manifest.ID, Floppy: im.floppy != nil}
	for _, f := range b.Manifest.Files {
		switch f.Name {
		case base.Kernel:
			in.Kernel = f.Size
		case base.Initrd:
			in.Initrd = f.Size
		case base.GRUBBoot, base.GRUBCore, base.GRUBEFI:
			in.Boot += f.Size
		}
	}
	squashfs, _ := b.Manifest.File(base.Squashfs) // base.Open found both
	user, _ := b.Manifest.File(base.User)
	var err error
	if in.Layers, err = s.plan([]plan.Layer{{Name: "gridbase", Size: squashfs.Size}}); err != nil {
		return nil, err
	}
	in.UserSize = user.Size
	if im.floppy != nil {
		in.Content = fmt.Sprintf("%x", sha256.Sum256(im.floppy))
	}
	in.Ingredients = s.ingredients(im, b, in.Layers)
	return plan.New(im.def, in)
}

// contents returns what the disk is composed from.
func (im *image) contents(b *base.Base, s *stack) disk.Contents {
	c := disk.Contents{
		BootImage: b.Path(base.GRUBBoot),
		CoreImage: b.Path(base.GRUBCore),
		EFIImage:  b.Path(base.GRUBEFI),
		Kernel:    b.Path(base.Kernel),
		Initrd:    b.Path(base.Initrd),
		Layers:    map[string]string{"gridbase": b.Path(base.Squashfs)},
		User:      b.Path(base.User),
		Floppy:    im.floppy,
	}
	s.contents(&c)
	return c
}
