package floppy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"gridappliance/internal/diag"
)

// DecodeConfig reads the text of GRID.TML; name is what problems call the
// file. It is strict: a key that is unknown, stands there twice, has a value
// of the wrong shape or outside its bounds is a problem. The error is a
// diag.List of every problem; no default is applied.
func DecodeConfig(name string, text []byte) (*Config, error) {
	text, problems := normalText(name, text)
	if len(problems) > 0 {
		return nil, problems
	}
	d := decodeConfig(name, text)
	if len(d.problems) > 0 {
		return nil, d.problems
	}
	return d.config, nil
}

// decoder walks the syntax tree of one TOML document against Keys.
type decoder struct {
	name     string
	text     []byte
	config   *Config
	problems diag.List
	headers  map[string]int  // table -> line of its header
	spans    map[string]span // key -> its value in text
}

// span is text[start:end].
type span struct{ start, end int }

// decodeConfig reads normal text, and goes on after a problem: its config
// holds what could be read, and remembers which keys could not.
func decodeConfig(name string, text []byte) *decoder {
	d := &decoder{
		name: name, text: text,
		config:  &Config{where: map[string]diag.Problem{"": {File: name}}, wrong: map[string]bool{}},
		headers: map[string]int{}, spans: map[string]span{},
	}
	d.walk()
	if v := d.config.Version; v > Version {
		d.problems = diag.List{d.config.problem("version",
			fmt.Sprintf("the file is of version %d, this program reads version %d", v, Version),
			"use a newer release of the appliance and of builder")}
		return d
	}
	if len(d.problems) == 0 {
		d.checkTOML()
	}
	d.problems.Sort()
	return d
}

// walk visits every expression of the document.
func (d *decoder) walk() {
	var parser unstable.Parser
	parser.Reset(d.text)
	prefix, known := "", true
	for parser.NextExpression() {
		switch e := parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			prefix, known = d.header(e)
		case unstable.KeyValue:
			if known {
				d.keyValue(prefix, e)
			}
		}
	}
	var syntax *unstable.ParserError
	if errors.As(parser.Error(), &syntax) {
		p := position(d.name, d.text, int(parser.Range(syntax.Highlight).Offset))
		p.Message = "not valid TOML: " + syntax.Message
		p.Remedy = "write key = value, one a line; a comment begins with #"
		if strings.Contains(syntax.Message, "at start of value") || strings.Contains(syntax.Message, "expected keyword") {
			p.Remedy = "texts stand in double quotes: key = \"value\""
		}
		d.problems.Add(p)
		d.config.wrong["*"] = true
	}
}

// checkTOML has the library decode the whole document, for the rules of TOML
// that walk does not look at, such as a dotted key that opens a table twice.
// The target has no types of ours, so none can reach a message.
func (d *decoder) checkTOML() {
	var any map[string]any
	err := toml.Unmarshal(d.text, &any)
	if err == nil {
		return
	}
	p := diag.Problem{File: d.name}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, column := at.Position()
		p = position(d.name, d.text, lineOffset(d.text, line)+column-1)
	}
	p.Message = "not valid TOML: " + strings.TrimPrefix(err.Error(), "toml: ")
	d.problems.Add(p)
}

// lineOffset returns where the 1-based line begins.
func lineOffset(text []byte, line int) int {
	at := 0
	for ; line > 1; line-- {
		n := bytes.IndexByte(text[at:], '\n')
		if n < 0 {
			return len(text)
		}
		at += n + 1
	}
	return at
}

// add reports a problem at an offset.
func (d *decoder) add(offset int, path, message, remedy string) {
	p := position(d.name, d.text, offset)
	p.Path, p.Message, p.Remedy = harmless([]byte(path)), message, remedy
	d.problems.Add(p)
}

