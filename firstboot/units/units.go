// Package units holds the systemd units that turn a floppy into a running
// role, as they are laid into the image.
//
// Every file of FS goes to Dir under the same relative path: units as they
// are, drop-ins as <unit>.d/grid.conf. Enabled lists what the image enables by
// the WantedBy of its [Install] section; everything else that belongs to a
// role (condor, autofs, nfs-server) stays disabled and is started by
// grid-watch.
//
//	grid-firstboot   oneshot, before the network: floppy -> files, then /run/grid/applied
//	grid-firewall    oneshot, before the network: the rules firstboot wrote
//	overlayd         the virtual network; runs only behind /run/grid/{applied,overlay}
//	grid-issuer      on masters, started by grid-watch: credentials for other machines
//	grid-guard       where jobs run, started by grid-watch: whose they are
//	grid-cache       with autofs: what was read from other machines, on the disk
//	grid-watch       address -> host name, HTCondor, READY; floppies inserted later
//	grid-local@      started by udev: a blank disk becomes /mnt/local
//
// Invariant: each ordering line of each unit has a comment above it that says
// what would go wrong without it (checked by a test). Units name no address
// and no role; both are known only on the machine.
package units

import (
	"embed"
	"path"
	"strings"
)

// FS holds the units and drop-ins, paths relative to Dir.
//
//go:embed *.service */*.conf
var FS embed.FS

// Dir is where the contents of FS belong in the image.
const Dir = "usr/lib/systemd/system"

// Enabled lists the units that the image enables.
var Enabled = []string{
	"grid-firstboot.service",
	"grid-firewall.service",
	"overlayd.service",
	"grid-watch.service",
}

// Links returns the links that enable them, as systemctl enable makes them:
// path below etc/systemd/system -> target.
func Links() map[string]string {
	links := map[string]string{}
	for _, unit := range Enabled {
		text, err := FS.ReadFile(unit)
		if err != nil {
			panic(err) // embedded
		}
		for line := range strings.Lines(string(text)) {
			if by, ok := strings.CutPrefix(strings.TrimSpace(line), "WantedBy="); ok {
				links[path.Join(by+".wants", unit)] = "/" + path.Join(Dir, unit)
			}
		}
	}
	return links
}
