package floppy

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// names reads an image and returns its files' names.
func names(t *testing.T, image []byte) []string {
	t.Helper()
	files, err := ReadImage(image)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range files {
		list = append(list, f.Name)
	}
	return list
}

func TestReadImageLongNames(t *testing.T) {
	const long = "appliance.toml"
	for _, c := range []struct {
		name   string
		damage func(image []byte)
		want   string
	}{
		{"whole", func([]byte) {}, long},
		{"checksum of another name", func(d []byte) { entry(d, 1)[13]++; entry(d, 2)[13]++ }, "A~1"},
		{"last part missing", func(d []byte) { entry(d, 1)[0] = 0xE5 }, "A~1"},
		{"first part missing", func(d []byte) { entry(d, 2)[0] = 0xE5 }, "A~1"},
		{"parts out of order", func(d []byte) { entry(d, 2)[0] = 7 }, "A~1"},
		{"too many parts", func(d []byte) { entry(d, 1)[0] = 0x40 | 21 }, "A~1"},
		{"part number zero", func(d []byte) { entry(d, 1)[0] = 0x40 }, "A~1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := rawImage(t, []File{{long, []byte("x")}})
			c.damage(image)
			if d := cmp.Diff([]string{c.want}, names(t, image)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	full := strings.Repeat("n", 255) // the longest; it fills its last part but for 5
	exact := strings.Repeat("n", 26) // it fills two parts and has no end mark
	for _, name := range []string{full, exact, "für alle 文.toml"} {
		if d := cmp.Diff([]string{name}, names(t, rawImage(t, []File{{name, []byte("x")}}))); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

func TestReadImageShortNames(t *testing.T) {
	image := rawImage(t, []File{{"A", []byte("x")}, {"B.C", []byte("y")}})
	copy(entry(image, 1), "\x05BC     \xFC  ") // 05 stands for E5
	if d := cmp.Diff([]string{"åBC.ü", "B.C"}, names(t, image)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestReadImagePasses over what is no file.
func TestReadImagePasses(t *testing.T) {
	image := rawImage(t, []File{{"A", []byte("x")}, {"B", []byte("y")}, {"System Volume Information", []byte("z")}, {"C", nil}})
	entry(image, 2)[0] = 0xE5              // deleted
	entry(image, 5)[11] |= attrDirectory   // entries 3 and 4 are its long name
	copy(entry(image, 8), entry(image, 1)) // behind the end: entry 7 is zero
	if d := cmp.Diff([]string{"A", "C"}, names(t, image)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestDecodePassesOverLitter: what systems and editors leave behind is no
// mistake of the user's.
func TestDecodePassesOverLitter(t *testing.T) {
	files := []File{config("standalone", "")}
	for _, name := range []string{"desktop.ini", "Thumbs.db", "._GRID.TML", ".DS_Store", "GRID.TML~", ".GRID.TML.swp", "grid.bak", "~$id.tml", "autorun.inf"} {
		files = append(files, File{Name: name, Data: []byte("x")})
	}
	f, err := CheckImage("x.img", rawImage(t, files), now)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Files(); len(got) != 1 || got[0].Name != ConfigFile {
		t.Errorf("litter is taken along: %v", got)
	}
}

// TestDecodeNames: case does not count, and appliance.toml is GRID.TML.
func TestDecodeNames(t *testing.T) {
	for _, name := range []string{"GRID.TML", "grid.tml", "Grid.Tml", "appliance.toml", "APPLIANCE.TOML"} {
		f, err := Open("x.img", rawImage(t, []File{{name, config("standalone", "").Data}, {"sshKeys", []byte(sshKey)}}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := f.Files()
		if len(got) != 2 || got[0].Name != ConfigFile || got[1].Name != SSHKeysFile {
			t.Errorf("%s becomes %v", name, got)
		}
	}
}

// TestDecodeNormalisesText: keys and certificates edited on Windows still are
// what they were; the bytes for writing back stay.
func TestDecodeNormalisesText(t *testing.T) {
	w := newWorld(t)
	files := with(w.alice, config("worker", ""), File{SSHKeysFile, []byte(sshKey)})
	windows := make([]File, len(files))
	for i, f := range files {
		windows[i] = File{f.Name, append([]byte("\xEF\xBB\xBF"), bytes.ReplaceAll(f.Data, []byte("\n"), []byte("\r\n"))...)}
	}
	f, err := CheckImage("x.img", mustWrite(t, windows), now)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.HolderCert, pick(files, HolderCertFile)) || string(f.SSHKeys) != sshKey {
		t.Error("line ends or byte order mark are still there")
	}
	if !bytes.Equal(pick(f.Files(), HolderCertFile), pick(windows, HolderCertFile)) {
		t.Error("Files has other bytes than were read")
	}
}
