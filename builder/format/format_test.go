package format

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"gridappliance/builder/disk"
	"gridappliance/builder/disk/disktest"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// testID is the identity of every disk of these tests.
var testID = uuid.MustParse("c0ffee00-1234-5678-9abc-def012345678")

// form is one form of a disk, with qemu-img's name for it.
type form struct {
	name, qemu string
	write      func(context.Context, *os.File, *disk.Image) error
}

var (
	rawForm   = form{"raw", "raw", Raw}
	qcow2Form = form{"qcow2", "qcow2", QCOW2}
	vmdkForm  = form{"vmdk", "vmdk", func(ctx context.Context, w *os.File, im *disk.Image) error {
		return VMDK(ctx, w, im, "grid.vmdk", testID)
	}}
	streamForm = form{"stream.vmdk", "vmdk", func(ctx context.Context, w *os.File, im *disk.Image) error {
		return StreamVMDK(ctx, w, im, "grid.vmdk", testID)
	}}
	vdiForm = form{"vdi", "vdi", func(ctx context.Context, w *os.File, im *disk.Image) error { return VDI(ctx, w, im, testID) }}
	forms   = []form{rawForm, qcow2Form, vmdkForm, streamForm, vdiForm}
)

// write makes the file of a form from a small disk and returns its path.
func write(t *testing.T, form form, im *disk.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "grid."+form.name)
	if err := Create(path, false, func(f *os.File) error { return form.write(t.Context(), f, im) }); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRaw: the file is the disk, byte for byte, and no larger than its data.
