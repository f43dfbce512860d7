package format

import (
	"context"
	"encoding/binary"
	"os"

	"github.com/google/uuid"

	"gridappliance/builder/disk"
)

// VirtualBox's disk format, version 1.1 (VirtualBox, Storage/VDICore.h). All
// numbers are little-endian. What we write: a dynamic image, blocks of 1 MiB.
//
//	offset size field
//	     0   64 text, a line that ends in \n, then zeros
//	    64    4 signature 0xbeda107f
//	    68    4 version 0x00010001
//	    72    4 size of the header that begins here: 400
//	    76    4 image type: 1, dynamic
//	    80    4 flags: 0
//	    84  256 comment: empty
//	   340    4 offset of the block map: 1 MiB
//	   344    4 offset of the first block
//	   348   12 old geometry: zeros
//	   360    4 bytes in a sector: 512
//	   364    4 unused
//	   368    8 size of the disk in bytes
//	   376    4 bytes in a block: 1 MiB
//	   380    4 extra bytes before each block: 0
//	   384    4 blocks of the disk
//	   388    4 blocks in the file
//	   392   16 UUID of the image
//	   408   16 UUID of its last change
//	   424   32 UUIDs of a parent: zeros
//	   456   16 geometry: zeros, VirtualBox chooses
//	   472      end of the header
//
// A UUID is stored as Microsoft's GUIDs are, its first three fields
// little-endian. The block map has 4 bytes for each block of the disk: its
// number in the file, or 0xffffffff for zeros.
const (
	vdiText      = "<<< grid appliance: VirtualBox disk image >>>\n"
	vdiSignature = 0xbeda107f
	vdiVersion   = 0x00010001
	vdiHeader    = 400
	vdiBlock     = 1 << 20
	vdiMapAt     = 1 << 20
)

// VDI writes the disk as a dynamic VirtualBox image that bears the UUID id. A
// disk must be whole mebibytes.
func VDI(ctx context.Context, w *os.File, im *disk.Image, id uuid.UUID) error {
	if err := wholeUnits(im, vdiBlock); err != nil {
		return err
	}
	blockMap := make([]byte, 4*im.Size()/vdiBlock)
	for i := range blockMap {
		blockMap[i] = 0xff
	}
	dataAt := vdiMapAt + roundUp(int64(len(blockMap)), vdiBlock)
	used := int64(0)
	walk := newBlocks(im, vdiBlock)
	for pos, data := range walk.in(0, im.Size()) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := w.WriteAt(data, dataAt+used*vdiBlock); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(blockMap[4*pos/vdiBlock:], uint32(used))
		used++
	}
	if walk.err != nil {
		return walk.err
	}
	if err := w.Truncate(dataAt + used*vdiBlock); err != nil {
		return err
	}
	if _, err := w.WriteAt(blockMap, vdiMapAt); err != nil {
		return err
	}
	le := binary.LittleEndian
	h := make([]byte, 72+vdiHeader)
	copy(h, vdiText)
	le.PutUint32(h[64:], vdiSignature)
	le.PutUint32(h[68:], vdiVersion)
	le.PutUint32(h[72:], vdiHeader)
	le.PutUint32(h[76:], 1)
	le.PutUint32(h[340:], vdiMapAt)
	le.PutUint32(h[344:], uint32(dataAt))
	le.PutUint32(h[360:], 512)
	le.PutUint64(h[368:], uint64(im.Size()))
	le.PutUint32(h[376:], vdiBlock)
	le.PutUint32(h[384:], uint32(im.Size()/vdiBlock))
	le.PutUint32(h[388:], uint32(used))
	putGUID(h[392:], id)
	putGUID(h[408:], uuid.NewSHA1(id, []byte("modification")))
	_, err := w.WriteAt(h, 0)
	return err
}

// putGUID stores a UUID in Microsoft's order of bytes.
func putGUID(b []byte, id uuid.UUID) {
	for i, from := range [16]int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		b[i] = id[from]
	}
}
