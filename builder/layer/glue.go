package layer

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"encoding/json"

	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/diag"
)

// ListFile is the list of an image's modules, below the root, in the glue
// layer: JSON, lowest first.
const ListFile = "usr/lib/grid/modules.json"

// Listed is one module in ListFile.
type Listed struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// Patch is bytes to replace in a module's file where it goes into an image.
type Patch struct {
	Offset int64
	Data   []byte // nil when nothing changes
}

// Glue writes the glue layer of a stack to the file out, which appears when
// it is whole, and returns a patch for each module, which gives its files to
// the accounts as they are numbered in this stack. modules are in the order of
// Order. created is the time of all that it makes, the base's.
func Glue(out string, base *squashfs.Image, modules []*Module, created time.Time) ([]Patch, error) {
	below, err := SharedFiles(base)
	if err != nil {
		return nil, fmt.Errorf("glue layers: read the base: %w", err)
	}
	if err := hiding(base, modules).Err(); err != nil {
		return nil, err
	}
	layers, patches, err := number(below, modules)
	if err != nil {
		return nil, err
	}
	g := &glue{base: base, modules: modules, created: created}
	for _, p := range touched(layers[1:]) {
		texts := make([][]byte, 0, len(layers))
		for _, l := range layers {
			if text, ok := l[p]; ok {
				texts = append(texts, text)
			}
		}
		text := compose.Join(p, texts...)
		g.file(p, text)
		if path.Dir(p) == "var/lib/dpkg/alternatives" {
			g.links(compose.AlternativeLinks(p, text))
		}
	}
	var list []Listed
	for _, m := range modules {
		list = append(list, Listed{m.Name, m.Version, m.SHA256})
	}
	text, _ := json.MarshalIndent(list, "", " ") // strings: cannot fail
	g.file(ListFile, append(text, '\n'))
	g.parents()
	return patches, write(out, "glue", g.entries, created)
}

type glue struct {
	base    *squashfs.Image
	modules []*Module
	created time.Time
	entries []*squashfs.Entry
}

// file adds a file with the mode and owner of the base's.
func (g *glue) file(p string, text []byte) {
	e := fileEntry(p, text, g.created)
	if old := g.base.Lookup(p); old != nil && old.Type() == squashfs.Regular {
		e.Mode, e.UID, e.GID = old.Mode, old.UID, old.GID
	}
	g.entries = append(g.entries, e)
}

// links adds the links of an alternative; one that must not be is hidden
// where a layer has it. Some are named below a link of the base's, such as
// /lib/cpp.
func (g *glue) links(links map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(links)) {
		p := inUsr(name)
		switch old, to := g.lookup(p), links[name]; {
		case to == "" && old != nil && old.Type() == squashfs.Symlink:
			g.entries = append(g.entries, &squashfs.Entry{Path: p, Mode: squashfs.Char, Time: g.created})
		case to != "" && (old == nil || old.Type() == squashfs.Symlink && old.Target != to):
			g.entries = append(g.entries, &squashfs.Entry{Path: p, Mode: squashfs.Symlink | 0o777, Target: to, Time: g.created})
		}
	}
}

// lookup returns what the stack below the glue has at a path.
func (g *glue) lookup(p string) *squashfs.Entry {
	for _, m := range slices.Backward(g.modules) {
		if e := m.Image.Lookup(p); e != nil {
			return e
		}
	}
	return g.base.Lookup(p)
}

// parents adds the directories above the entries as the stack has them: the
// topmost layer's directory decides mode and owner.
func (g *glue) parents() {
	have := map[string]bool{}
	for _, e := range g.entries {
		have[e.Path] = true
	}
	for _, e := range slices.Clone(g.entries) {
		for d := path.Dir(e.Path); d != "." && !have[d]; d = path.Dir(d) {
			have[d] = true
			n := &squashfs.Entry{Path: d, Mode: squashfs.Dir | 0o755, Time: g.created}
			if old := g.base.Lookup(d); old != nil && old.Type() == squashfs.Dir {
				n.Mode, n.UID, n.GID, n.Time = old.Mode, old.UID, old.GID, old.Time
			}
			g.entries = append(g.entries, n)
		}
	}
}

