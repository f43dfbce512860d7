package plan

import (
	"fmt"
	"strings"

	"gridappliance/builder/spec"
)

// Steps returns what will be done, in order, one line each.
func (p *Plan) Steps() []string {
	var steps []string
	add := func(format string, args ...any) { steps = append(steps, fmt.Sprintf(format, args...)) }
	add("take the base %s", p.BaseID)
	if p.Private {
		add("check the floppy")
	}
	add("lay out a disk of %v", spec.Size(p.Layout.Size))
	add("write GRUB into the boot sector and bios, its block list patched")
	add("fill esp: kernel, initrd, grub.cfg, GRUB for UEFI")
	if p.Private {
		add("copy the floppy into gridcfg")
	} else {
		add("leave gridcfg empty")
	}
	for _, l := range p.Layers {
		what := ""
		if l.What != "" {
			what = " (" + l.What + ")"
		}
		add("copy the layer %s, %.1f MB%s", l.Name, float64(l.Size)/1e6, what)
	}
	add("copy the empty user layer into griduser")
	for _, o := range p.Outputs {
		add("write %s", strings.Join(o.Paths(), ", "))
	}
	return steps
}

// String returns the plan for a person: what goes in and where it is, the
// partitions, the steps, and the files with their sizes.
func (p *Plan) String() string {
	var b strings.Builder
	if len(p.Ingredients) > 0 {
		b.WriteString("takes\n")
	}
	for _, i := range p.Ingredients {
		fmt.Fprintf(&b, "  %v\n", i)
	}
	fmt.Fprintf(&b, "disk %v, GUID %s\n", spec.Size(p.Layout.Size), p.Layout.GUID)
	fmt.Fprintf(&b, "  %-2s %-10s %12s %12s %10s  %s\n", "#", "name", "first LBA", "last LBA", "size", "GUID")
	for i, part := range p.Layout.Partitions {
		fmt.Fprintf(&b, "  %-2d %-10s %12d %12d %10s  %s\n", i+1, part.Name, part.First, part.Last, spec.Size(part.Size()), part.GUID)
	}
	b.WriteString("steps\n")
	for i, s := range p.Steps() {
		fmt.Fprintf(&b, "  %2d. %s\n", i+1, s)
	}
	b.WriteString("writes\n")
	for _, o := range p.Outputs {
		for _, f := range p.Written(o) {
			fmt.Fprintf(&b, "  %v\n", f)
		}
	}
	return b.String()
}
