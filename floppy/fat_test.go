package floppy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// sample is a small floppy's worth of files: one byte, exactly a sector, more.
var sample = []File{
	{Name: "GRID.TML", Data: []byte("version = 1\n[machine]\nrole = \"standalone\"\n")},
	{Name: "HOLDER.CRT", Data: bytes.Repeat([]byte("c"), sectorSize)},
	{Name: "HOLDER.KEY", Data: bytes.Repeat([]byte("k"), 3*sectorSize+1)},
	{Name: "SSHKEYS", Data: []byte("x")},
}

func mustWrite(t testing.TB, files []File) []byte {
	t.Helper()
	image, err := WriteImage(files)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func writeTemp(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	r, err := sysrun.Run(t.Context(), sysrun.Command{Name: name, Args: args, Env: append(os.Environ(), "MTOOLS_SKIP_CHECK=1")})
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Stdout)
	}
	return string(r.Stdout)
}

func TestWriteImageIsReadBack(t *testing.T) {
	image := mustWrite(t, sample)
	if len(image) != Size {
		t.Fatalf("image has %d bytes, want %d", len(image), Size)
	}
	got, err := ReadImage(image)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample, got); d != "" {
		t.Errorf("read back (-want +got):\n%s", d)
	}
}

func TestWriteImageEqualContentEqualBytes(t *testing.T) {
	a := mustWrite(t, sample)
	b := mustWrite(t, []File{sample[2], sample[0], sample[3], sample[1]})
	if !bytes.Equal(a, b) {
		t.Error("the order of the files changes the image")
	}
	other := append([]File{{Name: "GRID.TML", Data: []byte("version = 1\n")}}, sample[1:]...)
	c := mustWrite(t, other)
	if bytes.Equal(a[39:43], c[39:43]) {
		t.Error("other content, same volume serial")
	}
}

func TestWriteImageLayout(t *testing.T) {
	image := mustWrite(t, sample)
	for _, c := range []struct {
		what   string
		offset int
		want   []byte
	}{
		{"boot code", 62, []byte{0xCD, 0x18}},
		{"boot signature", 510, []byte{0x55, 0xAA}},
		{"label in the boot sector", 43, []byte("GRIDCONF   FAT12   ")},
		{"label in the root directory", rootOffset, []byte("GRIDCONF   \x08")},
		{"start of the table", fatOffset, []byte{0xF0, 0xFF, 0xFF}},
	} {
		if got := image[c.offset : c.offset+len(c.want)]; !bytes.Equal(got, c.want) {
			t.Errorf("%s at %d: % X, want % X", c.what, c.offset, got, c.want)
		}
	}
	used := 1 + 1 + 4 + 1 // clusters of sample
	if rest := image[dataOffset+used*sectorSize:]; bytes.Count(rest, []byte{0}) != len(rest) {
		t.Error("unused sectors are not zero")
	}
}

func TestWriteImageFull(t *testing.T) {
	files := []File{{Name: "A", Data: make([]byte, Capacity)}}
	image := mustWrite(t, files)
	got, err := ReadImage(image)
	if err != nil || len(got) != 1 || len(got[0].Data) != Capacity {
		t.Fatalf("a full floppy does not read: %v", err)
	}
	fsck(t, image)
}