// touched returns the shared files that modules add to, sorted.
func touched(layers []compose.Files) []string {
	all := map[string]bool{}
	for _, l := range layers {
		for p := range l {
			all[p] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// number gives accounts their ids and returns the shared files of all layers
// with them, the base's first, and the patches of the modules.
func number(below compose.Files, modules []*Module) ([]compose.Files, []Patch, error) {
	known := compose.ParseAccounts(below["etc/passwd"], below["etc/group"])
	var names []string
	for _, m := range modules {
		own := append(compose.Names(m.Shared["etc/passwd"]), compose.Names(m.Shared["etc/group"])...)
		sort.Strings(own)
		for _, n := range own {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	ids := compose.Place(known, names)
	layers := []compose.Files{below}
	var patches []Patch
	var problems diag.List
	for _, m := range modules {
		was := compose.Accounts{Users: maps.Clone(m.Users), Groups: maps.Clone(m.Groups)}
		files := maps.Clone(m.Shared)
		own := compose.ParseAccounts(files["etc/passwd"], files["etc/group"])
		for name, id := range own.Groups {
			if was.Groups == nil {
				was.Groups = map[string]uint32{}
			}
			was.Groups[name] = id
		}
		passwd, group := compose.Renumber(files["etc/passwd"], files["etc/group"], was, ids)
		for p, text := range map[string][]byte{"etc/passwd": passwd, "etc/group": group} {
			if len(text) > 0 {
				files[p] = text
			}
		}
		layers = append(layers, files)
		patch, err := m.reown(known, ids)
		if err != nil {
			problems.Add(diag.Problem{File: m.File, Message: err.Error()})
		}
		patches = append(patches, patch)
	}
	return layers, patches, problems.Err()
}

// reown returns the patch that gives the module's files to the accounts of
// the stack.
func (m *Module) reown(known, placed compose.Accounts) (Patch, error) {
	to := func(names, known, placed map[string]uint32) (map[uint32]uint32, error) {
		out := map[uint32]uint32{}
		for _, n := range slices.Sorted(maps.Keys(names)) {
			id, ok := known[n]
			if !ok {
				id, ok = placed[n]
			}
			if !ok {
				return nil, fmt.Errorf("files of the module %s belong to the account %s, which neither the base nor a module has", m.Name, n)
			}
			out[names[n]] = id
		}
		return out, nil
	}
	users, err := to(m.Users, known.Users, placed.Users)
	if err != nil {
		return Patch{}, err
	}
	groups, err := to(m.Groups, known.Groups, placed.Groups)
	if err != nil {
		return Patch{}, err
	}
	at, data, err := m.Image.Reown(users, groups)
	return Patch{at, data}, err
}

// hiding returns where a module's directory would hide a link or file of the
// layers below with all that lies behind it, or its file a directory.
func hiding(base *squashfs.Image, modules []*Module) diag.List {
	var problems diag.List
	below := []*squashfs.Image{base}
	for _, m := range modules {
		for _, e := range m.Image.Entries() {
			if e.Whiteout() || e.Link != "" {
				continue
			}
			for _, b := range slices.Backward(below) {
				old := b.Lookup(e.Path)
				if old == nil {
					continue
				}
				if (e.Type() == squashfs.Dir) != (old.Type() == squashfs.Dir) && !old.Whiteout() && e.Type() == squashfs.Dir {
					what := "a file"
					if old.Type() == squashfs.Symlink {
						what = "a link to " + old.Target
					}
					problems.Add(diag.Problem{File: m.File, Path: "/" + e.Path, Message: "is a directory, and would hide " + what + " of the layers below",
						Remedy: "put the files where the link leads, and pack again"})
				}
				break
			}
		}
		below = append(below, m.Image)
	}
	return problems
}

// Verify compares a module's file with the SHA-256 it must have.
func (m *Module) Verify(sha256 string) error {
	if strings.EqualFold(m.SHA256, sha256) {
		return nil
	}
	return diag.List{{File: m.File, Message: fmt.Sprintf("the module has sha256 %s, not %s", m.SHA256, sha256),
		Remedy: "fetch it again, or correct the checksum"}}
}
