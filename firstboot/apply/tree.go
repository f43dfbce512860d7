package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
)

// Tree is the root that is being changed, and the only way to change it. Every
// change is a sequence of steps, each of which the kernel does whole or not at
// all:
//
//	file    create temp · write · own · sync · rename · sync folder
//	link    create temp · rename · sync folder
//	folder  make temp · own · rename · sync folder above; own alone when it is there
//	remove  remove · sync folder
//
// so that ending the process, or the machine, between any two leaves the old
// file or the new one under the name, and at most a temporary beside it (see
// tempOf), which the next Apply removes.
//
// Paths are relative to the root and never leave it, whatever links stand in
// it (os.Root). A Tree is for one goroutine.
type Tree struct {
	root *os.Root
	// own says whether owners are set and compared: only root can.
	own bool
	// Before, when set, is called before each step with its name and path; its
	// error ends this and every later step. Tests die here.
	Before func(step, path string) error
	ended  error
	lock   *os.File // held by Lock, nil without
	passwd *os.File // held by LockAccounts, nil without
}

// Open opens the tree at dir. Close releases it.
func Open(dir string) (*Tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Tree{root: root, own: os.Geteuid() == 0}, nil
}

// Close releases the tree; it is of no use afterwards.
func (t *Tree) Close() error {
	for _, f := range []*os.File{t.passwd, t.lock} {
		if f != nil {
			f.Close()
		}
	}
	return t.root.Close()
}

// ReadFile returns the contents of a file; the error is as os.ReadFile's.
func (t *Tree) ReadFile(name string) ([]byte, error) { return t.root.ReadFile(name) }

// do runs one step.
func (t *Tree) do(step, name string, f func() error) error {
	if t.ended == nil && t.Before != nil {
		t.ended = t.Before(step, name)
	}
	if t.ended != nil {
		return t.ended
	}
	if err := f(); err != nil {
		return fmt.Errorf("%s %s: %w", step, name, plain(err))
	}
	return nil
}

// plain takes the operation and path out of err: do names its own.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// owner is who a file belongs to; the zero value is root.
type owner struct{ uid, gid int }

// standing returns mode and owner of the file name, which a new one in its
// place keeps; without it there they are mode and root.
func (t *Tree) standing(name string, mode fs.FileMode) (fs.FileMode, owner) {
	info, err := t.root.Stat(name)
	if err != nil {
		return mode, owner{}
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return info.Mode().Perm(), owner{int(stat.Uid), int(stat.Gid)}
	}
	return info.Mode().Perm(), owner{}
}

// tempOf is the name under which a new file grows before it is renamed.
func tempOf(name string) string {
	return path.Join(path.Dir(name), "."+path.Base(name)+".grid-new")
}

// writeFile puts a whole file in name's place.
func (t *Tree) writeFile(name string, content []byte, mode fs.FileMode, owner owner) error {
	temp := tempOf(name)
	var f *os.File
	err := t.do("create", temp, func() (err error) {
		f, err = t.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close()
	steps := []struct {
		step string
		f    func() error
	}{
		{"write", func() error { _, err := f.Write(content); return err }},
		{"own", func() error {
			if t.own {
				if err := f.Chown(owner.uid, owner.gid); err != nil {
					return err
				}
			}
			return f.Chmod(mode)
		}},
		{"sync", f.Sync},
		{"rename", func() error { return t.root.Rename(temp, name) }},
	}
	for _, s := range steps {
		if err := t.do(s.step, name, s.f); err != nil {
			return err
		}
	}
	return t.syncDir(path.Dir(name))
}

// writeLink puts a symbolic link in name's place.
func (t *Tree) writeLink(name, target string) error {
	temp := tempOf(name)
	err := t.do("create", temp, func() error {
		if err := t.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return t.root.Symlink(target, temp)
	})
	if err != nil {
		return err
	}
	if err := t.do("rename", name, func() error { return t.root.Rename(temp, name) }); err != nil {
		return err
	}
	return t.syncDir(path.Dir(name))
}

// makeDir makes the folder name, or changes the owner and mode of the one
// there.
func (t *Tree) makeDir(name string, mode fs.FileMode, owner owner) error {
	own := func(name string) error {
		return t.do("own", name, func() error {
			if t.own {
				if err := t.root.Lchown(name, owner.uid, owner.gid); err != nil {
					return err
				}
			}
			return t.root.Chmod(name, mode)
		})
	}
	if info, err := t.root.Lstat(name); err == nil && info.IsDir() {
		return own(name)
	}
	temp := tempOf(name)
	err := t.do("make", temp, func() error {
		err := t.root.Mkdir(temp, 0o700)
		if errors.Is(err, fs.ErrExist) { // left by an earlier end
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := own(temp); err != nil {
		return err
	}
	if err := t.do("rename", name, func() error { return t.root.Rename(temp, name) }); err != nil {
		return err
	}
	return t.syncDir(path.Dir(name))
}

// remove removes a file, a link or an empty folder. A name that is not there
// is fine, and so is a folder in which something else stands.
func (t *Tree) remove(name string) error {
	err := t.do("remove", name, func() error {
		err := t.root.Remove(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return t.syncDir(path.Dir(name))
}

// touch makes an empty file where there is none.
func (t *Tree) touch(name string) error {
	if _, err := t.root.Lstat(name); err == nil {
		return nil
	}
	return t.do("create", name, func() error {
		f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	})
}

// ensureDir makes a folder and its parents where they are missing.
func (t *Tree) ensureDir(name string, mode fs.FileMode) error {
	if _, err := t.root.Stat(name); err == nil {
		return nil
	}
	if dir := path.Dir(name); dir != "." {
		if err := t.ensureDir(dir, 0o755); err != nil {
			return err
		}
	}
	return t.makeDir(name, mode, owner{})
}

// removeInside removes everything below the folder name, but for the names in
// keep directly in it. A folder that is not there is empty.
func (t *Tree) removeInside(name string, keep ...string) error {
	entries, err := fs.ReadDir(t.root.FS(), name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains(keep, e.Name()) {
			continue
		}
		inner := path.Join(name, e.Name())
		if err := t.do("remove", inner, func() error { return t.root.RemoveAll(inner) }); err != nil {
			return err
		}
	}
	return t.syncDir(name)
}

// overwrite changes the contents of a file where it stands: the only way to
// change a file that is bind-mounted elsewhere. Contents of one sector are
// written whole. A file that is not there stays absent.
func (t *Tree) overwrite(name string, content []byte) error {
	if _, err := t.root.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return t.do("overwrite", name, func() error {
		f, err := t.root.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt(content, 0); err != nil {
			return err
		}
		return f.Truncate(int64(len(content)))
	})
}

// syncDir makes a folder's names last.
func (t *Tree) syncDir(name string) error {
	return t.do("sync", name, func() error {
		f, err := t.root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
}

// Lock waits until no other process holds the tree, and holds it until Close.
func (t *Tree) Lock() error {
	f, err := t.root.Open(".")
	if err != nil {
		return err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("lock tree: %w", err)
	}
	t.lock = f
	return nil
}

// LockAccounts keeps useradd and its like from the account files until Close,
// as lckpwdf(3) does: on an own machine others change accounts too.
func (t *Tree) LockAccounts() error {
	if !t.own {
		return nil
	}
	f, err := t.root.OpenFile("etc/.pwd.lock", os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLKW, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
		f.Close()
		return fmt.Errorf("lock /etc/.pwd.lock: %w", err)
	}
	t.passwd = f
	return nil
}