func TestWriteImageRefuses(t *testing.T) {
	many := make([]File, rootEntries)
	for i := range many {
		many[i] = File{Name: fmt.Sprintf("F%d", i), Data: []byte("x")}
	}
	for _, c := range []struct {
		name  string
		files []File
		want  string
	}{
		{"lower case", []File{{Name: "grid.tml", Data: []byte("x")}}, "8.3"},
		{"long name", []File{{Name: "APPLIANCE.TOML", Data: []byte("x")}}, "8.3"},
		{"two dots", []File{{Name: "A.B.C", Data: []byte("x")}}, "8.3"},
		{"no name", []File{{Name: "", Data: []byte("x")}}, "8.3"},
		{"trailing dot", []File{{Name: "A.", Data: []byte("x")}}, "8.3"},
		{"twins", []File{{Name: "A", Data: []byte("x")}, {Name: "A", Data: []byte("y")}}, "twice"},
		{"empty file", []File{{Name: "A"}}, "empty"},
		{"label", []File{{Name: Label, Data: []byte("x")}}, "label"},
		{"too much", []File{{Name: "A", Data: make([]byte, Capacity+1)}}, "a floppy holds"},
		{"too many", many, "a floppy holds 223"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := WriteImage(c.files)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// fsck has dosfsck judge an image.
func fsck(t testing.TB, image []byte) {
	t.Helper()
	tool(t, need.Tool(t, "fsck.fat"), "-vn", writeTemp(t, "f.img", image))
}

func TestWriteImageCleanForFsckAndMtools(t *testing.T) {
	need.Tool(t, "fsck.fat", "mcopy", "mdir")
	image := mustWrite(t, sample)
	fsck(t, image)
	path := writeTemp(t, "f.img", image)
	for _, f := range sample {
		if got := tool(t, "mcopy", "-i", path, "::"+f.Name, "-"); got != string(f.Data) {
			t.Errorf("mcopy %s: %q, want %q", f.Name, got, f.Data)
		}
	}
	if dir := tool(t, "mdir", "-i", path, "::"); !strings.Contains(dir, "Volume in drive : is GRIDCONF") {
		t.Errorf("mdir knows no label:\n%s", dir)
	}
}

func TestWriteImageReadByDiskfs(t *testing.T) {
	path := writeTemp(t, "f.img", mustWrite(t, sample))
	disk, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	fs, err := disk.GetFilesystem(0)
	if err != nil {
		t.Fatal(err)
	}
	if fs.Type() != filesystem.TypeFat12 || strings.TrimSpace(fs.Label()) != Label {
		t.Errorf("type %v label %q, want FAT12 %s", fs.Type(), fs.Label(), Label)
	}
	for _, f := range sample {
		got, err := fs.ReadFile(f.Name)
		if err != nil || !bytes.Equal(got, f.Data) {
			t.Errorf("%s: %q, %v; want %q", f.Name, got, err, f.Data)
		}
	}
}

// TestReadImageOfOthers reads floppies as people make them: formatted by
// mkfs.fat or mformat, filled, edited and emptied by mtools.
func TestReadImageOfOthers(t *testing.T) {
	need.Tool(t, "mkfs.fat", "mformat", "mcopy", "mdel", "mmd")
	for _, format := range [][]string{
		{"mkfs.fat", "-C", "IMAGE", "1440"},
		{"mkfs.fat", "-F", "12", "-n", "GRIDCONF", "-C", "IMAGE", "1440"},
		{"mformat", "-C", "-f", "1440", "-i", "IMAGE", "::"},
	} {
		t.Run(strings.Join(format, " "), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f.img")
			for i, a := range format {
				format[i] = strings.Replace(a, "IMAGE", path, 1)
			}
			tool(t, format[0], format[1:]...)
			dir := t.TempDir()
			want := []File{
				{Name: "appliance.toml", Data: []byte("version = 1\r\n")},
				{Name: "HOLDER.CRT", Data: bytes.Repeat([]byte("c"), 5000)},
				{Name: "holder.key", Data: bytes.Repeat([]byte("k"), 700)},
			}
			put := func(f File) {
				name := filepath.Join(dir, f.Name)
				if err := os.WriteFile(name, f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
				tool(t, "mcopy", "-o", "-i", path, name, "::"+f.Name)
			}
			for i := range 3 { // leave deleted entries and gaps behind
				put(File{Name: fmt.Sprintf("A long name %d", i), Data: bytes.Repeat([]byte("x"), 3000)})
			}
			put(want[0])
			tool(t, "mdel", "-i", path, "::A long name 0", "::A long name 1", "::A long name 2")
			put(want[1])
			put(want[2])
			put(want[0]) // delete and add again
			tool(t, "mmd", "-i", path, "::System Volume Information")

			image, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files, err := ReadImage(image)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, f := range files {
				got[strings.ToUpper(f.Name)] = string(f.Data)
			}
			if len(got) != len(want) {
				t.Errorf("%d files, want %d", len(got), len(want))
			}
			for _, f := range want {
				if got[strings.ToUpper(f.Name)] != string(f.Data) {
					t.Errorf("%s differs", f.Name)
				}
			}
		})
	}
}

// FuzzReadImage changes bytes of an image: reading never panics, never gives
// more than the disk holds, and what can be read can be written for fsck.fat.
func FuzzReadImage(f *testing.F) {
	base := mustWrite(f, sample)
	f.Add(uint32(0), []byte{}, uint32(0), []byte{})
	f.Add(uint32(fatOffset+3), []byte{0x02, 0x20, 0x00}, uint32(rootOffset+26), []byte{3, 0})
	f.Add(uint32(rootOffset), []byte("\x41g\x00r\x00i\x00d\x00.\x00\x0F\x00"), uint32(11), []byte{0, 2})
	f.Add(uint32(rootOffset+32), []byte("HOLDER  CRT"), uint32(rootOffset+32+11), []byte{0x10})
	f.Fuzz(func(t *testing.T, at1 uint32, patch1 []byte, at2 uint32, patch2 []byte) {
		image := bytes.Clone(base)
		copy(image[int(at1)%Size:], patch1)
		copy(image[int(at2)%Size:], patch2)
		files, err := ReadImage(image)
		if err != nil {
			return
		}
		total := 0
		for _, file := range files {
			total += len(file.Data)
		}
		if total > Capacity {
			t.Fatalf("%d bytes in files, the disk holds %d", total, Capacity)
		}
		written, err := WriteImage(files)
		if err != nil {
			return // names or lengths that only others write
		}
		again, err := ReadImage(written)
		if err != nil || len(again) != len(files) {
			t.Fatalf("reading what was written: %d files of %d, %v", len(again), len(files), err)
		}
		fsck(t, written)
	})
}
