package descriptor_test

import (
	"flag"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"gridappliance/builder/descriptor"
	"gridappliance/builder/descriptor/descriptortest"
	"gridappliance/builder/spec"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func machine(floppy bool) descriptor.Machine {
	m := descriptor.Machine{Name: "alice", Stem: "alice", Folder: "alice-x", ID: uuid.MustParse("c0ffee00-1234-5678-9abc-def012345678"), DiskSize: 8 << 30, Floppy: floppy}
	if floppy {
		m.Stem, m.Folder = "alice-private", "alice-x-private"
	}
	return m
}

// texts renders every text of a machine under the name of its golden file.
func texts(m descriptor.Machine) map[string]string {
	t := map[string]string{"vmx": m.VMX(), "vbox": m.VBox(), "libvirt.xml": m.Libvirt(), "network.xml": m.LibvirtNetwork(),
		"pvh.cfg": m.XenPVH(), "hvm.cfg": m.XenHVM(), "ovf": m.OVF(189097984)}
	for _, target := range []spec.Target{spec.KVM, spec.VMware, spec.VirtualBox, spec.OVA, spec.Xen} {
		t[string(target)+".txt"] = m.Readme(target)
	}
	return t
}

func TestGolden(t *testing.T) {
	for prefix, floppy := range map[string]bool{"private.": true, "shared.": false} {
		for name, text := range texts(machine(floppy)) {
			file := "testdata/" + prefix + name
			if *update {
				if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), text); diff != "" {
				t.Errorf("%s: -want +got:\n%s", file, diff)
			}
		}
	}
}

// TestReadersAgree has the strict readers take every text, and checks what a
// machine must be whatever the hypervisor: the disk first, two cards, the
// floppy in its drive or an empty drive.
func TestReadersAgree(t *testing.T) {
	for _, floppy := range []bool{true, false} {
		m := machine(floppy)
		drive := map[bool]string{true: "alice-private", false: ""}[floppy]
		with := func(extension string) string {
			if drive == "" {
				return ""
			}
			return drive + extension
		}

		vmx, err := descriptortest.VMX(m.VMX())
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{"scsi0:0.filename": m.Stem + ".vmdk", "floppy0.filename": with(".flp"), "floppy0.present": "TRUE",
			"bios.bootorder": "hdd", "ethernet0.connectiontype": "nat", "ethernet1.connectiontype": "hostonly"} {
			if vmx[key] != want {
				t.Errorf("vmx, floppy %v: %s is %q, want %q", floppy, key, vmx[key], want)
			}
		}

		vbox, err := descriptortest.VBox(m.VBox())
		if err != nil {
			t.Fatal(err)
		}
		if vbox.Disk != m.Stem+".vdi" || vbox.Floppy != with(".img") || vbox.Media[vbox.Disk] != m.ID || vbox.Order[0] != "HardDisk" ||
			!slices.Equal(vbox.Adapter, []string{"NAT", "HostOnlyInterface"}) {
			t.Errorf("vbox, floppy %v: %+v", floppy, vbox)
		}

		for name, text := range map[string]string{"pvh": m.XenPVH(), "hvm": m.XenHVM()} {
			checkXL(t, name, text, m)
		}

		ovf, err := descriptortest.Envelope(m.OVF(7))
		if err != nil {
			t.Fatal(err)
		}
		want := &descriptortest.OVF{Files: map[string]int64{m.Stem + "-disk1.vmdk": 7}, Capacity: 8 << 30, Networks: []string{"NAT", "HostOnly"}, Family: "vmx-14", Text: m.Readme(spec.OVA)}
		if diff := cmp.Diff(want, ovf); diff != "" {
			t.Errorf("ovf: -want +got:\n%s", diff)
		}
	}
}

func checkXL(t *testing.T, name, text string, m descriptor.Machine) {
	t.Helper()
	cfg, err := descriptortest.XL(text)
	if err != nil {
		t.Fatal(err)
	}
	disks, err := descriptortest.XLDisks(cfg["disk"])
	if err != nil {
		t.Fatal(err)
	}
	if cfg["type"][0] != name || len(cfg["vif"]) != 2 || name == "hvm" && cfg["boot"][0] != "c" {
		t.Errorf("%s: %v", name, cfg)
	}
	want := []string{m.Stem + ".raw"}
	if m.Floppy {
		want = append(want, m.Stem+".img")
	}
	if name == "pvh" {
		want = append(want, path.Base(cfg["kernel"][0]), path.Base(cfg["ramdisk"][0]))
	}
	var got []string
	for _, target := range disks {
		got = append(got, path.Base(target))
	}
	if name == "pvh" {
		got = append(got, m.Stem+".vmlinuz", m.Stem+".initrd")
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%s names %v, want %v", name, got, want)
	}
}

// TestOutsideReaders asks libvirt's schema and libxml2.
func TestOutsideReaders(t *testing.T) {
	validate, lint := need.Tool(t, "virt-xml-validate"), need.Tool(t, "xmllint")
	for _, floppy := range []bool{true, false} {
		m := machine(floppy)
		for _, c := range []struct {
			name, text, program string
			args                []string
		}{
			{"domain", m.Libvirt(), validate, nil}, {"network", m.LibvirtNetwork(), validate, []string{"network"}},
			{"vbox", m.VBox(), lint, nil}, {"ovf", m.OVF(1), lint, nil},
		} {
			file := t.TempDir() + "/" + c.name
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := sysrun.Output(t.Context(), c.program, append([]string{file}, c.args...)...); err != nil {
				t.Errorf("%s: %v\n%s", c.name, err, out)
			}
		}
	}
	// The judges do judge.
	file := t.TempDir() + "/domain"
	if err := os.WriteFile(file, []byte(strings.Replace(machine(true).Libvirt(), "<readonly/>", "<readonli/>", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sysrun.Output(t.Context(), validate, file); err == nil {
		t.Error("virt-xml-validate takes an unknown element")
	}
}

// TestTextsSayWhatWasTried: a person learns what is known to work.
func TestTextsSayWhatWasTried(t *testing.T) {
	for name, text := range texts(machine(true)) {
		if strings.HasSuffix(name, ".txt") && (!strings.Contains(text, "What was tried:") || !strings.Contains(text, "never was:") || !strings.Contains(text, "is a secret")) {
			t.Errorf("%s lacks it:\n%s", name, text)
		}
	}
}

// TestIdentitiesDiffer: hypervisors refuse two machines or disks of one UUID.
func TestIdentitiesDiffer(t *testing.T) {
	a, b := machine(true), machine(true)
	b.ID[0]++
	seen := map[string]bool{}
	for _, m := range []descriptor.Machine{a, b} {
		for _, id := range []string{m.ID.String(), m.MachineID().String(), m.FloppyID().String(), m.MAC(0), m.MAC(1)} {
			if seen[id] {
				t.Errorf("%s twice", id)
			}
			seen[id] = true
		}
	}
}
