package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/overlayd/control"
)

// newGrid makes the grid archer on 10.250.0.0/16.
func newGrid(t *testing.T, masters int) *credential.Grid {
	t.Helper()
	grid, err := credential.NewGrid(credential.GridOptions{
		Name: "archer", Masters: masters,
		Namespaces: []credential.Namespace{{Name: "archer", Pool: netip.MustParsePrefix("10.250.0.0/16")}},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return grid
}

// masterFiles are the n-th master's floppy but for its configuration.
func masterFiles(grid *credential.Grid, n int) []floppy.File {
	m := grid.Material[n]
	return []floppy.File{
		{Name: floppy.DescriptorFile, Data: grid.Descriptor.Text()},
		{Name: floppy.HolderCertFile, Data: m.HolderCert}, {Name: floppy.HolderKeyFile, Data: m.HolderKey},
		{Name: floppy.NodeKeyFile, Data: m.NodeKey},
		{Name: floppy.IssuerCertFile, Data: m.IssuerCert}, {Name: floppy.IssuerKeyFile, Data: m.IssuerKey},
	}
}

// holderFiles are the same of a person's floppy.
func holderFiles(t *testing.T, grid *credential.Grid, role floppy.Role, group, user string) []floppy.File {
	t.Helper()
	cert, key, err := grid.IssueHolder(credential.HolderRequest{User: user, Group: group, Roles: []credential.Role{credential.Role(role)}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return []floppy.File{
		{Name: floppy.DescriptorFile, Data: grid.Descriptor.Text()},
		{Name: floppy.HolderCertFile, Data: cert}, {Name: floppy.HolderKeyFile, Data: key},
	}
}

func writeFloppy(t *testing.T, path, config string, files []floppy.File) {
	t.Helper()
	image, err := floppy.WriteImage(append(files, floppy.File{Name: floppy.ConfigFile, Data: []byte(config)}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
}

// memberStatus is overlayd's on a running machine.
func memberStatus(grid *credential.Grid, role floppy.Role, group, user string, addr netip.Addr) control.Status {
	s := control.Status{State: control.StateRunning, Grid: "archer", Namespace: "archer", NodeID: fmt.Sprintf("%032x", addr.As4()),
		Role: string(role), User: user, Group: group, Device: "tapipop",
		Address: netip.PrefixFrom(addr, 16), Name: control.HostName(addr)}
	for _, m := range grid.Descriptor.Masters {
		s.Masters = append(s.Masters, control.Master{Name: control.HostName(m.Address), Address: m.Address})
	}
	return s
}

func writeStatus(t *testing.T, path string, s control.Status) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
