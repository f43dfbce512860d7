// Package knob writes HTCondor configuration text that says exactly what its
// author meant, whatever the values are.
//
// HTCondor reads a misspelt name without complaint, and a value is full of
// traps: a line end starts the next knob, a backslash at the end joins the
// next line, $(NAME) is replaced, and a quotation mark ends a ClassAd string.
// So here
//
//   - a name must be in the allow-list (names.go), which holds every knob this
//     project sets; any other is an error of the Doc;
//   - text that is part of the program is a Source, a type no other package
//     can convert to: only untyped constants of the calling code fit it;
//   - a value from outside is a Word or a String, and those refuse every byte
//     outside a small alphabet. Nothing is escaped, so nothing can be escaped
//     wrongly.
//
// A Doc is written top to bottom and prints in that order:
//
//	# who is who: the collector's host
//	CONDOR_HOST = C250000002.ipop
//
// Invariants: equal calls give equal bytes; Bytes returns text only when every
// call was valid. A Doc is not safe for concurrent use.
//
// Sources: HTCondor manual, "Introduction to Configuration" (configuration
// file syntax) and "ClassAd Syntax".
package knob

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// source is configuration text that stands in this project's own code. It is
// not exported, so that only constants of the caller can become one.
type source string

// Value is the right side of one knob, or the reason why it cannot be one.
// Its zero value is the empty value.
type Value struct {
	text string
	err  error
}

// Expr is text of this program, in which every %v stands for one of args.
// Other verbs, and a %v too many or too few, are errors.
func Expr(text source, args ...Value) Value {
	parts := strings.Split(string(text), "%v")
	if len(parts) != len(args)+1 || strings.Contains(string(text), "\n") {
		return Value{err: fmt.Errorf("expression %q: %d values for %d places", text, len(args), len(parts)-1)}
	}
	v := Value{text: parts[0]}
	for i, a := range args {
		v.text += a.text + parts[i+1]
		v.err = errors.Join(v.err, a.err)
	}
	return v
}

// Word is a name, address or path from outside: ASCII letters, digits and
// . _ @ : / + -, at least one.
func Word(s string) Value {
	if s == "" {
		return Value{err: errors.New("value: is empty")}
	}
	for _, r := range s {
		if !wordRune(r) {
			return Value{err: fmt.Errorf("value %q: %q cannot stand in HTCondor's configuration", s, r)}
		}
	}
	return Value{text: s}
}

// Words is a list of Words separated by ", ". An empty list is an empty value.
func Words(list []string) Value {
	var v Value
	for i, s := range list {
		w := Word(s)
		if i > 0 {
			v.text += ", "
		}
		v.text += w.text
		v.err = errors.Join(v.err, w.err)
	}
	return v
}

// String is a Word as a ClassAd string: between quotation marks.
func String(s string) Value {
	v := Word(s)
	v.text = `"` + v.text + `"`
	return v
}

// Int is a whole number.
func Int(n int) Value { return Value{text: strconv.Itoa(n)} }

// Bool is True or False.
func Bool(b bool) Value {
	if b {
		return Value{text: "True"}
	}
	return Value{text: "False"}
}

// wordRune says whether r may stand in a Word. The alphabet has no blank, no
// quotation mark, no backslash, no $, # or =, no glob and no control byte.
func wordRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' ||
		strings.ContainsRune("._@:/+-", r)
}

// Doc is one configuration file while it is written.
type Doc struct {
	text strings.Builder
	errs []error
}

// Comment adds comment lines; each line of text becomes one.
func (d *Doc) Comment(text source) {
	if d.text.Len() > 0 {
		d.text.WriteByte('\n')
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		d.text.WriteString(strings.TrimRight("# "+line, " ") + "\n")
	}
}

// Set adds one knob. Index numbers of a name are given as further words: name
// "SLOT%d_USER" with index 3 sets SLOT3_USER.
func (d *Doc) Set(name source, v Value, index ...int) {
	full := string(name)
	for _, i := range index {
		full = strings.Replace(full, "%d", strconv.Itoa(i), 1)
	}
	d.set(name, full, v)
}

// SetFor adds one knob whose name has a part from outside, of ASCII letters and
// digits: name "Has%s" for "OpenMpi" sets HasOpenMpi.
func (d *Doc) SetFor(name source, part string, v Value) {
	if part == "" || strings.ContainsFunc(part, func(r rune) bool { return !wordRune(r) || strings.ContainsRune("._@:/+-", r) }) {
		d.errs = append(d.errs, fmt.Errorf("knob %s for %q: want letters and digits", name, part))
		return
	}
	d.set(name, strings.Replace(string(name), "%s", part, 1), v)
}

// set adds the knob full, which is one of those that name stands for.
func (d *Doc) set(name source, full string, v Value) {
	if _, ok := names[string(name)]; !ok || strings.Contains(full, "%") {
		d.errs = append(d.errs, fmt.Errorf("knob %s: is not in the allow-list", full))
	}
	if v.err != nil {
		d.errs = append(d.errs, fmt.Errorf("knob %s: %w", full, v.err))
	}
	d.text.WriteString(strings.TrimRight(full+" = "+v.text, " ") + "\n")
}

// Bytes returns the file, or every mistake made while writing it.
func (d *Doc) Bytes() ([]byte, error) {
	if err := errors.Join(d.errs...); err != nil {
		return nil, err
	}
	return []byte(d.text.String()), nil
}
