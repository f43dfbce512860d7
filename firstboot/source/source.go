// Package source finds the floppy of this machine among the places it may
// come from.
//
// The order is fixed (DESIGN.md, "The floppy"); the first place that holds
// anything is taken, and every other place is reported with the reason why it
// was passed over:
//
//	1  /dev/fd0                   the floppy drive, whatever the disk's label
//	2  a disk or CD labelled      FAT (superfloppy or partition) or ISO 9660;
//	   GRIDCONF                   devices in the order of their names
//	3  the credential grid.cfg    base64 of the floppy's zip, by SMBIOS type 11,
//	                              fw_cfg or VMware guestinfo
//	4  gridcfg                    the image's own partition of that name
//	5  floppy.img                 the floppy this machine accepted before
//
// The fifth is our addition to DESIGN.md's four: a machine whose floppy was
// taken out, or whose guestinfo was overwritten after reading (TRUST.md), stays
// what it was over a reboot.
//
// Invariants: a place that holds a broken floppy ends the search with an
// error, it never falls through to the next ("the machine asked for, or a
// clear refusal"). Every read is bounded in bytes and in time, so that a dying
// drive costs seconds and never the boot. Nothing is ever mounted.
//
// What is found is a floppy image; its contents are not judged here beyond
// what is needed to get at them. Find may be called from one goroutine at a
// time.
//
// Limits on purpose: cloud metadata services are not here (they need the
// network); encrypted system credentials are not read. guestinfo is read with
// VMware's own vmware-rpctool: the backdoor port needs assembly and ends a
// process on any other hypervisor.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// Found is a floppy and where it came from.
type Found struct {
	Source string // for people: "/dev/fd0", "/dev/sr0 (GRIDCONF)"
	Image  []byte // floppy.Size bytes
}

// Passed is a place that was passed over, and why.
type Passed struct {
	Source string `json:"source"`
	Reason string `json:"reason"`
}

// Machine is where Find looks and what it may run.
type Machine struct {
	// Root is "/" on a machine, a tree with dev, sys, run and var in tests.
	Root string
	// Modprobe loads a driver; nil loads none.
	Modprobe func(ctx context.Context, module string) error
	// Settle waits until the kernel has reported the devices it knows of and
	// their nodes are made; nil waits for nothing.
	Settle func(ctx context.Context) error
	// GuestInfo reads the guest variable of that name and overwrites it; nil
	// on machines that are not VMware's.
	GuestInfo func(ctx context.Context, name string) ([]byte, error)
	// AcceptedOnly passes over everything but the floppy accepted before: to
	// somebody's own machine nobody gives another by putting a disk in.
	AcceptedOnly bool
}

// errEmpty is wrapped by the reason why a place was passed over: nothing is
// there, and nothing is wrong with that.
var errEmpty = errors.New("")

// empty returns a reason to pass a place over.
func empty(format string, args ...any) error {
	return fmt.Errorf("%s%w", fmt.Sprintf(format, args...), errEmpty)
}

// Find returns the first floppy in the order of the package comment, and what
// was passed over, the places after it as one. A nil Found with a nil error means
// that every place is empty. The error is a diag.List that names the place
// whose floppy is broken; Passed is valid then too.
func Find(ctx context.Context, m Machine) (*Found, []Passed, error) {
	var passed []Passed
	for i, place := range places {
		if m.AcceptedOnly && i+1 < len(places) {
			continue
		}
		found, err := place.look(ctx, m)
		if err == nil {
			if i+1 < len(places) {
				passed = append(passed, Passed{"everything after it", found.Source + " comes first"})
			}
			return found, passed, nil
		}
		if !errors.Is(err, errEmpty) {
			return nil, passed, asList(place.name, err)
		}
		passed = append(passed, Passed{place.name, err.Error()})
	}
	return nil, passed, nil
}

// FindInserted returns the first floppy among what a person can put in while
// the machine runs: drive, disk, CD. A nil Found with a nil error means that
// there is none. The error is as Find's.
func FindInserted(ctx context.Context, m Machine) (*Found, error) {
	for _, place := range places[:2] {
		found, err := place.look(ctx, m)
		if err == nil {
			return found, nil
		}
		if !errors.Is(err, errEmpty) {
			return nil, asList(place.name, err)
		}
	}
	return nil, nil
}

// place is one row of the order.
type place struct {
	name string
	look func(context.Context, Machine) (*Found, error)
}

var places = []place{
	{"/dev/fd0", lookDrive},
	{"devices labelled " + floppy.Label, lookLabelled},
	{"credential " + credentialName, lookCredential},
	{"partition " + partitionName, lookPartition},
	{"accepted before", lookAccepted},
}

// Accepted is where firstboot keeps the floppy it accepted last, below Root.
const Accepted = "var/lib/grid/floppy.img"

// lookAccepted is the last place: the floppy of an earlier boot.
func lookAccepted(_ context.Context, m Machine) (*Found, error) {
	image, err := os.ReadFile(filepath.Join(m.Root, Accepted))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, empty("no floppy was accepted on this machine yet")
	}
	if err != nil {
		return nil, err
	}
	return &Found{Source: "/" + Accepted + " (accepted before)", Image: image}, nil
}

// asList makes err a diag.List whose problems name the place.
func asList(name string, err error) diag.List {
	if l := diag.Of(err); l != nil {
		l = slices.Clone(l)
		for i := range l {
			if l[i].File == "" {
				l[i].File = name
			}
		}
		return l
	}
	return diag.List{{File: name, Message: err.Error(),
		Remedy: "make a new floppy with builder floppy new, or remove this one"}}
}

// within runs f, which may block in the kernel, for at most limit. When the
// time is over f goes on alone and its result is dropped.
func within[T any](ctx context.Context, limit time.Duration, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan result, 1) // f never waits for a reader
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil { // a library that met an image its authors did not think of
				r.err = fmt.Errorf("unreadable: %v", p)
			}
			done <- r
		}()
		r.value, r.err = f()
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("no answer within %v", limit)
	}
}

// readText returns the trimmed contents of a small file such as one in sysfs,
// "" when it cannot be read.
func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// zero says whether b holds zero bytes only.
func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
