package compose

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Carry lets the changes of a machine stand right on the layers that lie
// below them now. user is the user partition, before the layers are stacked:
//
//	changes/   the overlay's upper tree
//	state/     what is mounted over
//	below/     the shared files of the layers as they were, and id, what they were
//	owners     only while Carry gives files to other owners
//
// layers are the mounted trees, the topmost first; id is any text that another
// set of layers has otherwise. Where it is the one of the last time, nothing
// is done. Carry reports whether the layers are others than the last time.
// When it is cut short it goes on the next time.
func Carry(user string, layers []string, id string) (changed bool, err error) {
	c := &carrier{user}
	belowDir := filepath.Join(user, "below")
	if err := restore(belowDir); err != nil {
		return false, err
	}
	was, err := os.ReadFile(filepath.Join(belowDir, "id"))
	first := errors.Is(err, fs.ErrNotExist)
	if err != nil && !first {
		return false, err
	}
	if string(was) == id {
		return false, nil
	}
	now, err := Stacked(layers...)
	if err != nil {
		return false, err
	}
	if !first {
		if err := c.merge(belowDir, now); err != nil {
			return false, err
		}
	}
	now["id"] = []byte(id)
	if err := replaceDir(belowDir, now); err != nil {
		return false, err
	}
	if err := os.Remove(filepath.Join(user, "owners")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return !first, nil
}

type carrier struct{ user string }

// Stacked returns the shared files of mounted trees, the topmost first, as
// their stack shows them.
func Stacked(layers ...string) (Files, error) {
	out := Files{}
	hidden := map[string]bool{}
	for _, l := range layers {
		for _, s := range shared {
			names, err := filepath.Glob(filepath.Join(l, s.pattern))
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				p := strings.TrimPrefix(strings.TrimPrefix(name, l), "/")
				if hidden[p] || !Shared(p) {
					continue
				}
				hidden[p] = true
				info, err := os.Lstat(name)
				if err != nil {
					return nil, err
				}
				if !info.Mode().IsRegular() {
					continue
				}
				if out[p], err = os.ReadFile(name); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

// merge merges every shared file that the machine has of its own.
func (c *carrier) merge(belowDir string, now Files) error {
	mine, err := Stacked(filepath.Join(c.user, "changes"))
	if err != nil {
		return err
	}
	was := Files{}
	for p := range mine {
		b, err := os.ReadFile(filepath.Join(belowDir, p))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		was[p] = b
	}
	merged := Files{}
	for p, text := range mine {
		merged[p] = Merge(p, was[p], text, now[p])
	}
	if err := c.accounts(was, mine, now, merged); err != nil {
		return err
	}
	for p, text := range merged {
		if string(text) == string(mine[p]) {
			continue
		}
		if err := rewrite(filepath.Join(c.user, "changes", p), text); err != nil {
			return fmt.Errorf("merge %s: %w", p, err)
		}
	}
	return nil
}

// accounts gives accounts of the machine that stand where an account of the
// new layers does another number, and all files of accounts whose number
// changed to the new one.
func (c *carrier) accounts(was, mine, now, merged Files) error {
	own := ParseAccounts(either(mine, now, "etc/passwd"), either(mine, now, "etc/group"))
	old := ParseAccounts(was["etc/passwd"], was["etc/group"])
	layers := ParseAccounts(now["etc/passwd"], now["etc/group"])
	all := ParseAccounts(either(merged, now, "etc/passwd"), either(merged, now, "etc/group"))
	placed := Apart(own, old, layers, all)
	passwd, group := Renumber(merged["etc/passwd"], merged["etc/group"], own, placed)
	for p, text := range map[string][]byte{"etc/passwd": passwd, "etc/group": group} {
		if _, have := merged[p]; have {
			merged[p] = text
		}
	}
	final := ParseAccounts(either(merged, now, "etc/passwd"), either(merged, now, "etc/group"))
	return c.chown(owners{Users: moved(own.Users, final.Users), Groups: moved(own.Groups, final.Groups)})
}

func either(a, b Files, p string) []byte {
	if text, ok := a[p]; ok {
		return text
	}
	return b[p]
}

// moved returns old number -> new number of every name that has both.
func moved(old, final map[string]uint32) map[uint32]uint32 {
	out := map[uint32]uint32{}
	for n, id := range old {
		if to, ok := final[n]; ok && to != id {
			out[id] = to
		}
	}
	return out
}

// owners is the file of that name: which owners files get, and how far it is.
// In step 1 an owner gets the new number plus fresh, in step 2 fresh is taken
// off; so a file is never changed twice, wherever a boot was cut short.
type owners struct {
	Users  map[uint32]uint32 `json:"users"`
	Groups map[uint32]uint32 `json:"groups"`
	Step   int               `json:"step"`
}

const fresh = 1 << 30

func (c *carrier) chown(o owners) error {
	name := filepath.Join(c.user, "owners")
	o.Step = 1
	if b, err := os.ReadFile(name); err == nil { // cut short: what was decided then holds
		if err := json.Unmarshal(b, &o); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
	}
	if len(o.Users)+len(o.Groups) == 0 {
		return nil
	}
	for ; o.Step <= 3; o.Step++ {
		b, _ := json.Marshal(o) // numbers: cannot fail
		if err := rewrite(name, b); err != nil {
			return err
		}
		if o.Step == 3 {
			return nil
		}
		for _, tree := range []string{"changes", "state"} {
			if err := c.walk(filepath.Join(c.user, tree), o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *carrier) walk(tree string, o owners) error {
	return filepath.WalkDir(tree, func(name string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		uid, gid := o.step(st.Uid, o.Users), o.step(st.Gid, o.Groups)
		if uid == st.Uid && gid == st.Gid {
			return nil
		}
		return give(name, &st, int(uid), int(gid))
	})
}

func (o owners) step(id uint32, to map[uint32]uint32) uint32 {
	if o.Step == 2 {
		return id &^ fresh
	}
	if n, ok := to[id]; ok {
		return n | fresh
	}
	return id
}

// give changes the owner and keeps what the kernel takes off on the way:
// set-uid bits and capabilities.
func give(name string, st *unix.Stat_t, uid, gid int) error {
	const capability = "security.capability"
	kept := make([]byte, 64)
	n, noCapability := unix.Lgetxattr(name, capability, kept)
	if err := unix.Lchown(name, uid, gid); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	if st.Mode&0o6000 != 0 {
		if err := unix.Chmod(name, st.Mode&0o7777); err != nil {
			return err
		}
	}
	if noCapability == nil {
		return unix.Lsetxattr(name, capability, kept[:n], 0)
	}
	return nil
}

// rewrite replaces a file, or makes it root's and 0600; it keeps mode and owner.
func rewrite(name string, text []byte) error {
	st := unix.Stat_t{Mode: 0o600}
	if err := unix.Lstat(name, &st); err != nil && err != unix.ENOENT {
		return err
	}
	f, err := os.OpenFile(name+".grid-new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(f.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(name+".grid-new", name)
}

// restore puts back what replaceDir had moved away when it was cut short.
func restore(dir string) error {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(dir+".old", dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// replaceDir makes a folder hold exactly files, root's alone.
func replaceDir(dir string, files Files) error {
	for _, d := range []string{dir + ".new", dir + ".old"} {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	for p, b := range files {
		name := filepath.Join(dir+".new", filepath.FromSlash(path.Clean(p)))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			return err
		}
	}
	unix.Sync()
	if err := os.Rename(dir, dir+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(dir+".new", dir); err != nil {
		return err
	}
	return os.RemoveAll(dir + ".old")
}
