package format

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"gridappliance/builder/disk"
	"gridappliance/builder/spec"
)

// File is an image file that is read: raw, or qcow2 as QEMU leaves it.
type File struct {
	io.ReaderAt             // the disk as the machine sees it
	Size        int64       // of the disk, bytes
	Target      spec.Target // spec.Raw or spec.QCOW2

	file   *os.File
	ranges func() ([]disk.Range, error)
}

// Open opens an image. What it cannot read is refused with the reason: a
// qcow2 on top of another file, an encrypted one, features it does not know.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	im, err := open(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open image %s: %w", path, err)
	}
	return im, nil
}

func open(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil {
		return nil, errors.New("it is too short for a disk")
	}
	if binary.BigEndian.Uint32(magic[:]) != qcowMagic {
		return &File{ReaderAt: f, Size: info.Size(), Target: spec.Raw, file: f,
			ranges: func() ([]disk.Range, error) { return disk.Ranges(f, info.Size()) }}, nil
	}
	q, err := openQCOW2(f)
	if err != nil {
		return nil, err
	}
	return &File{ReaderAt: q, Size: q.size, Target: spec.QCOW2, file: f, ranges: q.ranges}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Ranges returns the parts of the disk that the file holds; all else is zeros.
func (f *File) Ranges() ([]disk.Range, error) { return f.ranges() }

// qcowFile reads a qcow2.
type qcowFile struct {
	f    *os.File
	size int64
	bits uint
	l1   []byte
	zstd bool
}

const (
	qcowOffset     = 0x00fffffffffffe00
	qcowCompressed = 1 << 62
	qcowZero       = 1
	qcowDirty      = 1 // incompatible feature: reference counts may be wrong, contents are right
	qcowCompress   = 8 // incompatible feature: another compression than zlib
	maxL1          = 32 << 20
)

func openQCOW2(f *os.File) (*qcowFile, error) {
	h := make([]byte, qcowHeaderLength+8)
	if _, err := f.ReadAt(h, 0); err != nil {
		return nil, errors.New("a qcow2 that is cut short")
	}
	be := binary.BigEndian
	q := &qcowFile{f: f, size: int64(be.Uint64(h[24:])), bits: uint(be.Uint32(h[20:]))}
	version, entries := be.Uint32(h[4:]), be.Uint32(h[36:])
	var features uint64
	if version == 3 {
		features = be.Uint64(h[72:])
	}
	switch {
	case version != 2 && version != 3 || q.bits < 9 || q.bits > 21 || q.size <= 0 || entries > maxL1/8:
		return nil, errors.New("a qcow2 of a form that is not known")
	case be.Uint64(h[8:]) != 0:
		return nil, errors.New("a qcow2 on top of another file; qemu-img convert -O qcow2 makes one file of the two")
	case be.Uint32(h[32:]) != 0:
		return nil, errors.New("an encrypted qcow2")
	case features&^(qcowDirty|qcowCompress) != 0:
		return nil, fmt.Errorf("a qcow2 with the features %#x, which are not known; qemu-img convert -O qcow2 makes one without", features)
	}
	q.zstd = features&qcowCompress != 0 && be.Uint32(h[100:]) > 104 && h[104] == 1
	q.l1 = make([]byte, 8*entries)
	if _, err := f.ReadAt(q.l1, int64(be.Uint64(h[40:]))); err != nil {
		return nil, errors.New("a qcow2 that is cut short")
	}
	return q, nil
}

// entry returns the L2 entry of the cluster at a place of the disk.
func (q *qcowFile) entry(pos int64) (uint64, error) {
	index := pos >> q.bits
	per := int64(1) << (q.bits - 3)
	if 8*(index/per) >= int64(len(q.l1)) {
		return 0, nil
	}
	l2 := int64(binary.BigEndian.Uint64(q.l1[8*(index/per):]) & qcowOffset)
	if l2 == 0 {
		return 0, nil
	}
	var b [8]byte
	if _, err := q.f.ReadAt(b[:], l2+8*(index%per)); err != nil {
		return 0, fmt.Errorf("read qcow2: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// ReadAt reads the disk (io.ReaderAt).
func (q *qcowFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= q.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > q.size-off {
		p, end = p[:q.size-off], io.EOF
	}
	clear(p)
	cluster := int64(1) << q.bits
	for done := int64(0); done < int64(len(p)); {
		pos := off + done
		n := min(int64(len(p))-done, cluster-pos%cluster)
		if err := q.read(p[done:done+n], pos); err != nil {
			return int(done), err
		}
		done += n
	}
	return len(p), end
}

// read reads a part of one cluster.
func (q *qcowFile) read(p []byte, pos int64) error {
	e, err := q.entry(pos)
	if err != nil {
		return err
	}
	inside := pos & (1<<q.bits - 1)
	if e&qcowCompressed != 0 {
		b, err := q.unpack(e)
		if err != nil {
			return fmt.Errorf("read qcow2: cluster at %d: %w", pos-inside, err)
		}
		copy(p, b[inside:])
		return nil
	}
	at := int64(e & qcowOffset)
	if at == 0 || e&qcowZero != 0 {
		return nil
	}
	if _, err := q.f.ReadAt(p, at+inside); err != nil && err != io.EOF { // the last cluster may be short
		return fmt.Errorf("read qcow2: %w", err)
	}
	return nil
}

// unpack reads a compressed cluster (docs/interop/qcow2.txt, "Compressed
// Clusters Descriptor").
func (q *qcowFile) unpack(e uint64) ([]byte, error) {
	x := 62 - (q.bits - 8)
	at := int64(e & (1<<x - 1))
	sectors := int64(e>>x&(1<<(62-x)-1)) + 1
	b := make([]byte, sectors*512-at%512)
	n, err := q.f.ReadAt(b, at)
	if err != nil && err != io.EOF {
		return nil, err
	}
	var r io.Reader = flate.NewReader(bytes.NewReader(b[:n]))
	if q.zstd {
		d, err := zstd.NewReader(bytes.NewReader(b[:n]), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		r = d
	}
	out := make([]byte, 1<<q.bits)
	_, err = io.ReadFull(r, out)
	return out, err
}

// ranges returns the clusters that hold something, neighbours joined.
func (q *qcowFile) ranges() ([]disk.Range, error) {
	var out []disk.Range
	cluster := int64(1) << q.bits
	span := cluster * (cluster / 8)
	for pos := int64(0); pos < q.size; {
		if i := 8 * (pos / span); pos%span == 0 && (i >= int64(len(q.l1)) || binary.BigEndian.Uint64(q.l1[i:])&qcowOffset == 0) {
			pos += span
			continue
		}
		e, err := q.entry(pos)
		if err != nil {
			return nil, err
		}
		end := min(pos+cluster, q.size)
		if e&qcowCompressed != 0 || e&qcowOffset != 0 && e&qcowZero == 0 {
			if n := len(out); n > 0 && out[n-1].End == pos {
				out[n-1].End = end
			} else {
				out = append(out, disk.Range{Start: pos, End: end})
			}
		}
		pos = end
	}
	return out, nil
}