func TestRaw(t *testing.T) {
	im := disktest.Image(t, 1<<30, disktest.Files(t), disktest.Floppy())
	f, err := os.Open(write(t, rawForm, im))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if at := differ(t, f, im); at >= 0 {
		t.Errorf("the raw file differs from the disk at %d", at)
	}
	info, _ := f.Stat()
	if info.Size() != 1<<30 {
		t.Errorf("size %d", info.Size())
	}
	var data int64
	for _, e := range im.Extents() {
		data += e.Length
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > data+1<<20 {
		t.Errorf("%d bytes used for %d bytes of data", used, data)
	}
}

// TestQEMU asks QEMU of every form: the structure is clean and the content is
// the raw file's.
func TestQEMU(t *testing.T) {
	qemuImg := need.Tool(t, "qemu-img")
	for _, size := range []int64{512 << 20, 1<<30 + 1<<20, 1 << 40} { // for qcow2 an L1 of 1, 3 and 2048 entries
		im := disktest.Image(t, size, disktest.Files(t), nil)
		raw := write(t, rawForm, im)
		for _, form := range forms[1:] {
			path := write(t, form, im)
			out, err := sysrun.Output(t.Context(), qemuImg, "check", "-f", form.qemu, path)
			if err != nil || !strings.Contains(string(out), "No errors") {
				t.Errorf("%s of %d: qemu-img check: %v\n%s", form.name, size, err, out)
			}
			if size == 1<<40 { // qemu-img reads all of a raw file
				continue
			}
			if out, err := sysrun.Output(t.Context(), qemuImg, "compare", "-f", form.qemu, "-F", "raw", path, raw); err != nil || !strings.Contains(string(out), "identical") {
				t.Errorf("%s of %d: qemu-img compare: %v\n%s", form.name, size, err, out)
			}
		}
	}
}

// TestCountClusters covers what no image of a test is large enough for.
func TestCountClusters(t *testing.T) {
	for _, used := range []int64{1, qcowCounts - 3, qcowCounts - 2, qcowCounts - 1, qcowCounts, qcowCounts * qcowL2Entries, 1 << 40} {
		blocks, tables := countClusters(used)
		total := used + blocks + tables
		if blocks*qcowCounts < total || (blocks-1)*qcowCounts >= total {
			t.Errorf("used %d: %d blocks for %d clusters", used, blocks, total)
		}
		if tables*qcowL2Entries < blocks {
			t.Errorf("used %d: %d clusters of table for %d blocks", used, tables, blocks)
		}
	}
}

// TestDeterministic: two builds in two folders are equal, whatever holes the
// host keeps in the template.
func TestDeterministic(t *testing.T) {
	for _, form := range forms {
		var sums [2][32]byte
		for i := range sums {
			files := disktest.Files(t)
			if i == 1 { // the same template without holes
				b, err := os.ReadFile(files.User)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(files.User, b, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(write(t, form, disktest.Image(t, 512<<20, files, disktest.Floppy())))
			if err != nil {
				t.Fatal(err)
			}
			sums[i] = sha256.Sum256(b)
		}
		if sums[0] != sums[1] {
			t.Errorf("%s: two builds differ", form.name)
		}
	}
}

// TestCreate: a file appears whole or not at all, and an older one survives a
// failed build.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.raw")
	broken := errors.New("disk full")
	fill := func(s string, err error) func(*os.File) error {
		return func(f *os.File) error { io.WriteString(f, s); return err }
	}
	if err := Create(path, false, fill("half", broken)); !errors.Is(err, broken) {
		t.Errorf("error = %v", err)
	}
	if names := list(t, dir); names != "" {
		t.Errorf("a failed build left %s", names)
	}
	if err := Create(path, true, fill("secret", nil)); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o600 {
		t.Errorf("mode of a private image is %v", info.Mode())
	}
	if err := Create(path, false, fill("half", broken)); err == nil {
		t.Error("no error")
	}
	if b, _ := os.ReadFile(path); string(b) != "secret" || list(t, dir) != "x.raw" {
		t.Errorf("after a failed build: %q, folder has %s", b, list(t, dir))
	}
	if err := Create(path, false, fill("public", nil)); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o644 {
		t.Errorf("mode of a public image is %v", info.Mode())
	}
}

// TestCreateFolder: a folder appears whole or not at all, replaces one that
// builder made, and leaves one in which something else lies.
func TestCreateFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "grid-kvm")
	names := []string{"a", "b"}
	fill := func(content string, broken error) error {
		return CreateFolder(path, content == "secret", names, func(name string, f *os.File) error {
			if name == "b" && broken != nil {
				return broken
			}
			_, err := io.WriteString(f, content)
			return err
		})
	}
	state := func() string {
		b, _ := os.ReadFile(filepath.Join(path, "b"))
		info, err := os.Stat(path)
		if err != nil {
			return list(t, dir)
		}
		return list(t, dir) + " " + list(t, path) + " " + info.Mode().String() + " " + string(b)
	}
	full := errors.New("disk full")
	steps := []struct {
		content string
		broken  error
		want    string
	}{
		{"public", full, ""},
		{"public", nil, "grid-kvm ab drwxr-xr-x public"},
		{"secret", full, "grid-kvm ab drwxr-xr-x public"},
		{"secret", nil, "grid-kvm ab drwx------ secret"},
	}
	for _, s := range steps {
		if err := fill(s.content, s.broken); !errors.Is(err, s.broken) {
			t.Errorf("%s: error %v, want %v", s.content, err, s.broken)
		}
		if got := state(); got != s.want {
			t.Errorf("%s, %v: %q, want %q", s.content, s.broken, got, s.want)
		}
	}
	if err := os.WriteFile(filepath.Join(path, "grid.nvram"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fill("public", nil); err == nil || !strings.Contains(err.Error(), "grid.nvram") {
		t.Errorf("a folder in which a machine ran: %v", err)
	}
	if got := state(); got != "grid-kvm abgrid.nvram drwx------ secret" {
		t.Errorf("afterwards: %q", got)
	}
}

// TestDiskFull writes to a file that may not grow to the image's size.
func TestDiskFull(t *testing.T) {
	im := disktest.Image(t, 512<<20, disktest.Files(t), nil)
	for _, form := range forms {
		full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
		if err != nil {
			t.Skip(err)
		}
		defer full.Close()
		if err := form.write(t.Context(), full, im); err == nil {
			t.Errorf("%s: no error from a full disk", form.name)
		}
	}
}

func TestCancelled(t *testing.T) {
	im := disktest.Image(t, 512<<20, disktest.Files(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, form := range forms {
		dir := t.TempDir()
		err := Create(filepath.Join(dir, "x"), false, func(f *os.File) error { return form.write(ctx, f, im) })
		if !errors.Is(err, context.Canceled) || list(t, dir) != "" {
			t.Errorf("%s: error %v, folder has %s", form.name, err, list(t, dir))
		}
	}
}

// TestRandomDisks compares every form with the disk through our own reading of
// the format, over many shapes of extents.
func TestRandomDisks(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 6 {
		im := disktest.Random(t, r)
		for _, form := range forms {
			b, err := os.ReadFile(write(t, form, im))
			if err != nil {
				t.Fatal(err)
			}
			if at := differ(t, readers[form.name](t, b), im); at >= 0 {
				t.Fatalf("%s: content differs at %d; extents %v", form.name, at, im.Extents())
			}
		}
	}
}

// differ returns where r first differs from the disk, or -1.
func differ(t *testing.T, r io.ReaderAt, im *disk.Image) int64 {
	t.Helper()
	got, want := make([]byte, 1<<20+512), make([]byte, 1<<20+512) // not a multiple of anything inside
	for off := int64(0); off < im.Size(); off += int64(len(want)) {
		n := min(int64(len(want)), im.Size()-off)
		if _, err := im.ReadAt(want[:n], off); err != nil {
			t.Fatal(err)
		}
		if _, err := r.ReadAt(got[:n], off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:n], want[:n]) {
			return off
		}
	}
	return -1
}

func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, e := range entries {
		b.WriteString(e.Name())
	}
	return b.String()
}
