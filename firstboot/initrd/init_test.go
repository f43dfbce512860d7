//go:build linux

package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAliases(t *testing.T) {
	a := parseAliases([]byte(`# Aliases extracted from modules themselves.
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_test
alias virtio:d00000002v* virtio_blk
alias scsi:t-0x00* sd_mod
alias scsi:t-0x05* sr_mod
alias acpi*:PNP0700:* floppy
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias pci:v*d*sv*sd*bc01sc08i02* nvme
alias xen:vbd xen_blkfront
alias bad[pattern x
alias too many words here
`))
	tests := []struct {
		modalias string
		want     []string
	}{
		{"virtio:d00000002v00001AF4", []string{"virtio_blk"}},
		{"virtio:d00000001v00001AF4", nil},
		{"scsi:t-0x00", []string{"sd_mod"}},
		{"acpi:PNP0700:", []string{"floppy"}},
		{"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", []string{"ahci"}},
		{"pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc06i01", []string{"virtio_test", "ahci"}},
		{"xen:vbd", []string{"xen_blkfront"}},
		{"", nil},
	}
	for _, tt := range tests {
		if d := cmp.Diff(tt.want, a.match(tt.modalias)); d != "" {
			t.Errorf("%s: %s", tt.modalias, d)
		}
	}
}

func TestNeeds(t *testing.T) {
	got := parseNeeds([]byte("ext4.ko: mbcache.ko jbd2.ko\nvirtio-blk.ko:\nnonsense\n"))
	want := map[string][]string{"ext4": {"mbcache", "jbd2"}, "virtio_blk": {}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte("alias virtio:d00000002v* virtio_blk\next4.ko: jbd2.ko\n"), "virtio:d00000002v00001AF4")
	f.Add([]byte("alias [ x\nalias \\ x\nalias a[]- x"), "a")
	f.Fuzz(func(t *testing.T, text []byte, modalias string) {
		parseNeeds(text)
		parseAliases(text).match(modalias)
		for _, p := range parseState(text) {
			if !filepath.IsAbs(p) || strings.Contains(p, "..") && filepath.Clean(p) != p {
				t.Errorf("state path %q", p)
			}
		}
	})
}

func TestLayers(t *testing.T) {
	d := disk{"vda", map[string]string{"gridbase": "vda4", "griduser": "vda5", "gridmod10": "vda7", "gridmod2": "vda6", "gridglue": "vda8",
		"esp": "vda2", "gridmod0": "vda9", "gridmod02": "vda10", "gridmodx": "vda11", "gridmod100": "vda12"}}
	want := []layer{{"gridglue", "vda8"}, {"gridmod10", "vda7"}, {"gridmod2", "vda6"}, {"gridbase", "vda4"}}
	if diff := cmp.Diff(want, d.layers(), cmp.AllowUnexported(layer{})); diff != "" {
		t.Error(diff)
	}
}

func TestOverlayOptions(t *testing.T) {
	got := overlayOptions([]string{"/l/gridglue", "/l/gridbase"}, "/u")
	want := "lowerdir=/l/gridglue:/l/gridbase,upperdir=/u/changes,workdir=/u/work,index=off,xino=auto,redirect_dir=off,metacopy=off"
	if got != want {
		t.Errorf("got %s", got)
	}
}

// TestDisks reads a tree as sysfs lays it out and chooses.
func TestDisks(t *testing.T) {
	tests := []struct {
		name  string
		parts []string // disk/partition/PARTNAME
		want  string
		whole bool
	}{
		{"none", nil, "", false},
		{"other disks only", []string{"sda/sda1/data"}, "", false},
		{"one", []string{"vda/vda4/gridbase", "vda/vda5/griduser", "vda/vda1/bios"}, "vda", true},
		{"griduser not there yet", []string{"vda/vda4/gridbase"}, "vda", false},
		{"the second is whole", []string{"sda/sda4/gridbase", "sdb/sdb4/gridbase", "sdb/sdb5/griduser"}, "sdb", true},
		{"partitions on different disks are no pair", []string{"sda/sda5/griduser", "sdb/sdb4/gridbase"}, "sdb", false},
		{"two whole ones: the first", []string{"sdb/sdb4/gridbase", "sdb/sdb5/griduser", "sda/sda4/gridbase", "sda/sda5/griduser"}, "sda", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sys := t.TempDir()
			class := filepath.Join(sys, "class")
			os.Mkdir(class, 0o755)
			for _, p := range tt.parts {
				f := strings.Split(p, "/")
				dir := filepath.Join(sys, "devices", "block", f[0], f[1])
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				text := "DEVNAME=" + f[1] + "\nDEVTYPE=partition\nPARTNAME=" + f[2] + "\n"
				if err := os.WriteFile(filepath.Join(dir, "uevent"), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(dir, filepath.Join(class, f[1])); err != nil {
					t.Fatal(err)
				}
			}
			got, whole := choose(readDisks(class))
			if got.device != tt.want || whole != tt.whole {
				t.Errorf("got %q %v, want %q %v", got.device, whole, tt.want, tt.whole)
			}
		})
	}
}

func TestParseState(t *testing.T) {
	got := parseState([]byte("# comment\n/etc/ssh/keys\n  /home \n\nrelative\n/a/../b\n/\n"))
	if d := cmp.Diff([]string{"/etc/ssh/keys", "/home"}, got); d != "" {
		t.Error(d)
	}
}

func TestExt4Size(t *testing.T) {
	super := make([]byte, 1024)
	binary.LittleEndian.PutUint32(super[0x4:], 131072)
	binary.LittleEndian.PutUint32(super[0x18:], 2)
	binary.LittleEndian.PutUint32(super[0x150:], 1)
	blocks, size := ext4Size(super)
	if blocks != 1<<32+131072 || size != 4096 {
		t.Errorf("%d blocks of %d bytes", blocks, size)
	}
}

func TestCopyTree(t *testing.T) {
	from := filepath.Join(t.TempDir(), "from")
	to := filepath.Join(t.TempDir(), "to")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(from, "sub"), 0o755))
	must(os.WriteFile(filepath.Join(from, "sub", "file"), []byte("text"), 0o600))
	must(os.Chmod(filepath.Join(from, "sub"), 0o1777|os.ModeSticky))
	must(os.Symlink("sub/file", filepath.Join(from, "link")))
	must(copyTree(from, to))
	text, err := os.ReadFile(filepath.Join(to, "link"))
	must(err)
	info, err := os.Stat(filepath.Join(to, "sub"))
	must(err)
	if string(text) != "text" || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("%q, %v", text, info.Mode())
	}
}

func TestNewMachineID(t *testing.T) {
	a, b := newMachineID(), newMachineID()
	if !machineIDPattern.MatchString(a) || a == b || a[12] != '4' {
		t.Errorf("%s, %s", a, b)
	}
}

func TestNotProcessOne(t *testing.T) {
	var stderr strings.Builder
	if code := run(nil, &stderr); code != 2 || !strings.Contains(stderr.String(), "the kernel starts it") {
		t.Errorf("exit %d, %q", code, stderr.String())
	}
}
