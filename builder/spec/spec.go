// Package spec is the image definition: what an administrator writes to say
// which image is wanted. It is decoded strictly and in three steps: Decode
// (shape), ApplyDefaults (one place), Validate (meaning, every problem).
//
//	version  = 1
//	name     = "site"                 # names the outputs; default "grid"
//	base     = "587ad728"             # default: the newest in the store
//	packages = ["verilator"]          # of Debian, or of a [[sources]]
//	modules  = ["cad.module?checksum=sha256:..."]
//	floppy   = "alice.img"            # its bytes go into the image; default: none
//	targets  = ["raw", "qcow2"]       # default: qcow2
//	disk     = "8GiB"                 # size of the disk the machine sees
//
//	[[sources]]                       # an archive of packages beside Debian's
//	name       = "cran"
//	uris       = ["https://cran.example.org/debian"]
//	suites     = ["trixie-cran40/"]
//	components = []
//	signed-by  = "cran.asc"
//
//	[[files]]                         # laid over everything else
//	source = "motd"
//	path   = "/etc/motd"
//	mode   = "0644"
//	owner  = "root:root"
//
// images/site.toml is the reference with every key explained. Paths are
// relative to the definition's folder. The package reads no file and has no
// state.
package spec

import (
	"path/filepath"
	"slices"

	"gridappliance/internal/diag"
)

// Version is the schema version this package reads.
const Version = 1

// Target is a form in which an image is delivered.
type Target string

// The targets.
const (
	Raw        Target = "raw"        // the disk byte for byte, sparse
	QCOW2      Target = "qcow2"      // QEMU's format, version 3
	KVM        Target = "kvm"        // folder: qcow2, libvirt's XML
	VMware     Target = "vmware"     // folder: .vmx, .vmdk; Workstation, Player, Fusion
	VirtualBox Target = "virtualbox" // folder: .vbox, .vdi
	OVA        Target = "ova"        // one file to import: VirtualBox, VMware, vSphere
	Xen        Target = "xen"        // folder: raw, kernel, initrd, xl's configuration
)

// Targets lists every target, in the order in which help names them.
func Targets() []Target { return []Target{Raw, QCOW2, KVM, VMware, VirtualBox, OVA, Xen} }

// Definition is an image definition.
type Definition struct {
	Version  int       `toml:"version"`
	Name     string    `toml:"name"`     // outputs are NAME.EXT, or NAME-private.EXT with a floppy inside
	Base     Address   `toml:"base"`     // id in the store, folder, or URL of a manifest; "" = the newest in the store
	Packages []string  `toml:"packages"` // NAME or NAME=VERSION, installed on top of the base
	Sources  []Source  `toml:"sources"`  // archives of packages beside Debian's
	Modules  []Address `toml:"modules"`  // bottom first, each with a checksum
	Files    []File    `toml:"files"`    // laid over everything else
	Floppy   string    `toml:"floppy"`   // path of the floppy image; "" = none
	Targets  []Target  `toml:"targets"`  // at least one
	Disk     Size      `toml:"disk"`     // bytes
}

// Source is one archive of packages, in the words of sources.list(5)'s deb822
// form. Nothing of it is taken unless the key in SignedBy has signed it.
type Source struct {
	Name       string   `toml:"name"`       // names its files in the image's /etc/apt
	URIs       []string `toml:"uris"`       // roots of mirrors: http, https, file
	Suites     []string `toml:"suites"`     // below URI/dists, or a folder ending in "/"
	Components []string `toml:"components"` // none when the suites are folders
	SignedBy   string   `toml:"signed-by"`  // path of an OpenPGP public key
}

// File is a file of the administrator's, laid into the image.
type File struct {
	Source string   `toml:"source"` // path
	Path   string   `toml:"path"`   // absolute, in the image
	Mode   string   `toml:"mode"`   // octal; default 0644
	Owner  string   `toml:"owner"`  // USER or USER:GROUP of the image; default root:root
	Allow  []Danger `toml:"allow"`  // what would otherwise be refused
}

// Danger is what a file may be only when its definition says so.
type Danger string

// The dangers.
const (
	Outside    Danger = "outside"    // its source is not below the definition's folder
	SetUID     Danger = "set-uid"    // its mode has set-user-id or set-group-id
	Credential Danger = "credential" // it looks like a key or a password
)

// Allows says whether the definition knows of a danger.
func (f File) Allows(d Danger) bool { return slices.Contains(f.Allow, d) }

// keys are the definition's keys with the kind of value each wants, for
// messages. A list's element has the name of its list.
var keys = map[string]string{
	"version":            "an integer",
	"name":               "a string",
	"base":               "a string",
	"packages":           "a list of strings",
	"modules":            "a list of strings",
	"floppy":             "a string",
	"targets":            "a list of strings",
	"disk":               `a size such as "8GiB"`,
	"sources":            "tables [[sources]]",
	"sources.name":       "a string",
	"sources.uris":       "a list of strings",
	"sources.suites":     "a list of strings",
	"sources.components": "a list of strings",
	"sources.signed-by":  "a string",
	"files":              "tables [[files]]",
	"files.source":       "a string",
	"files.path":         "a string",
	"files.mode":         `a string such as "0644"`,
	"files.owner":        "a string",
	"files.allow":        "a list of strings",
}

// Defaults and limits of a definition.
const (
	DefaultName = "grid"
	DefaultDisk = Size(8 << 30)
	MaxDisk     = Size(2<<40 - 1<<20) // the protective MBR counts 2^32 sectors of 512 bytes
)

// Limits of a definition's lists; far above any use, far below any harm.
const (
	maxPackages = 2000
	maxEntries  = 100 // of sources, modules, files each
)

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
	for i := range d.Files {
		f := &d.Files[i]
		if f.Mode == "" {
			f.Mode = "0644"
		}
		if f.Owner == "" {
			f.Owner = "root:root"
		}
	}
}

// Resolve makes the definition's relative paths relative to dir, the folder
// the definition stands in.
func (d *Definition) Resolve(dir string) {
	paths := []*string{&d.Floppy}
	for i := range d.Sources {
		paths = append(paths, &d.Sources[i].SignedBy)
	}
	for i := range d.Files {
		paths = append(paths, &d.Files[i].Source)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	d.Base = d.Base.resolve(dir)
	for i := range d.Modules {
		d.Modules[i] = d.Modules[i].resolve(dir)
	}
}

// At returns where a key stands in the text, as a problem without a message.
type At func(key string) diag.Problem
