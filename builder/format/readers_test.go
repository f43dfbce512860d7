package format

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zlib"

	"gridappliance/builder/disk"
	"gridappliance/builder/disk/disktest"
)

// readers read what the writers write, by the format's description and by
// nothing the writers share.
var readers = map[string]func(*testing.T, []byte) io.ReaderAt{
	"raw": func(_ *testing.T, b []byte) io.ReaderAt {
		return pieces{int64(len(b)), func(i int64) []byte { return b[i*int64(len(b)):] }}
	},
	"qcow2":       readQCOW2,
	"vmdk":        readVMDK,
	"stream.vmdk": readStream,
	"vdi":         readVDI,
}

// pieces is a disk in pieces of one size; a missing one reads as zeros.
type pieces struct {
	size  int64
	piece func(i int64) []byte
}

func (r pieces) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for done := int64(0); done < int64(len(p)); {
		pos := off + done
		n := min(int64(len(p))-done, r.size-pos%r.size)
		if piece := r.piece(pos / r.size); piece != nil {
			copy(p[done:done+n], piece[pos%r.size:])
		}
		done += n
	}
	return len(p), nil
}

func readQCOW2(_ *testing.T, b []byte) io.ReaderAt {
	offset := func(at int64) int64 { return int64(binary.BigEndian.Uint64(b[at:]) &^ (1 << 63)) }
	return pieces{65536, func(i int64) []byte {
		if l2 := offset(offset(40) + 8*(i/8192)); l2 != 0 {
			if at := offset(l2 + 8*(i%8192)); at != 0 {
				return b[at:]
			}
		}
		return nil
	}}
}

func readVDI(t *testing.T, b []byte) io.ReaderAt {
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	var id uuid.UUID
	for i, from := range []int{3, 2, 1, 0, 5, 4, 7, 6} {
		id[i] = b[0x188+from]
	}
	copy(id[8:], b[0x188+8:0x188+16])
	if id != testID {
		t.Errorf("vdi: UUID %v", id)
	}
	if end := u32(344) + u32(388)<<20; end != int64(len(b)) {
		t.Errorf("vdi: the file has %d bytes, its blocks end at %d", len(b), end)
	}
	return pieces{1 << 20, func(i int64) []byte {
		if n := u32(int(u32(340) + 4*i)); n != 0xffffffff {
			return b[u32(344)+n<<20:]
		}
		return nil
	}}
}

func readVMDK(t *testing.T, b []byte) io.ReaderAt {
	u32 := func(at int64) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	main, twin := u32(56)*512, u32(48)*512
	grain := func(dir, i int64) int64 { return u32(u32(dir+4*(i/512))*512 + 4*(i%512)) }
	checkDescription(t, b, "monolithicSparse")
	return pieces{65536, func(i int64) []byte {
		at := grain(main, i)
		if at != grain(twin, i) {
			t.Errorf("vmdk: the two tables differ in grain %d", i)
		}
		if at == 0 {
			return nil
		}
		return b[at*512:]
	}}
}

