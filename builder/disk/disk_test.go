package disk_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"gridappliance/builder/disk"
	"gridappliance/builder/disk/disktest"
	"gridappliance/builder/format"
	"gridappliance/builder/plan"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

const size = 512 << 20

// raw writes the disk of contents to a file.
func raw(t *testing.T, c disk.Contents) (path string, layout plan.Layout) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "grid.raw")
	im := disktest.Image(t, size, c, c.Floppy)
	if err := format.Create(path, false, func(f *os.File) error { return format.Raw(t.Context(), f, im) }); err != nil {
		t.Fatal(err)
	}
	return path, disktest.Layout(t, size, c)
}

// part copies a partition of the disk at path into a file of its own.
func part(t *testing.T, path string, p plan.Partition) string {
	t.Helper()
	b := read(t, path, p.Offset(), p.Size())
	out := filepath.Join(t.TempDir(), p.Name)
	if err := os.WriteFile(out, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, path string, off, n int64) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

func bytesOf(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPartitions: every partition holds what it should and zeros after it.
func TestPartitions(t *testing.T) {
	c := disktest.Files(t)
	c.Floppy = disktest.Floppy()
	path, layout := raw(t, c)
	for name, want := range map[string][]byte{
		"gridcfg":  c.Floppy,
		"gridbase": bytesOf(t, c.Layers["gridbase"]),
		"griduser": bytesOf(t, c.User),
	} {
		p := layout.Partition(name)
		got := read(t, path, p.Offset(), p.Size())
		if !bytes.Equal(got[:len(want)], want) || bytes.Count(got[len(want):], []byte{0}) != len(got)-len(want) {
			t.Errorf("%s does not hold its file and zeros", name)
		}
	}
	c.Floppy = nil
	path, layout = raw(t, c)
	p := layout.Partition("gridcfg")
	if got := read(t, path, p.Offset(), p.Size()); bytes.Count(got, []byte{0}) != len(got) {
		t.Error("gridcfg without a floppy is not zero")
	}
}

// TestSgdisk: both GPTs are right and say what the layout says.
func TestSgdisk(t *testing.T) {
	sgdisk := need.Tool(t, "sgdisk")
	path, layout := raw(t, disktest.Files(t))
	out, err := sysrun.Output(t.Context(), sgdisk, "-v", path)
	if err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk -v: %v\n%s", err, out)
	}
	d, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	table, err := d.GetPartitionTable()
	if err != nil {
		t.Fatal(err)
	}
	g := table.(*gpt.Table)
	if !strings.EqualFold(g.GUID, layout.GUID.String()) {
		t.Errorf("disk GUID %s, want %s", g.GUID, layout.GUID)
	}
	for i, want := range layout.Partitions {
		got := g.Partitions[i]
		if got.Name != want.Name || got.Start != want.First || got.End != want.Last || !strings.EqualFold(got.GUID, want.GUID.String()) {
			t.Errorf("partition %d is %+v, want %+v", i+1, got, want)
		}
	}
}

// TestESP: fsck.fat finds nothing to say, and an independent reader finds the
// files, whatever the case of their names.
func TestESP(t *testing.T) {
	fsck := need.Tool(t, "fsck.fat")
	c := disktest.Files(t)
	path, layout := raw(t, c)
	out, err := sysrun.Output(t.Context(), fsck, "-n", "-v", part(t, path, layout.Partition("esp")))
	if err != nil || strings.Contains(string(out), "WARNING") || strings.Contains(string(out), "wrong") {
		t.Errorf("fsck.fat -n: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	d, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fs, err := d.GetFilesystem(2)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{"vmlinuz": c.Kernel, "initrd.img": c.Initrd, "EFI/BOOT/BOOTX64.EFI": c.EFIImage} {
		if !bytes.Equal(fatFile(t, fs, name), bytesOf(t, file)) {
			t.Errorf("%s differs", name)
		}
	}
	if cfg := fatFile(t, fs, "grub/grub.cfg"); !bytes.Contains(cfg, []byte("console=tty0 console=ttyS0,115200 quiet net.ifnames=0")) {
		t.Errorf("grub.cfg:\n%s", cfg)
	}
}

func fatFile(t *testing.T, fs filesystem.FileSystem, name string) []byte {
	t.Helper()
	f, err := fs.OpenFile("/"+name, os.O_RDONLY)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return nil
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return b
}

// TestMtools reads the ESP as a third program does.
func TestMtools(t *testing.T) {
	mdir := need.Tool(t, "mdir")
	path, layout := raw(t, disktest.Files(t))
	out, err := sysrun.Output(t.Context(), mdir, "-/", "-b", "-i", part(t, path, layout.Partition("esp")), "::/")
	if err != nil {
		t.Fatalf("mdir: %v\n%s", err, out)
	}
	want := "::/vmlinuz\n::/initrd.img\n::/grub/\n::/EFI/\n::/grub/grub.cfg\n::/EFI/BOOT/\n::/EFI/BOOT/BOOTX64.EFI\n"
	if string(out) != want {
		t.Errorf("mdir says\n%swant\n%s", out, want)
	}
}

// TestBIOS: boot sector and core image carry their addresses and are
// otherwise what grub-mkimage made.
func TestBIOS(t *testing.T) {
	c := disktest.Files(t)
	path, layout := raw(t, c)
	bios := layout.Partition("bios")
	boot, core := bytesOf(t, c.BootImage), bytesOf(t, c.CoreImage)
	binary.LittleEndian.PutUint64(boot[0x5c:], bios.First)
	copy(boot[0x66:], "\x90\x90")
	binary.LittleEndian.PutUint64(core[0x1f4:], bios.First+1)
	if !bytes.Equal(read(t, path, 0, 440), boot[:440]) {
		t.Error("boot code differs")
	}
	if !bytes.Equal(read(t, path, bios.Offset(), int64(len(core))), core) {
		t.Error("core image differs")
	}
	if mbr := read(t, path, 440, 72); mbr[10] != 0xee || mbr[70] != 0x55 || mbr[71] != 0xaa {
		t.Errorf("protective MBR: % x", mbr)
	}
}

// TestUserLayer: a real ext4 in griduser stays clean.
func TestUserLayer(t *testing.T) {
	mke2fs, e2fsck := need.Tool(t, "mke2fs"), need.Tool(t, "e2fsck")
	c := disktest.Files(t)
	if out, err := sysrun.Output(t.Context(), mke2fs, "-q", "-F", "-t", "ext4", c.User, "64M"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	path, layout := raw(t, c)
	if out, err := sysrun.Output(t.Context(), e2fsck, "-fn", part(t, path, layout.Partition("griduser"))); err != nil {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
}

// TestRefused: what cannot be composed names the file and the reason.
func TestRefused(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, c *disk.Contents)
		want  string
	}{
		{"no kernel", func(t *testing.T, c *disk.Contents) { c.Kernel += "x" }, "esp: vmlinuz: stat "},
		{"empty initrd", func(t *testing.T, c *disk.Contents) { truncate(t, c.Initrd, 0) }, "esp: initrd.img: is empty"},
		{"kernel larger than the ESP", func(t *testing.T, c *disk.Contents) { truncate(t, c.Kernel, 70<<20) }, "esp: vmlinuz: 73400320 bytes do not fit"},
		{"kernel and initrd larger than the ESP", func(t *testing.T, c *disk.Contents) {
			truncate(t, c.Kernel, 40<<20)
			truncate(t, c.Initrd, 40<<20)
		}, "the kernel and initrd need"},
		{"boot sector of the wrong size", func(t *testing.T, c *disk.Contents) { truncate(t, c.BootImage, 511) }, "has 511 bytes, not 512"},
		{"core image larger than its partition", func(t *testing.T, c *disk.Contents) { truncate(t, c.CoreImage, 1<<20+1) }, "compose bios: "},
		{"base grew", func(t *testing.T, c *disk.Contents) { truncate(t, c.Layers["gridbase"], 30<<20) }, "compose gridbase: "},
		{"no template", func(t *testing.T, c *disk.Contents) { os.Remove(c.User) }, "user.ext4: no such file"},
		{"floppy larger than gridcfg", func(t *testing.T, c *disk.Contents) { c.Floppy = make([]byte, 3<<20) }, "a floppy of 3145728 bytes does not fit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := disktest.Files(t)
			layout := disktest.Layout(t, size, c)
			tt.spoil(t, &c)
			im, err := disk.Compose(layout, c)
			if err == nil {
				im.Close()
				t.Fatal("composed")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q lacks %q", err, tt.want)
			}
		})
	}
}

func truncate(t *testing.T, path string, n int64) {
	t.Helper()
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
}

// TestFileShrinks: a file that shrinks while it is copied is an error, not an
// image with zeros in it.
func TestFileShrinks(t *testing.T) {
	c := disktest.Files(t)
	im := disktest.Image(t, size, c, nil)
	truncate(t, c.Layers["gridbase"], 1<<20)
	if _, err := io.Copy(io.Discard, io.NewSectionReader(im, 0, im.Size())); err == nil {
		t.Error("no error from reading")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := format.Raw(t.Context(), f, im); err == nil {
		t.Error("no error from writing")
	}
}

// TestReadAtEnds covers io.ReaderAt's promises at the disk's end.
func TestReadAtEnds(t *testing.T) {
	im := disktest.Image(t, size, disktest.Files(t), nil)
	b := make([]byte, 1024)
	if n, err := im.ReadAt(b, size-512); n != 512 || err != io.EOF {
		t.Errorf("across the end: %d, %v", n, err)
	}
	if n, err := im.ReadAt(b, size); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if !bytes.HasPrefix(b, []byte("EFI PART")) {
		t.Error("the last sector is not the backup GPT header")
	}
}
