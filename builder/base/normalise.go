package base

import (
	"archive/tar"
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"time"
)

// image is the content of the image's root, entry by entry: what mmdebstrap
// left, changed by a layout and by added files, ready to be written sorted.
type image struct {
	source  *os.File // the tar that entries with an offset lie in
	entries map[string]*entry
}

// entry is one file of the image. Its data is data, or else size bytes at
// offset of the source.
type entry struct {
	tar.Header
	offset int64
	data   []byte
}

// readImage indexes a tar. The file stays open until the image was written.
func readImage(source *os.File) (*image, error) {
	img := &image{source: source, entries: map[string]*entry{}}
	counted := &offsetReader{r: bufio.NewReaderSize(source, 1<<20)}
	r := tar.NewReader(counted)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return img, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read tree %s: %w", source.Name(), err)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		if strings.HasPrefix(name, "..") {
			return nil, fmt.Errorf("read tree %s: %q leaves the tree", source.Name(), h.Name)
		}
		h.Name = name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = path.Clean(h.Linkname)
		}
		img.entries[name] = &entry{Header: *h, offset: counted.n}
	}
}

// offsetReader counts; archive/tar reads headers block by block, so that
// after Next the count is where the entry's data begins.
type offsetReader struct {
	r io.Reader
	n int64
}

func (o *offsetReader) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	o.n += int64(n)
	return n, err
}

// open returns a file's data, following hard links.
func (img *image) open(name string) (io.Reader, int64, error) {
	e := img.entries[name]
	if e != nil && e.Typeflag == tar.TypeLink {
		e = img.entries[e.Linkname]
	}
	if e == nil || e.Typeflag != tar.TypeReg {
		return nil, 0, fmt.Errorf("read %s of the tree: no such file", name)
	}
	if e.data != nil {
		return bytes.NewReader(e.data), e.Size, nil
	}
	return io.NewSectionReader(img.source, e.offset, e.Size), e.Size, nil
}

