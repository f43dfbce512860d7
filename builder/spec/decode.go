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

// At returns a problem that carries the position and line of key, or of the
// file alone when the text does not name it.
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
			d.Remedy = diag.DidYouMean(d.Path, keyNames(), "known keys: "+strings.Join(keyNames(), ", "))
			problems.Add(d)
		}
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		d := p.problem(line, column)
		d.Path, d.Message = strings.Join(wrong.Key(), "."), strings.TrimPrefix(wrong.Error(), "toml: ")
		if want, ok := keys[d.Path]; ok && strings.HasPrefix(d.Message, "cannot ") {
			d.Message = "wrong type: want " + want
		}
		problems.Add(d)
	default:
		problems.Add(diag.Problem{File: p.file, Message: strings.TrimPrefix(err.Error(), "toml: ")})
	}
	return problems
}

func keyNames() []string {
	var names []string
	for k := range keys {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// keyPositions finds the first place of every top-level key; text that does
// not parse yields those before the mistake.
func keyPositions(text []byte) map[string]place {
	found := map[string]place{}
	var parser unstable.Parser
	parser.Reset(text)
	for parser.NextExpression() {
		e := parser.Expression()
		if e.Kind != unstable.KeyValue {
			continue
		}
		key := e.Key()
		if !key.Next() {
			continue
		}
		node := key.Node()
		start := parser.Shape(node.Raw).Start
		if _, twice := found[string(node.Data)]; !twice {
			found[string(node.Data)] = place{start.Line, start.Column, e.Value().Kind}
		}
	}
	return found
}
