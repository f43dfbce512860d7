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
		if u.Comment != "" {
			return fmt.Sprintf("%s:x:%d:%d:%s:%s:/usr/sbin/nologin", u.Name, u.UID, u.UID, u.Comment, u.Home)
		}
		return fmt.Sprintf("%s:x:%d:%d:named by the floppy:%s:/bin/bash", u.Name, u.UID, u.UID, u.Home)
	}, false},
	// No password, but not locked either, so that ssh keys are let in. Whoever
	// sets a password keeps it.
	{"etc/shadow", 0o640, func(u plan.User) string {
		if u.Comment != "" {
			return u.Name + ":!*:::::::"
		}
		return u.Name + ":*::0:99999:7:::"
	}, true},
}

// merge returns text with one line for each of users at its end, in their
// order, and without the lines of those names in ours that are not among them.
// Every other line stays as it is.
func (a accountFile) merge(text []byte, users []plan.User, ours []string) []byte {
	var b strings.Builder
	have := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		name, _, _ := strings.Cut(line, ":")
		if hasUser(users, name) || slices.Contains(ours, name) {
			have[name] = line
			continue
		}
		b.WriteString(line + "\n")
	}
	for _, u := range users {
		line, there := have[u.Name]
		if !there || !a.keep {
			line = a.line(u)
		}
		b.WriteString(line + "\n")
	}
	return []byte(b.String())
}

func hasUser(users []plan.User, name string) bool {
	return slices.ContainsFunc(users, func(u plan.User) bool { return u.Name == name })
}
