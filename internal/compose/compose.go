// Package compose joins files that several layers have a part in: dpkg's
// status, accounts, alternatives, the cache of the dynamic loader. In a stack
// of layers the highest one's file would hide the others'.
//
// Each such file is a list of records with keys. Four operations on them are
// all that layers need:
//
//	Delta(below, full)      what a module adds                    packing a module
//	Join(base, delta, ...)  the file of the whole stack           assembling an image: the glue layer
//	Merge(was, mine, now)   what a machine changed, on new layers  booting on a replaced base: /init
//	Place(...)              ids for accounts that modules bring   assembling an image
//
// Merge keeps what the machine added or changed (mine against was) and takes
// all else from now; applying it twice is the same as once, so a boot cut
// short does no harm. The record of a package is always that of the layer
// whose files are seen.
//
// All functions are pure; text that is not what a format wants never fails,
// it is kept as a record of its own. Carry alone touches files.
package compose

import (
	"bytes"
	"path"
	"slices"
	"strings"
)

// record is one record of a file.
type record struct {
	key  string
	text string // as in the file, without the separator at the end
}

// format says how a file is made of records.
type format struct {
	parse  func(text []byte) []record
	render func([]record) []byte
	// combine joins two records of one key, the upper layer's second; nil
	// lets the upper one win.
	combine func(lower, upper record) record
	// whole says that a part of the records makes no file of the format, so
	// that a delta is all of them.
	whole bool
}

// shared lists the files by path below the root; later patterns are globs.
var shared = []struct {
	pattern string
	format
}{
	{"etc/passwd", format{parse: colonLines, render: lines}},
	{"etc/shadow", format{parse: colonLines, render: lines}},
	{"etc/group", format{parse: colonLines, render: lines, combine: members(3, 3)}},
	{"etc/gshadow", format{parse: colonLines, render: lines, combine: members(2, 3)}},
	{"etc/subuid", format{parse: wholeLines, render: lines}},
	{"etc/subgid", format{parse: wholeLines, render: lines}},
	{"etc/shells", format{parse: wholeLines, render: lines}},
	{"etc/ld.so.cache", format{parse: parseLoaderCache, render: renderLoaderCache}},
	{"var/lib/dpkg/status", format{parse: stanzas, render: renderStanzas}},
	{"var/lib/apt/extended_states", format{parse: stanzas, render: renderStanzas}},
	{"var/lib/dpkg/diversions", format{parse: triples, render: lines}},
	{"var/lib/dpkg/statoverride", format{parse: overrides, render: lines}},
	{"var/lib/dpkg/triggers/[A-Za-z]*", format{parse: wholeLines, render: lines}},
	{"var/lib/dpkg/alternatives/*", format{parse: parseAlternative, render: renderAlternative, whole: true}},
}

// Files is shared files by path.
type Files map[string][]byte

// Shared says whether layers share the file at a path.
func Shared(p string) bool { _, ok := formatOf(p); return ok }

func formatOf(p string) (format, bool) {
	if p == "var/lib/dpkg/triggers/Lock" {
		return format{}, false
	}
	for _, s := range shared {
		if ok, _ := path.Match(s.pattern, p); ok {
			return s.format, true
		}
	}
	return format{}, false
}

// Delta returns the records of full that below lacks or has otherwise, nil
// when there are none.
func Delta(p string, below, full []byte) []byte {
	f, ok := formatOf(p)
	if !ok || bytes.Equal(below, full) {
		return nil
	}
	old := index(f.records(below))
	var out []record
	for _, r := range f.records(full) {
		if o, ok := old[r.key]; !ok || o.text != r.text {
			out = append(out, r)
		}
	}
	switch {
	case len(out) == 0:
		return nil
	case f.whole:
		return full
	}
	return f.render(out)
}

// Join returns the file of a stack, the lowest layer's first.
func Join(p string, layers ...[]byte) []byte {
	f, ok := formatOf(p)
	if !ok {
		return layers[len(layers)-1]
	}
	var out []record
	at := map[string]int{}
	for _, text := range layers {
		for _, r := range f.records(text) {
			i, known := at[r.key]
			switch {
			case !known:
				at[r.key] = len(out)
				out = append(out, r)
			case f.combine != nil:
				out[i] = f.combine(out[i], r)
			default:
				out[i] = r
			}
		}
	}
	return f.render(out)
}

