package base

import (
	"archive/tar"
	"bytes"
	"io"
	"path"
)

// difference returns the layer that makes the image above out of the image
// below when it is stacked on it (overlayfs): what is new or differs in type,
// mode, owner, content or capability; the folders above that, as they are in
// above; and whiteouts for what is gone. Times alone are no difference: what a
// maintainer's script made has the time of its build.
func difference(below, above *image) (*image, error) {
	below.rehome(func(string) bool { return false })
	above.rehome(func(string) bool { return false })
	layer := &image{source: above.source, entries: map[string]*entry{}}
	for name, e := range above.entries {
		same, err := sameEntry(below, above, name)
		if err != nil {
			return nil, err
		}
		if !same {
			layer.entries[name] = e
		}
	}
	for name := range below.entries {
		if above.entries[name] == nil && goneOf(above, name) == name {
			layer.entries[name] = &entry{Header: tar.Header{Name: name, Typeflag: tar.TypeChar}} // 0:0 is a whiteout
		}
	}
	layer.completeLinks(above)
	for name := range layer.entries {
		for p := path.Dir(name); p != "."; p = path.Dir(p) {
			if layer.entries[p] == nil {
				layer.entries[p] = above.entries[p]
			}
		}
	}
	delete(layer.entries, ".")
	return layer, nil
}

// goneOf returns the uppermost path at or above name that is not in above.
func goneOf(above *image, name string) string {
	for p := path.Dir(name); p != "." && above.entries[p] == nil; p = path.Dir(p) {
		name = p
	}
	if p := above.entries[path.Dir(name)]; p != nil && p.Typeflag != tar.TypeDir {
		return "" // what took the folder's place hides all below it
	}
	return name
}

// completeLinks puts the file that a hard link of the layer names into the
// layer too: a link cannot lead from one file system to another.
func (img *image) completeLinks(above *image) {
	for _, e := range img.entries {
		if e.Typeflag == tar.TypeLink && img.entries[e.Linkname] == nil {
			img.entries[e.Linkname] = above.entries[e.Linkname]
		}
	}
}

// sameEntry says whether a name of above is in below and the same there.
func sameEntry(below, above *image, name string) (bool, error) {
	a, b := resolved(below, name), resolved(above, name)
	if a == nil || a.Typeflag != b.Typeflag || a.Mode&0o7777 != b.Mode&0o7777 || a.Uid != b.Uid || a.Gid != b.Gid ||
		a.PAXRecords[xattrCapability] != b.PAXRecords[xattrCapability] {
		return false, nil
	}
	switch b.Typeflag {
	case tar.TypeDir:
		return true, nil
	case tar.TypeReg:
		if a.Size != b.Size {
			return false, nil
		}
		return sameContent(below, above, name)
	}
	return a.Linkname == b.Linkname && a.Devmajor == b.Devmajor && a.Devminor == b.Devminor, nil
}

// resolved returns an entry, of a hard link the file itself.
func resolved(img *image, name string) *entry {
	e := img.entries[name]
	if e != nil && e.Typeflag == tar.TypeLink {
		e = img.entries[e.Linkname]
	}
	return e
}

func sameContent(below, above *image, name string) (bool, error) {
	a, _, err := below.open(name)
	if err != nil {
		return false, err
	}
	b, _, err := above.open(name)
	if err != nil {
		return false, err
	}
	var p, q [64 << 10]byte
	for {
		n, errA := io.ReadFull(a, p[:])
		m, errB := io.ReadFull(b, q[:])
		if n != m || !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		if errA == io.EOF || errA == io.ErrUnexpectedEOF {
			return errB == errA, nil
		}
		if errA != nil {
			return false, errA
		}
		if errB != nil {
			return false, errB
		}
	}
}
