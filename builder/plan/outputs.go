package plan

import (
	"path"

	"gridappliance/builder/spec"
)

// Output is what is written for one target: a file or a few beside each other,
// or a folder with everything a hypervisor wants.
type Output struct {
	Target spec.Target
	Folder string   // in the output folder; "" = the files stand in it themselves
	Stem   string   // the files' common name, less the extension
	Files  []string // names inside Folder, the disk first
}

// Paths returns the files with slashes, relative to the output folder.
func (o Output) Paths() []string {
	var paths []string
	for _, f := range o.Files {
		paths = append(paths, path.Join(o.Folder, f))
	}
	return paths
}

// Readme is the text in each folder that says how to start the machine, what
// was tried and what never was.
const Readme = "README.txt"

// newOutput names the files of a target. With a floppy inside, every name says
// that it is private, and the floppy itself lies beside the disk where there is
// a drive to put it into.
func newOutput(t spec.Target, name string, floppy bool) Output {
	private := ""
	if floppy {
		private = "-private"
	}
	o := Output{Target: t, Stem: name + private}
	folder := func(drive string, extensions ...string) {
		o.Folder = name + "-" + string(t) + private
		for _, e := range extensions {
			o.Files = append(o.Files, o.Stem+e)
		}
		if floppy {
			o.Files = append(o.Files, o.Stem+drive)
		}
		o.Files = append(o.Files, Readme)
	}
	switch t {
	case spec.KVM:
		folder(".img", ".qcow2", ".xml", "-network.xml")
	case spec.VMware:
		folder(".flp", ".vmdk", ".vmx")
	case spec.VirtualBox:
		folder(".img", ".vdi", ".vbox")
	case spec.Xen:
		folder(".img", ".raw", ".vmlinuz", ".initrd", ".pvh.cfg", ".hvm.cfg")
	case spec.OVA:
		o.Files = []string{o.Stem + ".ova", o.Stem + ".ova.txt"}
	default:
		o.Files = []string{o.Stem + "." + string(t)}
	}
	return o
}
