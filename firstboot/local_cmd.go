package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gridappliance/internal/diag"
	"gridappliance/internal/sysrun"
)

// localLabel is the label of the disk that becomes /mnt/local.
const localLabel = "gridlocal"

// What of a disk is read before it counts as blank. All file systems, LVM, RAID and
// partition tables have their mark in the first or last megabytes; the places
// between are for data without any mark.
const (
	minLocal   = 64 << 20  // bytes; smaller is a floppy or a mistake
	localEnds  = 16 << 20  // bytes at either end that must be zeros
	localProbe = 256 << 10 // bytes at each of localCount places between
	localCount = 64
	mkfsLimit  = 10 * time.Minute
)

func newLocalDiskCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "local-disk DEVICE",
		Short: "make a blank disk the machine's /mnt/local",
		Long: `local-disk makes an ext4 file system labelled gridlocal on a disk that is blank;
it then becomes /mnt/local, which the machine shares with its grid. udev starts
it for every disk on which it finds nothing.

Blank means zeros: 16 MiB at either end and 64 places between are read, and a
single other byte is enough to leave the disk alone. So is a disk of that label
that is there already, and a disk in use.

EXIT STATUS
  0 done, 1 failed, 2 usage, 4 not root, 5 the disk is left alone`,
		Example: `  firstboot local-disk /dev/vdb`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			// Of two blank disks the second waits until the first has its label.
			lock, err := os.OpenFile("/run/grid-local.lock", os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				return err
			}
			defer lock.Close()
			if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
				return err
			}
			if err := claimBlank(args[0], "/dev/disk/by-label/"+localLabel); err != nil {
				return err
			}
			if err := makeLocal(cmd.Context(), args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s was blank and is now /mnt/local\n", args[0])
			return err
		},
	}
}

// leftAlone says why a disk stays as it is.
func leftAlone(device, why string) error {
	return fmt.Errorf("%s is left alone: %s: %w", device, why, diag.ErrNothing)
}

// claimBlank returns nil for a blank disk that nothing uses, when no disk has
// the label yet.
func claimBlank(device, labelled string) error {
	if _, err := os.Stat(labelled); err == nil {
		return leftAlone(device, "another disk is labelled "+localLabel)
	}
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, syscall.EBUSY) {
		return leftAlone(device, "it is in use")
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", device, err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("look at %s: %w", device, err)
	}
	if size < minLocal {
		return leftAlone(device, fmt.Sprintf("it has %d bytes, at least %d are wanted", size, minLocal))
	}
	at, err := content(f, size)
	if err != nil {
		return fmt.Errorf("look at %s: %w", device, err)
	}
	if at >= 0 {
		return leftAlone(device, fmt.Sprintf("it is not blank, byte %d is not zero", at))
	}
	return nil
}

// content returns where the first byte that is not zero was found, or -1.
func content(r io.ReaderAt, size int64) (int64, error) {
	places := [][2]int64{{0, localEnds}, {size - localEnds, localEnds}}
	for i := range int64(localCount) {
		places = append(places, [2]int64{(size - localProbe) / localCount * i, localProbe})
	}
	buf, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, p := range places {
		for at, left := p[0], p[1]; left > 0; {
			b := buf[:min(left, int64(len(buf)))]
			if _, err := r.ReadAt(b, at); err != nil {
				return 0, err
			}
			if !bytes.Equal(b, zeros[:len(b)]) {
				return at + int64(bytes.IndexFunc(b, func(c rune) bool { return c != 0 })), nil
			}
			at, left = at+int64(len(b)), left-int64(len(b))
		}
	}
	return -1, nil
}

// makeLocal makes the file system, lets everybody write into it as into the
// image's /mnt/local, and has it mounted.
func makeLocal(ctx context.Context, device string) error {
	ctx, cancel := context.WithTimeout(ctx, mkfsLimit)
	defer cancel()
	if err := program(ctx, "mkfs.ext4", "-q", "-L", localLabel, "-m", "0", "-E", "lazy_itable_init=1", device); err != nil {
		return fmt.Errorf("make a file system on %s: %w", device, err)
	}
	dir, err := os.MkdirTemp("/run", "grid-local-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	if err := errors.Join(unix.Chmod(dir, 0o1777), unix.Unmount(dir, 0)); err != nil {
		return fmt.Errorf("prepare %s: %w", device, err)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return nil
	}
	// udev has seen the label by now or soon; the unit waits for it.
	if err := program(ctx, "udevadm", "trigger", "--settle", "--name-match="+filepath.Base(device)); err != nil {
		return err
	}
	return program(ctx, "systemctl", "start", "--no-block", "mnt-local.mount")
}

func program(ctx context.Context, name string, args ...string) error {
	out, err := sysrun.Output(ctx, name, args...)
	if err != nil && len(out) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return err
}
