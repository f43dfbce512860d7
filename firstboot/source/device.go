package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"gridappliance/floppy"
)

// partitionName is the GPT name of the image's own configuration partition.
const partitionName = "gridcfg"

// device is one block device as sysfs describes it.
type device struct {
	name      string // kernel name: "sr0", "vda3"
	path      string // its node
	partition string // GPT partition name, "" for others
	size      int64  // bytes
	sequence  string // changes with every medium ("" before Linux 5.15)
}

// devices lists the block devices of the machine by name, without those that
// cannot hold a person's disk (loop devices, memory, floppy drives).
func devices(root string) []device {
	entries, _ := os.ReadDir(filepath.Join(root, "sys/class/block")) // none without sysfs
	var list []device
	for _, e := range entries {
		if slices.ContainsFunc([]string{"loop", "ram", "zram", "fd"}, func(p string) bool { return strings.HasPrefix(e.Name(), p) }) {
			continue
		}
		dir := filepath.Join(root, "sys/class/block", e.Name())
		sectors, _ := strconv.ParseInt(readText(filepath.Join(dir, "size")), 10, 64)
		d := device{name: e.Name(), path: filepath.Join(root, "dev", e.Name()), size: sectors * 512,
			sequence: readText(filepath.Join(dir, "diskseq"))}
		for line := range strings.Lines(readText(filepath.Join(dir, "uevent"))) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PARTNAME="); ok {
				d.partition = v
			}
		}
		list = append(list, d)
	}
	return list
}

// lookLabelled reads the first device labelled GRIDCONF that is not the
// image's own partition.
func lookLabelled(ctx context.Context, m Machine) (*Found, error) {
	if m.Settle != nil {
		if err := m.Settle(ctx); err != nil {
			return nil, err
		}
	}
	seen := 0
	for _, d := range devices(m.Root) {
		if d.partition == partitionName || d.size == 0 {
			continue
		}
		seen++
		v, err := within(ctx, deviceLimit, func() (volume, error) { return probe(d.path) })
		if err != nil || v.label != floppy.Label {
			continue // not ours, or not readable: other disks are none of our business
		}
		name := fmt.Sprintf("/dev/%s (%s)", d.name, floppy.Label)
		image, err := within(ctx, driveLimit, func() ([]byte, error) { return v.read(d.path) })
		if err != nil {
			return nil, asList(name, err)
		}
		return &Found{Source: name, Image: image}, nil
	}
	return nil, empty("none of %d block devices has that label", seen)
}

// lookPartition reads the image's own partition.
func lookPartition(ctx context.Context, m Machine) (*Found, error) {
	for _, d := range devices(m.Root) {
		if d.partition != partitionName {
			continue
		}
		name := fmt.Sprintf("/dev/%s (%s)", d.name, partitionName)
		image, err := within(ctx, deviceLimit, func() ([]byte, error) { return readStart(d.path, floppy.Size, 0) })
		if err != nil {
			return nil, asList(name, err)
		}
		if zero(image) {
			return nil, empty("/dev/%s is empty", d.name)
		}
		return &Found{Source: name, Image: image}, nil
	}
	return nil, empty("this disk has no such partition")
}

// Media returns a text that changes when a floppy, CD or disk is put in or
// taken out. Disks and CDs cost a look into sysfs: the kernel polls removable
// drives by itself and counts their media. A floppy drive is asked.
func Media(ctx context.Context, root string) string {
	var b strings.Builder
	for _, d := range devices(root) {
		fmt.Fprintf(&b, "%s %s %d\n", d.name, d.sequence, d.size)
	}
	drive, err := within(ctx, deviceLimit, func() (string, error) { return driveState(filepath.Join(root, "dev/fd0")) })
	if err == nil {
		fmt.Fprintf(&b, "fd0 %s\n", drive)
	}
	return b.String()
}

// openDevice opens a device for reading without waiting for a medium: a plain
// open of a CD drive would draw its tray in.
func openDevice(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}
