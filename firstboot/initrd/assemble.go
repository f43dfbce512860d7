//go:build linux

package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"gridappliance/internal/compose"
)

const (
	newRoot  = "/newroot"
	userDir  = "/run/grid/user"
	layerDir = "/run/grid/layer"
)

// assemble mounts the root of a disk and returns where.
func assemble(c *console, d disk) (string, error) {
	var lower []string
	var table strings.Builder
	layers := d.layers()
	for _, l := range layers {
		at := filepath.Join(layerDir, l.name)
		if err := mount("/dev/"+l.device, at, "squashfs", unix.MS_RDONLY, ""); err != nil {
			return "", fmt.Errorf("mount partition %s (%s): %w; the image is damaged, make a new one", l.name, l.device, err)
		}
		lower = append(lower, at)
	}
	kind := "ext4"
	if err := mountUser(c, d); err != nil {
		kind = "tmpfs"
		if err := mountMemory(err.Error()); err != nil {
			return "", err
		}
		c.say(fmt.Sprintf("warning: %v; this machine runs in memory and keeps nothing", err))
	}
	if kind == "ext4" {
		if err := carry(c, layers, lower); err != nil {
			c.say(fmt.Sprintf("warning: accounts and packages of this machine are not fitted to the new layers: %v", err))
		}
	}
	if err := mount("overlay", newRoot, "overlay", 0, overlayOptions(lower, userDir)); err != nil {
		return "", fmt.Errorf("stack the layers: %w", err)
	}
	fmt.Fprintf(&table, "changes %s %s\n", device(d, kind), kind)
	for _, l := range layers {
		fmt.Fprintf(&table, "%s /dev/%s squashfs\n", l.name, l.device)
	}
	if err := os.WriteFile("/run/grid/layers", []byte(table.String()), 0o644); err != nil {
		return "", err
	}
	paths, err := os.ReadFile("/state")
	if err != nil {
		return "", fmt.Errorf("read the list of kept paths: %w", err)
	}
	for _, p := range parseState(paths) {
		if err := bindState(userDir+"/state"+p, newRoot+p); err != nil {
			return "", fmt.Errorf("mount the kept %s: %w", p, err)
		}
	}
	if err := bindMachineID(); err != nil {
		return "", fmt.Errorf("set the machine id: %w", err)
	}
	return newRoot, nil
}

// carry fits what the machine changed to its layers, when they are others
// than at the last boot.
func carry(c *console, layers []layer, lower []string) error {
	var id strings.Builder
	for _, l := range layers {
		head := make([]byte, 96) // a squashfs's superblock: times, sizes and places of everything in it
		f, err := os.Open("/dev/" + l.device)
		if err != nil {
			return err
		}
		_, err = f.ReadAt(head, 0)
		f.Close()
		if err != nil {
			return err
		}
		fmt.Fprintf(&id, "%s %x\n", l.name, head)
	}
	changed, err := compose.Carry(userDir, lower, id.String())
	if changed {
		c.say("the layers below this machine's changes are new; its packages and accounts were fitted to them")
	}
	return err
}

func device(d disk, kind string) string {
	if kind == "tmpfs" {
		return "none"
	}
	return "/dev/" + d.parts[partUser]
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	return unix.Mount(source, target, kind, flags, options)
}

// mountUser grows and mounts griduser for writing.
func mountUser(c *console, d disk) error {
	part := d.parts[partUser]
	if part == "" {
		return fmt.Errorf("the disk %s has no partition %s", d.device, partUser)
	}
	if ro, err := os.ReadFile("/sys/class/block/" + part + "/ro"); err == nil && strings.TrimSpace(string(ro)) == "1" {
		return fmt.Errorf("partition %s (%s) cannot be written", partUser, part)
	}
	if err := growPartition(d); err != nil {
		c.say(fmt.Sprintf("warning: partition %s stays as large as it is: %v", partUser, err))
	}
	if err := mount("/dev/"+part, userDir, "ext4", unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return fmt.Errorf("partition %s (%s) cannot be mounted: %w", partUser, part, err)
	}
	if err := prepareUser(); err != nil {
		unix.Unmount(userDir, unix.MNT_DETACH)
		return fmt.Errorf("partition %s (%s) cannot be used: %w", partUser, part, err)
	}
	if err := growFilesystem(part); err != nil {
		c.say(fmt.Sprintf("warning: the file system of %s stays as large as it is: %v", partUser, err))
	}
	return nil
}

// prepareUser makes the three trees and proves that the file system can be
// written.
func prepareUser() error {
	if err := unix.Chmod(userDir, 0o700); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		mode os.FileMode
	}{{"changes", 0o755}, {"work", 0o700}, {"state", 0o755}} {
		if err := os.Mkdir(filepath.Join(userDir, s.name), s.mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		info, err := os.Lstat(filepath.Join(userDir, s.name))
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is no directory", s.name)
		}
	}
	return nil
}

// mountMemory puts memory in the place of griduser and leaves the reason.
func mountMemory(reason string) error {
	if err := mount("tmpfs", userDir, "tmpfs", 0, "mode=0700,size=60%"); err != nil {
		return fmt.Errorf("use memory in place of %s: %w", partUser, err)
	}
	if err := prepareUser(); err != nil {
		return fmt.Errorf("use memory in place of %s: %w", partUser, err)
	}
	return os.WriteFile("/run/grid/volatile", []byte(reason+"\n"), 0o644)
}

