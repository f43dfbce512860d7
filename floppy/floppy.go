// Package floppy is the contract between whoever makes a machine's
// configuration and the machine: the floppy, its files, and what they mean.
//
// A floppy is a FAT12 image of 1,474,560 bytes with at most eleven files:
//
//	GRID.TML     the machine's configuration, TOML (also read as appliance.toml)
//	GRID.DSC     the grid's signed descriptor
//	HOLDER.CRT   the holder's credential       HOLDER.KEY  its key
//	NODE.KEY     masters: their fixed identity
//	ISSUER.CRT   masters: their issuer         ISSUER.KEY  its key
//	SSHKEYS      optional: authorized_keys
//	IPOP.XML     optional: first generation    DHCP.XML    optional: likewise
//
// Reading goes in steps, each of which reports every problem it finds as a
// diag.List with file, line and column:
//
//	bytes -> Unwrap -> image -> ReadImage -> files -> Decode -> Floppy -> Check
//	base64, zip, image     FAT12, strict      shape, defaults   meaning, chain
//
// Invariants: equal content is equal bytes (WriteImage, Zip). No input makes
// the package panic, run on, or allocate more than a few times an image. Keys
// are of type Secret and do not print. Nothing here touches a file system
// (but for the system's time zones), the network or the clock.
//
// All functions are safe for concurrent use; a *Floppy or *Config is not
// while it is being changed.
//
// Limits on purpose: one geometry (1.44 MB), no directories, no writing of
// long names. Sources: Microsoft FAT specification 1.03; TOML 1.0; the
// configuration files of IPOP, first generation.
package floppy

import (
	"fmt"
	"slices"
	"strings"

	"gridappliance/credential"
	"gridappliance/internal/diag"
)

// The files of a floppy. Names are matched without regard to case.
const (
	ConfigFile     = "GRID.TML"
	ConfigLongFile = "appliance.toml" // the same file, where long names are at hand
	DescriptorFile = "GRID.DSC"
	HolderCertFile = "HOLDER.CRT"
	HolderKeyFile  = "HOLDER.KEY"
	NodeKeyFile    = "NODE.KEY"
	IssuerCertFile = "ISSUER.CRT"
	IssuerKeyFile  = "ISSUER.KEY"
	SSHKeysFile    = "SSHKEYS"
	IPOPXMLFile    = "IPOP.XML"
	DHCPXMLFile    = "DHCP.XML"
)

// File is one file of a floppy.
type File struct {
	Name string
	Data []byte
}

// Format writes the file's name and length: the data may be a key.
func (f File) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "%s (%d bytes)", f.Name, len(f.Data)) }

// Floppy is a floppy decoded. Byte fields are nil where the file is absent;
// they hold UTF-8 text with LF line ends and no byte order mark.
type Floppy struct {
	Name       string // what problems call the floppy
	Config     *Config
	Descriptor []byte // PEM
	HolderCert []byte // PEM
	HolderKey  Secret // PEM
	NodeKey    Secret // PEM
	IssuerCert []byte // PEM
	IssuerKey  Secret // PEM
	SSHKeys    []byte // authorized_keys
	IPOPXML    []byte
	DHCPXML    []byte

	// DHCP is DHCPXML decoded, nil without one.
	DHCP *DHCPServer

	files   []File   // as they were read
	damaged []string // canonical names of those that could not be
}

// Format writes the floppy's name, whatever the verb is: it holds keys.
func (f Floppy) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "floppy %s", f.Name) }

// Secret is a private key, which never prints. Convert it to []byte to use it.
type Secret = credential.Secret

// knownFile is a file that a floppy may hold.
type knownFile struct {
	name  string
	field func(*Floppy) *[]byte // where its text goes; nil for GRID.TML
}

// known lists every file in the order of Files.
var known = []knownFile{
	{ConfigFile, nil},
	{DescriptorFile, func(f *Floppy) *[]byte { return &f.Descriptor }},
	{HolderCertFile, func(f *Floppy) *[]byte { return &f.HolderCert }},
	{HolderKeyFile, func(f *Floppy) *[]byte { return (*[]byte)(&f.HolderKey) }},
	{NodeKeyFile, func(f *Floppy) *[]byte { return (*[]byte)(&f.NodeKey) }},
	{IssuerCertFile, func(f *Floppy) *[]byte { return &f.IssuerCert }},
	{IssuerKeyFile, func(f *Floppy) *[]byte { return (*[]byte)(&f.IssuerKey) }},
	{SSHKeysFile, func(f *Floppy) *[]byte { return &f.SSHKeys }},
	{IPOPXMLFile, func(f *Floppy) *[]byte { return &f.IPOPXML }},
	{DHCPXMLFile, func(f *Floppy) *[]byte { return &f.DHCPXML }},
}

// FileNames returns the names a file of a floppy may have, but for
// appliance.toml.
func FileNames() []string {
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = k.name
	}
	return names
}

