// Package deliver writes what one target's user expects: a disk in the form
// that the hypervisor reads, and around it the descriptors, the floppy and the
// text that make it a machine one can start.
//
//	plan.Output: folder and names --+
//	disk.Image ---- format ---------+--> out/alice-vmware-private/alice-private.vmdk ...
//	descriptor.Machine -------------+
//
// Every file's kind follows from its extension, which the plan chose. A folder
// appears whole or not at all. Nothing is linked: a machine writes to its disk,
// so two that shared one file would destroy each other.
package deliver

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gridappliance/builder/descriptor"
	"gridappliance/builder/disk"
	"gridappliance/builder/format"
	"gridappliance/builder/plan"
)

// Image is what goes to every target.
type Image struct {
	Plan           *plan.Plan
	Disk           *disk.Image
	Floppy         []byte    // nil when none goes in
	Kernel, Initrd string    // files, for hypervisors that start the kernel themselves
	Time           time.Time // of the files inside an archive: the base's own
}

// Write writes the files of one of the plan's outputs into the folder out,
// which must be there.
func (im *Image) Write(ctx context.Context, out string, o plan.Output) error {
	w := writer{Image: im, output: o, machine: descriptor.Machine{
		Name: im.Plan.Name, Stem: o.Stem, Folder: o.Folder, ID: im.Plan.ID, DiskSize: im.Plan.Layout.Size, Floppy: im.Floppy != nil,
	}}
	put := func(name string, f *os.File) error { return w.put(ctx, name, f) }
	if o.Folder != "" {
		return format.CreateFolder(filepath.Join(out, o.Folder), im.Plan.Private, o.Files, put)
	}
	for _, name := range o.Files {
		if err := format.Create(filepath.Join(out, name), im.Plan.Private, func(f *os.File) error { return put(name, f) }); err != nil {
			return err
		}
	}
	return nil
}

// writer writes the files of one output.
type writer struct {
	*Image
	output  plan.Output
	machine descriptor.Machine
}

// put writes the file called name.
func (w *writer) put(ctx context.Context, name string, f *os.File) error {
	m := w.machine
	switch kind := strings.TrimPrefix(name, w.output.Stem); kind {
	case ".raw":
		return format.Raw(ctx, f, w.Disk)
	case ".qcow2":
		return format.QCOW2(ctx, f, w.Disk)
	case ".vmdk":
		return format.VMDK(ctx, f, w.Disk, name, m.ID)
	case ".vdi":
		return format.VDI(ctx, f, w.Disk, m.ID)
	case ".ova":
		return writeOVA(ctx, f, w.Disk, m, w.Time)
	case ".flp", ".img":
		_, err := f.Write(w.Floppy)
		return err
	case ".vmlinuz":
		return copyFile(f, w.Kernel)
	case ".initrd":
		return copyFile(f, w.Initrd)
	case ".vmx":
		return text(f, m.VMX())
	case ".vbox":
		return text(f, m.VBox())
	case ".xml":
		return text(f, m.Libvirt())
	case "-network.xml":
		return text(f, m.LibvirtNetwork())
	case ".pvh.cfg":
		return text(f, m.XenPVH())
	case ".hvm.cfg":
		return text(f, m.XenHVM())
	case ".ova.txt", plan.Readme:
		return text(f, m.Readme(w.output.Target))
	default:
		return fmt.Errorf("no writer for files of kind %s", kind)
	}
}

func text(f *os.File, s string) error {
	_, err := f.WriteString(s)
	return err
}

func copyFile(f *os.File, path string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(f, from)
	return err
}
