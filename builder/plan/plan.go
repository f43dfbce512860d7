// Package plan decides, from a definition and the sizes of what goes in, what
// an image will be: its partitions to the sector and the files that will be
// written. It touches nothing; the same inputs give the same plan, and a plan
// prints as text one can read before anything is done.
//
// The disk, in 512-byte sectors, every partition beginning on a mebibyte:
//
//	LBA 0      boot code (440 bytes) and protective MBR
//	LBA 1      GPT header, its table up to LBA 33
//	1 bios     1 MiB    GRUB's core image, found by its address
//	2 esp      64 MiB   FAT32: kernel, initrd, GRUB for UEFI, grub.cfg for both
//	3 gridcfg  2 MiB    a floppy image byte for byte, or zeros
//	4 gridbase          the base's squashfs; further layers would follow it
//	5 griduser          ext4; grows to the end of the disk at boot
//	last 33    backup of the GPT
//
// griduser is last because it grows. GUIDs are UUIDs of version 5 (RFC 9562
// §5.5) made from the base's identity and the partition's name: two images of
// one base have the same, which is harmless, since the machine finds its
// partitions by name on its own disk.
package plan

import (
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"

	"gridappliance/builder/spec"
)

// Sizes of the disk's fixed parts, in bytes.
const (
	SectorSize = 512
	align      = 1 << 20
	biosSize   = 1 << 20
	espSize    = 64 << 20
	cfgSize    = 2 << 20
	gptSize    = 34 * SectorSize // protective MBR, header, table; the backup has 33
)

// guidSpace is the name space of every GUID made here (a random constant).
var guidSpace = uuid.MustParse("6f0f4c8e-3f5b-4f0e-9d0c-2b6a3d8e51f7")

// Layer is one read-only layer of the system, which gets a partition of its own.
type Layer struct {
	Name string // the partition's name
	Size int64  // bytes
	What string // what it is, for a person; ""
}

// Inputs is what a plan depends on beside the definition.
type Inputs struct {
	BaseID   string  // the base's identity: the hash of its manifest
	Layers   []Layer // bottom first; the first is the base
	UserSize int64   // bytes of the user layer's template
	Floppy   bool    // a floppy goes into the image
	Content  string  // what tells images of one base apart: the floppy's hash, or ""

	Kernel, Initrd, Boot int64        // bytes of these, and of the boot loaders
	Ingredients          []Ingredient // for a person; they change nothing
}

// Partition is one partition of the disk.
type Partition struct {
	Name        string
	Type        uuid.UUID
	GUID        uuid.UUID
	First, Last uint64 // LBA, both included
}

// Offset returns where the partition begins, in bytes.
func (p Partition) Offset() int64 { return int64(p.First) * SectorSize }

// Size returns the partition's size in bytes.
func (p Partition) Size() int64 { return int64(p.Last-p.First+1) * SectorSize }

// Layout is the disk's size and partitions.
type Layout struct {
	Size       int64 // bytes
	GUID       uuid.UUID
	Partitions []Partition
}

// Partition returns the partition called name; it must be there.
func (l Layout) Partition(name string) Partition {
	for _, p := range l.Partitions {
		if p.Name == name {
			return p
		}
	}
	panic("plan: no partition " + name)
}

// Plan is what will be built.
type Plan struct {
	BaseID  string
	Name    string    // of the machine
	ID      uuid.UUID // of the machine and its disk: hypervisors refuse two disks of one identity
	Private bool      // the outputs carry a floppy, so they are secrets: mode 0600
	Layout  Layout
	Layers  []Layer // bottom first
	Outputs []Output

	Ingredients          []Ingredient
	kernel, initrd, boot int64
}

// Partition types, UEFI specification §5.3.3 and the Discoverable Partitions
// Specification; GRUB's manual for the BIOS boot partition.
var (
	typeBIOSBoot = uuid.MustParse("21686148-6449-6e6f-744e-656564454649")
	typeESP      = uuid.MustParse("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	typeData     = uuid.MustParse("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
	typeLinux    = uuid.MustParse("0fc63daf-8483-4772-8e79-3d69d8477de4")
)

// New makes the plan of a definition that is valid and has its defaults. The
// error says that the disk is too small, and how large it must be.
func New(d *spec.Definition, in Inputs) (*Plan, error) {
	if in.BaseID == "" || len(in.Layers) == 0 || in.UserSize <= 0 {
		return nil, errors.New("plan image: the base is incomplete")
	}
	p := &Plan{BaseID: in.BaseID, Private: in.Floppy, Layers: in.Layers, Name: d.Name,
		Ingredients: in.Ingredients, kernel: in.Kernel, initrd: in.Initrd, boot: in.Boot}
	p.ID = guid(in.BaseID, fmt.Sprintf("machine/%s/%d/%v/%s", d.Name, d.Disk, in.Layers, in.Content))
	p.Layout.Size = int64(d.Disk)
	p.Layout.GUID = guid(in.BaseID, "disk")

	next := int64(align)
	add := func(name string, kind uuid.UUID, size int64) {
		size = alignUp(size)
		p.Layout.Partitions = append(p.Layout.Partitions, Partition{
			Name: name, Type: kind, GUID: guid(in.BaseID, name),
			First: uint64(next / SectorSize), Last: uint64((next+size)/SectorSize - 1),
		})
		next += size
	}
	add("bios", typeBIOSBoot, biosSize)
	add("esp", typeESP, espSize)
	add("gridcfg", typeData, cfgSize)
	for _, l := range in.Layers {
		if l.Size <= 0 || l.Size > math.MaxInt64/4 {
			return nil, fmt.Errorf("plan layer %s: size %d bytes", l.Name, l.Size)
		}
		add(l.Name, typeLinux, l.Size)
	}
	// griduser takes the rest; the last mebibyte holds the backup GPT.
	if need := alignUp(next+in.UserSize) + align; need > p.Layout.Size {
		return nil, fmt.Errorf("plan disk: %v is too small for this base: it needs %v", d.Disk, spec.Size(need))
	}
	add("griduser", typeLinux, p.Layout.Size-align-next)

	for _, t := range d.Targets {
		p.Outputs = append(p.Outputs, newOutput(t, d.Name, in.Floppy))
	}
	return p, nil
}

func guid(baseID, name string) uuid.UUID { return uuid.NewSHA1(guidSpace, []byte(baseID+"/"+name)) }

func alignUp(n int64) int64 { return (n + align - 1) / align * align }