// joinKey returns the dotted key of an iterator and where it begins and ends.
func joinKey(it unstable.Iterator) (path string, at span) {
	var parts []string
	for it.Next() {
		n := it.Node()
		if len(parts) == 0 {
			at.start = int(n.Raw.Offset)
		}
		at.end = int(n.Raw.Offset + n.Raw.Length)
		part := string(n.Data)
		if strings.Contains(part, ".") { // "a.b" in quotes is one name, not two
			part = strconv.Quote(part)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "."), at
}

// header enters a table. It returns the prefix of its keys, and false when
// the table is not known.
func (d *decoder) header(e *unstable.Node) (prefix string, known bool) {
	name, at := joinKey(e.Key())
	i := slices.IndexFunc(Tables, func(t Table) bool { return t.Name == name && name != "" })
	if i < 0 {
		d.add(at.start, name, "unknown table", diag.DidYouMean(name, tableNames(), "the tables are "+strings.Join(tableNames(), ", ")))
		return "", false
	}
	isList := e.Kind == unstable.ArrayTable
	switch {
	case isList && !Tables[i].List:
		d.add(at.start, name, "is one table, not a list of them", "write ["+name+"]")
		return "", false
	case !isList && Tables[i].List:
		d.add(at.start, name, "is a list of tables", "write [["+name+"]], once for each")
		return "", false
	case isList:
		return d.newModule(at.start), true
	}
	line := position(d.name, d.text, at.start).Line
	if first := d.headers[name]; first > 0 {
		d.add(at.start, name, fmt.Sprintf("the table stands here a second time, first in line %d", first), "put all its keys below one header")
	} else {
		d.headers[name] = line
	}
	return name, true
}

// newModule begins a [[modules]] table and returns its prefix.
func (d *decoder) newModule(offset int) string {
	c := d.config
	c.Modules = append(c.Modules, Module{})
	prefix := modulePath(len(c.Modules))
	p := position(d.name, d.text, offset)
	p.Path = prefix
	c.where[prefix] = p
	return prefix
}

// modulePath is the key path of the n-th module, counted from 1.
func modulePath(n int) string { return fmt.Sprintf("modules[%d]", n) }

// keyValue takes one key = value below a prefix.
func (d *decoder) keyValue(prefix string, e *unstable.Node) {
	name, at := joinKey(e.Key())
	path := name
	if prefix != "" {
		path = prefix + "." + name
	}
	value := span{start: d.skipEquals(at.end), end: int(e.Raw.Offset + e.Raw.Length)}
	node := e.Value()

	if i := slices.IndexFunc(Tables, func(t Table) bool { return t.Name == path && path != "" }); i >= 0 {
		d.inlineTable(Tables[i], node, value)
		return
	}
	key, target := d.config.find(path)
	if key == nil {
		d.add(at.start, path, "unknown key", d.suggest(path))
		return
	}
	if first, twice := d.config.where[path]; twice {
		d.add(at.start, path, fmt.Sprintf("is set a second time, first in line %d", first.Line), "delete one of the two")
		return
	}
	p := position(d.name, d.text, value.start)
	p.Path = path
	d.config.where[path] = p
	d.spans[path] = value
	if message, remedy := set(target, key, node); message != "" {
		d.config.wrong[path] = true
		d.add(value.start, path, message, remedy)
	}
}

// skipEquals returns the offset of the value of the key that ends at offset.
func (d *decoder) skipEquals(offset int) int {
	rest := bytes.TrimLeft(d.text[offset:], " \t")
	rest = bytes.TrimLeft(bytes.TrimPrefix(rest, []byte("=")), " \t")
	return len(d.text) - len(rest)
}

// inlineTable takes table = { key = value } and modules = [{ ... }, ...].
func (d *decoder) inlineTable(t Table, node *unstable.Node, value span) {
	if !t.List && node.Kind == unstable.InlineTable {
		for it := node.Children(); it.Next(); {
			d.keyValue(t.Name, it.Node())
		}
		return
	}
	if !t.List || node.Kind != unstable.Array {
		d.add(value.start, t.Name, "is a table, not "+shape(node), "write ["+t.Name+"] and its keys below")
		return
	}
	for it := node.Children(); it.Next(); {
		if it.Node().Kind != unstable.InlineTable {
			d.add(value.start, t.Name, "is a list of tables", "write [["+t.Name+"]], once for each")
			return
		}
		prefix := d.newModule(int(it.Node().Raw.Offset))
		for keys := it.Node().Children(); keys.Next(); {
			d.keyValue(prefix, keys.Node())
		}
	}
}

// suggest returns the remedy for an unknown key: the closest of its table, or
// the table it belongs in.
func (d *decoder) suggest(path string) string {
	table, name := "", path
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		table, name = path[:i], path[i+1:]
	}
	if i := strings.IndexByte(table, '['); i >= 0 {
		table = table[:i]
	}
	var here []string
	for _, k := range Keys {
		t, n := k.table()
		if t == table {
			here = append(here, n)
		}
	}
	if s := diag.Suggest(name, here); s != "" {
		return diag.DidYouMean(name, here, "")
	}
	for _, k := range Keys {
		if t, n := k.table(); n == name {
			if t == "" {
				return "it belongs at the top, before the first table"
			}
			return "it belongs in [" + t + "]"
		}
	}
	if slices.Contains(tableNames(), name) {
		return "did you mean the table [" + name + "]?"
	}
	if len(here) == 0 {
		return ""
	}
	return "the keys here are " + strings.Join(here, ", ")
}

