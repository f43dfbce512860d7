// Package manifest says what went into a base: the list of materials that a
// site's security officer asks for, and by which a base is checked.
//
// It is a JSON file, manifest.json, beside the files it names. Its text is a
// function of its content: equal manifests are equal bytes. Parse is strict;
// it accepts what Text writes and nothing with unknown or missing keys.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// Version is the version of the format; Parse refuses others.
const Version = 1

// Manifest describes one base.
type Manifest struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"`       // hash of all inputs, 32 hex digits
	Suite    string    `json:"suite"`    // of Debian
	Time     time.Time `json:"time"`     // build time: UTC, whole seconds; equal for equal inputs
	Kernel   string    `json:"kernel"`   // version, as uname -r prints it
	Packages []Package `json:"packages"` // installed, sorted by name
	Tools    []Package `json:"tools"`    // used to build, sorted by name
	Programs []File    `json:"programs"` // of this project, laid into the image
	Files    []File    `json:"files"`    // all files of the base but the manifest
}

// Package is one Debian package.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	SHA256       string `json:"sha256"`
	Source       string `json:"source,omitempty"` // the archive's name, of one that is not Debian's
}

// File is one file by name, size in bytes and SHA-256 in hex.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

var (
	idPattern     = regexp.MustCompile(`^[0-9a-f]{32}$`)
	sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Text returns the manifest as indented JSON with a final newline.
func (m *Manifest) Text() []byte {
	text, _ := json.MarshalIndent(m, "", " ") // strings, numbers and a time of our own: cannot fail
	return append(text, '\n')
}

// Parse reads what Text wrote and checks it. name is the file's name for
// errors.
func Parse(name string, text []byte) (*Manifest, error) {
	var m Manifest
	if err := decode(name, text, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

func (m *Manifest) check() error {
	switch {
	case m.Version != Version:
		return fmt.Errorf("version %d instead of %d", m.Version, Version)
	case !idPattern.MatchString(m.ID):
		return fmt.Errorf("id %q is not 32 hex digits", m.ID)
	case m.Suite == "", m.Kernel == "":
		return fmt.Errorf("suite or kernel is missing")
	case m.Time.IsZero():
		return fmt.Errorf("time is missing")
	case len(m.Files) == 0:
		return fmt.Errorf("it names no files")
	}
	for _, list := range [][]File{m.Programs, m.Files} {
		seen := map[string]bool{}
		for _, f := range list {
			if f.Name == "" || f.Name == "." || f.Name == ".." || strings.ContainsAny(f.Name, `/\`) || seen[f.Name] {
				return fmt.Errorf("%q is not a file's name, or is named twice", f.Name)
			}
			if f.Size < 0 || !sha256Pattern.MatchString(f.SHA256) {
				return fmt.Errorf("file %s: size or sha256 is wrong", f.Name)
			}
			seen[f.Name] = true
		}
	}
	return nil
}

// File returns the entry of a file of the base.
func (m *Manifest) File(name string) (File, bool) {
	for _, f := range m.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

// decode reads one JSON document of known fields into m, and checks it.
func decode(name string, text []byte, m interface{ check() error }) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(m)
	if err == nil {
		if _, end := d.Token(); end != io.EOF {
			err = errors.New("data after its end")
		} else {
			err = m.check()
		}
	}
	if err != nil {
		return fmt.Errorf("read manifest %s: %w", name, err)
	}
	return nil
}
