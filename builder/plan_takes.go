package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"gridappliance/builder/base"
	"gridappliance/builder/plan"
)

const (
	inStore = "in the store"
	aGuess  = ", its size a guess" // ends what a layer is in a step
)

// ingredients returns what goes into an image and where it is now: base, lock,
// and layers above the base.
func (s *stack) ingredients(im *image, b *base.Base, layers []plan.Layer) []plan.Ingredient {
	m := b.Manifest
	out := []plan.Ingredient{{Name: "base", What: fmt.Sprintf("%s, %s of %s", m.ID, m.Suite, m.Time.Format("2006-01-02")),
		Size: layers[0].Size, Where: s.where(b.Dir)}}
	if s.lock != nil {
		lock := plan.Ingredient{Name: "lock", What: fmt.Sprintf("%s, %d packages", filepath.Base(im.lockFile()), len(s.lock.Packages)),
			Size: int64(len(s.lock.Text())), Where: "beside the definition"}
		if !im.locked {
			lock.Where = "written by a build"
		}
		out = append(out, lock)
	}
	first := 1
	if s.missing != nil {
		made := fmt.Sprintf("made by a build: %d packages installed, %.1f MB of them downloaded first, %.1f MB are %s",
			len(s.lock.Packages), float64(s.download)/1e6, float64(s.lock.Download()-s.download)/1e6, inStore)
		out = append(out, plan.Ingredient{Name: s.missing.Name, What: strings.TrimSuffix(s.missing.What, aGuess), Size: s.missing.Size, Guess: true, Where: made})
		first++
	}
	for i, l := range layers[first:] {
		in := plan.Ingredient{Name: l.Name, What: strings.TrimSuffix(l.What, aGuess), Size: l.Size, Where: "made by each build"}
		if i < len(s.modules) {
			in.Where = s.where(s.modules[i].File)
		} else {
			in.Guess = s.missing != nil
		}
		out = append(out, in)
	}
	if im.floppy != nil {
		out = append(out, plan.Ingredient{Name: "gridcfg", What: "the floppy", Size: int64(len(im.floppy)), Where: im.def.Floppy})
	}
	return out
}

// where says where something is that is not the build's own.
func (s *stack) where(path string) string {
	switch {
	case strings.HasPrefix(path, s.temp.Path):
		return "made by each build of the definition's files"
	case strings.HasPrefix(path, s.store):
		return inStore
	}
	return path
}

// storeFolder returns the store's folder, absolute and with a slash at the end.
func (f *imageFlags) storeFolder() (string, error) {
	dir := f.store
	var err error
	if dir == "" {
		if dir, err = base.DefaultStore(); err != nil {
			return "", err
		}
	}
	dir, err = filepath.Abs(dir)
	return dir + string(filepath.Separator), err
}
