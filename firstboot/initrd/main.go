//go:build linux

// Command initrd is /init of the initial RAM file system: it finds the disk,
// puts the root together and hands over to systemd.
//
//	kernel -> /init
//	  load ext4, squashfs, overlay; load the driver of every device that has one
//	  wait for a disk with partitions named gridbase and griduser
//	  grow griduser to the end of the disk, partition table first
//	  /run/grid/base   squashfs of gridbase
//	  /run/grid/user   ext4 of griduser: changes/ work/ state/
//	  griduser's changes/ fitted to layers that are new (internal/compose, Carry)
//	  /newroot         overlay  changes : gridglue : gridmodN : ... : gridmod1 : gridbase
//	  /newroot/P       for every P of the file /state: user's state/P mounted over it
//	  /newroot/etc/machine-id   from state/, made on the first boot
//	  exec systemd
//
// Layers: a disk may have, beside gridbase, partitions named gridmod1 ..
// gridmod99 (modules; a higher number lies above a lower one) and gridglue
// (above all modules), each a squashfs. The partition table says how many to
// wait for. What was stacked is told in /run/grid/layers, top first, a line
// each: NAME DEVICE TYPE.
//
// Failures: a griduser that is missing, damaged or cannot be written becomes
// memory, and the machine runs with nothing kept; every console says so in one
// line and /run/grid/volatile holds the reason. Without a gridbase there is
// nothing to run: init says what it waits for, again and again, and goes on
// waiting. It never restarts the machine and never ends silently.
//
// It changes nothing on the disk but griduser, the partition table's end of
// griduser and the place of the table's copy. It checks no signature: whoever
// can write the disk owns the machine.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

// run is /init when it is process 1, and the loader of one module, handed over
// as descriptor 3, when its argument is "load".
func run(args []string, stderr io.Writer) int {
	if len(args) == 1 && args[0] == "load" && os.Getenv("GRID_INITRD") == "load" {
		if unix.FinitModule(3, "", 0) != nil {
			return 1
		}
		return 0
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(stderr, "initrd: this is /init of the appliance's initial RAM file system; the kernel starts it")
		return 2
	}
	c := &console{}
	defer func() {
		if p := recover(); p != nil {
			c.wait(fmt.Sprintf("init stopped by its own mistake: %v", p), string(debug.Stack()))
		}
	}()
	c.wait(boot(c).Error(), "")
	return 1
}

// boot does everything; it returns only with an error.
func boot(c *console) error {
	if err := mountKernel(); err != nil {
		return err
	}
	loader, err := openLoader(modulesDir)
	if err != nil {
		return err
	}
	preloaded := make(chan error, 1)
	go func() { preloaded <- loader.preload() }()
	disk := waitForDisk(c, loader)
	if err := <-preloaded; err != nil {
		c.say(err.Error()) // a mount that needs it will say what is missing
	}
	root, err := assemble(c, disk)
	if err != nil {
		return err
	}
	return switchRoot(root)
}

func mountKernel() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		options              string
	}{
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return os.Mkdir("/run/grid", 0o755)
}

// switchRoot makes root the root of the machine and becomes its systemd.
func switchRoot(root string) error {
	for _, d := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(d, root+d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s to the new root: %w", d, err)
		}
	}
	// What lies in the initial RAM file system is memory nobody would get back.
	for _, d := range []string{"/lib", "/state", "/init"} {
		os.RemoveAll(d)
	}
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	const init = "/usr/lib/systemd/systemd"
	err := unix.Exec(init, []string{"/sbin/init"}, []string{"HOME=/", "TERM=linux", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"})
	return fmt.Errorf("start %s: %w", init, err)
}

// wait says a line for ever. It is the end of a boot that cannot go on: the
// machine stays as it is, so that a person can read why.
func (c *console) wait(line, more string) {
	for {
		c.say(line + "; the machine cannot start: switch it off, or press Ctrl-Alt-Del to restart it")
		if more != "" {
			c.say(more)
		}
		time.Sleep(time.Minute)
	}
}
