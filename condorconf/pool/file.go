package pool

import (
	"fmt"
	"io/fs"

	"gridappliance/condorconf/knob"
	"gridappliance/floppy"
)

// Paths of the files, relative to the machine's root.
const (
	NetworkFile  = "etc/condor/config.d/10-grid-network.conf"
	MastersFile  = "etc/condor/config.d/15-grid-masters.conf"
	SecurityFile = "etc/condor/config.d/20-grid-security.conf"
	RoleFile     = "etc/condor/config.d/30-grid-role.conf"
	PolicyFile   = "etc/condor/config.d/40-grid-policy.conf"
	TuneFile     = "etc/condor/config.d/50-grid-tune.conf"
	MapFile      = "etc/condor/grid/mapfile"
	WrapperFile  = "etc/condor/grid-run-job" // where the accounts of jobs may read
	CAFile       = "etc/condor/grid/ca.crt"
	CertFile     = "etc/condor/grid/node.crt"
	KeyFile      = "etc/condor/grid/node.key"
	MasterMap    = "etc/auto.master.d/ganfs.autofs"
	ProgramMap   = "etc/auto.ganfs"
	ExportsFile  = "etc/exports.d/grid.exports"
	NFSFile      = "etc/nfs.conf.d/grid.conf"
)

// program is where this command is on a machine.
const program = "/usr/lib/grid/condorconf"

// Unit names.
const (
	GuardUnit  = "grid-guard.service"
	CondorUnit = "condor.service"
	AutofsUnit = "autofs.service"
	NFSUnit    = "nfs-server.service"
)

// owned is every file of any role, in the order to write them: a key before
// its certificate. Unit is what reads the file only when it starts or, with
// reload, when it is told to; without a unit the next use reads it: HTCondor
// opens its certificate for every new connection, and automount runs the
// program map for every look-up.
var owned = []struct {
	path, unit string
	reload     bool
}{
	{CAFile, "", false},
	{KeyFile, "", false},
	{CertFile, "", false},
	{MapFile, CondorUnit, false},
	{WrapperFile, "", false},
	{NetworkFile, CondorUnit, false},
	{MastersFile, CondorUnit, true}, // a restart would end the jobs that run
	{SecurityFile, CondorUnit, false},
	{RoleFile, CondorUnit, false},
	{PolicyFile, CondorUnit, false},
	{TuneFile, CondorUnit, false},
	{ProgramMap, "", false},
	{MasterMap, AutofsUnit, false},
	{NFSFile, NFSUnit, false},
	{ExportsFile, NFSUnit, false},
}

// Owned returns the paths of every file of any role, in the order to write
// them. One that a machine does not have must not be there.
func Owned() []string {
	var paths []string
	for _, o := range owned {
		paths = append(paths, o.path)
	}
	return paths
}

// ReaderOf returns the unit that must take the file in when it has changed, or
// "", and whether a reload is enough; else it is restarted.
func ReaderOf(path string) (unit string, reload bool) {
	for _, o := range owned {
		if o.path == path {
			return o.unit, o.reload
		}
	}
	return "", false
}

// File is one file of the machine, owned by root.
type File struct {
	Path string // relative to the machine's root
	Mode fs.FileMode
	Data []byte
}

// Units returns the units this machine runs, in the order to start them, and
// those of the others' roles, which it does not.
func (m Machine) Units() (run, stop []string) {
	for _, u := range []struct {
		name string
		want bool
	}{{GuardUnit, m.guarded()}, {CondorUnit, true}, {AutofsUnit, m.Automount}, {NFSUnit, m.Export != ""}} {
		if u.want {
			run = append(run, u.name)
		} else {
			stop = append(stop, u.name)
		}
	}
	return run, stop
}

// Files returns every file of the machine except the certificates, by path.
// The error names values that cannot stand in their file.
func (m Machine) Files() ([]File, error) {
	var files []File
	for _, c := range []struct {
		path  string
		write func(Machine, *knob.Doc)
	}{
		{NetworkFile, Machine.network},
		{MastersFile, Machine.masters},
		{SecurityFile, Machine.security},
		{RoleFile, Machine.role},
		{PolicyFile, Machine.policy},
		{TuneFile, Machine.tune},
	} {
		var d knob.Doc
		c.write(m, &d)
		data, err := d.Bytes()
		if err != nil {
			return nil, fmt.Errorf("write /%s: %w", c.path, err)
		}
		if len(data) > 0 {
			files = append(files, File{c.path, 0o644, data})
		}
	}
	if m.Role == floppy.RoleStandalone {
		return files, nil
	}
	files = append(files, File{MapFile, 0o644, m.mapfile()})
	if m.guarded() {
		files = append(files, File{WrapperFile, 0o755, []byte("#!" + program + " admit\n")})
	}
	shares, err := m.shares()
	return append(files, shares...), err
}
