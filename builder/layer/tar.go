package layer

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"gridappliance/builder/squashfs"
	"gridappliance/internal/diag"
)

// maxTree bounds what a packed tar may unpack to.
const maxTree = 64 << 30 // bytes

// Source is what a module is packed from. Its entries read their content from
// it, so it is closed after Pack.
type Source struct {
	Name    string // as the user named it
	Entries []*squashfs.Entry
	files   []*os.File
	remove  string
}

// Close closes the source's files.
func (s *Source) Close() {
	for _, f := range s.files {
		f.Close()
	}
	if s.remove != "" {
		os.Remove(s.remove)
	}
}

// OpenSource opens a folder or a tar: plain, or packed by gzip, xz or zstd,
// which is told by its first bytes.
func OpenSource(name string) (*Source, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	s := &Source{Name: name}
	if info.IsDir() {
		s.Entries, err = ReadDir(name)
	} else {
		err = s.openTar(name)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Source) openTar(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	s.files = append(s.files, f)
	unpacked, err := unpack(f)
	if err != nil {
		return diag.List{{File: name, Message: "cannot be unpacked: " + err.Error(), Remedy: "give a tar, plain or packed by gzip, xz or zstd"}}
	}
	if unpacked != f {
		s.files, s.remove = append(s.files, unpacked), unpacked.Name()
	}
	s.Entries, err = ReadTar(name, unpacked)
	return err
}

// unpack returns f, or a temporary file with what f unpacks to.
func unpack(f *os.File) (*os.File, error) {
	head := make([]byte, 6)
	n, _ := f.ReadAt(head, 0)
	var r io.Reader
	var err error
	switch h := string(head[:n]); {
	case strings.HasPrefix(h, "\x1f\x8b"):
		r, err = gzip.NewReader(bufio.NewReader(f))
	case strings.HasPrefix(h, "\xfd7zXZ"):
		r, err = xz.NewReader(bufio.NewReader(f))
	case strings.HasPrefix(h, "\x28\xb5\x2f\xfd"):
		r, err = zstd.NewReader(f)
	default:
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	out, err := os.CreateTemp("", "grid-module-")
	if err != nil {
		return nil, err
	}
	n64, err := io.Copy(out, io.LimitReader(r, maxTree+1))
	if err == nil && n64 > maxTree {
		err = fmt.Errorf("more than %d bytes", int64(maxTree))
	}
	if err != nil {
		out.Close()
		os.Remove(out.Name())
		return nil, err
	}
	return out, nil
}

// ReadTar indexes a plain tar; name is for messages, r is read again when the
// entries' content is. The error lists every entry that climbs out, by its
// own path, by a hard link or through a symbolic link.
func ReadTar(name string, r io.ReadSeeker) ([]*squashfs.Entry, error) {
	at, ok := r.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("read %s: it cannot be read from any place", name)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	counted := &counter{r: bufio.NewReaderSize(r, 1<<20)}
	tr := tar.NewReader(counted)
	tree := &tarTree{name: name, byPath: map[string]*squashfs.Entry{}}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, diag.List{{File: name, Message: "is no whole tar: " + err.Error(), Remedy: "make it again"}}
		}
		tree.add(h, at, counted.n)
	}
	tree.climbing()
	if err := tree.problems.Err(); err != nil {
		return nil, err
	}
	var out []*squashfs.Entry
	for _, p := range tree.order {
		if e := tree.byPath[p]; p != "." || len(e.Xattrs) > 0 {
			out = append(out, e)
		}
	}
	return out, nil
}

// counter counts; archive/tar reads headers block by block, so that after
// Next the count is where the entry's data begins.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

type tarTree struct {
	name     string
	byPath   map[string]*squashfs.Entry
	order    []string
	problems diag.List
}

func (t *tarTree) refuse(p, message, remedy string) {
	t.problems.Add(diag.Problem{File: t.name, Path: p, Message: message, Remedy: remedy})
}

var tarTypes = map[byte]uint32{tar.TypeReg: squashfs.Regular, tar.TypeDir: squashfs.Dir, tar.TypeSymlink: squashfs.Symlink,
	tar.TypeChar: squashfs.Char, tar.TypeBlock: squashfs.Block, tar.TypeFifo: squashfs.FIFO}

func (t *tarTree) add(h *tar.Header, at io.ReaderAt, offset int64) {
	p := path.Clean(strings.TrimPrefix(strings.TrimPrefix(h.Name, "/"), "./"))
	for _, part := range strings.Split(h.Name, "/") {
		if part == ".." {
			t.refuse(h.Name, "is a path that climbs out", "make the tar from inside the folder")
			return
		}
	}
	e := &squashfs.Entry{Path: p, UID: uint32(h.Uid), GID: uint32(h.Gid), Time: h.ModTime, Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
		Target: "", Xattrs: map[string]string{}}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return
	case tar.TypeLink:
		to := path.Clean(strings.TrimPrefix(h.Linkname, "./"))
		if !squashfs.Clean(to) {
			t.refuse(h.Name, "is a hard link to "+h.Linkname+", which climbs out", "put the file itself into the tar")
			return
		}
		e = &squashfs.Entry{Path: p, Link: to}
	default:
		kind, ok := tarTypes[h.Typeflag]
		if !ok {
			t.refuse(h.Name, fmt.Sprintf("is of the kind %q, which no module holds", h.Typeflag), "leave it out")
			return
		}
		e.Mode = kind | uint32(h.Mode)&0o7777
		if kind == squashfs.Symlink {
			e.Target = h.Linkname
		}
		if kind == squashfs.Regular {
			e.Size = h.Size
			e.Open = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(at, offset, h.Size)), nil }
		}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && keptXattr(name) {
				e.Xattrs[name] = v
			}
		}
	}
	if t.byPath[p] == nil {
		t.order = append(t.order, p)
	}
	t.byPath[p] = e // a later entry replaces an earlier one, as in unpacking
}

// climbing refuses what lies behind a symbolic link, and hard links to what
// is not there.
func (t *tarTree) climbing() {
	for _, p := range t.order {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if e := t.byPath[d]; e != nil && e.Link == "" && e.Type() == squashfs.Symlink {
				t.refuse(p, "lies behind the link "+d+" to "+e.Target+", and so would climb out", "put it where the link leads")
				break
			}
		}
		if l := t.byPath[p].Link; l != "" && (t.byPath[l] == nil || t.byPath[l].Link != "" || t.byPath[l].Type() == squashfs.Dir) {
			t.refuse(p, "is a hard link to "+l+", which is no file of the tar", "put the file itself into the tar")
		}
	}
}

// keptXattr says which extended attributes a module keeps: what setcap(8)
// leaves, the user's own, and the mark of an opaque directory.
func keptXattr(name string) bool {
	return name == "security.capability" || name == squashfs.OpaqueXattr || strings.HasPrefix(name, "user.")
}
