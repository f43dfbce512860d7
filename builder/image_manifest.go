package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	"gridappliance/builder/base"
	"gridappliance/builder/disk"
	"gridappliance/builder/format"
	"gridappliance/builder/manifest"
	"gridappliance/builder/plan"
	"gridappliance/builder/spec"
)

// describe writes the manifest of an image and its SPDX document beside its
// files, whose names are relative to the output folder. It returns the paths
// of both.
func (w *imageWriter) describe(d *disk.Image, files []string) (manifestPath, spdxPath string, err error) {
	im, b, s, p, out := w.image, w.base, w.stack, w.plan, w.out
	m := &manifest.Image{Version: manifest.ImageVersion, Name: im.def.Name, Private: p.Private, Time: b.Manifest.Time,
		Base:    manifest.BaseRef{ID: b.Manifest.ID, Suite: b.Manifest.Suite, Kernel: b.Manifest.Kernel},
		Modules: []manifest.Module{}, Files: []manifest.File{}}
	if m.Base.SHA256, err = fileSum(b.Path(base.Manifest)); err != nil {
		return "", "", err
	}
	for _, l := range s.modules {
		m.Modules = append(m.Modules, manifest.Module{Name: l.Name, Version: l.Version, SHA256: l.SHA256})
	}
	m.Packages = packagesOf(b, s)
	m.Sources = sourcesOf(im.def)
	licences := w.flags.materials(b, s, m)
	if m.Disk, err = regions(b, s, p, d); err != nil {
		return "", "", err
	}
	if m.Files, err = sums(out, files); err != nil {
		return "", "", err
	}
	stem := im.def.Name
	if p.Private {
		stem += "-private"
	}
	manifestPath, spdxPath = filepath.Join(out, stem+manifest.ImageSuffix), filepath.Join(out, stem+manifest.SPDXSuffix)
	put := func(path string, text []byte) error {
		return format.Create(path, p.Private, func(f *os.File) error { _, err := f.Write(text); return err })
	}
	keepOthers(manifestPath, m)
	spdx := m.SPDX(licences)
	sum := sha256.Sum256(spdx)
	m.Files = append(m.Files, manifest.File{Name: stem + manifest.SPDXSuffix, Size: int64(len(spdx)), SHA256: hex.EncodeToString(sum[:])})
	if err := put(spdxPath, spdx); err != nil {
		return "", "", err
	}
	if err := put(manifestPath, m.Text()); err != nil {
		return "", "", err
	}
	return manifestPath, spdxPath, nil
}

// keepOthers adds the files of an earlier manifest of the same disk: one image
// built for one target after another.
func keepOthers(name string, m *manifest.Image) {
	text, err := os.ReadFile(name)
	if err != nil {
		return
	}
	before, err := manifest.ParseImage(name, text)
	if err != nil || before.Disk.Size != m.Disk.Size || !slices.Equal(before.Disk.Regions, m.Disk.Regions) {
		return
	}
	for _, old := range before.Files {
		known := slices.ContainsFunc(m.Files, func(f manifest.File) bool { return f.Name == old.Name })
		if !known && !strings.HasSuffix(old.Name, manifest.SPDXSuffix) {
			m.Files = append(m.Files, old)
		}
	}
	sort.Slice(m.Files, func(i, j int) bool { return m.Files[i].Name < m.Files[j].Name })
}

// sourcesOf lists the definition's archives, each by an address that others
// can reach.
func sourcesOf(d *spec.Definition) []manifest.Source {
	var out []manifest.Source
	for _, s := range d.Sources {
		from := manifest.Source{Name: s.Name}
		for _, u := range s.URIs {
			if from.URL == "" && !strings.HasPrefix(u, "file:") {
				from.URL = u
			}
		}
		out = append(out, from)
	}
	return out
}

