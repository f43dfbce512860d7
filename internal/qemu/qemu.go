// Package qemu runs one virtual machine under QEMU and speaks with it: over
// its serial console (Console) and, for what an operator would do with a
// power button or a floppy drive, over QMP.
//
//	Config --arguments--> qemu-system-x86_64 --stdio--> Console: WaitFor, Login, Run
//	                                        --socket--> QMP: Shutdown, Reset, InsertFloppy
//
// The machine is a PC (i440FX, ISA floppy controller) with SeaBIOS or OVMF.
// Its disk is not changed unless asked: writes go to a temporary file. It ends
// with the context it was started with, and with this process, however that
// dies. Accelerate finds out whether KVM works by starting a guest; otherwise
// QEMU's own emulation (TCG) is used.
//
// A Machine is safe for concurrent use; its Console is read by one goroutine
// at a time.
//
// Sources: QEMU 7.2, "System Emulation Users Guide" and docs/interop/qmp-spec.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gridappliance/internal/sysrun"
)

// Firmware is what starts the machine.
type Firmware string

// The firmwares.
const (
	BIOS Firmware = "bios" // SeaBIOS, QEMU's own
	UEFI Firmware = "uefi" // OVMF, from the package ovmf
)

// Bus is how the guest sees its disks.
type Bus string

// The buses.
const (
	Virtio Bus = "virtio"
	IDE    Bus = "ide"
	AHCI   Bus = "ahci"
	PVSCSI Bus = "pvscsi" // VMware's
)

// NIC is a network card. The zero NIC is QEMU's user network, closed
// off: the guest gets an address by DHCP and reaches nothing.
type NIC struct {
	Open      bool   // user network: the guest may reach what this host reaches
	Multicast string // "230.0.0.1:4000": a hub of all machines that name it, on this host's loopback only
	MAC       string // "" = QEMU's choice
	Model     string // "e1000", "vmxnet3"; "" = virtio
}

// Config says which machine to start. Only Disk is needed.
type Config struct {
	Disk           string   // image file: raw, qcow2, vmdk or vdi by its content
	Persistent     bool     // write to Disk; else writes are dropped at the end
	Bus            Bus      // default Virtio; of Disk and Disks
	Disks          []string // further images, with the same treatment
	CDROM          string   // ISO image
	Floppy         string   // floppy image in the drive, write-protected; "" = an empty drive
	Firmware       Firmware // default BIOS
	Kernel         string   // started by QEMU instead of what is on the disk; with Initrd and CommandLine
	Initrd         string
	CommandLine    string
	BootFloppy     bool   // try the floppy before the disk
	Memory         int    // MiB, default 1024
	CPUs           int    // default 2, emulated 1
	UUID           string // SMBIOS system UUID; "" = none (zeros)
	Clock          time.Time
	SMBIOS         []string          // OEM strings (type 11), each at most 64 KiB
	FirmwareConfig map[string][]byte // fw_cfg items by name, "opt/..."
	NICs           []NIC             // in the guest eth0, eth1, ...
	Live           io.Writer         // gets the console's output as it comes; nil = nobody
}

// Machine is a running virtual machine.
type Machine struct {
	Console *Console

	accel  Accelerator
	dir    string // scratch folder: QMP socket, OVMF variables
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of QEMU; valid once done is closed
}

// Start starts a machine. It is ended when ctx ends or by Close, one of which
// the caller owes it. The error names what is missing.
func Start(ctx context.Context, c Config) (*Machine, error) {
	program, err := sysrun.Find("qemu-system-x86_64")
	if err != nil {
		return nil, fmt.Errorf("start machine: %w (Debian: package qemu-system-x86)", err)
	}
	accel, err := Accelerate(ctx)
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	dir, err := os.MkdirTemp("", "grid-vm-")
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	args, err := c.arguments(accel, dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start machine: %w", err)
	}
	stdin, input, err := os.Pipe()
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start machine: %w", err)
	}
	m := &Machine{accel: accel, dir: dir, done: make(chan struct{})}
	m.Console = newConsole(input, c.Live)
	ctx, m.cancel = context.WithCancel(ctx)
	go func() {
		_, m.err = sysrun.Run(ctx, sysrun.Command{Name: program, Args: args, Stdin: stdin, Stdout: m.Console, Tied: true,
			Env: append(os.Environ(), "TMPDIR="+dir)}) // QEMU's snapshot files go where we clean up
		stdin.Close()
		input.Close()
		m.Console.end(m.err)
		os.RemoveAll(dir)
		m.cancel()
		close(m.done)
	}()
	return m, nil
}

// Accelerator returns how the machine's processor is run.
func (m *Machine) Accelerator() Accelerator { return m.accel }

// Done is closed when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Wait waits for the machine to end and returns QEMU's error, nil when the
// guest powered itself off.
func (m *Machine) Wait() error {
	<-m.done
	return m.err
}

// Close ends the machine at once, as pulling the plug would, and waits until
// it is gone. Closing twice is allowed.
func (m *Machine) Close() {
	m.cancel()
	<-m.done
}

// Shutdown presses the power button and waits until the guest has powered off.
// After timeout the machine is ended, and the error says so.
func (m *Machine) Shutdown(timeout time.Duration) error {
	if err := m.command("system_powerdown", nil); err != nil {
		m.Close()
		return fmt.Errorf("shut machine down: %w", err)
	}
	select {
	case <-m.done:
		return m.err
	case <-time.After(timeout):
		m.Close()
		return fmt.Errorf("shut machine down: still running after %v", timeout)
	}
}

// Reset presses the reset button: the guest starts again without being asked.
func (m *Machine) Reset() error { return m.command("system_reset", nil) }

// Stop makes the machine stand still, and Continue lets it go on.
func (m *Machine) Stop() error     { return m.command("stop", nil) }
func (m *Machine) Continue() error { return m.command("cont", nil) }

// InsertFloppy changes the floppy in the drive, which must not be open.
func (m *Machine) InsertFloppy(path string) error {
	return m.command("blockdev-change-medium", map[string]any{
		"id": floppyDevice, "filename": path, "format": "raw", "read-only-mode": "read-only"})
}

// EjectFloppy leaves the drive empty.
func (m *Machine) EjectFloppy() error {
	return m.command("eject", map[string]any{"id": floppyDevice, "force": true})
}

// magics are the forms of disks with what stands in their first sector.
var magics = []struct {
	format string
	offset int
	magic  string
}{{"qcow2", 0, "QFI\xfb"}, {"vmdk", 0, "KDMV"}, {"vdi", 64, "\x7f\x10\xda\xbe"}}

// imageFormat returns QEMU's name for the form of a disk, by its content.
func imageFormat(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var head [512]byte
	if _, err := io.ReadFull(f, head[:]); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	for _, m := range magics {
		if strings.HasPrefix(string(head[m.offset:]), m.magic) {
			return m.format, nil
		}
	}
	return "raw", nil
}

// ovmf returns Debian's OVMF code and variable template.
func ovmf() (code, vars string, err error) {
	for _, pair := range [][2]string{
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	} {
		if _, err := os.Stat(pair[0]); err == nil {
			return pair[0], pair[1], nil
		}
	}
	return "", "", errors.New("no OVMF in /usr/share/OVMF (Debian: package ovmf)")
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

func (m *Machine) qmpSocket() string { return filepath.Join(m.dir, qmpSocketName) }
