package plan

import (
	"fmt"
	"path"
	"strings"

	"gridappliance/builder/spec"
)

// Ingredient is something that goes into an image, and where it is now.
type Ingredient struct {
	Name  string // "base", "lock", the partition of a layer
	What  string // which one
	Size  int64  // bytes
	Guess bool   // Size is one
	Where string // "in the store", a file, or what a build does to have it
}

// File is one file that will be written.
type File struct {
	Path  string // with slashes, relative to the output folder
	Size  int64  // bytes as listed, holes counted
	About bool   // Size is an estimate
	Held  int64  // about how many bytes it takes of the medium
}

// What estimates are made of, in bytes, measured on images of 2026-11.
const (
	userData = 420 << 10 // what is not zero in the user layer's template
	coarse   = 11 << 20  // more in blocks of 1 MiB, which the template's tables touch all over the disk
	textSize = 2 << 10   // a descriptor or text
	floppyOf = 1_474_560 // exact: floppy.Size, which this package does not know
)

// Contents returns about how many bytes of the disk are not zero.
func (p *Plan) Contents() int64 {
	total := p.boot + p.kernel + p.initrd + userData
	for _, l := range p.Layers {
		total += l.Size
	}
	if p.Private {
		total += floppyOf
	}
	return total
}

// Written returns the files of an output with their sizes: exact where the
// form decides them, else an estimate. Compression adds nothing to it, since
// layers, kernel and initrd are compressed already.
func (p *Plan) Written(o Output) []File {
	var files []File
	for _, name := range o.Files {
		f := File{Path: path.Join(o.Folder, name), Size: textSize, About: true}
		switch strings.TrimPrefix(name, o.Stem) {
		case ".raw":
			f.Size, f.About, f.Held = p.Layout.Size, false, p.Contents()
		case ".qcow2", ".vmdk", ".ova":
			f.Size = p.Contents()
		case ".vdi":
			f.Size = p.Contents() + coarse
		case ".flp", ".img":
			f.Size, f.About = floppyOf, false
		case ".vmlinuz":
			f.Size, f.About = p.kernel, false
		case ".initrd":
			f.Size, f.About = p.initrd, false
		}
		if f.Held == 0 {
			f.Held = f.Size
		}
		files = append(files, f)
	}
	return files
}

// String returns "grid.qcow2, about 189.7 MB".
func (f File) String() string {
	switch {
	case f.Held != f.Size:
		return fmt.Sprintf("%s, %v, about %s of it stored", f.Path, spec.Size(f.Size), decimal(f.Held))
	case f.About:
		return f.Path + ", about " + decimal(f.Size)
	}
	return f.Path + ", " + decimal(f.Size)
}

// String returns "gridmod1  module cad 1, 30.1 MB: in the store".
func (i Ingredient) String() string {
	s := i.Name + "  " + i.What
	switch {
	case i.Guess:
		s += ", about " + decimal(i.Size)
	case i.Size > 0:
		s += ", " + decimal(i.Size)
	}
	return s + ": " + i.Where
}

// decimal returns "189.7 MB" or "2.0 KB".
func decimal(n int64) string {
	if n < 1e6 {
		return fmt.Sprintf("%.1f KB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
