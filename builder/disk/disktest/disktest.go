// Package disktest makes small disks for tests: files that look like a base
// but take no time, and disks composed from them. Only tests import it.
package disktest

import (
	"bytes"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"gridappliance/builder/disk"
	"gridappliance/builder/plan"
	"gridappliance/builder/spec"
)

// Files writes the files of a small base into a folder of the test's own and
// returns them. Their content is arbitrary but always the same; the user
// layer's template is sparse.
func Files(t testing.TB) disk.Contents {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewSource(42))
	file := func(name string, size int64) string {
		path := filepath.Join(dir, name)
		b := make([]byte, size)
		r.Read(b)
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := disk.Contents{
		BootImage: file("grub-boot.img", 512),
		CoreImage: file("grub-core.img", 145_001),
		EFIImage:  file("grub-bootx64.efi", 573_000),
		Kernel:    file("vmlinuz", 9<<20+1),
		Initrd:    file("initrd.img", 2<<20),
		Layers:    map[string]string{"gridbase": file("base.squashfs", 20<<20+4096)},
		User:      filepath.Join(dir, "user.ext4"),
	}
	user, err := os.Create(c.User)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	for _, at := range []int64{0, 32 << 20, 64<<20 - 5000} {
		b := make([]byte, 5000)
		r.Read(b)
		if _, err := user.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := user.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	return c
}

// Floppy returns 1,474,560 bytes that stand for a floppy.
func Floppy() []byte { return bytes.Repeat([]byte("floppy! "), 1_474_560/8) }

// Layout returns the layout for contents on a disk of size bytes.
func Layout(t testing.TB, size int64, c disk.Contents) plan.Layout {
	t.Helper()
	in := plan.Inputs{BaseID: "test", UserSize: stat(t, c.User), Floppy: c.Floppy != nil}
	for name, path := range c.Layers {
		in.Layers = append(in.Layers, plan.Layer{Name: name, Size: stat(t, path)})
	}
	d := spec.Definition{Disk: spec.Size(size)}
	d.ApplyDefaults()
	p, err := plan.New(&d, in)
	if err != nil {
		t.Fatal(err)
	}
	return p.Layout
}

// Image composes a disk of size bytes, closed when the test ends.
func Image(t testing.TB, size int64, c disk.Contents, floppy []byte) *disk.Image {
	t.Helper()
	c.Floppy = floppy
	return compose(t, Layout(t, size, c), c)
}

// Random composes a disk whose user layer has data and holes at random places.
func Random(t testing.TB, r *rand.Rand) *disk.Image {
	t.Helper()
	c := Files(t)
	size := int64(300+r.Intn(500)) << 20
	user, err := os.Create(c.User)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	if err := user.Truncate(size - 200<<20); err != nil {
		t.Fatal(err)
	}
	for range r.Intn(20) {
		b := make([]byte, 1+r.Intn(300_000))
		if r.Intn(4) > 0 { // else zeros that are data
			r.Read(b)
		}
		if _, err := user.WriteAt(b, r.Int63n(size-200<<20-int64(len(b)))); err != nil {
			t.Fatal(err)
		}
	}
	return compose(t, Layout(t, size, c), c)
}

func compose(t testing.TB, l plan.Layout, c disk.Contents) *disk.Image {
	t.Helper()
	im, err := disk.Compose(l, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return im
}

func stat(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
