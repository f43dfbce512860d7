package apply

import (
	"errors"
	"io/fs"
	"net/netip"
	"strings"
)

// What ends the lines of /etc/hosts that are ours.
const (
	hostMark   = "# this machine, by firstboot"
	masterMark = "# a master, by firstboot"
)

// Host is a name and its address.
type Host struct {
	Name    string
	Address netip.Addr
}

// SetHost gives the tree its host name: /etc/hostname, and a line in
// /etc/hosts, so that the name and the additional one (alias, "" for none)
// resolve without a network. The grid's masters stand there too: their
// addresses are fixed, and the pool forms whatever becomes of DNS. Files that
// are right already are not written.
func SetHost(t *Tree, self Host, alias string, masters []Host) error {
	old, err := t.ReadFile("etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range []struct {
		path    string
		content string
	}{
		{"etc/hosts", hostsText(string(old), self, alias, masters)},
		{"etc/hostname", self.Name + "\n"},
	} {
		have, err := t.ReadFile(f.path)
		if err == nil && string(have) == f.content {
			continue
		}
		mode, owner := t.standing(f.path, 0o644)
		if err := t.writeFile(f.path, []byte(f.content), mode, owner); err != nil {
			return err
		}
	}
	return nil
}

// named returns the name that SetHost gave the machine, "" without one.
func named(hosts []byte) string {
	for line := range strings.Lines(string(hosts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasSuffix(strings.TrimSpace(line), hostMark) {
			return f[1]
		}
	}
	return ""
}

// hostsText returns old with our lines replaced, or added at the end.
func hostsText(old string, self Host, alias string, masters []Host) string {
	var b strings.Builder
	b.WriteString(othersHosts(old))
	write := func(h Host, more []string, mark string) {
		names := []string{h.Name}
		if short, _, cut := strings.Cut(h.Name, "."); cut {
			names = append(names, short)
		}
		b.WriteString(h.Address.String() + " " + strings.Join(append(names, more...), " ") + " " + mark + "\n")
	}
	var more []string
	if alias != "" && alias != self.Name {
		more = []string{alias}
	}
	write(self, more, hostMark)
	for _, m := range masters {
		if m != self {
			write(m, nil, masterMark)
		}
	}
	return b.String()
}

// othersHosts returns text without our lines, each line with its end.
func othersHosts(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if bare := strings.TrimSpace(line); !strings.HasSuffix(bare, hostMark) && !strings.HasSuffix(bare, masterMark) {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	return b.String()
}
