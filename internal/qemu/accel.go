package qemu

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gridappliance/internal/sysrun"
)

// Accelerator is how a machine's processor is run.
type Accelerator string

// The accelerators.
const (
	KVM Accelerator = "kvm" // by the host's processor
	TCG Accelerator = "tcg" // emulated
)

// probeLimit is how long the probe's guest may take; under working KVM it
// takes a fifth of a second. A KVM that is slower, as some nested ones are, is
// slower than TCG: under one that took 6 s for the probe, Debian's kernel had
// not written a word after 150 s.
const probeLimit = 3 * time.Second

func (a Accelerator) arguments() []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	// x86-64-v2 is what VMware and VirtualBox at least give a guest. On a
	// processor of AMD's Linux needs no page-table isolation, which would empty
	// the emulated TLB at each system call: a boot takes a fifth less.
	return []string{"-accel", "tcg", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf_lm"}
}

// processors is how many a machine has unless told otherwise. Emulated ones
// run each other's stale code now and then, which real ones never do: with two
// of them Linux, which patches itself as it boots, panicked in one of some
// twenty boots ("Oops: int3" in sched_clock_cpu, QEMU 7.2).
func (a Accelerator) processors() int {
	if a == KVM {
		return 2
	}
	return 1
}

var probe struct {
	mu     sync.Mutex
	result Accelerator
}

// Accelerate finds out, once a process, whether KVM works here: it starts a
// guest whose boot sector does nothing but end QEMU. /dev/kvm alone proves
// nothing, in containers and nested machines.
func Accelerate(ctx context.Context) (Accelerator, error) {
	probe.mu.Lock()
	defer probe.mu.Unlock()
	if probe.result == "" {
		works, err := kvmWorks(ctx)
		if err != nil {
			return "", err
		}
		probe.result = TCG
		if works {
			probe.result = KVM
		}
	}
	return probe.result, nil
}

// bootSector is mov dx,0xf4; mov al,0x10; out dx,al; hlt: it writes 0x10 to
// the port of QEMU's isa-debug-exit, which ends QEMU with status 2*0x10+1.
var bootSector = []byte("\xba\xf4\x00\xb0\x10\xee\xf4")

const bootSectorExit = 0x10<<1 | 1

func kvmWorks(ctx context.Context) (bool, error) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return false, nil
	}
	dir, err := os.MkdirTemp("", "grid-kvm-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	sector := make([]byte, 512)
	copy(sector, bootSector)
	sector[510], sector[511] = 0x55, 0xaa
	path := filepath.Join(dir, "sector")
	if err := os.WriteFile(path, sector, 0o600); err != nil {
		return false, err
	}
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	result, _ := sysrun.Run(limited, sysrun.Command{Name: "qemu-system-x86_64", Tied: true, Args: append(KVM.arguments(),
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-m", "16", "-no-reboot",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive", "if=ide,format=raw,file="+escape(path))})
	return result.Exit == bootSectorExit, ctx.Err()
}