// growPartition lets griduser reach the end of its disk, in the partition
// table and in the kernel.
func growPartition(d disk) error {
	text, err := os.ReadFile("/sys/class/block/" + d.device + "/size")
	if err != nil {
		return err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return err
	}
	t, err := readTable("/dev/" + d.device)
	if err != nil {
		return err
	}
	g, err := t.grow(partUser, sectors)
	if err != nil || g == nil {
		return err
	}
	f, err := os.OpenFile("/dev/"+d.device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, w := range g.writes {
		if _, err := f.WriteAt(w.data, w.offset); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	p := unix.BlkpgPartition{
		Start:  int64(g.partition.first) * sector,
		Length: int64(g.partition.last-g.partition.first+1) * sector,
		Pno:    int32(g.partition.number),
	}
	arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_RESIZE_PARTITION, Datalen: int32(unsafe.Sizeof(p)), Data: (*byte)(unsafe.Pointer(&p))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return fmt.Errorf("tell the kernel: %w", errno)
	}
	return nil
}

// ext4Resize is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64): the new size in
// blocks (fs/ext4/ext4.h).
const ext4Resize = 0x40086610

// growFilesystem lets the mounted ext4 fill its partition.
func growFilesystem(part string) error {
	text, err := os.ReadFile("/sys/class/block/" + part + "/size")
	if err != nil {
		return err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return err
	}
	super := make([]byte, 1024)
	dev, err := os.Open("/dev/" + part)
	if err != nil {
		return err
	}
	defer dev.Close()
	if _, err := dev.ReadAt(super, 1024); err != nil {
		return err
	}
	now, blockSize := ext4Size(super)
	blocks := sectors * sector / blockSize
	if blocks <= now {
		return nil
	}
	f, err := os.Open(userDir)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return errno
	}
	return nil
}

// ext4Size reads the size in blocks and the block size from a superblock
// (kernel documentation, ext4, "Super Block": 0x4, 0x150, 0x18).
func ext4Size(super []byte) (blocks, blockSize uint64) {
	le := binary.LittleEndian
	return uint64(le.Uint32(super[0x150:]))<<32 | uint64(le.Uint32(super[0x4:])), 1024 << (le.Uint32(super[0x18:]) & 7)
}

// parseState reads the file /state: an absolute path a line, # begins a
// comment line.
func parseState(text []byte) []string {
	var paths []string
	for _, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "/") && filepath.Clean(line) == line && line != "/" {
			paths = append(paths, line)
		}
	}
	return paths
}

// bindState mounts kept over place. A kept that is not there yet begins as a
// copy of place, made under another name first, so that a copy cut short is
// not taken for the whole.
func bindState(kept, place string) error {
	if err := os.MkdirAll(place, 0o755); err != nil {
		return err
	}
	if _, err := os.Lstat(kept); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
			return err
		}
		fresh := kept + ".new"
		if err := os.RemoveAll(fresh); err != nil {
			return err
		}
		if err := copyTree(place, fresh); err != nil {
			return err
		}
		if err := os.Rename(fresh, kept); err != nil {
			return err
		}
	}
	return unix.Mount(kept, place, "", unix.MS_BIND, "")
}

// copyTree copies directories, regular files and symbolic links with mode and
// owner; anything else is left out.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(p, from)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			err = os.Mkdir(target, 0o700)
		case unix.S_IFREG:
			var data []byte
			if data, err = os.ReadFile(p); err == nil {
				err = os.WriteFile(target, data, 0o600)
			}
		case unix.S_IFLNK:
			var link string
			if link, err = os.Readlink(p); err == nil {
				err = os.Symlink(link, target)
			}
		default:
			return nil
		}
		if err != nil {
			return err
		}
		if err := unix.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return nil
		}
		return unix.Chmod(target, st.Mode&0o7777)
	})
}

var machineIDPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)

// bindMachineID mounts the machine's id over /etc/machine-id, making one on
// the first boot. systemd then finds an id that is set.
func bindMachineID() error {
	const kept = newRoot + "/var/lib/grid/machine-id"
	text, err := os.ReadFile(kept)
	id := strings.TrimSpace(string(text))
	if err != nil || !machineIDPattern.MatchString(id) {
		id = newMachineID()
		if err := writeDurably(kept, id+"\n"); err != nil {
			return err
		}
	}
	const now = "/run/machine-id"
	if err := os.WriteFile(now, []byte(id+"\n"), 0o444); err != nil {
		return err
	}
	place := newRoot + "/etc/machine-id"
	if _, err := os.Lstat(place); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(place, nil, 0o444); err != nil {
			return err
		}
	}
	return unix.Mount(now, place, "", unix.MS_BIND, "")
}

// newMachineID makes an id as machine-id(5) wants it: a random UUID, version 4.
func newMachineID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, crypto/rand
	b[6] = b[6]&0x0F | 0x40
	b[8] = b[8]&0x3F | 0x80
	return hex.EncodeToString(b[:])
}

func writeDurably(name, text string) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o444)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
