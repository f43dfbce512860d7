// Package disk composes one disk from a base and a floppy: partition table,
// boot loader, file systems. The result is not a file but a description, an
// Image: an ordered list of extents, each a range of the disk and where its
// bytes come from. Builder/format turns an Image into a file of some form, so
// nothing is copied twice and nothing is written here.
//
//	LBA 0       boot.img patched, protective MBR       memory
//	LBA 1..33   GPT                                    memory (go-diskfs)
//	bios        core.img patched                       memory
//	esp         FAT32: tables and folders              memory
//	            kernel, initrd, GRUB                   files of the base
//	gridcfg     the floppy                             memory, or absent
//	gridbase    squashfs                               file of the base
//	griduser    ext4 template, its holes left out      file of the base
//	end         backup GPT                             memory
//
// What no extent covers reads as zeros. The bytes are a function of the layout
// and the inputs alone: no clock, no random number, no host state, no root.
//
// An Image holds its files open until Close. It is not safe for concurrent use.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"gridappliance/builder/plan"
)

// Contents are the files and bytes a disk is composed from.
type Contents struct {
	BootImage string            // GRUB's boot.img, 512 bytes
	CoreImage string            // GRUB's core image for BIOS, prefix (,gpt2)/grub
	EFIImage  string            // GRUB's image for UEFI, prefix /grub
	Kernel    string            // vmlinuz
	Initrd    string            // initrd.img
	Layers    map[string]string // partition name -> squashfs
	Patches   map[string]Patch  // partition name -> what is replaced in its layer
	User      string            // the user layer's ext4 template
	Floppy    []byte            // a floppy image, or nil
}

// Patch is bytes that replace others of a file where it goes onto the disk.
type Patch struct {
	Offset int64 // in the file
	Data   []byte
}

// Extent is a range of the disk that has content.
type Extent struct {
	Offset, Length int64 // on the disk, in bytes

	source      io.ReaderAt
	sourceStart int64 // where in source the extent begins
}

// File returns the file the extent's bytes are in and where they begin there;
// the file is nil for bytes in memory.
func (e Extent) File() (*os.File, int64) {
	f, _ := e.source.(*os.File)
	return f, e.sourceStart
}

// readAt fills p from the extent, beginning at off within it. A source that
// ends early is an error: the file changed while the image was made.
func (e Extent) readAt(p []byte, off int64) error {
	n, err := e.source.ReadAt(p, e.sourceStart+off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Image is a disk, described.
type Image struct {
	size    int64
	extents []Extent // ordered, without overlap, inside the disk
	files   []*os.File
}

// Size returns the disk's size in bytes.
func (im *Image) Size() int64 { return im.size }

// Extents returns the ranges that have content, in order.
func (im *Image) Extents() []Extent { return im.extents }

// ReadAt reads the disk as the machine would see it (io.ReaderAt).
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= im.size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > im.size-off {
		p, short = p[:im.size-off], io.EOF
	}
	clear(p)
	end := off + int64(len(p))
	first, _ := slices.BinarySearchFunc(im.extents, off, func(e Extent, off int64) int {
		if e.Offset+e.Length <= off {
			return -1
		}
		return 1
	})
	for _, e := range im.extents[first:] {
		if e.Offset >= end {
			break
		}
		from, to := max(off, e.Offset), min(end, e.Offset+e.Length)
		if err := e.readAt(p[from-off:to-off], from-e.Offset); err != nil {
			return 0, fmt.Errorf("read disk at %d: %w", from, err)
		}
	}
	return len(p), short
}

// Close closes the files of the image.
func (im *Image) Close() error {
	var errs []error
	for _, f := range im.files {
		errs = append(errs, f.Close())
	}
	im.files = nil
	return errors.Join(errs...)
}

// Compose describes the disk of a layout filled with contents. The caller
// closes the Image. The error names the file that is missing or does not fit.
func Compose(layout plan.Layout, c Contents) (*Image, error) {
	im := &Image{size: layout.Size}
	if err := im.compose(layout, c); err != nil {
		im.Close()
		return nil, err
	}
	slices.SortFunc(im.extents, func(a, b Extent) int { return int(min(max(a.Offset-b.Offset, -1), 1)) })
	end := int64(0)
	for _, e := range im.extents {
		if e.Offset < end || e.Length <= 0 || e.Offset+e.Length > im.size {
			im.Close()
			return nil, fmt.Errorf("compose disk: extent at %d of %d bytes overlaps or leaves the disk", e.Offset, e.Length)
		}
		end = e.Offset + e.Length
	}
	return im, nil
}

func (im *Image) compose(layout plan.Layout, c Contents) error {
	if err := im.addTable(layout); err != nil {
		return err
	}
	if err := im.addGRUB(layout, c); err != nil {
		return err
	}
	if err := im.addESP(layout, c); err != nil {
		return err
	}
	if cfg := layout.Partition("gridcfg"); len(c.Floppy) > 0 {
		if int64(len(c.Floppy)) > cfg.Size() {
			return fmt.Errorf("compose gridcfg: a floppy of %d bytes does not fit", len(c.Floppy))
		}
		im.addBytes(cfg.Offset(), c.Floppy)
	}
	for name, path := range c.Layers {
		if err := im.addFile(layout.Partition(name), path); err != nil {
			return err
		}
		if p, ok := c.Patches[name]; ok {
			im.replace(layout.Partition(name).Offset()+p.Offset, p.Data)
		}
	}
	return im.addFile(layout.Partition("griduser"), c.User)
}

// addBytes puts bytes in memory at an offset of the disk.
func (im *Image) addBytes(offset int64, b []byte) {
	if len(b) > 0 {
		im.extents = append(im.extents, Extent{Offset: offset, Length: int64(len(b)), source: bytesAt(b)})
	}
}

// replace puts bytes in the place of those that extents hold there.
func (im *Image) replace(offset int64, b []byte) {
	end := offset + int64(len(b))
	var out []Extent
	for _, e := range im.extents {
		if e.Offset+e.Length <= offset || e.Offset >= end {
			out = append(out, e)
			continue
		}
		if e.Offset < offset {
			head := e
			head.Length = offset - e.Offset
			out = append(out, head)
		}
		if cut := end - e.Offset; cut < e.Length {
			out = append(out, Extent{Offset: end, Length: e.Length - cut, source: e.source, sourceStart: e.sourceStart + cut})
		}
	}
	im.extents = out
	im.addBytes(offset, b)
}

// bytesAt reads from a slice; unlike bytes.Reader it has no state.
type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// addFile puts a file at the beginning of a partition, its holes left out.
func (im *Image) addFile(p plan.Partition, path string) error {
	size, err := im.addFileAt(p.Offset(), path)
	if err == nil && size > p.Size() {
		err = fmt.Errorf("compose %s: %s has %d bytes, the partition %d", p.Name, path, size, p.Size())
	}
	return err
}

// addFileAt puts a file at an offset of the disk and returns its size.
func (im *Image) addFileAt(offset int64, path string) (size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("compose disk: %w", err)
	}
	im.files = append(im.files, f)
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("compose disk: %w", err)
	}
	ranges, err := Ranges(f, info.Size())
	if err != nil {
		return 0, fmt.Errorf("compose disk: find holes of %s: %w", path, err)
	}
	for _, r := range ranges {
		im.extents = append(im.extents, Extent{Offset: offset + r.Start, Length: r.End - r.Start, source: f, sourceStart: r.Start})
	}
	return info.Size(), nil
}
