package format

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gridappliance/builder/disk"
	"gridappliance/builder/disk/disktest"
	"gridappliance/builder/spec"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// write makes the file of a target from a small disk and returns its path.
func write(t *testing.T, target spec.Target, im *disk.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "grid."+string(target))
	if err := Create(path, false, func(f *os.File) error { return For(target)(t.Context(), f, im) }); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRaw: the file is the disk, byte for byte, and no larger than its data.
func TestRaw(t *testing.T) {
	im := disktest.Image(t, 1<<30, disktest.Files(t), disktest.Floppy())
	f, err := os.Open(write(t, spec.Raw, im))
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

// TestQCOW2 asks QEMU: the structure is clean and the content is the raw file's.
func TestQCOW2(t *testing.T) {
	qemuImg := need.Tool(t, "qemu-img")
	for _, size := range []int64{1<<30 + 1<<20, 2 << 30, 1 << 40} { // an L1 of 3, 4 and 2048 entries
		im := disktest.Image(t, size, disktest.Files(t), nil)
		qcow := write(t, spec.QCOW2, im)
		out, err := sysrun.Output(t.Context(), qemuImg, "check", "-f", "qcow2", qcow)
		if err != nil || !strings.Contains(string(out), "No errors") {
			t.Errorf("disk of %d: qemu-img check: %v\n%s", size, err, out)
		}
		if out, err := sysrun.Output(t.Context(), qemuImg, "compare", "-f", "qcow2", "-F", "raw", qcow, write(t, spec.Raw, im)); err != nil && size < 1<<40 {
			t.Errorf("disk of %d: qemu-img compare: %v\n%s", size, err, out)
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
	for _, target := range spec.Targets() {
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
			b, err := os.ReadFile(write(t, target, disktest.Image(t, 512<<20, files, disktest.Floppy())))
			if err != nil {
				t.Fatal(err)
			}
			sums[i] = sha256.Sum256(b)
		}
		if sums[0] != sums[1] {
			t.Errorf("%s: two builds differ", target)
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

// TestDiskFull writes to a file that may not grow to the image's size.
func TestDiskFull(t *testing.T) {
	for _, target := range spec.Targets() {
		im := disktest.Image(t, 512<<20, disktest.Files(t), nil)
		full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
		if err != nil {
			t.Skip(err)
		}
		defer full.Close()
		if err := For(target)(t.Context(), full, im); err == nil {
			t.Errorf("%s: no error from a full disk", target)
		}
	}
}

func TestCancelled(t *testing.T) {
	im := disktest.Image(t, 512<<20, disktest.Files(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, target := range spec.Targets() {
		dir := t.TempDir()
		err := Create(filepath.Join(dir, "x"), false, func(f *os.File) error { return For(target)(ctx, f, im) })
		if !errors.Is(err, context.Canceled) || list(t, dir) != "" {
			t.Errorf("%s: error %v, folder has %s", target, err, list(t, dir))
		}
	}
}

// TestRandomDisks compares QCOW2 with the disk through our own reading of the
// format, over many shapes of extents.
func TestRandomDisks(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 8 {
		im := disktest.Random(t, r)
		b, err := os.ReadFile(write(t, spec.QCOW2, im))
		if err != nil {
			t.Fatal(err)
		}
		if at := differ(t, reader{b}, im); at >= 0 {
			t.Fatalf("content differs at %d; extents %v", at, im.Extents())
		}
	}
}

// reader reads what QCOW2 writes.
type reader struct{ file []byte }

func (r reader) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	l1 := r.offset(40)
	for done := int64(0); done < int64(len(p)); {
		pos := off + done
		n := min(int64(len(p))-done, qcowCluster-pos%qcowCluster)
		if l2 := r.offset(l1 + 8*(pos/qcowL2Span)); l2 != 0 {
			if at := r.offset(l2 + 8*(pos%qcowL2Span/qcowCluster)); at != 0 {
				copy(p[done:done+n], r.file[at+pos%qcowCluster:])
			}
		}
		done += n
	}
	return len(p), nil
}

func (r reader) offset(at int64) int64 {
	return int64(binary.BigEndian.Uint64(r.file[at:]) &^ qcowCopied)
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
