package qemu

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	qmpSocketName = "qmp"
	floppyDevice  = "floppy"
)

// arguments returns QEMU's command line. It writes what QEMU wants as files
// into dir.
func (c Config) arguments(accel Accelerator, dir string) ([]string, error) {
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
		"-machine", "pc", "-rtc", c.rtc(),
		"-m", strconv.Itoa(withDefault(c.Memory, 1024)),
		"-smp", strconv.Itoa(withDefault(c.CPUs, accel.processors())),
		"-device", "virtio-rng-pci",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-qmp", "unix:" + escape(filepath.Join(dir, qmpSocketName)) + ",server=on,wait=off",
	}
	args = append(args, accel.arguments()...)
	if c.UUID != "" {
		args = append(args, "-uuid", c.UUID)
	}
	for _, part := range []func(string) ([]string, error){c.firmware, c.kernel, c.drives, c.data} {
		more, err := part(dir)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	}
	return append(args, c.nics()...), nil
}

func (c Config) rtc() string {
	if c.Clock.IsZero() {
		return "base=utc"
	}
	return "base=" + c.Clock.UTC().Format("2006-01-02T15:04:05")
}

func (c Config) firmware(dir string) ([]string, error) {
	switch c.Firmware {
	case BIOS, "":
		return nil, nil
	case UEFI:
		code, template, err := ovmf()
		if err != nil {
			return nil, err
		}
		vars := filepath.Join(dir, "vars.fd")
		if err := copyFile(vars, template); err != nil {
			return nil, err
		}
		return []string{
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + escape(code),
			"-drive", "if=pflash,unit=1,format=raw,file=" + escape(vars),
		}, nil
	}
	return nil, fmt.Errorf("firmware %q is neither bios nor uefi", string(c.Firmware))
}

// kernel returns what QEMU is to start itself.
func (c Config) kernel(string) ([]string, error) {
	if c.Kernel == "" {
		return nil, nil
	}
	return []string{"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", c.CommandLine}, nil
}

// drives returns the disks, the CD and the floppy drive.
func (c Config) drives(string) ([]string, error) {
	if c.Disk == "" {
		return nil, errors.New("no disk")
	}
	var args []string
	switch c.Bus {
	case AHCI:
		args = append(args, "-device", "ahci,id=ahci")
	case PVSCSI:
		args = append(args, "-device", "pvscsi,id=scsi")
	}
	if c.BootFloppy {
		args = append(args, "-global", "isa-fdc.bootindexA=0")
	}
	for i, path := range append([]string{c.Disk}, c.Disks...) {
		format, err := imageFormat(path)
		if err != nil {
			return nil, err
		}
		snapshot := "on"
		if c.Persistent {
			snapshot = "off"
		}
		id := "disk" + strconv.Itoa(i)
		args = append(args, "-drive", "if=none,id="+id+",format="+format+",snapshot="+snapshot+",discard=unmap,file="+escape(path))
		var device string
		switch c.Bus {
		case Virtio, "":
			device = "virtio-blk-pci,drive=" + id
		case IDE:
			device = fmt.Sprintf("ide-hd,drive=%s,bus=ide.%d,unit=%d", id, i/2, i%2)
		case AHCI:
			device = fmt.Sprintf("ide-hd,drive=%s,bus=ahci.%d", id, i)
		case PVSCSI:
			device = fmt.Sprintf("scsi-hd,drive=%s,bus=scsi.0,scsi-id=%d", id, i)
		default:
			return nil, fmt.Errorf("bus %q is none of virtio, ide, ahci, pvscsi", string(c.Bus))
		}
		args = append(args, "-device", fmt.Sprintf("%s,bootindex=%d", device, 1+i))
	}
	if c.CDROM != "" {
		args = append(args, "-drive", "if=none,id=cd,media=cdrom,format=raw,readonly=on,file="+escape(c.CDROM), "-device", "ide-cd,drive=cd,bus=ide.1,unit=1")
	}
	drive := "floppy,id=" + floppyDevice + ",unit=0,drive-type=144"
	if c.Floppy != "" {
		args = append(args, "-drive", "if=none,id=fd,format=raw,readonly=on,file="+escape(c.Floppy))
		drive += ",drive=fd"
	}
	args = append(args, "-device", drive)
	return args, nil
}

// data returns what firmware hands to the guest.
func (c Config) data(dir string) ([]string, error) {
	var args []string
	for i, s := range c.SMBIOS {
		path := filepath.Join(dir, "smbios"+strconv.Itoa(i))
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-smbios", "type=11,path="+escape(path))
	}
	for i, name := range slices.Sorted(maps.Keys(c.FirmwareConfig)) {
		path := filepath.Join(dir, "fw_cfg"+strconv.Itoa(i))
		if err := os.WriteFile(path, c.FirmwareConfig[name], 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-fw_cfg", "name="+escape(name)+",file="+escape(path))
	}
	return args, nil
}

func (c Config) nics() []string {
	var args []string
	for i, n := range c.NICs {
		id := "net" + strconv.Itoa(i)
		netdev := "user,id=" + id + ",restrict=on"
		switch {
		case n.Multicast != "":
			netdev = "socket,id=" + id + ",mcast=" + n.Multicast + ",localaddr=127.0.0.1"
		case n.Open:
			netdev = "user,id=" + id
		}
		model := n.Model
		if model == "" {
			model = "virtio-net-pci"
		}
		device := model + ",netdev=" + id
		if n.MAC != "" {
			device += ",mac=" + n.MAC
		}
		args = append(args, "-netdev", netdev, "-device", device)
	}
	return args
}

// escape doubles commas, as QEMU's option lists want.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func withDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
