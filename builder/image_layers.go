package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gridappliance/builder/base"
	"gridappliance/builder/disk"
	"gridappliance/builder/fetch"
	"gridappliance/builder/layer"
	"gridappliance/builder/plan"
	"gridappliance/builder/progress"
	"gridappliance/builder/spec"
	"gridappliance/builder/squashfs"
	"gridappliance/internal/diag"
)

// stack is the layers of an image above its base: modules, lowest first, and
// the glue that makes one system of them. Without modules it is empty.
type stack struct {
	modules []*layer.Module
	patches []layer.Patch
	glue    string // path; "" without modules
	temp    string
}

// Close closes the modules and removes the glue.
func (s *stack) Close() {
	for _, m := range s.modules {
		m.Close()
	}
	if s.temp != "" {
		os.RemoveAll(s.temp)
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
	addresses := im.addresses()
	if len(addresses) == 0 {
		return s, nil
	}
	if err := s.open(ctx, f.store, addresses, p); err != nil {
		s.Close()
		return nil, err
	}
	step := p.Start("glue")
	if err := step.End(s.join(b)); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

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
	if s.temp, err = os.MkdirTemp("", "grid-glue-"); err != nil {
		return err
	}
	s.glue = filepath.Join(s.temp, "glue.squashfs")
	s.patches, err = layer.Glue(s.glue, system, s.modules, b.Manifest.Time)
	return err
}

// moduleName is the partition of the i-th module, lowest first, from 0.
func moduleName(i int) string { return fmt.Sprintf("gridmod%d", i+1) }

// plan adds the stack's layers.
func (s *stack) plan(layers []plan.Layer) ([]plan.Layer, error) {
	if len(s.modules) == 0 {
		return layers, nil
	}
	for i, m := range s.modules {
		layers = append(layers, plan.Layer{Name: moduleName(i), Size: m.Size})
	}
	info, err := os.Stat(s.glue)
	if err != nil {
		return nil, err
	}
	return append(layers, plan.Layer{Name: "gridglue", Size: info.Size()}), nil
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
