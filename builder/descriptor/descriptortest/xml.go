package descriptortest

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Element is an element of an XML text.
type Element struct {
	Name       string // local
	Space      string
	Attributes map[string]string // by local name
	Children   []*Element
	Text       string // all of its own text
}

// Tree reads a well-formed XML text without a document type. An attribute named
// twice is an error, which encoding/xml lets pass.
func Tree(text string) (*Element, error) {
	d := xml.NewDecoder(strings.NewReader(text))
	root := &Element{}
	stack := []*Element{root}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		top := stack[len(stack)-1]
		switch token := token.(type) {
		case xml.StartElement:
			e := &Element{Name: token.Name.Local, Space: token.Name.Space, Attributes: map[string]string{}}
			for _, a := range token.Attr {
				name := a.Name.Local
				if a.Name.Space == "xmlns" {
					name = "xmlns:" + name
				}
				if _, twice := e.Attributes[name]; twice {
					return nil, fmt.Errorf("xml: <%s> has %s twice", e.Name, name)
				}
				e.Attributes[name] = a.Value
			}
			top.Children = append(top.Children, e)
			stack = append(stack, e)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			top.Text += string(token)
		case xml.Directive:
			return nil, errors.New("xml: a document type or another directive")
		}
	}
	if len(root.Children) != 1 || strings.TrimSpace(root.Text) != "" {
		return nil, errors.New("xml: not one root element alone")
	}
	return root.Children[0], nil
}

// All returns every element below e, or e itself, that has the name.
func (e *Element) All(name string) []*Element {
	var found []*Element
	if e.Name == name {
		found = append(found, e)
	}
	for _, c := range e.Children {
		found = append(found, c.All(name)...)
	}
	return found
}

// Child returns the only child with the name, an empty element when there are
// none or several.
func (e *Element) Child(name string) *Element {
	var found []*Element
	for _, c := range e.Children {
		if c.Name == name {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		return &Element{}
	}
	return found[0]
}
