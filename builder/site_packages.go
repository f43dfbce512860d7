package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gridappliance/builder/base"
	"gridappliance/builder/layer"
	"gridappliance/builder/plan"
	"gridappliance/builder/progress"
	"gridappliance/internal/atomicfile"
	"gridappliance/internal/diag"
)

// problem is a problem at a key of the definition.
func (im *image) problem(key, message, remedy string) diag.Problem {
	p := im.at(key)
	p.Path, p.Message, p.Remedy = key, message, remedy
	return p
}

// checkSite returns what is wrong with the files that a definition names:
// keys of archives, the lock, files to lay in.
func (im *image) checkSite() diag.List {
	var problems diag.List
	for i, s := range im.def.Sources {
		if s.SignedBy == "" {
			continue // reported by Validate
		}
		key, err := os.ReadFile(s.SignedBy)
		if err == nil {
			err = base.CheckKey(key)
		}
		if err != nil {
			problems.Add(im.problem(fmt.Sprintf("sources[%d].signed-by", i), because(s.SignedBy, err),
				"put the archive's public key there, as its owner publishes it"))
		}
	}
	if _, err := im.readLock(); err != nil {
		found := diag.Of(err)
		if found == nil {
			found = diag.List{{File: im.lockFile(), Message: err.Error()}}
		}
		problems = append(problems, found...)
	}
	return append(problems, im.checkFiles()...)
}

// because says what is wrong with a file, its name once.
func because(path string, err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return path + ": " + err.Error()
}

// lockFile is the lock beside the definition.
func (im *image) lockFile() string {
	return strings.TrimSuffix(im.file, filepath.Ext(im.file)) + ".lock"
}

// readLock reads the lock; nil when there is none or nothing to lock.
func (im *image) readLock() (*base.PackageLock, error) {
	if im.file == "" || len(im.def.Packages) == 0 {
		return nil, nil
	}
	text, err := os.ReadFile(im.lockFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read lock: %w", err)
	}
	return base.ParsePackageLock(im.lockFile(), text)
}

// additions is what the definition's packages are for the base.
func (f *imageFlags) additions(im *image, b *base.Base, p *progress.Reporter) (*base.Additions, error) {
	store, err := base.OpenStore(f.store)
	if err != nil {
		return nil, err
	}
	a := &base.Additions{Base: b, Store: store, Packages: im.def.Packages, Mirror: f.mirror, Progress: p}
	for _, s := range im.def.Sources {
		key, err := os.ReadFile(s.SignedBy)
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		a.Archives = append(a.Archives, base.Archive{Name: s.Name, URIs: s.URIs, Suites: s.Suites, Components: s.Components,
			Key: key, KeyName: s.SignedBy})
	}
	return a, nil
}

// addPackages puts the module of the definition's packages on the stack. A
// plan makes nothing: there a module that the store lacks goes to s.missing.
func (f *imageFlags) addPackages(ctx context.Context, im *image, b *base.Base, s *stack, p *progress.Reporter) error {
	if len(im.def.Packages) == 0 {
		return nil
	}
	a, err := f.additions(im, b, p)
	if err != nil {
		return err
	}
	lock, err := f.packageLock(ctx, im, a)
	if err != nil {
		return err
	}
	s.lock = lock
	if _, there := a.Layer(lock); !there && f.planning {
		s.missing = &plan.Layer{Name: moduleName(0), Size: a.Guess(lock), What: "module " + base.PackagesModule + aGuess}
		s.download = a.Missing(lock)
		return nil
	}
	path, err := a.Install(ctx, lock)
	if err != nil {
		return err
	}
	m, err := layer.Open(path)
	if err != nil {
		return err
	}
	s.modules = append(s.modules, m)
	return nil
}

// packageLock returns the lock beside the definition when it fits, else a new
// one, which a build writes there.
func (f *imageFlags) packageLock(ctx context.Context, im *image, a *base.Additions) (*base.PackageLock, error) {
	lock, err := im.readLock()
	if err != nil {
		return nil, err
	}
	if lock != nil && a.Fits(lock) && !f.update {
		im.locked = true
		return lock, nil
	}
	if f.locked {
		message := "there is none"
		if lock != nil {
			message = "is for other packages, sources or another base than the definition's"
		}
		return nil, diag.List{{File: im.lockFile(), Message: message, Remedy: "build without --locked to make a new one"}}
	}
	lock, err = a.Resolve(ctx)
	var which *base.PackageError
	if errors.As(err, &which) {
		return nil, diag.List{im.problem(im.packageKey(which.Package), strconv.Quote(which.Package)+" "+which.Message, which.Remedy)}
	}
	if err != nil || f.planning {
		return lock, err
	}
	if err := atomicfile.Write(im.lockFile(), lock.Text(), 0o644); err != nil {
		return nil, fmt.Errorf("keep lock: %w", err)
	}
	return lock, nil
}

// packageKey is the key of a package by its name, or of all.
func (im *image) packageKey(name string) string {
	for i, p := range im.def.Packages {
		if p == name || strings.HasPrefix(p, name+"=") {
			return fmt.Sprintf("packages[%d]", i)
		}
	}
	return "packages"
}
