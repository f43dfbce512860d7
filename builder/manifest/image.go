package manifest

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"
)

// ImageVersion is the version of an image's manifest.
const ImageVersion = 1

// ImageSuffix ends the name of an image's manifest, which lies beside it.
const ImageSuffix = ".manifest.json"

// Image describes what one build wrote: what went in, what every part of the
// disk must be, and every file.
type Image struct {
	Version  int       `json:"version"`
	Name     string    `json:"name"`
	Private  bool      `json:"private"` // a floppy is inside
	Time     time.Time `json:"time"`    // the base's
	Base     BaseRef   `json:"base"`
	Modules  []Module  `json:"modules"`           // lowest first
	Packages []Package `json:"packages"`          // Debian's, of the base and of modules, sorted by name
	Sources  []Source  `json:"sources,omitempty"` // archives of packages beside Debian's
	Programs []Program `json:"programs"`          // of this project
	Disk     Disk      `json:"disk"`
	Files    []File    `json:"files"` // paths beside the manifest; a sparse disk's sha256 is "": its regions say more
}

// BaseRef names a base.
type BaseRef struct {
	ID     string `json:"id"`
	Suite  string `json:"suite"`
	Kernel string `json:"kernel"`
	SHA256 string `json:"sha256"` // of its manifest.json
}

// Module is one layer on top of the base.
type Module struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of its file
}

// Source is an archive of packages that is not Debian's.
type Source struct {
	Name string `json:"name"`
	URL  string `json:"url"` // "" where only the machine that built could reach it
}

// Program is one program of this project with the Go modules in it.
type Program struct {
	Name    string     `json:"name"`
	SHA256  string     `json:"sha256"`
	Go      string     `json:"go"`      // version of the toolchain
	Modules []GoModule `json:"modules"` // sorted by path
}

// GoModule is a module that a program was built from.
type GoModule struct {
	Path    string `json:"path"`
	Version string `json:"version"`
}

// Disk is what the machine sees, whatever the form of the file: its regions,
// in order, and zeros between them.
type Disk struct {
	Size    int64    `json:"size"`
	Regions []Region `json:"regions"`
}

// Region is a range of the disk.
type Region struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Text returns the manifest as indented JSON with a final newline.
func (m *Image) Text() []byte {
	text, _ := json.MarshalIndent(m, "", " ") // strings, numbers and a time of our own: cannot fail
	return append(text, '\n')
}

// ParseImage reads what Text wrote and checks it. name is the file's name for
// errors.
func ParseImage(name string, text []byte) (*Image, error) {
	var m Image
	if err := decode(name, text, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

func (m *Image) check() error {
	if m.Version != ImageVersion {
		return fmt.Errorf("version %d instead of %d", m.Version, ImageVersion)
	}
	end := int64(0)
	for _, r := range m.Disk.Regions {
		if r.Offset < end || r.Size <= 0 || r.Size > m.Disk.Size-r.Offset || !sha256Pattern.MatchString(r.SHA256) {
			return fmt.Errorf("region %q leaves the disk, overlaps another or has no sha256", r.Name)
		}
		end = r.Offset + r.Size
	}
	seen := map[string]bool{}
	for _, f := range m.Files {
		if f.Name == "" || path.Clean(f.Name) != f.Name || path.IsAbs(f.Name) || strings.HasPrefix(f.Name, "..") || strings.Contains(f.Name, `\`) || seen[f.Name] {
			return fmt.Errorf("%q is not a file's path, or is named twice", f.Name)
		}
		if f.Size < 0 || f.SHA256 != "" && !sha256Pattern.MatchString(f.SHA256) {
			return fmt.Errorf("file %s: size or sha256 is wrong", f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// Region returns the region called name.
func (m *Image) Region(name string) (Region, bool) {
	for _, r := range m.Disk.Regions {
		if r.Name == name {
			return r, true
		}
	}
	return Region{}, false
}
