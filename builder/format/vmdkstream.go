package format

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"runtime"
	"sync"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zlib"

	"gridappliance/builder/disk"
)

// The stream form of VMDK (streamOptimized): every grain deflated, everything
// in ascending order, so that it can be written to a pipe. Each part begins on
// a sector:
//
//	header | descriptor | zeros up to sector 128
//	grain: 8 its sector of the disk, 4 length, the deflated bytes   | repeated
//	marker 1, grain table                                           | every 32 MiB
//	marker 2, grain directory
//	marker 3, footer: the header again, with the directory's offset
//	marker 0
//
// A marker is a sector: 8 sectors that follow, 4 zero, 4 kind.
const (
	streamOverhead  = 128 // sectors
	markerEnd       = 0
	markerTable     = 1
	markerDirectory = 2
	markerFooter    = 3
	streamBatch     = 64 // grains deflated at a time
)

// StreamVMDK writes the disk as a streamOptimized VMDK, the form in which
// disks are shipped and imported. It writes in ascending order only. name is
// the file's name, id becomes the disk's identity. A disk must be whole
// grains of 64 KiB.
//
// Grains are deflated on all processors; the bytes do not depend on how many
// there are.
func StreamVMDK(ctx context.Context, w io.Writer, im *disk.Image, name string, id uuid.UUID) error {
	if err := wholeUnits(im, vmdkGrain); err != nil {
		return err
	}
	h := vmdkHeader{version: 3, flags: vmdkNewlines | vmdkDeflated | vmdkMarkers, capacity: im.Size(),
		dir: vmdkAtEnd, overhead: streamOverhead, compression: 1}
	s := &streamWriter{w: w}
	s.put(h.bytes())
	s.put(vmdkDescription("streamOptimized", name, im.Size(), id))
	s.put(make([]byte, (streamOverhead-1-vmdkDescriptor)*sector))
	directory := make([]uint32, ceilDiv(im.Size(), vmdkSpan))
	walk, deflate := newBlocks(im, vmdkGrain), newDeflater()
	for i := range directory {
		if err := ctx.Err(); err != nil {
			return err
		}
		table, err := s.span(walk, deflate, int64(i))
		if err != nil {
			return err
		}
		if table != nil {
			directory[i] = s.marked(markerTable, littleEndian32(table))
		}
	}
	h.dir = uint64(s.marked(markerDirectory, littleEndian32(directory)))
	s.marked(markerFooter, h.bytes())
	s.marked(markerEnd, nil)
	return s.err
}

// streamWriter appends parts that begin on a sector. After an error it writes
// nothing more.
type streamWriter struct {
	w    io.Writer
	next int64 // the first free sector
	err  error
}

// put appends b, filled up to a sector, and returns where it stands.
func (s *streamWriter) put(parts ...[]byte) (at uint32) {
	at = uint32(s.next)
	length := int64(0)
	for _, b := range parts {
		if s.err == nil {
			_, s.err = s.w.Write(b)
		}
		length += int64(len(b))
	}
	s.next += ceilDiv(length, sector)
	if rest := length % sector; rest > 0 && s.err == nil {
		_, s.err = s.w.Write(zeros[:sector-rest])
	}
	return at
}

// marked appends a marker and what it announces, and returns where that is.
func (s *streamWriter) marked(kind uint32, b []byte) (at uint32) {
	m := make([]byte, sector)
	binary.LittleEndian.PutUint64(m, uint64(ceilDiv(int64(len(b)), sector)))
	binary.LittleEndian.PutUint32(m[12:], kind)
	s.put(m)
	return s.put(b)
}

// span appends the grains of grain table i and returns the table, nil when
// all of it is zeros.
func (s *streamWriter) span(walk *blocks, d *deflater, i int64) (table []uint32, err error) {
	start := i * vmdkSpan
	flush := func() {
		for _, g := range d.pack() {
			var head [12]byte
			binary.LittleEndian.PutUint64(head[:], uint64(g.pos/sector))
			binary.LittleEndian.PutUint32(head[8:], uint32(g.packed.Len()))
			table[(g.pos-start)/vmdkGrain] = s.put(head[:], g.packed.Bytes())
		}
	}
	for pos, data := range walk.in(start, min(start+vmdkSpan, walk.im.Size())) {
		if table == nil {
			table = make([]uint32, vmdkEntries)
		}
		if d.add(pos, data) {
			flush()
		}
	}
	flush()
	if walk.err != nil {
		return nil, walk.err
	}
	return table, s.err
}

// grain is a piece of the disk on its way into the stream.
type grain struct {
	pos    int64 // on the disk, in bytes
	data   [vmdkGrain]byte
	packed bytes.Buffer
}

// deflater deflates batches of grains, each by itself, on all processors.
type deflater struct {
	grains  [streamBatch]grain
	used    int
	writers []*zlib.Writer // one for each processor
}

func newDeflater() *deflater {
	d := &deflater{}
	for range min(runtime.GOMAXPROCS(0), streamBatch) {
		z, _ := zlib.NewWriterLevel(nil, zlib.BestSpeed) // the level is a valid one
		d.writers = append(d.writers, z)
	}
	return d
}

// add takes a copy of a grain and reports whether the batch is full.
func (d *deflater) add(pos int64, data []byte) (full bool) {
	g := &d.grains[d.used]
	g.pos = pos
	copy(g.data[:], data)
	d.used++
	return d.used == len(d.grains)
}

// pack deflates the batch and empties it; what it returns is valid until the
// next add.
func (d *deflater) pack() []grain {
	batch := d.grains[:d.used]
	d.used = 0
	var wg sync.WaitGroup
	for i, z := range d.writers {
		wg.Go(func() {
			for j := i; j < len(batch); j += len(d.writers) {
				g := &batch[j]
				g.packed.Reset()
				z.Reset(&g.packed)
				z.Write(g.data[:]) // into memory: cannot fail
				z.Close()
			}
		})
	}
	wg.Wait()
	return batch
}
