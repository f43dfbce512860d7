package spec

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"gridappliance/internal/diag"
)

// Positions tells where the keys of a definition stand in its text.
type Positions struct {
	file  string
	lines []string
	keys  map[string]place
}

// place is where a key stands and what kind of value it has.
type place struct {
	line, column int // 1-based
	kind         unstable.Kind
}

// At returns a problem that carries the position and line of key, such as
// "name", "packages[2]" or "files[0].path", or of the file alone when the text
// does not have it.
func (p *Positions) At(key string) diag.Problem {
	at, ok := p.keys[key]
	if !ok {
		return diag.Problem{File: p.file}
	}
	return p.problem(at.line, at.column)
}

func (p *Positions) problem(line, column int) diag.Problem {
	d := diag.Problem{File: p.file, Line: line, Column: column}
	if line >= 1 && line <= len(p.lines) {
		d.Excerpt = p.lines[line-1]
	}
	return d
}

// Decode reads the shape of a definition: syntax, known keys, types. name is
// the file as the user named it. The error is a diag.List; nothing of the
// definition's meaning is judged.
func Decode(name string, text []byte) (*Definition, *Positions, error) {
	text = bytes.ReplaceAll(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), []byte("\r\n"), []byte("\n"))
	pos := &Positions{file: name, lines: strings.Split(string(text), "\n"), keys: keyPositions(text)}
	var d Definition
	dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, nil, pos.translate(err)
	}
	if _, ok := pos.keys["version"]; !ok {
		return nil, nil, diag.List{{File: name, Path: "version", Message: "is missing", Remedy: "begin with: version = 1"}}
	}
	if at, ok := pos.keys["disk"]; ok && at.kind != unstable.String { // the decoder takes an integer for a Size
		problem := pos.At("disk")
		problem.Path, problem.Message = "disk", "wrong type: want "+keys["disk"]
		return nil, nil, diag.List{problem}
	}
	return &d, pos, nil
}

// translate turns the decoder's errors into problems without Go type names.
func (p *Positions) translate(err error) error {
	var problems diag.List
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		for _, e := range unknown.Errors {
			line, column := e.Position()
			d := p.problem(line, column)
			d.Path, d.Message = strings.Join(e.Key(), "."), "unknown key"
			d.Remedy = didYouMean(d.Path)
			problems.Add(d)
		}
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		d := p.problem(line, column)
		d.Path, d.Message = strings.Join(wrong.Key(), "."), strings.TrimPrefix(wrong.Error(), "toml: ")
		if want, ok := keys[d.Path]; ok && (strings.HasPrefix(d.Message, "cannot ") || strings.Contains(d.Message, "incompatible type")) {
			d.Message = "wrong type: want " + want
		}
		problems.Add(d)
	default:
		problems.Add(diag.Problem{File: p.file, Message: strings.TrimPrefix(err.Error(), "toml: ")})
	}
	return problems
}

// didYouMean names the key that was meant, or those that its table knows.
func didYouMean(path string) string {
	table := ""
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		table = path[:i+1]
	}
	var siblings []string
	for k := range keys {
		if rest, ok := strings.CutPrefix(k, table); ok && !strings.Contains(rest, ".") {
			siblings = append(siblings, rest)
		}
	}
	if len(siblings) == 0 {
		return didYouMean(strings.TrimSuffix(table, "."))
	}
	slices.Sort(siblings)
	return diag.DidYouMean(strings.TrimPrefix(path, table), siblings, "known keys: "+strings.Join(siblings, ", "))
}

// keyPositions finds the first place of every key, table of a list and
// element of a list; text that does not parse yields those before the mistake.
func keyPositions(text []byte) map[string]place {
	f := &finder{found: map[string]place{}, tables: map[string]int{}}
	f.parser.Reset(text)
	prefix := ""
	for f.parser.NextExpression() {
		e := f.parser.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			name, at := f.key(e.Key())
			if e.Kind == unstable.ArrayTable {
				f.tables[name]++
				name = index(name, f.tables[name]-1)
			}
			f.add(name, at, e.Kind)
			prefix = name + "."
		case unstable.KeyValue:
			f.keyValue(prefix, e)
		}
	}
	return f.found
}

type finder struct {
	parser unstable.Parser
	found  map[string]place
	tables map[string]int // list of tables -> how many were seen
}

func (f *finder) add(key string, at unstable.Range, kind unstable.Kind) {
	start := f.parser.Shape(at).Start
	if _, twice := f.found[key]; !twice {
		f.found[key] = place{start.Line, start.Column, kind}
	}
}

// key returns a dotted key and where it begins.
func (f *finder) key(parts unstable.Iterator) (string, unstable.Range) {
	var names []string
	var at unstable.Range
	for parts.Next() {
		if len(names) == 0 {
			at = parts.Node().Raw
		}
		names = append(names, string(parts.Node().Data))
	}
	return strings.Join(names, "."), at
}

func (f *finder) keyValue(prefix string, e *unstable.Node) {
	name, at := f.key(e.Key())
	value := e.Value()
	f.add(prefix+name, at, value.Kind)
	if value.Kind != unstable.Array {
		return
	}
	elements := value.Children()
	for i := 0; elements.Next(); i++ {
		if n := elements.Node(); n.Kind == unstable.String {
			f.add(index(prefix+name, i), n.Raw, n.Kind)
		}
	}
}
