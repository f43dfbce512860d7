package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"gridappliance/builder/base"
	"gridappliance/builder/disk"
	"gridappliance/builder/fetch"
	"gridappliance/builder/layer"
	"gridappliance/builder/plan"
	"gridappliance/builder/progress"
	"gridappliance/builder/spec"
	"gridappliance/builder/squashfs"
	"gridappliance/internal/diag"
	"gridappliance/internal/scratch"
)

// stack is the layers of an image above its base: modules, lowest first, and
// the glue that makes one system of them. Without modules it is empty.
type stack struct {
	modules []*layer.Module
	patches []layer.Patch
	glue    string            // path; "" without modules
	lock    *base.PackageLock // of the definition's packages; nil without
	temp    *scratch.Dir
	store   string // its folder, with a slash at the end

	missing  *plan.Layer // the packages' module when a plan finds it not made yet
	download int64       // bytes of its packages that the store lacks
}

// Close closes the modules and removes the glue.
func (s *stack) Close() {
	for _, m := range s.modules {
		m.Close()
	}
	if s.temp != nil {
		s.temp.Remove()
	}
}

// addresses returns the modules of the image, the definition's first, then
// the floppy's that are not among them.
func (im *image) addresses() []spec.Address {
	all := append([]spec.Address{}, im.def.Modules...)
	have := map[string]bool{}
	for _, a := range all {
		have[a.SHA256()] = true
	}
	for _, a := range im.floppyModules {
		if !have[a.SHA256()] {
			all = append(all, a)
		}
	}
	return all
}

// openStack brings, checks and orders the image's modules and computes their
// glue.
func (f *imageFlags) openStack(ctx context.Context, im *image, b *base.Base, p *progress.Reporter) (*stack, error) {
	s := &stack{}
	if err := f.fillStack(ctx, im, b, s, p); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// fillStack stacks the definition's packages, its modules and its files, in
// this order. In a plan whose packages are not in the store yet, their module
// and the glue are missing.
func (f *imageFlags) fillStack(ctx context.Context, im *image, b *base.Base, s *stack, p *progress.Reporter) error {
	var err error
	scratch.Sweep(os.TempDir(), gluing+"*", nil) // no store need be opened
	if s.temp, err = scratch.MkdirTemp("", gluing); err != nil {
		return err
	}
	if s.store, err = f.storeFolder(); err != nil {
		return err
	}
	if err := f.addPackages(ctx, im, b, s, p); err != nil {
		return err
	}
	if err := s.open(ctx, f.store, im.addresses(), p); err != nil {
		return err
	}
	if err := im.addFiles(b, s); err != nil || len(s.modules) == 0 {
		return err
	}
	if s.missing != nil {
		return nil // no glue without it
	}
	step := p.Start("glue")
	return step.End(s.join(b))
}

const (
	gluing      = base.Working + "glue-"
	guessedGlue = 1 << 20 // bytes
)

func (s *stack) open(ctx context.Context, storeDir string, addresses []spec.Address, p *progress.Reporter) error {
	var problems diag.List
	for _, a := range addresses {
		m, err := openModule(ctx, storeDir, a, p)
		if found := diag.Of(err); found != nil {
			problems = append(problems, found...)
			continue
		}
		if err != nil {
			return err
		}
		s.modules = append(s.modules, m)
	}
	if err := problems.Err(); err != nil {
		return err
	}
	ordered, err := layer.Order(s.modules)
	if err == nil {
		s.modules = ordered
	}
	return err
}

// maxModule bounds a module that a server sends.
const maxModule = 16 << 30 // bytes

// openModule opens a module by its address; one on a server comes into the
// store first. The checksum is compared in any case.
func openModule(ctx context.Context, storeDir string, a spec.Address, p *progress.Reporter) (*layer.Module, error) {
	path := a.Place()
	if a.IsURL() {
		store, err := base.OpenStore(storeDir)
		if err != nil {
			return nil, err
		}
		if path, err = store.Module(a.SHA256(), func(to string) error {
			step := p.Start("module")
			step.Note("%s", a.Place())
			return step.End(fetch.File(ctx, a.Place(), a.SHA256(), to, maxModule, step))
		}); err != nil {
			return nil, err
		}
	}
	m, err := layer.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, diag.List{{File: a.Place(), Message: "there is no such module", Remedy: "correct the path"}}
	}
	if err != nil {
		return nil, err
	}
	if err := m.Verify(a.SHA256()); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// join computes the glue.
func (s *stack) join(b *base.Base) error {
	system, f, err := openSquashfs(b.Path(base.Squashfs))
	if err != nil {
		return err
	}
	defer f.Close()
	s.glue = s.temp.Join("glue.squashfs")
	s.patches, err = layer.Glue(s.glue, system, s.modules, b.Manifest.Time)
	return err
}

// moduleName is the partition of the i-th module, lowest first, from 0.
func moduleName(i int) string { return fmt.Sprintf("gridmod%d", i+1) }

// plan adds the stack's layers.
func (s *stack) plan(layers []plan.Layer) ([]plan.Layer, error) {
	if len(s.modules) == 0 && s.missing == nil {
		return layers, nil
	}
	first := 0
	if s.missing != nil {
		layers, first = append(layers, *s.missing), 1
	}
	for i, m := range s.modules {
		layers = append(layers, plan.Layer{Name: moduleName(first + i), Size: m.Size, What: "module " + m.Name + " " + m.Version})
	}
	if s.missing != nil {
		return append(layers, plan.Layer{Name: "gridglue", Size: guessedGlue, What: "what joins the layers" + aGuess}), nil
	}
	info, err := os.Stat(s.glue)
	if err != nil {
		return nil, err
	}
	return append(layers, plan.Layer{Name: "gridglue", Size: info.Size(), What: "what joins the layers"}), nil
}

// contents adds the stack's files and what is replaced in them.
func (s *stack) contents(c *disk.Contents) {
	if len(s.modules) == 0 {
		return
	}
	c.Patches = map[string]disk.Patch{}
	for i, m := range s.modules {
		c.Layers[moduleName(i)] = m.File
		if p := s.patches[i]; p.Data != nil {
			c.Patches[moduleName(i)] = disk.Patch(p)
		}
	}
	c.Layers["gridglue"] = s.glue
}

// openSquashfs opens a squashfs; the caller closes its file after use.
func openSquashfs(name string) (*squashfs.Image, *os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var im *squashfs.Image
		if im, err = squashfs.Open(f, info.Size()); err == nil {
			return im, f, nil
		}
	}
	f.Close()
	return nil, nil, fmt.Errorf("read %s: %w", name, err)
}
