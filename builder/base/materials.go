package base

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"os"
	"path"
	"sort"
	"strings"

	"gridappliance/builder/manifest"
	"gridappliance/builder/squashfs"
)

// Materials is what a layer says of what is in it, beside its manifest.
type Materials struct {
	Licences map[string][]string `json:"licences"` // Debian package -> names in its copyright file
	Programs []manifest.Program  `json:"programs"` // of this project, with the Go modules in them
}

// maxProgram bounds a program that is read for its Go modules.
const maxProgram = 256 << 20 // bytes

// Materials returns the materials of a layer by the SHA-256 of its file, from
// the store when they were read before. A nil store keeps nothing.
func (s *Store) Materials(sha256 string, im *squashfs.Image) *Materials {
	if s == nil {
		m := readMaterials(im)
		return &m
	}
	name := s.path("materials", sha256+".json")
	var m Materials
	if text, err := os.ReadFile(name); err == nil && json.Unmarshal(text, &m) == nil && m.Licences != nil {
		return &m
	}
	m = readMaterials(im)
	s.keep(name, &m) // a store that cannot keep it is no reason to fail
	return &m
}

func (s *Store) keep(name string, m *Materials) error {
	work, err := s.temp("materials")
	if err != nil {
		return err
	}
	defer work.Remove()
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.WriteFile(work.Join("it"), text, 0o644); err != nil {
		return err
	}
	return s.adopt(work.Join("it"), name, nil)
}

func readMaterials(im *squashfs.Image) Materials {
	m := Materials{Licences: map[string][]string{}}
	for _, e := range im.Entries() {
		dir, file := path.Split(e.Path)
		switch {
		case file == "copyright" && path.Dir(path.Clean(dir)) == "usr/share/doc":
			// a link between folders of one source leads to the same text
			if text, err := im.ReadFile(e.Path, maxRead); err == nil {
				m.Licences[path.Base(dir)] = manifest.Licences(text)
			}
		case dir == "usr/lib/grid/" && e.Type() == squashfs.Regular:
			program, err := im.ReadFile(e.Path, maxProgram)
			if err != nil {
				continue
			}
			if info, err := buildinfo.Read(bytes.NewReader(program)); err == nil {
				m.Programs = append(m.Programs, goProgram(file, info))
			}
		}
	}
	sort.Slice(m.Programs, func(i, j int) bool { return m.Programs[i].Name < m.Programs[j].Name })
	return m
}

// goProgram takes from a program's build information what went into it.
func goProgram(name string, info *buildinfo.BuildInfo) manifest.Program {
	p := manifest.Program{Name: name, Go: strings.TrimPrefix(info.GoVersion, "go"), Modules: []manifest.GoModule{}}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		p.Modules = append(p.Modules, manifest.GoModule{Path: d.Path, Version: d.Version})
	}
	sort.Slice(p.Modules, func(i, j int) bool { return p.Modules[i].Path < p.Modules[j].Path })
	return p
}