// Merge returns the machine's file on new layers: was is the layers' file
// when the machine's was last right, mine the machine's, now the new layers'.
func Merge(p string, was, mine, now []byte) []byte {
	f, ok := formatOf(p)
	if !ok || bytes.Equal(was, now) {
		return mine
	}
	old, own := index(f.records(was)), index(f.records(mine))
	var out []record
	for _, n := range f.records(now) {
		o, before := old[n.key]
		m, have := own[n.key]
		switch {
		case !before && !have, have && before && m.text == o.text:
			out = append(out, n)
		case !have: // the machine removed it
		case before && o.text == n.text || f.combine == nil:
			out = append(out, m)
		default:
			out = append(out, f.combine(n, m))
		}
	}
	fresh := index(out)
	for _, m := range f.records(mine) {
		if _, done := fresh[m.key]; done {
			continue
		}
		if o, before := old[m.key]; !before || o.text != m.text {
			out = append(out, m)
		}
	}
	return f.render(out)
}

// records returns the records of a file. Of equal keys, which no sound file
// has, the first one counts, as for the programs that search it.
func (f format) records(text []byte) []record {
	seen := map[string]bool{}
	return slices.DeleteFunc(f.parse(text), func(r record) bool {
		again := seen[r.key]
		seen[r.key] = true
		return again
	})
}

func index(rs []record) map[string]record {
	m := make(map[string]record, len(rs))
	for _, r := range rs {
		m[r.key] = r
	}
	return m
}

// members joins the lists of members of two records: fields from to to.
func members(from, to int) func(lower, upper record) record {
	return func(lower, upper record) record {
		l, u := strings.Split(lower.text, ":"), strings.Split(upper.text, ":")
		if len(l) != len(u) || len(u) <= to {
			return upper
		}
		for i := from; i <= to; i++ {
			names := strings.FieldsFunc(l[i], func(r rune) bool { return r == ',' })
			for _, n := range strings.FieldsFunc(u[i], func(r rune) bool { return r == ',' }) {
				if !slices.Contains(names, n) {
					names = append(names, n)
				}
			}
			u[i] = strings.Join(names, ",")
		}
		return record{upper.key, strings.Join(u, ":")}
	}
}

func splitLines(text []byte) []string {
	s := strings.TrimRight(string(text), "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// colonLines: the key is what stands before the first colon.
func colonLines(text []byte) []record {
	var out []record
	for _, l := range splitLines(text) {
		key, _, _ := strings.Cut(l, ":")
		out = append(out, record{key, l})
	}
	return out
}

// wholeLines: a line is its own key.
func wholeLines(text []byte) []record {
	var out []record
	for _, l := range splitLines(text) {
		out = append(out, record{l, l})
	}
	return out
}

// overrides: "user group mode path", the key is the path.
func overrides(text []byte) []record {
	var out []record
	for _, l := range splitLines(text) {
		f := strings.SplitN(l, " ", 4)
		out = append(out, record{f[len(f)-1], l})
	}
	return out
}

// triples: dpkg's diversions, three lines each; the key is the first. Lines
// that a cut off file lacks at its end are empty ones: a short record would
// move the borders of those that come to stand after it.
func triples(text []byte) []record {
	all := splitLines(text)
	for len(all)%3 != 0 {
		all = append(all, "")
	}
	var out []record
	for t := range slices.Chunk(all, 3) {
		out = append(out, record{t[0], strings.Join(t, "\n")})
	}
	return out
}

func lines(rs []record) []byte {
	var b bytes.Buffer
	for _, r := range rs {
		b.WriteString(r.text)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// stanzas: paragraphs of dpkg and apt; the key is package and architecture,
// where a package that became "all" stays the same one.
func stanzas(text []byte) []record {
	var out []record
	for _, s := range strings.Split(string(text), "\n\n") {
		s = strings.Trim(s, "\n")
		if s == "" {
			continue
		}
		name, arch := Field(s, "Package"), Field(s, "Architecture")
		if arch == "all" {
			arch = "amd64"
		}
		out = append(out, record{name + ":" + arch, s})
	}
	return out
}

func renderStanzas(rs []record) []byte {
	var b bytes.Buffer
	for _, r := range rs {
		b.WriteString(r.text)
		b.WriteString("\n\n")
	}
	return b.Bytes()
}

// Field returns a field of a stanza, its first line only.
func Field(stanza, name string) string {
	for _, l := range strings.Split(stanza, "\n") {
		if v, ok := strings.CutPrefix(l, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// Stanzas returns the paragraphs of dpkg's status.
func Stanzas(text []byte) []string {
	var out []string
	for _, r := range stanzas(text) {
		out = append(out, r.text)
	}
	return out
}
