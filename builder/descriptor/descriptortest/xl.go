package descriptortest

import (
	"fmt"
	"strings"
)

// XL reads xl's configuration (xl.cfg(5)): NAME = VALUE, where a value is a
// number, a string or a list of strings over several lines. It returns
// numbers as strings.
func XL(text string) (map[string][]string, error) {
	p := &xl{rest: text, line: 1}
	values := map[string][]string{}
	for {
		p.skip()
		if p.rest == "" {
			return values, nil
		}
		name := p.word("abcdefghijklmnopqrstuvwxyz_")
		if name == "" {
			return nil, p.fail("no name")
		}
		if _, twice := values[name]; twice {
			return nil, p.fail(name + " for the second time")
		}
		if p.blanks(); !p.take("=") {
			return nil, p.fail("no = after " + name)
		}
		p.blanks()
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		values[name] = value
		if p.blanks(); p.rest != "" && p.rest[0] != '\n' && p.rest[0] != '#' {
			return nil, p.fail("more than a value for " + name)
		}
	}
}

type xl struct {
	rest string
	line int
}

func (p *xl) fail(what string) error { return fmt.Errorf("xl: line %d: %s", p.line, what) }

func (p *xl) take(s string) bool {
	rest, found := strings.CutPrefix(p.rest, s)
	p.rest = rest
	return found
}

func (p *xl) blanks() { p.rest = strings.TrimLeft(p.rest, " \t") }

// skip passes over white space, ends of lines and comments.
func (p *xl) skip() {
	for {
		p.blanks()
		switch {
		case p.take("\n"):
			p.line++
		case strings.HasPrefix(p.rest, "#"):
			_, p.rest, _ = strings.Cut(p.rest, "\n")
			p.line++
		default:
			return
		}
	}
}

func (p *xl) word(letters string) string {
	rest := strings.TrimLeft(p.rest, letters)
	w := p.rest[:len(p.rest)-len(rest)]
	p.rest = rest
	return w
}

func (p *xl) value() ([]string, error) {
	if number := p.word("0123456789"); number != "" {
		return []string{number}, nil
	}
	if !p.take("[") {
		s, err := p.text()
		return []string{s}, err
	}
	list := []string{}
	for p.skip(); !p.take("]"); p.skip() {
		s, err := p.text()
		if err != nil {
			return nil, err
		}
		list = append(list, s)
		if p.skip(); !p.take(",") && !strings.HasPrefix(p.rest, "]") {
			return nil, p.fail("neither , nor ] in a list")
		}
	}
	return list, nil
}

func (p *xl) text() (string, error) {
	if !p.take(`"`) {
		return "", p.fail("no value")
	}
	s, rest, found := strings.Cut(p.rest, `"`)
	if !found || strings.Contains(s, "\n") {
		return "", p.fail("a text without an end")
	}
	p.rest = rest
	return s, nil
}

// XLDisks returns the targets of a disk list by virtual device.
func XLDisks(disks []string) (map[string]string, error) {
	targets := map[string]string{}
	for _, d := range disks {
		keys := map[string]string{}
		for _, pair := range strings.Split(d, ",") {
			key, value, found := strings.Cut(strings.TrimSpace(pair), "=")
			if _, twice := keys[key]; !found || twice || value == "" {
				return nil, fmt.Errorf("xl disk %q: %q", d, pair)
			}
			keys[key] = value
		}
		vdev, target := keys["vdev"], keys["target"]
		if keys["format"] != "raw" || vdev == "" || !strings.HasPrefix(target, "/") || keys["access"] != "rw" && keys["access"] != "ro" || len(keys) != 4 {
			return nil, fmt.Errorf("xl disk %q: want format, vdev, access and an absolute target", d)
		}
		if targets[vdev] != "" {
			return nil, fmt.Errorf("xl: two disks are %s", vdev)
		}
		targets[vdev] = target
	}
	return targets, nil
}
