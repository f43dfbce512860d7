// Package layer makes and reads modules: a site's software as one file that
// is stacked on any base, and computes the glue layer that makes a stack of
// them one system.
//
//	tar, folder, changes of a machine ──Pack──► x.module ──Open, Order──► Glue ──► partitions of an image
//
// A module is a squashfs. Beside the files it adds it has one folder:
//
//	usr/lib/grid/modules/NAME/module.json   name, version, needs, owners
//	usr/lib/grid/modules/NAME/shared/PATH   what it adds to each file that layers share
//
// Files that layers share (internal/compose: dpkg's status, accounts and so
// on) are never in a module as they are: Pack keeps what they have more than
// the base's, and Glue joins these with the base's of the image, so that one
// module is right on any base. Trust in a module is the SHA-256 of its file,
// in the floppy or the image definition; nothing inside it is signed.
//
// Owners go by name. A module records which name each number in it stands
// for; where it is stacked, the name may have another number, and Glue says
// which four bytes of the squashfs to replace (squashfs.Image.Reown). See
// docs/decisions/0030-module-owners-by-name.md.
//
// Refused, in packing and in opening: devices, sockets, paths, hard links and
// relative symbolic links that climb out, a directory where the layers below
// have a link, files of this package's own folder, a shared file as it is.
//
// Equal inputs make equal bytes. Nothing here needs root but reading what
// only root may read.
package layer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"

	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/diag"
)

// Format is the version of module.json.
const Format = 1

// Dir is the folder of all modules' manifests, below the root.
const Dir = "usr/lib/grid/modules"

// Limits of what is read into memory.
const (
	maxManifest = 1 << 20  // bytes
	maxShared   = 64 << 20 // bytes of one shared file
)

// Manifest is what a module says of itself.
type Manifest struct {
	Format  int               `json:"format"`
	Name    string            `json:"name"`             // [a-z0-9] and inner hyphens, at most 32
	Version string            `json:"version"`          // any text without white space
	Needs   []string          `json:"needs,omitempty"`  // names of modules that must lie below
	Users   map[string]uint32 `json:"users,omitempty"`  // owners in the module by name
	Groups  map[string]uint32 `json:"groups,omitempty"` // groups in the module by name
}

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	versionForm = regexp.MustCompile(`^[^\s/]{1,64}$`)
)

// ValidName says whether s may be the name of a module.
func ValidName(s string) bool { return nameForm.MatchString(s) }

// check returns what is wrong with the manifest.
func (m *Manifest) check() error {
	switch {
	case m.Format != Format:
		return fmt.Errorf("format %d is not known (this builder reads %d)", m.Format, Format)
	case !ValidName(m.Name):
		return fmt.Errorf("%q is not a name (use 1 to 32 lower case letters, digits and inner hyphens)", m.Name)
	case !versionForm.MatchString(m.Version):
		return fmt.Errorf("%q is not a version (use 1 to 64 characters without white space or slashes)", m.Version)
	}
	for _, n := range m.Needs {
		if !ValidName(n) {
			return fmt.Errorf("needs %q, which is not a name", n)
		}
	}
	return nil
}

func (m *Manifest) text() []byte {
	b, _ := json.MarshalIndent(m, "", " ") // strings and numbers: cannot fail
	return append(b, '\n')
}

func parseManifest(text []byte) (*Manifest, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var m Manifest
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	return &m, m.check()
}

// Module is an opened module.
type Module struct {
	Manifest
	File   string // as the user named it
	SHA256 string // of the whole file, hex
	Size   int64  // bytes
	Shared compose.Files
	Image  *squashfs.Image

	file *os.File
}

// Open opens a module and checks all of it. The caller closes it. The error
// is a diag.List where the file is no module or holds what none may.
func Open(name string) (*Module, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open module: %w", err)
	}
	m, err := read(name, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return m, nil
}

func read(name string, f *os.File) (*Module, error) {
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	refuse := func(err error) error {
		return diag.List{{File: name, Message: "not a module: " + err.Error(), Remedy: "builder module pack makes one"}}
	}
	im, err := squashfs.Open(f, size)
	if err != nil {
		return nil, refuse(err)
	}
	m := &Module{File: name, SHA256: hex.EncodeToString(h.Sum(nil)), Size: size, Image: im, file: f, Shared: compose.Files{}}
	found := ""
	for _, e := range im.Entries() {
		if path.Base(e.Path) == "module.json" && path.Dir(path.Dir(e.Path)) == Dir {
			if found != "" {
				return nil, refuse(fmt.Errorf("it has %s and %s", found, e.Path))
			}
			found = e.Path
		}
	}
	if found == "" {
		return nil, refuse(fmt.Errorf("it has no %s/NAME/module.json", Dir))
	}
	text, err := im.ReadFile(found, maxManifest)
	if err != nil {
		return nil, refuse(err)
	}
	parsed, err := parseManifest(text)
	if err != nil {
		return nil, diag.List{{File: name, Path: found, Message: err.Error(), Remedy: "pack it again"}}
	}
	m.Manifest = *parsed
	if path.Dir(found) != path.Join(Dir, m.Name) {
		return nil, refuse(fmt.Errorf("%s is the manifest of %s", found, m.Name))
	}
	if err := m.readShared(); err != nil {
		return nil, refuse(err)
	}
	return m, check(name, m.Name, append([]*squashfs.Entry{im.Lookup(".")}, im.Entries()...)).Err()
}

func (m *Module) readShared() error {
	prefix := path.Join(Dir, m.Name, "shared") + "/"
	for _, e := range m.Image.Entries() {
		p, ok := strings.CutPrefix(e.Path, prefix)
		if !ok || e.Type() == squashfs.Dir {
			continue
		}
		if !compose.Shared(p) {
			return fmt.Errorf("%s is not a file that layers share", e.Path)
		}
		b, err := m.Image.ReadFile(e.Path, maxShared)
		if err != nil {
			return err
		}
		m.Shared[p] = b
	}
	return nil
}

// Close closes the module's file.
func (m *Module) Close() error { return m.file.Close() }

// Packages returns the Debian packages that the module brings, NAME VERSION.
func (m *Module) Packages() []string {
	var out []string
	for _, s := range compose.Stanzas(m.Shared["var/lib/dpkg/status"]) {
		if strings.HasSuffix(compose.Field(s, "Status"), " installed") {
			out = append(out, compose.Field(s, "Package")+" "+compose.Field(s, "Version"))
		}
	}
	return out
}

// SharedFiles returns the files of a layer that layers share.
func SharedFiles(im *squashfs.Image) (compose.Files, error) {
	out := compose.Files{}
	for _, e := range im.Entries() {
		if !compose.Shared(e.Path) || e.Type() != squashfs.Regular && e.Link == "" {
			continue
		}
		b, err := im.ReadFile(e.Path, maxShared)
		if err != nil {
			return nil, err
		}
		out[e.Path] = b
	}
	return out, nil
}
