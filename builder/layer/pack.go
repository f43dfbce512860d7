package layer

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/diag"
)

// Pack writes a module of entries to the file out, which appears when it is
// whole. below is the shared files of the layers that the entries were made
// on, usually the base's; nil for a tree that has none. source names the input
// in messages; created is the time of what has none.
//
// Left out: what packages leave that belongs to no layer (leftOut). Entries
// below /bin, /sbin, /lib and /lib64 move below /usr, where the base links
// them.
func Pack(out string, m Manifest, source string, entries []*squashfs.Entry, below compose.Files, created time.Time) error {
	m.Format = Format
	if err := m.check(); err != nil {
		return diag.List{{File: source, Message: err.Error()}}
	}
	var kept []*squashfs.Entry
	full := compose.Files{}
	for _, e := range entries {
		e = mergeUsr(e)
		switch {
		case e == nil || leftOut(e.Path):
		case compose.Shared(e.Path):
			b, err := content(e)
			if err != nil {
				return fmt.Errorf("pack %s: %w", source, err)
			}
			if b != nil {
				full[e.Path] = b
			}
		default:
			kept = append(kept, ownXattrs(e))
		}
	}
	if err := check(source, m.Name, kept).Err(); err != nil {
		return err
	}
	shared := deltas(below, full)
	if err := m.setOwners(source, kept, below, full); err != nil {
		return err
	}
	own := path.Join(Dir, m.Name)
	kept = append(kept, fileEntry(path.Join(own, "module.json"), m.text(), created))
	for p, b := range shared {
		kept = append(kept, fileEntry(path.Join(own, "shared", p), b, created))
	}
	return write(out, source, kept, created)
}

// ownXattrs drops the attributes that no module keeps, such as those by which
// overlayfs remembers where a file was copied from.
func ownXattrs(e *squashfs.Entry) *squashfs.Entry {
	c := *e
	c.Xattrs = map[string]string{}
	for name, v := range e.Xattrs {
		if keptXattr(name) {
			c.Xattrs[name] = v
		}
	}
	return &c
}

// write writes a squashfs to a file that appears when it is whole.
func write(out, source string, entries []*squashfs.Entry, created time.Time) error {
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+"-")
	if err != nil {
		return fmt.Errorf("pack %s: %w", source, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := squashfs.Write(f, entries, created); err != nil {
		return diag.List{{File: source, Message: strings.TrimPrefix(err.Error(), "write squashfs: "), Remedy: "leave it out, or put it elsewhere"}}
	}
	if err := f.Chmod(0o644); err != nil {
		return fmt.Errorf("pack %s: %w", source, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("pack %s: %w", source, err)
	}
	return os.Rename(f.Name(), out)
}

// fileEntry returns a regular file, root's and 0644.
func fileEntry(p string, b []byte, created time.Time) *squashfs.Entry {
	return &squashfs.Entry{Path: p, Mode: squashfs.Regular | 0o644, Size: int64(len(b)), Time: created,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// content returns a regular file's bytes, nil for anything else.
func content(e *squashfs.Entry) ([]byte, error) {
	if e.Type() != squashfs.Regular {
		return nil, nil
	}
	if e.Size > maxShared {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", e.Path, e.Size, maxShared)
	}
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, e.Size)
	_, err = io.ReadFull(r, b)
	return b, err
}

// deltas returns what the shared files of a module have more than below.
// Passwords stay behind, and accounts of persons (ids from 1000 up) too.
func deltas(below, full compose.Files) compose.Files {
	out := compose.Files{}
	for p, text := range full {
		d := compose.Delta(p, below[p], text)
		switch p {
		case "etc/passwd", "etc/group":
			d = compose.SystemAccounts(d)
		case "etc/shadow", "etc/gshadow":
			d = compose.Locked(d)
		case "etc/subuid", "etc/subgid":
			d = nil
		}
		if len(d) > 0 {
			out[p] = d
		}
	}
	for _, pair := range [][2]string{{"etc/passwd", "etc/shadow"}, {"etc/group", "etc/gshadow"}} {
		if d := compose.Only(out[pair[1]], compose.Names(out[pair[0]])); len(d) > 0 {
			out[pair[1]] = d
		} else {
			delete(out, pair[1])
		}
	}
	return out
}

// setOwners records the names of all owners. An owner without a name cannot
// be found again on another base, so it is refused.
func (m *Manifest) setOwners(source string, entries []*squashfs.Entry, below, full compose.Files) error {
	accounts := compose.ParseAccounts(
		compose.Join("etc/passwd", below["etc/passwd"], full["etc/passwd"]), compose.Join("etc/group", below["etc/group"], full["etc/group"]))
	users, groups := byID(accounts.Users), byID(accounts.Groups)
	m.Users, m.Groups = map[string]uint32{}, map[string]uint32{}
	var problems diag.List
	seen := map[string]bool{}
	for _, e := range entries {
		if e.Link != "" {
			continue
		}
		for _, o := range []struct {
			kind  string
			id    uint32
			names map[uint32]string
			into  map[string]uint32
		}{{"user", e.UID, users, m.Users}, {"group", e.GID, groups, m.Groups}} {
			name, ok := o.names[o.id]
			if o.id == 0 {
				continue
			}
			if key := fmt.Sprint(o.kind, o.id); !ok && !seen[key] {
				seen[key] = true
				problems.Add(diag.Problem{File: source, Path: "/" + e.Path, Message: fmt.Sprintf("belongs to %s %d, which has no name", o.kind, o.id),
					Remedy: "give it to root with --owner root, or add the account"})
			}
			if ok {
				o.into[name] = o.id
			}
		}
	}
	return problems.Err()
}

func byID(ids map[string]uint32) map[uint32]string {
	out := map[uint32]string{}
	for name, id := range ids {
		if old, ok := out[id]; !ok || name < old {
			out[id] = name
		}
	}
	return out
}

// inUsr returns a path below one of the base's links to /usr as one below
// /usr: a directory in the link's place would hide all that it leads to.
func inUsr(p string) string {
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if strings.HasPrefix(p, d+"/") {
			return "usr/" + p
		}
	}
	return p
}

// mergeUsr moves what lies below the base's links into /usr; the directories
// and links themselves go.
func mergeUsr(e *squashfs.Entry) *squashfs.Entry {
	switch e.Path {
	case "bin", "sbin", "lib", "lib64":
		return nil
	}
	to, link := inUsr(e.Path), e.Link
	if link != "" {
		link = inUsr(link)
	}
	if to == e.Path && link == e.Link {
		return e
	}
	c := *e
	c.Path, c.Link = to, link
	return &c
}

// leftOut says whether a path belongs to no layer: locks, caches, backups,
// what the machine makes anew.
func leftOut(p string) bool {
	for _, d := range []string{"dev", "proc", "run", "sys", "tmp", "var/tmp", "var/cache/apt", "var/cache/ldconfig", "var/cache/debconf",
		"var/lib/apt/lists", "var/lib/dpkg/updates", "var/lib/dpkg/parts", "var/log"} {
		if p == d || strings.HasPrefix(p, d+"/") {
			return true
		}
	}
	switch p {
	case "etc/.pwd.lock", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
		"etc/machine-id", "etc/resolv.conf", "etc/hostname", "etc/hosts", "var/lib/dpkg/available", "var/lib/dpkg/triggers/Lock":
		return true
	}
	return strings.HasPrefix(p, "var/lib/dpkg/") && (strings.HasSuffix(p, "-old") || strings.HasPrefix(path.Base(p), "lock"))
}
