// Package descriptor writes the texts with which a hypervisor takes a disk as a
// machine: VMware's .vmx, VirtualBox's .vbox, an OVF envelope, libvirt's XML,
// xl's configuration; and for a person what to do with them. All are the same
// machine:
//
//	1 GiB of memory, 2 processors, BIOS, the hard disk first in the boot order
//	disk        the controller that the target's users expect
//	floppy      the configuration floppy, or an empty drive
//	eth0        behind the host's NAT
//	eth1        host-only: for ssh from the host
//	serial port the console besides the screen
//
// The texts are templates beside this file. They are a function of Machine
// alone: paths are relative, or the one place where the hypervisor's own
// documentation puts images.
//
// Sources: libvirt, "Domain XML format"; xl.cfg(5) and xl-disk-configuration(5)
// of Xen 4.17; DMTF DSP0243 (OVF 1.1); VirtualBox's and VMware's are known from
// files that those programs write.
package descriptor

import (
	"embed"
	"fmt"
	"strings"
	"text/template"

	"github.com/google/uuid"

	"gridappliance/builder/spec"
)

// What every machine has.
const (
	Memory     = 1024 // MiB
	Processors = 2
)

// XenCommandLine is the kernel's under Xen, which starts it without GRUB.
const XenCommandLine = "console=tty0 console=hvc0 quiet net.ifnames=0"

// Machine is what the texts depend on.
type Machine struct {
	Name     string    // [a-z0-9-], the machine's name in the hypervisor
	Stem     string    // common name of the files, less extensions
	Folder   string    // the folder that holds them
	ID       uuid.UUID // of the disk; the machine's own is derived from it
	DiskSize int64     // bytes
	Floppy   bool      // the floppy lies beside the disk
}

//go:embed templates
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"memory":      func() int { return Memory },
	"processors":  func() int { return Processors },
	"commandline": func() string { return XenCommandLine },
}).ParseFS(files, "templates/*"))

// render fills a template of this package, which cannot fail but by a mistake
// in it; every template is rendered by the tests.
func render(name string, data any) string {
	var b strings.Builder
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		panic(err)
	}
	return b.String()
}

// VMX is the machine for VMware's desktop products.
func (m Machine) VMX() string { return render("vmx", m) }

// VBox is the machine for VirtualBox. Its disk's UUID is ID, as in the VDI.
func (m Machine) VBox() string { return render("vbox", m) }

// Libvirt is the machine for KVM under libvirt.
func (m Machine) Libvirt() string { return render("libvirt", m) }

// LibvirtNetwork is the host-only network that Libvirt names.
func (m Machine) LibvirtNetwork() string { return render("network", m) }

// XenPVH is the machine for xl, without firmware or emulated hardware.
func (m Machine) XenPVH() string { return render("pvh", m) }

// XenHVM is the machine for xl, with firmware and emulated hardware.
func (m Machine) XenHVM() string { return render("hvm", m) }

// OVF is the envelope of a disk whose file, OVFDisk, has fileSize bytes.
func (m Machine) OVF(fileSize int64) string {
	return render("ovf", struct {
		Machine
		FileSize int64
		Text     string
	}{m, fileSize, m.Readme(spec.OVA)})
}

// OVFDisk is the name of the disk's file beside the envelope.
func (m Machine) OVFDisk() string { return m.Stem + "-disk1.vmdk" }

// Readme is the text for a person.
func (m Machine) Readme(t spec.Target) string {
	return render(string(t)+".txt", m) + "\n" + render("common.txt", m)
}

// MachineID is the machine's own UUID.
func (m Machine) MachineID() uuid.UUID { return m.derived("machine") }

// FloppyID is the UUID by which VirtualBox knows the floppy.
func (m Machine) FloppyID() uuid.UUID { return m.derived("floppy") }

func (m Machine) derived(what string) uuid.UUID { return uuid.NewSHA1(m.ID, []byte(what)) }

// MAC is the hardware address of a card under VirtualBox, whose prefix 080027
// it has.
func (m Machine) MAC(card int) string {
	id := m.derived(fmt.Sprint("card", card))
	return fmt.Sprintf("080027%02X%02X%02X", id[0], id[1], id[2])
}
