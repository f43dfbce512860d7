//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// The names of partitions that init uses.
const (
	partBase   = "gridbase"
	partUser   = "griduser"
	partGlue   = "gridglue"
	partModule = "gridmod" // and a number
)

// How long init waits, after gridbase is there, for griduser and layers
// before it goes on without, and how often it says that it waits for gridbase.
const (
	patience = 5 * time.Second
	reminder = 20 * time.Second
	poll     = 10 * time.Millisecond
)

// disk is one disk: partition name -> device such as "vda4".
type disk struct {
	device string // such as "vda"
	parts  map[string]string
}

// waitForDisk drives devices until a disk with both partitions is there. A
// disk that still lacks griduser after the patience is taken as it is.
func waitForDisk(c *console, l *loader) disk {
	began := time.Now()
	said := began
	var since time.Time // when a gridbase was first seen
	for {
		l.coldplug()
		disks := readDisks("/sys/class/block")
		best, whole := choose(disks)
		if whole && complete(best) {
			return best
		}
		now := time.Now()
		if best.device != "" {
			if since.IsZero() {
				since = now
			}
			if now.Sub(since) > patience {
				return best
			}
		}
		if now.Sub(said) > reminder {
			said = now
			c.say(fmt.Sprintf("waiting for a disk with the partition %s since %d s; found %s",
				partBase, int(now.Sub(began).Seconds()), describe(disks)))
		}
		time.Sleep(poll)
	}
}

// readDisks reads the named partitions of all disks from sysfs, disks sorted
// by device.
func readDisks(sys string) []disk {
	found := map[string]disk{}
	files, _ := filepath.Glob(filepath.Join(sys, "*", "uevent"))
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		v := map[string]string{}
		for _, line := range strings.Split(string(text), "\n") {
			key, value, _ := strings.Cut(line, "=")
			v[key] = value
		}
		if v["DEVTYPE"] != "partition" || v["PARTNAME"] == "" {
			continue
		}
		real, err := filepath.EvalSymlinks(filepath.Dir(f))
		if err != nil {
			continue
		}
		parent := filepath.Base(filepath.Dir(real)) // .../block/vda/vda4
		d, ok := found[parent]
		if !ok {
			d = disk{parent, map[string]string{}}
			found[parent] = d
		}
		d.parts[v["PARTNAME"]] = v["DEVNAME"]
	}
	var out []disk
	for _, d := range found {
		out = append(out, d)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].device < out[j].device })
	return out
}

// choose returns the first disk with gridbase and griduser, and true; else
// the first with gridbase; else none. Firmware does not tell Linux which disk
// it booted from in a way that holds for BIOS, UEFI and Xen; two appliance
// disks in one machine are a mistake that the order of devices settles.
func choose(disks []disk) (best disk, whole bool) {
	for _, d := range disks {
		if d.parts[partBase] == "" {
			continue
		}
		if d.parts[partUser] != "" {
			return d, true
		}
		if best.device == "" {
			best = d
		}
	}
	return best, false
}

// complete says whether every layer that the disk's partition table names has
// its device: they appear one by one.
func complete(d disk) bool {
	table, err := readTable("/dev/" + d.device)
	if err != nil {
		return true // nothing to compare with
	}
	for _, p := range table.partitions() {
		if isLayer(p.name) && d.parts[p.name] == "" {
			return false
		}
	}
	return true
}

func describe(disks []disk) string {
	if len(disks) == 0 {
		return "no disk with named partitions"
	}
	var all []string
	for _, d := range disks {
		var names []string
		for n := range d.parts {
			names = append(names, n)
		}
		sort.Strings(names)
		all = append(all, d.device+" ("+strings.Join(names, " ")+")")
	}
	return strings.Join(all, ", ")
}
