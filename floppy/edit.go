package floppy

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"gridappliance/internal/diag"
)

// SetKey returns the text of a GRID.TML in which the key at path has a value,
// given as TOML: `"oak"`, 1400, ["a"]. Everything else stays as it stands,
// comments included: a value is replaced; a key that is only there as a
// comment takes that line's place; otherwise it comes first in its table, and
// a table that is not there comes at the end.
//
// It does not check the value: decode the result. The error names the closest
// key when path is unknown, or says that text cannot be read.
func SetKey(name string, text []byte, path, value string) ([]byte, error) {
	text, problems := normalText(name, text)
	if len(problems) > 0 {
		return nil, problems
	}
	d := decodeConfig(name, text)
	if d.config.wrong["*"] {
		return nil, d.problems
	}
	key, _ := d.config.find(path)
	if key == nil {
		p := diag.Problem{File: name, Path: printable(path), Message: "unknown key", Remedy: d.suggest(path)}
		if strings.HasPrefix(path, "modules") {
			p.Message, p.Remedy = "cannot be set by itself", "write a table [[modules]] into the file"
		}
		return nil, diag.List{p}
	}
	if at, ok := d.spans[path]; ok {
		return splice(text, at.start, at.end, value), nil
	}
	table, short := key.table()
	start, end, ok := tableSpan(text, table)
	if !ok {
		return fmt.Appendf(bytes.TrimRight(text, "\n"), "\n\n[%s]\n%s = %s\n", table, short, value), nil
	}
	line := short + " = " + value
	comment := regexp.MustCompile(`(?m)^#[ \t]*` + regexp.QuoteMeta(short) + `[ \t]*=.*$`)
	if at := comment.FindIndex(text[start:end]); at != nil {
		return splice(text, start+at[0], start+at[1], line), nil
	}
	return splice(text, start, start, line+"\n"), nil
}

// splice replaces text[start:end].
func splice(text []byte, start, end int, by string) []byte {
	return append(append(bytes.Clone(text[:start]), by...), text[end:]...)
}

// tableSpan returns where the lines of a table stand, without its header.
func tableSpan(text []byte, table string) (start, end int, ok bool) {
	if table != "" {
		header := regexp.MustCompile(`(?m)^[ \t]*\[[ \t]*` + regexp.QuoteMeta(table) + `[ \t]*\].*(\n|$)`).FindIndex(text)
		if header == nil {
			return 0, 0, false
		}
		start = header[1]
	}
	end = len(text)
	if next := regexp.MustCompile(`(?m)^[ \t]*\[`).FindIndex(text[start:]); next != nil {
		end = start + next[0]
	}
	return start, end, true
}

// SplitSetting splits key=value as a person writes it on a command line and
// makes the value TOML: for a key that takes a text or a word, quotes may be
// left out, and for a list of texts the brackets.
func SplitSetting(setting string) (path, value string, err error) {
	path, value, ok := strings.Cut(setting, "=")
	path, value = strings.TrimSpace(path), strings.TrimSpace(value)
	if !ok || path == "" {
		return "", "", fmt.Errorf("set %q: not key=value, such as network.mtu=1400", setting)
	}
	var c Config
	key, _ := c.find(path)
	if key == nil || strings.HasPrefix(value, `"`) || strings.HasPrefix(value, "'") || strings.HasPrefix(value, "[") {
		return path, value, nil
	}
	switch {
	case key.Kind == Text, key.Kind == Word, key.Kind == WordOrList && value == key.Words[0]:
		return path, fmt.Sprintf("%q", value), nil
	case key.Kind == Texts, key.Kind == WordOrList, key.Kind == BoolOrList && value != "true" && value != "false":
		var quotes []string
		for _, v := range strings.Split(value, ",") {
			quotes = append(quotes, fmt.Sprintf("%q", strings.TrimSpace(v)))
		}
		return path, "[" + strings.Join(quotes, ", ") + "]", nil
	}
	if key.Kind == Whole && !wholePattern.MatchString(value) || key.Kind == Boolean && value != "true" && value != "false" {
		return path, fmt.Sprintf("%q", value), nil // so that it is the decoder who says what is wrong
	}
	return path, value, nil
}

var wholePattern = regexp.MustCompile(`^[+-]?[0-9][0-9_]*$`)
