package floppy

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gridappliance/internal/diag"
)

// element says how an element of a first-generation file may stand there.
type element int

const (
	leaf   element = iota + 1 // holds text, once
	branch                    // holds elements, once
	list                      // holds elements, any number of times
)

// schema is the elements a file may hold, by their path below the root.
type schema map[string]element

// xmlLeaf is the text of one element.
type xmlLeaf struct {
	path  string // "pool/lower", "DHCPReservedIPs/DHCPReservedIP[1]/ip"
	text  string
	where diag.Problem // with position, path and excerpt filled in
}

// maxDepth is how deep elements may stand in one another; a schema needs 4.
const maxDepth = 8

// readXML reads a file whose root element is named root: strict in every
// element, attribute and repetition. It returns the leaves in their order.
func readXML(file string, text []byte, root string, allowed schema) ([]xmlLeaf, diag.List) {
	x := xmlReader{file: file, text: text, root: root, allowed: allowed, seen: map[string]int{}}
	x.decoder = xml.NewDecoder(bytes.NewReader(text))
	x.decoder.CharsetReader = func(charset string, _ io.Reader) (io.Reader, error) {
		x.charset = charset
		return nil, errors.ErrUnsupported
	}
	for x.next() {
	}
	if !x.rooted && len(x.problems) == 0 {
		x.add(0, "", "has no element "+root, "")
	}
	return x.leaves, x.problems
}

// xmlReader walks one document.
type xmlReader struct {
	file     string
	text     []byte
	root     string
	allowed  schema
	decoder  *xml.Decoder
	charset  string // one that is not UTF-8
	rooted   bool
	open     []openElement  // from the root down; the root has path ""
	seen     map[string]int // path -> how often it stood there
	leaves   []xmlLeaf
	problems diag.List
}

// openElement is one whose end has not come.
type openElement struct {
	path    string // with indexes
	generic string // as in the schema
	kind    element
	offset  int // of its text
	text    []byte
}

func (x *xmlReader) add(offset int, path, message, remedy string) {
	p := position(x.file, x.text, offset)
	p.Path, p.Message, p.Remedy = harmless([]byte(path)), message, remedy
	x.problems.Add(p)
}

// next takes one token; false at the end, or where nothing sensible can follow.
func (x *xmlReader) next() bool {
	offset := int(x.decoder.InputOffset())
	token, err := x.decoder.Token()
	if err != nil {
		x.end(err)
		return false
	}
	switch t := token.(type) {
	case xml.StartElement:
		return x.start(t, offset)
	case xml.EndElement:
		x.close()
	case xml.CharData:
		x.chars(string(t), offset)
	case xml.Directive:
		x.add(offset, "", "has a document type, which is not allowed", "delete the line")
		return false
	case xml.ProcInst:
		if t.Target != "xml" {
			x.add(offset, "", fmt.Sprintf("has a processing instruction %q", printable(t.Target)), "delete it")
		}
	}
	return true
}

// end reports a syntax error.
func (x *xmlReader) end(err error) {
	if errors.Is(err, io.EOF) {
		return
	}
	if x.charset != "" {
		x.add(0, "", fmt.Sprintf("is in the encoding %q", printable(x.charset)), "save it as UTF-8")
		return
	}
	var syntax *xml.SyntaxError
	message := strings.TrimPrefix(err.Error(), "xml: ")
	if errors.As(err, &syntax) {
		message = syntax.Msg
	}
	x.add(int(x.decoder.InputOffset()), "", "not valid XML: "+printable(message), "")
}

// start opens an element.
func (x *xmlReader) start(t xml.StartElement, offset int) bool {
	name := printable(t.Name.Local)
	x.checkAttributes(t, offset)
	depth := len(x.open)
	switch {
	case depth >= maxDepth:
		x.add(offset, name, "elements stand too deep in one another", "")
		return false
	case depth == 0 && x.rooted:
		x.add(offset, name, "stands after the end of "+x.root, "delete it")
		return false
	case depth == 0 && t.Name.Local != x.root:
		x.add(offset, name, "stands where "+x.root+" belongs", "is it another file by mistake?")
		return false
	case depth == 0:
		x.rooted = true
		x.open = append(x.open, openElement{kind: branch})
		return true
	}
	parent := &x.open[depth-1]
	path, generic := joinPath(parent.path, name), joinPath(parent.generic, name)
	kind := x.allowed[generic]
	if kind == 0 {
		if parent.kind != 0 { // inside an unknown element one problem is enough
			x.add(offset, path, "unknown element", x.suggest(parent.generic, name))
		}
	} else {
		x.seen[path]++
		if n := x.seen[path]; kind == list {
			path = fmt.Sprintf("%s[%d]", path, n)
		} else if n > 1 {
			x.add(offset, path, "stands there twice", "delete one of the two")
			kind = 0
		}
	}
	x.open = append(x.open, openElement{path: path, generic: generic, kind: kind, offset: int(x.decoder.InputOffset())})
	return true
}

func joinPath(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "/" + name
}

// suggest returns the remedy for an unknown element.
func (x *xmlReader) suggest(parent, name string) string {
	var here []string
	for path := range x.allowed {
		if rest, ok := strings.CutPrefix(path, parent); ok {
			if rest = strings.TrimPrefix(rest, "/"); rest != "" && !strings.Contains(rest, "/") {
				here = append(here, rest)
			}
		}
	}
	slices.Sort(here)
	return diag.DidYouMean(name, here, "it has no use any more: delete it")
}

// checkAttributes allows the schema declarations that .NET writes, no others.
func (x *xmlReader) checkAttributes(t xml.StartElement, offset int) {
	for _, a := range t.Attr {
		if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" {
			x.add(offset, printable(t.Name.Local), fmt.Sprintf("unknown attribute %q", printable(a.Name.Local)), "delete it")
		}
	}
}

// chars takes text.
func (x *xmlReader) chars(text string, offset int) {
	if len(x.open) == 0 {
		if strings.TrimSpace(text) != "" {
			x.add(offset, "", "text stands outside "+x.root, "delete it")
		}
		return
	}
	top := &x.open[len(x.open)-1]
	switch {
	case top.kind == leaf:
		top.text = append(top.text, text...)
	case top.kind != 0 && strings.TrimSpace(text) != "":
		x.add(offset, top.path, "has text between its elements", "delete it")
	}
}

// close ends the innermost element.
func (x *xmlReader) close() {
	top := &x.open[len(x.open)-1]
	if top.kind == leaf {
		where := position(x.file, x.text, top.offset)
		where.Path = top.path
		x.leaves = append(x.leaves, xmlLeaf{path: top.path, text: strings.TrimSpace(string(top.text)), where: where})
	}
	x.open = x.open[:len(x.open)-1]
}
