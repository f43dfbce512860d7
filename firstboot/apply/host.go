package apply

import (
	"errors"
	"io/fs"
	"net/netip"
	"strings"
)

// hostMark ends the line of /etc/hosts that is ours.
const hostMark = "# this machine, by firstboot"

// SetHost gives the tree its host name: /etc/hostname, and a line in
// /etc/hosts, so that the name and the additional one (alias, "" for none)
// resolve without a network. Files that are right already are not written.
func SetHost(t *Tree, name string, address netip.Addr, alias string) error {
	old, err := t.ReadFile("etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range []struct {
		path    string
		content string
	}{
		{"etc/hosts", hostsText(string(old), name, address, alias)},
		{"etc/hostname", name + "\n"},
	} {
		have, err := t.ReadFile(f.path)
		if err == nil && string(have) == f.content {
			continue
		}
		if err := t.writeFile(f.path, []byte(f.content), 0o644, owner{}); err != nil {
			return err
		}
	}
	return nil
}

// hostsText returns old with our line replaced, or added at the end.
func hostsText(old, name string, address netip.Addr, alias string) string {
	var b strings.Builder
	for line := range strings.Lines(old) {
		if !strings.HasSuffix(strings.TrimSpace(line), hostMark) {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	names := []string{name}
	if short, _, cut := strings.Cut(name, "."); cut {
		names = append(names, short)
	}
	if alias != "" && alias != name {
		names = append(names, alias)
	}
	b.WriteString(address.String() + " " + strings.Join(names, " ") + " " + hostMark + "\n")
	return b.String()
}
