package source

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/floppy"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// image returns a floppy whose configuration names role.
func image(t testing.TB, role string) []byte {
	t.Helper()
	img, err := floppy.WriteImage([]floppy.File{{Name: floppy.ConfigFile, Data: []byte("version = 1\n[machine]\nrole = \"" + role + "\"\n")}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// tree writes files into a new root. Block devices are files in dev; sysfs
// says how large they are.
func tree(t testing.TB, files map[string][]byte) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(root, name), content)
		if dev, ok := strings.CutPrefix(name, "dev/"); ok {
			sys := filepath.Join(root, "sys/class/block", dev)
			write(t, filepath.Join(sys, "size"), fmt.Appendf(nil, "%d\n", len(content)/512))
			write(t, filepath.Join(sys, "diskseq"), []byte("7\n"))
			uevent := "DEVTYPE=disk\n"
			if dev == "vda3" {
				uevent = "DEVTYPE=partition\nPARTNAME=gridcfg\n"
			}
			write(t, filepath.Join(sys, "uevent"), []byte(uevent))
		}
	}
	return root
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// credential returns img as grid.cfg has it.
func credential(t testing.TB, img []byte) []byte {
	t.Helper()
	zip, err := floppy.Zip(img)
	if err != nil {
		t.Fatal(err)
	}
	return floppy.EncodeCredential(zip)
}

// smbios returns a structure table with the OEM strings between two other
// structures.
func smbios(oem ...string) []byte {
	table := []byte{0, 4, 0, 0, 'v', 0, 0}
	table = append(table, 11, 5, 1, 0, byte(len(oem)))
	for _, s := range oem {
		table = append(append(table, s...), 0)
	}
	table = append(table, 0)
	return append(table, 127, 4, 2, 0, 0, 0)
}

func TestOrder(t *testing.T) {
	drive, labelled, given, own, before := image(t, "worker"), image(t, "client"), image(t, "master"), image(t, "standalone"), image(t, "worker")
	copy(before[floppy.Size-512:], "before") // unused sector: another floppy to us
	all := map[string][]byte{
		"dev/fd0": drive, "dev/vdb": labelled, "dev/vda": make([]byte, 64<<10), "dev/vda3": own, Accepted: before,
		"run/credentials/@system/grid.cfg": credential(t, given),
	}
	steps := []struct {
		take   string // what is taken away before looking
		source string
		image  []byte
	}{
		{"", "/dev/fd0", drive},
		{"dev/fd0", "/dev/vdb (GRIDCONF)", labelled},
		{"dev/vdb", "credential grid.cfg (system credentials)", given},
		{"run/credentials/@system/grid.cfg", "/dev/vda3 (gridcfg)", own},
		{"dev/vda3", "/var/lib/grid/floppy.img (accepted before)", before},
	}
	for i, step := range steps {
		delete(all, step.take)
		root := tree(t, all)
		found, passed, err := Find(t.Context(), Machine{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		if found.Source != step.source || !bytes.Equal(found.Image, step.image) {
			t.Errorf("without %q: took %s", step.take, found.Source)
		}
		// One reason each for what comes before, one for all that comes after.
		if want := min(i+1, 4); len(passed) != want {
			t.Errorf("without %q: %d places passed over, want %d: %v", step.take, len(passed), want, passed)
		}
	}
}

func TestNothing(t *testing.T) {
	blank, err := floppy.WriteImage(nil)
	if err != nil {
		t.Fatal(err)
	}
	root := tree(t, map[string][]byte{"dev/fd0": blank, "dev/sda": make([]byte, 1<<20), "dev/vda3": make([]byte, 2<<20)})
	found, passed, err := Find(t.Context(), Machine{Root: root, Settle: func(context.Context) error { return nil }})
	if err != nil || found != nil {
		t.Fatal(found, err)
	}
	want := []Passed{
		{"/dev/fd0", "the disk is formatted, but has no files"},
		{"devices labelled GRIDCONF", "none of 1 block devices has that label"},
		{"credential grid.cfg", "not given by SMBIOS, fw_cfg or guestinfo"},
		{"partition gridcfg", "/dev/vda3 is empty"},
		{"accepted before", "no floppy was accepted on this machine yet"},
	}
	if diff := cmp.Diff(want, passed); diff != "" {
		t.Error(diff)
	}
}

// A place that holds something broken ends the search: the good floppy behind
// it is not taken.
func TestBrokenIsNotPassedOver(t *testing.T) {
	larger := bytes.Clone(image(t, "worker"))
	copy(larger[19:], "\x00\x20")                                            // 8,192 sectors: no floppy any more
	copy(larger[bytes.Index(larger, []byte("GRID    TML"))+26:], "\x00\x00") // and the file begins nowhere
	noBase64 := credential(t, image(t, "worker"))
	noBase64[100] = '!'
	tests := map[string]struct {
		files map[string][]byte
		want  string
	}{
		"larger FAT":      {map[string][]byte{"dev/sdb1": larger}, "/dev/sdb1 (GRIDCONF): GRID.TML: the filesystem is damaged"},
		"CD cut off":      {map[string][]byte{"dev/sr0": isoHead("GRIDCONF", 48<<10)}, "/dev/sr0 (GRIDCONF): "},
		"credential":      {map[string][]byte{"run/credentials/@system/grid.cfg": noBase64}, "credential grid.cfg (system credentials): credential: not base64"},
		"credential text": {map[string][]byte{"sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/grid.cfg/raw": []byte("hello")}, "credential grid.cfg (fw_cfg): not the base64 of a floppy's zip"},
		"SMBIOS binary":   {map[string][]byte{"sys/firmware/dmi/tables/DMI": smbios("io.systemd.credential.binary:grid.cfg=%%")}, "credential grid.cfg (SMBIOS): OEM string: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.files[Accepted] = image(t, "worker")
			found, _, err := Find(t.Context(), Machine{Root: tree(t, test.files)})
			if found != nil {
				t.Fatalf("took %s", found.Source)
			}
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("%v, want %s...", err, test.want)
			}
		})
	}
}

// isoHead returns an ISO 9660 volume descriptor and nothing behind it.
func isoHead(label string, size int) []byte {
	b := make([]byte, size)
	d := b[isoStart:]
	d[0] = 1
	copy(d[1:], "CD001\x01")
	copy(d[40:72], label+strings.Repeat(" ", 32-len(label)))
	return b
}

func TestCarriers(t *testing.T) {
	img := image(t, "client")
	text := credential(t, img)
	zip, err := floppy.Zip(img)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := append(bytes.ReplaceAll(text, text[:64], append(text[:64:64], '\n')), '\n')
	tests := map[string]Machine{
		"system credential, lines":  {Root: tree(t, map[string][]byte{"run/credentials/@system/grid.cfg": wrapped})},
		"system credential, binary": {Root: tree(t, map[string][]byte{"run/credentials/@system/grid.cfg": zip})},
		"fw_cfg":                    {Root: tree(t, map[string][]byte{"sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/grid.cfg/raw": text})},
		"SMBIOS":                    {Root: tree(t, map[string][]byte{"sys/firmware/dmi/tables/DMI": smbios("vendor", "io.systemd.credential:grid.cfg="+string(text))})},
		"SMBIOS, binary":            {Root: tree(t, map[string][]byte{"sys/firmware/dmi/tables/DMI": smbios("io.systemd.credential.binary:grid.cfg=" + base64.StdEncoding.EncodeToString(zip))})},
		"guestinfo": {Root: tree(t, nil), GuestInfo: func(_ context.Context, name string) ([]byte, error) {
			if name != "guestinfo.grid.cfg" {
				return nil, errors.New(name)
			}
			return text, nil
		}},
	}
	for name, m := range tests {
		t.Run(name, func(t *testing.T) {
			found, _, err := Find(t.Context(), m)
			if err != nil || found == nil {
				t.Fatal(found, err)
			}
			if !bytes.Equal(found.Image, img) {
				t.Error("the floppy is another one")
			}
		})
	}
}

// What other programs make is read: disks by mkfs.fat, CDs by genisoimage and
// xorriso with plain, Joliet and Rock Ridge names.
func TestMadeByOthers(t *testing.T) {
	files := map[string]string{"GRID.TML": "version = 1\n[machine]\nrole = \"standalone\"\n"}
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, "in", name), []byte(text))
	}
	out := filepath.Join(dir, "out.img")
	tests := map[string][]string{
		"genisoimage plain":      {"genisoimage", "-quiet", "-V", "GRIDCONF", "-o", out, dir + "/in"},
		"genisoimage Joliet":     {"genisoimage", "-quiet", "-J", "-V", "GRIDCONF", "-o", out, dir + "/in"},
		"genisoimage Rock Ridge": {"genisoimage", "-quiet", "-R", "-V", "GRIDCONF", "-o", out, dir + "/in"},
		"xorriso":                {"xorriso", "-as", "mkisofs", "-quiet", "-J", "-R", "-V", "GRIDCONF", "-o", out, dir + "/in"},
	}
	for name, command := range tests {
		t.Run(name, func(t *testing.T) {
			need.Tool(t, command[0])
			if _, err := sysrun.Output(t.Context(), command[0], command[1:]...); err != nil {
				t.Fatal(err)
			}
			disc, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			found, _, err := Find(t.Context(), Machine{Root: tree(t, map[string][]byte{"dev/sr0": disc})})
			if err != nil || found == nil {
				t.Fatal(found, err)
			}
			got, err := floppy.ReadImage(found.Image)
			if err != nil {
				t.Fatal(err)
			}
			want := []floppy.File{{Name: "GRID.TML", Data: []byte(files["GRID.TML"])}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("mkfs.fat and mcopy", func(t *testing.T) {
		mkfs := need.Tool(t, "mkfs.fat")
		mcopy := need.Tool(t, "mcopy")
		disk := filepath.Join(dir, "disk.img")
		for _, command := range [][]string{
			{mkfs, "-C", "-n", "GRIDCONF", disk, "1440"},
			{mcopy, "-i", disk, dir + "/in/GRID.TML", "::GRID.TML"},
		} {
			if _, err := sysrun.Output(t.Context(), command[0], command[1:]...); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		found, _, err := Find(t.Context(), Machine{Root: tree(t, map[string][]byte{"dev/sdb": raw})})
		if err != nil || found == nil || found.Source != "/dev/sdb (GRIDCONF)" {
			t.Fatal(found, err)
		}
	})
}

// A memory stick with a floppy's files on it, among what systems leave there.
func TestStick(t *testing.T) {
	mkfs := need.Tool(t, "mkfs.fat")
	need.Tool(t, "mcopy", "mmd", "mattrib")
	text := []byte("version = 1\n[machine]\nrole = \"standalone\"\n" + strings.Repeat("# padding over several clusters\n", 400))
	for _, kind := range []struct{ bits, kilobytes, name string }{
		{"12", "1800", "GRID.TML"}, {"16", "20000", "grid.tml"}, {"32", "80000", "appliance.toml"},
	} {
		t.Run("FAT"+kind.bits, func(t *testing.T) {
			dir := t.TempDir()
			disk := filepath.Join(dir, "disk")
			write(t, filepath.Join(dir, kind.name), text)
			write(t, filepath.Join(dir, "hidden.txt"), []byte("x"))
			for _, command := range [][]string{
				{mkfs, "-C", "-F", kind.bits, "-s", "1", "-n", "GRIDCONF", disk, kind.kilobytes},
				{"mmd", "-i", disk, "::System Volume Information"},
				{"mcopy", "-i", disk, dir + "/hidden.txt", "::hidden.txt"},
				{"mattrib", "-i", disk, "+h", "::hidden.txt"},
				{"mcopy", "-i", disk, dir + "/" + kind.name, "::" + kind.name},
			} {
				if _, err := sysrun.Output(t.Context(), command[0], command[1:]...); err != nil {
					t.Fatal(err)
				}
			}
			root := tree(t, map[string][]byte{"dev/sdb1": nil})
			if err := os.Rename(disk, filepath.Join(root, "dev/sdb1")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(root, "sys/class/block/sdb1/size"), []byte("5760"))
			found, _, err := Find(t.Context(), Machine{Root: root})
			if err != nil || found == nil {
				t.Fatal(found, err)
			}
			got, err := floppy.ReadImage(found.Image)
			if diff := cmp.Diff([]floppy.File{{Name: "GRID.TML", Data: text}}, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}

// The label is the root directory's where the boot sector says otherwise, as
// on disks that Windows has renamed.
func TestLabelOfTheDirectory(t *testing.T) {
	img := image(t, "worker")
	copy(img[43:54], "NO NAME    ")
	v, err := parseVolume(bytes.NewReader(img))
	if err != nil || v != (volume{kindFAT, "GRIDCONF"}) {
		t.Errorf("%+v, %v", v, err)
	}
}

// A drive that never answers costs its limit, not the boot.
func TestWithin(t *testing.T) {
	before := time.Now()
	_, err := within(t.Context(), 20*time.Millisecond, func() (int, error) { select {} })
	if err == nil || time.Since(before) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(before))
	}
	_, err = within(t.Context(), time.Minute, func() (int, error) { panic("index out of range") })
	if err == nil || !strings.Contains(err.Error(), "unreadable") {
		t.Errorf("a panic became %v", err)
	}
}

func TestNoMedium(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENXIO, syscall.ENOMEDIUM, syscall.ENODEV} {
		if !noMedium(&os.PathError{Op: "open", Path: "/dev/fd0", Err: errno}) {
			t.Errorf("%v is not taken for an empty drive", errno)
		}
	}
	if noMedium(nil) || noMedium(&os.PathError{Op: "read", Path: "/dev/fd0", Err: syscall.EIO}) {
		t.Error("a disk is taken for an empty drive")
	}
}

// Media changes with a medium, and only then.
func TestMedia(t *testing.T) {
	root := tree(t, map[string][]byte{"dev/vdb": image(t, "worker"), "dev/sr0": isoHead("X", 64<<10), "dev/loop0": make([]byte, 512)})
	first := Media(t.Context(), root)
	if again := Media(t.Context(), root); again != first {
		t.Error("changes by itself")
	}
	for _, dev := range []string{"sr0", "vdb"} {
		write(t, filepath.Join(root, "sys/class/block", dev, "diskseq"), []byte("8\n"))
		next := Media(t.Context(), root)
		if next == first {
			t.Errorf("another medium in %s is not seen", dev)
		}
		first = next
	}
	write(t, filepath.Join(root, "sys/class/block/loop0/diskseq"), []byte("9\n"))
	if Media(t.Context(), root) != first {
		t.Error("loop devices are no media")
	}
}

func FuzzOEMStrings(f *testing.F) {
	f.Add(smbios("one", "two"))
	f.Add(smbios())
	f.Add([]byte{11, 200, 0, 0})
	f.Add([]byte{11, 4, 0, 0, 'a', 0})
	f.Fuzz(func(t *testing.T, table []byte) {
		total := 0
		for _, s := range oemStrings(table) {
			total += len(s)
		}
		if total > len(table) {
			t.Errorf("%d bytes of strings in a table of %d", total, len(table))
		}
	})
}

func FuzzVolume(f *testing.F) {
	f.Add(image(f, "worker")[:16<<10])
	f.Add(isoHead("GRIDCONF", 40<<10))
	fat32 := make([]byte, 64<<10)
	copy(fat32[11:], "\x00\x02\x01\x20\x00\x02")
	copy(fat32[36:], "\x08\x00\x00\x00\x00\x00\x00\x00\x02")
	fat32[510], fat32[511] = 0x55, 0xaa
	f.Add(fat32)
	f.Fuzz(func(t *testing.T, disk []byte) {
		v, err := parseVolume(bytes.NewReader(disk))
		if err == nil && v.kind == kindOther && v.label != "" {
			t.Errorf("no filesystem, but the label %q", v.label)
		}
	})
}

// Reading a FAT of any kind ends, and gives no more than a floppy holds.
func FuzzFAT(f *testing.F) {
	f.Add(image(f, "worker")[:24<<10])
	fat16 := bytes.Clone(image(f, "worker")[:24<<10])
	copy(fat16[19:], "\x00\x20")
	f.Add(fat16)
	fat32 := make([]byte, 24<<10)
	copy(fat32[11:], "\x00\x02\x01\x01\x00\x01")
	copy(fat32[32:], "\x00\x00\x10\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02")
	copy(fat32[512+8:], "\x02") // the root directory's chain is a loop
	fat32[510], fat32[511] = 0x55, 0xaa
	f.Add(fat32)
	f.Fuzz(func(t *testing.T, disk []byte) {
		filesystem, err := openFAT(bytes.NewReader(disk))
		if err != nil {
			return
		}
		files, err := filesystem.files()
		if err != nil {
			return
		}
		total := 0
		for _, file := range files {
			total += len(file.Data)
		}
		if total > floppy.Size {
			t.Errorf("files of %d bytes", total)
		}
	})
}

// The library below is not ours: what is asked is that reading ends, with an
// error or with files that fit a floppy.
func FuzzISO(f *testing.F) {
	f.Add(isoHead("GRIDCONF", 40<<10))
	if disc, err := os.ReadFile("testdata/plain.iso"); err == nil {
		f.Add(disc)
	}
	f.Fuzz(func(t *testing.T, disc []byte) {
		files, err := within(context.Background(), 5*time.Second, func() ([]floppy.File, error) { return parseISO(disc) })
		if err != nil && strings.Contains(err.Error(), "no answer") {
			t.Fatal(err)
		}
		for _, file := range files {
			if len(file.Data) > floppy.Size {
				t.Errorf("%s has %d bytes", file.Name, len(file.Data))
			}
		}
	})
}
