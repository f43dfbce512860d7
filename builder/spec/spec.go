// Package spec is the image definition: what an administrator writes to say
// which image is wanted. It is decoded strictly and in three steps: Decode
// (shape), ApplyDefaults (one place), Validate (meaning, every problem).
//
//	version = 1
//	name    = "site"                 # names the outputs; default "grid"
//	base    = "bases/trixie"         # a base's directory; default: the one in the store
//	floppy  = "alice.img"            # its bytes go into the image; default: none
//	targets = ["raw", "qcow2"]       # default: qcow2
//	disk    = "8GiB"                 # size of the disk the machine sees
//
// Paths are relative to the definition's folder. The package reads no file
// and has no state.
package spec

import (
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gridappliance/internal/diag"
)

// Version is the schema version this package reads.
const Version = 1

// Target is a form in which an image is delivered.
type Target string

// The targets.
const (
	Raw   Target = "raw"   // the disk byte for byte, sparse
	QCOW2 Target = "qcow2" // QEMU's format, version 3
)

// Targets lists every target, in the order in which they are written.
func Targets() []Target { return []Target{Raw, QCOW2} }

// Definition is an image definition.
type Definition struct {
	Version int      `toml:"version"`
	Name    string   `toml:"name"`    // outputs are NAME.EXT, or NAME-private.EXT with a floppy inside
	Base    string   `toml:"base"`    // directory of the base; "" = the one in the store
	Floppy  string   `toml:"floppy"`  // path of the floppy image; "" = none
	Targets []Target `toml:"targets"` // at least one
	Disk    Size     `toml:"disk"`    // bytes
}

// keys are the definition's keys with the kind of value each wants, for
// messages.
var keys = map[string]string{
	"version": "an integer",
	"name":    "a string",
	"base":    "a string",
	"floppy":  "a string",
	"targets": "a list of strings",
	"disk":    `a size such as "8GiB"`,
}

// Limits of a definition.
const (
	DefaultName = "grid"
	DefaultDisk = Size(8 << 30)
	MaxDisk     = Size(2<<40 - 1<<20) // the protective MBR counts 2^32 sectors of 512 bytes
)

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// ApplyDefaults fills in what the definition leaves out.
func (d *Definition) ApplyDefaults() {
	if d.Version == 0 {
		d.Version = Version
	}
	if d.Name == "" {
		d.Name = DefaultName
	}
	if len(d.Targets) == 0 {
		d.Targets = []Target{QCOW2}
	}
	if d.Disk == 0 {
		d.Disk = DefaultDisk
	}
}

// Resolve makes the definition's relative paths relative to dir, the folder
// the definition stands in.
func (d *Definition) Resolve(dir string) {
	for _, p := range []*string{&d.Base, &d.Floppy} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// Validate returns every problem of d's meaning. The problems name keys; at
// returns where a key stands in the text, and may be nil.
func (d *Definition) Validate(at func(key string) diag.Problem) diag.List {
	var problems diag.List
	add := func(key, message, remedy string) {
		p := diag.Problem{}
		if at != nil {
			p = at(key)
		}
		p.Path, p.Message, p.Remedy = key, message, remedy
		problems.Add(p)
	}
	if d.Version != Version {
		add("version", "version "+strconv.Itoa(d.Version)+" is not known", "this builder reads version "+strconv.Itoa(Version))
	}
	if !nameForm.MatchString(d.Name) {
		add("name", strconv.Quote(d.Name)+" is not a name", "use 1 to 32 lower case letters, digits and inner hyphens")
	}
	if strings.HasSuffix(d.Name, "-private") {
		add("name", strconv.Quote(d.Name)+" ends in -private", "leave the ending out: it is added to images with a floppy inside")
	}
	known := Targets()
	for i, t := range d.Targets {
		if !slices.Contains(known, t) {
			var names []string
			for _, k := range known {
				names = append(names, string(k))
			}
			add("targets", strconv.Quote(string(t))+" is not a target",
				diag.DidYouMean(string(t), names, "use one of "+strings.Join(names, ", ")))
		} else if slices.Contains(d.Targets[:i], t) {
			add("targets", strconv.Quote(string(t))+" is named twice", "name each target once")
		}
	}
	if d.Disk < 0 || d.Disk > MaxDisk {
		add("disk", d.Disk.String()+" is out of range", "a disk may have at most "+MaxDisk.String())
	}
	return problems
}