// table returns the table of a key and its name in it.
func (k Key) table() (table, name string) {
	table, name, ok := strings.Cut(k.Path, ".")
	if !ok {
		return "", k.Path
	}
	return table, name
}

// tableNames returns every table but the top.
func tableNames() []string {
	var names []string
	for _, t := range Tables {
		if t.Name != "" {
			names = append(names, t.Name)
		}
	}
	return names
}

// set stores a value in its field. It returns what is wrong with it, if
// anything, and the remedy.
func set(target any, key *Key, node *unstable.Node) (message, remedy string) {
	mismatch := "is " + shape(node) + ", not " + key.shapeText()
	remedy = key.remedy()
	switch p := target.(type) {
	case *string:
		if node.Kind != unstable.String {
			return mismatch, remedy
		}
		*p = string(node.Data)
		return key.checkWord(*p)
	case *Role:
		if node.Kind != unstable.String {
			return mismatch, remedy
		}
		*p = Role(node.Data)
		return key.checkWord(string(*p))
	case *bool:
		if node.Kind != unstable.Bool {
			return mismatch, remedy
		}
		*p = string(node.Data) == "true"
	case *int:
		if node.Kind != unstable.Integer {
			return mismatch, remedy
		}
		return key.setInt(p, string(node.Data))
	case *[]string:
		return setTexts(p, node, mismatch, remedy)
	case *Choice:
		return key.setChoice(p, node, mismatch)
	}
	return "", ""
}

// setInt stores a whole number within its bounds.
func (k *Key) setInt(p *int, text string) (message, remedy string) {
	n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 0, 32)
	*p = int(n)
	switch {
	case k.Path == "version" && err == nil && n > int64(k.Max):
		return "", "" // has its own message
	case err != nil || int(n) < k.Min || int(n) > k.Max:
		return text + " is out of bounds", k.remedy()
	}
	return "", ""
}

// setChoice stores all, none or a list.
func (k *Key) setChoice(p *Choice, node *unstable.Node, mismatch string) (message, remedy string) {
	switch {
	case node.Kind == unstable.Array:
		return setTexts(&p.Names, node, mismatch, k.remedy())
	case k.Kind == BoolOrList && node.Kind == unstable.Bool:
		p.All = string(node.Data) == "true"
		return "", ""
	case k.Kind == WordOrList && node.Kind == unstable.String:
		p.All = true
		return k.checkWord(string(node.Data))
	}
	return mismatch, k.remedy()
}

// setTexts stores a list of texts, never nil.
func setTexts(p *[]string, node *unstable.Node, mismatch, remedy string) (string, string) {
	if node.Kind != unstable.Array {
		return mismatch, remedy
	}
	*p = []string{}
	for it := node.Children(); it.Next(); {
		if it.Node().Kind != unstable.String {
			return "holds " + shape(it.Node()) + ", not only texts", remedy
		}
		*p = append(*p, string(it.Node().Data))
	}
	return "", ""
}

// checkWord says whether a text is one of the key's words.
func (k *Key) checkWord(word string) (message, remedy string) {
	if len(k.Words) == 0 || slices.Contains(k.Words, word) {
		return "", ""
	}
	return fmt.Sprintf("%q is not known", word), diag.DidYouMean(word, k.Words, k.remedy())
}

// shapeText says in words what values a key takes.
func (k *Key) shapeText() string {
	quoted := make([]string, len(k.Words))
	for i, w := range k.Words {
		quoted[i] = strconv.Quote(w)
	}
	switch k.Kind {
	case Word:
		return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
	case WordOrList:
		return quoted[0] + " or a list of texts"
	case Whole:
		if k.Min == k.Max {
			return strconv.Itoa(k.Min)
		}
		return fmt.Sprintf("a whole number from %d to %d", k.Min, k.Max)
	case Texts:
		return "a list of texts"
	case Text:
		return "a text"
	}
	return string(k.Kind)
}

// remedy says what to write.
func (k *Key) remedy() string {
	_, name := k.table()
	return "write " + k.shapeText() + ", such as " + name + " = " + k.Example
}

// shape says what a value is, for a person.
func shape(node *unstable.Node) string {
	switch node.Kind {
	case unstable.String:
		return "a text"
	case unstable.Bool:
		return "true or false"
	case unstable.Integer:
		return "a whole number"
	case unstable.Float:
		return "a number with a fraction"
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return "a date or time"
}
