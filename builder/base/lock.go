package base

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gridappliance/internal/diag"
)

// Lock names every Debian package of a base, byte for byte.
//
// Its text form is line oriented; equal locks are equal bytes:
//
//	grid-base-lock 1
//	suite trixie
//	time 2026-09-12T07:55:41Z
//	[base]
//	adduser 3.152 all <sha256> 188000 pool/main/a/adduser/adduser_3.152_all.deb
//	...
//	[tools]
//	...
//
// A package line is: name, version, architecture, SHA-256 (64 hex digits),
// size in bytes, path below a mirror's root; one space between, lines sorted
// by name, every name once a section. Empty lines and lines that begin with #
// are skipped when read.
type Lock struct {
	Suite string
	Time  time.Time // UTC, whole seconds: the build time of everything made from the lock
	Base  []Package // what is installed in the image
	Tools []Package // what makes the image
}

// Package is one .deb.
type Package struct {
	Name, Version, Arch string
	SHA256              string // 64 lower-case hex digits
	Size                int64  // bytes
	Path                string // slash-separated, below a mirror's root
	Source              string // the archive's name, of one that is not Debian's
}

const (
	lockHeader      = "grid-base-lock 1"
	maxLockPackages = 10_000
	maxDebSize      = 4 << 30
)

var (
	suitePattern   = regexp.MustCompile(`^[a-z][a-z0-9-]{1,30}$`)
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)
	versionPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+:~-]{0,127}$`)
	sourcePattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	archPattern    = regexp.MustCompile(`^(all|amd64)$`)
	sha256Pattern  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	pathPattern    = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+~%:_/-]{0,255}\.deb$`)
)

// Text returns the lock's text form.
func (l *Lock) Text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nsuite %s\ntime %s\n", lockHeader, l.Suite, l.Time.UTC().Format(time.RFC3339))
	writePackages(&b, "base", l.Base)
	writePackages(&b, "tools", l.Tools)
	return b.Bytes()
}

func writePackages(b *bytes.Buffer, section string, packages []Package) {
	fmt.Fprintf(b, "[%s]\n", section)
	for _, p := range packages {
		fmt.Fprintf(b, "%s %s %s %s %d %s", p.Name, p.Version, p.Arch, p.SHA256, p.Size, p.Path)
		if p.Source != "" {
			fmt.Fprintf(b, " %s", p.Source)
		}
		fmt.Fprintln(b)
	}
}

// ParseLock reads a lock's text form. name is the file's name for messages.
// The error is a diag.List with everything that is wrong.
func ParseLock(name string, text []byte) (*Lock, error) {
	p := lockParser{lockLines: lockLines{file: name, remedy: "a lock is written by builder base build and not edited by hand"}, lock: &Lock{}}
	p.each(text, p.parseLine)
	if len(p.problems) == 0 && p.state != inTools {
		p.problem("the lock ends before its [tools] section")
	}
	if err := p.problems.Err(); err != nil {
		return nil, err
	}
	return p.lock, nil
}

// lockLines reads a lock of either kind line by line.
type lockLines struct {
	file     string
	remedy   string
	sources  bool // a package may name one
	line     int
	text     string
	problems diag.List
}

// each hands over every line that is not empty and no comment.
func (p *lockLines) each(text []byte, parse func(line string)) {
	for i, line := range strings.Split(string(text), "\n") {
		p.line, p.text = i+1, line
		if line != "" && !strings.HasPrefix(line, "#") {
			parse(line)
		}
		if len(p.problems) > 20 {
			break
		}
	}
	p.line, p.text = 0, ""
}

func (p *lockLines) problem(format string, args ...any) {
	p.problems.Add(diag.Problem{File: p.file, Line: p.line, Message: fmt.Sprintf(format, args...), Excerpt: p.text, Remedy: p.remedy})
}

// time reads a line "time YYYY-MM-DDThh:mm:ssZ".
func (p *lockLines) time(line string) time.Time {
	text, ok := strings.CutPrefix(line, "time ")
	t, err := time.Parse(time.RFC3339, text)
	if !ok || err != nil || t.UTC().Format(time.RFC3339) != text || t.Year() < 2000 || t.Year() > 2200 {
		p.problem("not a line \"time YYYY-MM-DDThh:mm:ssZ\"")
	}
	return t.UTC()
}

// lockParser goes through its states strictly in this order.
type lockState int

const (
	wantHeader lockState = iota
	wantSuite
	wantTime
	wantBase
	inBase
	inTools
)

type lockParser struct {
	lockLines
	state lockState
	lock  *Lock
}

func (p *lockParser) parseLine(line string) {
	switch p.state {
	case wantHeader:
		if line != lockHeader {
			p.problem("the first line is not %q", lockHeader)
		}
	case wantSuite:
		suite, ok := strings.CutPrefix(line, "suite ")
		if !ok || !suitePattern.MatchString(suite) {
			p.problem("not a line \"suite NAME\"")
		}
		p.lock.Suite = suite
	case wantTime:
		p.lock.Time = p.time(line)
	case wantBase:
		if line != "[base]" {
			p.problem("not the line [base]")
		}
	case inBase:
		if line != "[tools]" {
			p.addPackage(&p.lock.Base, line)
			return
		}
	case inTools:
		p.addPackage(&p.lock.Tools, line)
		return
	}
	p.state++
}

// addPackage reads a package line.
func (p *lockLines) addPackage(to *[]Package, line string) {
	f := strings.Split(line, " ")
	source := ""
	if len(f) == 7 && p.sources {
		f, source = f[:6], f[6]
		if !sourcePattern.MatchString(source) {
			p.problem("%q is not the name of a source", source)
			return
		}
	}
	if len(f) != 6 {
		p.problem("%d fields instead of name, version, architecture, sha256, size, path", len(f))
		return
	}
	for i, c := range []struct {
		what    string
		pattern *regexp.Regexp
	}{{"name", namePattern}, {"version", versionPattern}, {"architecture", archPattern}, {"sha256", sha256Pattern}} {
		if !c.pattern.MatchString(f[i]) {
			p.problem("%q is not a package's %s", f[i], c.what)
			return
		}
	}
	size, err := strconv.ParseInt(f[4], 10, 64)
	if err != nil || size <= 0 || size > maxDebSize || strconv.FormatInt(size, 10) != f[4] {
		p.problem("%q is not a size in bytes", f[4])
		return
	}
	if !pathPattern.MatchString(f[5]) || path.Clean(f[5]) != f[5] || strings.Contains(f[5], "..") {
		p.problem("%q is not a path below a mirror", f[5])
		return
	}
	if n := len(*to); n > 0 && (*to)[n-1].Name >= f[0] {
		p.problem("%q does not come after %q", f[0], (*to)[n-1].Name)
		return
	}
	if len(*to) >= maxLockPackages {
		p.problem("more than %d packages", maxLockPackages)
		return
	}
	*to = append(*to, Package{Name: f[0], Version: f[1], Arch: f[2], SHA256: f[3], Size: size, Path: f[5], Source: source})
}

// unique returns the packages of several lists, each .deb once.
func unique(lists ...[]Package) []Package {
	seen := map[string]bool{}
	var all []Package
	for _, list := range lists {
		for _, p := range list {
			if !seen[p.SHA256] {
				seen[p.SHA256] = true
				all = append(all, p)
			}
		}
	}
	return all
}
