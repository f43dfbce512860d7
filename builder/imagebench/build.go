package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gridappliance/internal/sysrun"
)

// target is a form of image, and how fast it should be there.
type target struct {
	name  string
	limit float64 // seconds; DESIGN "Targets"
}

var targets = []target{
	{"raw", 1}, {"qcow2", 1}, {"kvm", 1}, {"xen", 1}, {"virtualbox", 1}, {"vmware", 3}, {"ova", 3},
}

// build runs builder and returns how long it took.
func (b *bench) build(ctx context.Context, env []string, args ...string) (time.Duration, error) {
	start := time.Now()
	_, err := sysrun.Run(ctx, sysrun.Command{Name: b.builder, Args: args, Env: append(os.Environ(), env...)})
	return time.Since(start), err
}

// zip measures what is mailed to a user.
func (b *bench) zip(ctx context.Context) error {
	out := filepath.Join(b.work, "floppy.zip")
	if _, err := b.build(ctx, nil, "floppy", "zip", b.floppy, "-o", out); err != nil {
		return err
	}
	info, err := os.Stat(out)
	if err != nil {
		return err
	}
	b.table.add("floppy, zipped", "kB", 25, "target").value(float64(info.Size()) / 1000)
	return nil
}

// coldBase builds a base into a store that has nothing.
func (b *bench) coldBase(ctx context.Context) error {
	row := b.table.add("base, nothing cached", "s", 0, "")
	for i := range b.cold {
		store := filepath.Join(b.work, "store")
		b.say("cold base %d of %d", i+1, b.cold)
		args := []string{"base", "build"}
		if b.mirror != "" {
			args = append(args, "--mirror", b.mirror)
		}
		took, err := b.build(ctx, []string{"XDG_CACHE_HOME=" + store}, args...)
		if err != nil {
			return err
		}
		row.value(took.Seconds())
		if err := os.RemoveAll(store); err != nil {
			return err
		}
	}
	return nil
}

// warmBuilds assembles each form of image from the base in the user's store.
func (b *bench) warmBuilds(ctx context.Context) error {
	if _, err := b.build(ctx, nil, "base", "build"); err != nil { // so that it is there
		return err
	}
	sizes := map[string]int64{}
	rows := map[string]*row{}
	for _, t := range targets {
		rows[t.name] = b.table.add("image as "+t.name+", base cached", "s", t.limit, "target")
	}
	for range b.rounds {
		for _, t := range targets {
			out := filepath.Join(b.work, "out-"+t.name)
			if err := os.RemoveAll(out); err != nil {
				return err
			}
			took, err := b.build(ctx, nil, "build", "--floppy", b.floppy, "--target", t.name, "-o", out)
			if err != nil {
				return err
			}
			rows[t.name].value(took.Seconds())
			if sizes[t.name], err = diskUse(out); err != nil {
				return err
			}
		}
	}
	b.table.add("qcow2", "MB", 200, "target").value(megabytes(sizes["qcow2"]))
	b.table.add("OVA", "MB", 1.05*megabytes(sizes["qcow2"]), "105 % of qcow2").value(megabytes(sizes["ova"]))
	return nil
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// diskUse adds up the sizes of the files below dir.
func diskUse(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

// image returns the one file of its kind that a build left.
func (b *bench) image(target, pattern string) (string, error) {
	found, err := filepath.Glob(filepath.Join(b.work, "out-"+target, pattern))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("look for the %s image: found %d files %s", target, len(found), pattern)
	}
	return found[0], nil
}