// readStream reads a stream as an importer does, in one pass, and checks that
// the tables at its end say the same.
func readStream(t *testing.T, b []byte) io.ReaderAt {
	le := binary.LittleEndian
	checkDescription(t, b, "streamOptimized")
	grains, at := map[int64][]byte{}, map[int64]uint32{} // by number; sector
	kinds := []uint32{}
	tables, directory := map[uint32][]byte{}, []byte(nil)
	var footer []byte
	for pos := int64(128 * 512); pos < int64(len(b)); {
		number, length, kind := le.Uint64(b[pos:]), int64(le.Uint32(b[pos+8:])), le.Uint32(b[pos+12:])
		if length > 0 {
			z, err := zlib.NewReader(bytes.NewReader(b[pos+12 : pos+12+length]))
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(z)
			if err != nil || len(data) != 65536 {
				t.Fatalf("stream: a grain of %d bytes, %v", len(data), err)
			}
			grains[int64(number/128)], at[int64(number/128)] = data, uint32(pos/512)
			pos += (12 + length + 511) / 512 * 512
			continue
		}
		body := b[pos+512:][:number*512]
		switch kind {
		case 1:
			tables[uint32(pos/512+1)] = body
		case 2:
			directory = body
		case 3:
			footer = body
		}
		if kind != 1 {
			kinds = append(kinds, kind)
		}
		pos += 512 + int64(number)*512
	}
	if len(kinds) != 3 || kinds[0] != 2 || kinds[1] != 3 || kinds[2] != 0 || footer == nil {
		t.Fatalf("stream: the end has markers %v", kinds)
	}
	if header := bytes.Clone(b[:512]); le.Uint64(header[56:]) != 1<<64-1 || !bytes.Equal(append(header[:56:56], header[64:]...), append(bytes.Clone(footer[:56]), footer[64:]...)) {
		t.Error("stream: header and footer differ in more than the directory's place")
	}
	if !bytes.Equal(b[le.Uint64(footer[56:])*512:][:len(directory)], directory) {
		t.Error("stream: the footer names another directory")
	}
	listed := 0
	for i := range int64(len(directory) / 4) {
		table := tables[le.Uint32(directory[4*i:])]
		for j := range int64(len(table) / 4) {
			if want := le.Uint32(table[4*j:]); want != 0 {
				listed++
				if at[512*i+j] != want {
					t.Fatalf("stream: grain %d is at sector %d, its table says %d", 512*i+j, at[512*i+j], want)
				}
			}
		}
	}
	if listed != len(grains) {
		t.Errorf("stream: %d grains, %d in tables", len(grains), listed)
	}
	return pieces{65536, func(i int64) []byte { return grains[i] }}
}

func checkDescription(t *testing.T, b []byte, createType string) {
	t.Helper()
	text := string(bytes.TrimRight(b[512:21*512], "\x00"))
	for _, want := range []string{"createType=\"" + createType + "\"\n", " SPARSE \"grid.vmdk\"\n", "ddb.uuid.image = \"" + testID.String() + "\"\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("vmdk: the description lacks %q:\n%s", want, text)
		}
	}
}

// TestStreamIsDeflated: what can be made smaller is, what cannot grows by next
// to nothing.
func TestStreamIsDeflated(t *testing.T) {
	c := disktest.Files(t) // random bytes
	plain := disktest.Image(t, 512<<20, c, nil)
	if stream, qcow := size(t, write(t, streamForm, plain)), size(t, write(t, qcow2Form, plain)); stream*100 > qcow*105 {
		t.Errorf("the stream has %d bytes, qcow2 %d", stream, qcow)
	}
	if err := os.WriteFile(c.Layers["gridbase"], bytes.Repeat([]byte("grid appliance, "), 20<<16), 0o666); err != nil {
		t.Fatal(err)
	}
	text := disktest.Image(t, 512<<20, c, nil)
	if stream, qcow := size(t, write(t, streamForm, text)), size(t, write(t, qcow2Form, text)); stream > qcow-18<<20 {
		t.Errorf("20 MiB of text: the stream has %d bytes, qcow2 %d", stream, qcow)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestOddSizes: a disk that a format would round is refused.
func TestOddSizes(t *testing.T) {
	files := disktest.Files(t)
	layout := disktest.Layout(t, 512<<20, files)
	for _, tt := range []struct {
		form  form
		extra int64
		ok    bool
	}{
		{rawForm, 512, true}, {qcow2Form, 512, true}, {vmdkForm, 64 << 10, true}, {vmdkForm, 32 << 10, false},
		{streamForm, 64 << 10, true}, {streamForm, 512, false}, {vdiForm, 1 << 20, true}, {vdiForm, 64 << 10, false},
	} {
		layout.Size = 512<<20 + tt.extra
		im, err := disk.Compose(layout, files)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "x")
		err = Create(path, false, func(f *os.File) error { return tt.form.write(t.Context(), f, im) })
		if (err == nil) != tt.ok {
			t.Errorf("%s of 512 MiB and %d bytes: %v", tt.form.name, tt.extra, err)
		}
		if err == nil {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if at := differ(t, readers[tt.form.name](t, b), im); at >= 0 {
				t.Errorf("%s of 512 MiB and %d bytes differs at %d", tt.form.name, tt.extra, at)
			}
		}
		im.Close()
	}
}