func (img *image) readFile(name string) ([]byte, error) {
	r, _, err := img.open(name)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// glob returns the names that match, sorted.
func (img *image) glob(pattern string) []string {
	var names []string
	for n := range img.entries {
		if ok, _ := path.Match(pattern, n); ok {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	return names
}

// drop removes what the layout leaves out, after making its copies. A hard
// link whose target goes becomes the file itself.
func (img *image) drop(l *layout) error {
	copies := map[string][]byte{}
	for _, r := range l.make {
		if r.kind == 'C' {
			data, err := img.readFile(r.target)
			if err != nil {
				return fmt.Errorf("lay out /%s: %w", r.path, err)
			}
			copies[r.path] = data
		}
	}
	var gone []string
	for n := range img.entries {
		if n != "." && !l.keeps(n) {
			gone = append(gone, n)
		}
	}
	img.rehome(func(n string) bool { return !l.keeps(n) })
	for _, n := range gone {
		delete(img.entries, n)
	}
	for n, data := range copies {
		img.addFile(n, 0o644, data)
	}
	return nil
}

// rehome moves the data of every file with hard links to the first of its
// names, in sorted order, that is not lost.
func (img *image) rehome(lost func(string) bool) {
	links := map[string][]string{}
	for n, e := range img.entries {
		if e.Typeflag == tar.TypeLink {
			links[e.Linkname] = append(links[e.Linkname], n)
		}
	}
	for target, names := range links {
		names = append(names, target)
		sort.Slice(names, func(i, j int) bool { return treeLess(names[i], names[j]) })
		first := ""
		for _, n := range names {
			if first == "" && !lost(n) {
				first = n
			}
		}
		file := img.entries[target]
		if first == "" || first == target || file == nil {
			continue
		}
		for _, n := range names {
			link := &entry{Header: tar.Header{Name: n, Typeflag: tar.TypeLink, Linkname: first}}
			img.entries[n] = link
		}
		file.Name = first
		img.entries[first] = file
	}
}

// addFile adds or replaces a regular file.
func (img *image) addFile(name string, mode int64, data []byte) {
	if data == nil {
		data = []byte{}
	}
	img.addParents(name)
	img.entries[name] = &entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}, data: data}
}

// addLink adds a symbolic link in place of whatever is there.
func (img *image) addLink(name, target string) {
	img.addParents(name)
	for n := range img.entries {
		if strings.HasPrefix(n, name+"/") {
			delete(img.entries, n)
		}
	}
	img.entries[name] = &entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

// addParents adds the directories above name that are missing, root 0755.
func (img *image) addParents(name string) {
	for p := path.Dir(name); p != "."; p = path.Dir(p) {
		if img.entries[p] == nil {
			img.entries[p] = &entry{Header: tar.Header{Name: p, Typeflag: tar.TypeDir, Mode: 0o755}}
		}
	}
}

// arrange applies the rules of a layout that make something.
func (img *image) arrange(l *layout) error {
	users, err := img.ids("etc/passwd")
	if err != nil {
		return err
	}
	groups, err := img.ids("etc/group")
	if err != nil {
		return err
	}
	for _, r := range l.make {
		switch r.kind {
		case 'L':
			img.addLink(r.path, r.target)
			continue
		case 'C':
			continue // made by drop, while its source was there
		}
		uid, ok1 := users[r.user]
		gid, ok2 := groups[r.group]
		if !ok1 || !ok2 {
			return fmt.Errorf("lay out /%s: no account %s, group %s in the tree", r.path, r.user, r.group)
		}
		e := img.entries[r.path]
		switch {
		case r.kind == 'd' && e == nil:
			img.addParents(r.path)
			e = &entry{Header: tar.Header{Name: r.path, Typeflag: tar.TypeDir}}
			img.entries[r.path] = e
		case r.kind == 'd' && e.Typeflag != tar.TypeDir:
			return fmt.Errorf("lay out /%s: it is there and no directory", r.path)
		case r.kind == 'f' && (e == nil || e.Typeflag != tar.TypeReg):
			return fmt.Errorf("lay out /%s: no such file", r.path)
		}
		e.Mode, e.Uid, e.Gid = r.mode, uid, gid
	}
	return nil
}

// ids reads the third column of a passwd or group file.
func (img *image) ids(name string) (map[string]int, error) {
	text, err := img.readFile(name)
	if err != nil {
		return nil, err
	}
	ids := map[string]int{}
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Split(line, ":")
		if len(f) > 2 {
			var id int
			if _, err := fmt.Sscanf(f[2], "%d", &id); err == nil {
				ids[f[0]] = id
			}
		}
	}
	return ids, nil
}

// xattrCapability is the only extended attribute that the image carries:
// what setcap(8) leaves.
const xattrCapability = "SCHILY.xattr.security.capability"

// write writes the image as a tar: sorted, every directory before its
// content, times at most epoch, owners by number. The root itself has no
// entry: mksquashfs takes none and is told about it by options.
func (img *image) write(w io.Writer, epoch time.Time) error {
	img.rehome(func(string) bool { return false })
	names := make([]string, 0, len(img.entries))
	for n := range img.entries {
		if n != "." {
			names = append(names, n)
		}
	}
	sort.Slice(names, func(i, j int) bool { return treeLess(names[i], names[j]) })
	buffered := bufio.NewWriterSize(w, 1<<20)
	out := tar.NewWriter(buffered)
	for _, n := range names {
		if p := img.entries[path.Dir(n)]; path.Dir(n) != "." && (p == nil || p.Typeflag != tar.TypeDir) {
			return fmt.Errorf("write tree: %s has no directory above it", n)
		}
		h := img.entries[n].normalised(epoch)
		if err := out.WriteHeader(&h); err != nil {
			return fmt.Errorf("write tree: %s: %w", n, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		r, _, err := img.open(n)
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, r); err != nil {
			return fmt.Errorf("write tree: %s: %w", n, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write tree: %w", err)
	}
	return buffered.Flush()
}

func (e *entry) normalised(epoch time.Time) tar.Header {
	h := tar.Header{
		Typeflag: e.Typeflag, Name: e.Name, Linkname: e.Linkname, Mode: e.Mode & 0o7777, Uid: e.Uid, Gid: e.Gid,
		Devmajor: e.Devmajor, Devminor: e.Devminor, ModTime: e.ModTime.Truncate(time.Second), Format: tar.FormatPAX,
	}
	if h.Typeflag == tar.TypeReg {
		h.Size = e.Size
	}
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
		h.ModTime = epoch // else when it was made depends on the host's mmdebstrap
	}
	if h.ModTime.IsZero() || h.ModTime.Unix() <= 0 || h.ModTime.After(epoch) {
		h.ModTime = epoch
	}
	if v, ok := e.PAXRecords[xattrCapability]; ok {
		h.PAXRecords = map[string]string{xattrCapability: v}
	}
	return h
}

// treeLess orders paths so that a directory's content directly follows it.
func treeLess(a, b string) bool {
	return strings.ReplaceAll(a, "/", "\x00") < strings.ReplaceAll(b, "/", "\x00")
}
