package apply

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"gridappliance/firstboot/plan"
)

// accountFile is one of the files in which accounts stand, one a line, the
// name before the first colon.
type accountFile struct {
	path string
	mode fs.FileMode // of a new file
	line func(plan.User) string
	keep bool // a line that is there already stays as it is
}

// accountFiles in the order they are written: a group is there before an
// account refers to it, and an account before it gets a password.
var accountFiles = []accountFile{
	{"etc/group", 0o644, func(u plan.User) string { return fmt.Sprintf("%s:x:%d:", u.Name, u.UID) }, false},
	{"etc/passwd", 0o644, func(u plan.User) string {
		return fmt.Sprintf("%s:x:%d:%d:named by the floppy:%s:/bin/bash", u.Name, u.UID, u.UID, u.Home)
	}, false},
	// No password, but not locked either, so that ssh keys are let in. Whoever
	// sets a password keeps it.
	{"etc/shadow", 0o640, func(u plan.User) string { return u.Name + ":*::0:99999:7:::" }, true},
}

// merge returns text with a line for each of users, and without lines for
// those names in ours that are no longer among them. Every other line stays as
// it is, in its place.
func (a accountFile) merge(text []byte, users []plan.User, ours []string) []byte {
	want := map[string]plan.User{}
	for _, u := range users {
		want[u.Name] = u
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		u, wanted := want[name]
		switch {
		case wanted && a.keep:
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		case wanted:
			b.WriteString(a.line(u) + "\n")
		case !slices.Contains(ours, name):
			b.WriteString(line)
		}
		delete(want, name)
	}
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") && len(want) > 0 {
		b.WriteByte('\n')
	}
	for _, u := range users {
		if _, missing := want[u.Name]; missing {
			b.WriteString(a.line(u) + "\n")
		}
	}
	return []byte(b.String())
}
