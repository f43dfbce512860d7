package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"gridappliance/floppy"
)

const (
	// driveLimit bounds one whole read of a floppy: the kernel's driver gives
	// up on a sector after its own retries, a good drive takes 1.4 s under TCG
	// and about 40 s when it is real and old.
	driveLimit = 60 * time.Second
	// deviceLimit bounds one read of any other device.
	deviceLimit = 10 * time.Second
)

// lookDrive reads the first floppy drive.
func lookDrive(ctx context.Context, m Machine) (*Found, error) {
	path := filepath.Join(m.Root, "dev/fd0")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if m.Modprobe == nil {
			return nil, empty("no floppy drive")
		}
		if err := m.Modprobe(ctx, "floppy"); err != nil {
			return nil, empty("no floppy drive")
		}
		if _, err := os.Stat(path); err != nil {
			return nil, empty("no floppy drive")
		}
	}
	image, err := within(ctx, driveLimit, func() ([]byte, error) { return readStart(path, floppy.Size, 0) })
	switch {
	case noMedium(err):
		return nil, empty("no disk in the drive")
	case err != nil && len(image) == 0:
		return nil, empty("no readable disk in the drive (%v)", err)
	case err != nil:
		return nil, err
	case zero(image):
		return nil, empty("the disk is empty")
	case blank(image):
		return nil, empty("the disk is formatted, but has no files")
	}
	return &Found{Source: "/dev/fd0", Image: image}, nil
}

// readStart returns the first size bytes of the device at path, fewer when it
// is smaller. flags are added to the open's.
func readStart(path string, size int, flags int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	image := make([]byte, size)
	n, err := io.ReadFull(f, image)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return image[:n], err
}

// noMedium says whether err is how a drive reports that it has no disk: the
// floppy driver answers an open with ENXIO, CD drives with ENOMEDIUM.
func noMedium(err error) bool {
	return errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENOMEDIUM)
}

// blank says whether image is a well-formed floppy without a single file, as
// shops sell them.
func blank(image []byte) bool {
	files, err := floppy.ReadImage(image)
	return err == nil && len(files) == 0
}

// The floppy driver's poll (linux/fd.h): it has the drive look whether a disk
// is there, without reading from it, and returns its struct
// floppy_drive_struct, here as 64-bit machines have it:
//
//	offset size field
//	0      8    flags
//	40     4    generation, counts disks
const (
	fdPollDrive   = 0x80500213 // FDPOLLDRVSTAT, _IOR(2, 0x13, 80 bytes)
	fdVerify      = 1 << 1     // FD_VERIFY: not looked at since it was put in
	fdNewChange   = 1 << 2     // FD_DISK_NEWCHANGE: still set after a poll when there is no disk
	fdDiskChanged = 1 << 4     // FD_DISK_CHANGED: another disk than the last that was read
)

// driveState returns a text that changes with the disk in the drive at path.
// An empty drive is asked without being read: the kernel would complain of
// each attempt on the console.
func driveState(path string) (string, error) {
	f, err := openDevice(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var state [80]byte
	// Twice: the first poll after an open that failed for want of a disk does
	// not say so yet, and would look like a new disk for ever.
	for range 2 {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), fdPollDrive, uintptr(unsafe.Pointer(&state)))
		if errno != 0 {
			return "", errno
		}
	}
	flags := binary.LittleEndian.Uint64(state[:])
	if flags&fdNewChange != 0 {
		return "empty", nil
	}
	return fmt.Sprintf("disk %d %x", binary.LittleEndian.Uint32(state[40:]), flags&(fdVerify|fdDiskChanged)), nil
}
