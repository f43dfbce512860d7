package compose

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A file of update-alternatives(1), /var/lib/dpkg/alternatives/NAME:
//
//	auto                        or manual
//	/usr/bin/editor             the link
//	editor.1.gz                 a slave: name and link; any number, then
//	/usr/share/man/man1/...
//	                            an empty line
//	/bin/nano                   a choice: path, priority, a path a slave
//	40
//	/usr/share/man/man1/nano.1.gz
//	                            an empty line after the last choice
//
// As records: "mode", "link", "slave NAME" with its link, and "choice PATH"
// with priority and "NAME=PATH" a slave, by slave names and not by places, so
// that layers whose slaves differ can be joined.

func parseAlternative(text []byte) []record {
	all := strings.Split(string(text), "\n")
	if len(all) < 3 {
		return nil
	}
	out := []record{{"mode", all[0]}, {"link", all[1]}}
	all = all[2:]
	var slaves []string
	for len(all) >= 2 && all[0] != "" {
		slaves = append(slaves, all[0])
		out = append(out, record{"slave " + all[0], all[1]})
		all = all[2:]
	}
	all = all[min(1, len(all)):]
	for len(all) >= 2+len(slaves) && all[0] != "" {
		fields := []string{all[1]}
		for i, s := range slaves {
			if all[2+i] != "" {
				fields = append(fields, s+"="+all[2+i])
			}
		}
		out = append(out, record{"choice " + all[0], strings.Join(fields, "\n")})
		all = all[2+len(slaves):]
	}
	return out
}

func renderAlternative(rs []record) []byte {
	a := alternative(rs)
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", a.mode, a.link)
	for _, s := range a.slaves {
		fmt.Fprintf(&b, "%s\n%s\n", s.name, s.link)
	}
	b.WriteString("\n")
	for _, c := range a.choices {
		fmt.Fprintf(&b, "%s\n%d\n", c.path, c.priority)
		for _, s := range a.slaves {
			fmt.Fprintf(&b, "%s\n", c.slaves[s.name])
		}
	}
	b.WriteString("\n")
	return []byte(b.String())
}

type group struct {
	mode, link string
	slaves     []slave
	choices    []choice
}

type slave struct{ name, link string }

type choice struct {
	path     string
	priority int
	slaves   map[string]string
}

func alternative(rs []record) group {
	g := group{mode: "auto"}
	for _, r := range rs {
		kind, name, _ := strings.Cut(r.key, " ")
		switch kind {
		case "mode":
			g.mode = r.text
		case "link":
			g.link = r.text
		case "slave":
			g.slaves = append(g.slaves, slave{name, r.text})
		case "choice":
			c := choice{path: name, slaves: map[string]string{}}
			for i, f := range strings.Split(r.text, "\n") {
				if i == 0 {
					c.priority, _ = strconv.Atoi(f)
				} else if s, p, ok := strings.Cut(f, "="); ok {
					c.slaves[s] = p
				}
			}
			g.choices = append(g.choices, c)
		}
	}
	slices.SortFunc(g.slaves, func(a, b slave) int { return strings.Compare(a.name, b.name) })
	slices.SortFunc(g.choices, func(a, b choice) int { return strings.Compare(a.path, b.path) })
	return g
}

// AlternativeLinks returns the symbolic links that an alternative in the mode
// auto wants: path below the root to target, "" for one that must not be. A
// manual one wants none changed.
func AlternativeLinks(p string, text []byte) map[string]string {
	g := alternative(parseAlternative(text))
	if g.mode != "auto" || len(g.choices) == 0 {
		return nil
	}
	best := g.choices[0]
	for _, c := range g.choices[1:] {
		if c.priority > best.priority {
			best = c
		}
	}
	const dir = "etc/alternatives/"
	links := map[string]string{dir + path.Base(p): best.path, strings.TrimPrefix(g.link, "/"): "/" + dir + path.Base(p)}
	for _, s := range g.slaves {
		links[dir+s.name], links[strings.TrimPrefix(s.link, "/")] = "", ""
		if to := best.slaves[s.name]; to != "" {
			links[dir+s.name], links[strings.TrimPrefix(s.link, "/")] = to, "/"+dir+s.name
		}
	}
	return links
}
