package spec

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gridappliance/internal/diag"
)

var (
	nameForm      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	packageForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}(=[0-9A-Za-z][0-9A-Za-z.+:~-]{0,127})?$`)
	uriForm       = regexp.MustCompile(`^(https?|file)://?/?[0-9A-Za-z][0-9A-Za-z.:@/_~%+-]*$`)
	suiteForm     = regexp.MustCompile(`^[0-9A-Za-z.][0-9A-Za-z./_+~-]*$`)
	componentForm = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z./_+-]*$`)
	modeForm      = regexp.MustCompile(`^[0-7]{3,4}$`)
	ownerForm     = regexp.MustCompile(`^([a-z_][a-z0-9_-]*|[0-9]{1,5})(:([a-z_][a-z0-9_-]*|[0-9]{1,5}))?$`)
)

// validation collects problems; at may be nil.
type validation struct {
	at       At
	problems diag.List
}

// add reports a problem at the place of the first of keys that the text has:
// an element of a list, else the list.
func (v *validation) add(message, remedy string, keys ...string) {
	p := diag.Problem{}
	if v.at != nil {
		for i := len(keys) - 1; i >= 0; i-- {
			if at := v.at(keys[i]); at.Line > 0 || i == len(keys)-1 {
				p = at
			}
		}
	}
	p.Path, p.Message, p.Remedy = keys[0], message, remedy
	v.problems.Add(p)
}

// Validate returns every problem of d's meaning, sorted by place. The problems
// name keys such as "name", "packages[2]" and "files[0].path".
func (d *Definition) Validate(at At) diag.List {
	v := &validation{at: at}
	if d.Version != Version {
		v.add("version "+strconv.Itoa(d.Version)+" is not known", "this builder reads version "+strconv.Itoa(Version), "version")
	}
	if !nameForm.MatchString(d.Name) {
		v.add(strconv.Quote(d.Name)+" is not a name", "use 1 to 32 lower case letters, digits and inner hyphens", "name")
	}
	if strings.HasSuffix(d.Name, "-private") {
		v.add(strconv.Quote(d.Name)+" ends in -private", "leave the ending out: it is added to images with a floppy inside", "name")
	}
	if d.Disk < 0 || d.Disk > MaxDisk {
		v.add(d.Disk.String()+" is out of range", "a disk may have at most "+MaxDisk.String(), "disk")
	}
	if d.Base != "" {
		if message, remedy := d.Base.problem(d.Base.IsURL()); message != "" {
			v.add(strconv.Quote(string(d.Base))+" "+message, remedy, "base")
		}
	}
	v.targets(d.Targets)
	v.packages(d.Packages)
	v.modules(d.Modules)
	v.sources(d)
	v.files(d.Files)
	v.problems.Sort()
	return v.problems
}

func (v *validation) targets(targets []Target) {
	known := Targets()
	for i, t := range targets {
		key := index("targets", i)
		if !slices.Contains(known, t) {
			var names []string
			for _, k := range known {
				names = append(names, string(k))
			}
			v.add(strconv.Quote(string(t))+" is not a target",
				diag.DidYouMean(string(t), names, "use one of "+strings.Join(names, ", ")), key, "targets")
		} else if slices.Contains(targets[:i], t) {
			v.add(strconv.Quote(string(t))+" is named twice", "name each target once", key, "targets")
		}
	}
}

func (v *validation) packages(packages []string) {
	v.limit("packages", len(packages), maxPackages)
	seen := map[string]bool{}
	for i, p := range packages {
		name, _, _ := strings.Cut(p, "=")
		switch key := index("packages", i); {
		case !packageForm.MatchString(p):
			v.add(strconv.Quote(p)+" is not a package", "write NAME or NAME=VERSION as apt does", key, "packages")
		case seen[name]:
			v.add(strconv.Quote(name)+" is named twice", "name each package once", key, "packages")
		}
		seen[name] = true
	}
}

func (v *validation) modules(modules []Address) {
	v.limit("modules", len(modules), maxEntries)
	for i, m := range modules {
		key := index("modules", i)
		if message, remedy := m.problem(true); message != "" {
			v.add(strconv.Quote(string(m))+" "+message, remedy, key, "modules")
		}
		if slices.Contains(modules[:i], m) {
			v.add(strconv.Quote(m.Place())+" is named twice", "name each module once", key, "modules")
		}
	}
}

func (v *validation) sources(d *Definition) {
	v.limit("sources", len(d.Sources), maxEntries)
	if len(d.Sources) > 0 && len(d.Packages) == 0 {
		v.add("archives but no packages of them", `name some: packages = ["..."]`, "sources[0].name", "sources[0]", "sources")
	}
	names := map[string]bool{}
	for i, s := range d.Sources {
		at := index("sources", i)
		name := at + ".name"
		switch {
		case !nameForm.MatchString(s.Name):
			v.add(strconv.Quote(s.Name)+" is not a name", "use 1 to 32 lower case letters, digits and inner hyphens", name, at)
		case s.Name == "debian":
			v.add(`"debian" is the image's own archive`, "choose another name", name, at)
		case names[s.Name]:
			v.add(strconv.Quote(s.Name)+" is named twice", "choose another name", name, at)
		}
		names[s.Name] = true
		v.words(at, ".uris", s.URIs, uriForm, "the root of a mirror", "begin with https://, http:// or file:///")
		v.words(at, ".suites", s.Suites, suiteForm, "a suite", `write a name such as "trixie", or a folder ending in "/"`)
		flat := false
		for j, suite := range s.Suites {
			flat = flat || strings.HasSuffix(suite, "/")
			if slices.Contains(strings.Split(suite, "/"), "..") {
				v.add(strconv.Quote(suite)+" climbs out", "name a folder below the mirror's root", index(at+".suites", j), at+".suites", at)
			}
		}
		switch {
		case flat && len(s.Components) > 0:
			v.add("components beside a suite that is a folder", "leave them out", at+".components", at)
		case !flat:
			v.words(at, ".components", s.Components, componentForm, "a component", `write a name such as "main"`)
		}
		if s.SignedBy == "" {
			v.add("is missing: nothing is taken from an archive without its key", "name the file of the archive's public key",
				at+".signed-by", at)
		}
	}
}

