package format

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/google/uuid"

	"gridappliance/builder/disk"
)

// The VMDK format (VMware, "Virtual Disk Format 5.0"). All numbers are
// little-endian, all offsets count sectors of 512 bytes. A file begins with:
//
//	offset size field
//	     0    4 magic "KDMV"
//	     4    4 version: 1, or 3 for a stream
//	     8    4 flags: 1 the newlines below are there, 2 redundant tables,
//	              0x10000 grains are deflated, 0x20000 markers
//	    12    8 size of the disk
//	    20    8 size of a grain: 128
//	    28    8 offset of the descriptor: 1
//	    36    8 size of the descriptor: 20
//	    44    4 entries of a grain table: 512
//	    48    8 offset of the redundant grain directory
//	    56    8 offset of the grain directory; all ones: see the footer
//	    64    8 sectors before the first grain
//	    72    1 unclean shutdown: 0
//	    73    4 "\n", " ", "\r", "\n": damaged by a transfer as text
//	    77    2 compression: 0, or 1 for deflate (RFC 1950)
//	    79      zeros up to 512
//
// The grain directory has the offset of each grain table, 4 bytes each, a
// grain table that of each grain; 0 reads as zeros.
const (
	vmdkMagic       = 0x564d444b
	vmdkNewlines    = 1 << 0
	vmdkRedundant   = 1 << 1
	vmdkDeflated    = 1 << 16
	vmdkMarkers     = 1 << 17
	vmdkAtEnd       = 1<<64 - 1 // the grain directory's offset stands in the footer
	sector          = 512
	vmdkGrain       = 64 << 10
	vmdkDescriptor  = 20 // sectors
	vmdkEntries     = 512
	vmdkTable       = 4 * vmdkEntries / sector // sectors
	vmdkSpan        = int64(vmdkEntries) * vmdkGrain
	vmdkOldestHW    = 14 // ddb.virtualHWVersion: Workstation 14, ESXi 6.7
	vmdkHeads       = 255
	vmdkTrackLength = 63
)

// vmdkHeader is what differs between headers.
type vmdkHeader struct {
	version, flags uint32
	capacity       int64 // bytes
	redundant, dir uint64
	overhead       int64 // sectors
	compression    uint16
}

func (h vmdkHeader) bytes() []byte {
	le := binary.LittleEndian
	b := make([]byte, sector)
	le.PutUint32(b[0:], vmdkMagic)
	le.PutUint32(b[4:], h.version)
	le.PutUint32(b[8:], h.flags)
	le.PutUint64(b[12:], uint64(h.capacity/sector))
	le.PutUint64(b[20:], vmdkGrain/sector)
	le.PutUint64(b[28:], 1)
	le.PutUint64(b[36:], vmdkDescriptor)
	le.PutUint32(b[44:], vmdkEntries)
	le.PutUint64(b[48:], h.redundant)
	le.PutUint64(b[56:], h.dir)
	le.PutUint64(b[64:], uint64(h.overhead))
	copy(b[73:], "\n \r\n")
	le.PutUint16(b[77:], h.compression)
	return b
}

// vmdkDescription returns the text that describes the disk, filled up with
// zeros. name is the file's own name, id becomes the disk's identity.
func vmdkDescription(createType, name string, size int64, id uuid.UUID) []byte {
	content := binary.BigEndian.Uint32(id[12:])
	if content >= 0xfffffffe { // both mean that there is none
		content = 1
	}
	long := hex.EncodeToString(id[:12]) + fmt.Sprintf("%08x", content)
	b := make([]byte, vmdkDescriptor*sector)
	copy(b, fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="%s"

# Extent description
RW %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.longContentID = "%s"
ddb.uuid.image = "%s"
ddb.uuid.modification = "%s"
ddb.uuid.parent = "00000000-0000-0000-0000-000000000000"
ddb.uuid.parentmodification = "00000000-0000-0000-0000-000000000000"
ddb.virtualHWVersion = "%d"
`, content, createType, size/sector, name, size/sector/(vmdkHeads*vmdkTrackLength), vmdkHeads, vmdkTrackLength,
		long, id, uuid.NewSHA1(id, []byte("modification")), vmdkOldestHW))
	return b
}

// VMDK writes the disk as a growing one-file disk (monolithicSparse), which
// VMware's desktop products run from and write to. The file's parts, in order:
//
//	header | descriptor | redundant directory, tables | directory, tables | grains
//
// A disk must be whole grains of 64 KiB.
func VMDK(ctx context.Context, w *os.File, im *disk.Image, name string, id uuid.UUID) error {
	if err := wholeUnits(im, vmdkGrain); err != nil {
		return err
	}
	tables := ceilDiv(im.Size(), vmdkSpan)
	dirSize := ceilDiv(tables*4, sector)
	redundant := int64(1 + vmdkDescriptor)
	dir := redundant + dirSize + tables*vmdkTable
	next := roundUp(dir+dirSize+tables*vmdkTable, vmdkGrain/sector)
	h := vmdkHeader{version: 1, flags: vmdkNewlines | vmdkRedundant, capacity: im.Size(),
		redundant: uint64(redundant), dir: uint64(dir), overhead: next}
	v := vmdkWriter{w: w, walk: newBlocks(im, vmdkGrain), next: next}
	head := append(h.bytes(), vmdkDescription("monolithicSparse", name, im.Size(), id)...)
	if _, err := w.WriteAt(head, 0); err != nil {
		return err
	}
	for _, at := range []int64{redundant, dir} {
		offsets := make([]uint32, tables)
		for i := range offsets {
			offsets[i] = uint32(at + dirSize + int64(i)*vmdkTable)
		}
		if _, err := w.WriteAt(littleEndian32(offsets), at*sector); err != nil {
			return err
		}
	}
	for i := range tables {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.span(i, redundant+dirSize+i*vmdkTable, dir+dirSize+i*vmdkTable); err != nil {
			return err
		}
	}
	return w.Truncate(v.next * sector)
}

type vmdkWriter struct {
	w    *os.File
	walk *blocks
	next int64 // the first free sector
}

// span writes the grains of one grain table, then the table to both places.
func (v *vmdkWriter) span(i int64, places ...int64) error {
	var table []uint32
	start := i * vmdkSpan
	for pos, data := range v.walk.in(start, min(start+vmdkSpan, v.walk.im.Size())) {
		if table == nil {
			table = make([]uint32, vmdkEntries)
		}
		table[(pos-start)/vmdkGrain] = uint32(v.next)
		if _, err := v.w.WriteAt(data, v.next*sector); err != nil {
			return err
		}
		v.next += vmdkGrain / sector
	}
	if table == nil || v.walk.err != nil {
		return v.walk.err
	}
	for _, at := range places {
		if _, err := v.w.WriteAt(littleEndian32(table), at*sector); err != nil {
			return err
		}
	}
	return nil
}

func littleEndian32(values []uint32) []byte {
	b := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(b[4*i:], v)
	}
	return b
}
