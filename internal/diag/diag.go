// Package diag is how this project tells a person that their input is wrong:
// which file, which line, what is wrong and what to do about it.
//
// A decoder or validator collects Problems in a List and goes on, so that
// everything wrong is reported at once; List.Err turns the List into an error.
// A problem prints as
//
//	alice.img/GRID.TML:3:1: network.mtv: unknown key
//	    mtv = 1280
//	    ^
//	  remedy: did you mean "mtu"?
//
// The package knows no file format; it has no state and is safe for
// concurrent use as long as a List is not shared.
package diag

import (
	"errors"
	"fmt"
	"sort"
	"strings"
)

// Problem is one thing that is wrong with an input.
type Problem struct {
	File    string // the input as the user named it; "" when there is none
	Line    int    // 1-based; 0 when the problem has no line
	Column  int    // 1-based, in bytes; 0 when the problem has no column
	Path    string // key path such as "network.mtu", or ""
	Message string // what is wrong: lower case, no full stop
	Excerpt string // the offending line as it stands in the file, or ""
	Remedy  string // what to do about it, or ""
}

// Position returns "file:line:column" with the parts that are known.
func (p Problem) Position() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d", p.Line)
		if p.Column > 0 {
			s += fmt.Sprintf(":%d", p.Column)
		}
	}
	return s
}

// Error returns the problem in one line: position, key path, message, remedy.
func (p Problem) Error() string {
	var parts []string
	for _, s := range []string{p.Position(), p.Path, p.Message} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	s := strings.Join(parts, ": ")
	if p.Remedy != "" {
		s += " (" + p.Remedy + ")"
	}
	return s
}

// Format returns the problem over several lines, with its excerpt and a caret
// below the column, ending in a newline.
func (p Problem) Format() string {
	remedy := p.Remedy
	p.Remedy = ""
	s := p.Error() + "\n"
	if p.Excerpt != "" {
		s += "    " + p.Excerpt + "\n"
		if p.Column > 0 && p.Column <= len(p.Excerpt)+1 {
			s += "    " + caretIndent(p.Excerpt[:p.Column-1]) + "^\n"
		}
	}
	if remedy != "" {
		s += "  remedy: " + remedy + "\n"
	}
	return s
}

// caretIndent keeps tabs, so that the caret stands below the column whatever
// the terminal's tab width is.
func caretIndent(before string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, before)
}

// List is every problem found in one or more inputs, in the order found.
type List []Problem

// Add appends one problem.
func (l *List) Add(p Problem) { *l = append(*l, p) }

// Err returns nil for an empty list, else the list as an error.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	return l
}

// Error returns one line per problem.
func (l List) Error() string {
	lines := make([]string, len(l))
	for i, p := range l {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Format returns all problems over several lines each.
func (l List) Format() string {
	var b strings.Builder
	for _, p := range l {
		b.WriteString(p.Format())
	}
	return b.String()
}

// Sort orders the list by file, line and column; problems at one place keep
// their order.
func (l List) Sort() {
	sort.SliceStable(l, func(i, j int) bool {
		a, b := l[i], l[j]
		if a.File != b.File {
			return a.File < b.File
		}
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
}

// Of returns the list inside err, or nil when err carries none. A single
// Problem counts as a list of one.
func Of(err error) List {
	var l List
	if errors.As(err, &l) {
		return l
	}
	var p Problem
	if errors.As(err, &p) {
		return List{p}
	}
	return nil
}