// packagesOf lists the Debian packages of the whole stack.
func packagesOf(b *base.Base, s *stack) []manifest.Package {
	all := append([]manifest.Package{}, b.Manifest.Packages...)
	known := map[string]bool{}
	if s.lock != nil {
		for _, p := range s.lock.Packages {
			all = append(all, manifest.Package{Name: p.Name, Version: p.Version, Architecture: p.Arch, SHA256: p.SHA256, Source: p.Source})
		}
	}
	for _, p := range all {
		known[p.Name+" "+p.Version] = true
	}
	for _, m := range s.modules {
		for _, p := range m.Packages() {
			if name, version, _ := strings.Cut(p, " "); !known[p] {
				known[p] = true
				all = append(all, manifest.Package{Name: name, Version: version})
			}
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// materials fills in the programs and returns the licences of all layers.
func (f *imageFlags) materials(b *base.Base, s *stack, m *manifest.Image) map[string][]string {
	m.Programs = []manifest.Program{}
	for _, p := range b.Manifest.Programs {
		m.Programs = append(m.Programs, manifest.Program{Name: p.Name, SHA256: p.SHA256, Modules: []manifest.GoModule{}})
	}
	licences := map[string][]string{}
	store, _ := base.OpenStore(f.store) // without a store they are read each time
	all := []*base.Materials{{}}
	if system, file, err := openSquashfs(b.Path(base.Squashfs)); err == nil { // else its licences are unknown
		defer file.Close()
		squashfs, _ := b.Manifest.File(base.Squashfs)
		all[0] = store.Materials(squashfs.SHA256, system)
	}
	for _, l := range s.modules {
		all = append(all, store.Materials(l.SHA256, l.Image))
	}
	for _, one := range all {
		for name, l := range one.Licences {
			licences[name] = l
		}
	}
	for i := range m.Programs {
		for _, known := range all[0].Programs {
			if known.Name == m.Programs[i].Name {
				m.Programs[i].Go, m.Programs[i].Modules = known.Go, known.Modules
			}
		}
	}
	return licences
}

// regions says what every part of the disk must be. Of layers that go in as
// they are the hash is known already, so a build reads little again.
func regions(b *base.Base, s *stack, p *plan.Plan, d *disk.Image) (manifest.Disk, error) {
	out := manifest.Disk{Size: d.Size()}
	user, _ := b.Manifest.File(base.User)
	squashfs, _ := b.Manifest.File(base.Squashfs)
	known := map[string]manifest.File{"gridbase": squashfs, "griduser": user}
	for i, m := range s.modules {
		if s.patches[i].Data == nil {
			known[moduleName(i)] = manifest.File{Size: m.Size, SHA256: m.SHA256}
		}
	}
	first := p.Layout.Partitions[0].Offset()
	list := []manifest.Region{{Name: "partition table", Size: first}}
	for _, part := range p.Layout.Partitions {
		r := manifest.Region{Name: part.Name, Offset: part.Offset(), Size: part.Size()}
		if k, ok := known[part.Name]; ok {
			r.Size, r.SHA256 = k.Size, k.SHA256
		}
		list = append(list, r)
	}
	list = append(list, manifest.Region{Name: "partition table's copy", Offset: d.Size() - 33*plan.SectorSize, Size: 33 * plan.SectorSize})
	for i := range list {
		if r := &list[i]; r.SHA256 == "" {
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(d, r.Offset, r.Size)); err != nil {
				return out, err
			}
			r.SHA256 = hex.EncodeToString(h.Sum(nil))
		}
	}
	out.Regions = list
	return out, nil
}

// sums returns size and SHA-256 of files below dir, read at the same time. Of
// a raw disk, which is mostly holes, only the size.
func sums(dir string, files []string) ([]manifest.File, error) {
	out := make([]manifest.File, len(files))
	errs := make([]error, len(files))
	var all sync.WaitGroup
	for i, name := range files {
		all.Go(func() {
			path := filepath.Join(dir, name)
			info, err := os.Stat(path)
			if err != nil {
				errs[i] = err
				return
			}
			out[i] = manifest.File{Name: filepath.ToSlash(name), Size: info.Size()}
			if filepath.Ext(name) != ".raw" {
				out[i].SHA256, errs[i] = fileSum(path)
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
