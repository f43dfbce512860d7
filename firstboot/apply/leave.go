package apply

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"gridappliance/firstboot/plan"
)

// Before is what of an own machine has to be known to give it back: all that
// firstboot changes and that is not seen afterwards. Lines are taken out of
// files that others write too, so that what the owner changed meanwhile stays;
// with nothing changed meanwhile, the bytes are those of before.
type Before struct {
	Name     string   `json:"name"`              // the kernel's host name
	Hostname *string  `json:"hostname"`          // contents of /etc/hostname, nil without one
	NoHosts  bool     `json:"no_hosts"`          // there was no /etc/hosts
	Running  []string `json:"running,omitempty"` // units that ran, of those that roles use
	// Open has the last lines of files that end without a line feed.
	Open map[string]string `json:"open,omitempty"`
}

const (
	hostsPath    = "etc/hosts"
	hostnamePath = "etc/hostname"
)

// Remember returns what of Before stands in the tree.
func Remember(t *Tree) (*Before, error) {
	b := &Before{Open: map[string]string{}}
	names := []string{hostsPath, hostnamePath}
	for _, a := range accountFiles {
		names = append(names, a.path)
	}
	for _, name := range names {
		text, err := t.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			b.NoHosts = b.NoHosts || name == hostsPath
			continue
		case err != nil:
			return nil, err
		case name == hostnamePath:
			whole := string(text)
			b.Hostname = &whole
		}
		if last := lastLine(text); last != "" {
			b.Open[name] = last
		}
	}
	return b, nil
}

// lastLine returns what stands behind the last line feed.
func lastLine(text []byte) string { return string(text[bytes.LastIndexByte(text, '\n')+1:]) }

// shape returns text, the new contents of the file name, with its end as it was
// before, if its last line is still the one of then.
func (b *Before) shape(name string, text []byte) []byte {
	if b == nil || b.Open[name] == "" {
		return text
	}
	if bare, ended := bytes.CutSuffix(text, []byte("\n")); ended && lastLine(bare) == b.Open[name] {
		return bare
	}
	return text
}

// Joined returns the stamp, and how the machine was before its first floppy:
// nil where none has begun to change it.
func Joined(t *Tree) (*Stamp, *Before, error) {
	stamp, err := ReadStamp(t)
	if err != nil {
		return nil, nil, err
	}
	if stamp != nil {
		return stamp, stamp.Before, nil
	}
	var half pending
	_, err = readJSON(t, pendingPath, &half)
	return nil, half.Before, err
}

// Undo takes back everything that Apply and SetHost did to an own machine's
// tree, but for what Forget removes. It returns what it did, and the machine as
// it was before; both are zero on a tree that no floppy has changed. Ended half
// way, it can be called again.
func Undo(t *Tree) (Result, error) {
	stamp, before, err := Joined(t)
	if err != nil || before == nil {
		return Result{}, err
	}
	o := Options{}
	if stamp != nil {
		o.Instance, o.Newest = stamp.Instance, stamp.Newest
	}
	r, err := Apply(t, &plan.Plan{}, o)
	if err != nil {
		return r, err
	}
	return r, r.After.Before.restoreHost(t)
}

// restoreHost gives the machine its name back. /etc/hosts, which says what the
// name was meanwhile, comes last.
func (b *Before) restoreHost(t *Tree) error {
	hosts, err := t.ReadFile(hostsPath)
	if errors.Is(err, fs.ErrNotExist) || err == nil && named(hosts) == "" || b == nil {
		return nil // done, or never named
	}
	if err != nil {
		return err
	}
	now, err := t.ReadFile(hostnamePath)
	if err == nil && strings.TrimSpace(string(now)) == named(hosts) {
		if err := t.restore(hostnamePath, b.Hostname); err != nil {
			return err
		}
	}
	rest := string(b.shape(hostsPath, []byte(othersHosts(string(hosts)))))
	if rest == "" && b.NoHosts {
		return t.restore(hostsPath, nil)
	}
	return t.restore(hostsPath, &rest)
}

// restore gives a file contents again, or removes it where they are nil.
func (t *Tree) restore(name string, content *string) error {
	if content == nil {
		return t.remove(name)
	}
	mode, owner := t.standing(name, 0o644)
	return t.writeFile(name, []byte(*content), mode, owner)
}

// Named returns the name that the machine has in the grid, "" without one.
func Named(t *Tree) string {
	hosts, _ := t.ReadFile(hostsPath)
	return named(hosts)
}

// kept are the folders of what a node remembers; the stamp's comes last, so that
// Forget can be called again.
var kept = []string{"var/lib/overlayd", "run/grid", "var/lib/grid"}

// Forget removes what the machine kept of the grid: keys, leases, HTCondor's
// spool, at the very end the stamp.
func Forget(t *Tree) error {
	for _, name := range append([]string{hostsPath, hostnamePath}, kept...) {
		// of one who died; Apply sweeps its own
		if _, err := t.root.Lstat(tempOf(name)); err == nil {
			if err := t.remove(tempOf(name)); err != nil {
				return err
			}
		}
	}
	for _, name := range kept {
		if _, err := t.root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := t.removeInside(name, "stamp.json"); err != nil {
			return err
		}
		if err := t.remove(name + "/stamp.json"); err != nil {
			return err
		}
		if err := t.remove(name); err != nil {
			return err
		}
	}
	return nil
}

// Made returns the names of the accounts that a floppy made on this tree, also
// by an Apply that has not ended.
func Made(t *Tree) ([]string, error) {
	var names []string
	stamp, err := ReadStamp(t)
	if err != nil {
		return nil, err
	}
	if stamp != nil {
		for _, u := range stamp.Users {
			names = append(names, u.Name)
		}
	}
	var half pending
	if _, err := readJSON(t, pendingPath, &half); err != nil {
		return nil, err
	}
	names = slices.Concat(names, half.Users)
	slices.Sort(names)
	return slices.Compact(names), nil
}