// words checks a list that must have elements, each of a form.
func (v *validation) words(at, key string, list []string, form *regexp.Regexp, what, remedy string) {
	if len(list) == 0 {
		v.add("names none", remedy, at+key, at)
	}
	for i, w := range list {
		if !form.MatchString(w) {
			v.add(strconv.Quote(w)+" is not "+what, remedy, index(at+key, i), at+key, at)
		}
	}
}

// notYours are places of the image that a file cannot be laid into: what the
// kernel makes, and what the builder composes from all layers.
var notYours = []string{"/dev", "/proc", "/run", "/sys", "/tmp", "/boot", "/usr/lib/grid", "/var/lib/dpkg", "/var/lib/grid",
	"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/ld.so.cache"}

func (v *validation) files(files []File) {
	v.limit("files", len(files), maxEntries)
	seen := map[string]bool{}
	for i, f := range files {
		at := index("files", i)
		if f.Source == "" {
			v.add("is missing", "name the file to lay in", at+".source", at)
		}
		v.path(at, f.Path)
		if seen[f.Path] && f.Path != "" {
			v.add(strconv.Quote(f.Path)+" is laid in twice", "keep one", at+".path", at)
		}
		seen[f.Path] = true
		mode, err := strconv.ParseUint(f.Mode, 8, 16)
		switch {
		case !modeForm.MatchString(f.Mode) || err != nil:
			v.add(strconv.Quote(f.Mode)+" is not a mode", `write it in octal, such as "0755"`, at+".mode", at)
		case mode&0o6000 != 0 && !f.Allows(SetUID):
			v.add("mode "+f.Mode+" is set-uid or set-gid: whoever runs the file becomes its owner",
				`if that is meant, say so: allow = ["set-uid"]`, at+".mode", at)
		}
		if !ownerForm.MatchString(f.Owner) {
			v.add(strconv.Quote(f.Owner)+" is not an owner", `write USER or USER:GROUP, such as "root:root"`, at+".owner", at)
		}
		for j, a := range f.Allow {
			if known := []string{string(Outside), string(SetUID), string(Credential)}; !slices.Contains(known, string(a)) {
				v.add(strconv.Quote(string(a))+" is nothing to allow", diag.DidYouMean(string(a), known, "use "+strings.Join(known, ", ")),
					index(at+".allow", j), at+".allow", at)
			}
		}
	}
}

// path checks where a file goes.
func (v *validation) path(at, p string) {
	key := at + ".path"
	switch {
	case p == "":
		v.add("is missing", `say where in the image, such as "/etc/motd"`, key, at)
		return
	case slices.Contains(strings.Split(p, "/"), ".."):
		v.add(strconv.Quote(p)+" climbs out", "write the path without ..", key, at)
		return
	case !strings.HasPrefix(p, "/") || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, "\x00\n\\") || len(p) > 1000:
		v.add(strconv.Quote(p)+" is not a clean absolute path", `write it such as "/etc/motd"`, key, at)
		return
	}
	for _, n := range notYours {
		if p == n || strings.HasPrefix(p, n+"/") {
			v.add(strconv.Quote(p)+" is not for files: "+n+" is made by the machine or the builder", "choose another place", key, at)
		}
	}
}

func (v *validation) limit(key string, n, most int) {
	if n > most {
		v.add(fmt.Sprintf("%d entries, at most %d are read", n, most), "leave some out", key)
	}
}

// index names an element of a list.
func index(key string, i int) string { return key + "[" + strconv.Itoa(i) + "]" }
