package base

import (
	"bufio"
	"bytes"
	"fmt"
	"path"
	"sort"
	"strings"
)

// moduleIndex is what depmod wrote about a kernel's modules.
type moduleIndex struct {
	dir      string              // usr/lib/modules/VERSION in the tree
	file     map[string]string   // module -> file below dir
	needs    map[string][]string // module -> modules it needs, from modules.dep and modules.softdep (pre)
	builtin  map[string]bool
	aliases  []string // lines of modules.alias
	softdeps []string // lines of modules.softdep
}

// moduleName is the name modules are compared by: of the file's base name,
// without extension, '-' as '_'.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModuleIndex reads modules.dep, .builtin, .alias and .softdep of the
// kernel version in the tree.
func readModuleIndex(img *image, version string) (*moduleIndex, error) {
	m := &moduleIndex{dir: "usr/lib/modules/" + version, file: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	read := func(name string, line func(string)) error {
		text, err := img.readFile(m.dir + "/" + name)
		if err != nil {
			return err
		}
		for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
			if s := sc.Text(); s != "" && s[0] != '#' {
				line(s)
			}
		}
		return nil
	}
	if err := read("modules.dep", func(s string) {
		file, needs, _ := strings.Cut(s, ":")
		name := moduleName(file)
		m.file[name] = file
		for _, n := range strings.Fields(needs) {
			m.needs[name] = append(m.needs[name], moduleName(n))
		}
	}); err != nil {
		return nil, err
	}
	if err := read("modules.builtin", func(s string) { m.builtin[moduleName(s)] = true }); err != nil {
		return nil, err
	}
	if err := read("modules.alias", func(s string) { m.aliases = append(m.aliases, s) }); err != nil {
		return nil, err
	}
	return m, read("modules.softdep", func(s string) { m.softdeps = append(m.softdeps, s) })
}

// closure returns names and all they need, sorted by name. A name that the
// kernel has built in is left out; one it does not have is an error.
func (m *moduleIndex) closure(names []string) ([]string, error) {
	for _, s := range m.softdeps {
		f := strings.Fields(s) // softdep NAME pre: A B post: C
		if len(f) < 3 || f[0] != "softdep" {
			continue
		}
		name := strings.ReplaceAll(f[1], "-", "_")
		pre := false
		for _, w := range f[2:] {
			switch {
			case strings.HasSuffix(w, ":"):
				pre = w == "pre:"
			case pre && m.file[strings.ReplaceAll(w, "-", "_")] != "":
				m.needs[name] = append(m.needs[name], strings.ReplaceAll(w, "-", "_"))
			}
		}
	}
	m.softdeps = nil
	seen := map[string]bool{}
	var visit func(string) error
	visit = func(name string) error {
		if seen[name] || m.builtin[name] {
			return nil
		}
		if m.file[name] == "" {
			return fmt.Errorf("gather kernel modules: the kernel has no module %s", name)
		}
		seen[name] = true
		for _, n := range m.needs[name] {
			if err := visit(n); err != nil {
				return err
			}
		}
		return nil
	}
	for _, n := range names {
		if err := visit(strings.ReplaceAll(n, "-", "_")); err != nil {
			return nil, err
		}
	}
	out := make([]string, 0, len(seen))
	for n := range seen {
		out = append(out, n)
	}
	sort.Strings(out)
	return out, nil
}
