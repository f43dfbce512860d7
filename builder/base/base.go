// Package base builds, keeps, fetches and opens bases: the read-only Debian
// system that every image of this project starts from.
//
// A base is a folder:
//
//	base.squashfs     the root file system, zstd
//	vmlinuz           Debian's kernel
//	initrd.img        our /init and the modules it needs, zstd
//	grub-boot.img     BIOS boot sector and
//	grub-core.img     core, to be patched with the place of the core on the disk
//	grub-bootx64.efi  UEFI boot loader
//	user.ext4         template of the user partition: sparse, changes/ work/ state/
//	base.lock         every Debian package by SHA-256
//	manifest.json     what went in, and the SHA-256 of each file above
//
// It is built in steps, each a pure function of what stands left of its arrow:
//
//	archives           -> base.lock                   resolve (apt, signatures checked)
//	base.lock          -> store/debs                  download
//	[tools] of it      -> store/tools                 unpacked, run through their own loader
//	[base] of it       -> store/trees                 mmdebstrap from a local archive, offline
//	tree, images, units, programs -> base.squashfs    sorted, times clamped, trimmed
//	tree, images, /init           -> initrd.img
//	tools              -> GRUB, user.ext4
//
// Invariants: for an equal lock and equal programs the bytes are equal,
// whoever builds, root or an ordinary user, wherever and whenever; no program
// of the host shapes them but mmdebstrap, apt and dpkg-deb. A folder appears
// under its name only when it is whole. No step needs root, a loop device or
// a mount outside a user namespace.
//
// Building works on Debian and Ubuntu, amd64; opening, checking and fetching
// work everywhere. Everything is safe for concurrent use, also by several
// processes on one store.
package base

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"gridappliance/builder/manifest"
)

// The files of a base.
const (
	Squashfs = "base.squashfs"
	Kernel   = "vmlinuz"
	Initrd   = "initrd.img"
	GRUBBoot = "grub-boot.img"
	GRUBCore = "grub-core.img"
	GRUBEFI  = "grub-bootx64.efi"
	User     = "user.ext4"
	LockFile = "base.lock"
	Manifest = "manifest.json"
)

// files are all files of a base but the manifest, in its order.
var files = []string{LockFile, Squashfs, GRUBBoot, GRUBEFI, GRUBCore, Initrd, User, Kernel}

// idLength is how many hex digits of a SHA-256 name things in the store.
const idLength = 32

// Base is an opened base.
type Base struct {
	Dir      string // absolute
	Manifest *manifest.Manifest
}

// Open opens the base in dir and checks that every file is there with the
// size its manifest says; Verify also reads them.
func Open(dir string) (*Base, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open base %s: %w", dir, err)
	}
	text, err := os.ReadFile(filepath.Join(abs, Manifest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open base %s: no %s in it: not a base, or an unfinished one", dir, Manifest)
	}
	if err != nil {
		return nil, fmt.Errorf("open base %s: %w", dir, err)
	}
	m, err := manifest.Parse(filepath.Join(dir, Manifest), text)
	if err != nil {
		return nil, fmt.Errorf("open base %s: %w", dir, err)
	}
	b := &Base{Dir: abs, Manifest: m}
	for _, name := range files {
		f, ok := m.File(name)
		if !ok {
			return nil, fmt.Errorf("open base %s: its manifest does not name %s", dir, name)
		}
		info, err := os.Stat(b.Path(name))
		if err != nil {
			return nil, fmt.Errorf("open base %s: %w", dir, err)
		}
		if info.Size() != f.Size {
			return nil, fmt.Errorf("open base %s: %s has %d bytes, its manifest says %d", dir, name, info.Size(), f.Size)
		}
	}
	return b, nil
}

// Path returns the path of one of the base's files.
func (b *Base) Path(name string) string { return filepath.Join(b.Dir, name) }

// Verify reads every file and compares its SHA-256 with the manifest.
func (b *Base) Verify() error {
	for _, f := range b.Manifest.Files {
		sum, _, err := hashFile(b.Path(f.Name))
		if err != nil {
			return fmt.Errorf("verify base %s: %w", b.Dir, err)
		}
		if sum != f.SHA256 {
			return fmt.Errorf("verify base %s: %s is not what the manifest says: build or fetch it again", b.Dir, f.Name)
		}
	}
	return nil
}

// Is compares the manifest's SHA-256 with the one that somebody named; the
// manifest names that of every other file. "" is any.
func (b *Base) Is(sha256 string) error {
	if sha256 == "" {
		return nil
	}
	sum, _, err := hashFile(b.Path(Manifest))
	if err != nil {
		return fmt.Errorf("open base %s: %w", b.Dir, err)
	}
	if sum != sha256 {
		return fmt.Errorf("open base %s: the sha256 of its manifest is %s, not the %s asked for", b.Dir, sum, sha256)
	}
	return nil
}

// List returns the bases of a store, the newest last: that of the newest
// packages, and of two with the same the one made later.
func List(s *Store) ([]*Base, error) {
	entries, err := os.ReadDir(s.path("bases"))
	if err != nil {
		return nil, fmt.Errorf("list bases: %w", err)
	}
	type dated struct {
		b *Base
		t int64
	}
	var found []dated
	for _, e := range entries {
		b, err := Open(s.path("bases", e.Name()))
		if err != nil {
			continue // what cannot be opened is no base
		}
		info, err := os.Stat(b.Path(Manifest))
		if err != nil {
			continue
		}
		found = append(found, dated{b, info.ModTime().UnixNano()})
	}
	sort.SliceStable(found, func(i, j int) bool {
		a, b := found[i].b.Manifest.Time, found[j].b.Manifest.Time
		return a.Before(b) || a.Equal(b) && found[i].t < found[j].t
	})
	out := make([]*Base, len(found))
	for i, f := range found {
		out[i] = f.b
	}
	return out, nil
}

// Find returns the base of a store whose id begins with prefix, the newest
// where several do; the empty prefix is the newest of all. ErrNoBase is
// wrapped when there is none.
func Find(s *Store, prefix string) (*Base, error) {
	all, err := List(s)
	if err != nil {
		return nil, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if strings.HasPrefix(all[i].Manifest.ID, prefix) {
			return all[i], nil
		}
	}
	if prefix != "" {
		return nil, fmt.Errorf("find base %s: %w (builder base list shows them)", prefix, ErrNoBase)
	}
	return nil, fmt.Errorf("find a base: %w (builder base build makes one)", ErrNoBase)
}

// ErrNoBase is wrapped where a store has no such base.
var ErrNoBase = errors.New("none in the store")
