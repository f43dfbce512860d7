package main

import (
	"context"
	"crypto/md5" // what dpkg keeps of a package's files
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"

	"gridappliance/firstboot/apply"
	"gridappliance/firstboot/plan"
)

// ownMark is there where the Debian package grid-appliance made the programs
// come: the machine is somebody's own, and not an appliance.
const ownMark = "usr/lib/grid/own-machine"

// own says whether the machine is somebody's own.
func (m *machine) own() bool {
	_, err := os.Stat(m.path(ownMark))
	return err == nil
}

// ownFacts returns what a plan needs to know of an own machine.
func (m *machine) ownFacts() (*plan.Own, error) {
	tree, err := apply.Open(m.root)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	f := &plan.Own{Groups: map[string]int{}, CPUs: runtime.NumCPU()}
	groups, err := tree.ReadFile("etc/group")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(groups)) {
		if fields := strings.Split(line, ":"); len(fields) > 2 {
			if gid, err := strconv.Atoi(fields[2]); err == nil {
				f.Groups[fields[0]] = gid
			}
		}
	}
	if f.Made, err = apply.Made(tree); errors.Is(err, fs.ErrPermission) {
		err = nil // who may not read the stamp sees what a first floppy would make
	}
	if err != nil || len(f.Made) > 0 {
		return f, err
	}
	if f.Taken, err = m.condorTaken(); err != nil {
		return nil, err
	}
	f.Shares, err = m.shares()
	return f, err
}

// condorTaken returns the files of HTCondor's configuration that are not as the
// Debian package has them.
func (m *machine) condorTaken() ([]string, error) {
	shipped, err := m.conffiles("condor")
	if err != nil {
		return nil, err
	}
	var taken []string
	for _, pattern := range []string{"condor_config", "condor_config.local", "config.d/*"} {
		files, err := filepath.Glob(m.path("etc/condor/" + pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			base := filepath.Base(file)
			if strings.HasPrefix(base, ".") || strings.HasSuffix(base, "~") || strings.Contains(base, ".dpkg-") {
				continue // HTCondor does not read them
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			name := "/" + m.relative(file)
			if sum := md5.Sum(text); shipped[name] != hex.EncodeToString(sum[:]) {
				taken = append(taken, name)
			}
		}
	}
	return taken, nil
}

// relative returns where a path below the root stands in it.
func (m *machine) relative(file string) string {
	name, err := filepath.Rel(m.root, file)
	if err != nil {
		return file
	}
	return name
}

// conffiles returns the configuration files of a package and their MD5 as it
// shipped them, from dpkg's status (deb822; Debian policy §D.2.5).
func (m *machine) conffiles(name string) (map[string]string, error) {
	text, err := os.ReadFile(m.path("var/lib/dpkg/status"))
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for paragraph := range strings.SplitSeq(string(text), "\n\n") {
		if !strings.HasPrefix(paragraph, "Package: "+name+"\n") {
			continue
		}
		_, list, _ := strings.Cut(paragraph, "\nConffiles:\n")
		for line := range strings.Lines(list) {
			fields := strings.Fields(line)
			if !strings.HasPrefix(line, " ") || len(fields) < 2 {
				break
			}
			files[fields[0]] = fields[1]
		}
	}
	return files, nil
}

// shares returns the files by which this machine shares by NFS.
func (m *machine) shares() ([]string, error) {
	files, err := filepath.Glob(m.path("etc/exports.d/*.exports"))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, file := range append([]string{m.path("etc/exports")}, files...) {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				found = append(found, "/"+m.relative(file))
				break
			}
		}
	}
	return found, nil
}

// roleUnits are Debian's units that roles use, and the owner may have used.
var roleUnits = []string{"condor.service", "autofs.service", "nfs-server.service"}

// before returns how an own machine was before its first floppy: how it is now
// when this is the first.
func (m *machine) before(tree *apply.Tree) (*apply.Before, error) {
	if _, b, err := apply.Joined(tree); err != nil || b != nil {
		return b, err
	}
	b, err := apply.Remember(tree)
	if err != nil || !m.live() {
		return b, err
	}
	if b.Name, err = os.Hostname(); err != nil {
		return nil, err
	}
	if !underSystemd() {
		return b, nil
	}
	conn, err := systemd.NewWithContext(context.Background())
	if err != nil {
		return nil, fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	for _, name := range roleUnits {
		property, err := conn.GetUnitPropertyContext(context.Background(), name, "ActiveState")
		if err != nil {
			return nil, fmt.Errorf("ask for %s: %w", name, err)
		}
		if state, _ := property.Value.Value().(string); state == "active" {
			b.Running = append(b.Running, name)
		}
	}
	return b, nil
}

// underSystemd says whether systemd manages this machine (sd_booted(3)).
func underSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}
