package base

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"gridappliance/internal/diag"
)

// layout says how a tree that packages made becomes the image's tree. It is
// read from text in the manner of tmpfiles.d(5), one rule a line:
//
//	d PATH MODE USER GROUP   a directory
//	f PATH MODE USER GROUP   mode and owner of a file that is there
//	L PATH TARGET            a symbolic link, in place of whatever is there
//	C PATH SOURCE            a copy of a file that the packages brought
//	M UNIT                   a systemd unit nobody can start: a link to /dev/null
//	r GLOB                   leave out what matches, and all below it
//	k GLOB                   but keep this; of several r and k the last counts
//
// r and k are applied to what the packages brought; the others come after.
// Paths are absolute; MODE is octal; globs are those of path.Match.
type layout struct {
	keep []keepRule
	make []makeRule
}

type keepRule struct {
	glob string // without the leading slash
	keep bool
}

type makeRule struct {
	kind        byte // 'd', 'f', 'L' or 'C'
	path        string
	mode        int64
	user, group string
	target      string // of L; the source of C without its leading slash
}

// parseLayout reads a layout. The error is a diag.List.
func parseLayout(file string, text []byte) (*layout, error) {
	l := &layout{}
	var problems diag.List
	for i, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if err := l.add(f); err != nil {
			problems.Add(diag.Problem{File: file, Line: i + 1, Message: err.Error(), Excerpt: line})
		}
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *layout) add(f []string) error {
	want := map[string]int{"d": 5, "f": 5, "L": 3, "C": 3, "M": 2, "r": 2, "k": 2}[f[0]]
	if want == 0 {
		return fmt.Errorf("unknown rule %q", f[0])
	}
	if len(f) != want {
		return fmt.Errorf("%d words instead of %d", len(f), want)
	}
	if f[0] == "M" {
		if strings.Contains(f[1], "/") {
			return fmt.Errorf("%q is not a unit's name", f[1])
		}
		l.make = append(l.make, makeRule{kind: 'L', path: "etc/systemd/system/" + f[1], target: "/dev/null"})
		return nil
	}
	if !strings.HasPrefix(f[1], "/") || path.Clean(f[1]) != f[1] || f[1] == "/" {
		return fmt.Errorf("%q is not a clean absolute path", f[1])
	}
	name := f[1][1:]
	switch f[0] {
	case "r", "k":
		if _, err := path.Match(name, ""); err != nil {
			return fmt.Errorf("%q: %v", f[1], err)
		}
		l.keep = append(l.keep, keepRule{name, f[0] == "k"})
	case "L":
		l.make = append(l.make, makeRule{kind: 'L', path: name, target: f[2]})
	case "C":
		l.make = append(l.make, makeRule{kind: 'C', path: name, target: strings.TrimPrefix(f[2], "/")})
	default:
		mode, err := strconv.ParseUint(f[2], 8, 12)
		if err != nil {
			return fmt.Errorf("%q is not an octal mode", f[2])
		}
		l.make = append(l.make, makeRule{kind: f[0][0], path: name, mode: int64(mode), user: f[3], group: f[4]})
	}
	return nil
}

// keeps says whether a path (without leading slash) that packages brought
// stays in the image.
func (l *layout) keeps(name string) bool {
	for i := len(l.keep) - 1; i >= 0; i-- {
		for p := name; p != "."; p = path.Dir(p) {
			if ok, _ := path.Match(l.keep[i].glob, p); ok {
				return l.keep[i].keep
			}
		}
	}
	return true
}
