//go:build linux

package main

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// layer is one read-only tree of the root.
type layer struct {
	name   string // the partition's name
	device string // such as "vda4"
}

// moduleNumber returns N of "gridmodN", 1 to 99, else 0.
func moduleNumber(name string) int {
	digits, ok := strings.CutPrefix(name, partModule)
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 1 || n > 99 || strconv.Itoa(n) != digits {
		return 0
	}
	return n
}

func isLayer(name string) bool {
	return name == partBase || name == partGlue || moduleNumber(name) > 0
}

// layers returns the read-only trees of a disk, top first: glue, modules from
// the highest number, base.
func (d disk) layers() []layer {
	var out []layer
	for name, device := range d.parts {
		if isLayer(name) {
			out = append(out, layer{name, device})
		}
	}
	rank := func(name string) int {
		switch name {
		case partGlue:
			return 100
		case partBase:
			return 0
		}
		return moduleNumber(name)
	}
	sort.Slice(out, func(i, j int) bool { return rank(out[i].name) > rank(out[j].name) })
	return out
}

// overlayOptions returns the mount options of the root: lower trees top
// first, and the user's tree. changes/ must be readable by itself, without
// the trees below it, because builder module export reads it: so no redirect
// and no metacopy.
func overlayOptions(lower []string, user string) string {
	return fmt.Sprintf("lowerdir=%s,upperdir=%s/changes,workdir=%s/work,index=off,xino=auto,redirect_dir=off,metacopy=off",
		strings.Join(lower, ":"), user, user)
}