// Open reads a floppy from its image: ReadImage, then Decode. The error is a
// diag.List; name is what its problems call the floppy.
func Open(name string, image []byte) (*Floppy, error) {
	f, problems := open(name, image)
	if len(problems) > 0 {
		return nil, problems
	}
	return f, nil
}

// Decode makes a Floppy of files: it knows each by its name, checks its
// shape, folds IPOP.XML into the configuration and applies the defaults. What
// it all means, and whether the credential holds, is for Check to say. The
// error is a diag.List; name is what its problems call the floppy.
func Decode(name string, files []File) (*Floppy, error) {
	f, problems := decode(name, files, nil)
	if len(problems) > 0 {
		return nil, problems
	}
	return f, nil
}

// open reads what can be read of an image; the Floppy is never nil.
func open(name string, image []byte) (*Floppy, diag.List) {
	files, damaged, problems := readImage(image)
	for i, p := range problems {
		problems[i].File = inFile(name, p.File)
	}
	if len(problems) > 0 && len(files)+len(damaged) == 0 {
		return &Floppy{Name: name}, problems
	}
	f, more := decode(name, files, damaged)
	return f, append(problems, more...)
}

// decode is Decode that goes on after a problem. Files that are damaged have
// been reported and are not missed again.
func decode(name string, files []File, damaged []string) (*Floppy, diag.List) {
	f := &Floppy{Name: name}
	var problems diag.List
	seen := map[string]string{} // canonical name -> name on the floppy
	for _, d := range damaged {
		seen[CanonicalName(d)] = d
		f.damaged = append(f.damaged, CanonicalName(d))
	}
	for _, file := range files {
		if isLitter(file.Name) {
			continue
		}
		at := inFile(name, printable(file.Name))
		canonical := CanonicalName(file.Name)
		i := slices.IndexFunc(known, func(k knownFile) bool { return k.name == canonical })
		if i < 0 {
			problems.Add(unknownFile(at, file.Name))
			continue
		}
		if first, twice := seen[canonical]; twice {
			problems.Add(diag.Problem{File: at, Message: "is the same file as " + printable(first), Remedy: "delete one of the two"})
			continue
		}
		seen[canonical] = file.Name
		f.files = append(f.files, File{Name: canonical, Data: file.Data})
		text, wrong := normalText(at, file.Data)
		problems = append(problems, wrong...)
		if len(wrong) > 0 {
			continue
		}
		if known[i].field != nil {
			if p := checkShape(canonical, at, text); len(p) > 0 {
				problems = append(problems, p...)
				continue
			}
			*known[i].field(f) = text
			continue
		}
		d := decodeConfig(at, text)
		f.Config = d.config
		problems = append(problems, d.problems...)
	}
	if seen[ConfigFile] == "" {
		problems.Add(diag.Problem{File: inFile(name, ConfigFile), Message: "is missing", Remedy: "it names the machine's role; builder floppy new makes one"})
	}
	problems = append(problems, f.foldXML()...)
	if f.Config != nil {
		f.Config.ApplyDefaults()
	}
	return f, problems
}

// CanonicalName returns the name in FileNames that a file's name stands for,
// or the name in upper case.
func CanonicalName(name string) string {
	if strings.EqualFold(name, ConfigLongFile) {
		return ConfigFile
	}
	return strings.ToUpper(name)
}

// unknownFile returns the problem of a file that no floppy has.
func unknownFile(at, name string) diag.Problem {
	upper := strings.ToUpper(name)
	candidates := append(FileNames(), strings.ToUpper(ConfigLongFile))
	remedy := "delete it; a floppy holds " + strings.Join(FileNames(), ", ")
	if base, isText := strings.CutSuffix(upper, ".TXT"); isText && slices.Contains(candidates, base) {
		remedy = "rename it to " + base + " (Windows hides the ending .txt)"
	} else if s := diag.Suggest(upper, candidates); s != "" {
		remedy = "did you mean " + s + "?"
	}
	return diag.Problem{File: at, Message: "unknown file", Remedy: remedy}
}

// isLitter reports whether a name is one that operating systems and editors
// leave on a medium on their own. It is passed over; anything else that is
// not known is a problem, since it may be a known name misspelt.
func isLitter(name string) bool {
	name = strings.ToUpper(name)
	switch name {
	case "SYSTEM VOLUME INFORMATION", "$RECYCLE.BIN", "RECYCLED", "RECYCLER", "DESKTOP.INI", "THUMBS.DB", "AUTORUN.INF",
		".DS_STORE", ".TRASHES", ".FSEVENTSD", ".SPOTLIGHT-V100", ".TEMPORARYITEMS", "LOST+FOUND":
		return true
	}
	for _, prefix := range []string{"._", "~$", ".TRASH-", ".#"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	for _, suffix := range []string{"~", ".SWP", ".BAK"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// Files returns the files that make this floppy, in one fixed order, with the
// bytes they were read with. What other systems left on it is not among them.
func (f *Floppy) Files() []File {
	files := make([]File, 0, len(f.files))
	for _, k := range known {
		for _, file := range f.files {
			if file.Name == k.name {
				files = append(files, file)
			}
		}
	}
	return files
}
