package base

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"time"

	"gridappliance/builder/layer"
	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
)

// maxRead bounds a file that is read out of a base.
const maxRead = 64 << 20 // bytes

// root opens the base's root file system; the caller closes the file after use.
func (b *Base) root() (*squashfs.Image, *os.File, error) {
	f, err := os.Open(b.Path(Squashfs))
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
	return nil, nil, fmt.Errorf("read %s: %w", b.Path(Squashfs), err)
}

// ReadFile returns a file of the base's root file system.
func (b *Base) ReadFile(name string) ([]byte, error) {
	im, f, err := b.root()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := im.ReadFile(name, maxRead)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, b.Path(Squashfs), err)
	}
	return text, nil
}

// shared returns the base's files that layers share.
func (b *Base) shared() (compose.Files, error) {
	im, f, err := b.root()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return layer.SharedFiles(im)
}

var tarTypes = map[byte]uint32{
	tar.TypeReg: squashfs.Regular, tar.TypeDir: squashfs.Dir, tar.TypeSymlink: squashfs.Symlink, tar.TypeChar: squashfs.Char,
	tar.TypeBlock: squashfs.Block, tar.TypeFifo: squashfs.FIFO,
}

// squashEntries returns the image as entries of a squashfs, times at most epoch.
func (img *image) squashEntries(epoch time.Time) []*squashfs.Entry {
	img.rehome(func(string) bool { return false })
	var out []*squashfs.Entry
	for name, e := range img.entries {
		if e.Typeflag == tar.TypeLink {
			out = append(out, &squashfs.Entry{Path: name, Link: e.Linkname})
			continue
		}
		h := e.normalised(epoch)
		s := &squashfs.Entry{Path: name, Mode: tarTypes[h.Typeflag] | uint32(h.Mode), UID: uint32(h.Uid), GID: uint32(h.Gid), Time: h.ModTime,
			Size: h.Size, Target: h.Linkname, Major: uint32(h.Devmajor), Minor: uint32(h.Devminor)}
		if v, ok := h.PAXRecords[xattrCapability]; ok {
			s.Xattrs = map[string]string{"security.capability": v}
		}
		if h.Typeflag == tar.TypeReg {
			s.Open = func() (io.ReadCloser, error) {
				r, _, err := img.open(name)
				return io.NopCloser(r), err
			}
		}
		out = append(out, s)
	}
	return out
}
