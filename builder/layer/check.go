package layer

import (
	"fmt"
	"path"
	"strings"

	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/diag"
)

// check returns everything that a module of this name must not hold.
func check(file, name string, entries []*squashfs.Entry) diag.List {
	var problems diag.List
	add := func(p, message, remedy string, args ...any) {
		problems.Add(diag.Problem{File: file, Path: "/" + p, Message: fmt.Sprintf(message, args...), Remedy: remedy})
	}
	own := path.Join(Dir, name)
	for _, e := range entries {
		switch p := e.Path; {
		case (e.Type() == squashfs.Char && !e.Whiteout()) || e.Type() == squashfs.Block:
			add(p, "is a device node, %d:%d", "leave it out: the kernel makes devices", e.Major, e.Minor)
		case e.Type() == squashfs.Socket:
			add(p, "is a socket", "leave it out: its program makes it")
		case e.Type() == squashfs.Symlink && climbs(p, e.Target):
			add(p, "is a link to %s, which climbs out of the module", "make it absolute, or point it inside", e.Target)
		case e.Type() != squashfs.Dir && compose.Shared(p):
			add(p, "is a file that all layers share, and would hide the others'", "pack it with builder module pack, which keeps only what it adds")
		case strings.HasPrefix(p, "usr/lib/grid/") && p != Dir && p != own && !strings.HasPrefix(p, own+"/"):
			add(p, "is of the appliance itself", "leave it out")
		case p == "." && e.Xattrs[squashfs.OpaqueXattr] != "":
			add(p, "hides the whole system", "remove the attribute "+squashfs.OpaqueXattr)
		}
	}
	return problems
}

// climbs says whether a relative link at p leads above the root.
func climbs(p, target string) bool {
	if target == "" || strings.HasPrefix(target, "/") {
		return false
	}
	depth := strings.Count(p, "/")
	for _, part := range strings.Split(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// Order returns modules so that each lies above those it needs, else in the
// order given, lowest first. The error lists every module that is needed and
// missing, every name that is there twice, and a loop with its members.
func Order(modules []*Module) ([]*Module, error) {
	var problems diag.List
	byName := map[string]*Module{}
	for _, m := range modules {
		if other := byName[m.Name]; other != nil {
			problems.Add(diag.Problem{File: m.File, Message: fmt.Sprintf("the module %s is also in %s", m.Name, other.File),
				Remedy: "name one of them"})
		}
		byName[m.Name] = m
	}
	for _, m := range modules {
		for _, n := range m.Needs {
			if byName[n] == nil {
				problems.Add(diag.Problem{File: m.File, Message: fmt.Sprintf("the module %s needs the module %s, which is missing", m.Name, n),
					Remedy: "add " + n})
			}
		}
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	var out []*Module
	state := map[string]int{} // 1 being placed, 2 placed
	var place func(m *Module, chain []string) error
	place = func(m *Module, chain []string) error {
		if state[m.Name] == 2 {
			return nil
		}
		chain = append(chain, m.Name)
		if state[m.Name] == 1 {
			for chain[0] != m.Name {
				chain = chain[1:]
			}
			return diag.List{{File: m.File, Message: "modules need each other in a loop: " + strings.Join(chain, " -> "),
				Remedy: "take one need out and pack that module again"}}
		}
		state[m.Name] = 1
		for _, n := range m.Needs {
			if err := place(byName[n], chain); err != nil {
				return err
			}
		}
		state[m.Name] = 2
		out = append(out, m)
		return nil
	}
	for _, m := range modules {
		if err := place(m, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}
