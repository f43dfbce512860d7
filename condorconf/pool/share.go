package pool

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"gridappliance/overlayd/control"
)

// Interpreter is the program that runs the program map. The kernel calls it
// as "condorconf automount /etc/auto.ganfs KEY": no shell sees the key.
const Interpreter = program + " automount"

// nfsOptions: one TCP port and no side protocol (4.2); soft and retry=0, so
// that a vanished host gives an error within seconds instead of hanging a job;
// nothing on another's disk may be a device or gain rights here; what was read
// is kept on this machine's disk (grid-cache.service), if it has such a cache.
const nfsOptions = "-fstype=nfs4,vers=4.2,proto=tcp,soft,timeo=50,retrans=2,retry=0,nosuid,nodev,noatime,fsc"

// bindOptions are for the machine's own share, which needs no network.
const bindOptions = "-fstype=bind,nosuid,nodev"

// exportOptions: nobody writes, everybody is nobody, so only world-readable
// files are shared.
const exportOptions = "ro,sync,all_squash,no_subtree_check,fsid=0,sec=sys"

// exportPath is the alphabet of shared directories: what exports(5) and
// auto.master(5) read without quoting.
var exportPath = regexp.MustCompile(`^(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+$`)

// shares returns the automounter's and the NFS server's files.
func (m Machine) shares() ([]File, error) {
	var files []File
	if m.Automount {
		text := Map{Pool: m.Net.Masked(), Self: m.Net.Addr(), Export: m.Export}
		files = append(files,
			File{MasterMap, 0o644, []byte("/mnt/ganfs program:/" + ProgramMap + " --timeout=60\n")},
			File{ProgramMap, 0o755, []byte(text.String())})
	}
	if m.Export == "" {
		return files, nil
	}
	return append(files,
		File{ExportsFile, 0o644, fmt.Appendf(nil, "%s %s(%s)\n", m.Export, m.Net.Masked(), exportOptions)},
		File{NFSFile, 0o644, fmt.Appendf(nil, `# NFS 4.2 over TCP, on the virtual address only.
[nfsd]
host=%s
vers3=n
vers4=y
vers4.0=n
vers4.1=n
vers4.2=y
tcp=y
udp=n
threads=4
`, m.Net.Addr())}), nil
}

// mapfile is HTCondor's map from certificate subject to identity. Only the
// grid's own subjects are in it, and only masters are of the masters' group.
func (m Machine) mapfile() []byte {
	grid := regexp.QuoteMeta(m.Grid)
	return fmt.Appendf(nil, `SSL /^\/O=%[1]s\/OU=%[2]s\/OU=master\/CN=([A-Za-z0-9.]+)$/ master-\1@%[2]s
SSL /^\/O=%[1]s\/OU=([a-z][a-z0-9-]*)\/OU=(client|worker)\/CN=([A-Za-z0-9.]+)$/ \2-\3@\1
`, grid, MasterGroup)
}

// Map is the program map /etc/auto.ganfs: a first line that makes it a program
// and the values its look-ups need.
//
//	#!/usr/lib/grid/condorconf automount
//	pool 10.250.0.0/16
//	self 10.250.0.7 /mnt/local
type Map struct {
	Pool   netip.Prefix // hosts outside it have no entry
	Self   netip.Addr   // this machine, which mounts nothing from itself
	Export string       // its own share, bound instead; "" when it has none
}

// String returns the map as ParseMap reads it.
func (m Map) String() string {
	self := strings.TrimRight("self "+m.Self.String()+" "+m.Export, " ")
	return "#!" + Interpreter + "\npool " + m.Pool.String() + "\n" + self + "\n"
}

// ParseMap is the inverse of String, and accepts nothing else.
func ParseMap(text string) (Map, error) {
	var m Map
	lines := strings.Split(text, "\n")
	if len(lines) != 4 {
		return Map{}, fmt.Errorf("parse program map: %d lines, want 4", len(lines))
	}
	words := append(strings.Fields(lines[1]), strings.Fields(lines[2])...)
	if len(words) < 4 || len(words) > 5 {
		return Map{}, fmt.Errorf("parse program map: want a pool and a self line")
	}
	var err error
	if m.Pool, err = netip.ParsePrefix(words[1]); err != nil {
		return Map{}, fmt.Errorf("parse program map: %w", err)
	}
	if m.Self, err = netip.ParseAddr(words[3]); err != nil {
		return Map{}, fmt.Errorf("parse program map: %w", err)
	}
	if len(words) == 5 {
		m.Export = words[4]
	}
	if m.String() != text || m.Export != "" && !exportPath.MatchString(m.Export) {
		return Map{}, fmt.Errorf("parse program map: is not as condorconf writes it")
	}
	return m, nil
}

// Lookup returns the automounter's entry for a key, which is whatever name a
// user typed below /mnt/ganfs. The error says why there is none.
func (m Map) Lookup(key string) (string, error) {
	addr, err := control.ParseHostName(key, m.Pool)
	switch {
	case err != nil:
		return "", err
	case addr != m.Self:
		return nfsOptions + " " + addr.String() + ":/", nil
	case m.Export == "":
		return "", fmt.Errorf("look up %q: this machine shares nothing", key)
	}
	return bindOptions + " :" + m.Export, nil
}
