package base

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// PackageLock names, byte for byte, the packages that a definition adds to a
// base. It stands beside the definition and is kept with it: from equal locks
// come equal layers, whatever the archives have by then.
//
//	grid-packages-lock 1
//	base <sha256 of the base's base.lock>
//	asked <sha256 of the packages and sources of the definition>
//	time 2026-09-12T07:55:41Z
//	[packages]
//	verilator 5.032-1 amd64 <sha256> 9000000 pool/main/v/verilator/verilator_5.032-1_amd64.deb
//
// Lines of packages are those of base.lock, and a last word names the source of
// one that is not Debian's.
type PackageLock struct {
	Base     string    // SHA-256 of the base's lock
	Asked    string    // SHA-256 of what was asked for; see Additions
	Time     time.Time // UTC, whole seconds; the build time of the layer
	Packages []Package // sorted by name; none of them is in the base
}

const packageLockHeader = "grid-packages-lock 1"

var hashLine = regexp.MustCompile(`^(base|asked) ([0-9a-f]{64})$`)

// Text returns the lock's text form.
func (l *PackageLock) Text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nbase %s\nasked %s\ntime %s\n", packageLockHeader, l.Base, l.Asked, l.Time.UTC().Format(time.RFC3339))
	writePackages(&b, "packages", l.Packages)
	return b.Bytes()
}

// ParsePackageLock reads a lock's text form. name is the file's name for
// messages. The error is a diag.List with everything that is wrong.
func ParsePackageLock(name string, text []byte) (*PackageLock, error) {
	p := lockLines{file: name, sources: true, remedy: "a lock is written by builder build and not edited by hand; without it, or with --update, a new one is made"}
	l := &PackageLock{}
	n := 0
	p.each(text, func(line string) {
		switch m := hashLine.FindStringSubmatch(line); {
		case n == 0 && line != packageLockHeader:
			p.problem("the first line is not %q", packageLockHeader)
		case n == 1 && (m == nil || m[1] != "base"), n == 2 && (m == nil || m[1] != "asked"):
			p.problem("not a line %q and 64 hex digits", []string{"base", "asked"}[n-1])
		case n == 1:
			l.Base = m[2]
		case n == 2:
			l.Asked = m[2]
		case n == 3:
			l.Time = p.time(line)
		case n == 4 && line != "[packages]":
			p.problem("not the line [packages]")
		case n > 4:
			p.addPackage(&l.Packages, line)
		}
		n++
	})
	if n < 5 && len(p.problems) == 0 {
		p.problem("the lock ends before its [packages] section")
	}
	if err := p.problems.Err(); err != nil {
		return nil, err
	}
	return l, nil
}

// Download returns how many bytes its packages have.
func (l *PackageLock) Download() (bytes int64) {
	for _, p := range l.Packages {
		bytes += p.Size
	}
	return bytes
}

// String returns "verilator 5.032-1, ..." for messages.
func (l *PackageLock) String() string {
	var names []string
	for _, p := range l.Packages {
		names = append(names, p.Name+" "+p.Version)
	}
	return strings.Join(names, ", ")
}
