package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"gridappliance/builder/descriptor/descriptortest"
)

// allTargets is the flag for every target.
const allTargets = "raw,qcow2,kvm,vmware,virtualbox,ova,xen"

// tree returns what lies below dir: names with modes, and the hashes of files.
func tree(t *testing.T, dir string) (names, sums map[string]string) {
	t.Helper()
	names, sums = map[string]string{}, map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		names[name] = info.Mode().String()
		if !d.IsDir() {
			sums[name] = sum(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, sums
}

// TestTargets builds for every hypervisor, with a floppy and without: these
// names and modes, and the same bytes in another folder.
func TestTargets(t *testing.T) {
	baseDir, flp := smallBase(t), standalone(t)
	for _, tt := range []struct {
		flag []string
		want string // files relative to the output, - is -private or nothing
		mode [2]string
	}{
		{[]string{"--floppy", flp}, "kvm/: .qcow2 .xml -network.xml .img; vmware/: .vmdk .vmx .flp; virtualbox/: .vdi .vbox .img; xen/: .raw .vmlinuz .initrd .pvh.cfg .hvm.cfg .img",
			[2]string{"-rw-------", "drwx------"}},
		{nil, "kvm/: .qcow2 .xml -network.xml; vmware/: .vmdk .vmx; virtualbox/: .vdi .vbox; xen/: .raw .vmlinuz .initrd .pvh.cfg .hvm.cfg",
			[2]string{"-rw-r--r--", "drwxr-xr-x"}},
	} {
		private := ""
		if tt.flag != nil {
			private = "-private"
		}
		want := map[string]string{}
		for _, e := range []string{".raw", ".qcow2", ".ova", ".ova.txt", ".manifest.json", ".spdx.json"} {
			want["site"+private+e] = tt.mode[0]
		}
		for _, folder := range strings.Split(tt.want, "; ") {
			name, extensions, _ := strings.Cut(folder, "/: ")
			name = "site-" + name + private
			want[name] = tt.mode[1]
			for _, e := range strings.Fields(extensions) {
				want[name+"/site"+private+e] = tt.mode[0]
			}
			want[name+"/README.txt"] = tt.mode[0]
		}
		args := append([]string{"build", "--base", baseDir, "--disk", "160MiB", "--name", "site", "--target", allTargets}, tt.flag...)
		out, again := t.TempDir(), filepath.Join(t.TempDir(), "elsewhere")
		stdout := must(t, append(args, "-o", out)...)
		names, sums := tree(t, out)
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if lines := strings.Split(strings.TrimSpace(stdout), "\n"); len(lines) != len(sums)-2 {
			t.Errorf("%d files named, %d there besides the manifest and SPDX", len(lines), len(sums)-2)
		}
		must(t, append(args, "-o", again)...)
		if private != "" {
			must(t, append(args, "-o", again)...) // over what is there
		}
		if _, second := tree(t, again); !cmp.Equal(sums, second) {
			t.Errorf("two builds differ:\n%s", cmp.Diff(sums, second))
		}
		checkReferences(t, out, "site", private)
	}
}

// checkReferences reads each descriptor and looks for what it names.
func checkReferences(t *testing.T, out, name, private string) {
	t.Helper()
	in := func(target string) string { return filepath.Join(out, name+"-"+target+private) }
	read := func(target, extension string) string {
		b, err := os.ReadFile(filepath.Join(in(target), name+private+extension))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	present := func(target, file string) {
		if info, err := os.Stat(filepath.Join(in(target), filepath.Base(file))); err != nil || info.Size() == 0 {
			t.Errorf("%s names %s: %v", target, file, err)
		}
	}
	vmx, err := descriptortest.VMX(read("vmware", ".vmx"))
	if err != nil {
		t.Fatal(err)
	}
	for key, file := range vmx {
		if strings.HasSuffix(key, ".filename") && key != "serial0.filename" { // VMware makes that one
			present("vmware", file)
		}
	}
	vbox, err := descriptortest.VBox(read("virtualbox", ".vbox"))
	if err != nil {
		t.Fatal(err)
	}
	for file := range vbox.Media {
		present("virtualbox", file)
	}
	if id := vdiID(read("virtualbox", ".vdi")); id != vbox.Media[vbox.Disk] {
		t.Errorf("the VDI's UUID is %v, the .vbox says %v", id, vbox.Media[vbox.Disk])
	}
	domain, err := descriptortest.Tree(read("kvm", ".xml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range domain.All("source") {
		if file := source.Attributes["file"]; file != "" {
			present("kvm", file)
			if filepath.Base(filepath.Dir(file)) != filepath.Base(in("kvm")) {
				t.Errorf("%s is not in the folder %s", file, in("kvm"))
			}
		}
	}
	for _, kind := range []string{".pvh.cfg", ".hvm.cfg"} {
		cfg, err := descriptortest.XL(read("xen", kind))
		if err != nil {
			t.Fatal(err)
		}
		disks, err := descriptortest.XLDisks(cfg["disk"])
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range disks {
			present("xen", file)
		}
		for _, file := range append(cfg["kernel"], cfg["ramdisk"]...) {
			present("xen", file)
		}
	}
	envelope := unpackOVA(t, filepath.Join(out, name+private+".ova"), filepath.Join(t.TempDir(), "disk.vmdk"))
	if envelope.Capacity != 160<<20 {
		t.Errorf("the OVF's disk has %d bytes", envelope.Capacity)
	}
}

// vdiID returns the UUID that a VDI bears, which Microsoft's order has.
func vdiID(vdi string) uuid.UUID {
	var id uuid.UUID
	for i, from := range []int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		id[i] = vdi[0x188+from]
	}
	return id
}

// TestImagesOfOneBaseAreDifferentMachines: two people's images can be
// registered in one VirtualBox.
func TestImagesOfOneBaseAreDifferentMachines(t *testing.T) {
	baseDir := smallBase(t)
	seen := map[uuid.UUID]bool{}
	for _, args := range [][]string{{"--name", "alice"}, {"--name", "bob"}, {"--name", "alice", "--disk", "1GiB"}} {
		out := t.TempDir()
		files := strings.Fields(must(t, append([]string{"build", "--base", baseDir, "--target", "virtualbox", "-o", out}, args...)...))
		b, err := os.ReadFile(files[1])
		if err != nil {
			t.Fatal(err)
		}
		m, err := descriptortest.VBox(string(b))
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []uuid.UUID{m.ID, m.Media[m.Disk]} {
			if seen[id] {
				t.Errorf("%v: UUID %v again", args, id)
			}
			seen[id] = true
		}
	}
}

// TestAMachineThatRanIsKept: building again does not replace a folder that
// VMware has written to.
func TestAMachineThatRanIsKept(t *testing.T) {
	out := t.TempDir()
	args := []string{"build", "--base", smallBase(t), "--target", "vmware", "-o", out}
	must(t, args...)
	if err := os.WriteFile(filepath.Join(out, "grid-vmware", "grid.nvram"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, before := tree(t, out)
	code, _, stderr := builder(t, args...)
	if code != 1 || !strings.Contains(stderr, "grid.nvram") || !strings.Contains(stderr, "move it away") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	if _, after := tree(t, out); !cmp.Equal(before, after) {
		t.Error("the folder changed")
	}
}

// unpackOVA checks a package and puts its disk at path.
func unpackOVA(t *testing.T, ova, path string) *descriptortest.OVF {
	t.Helper()
	f, err := os.Open(ova)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	disk, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	envelope, err := descriptortest.OVA(f, disk)
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}
