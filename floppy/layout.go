package floppy

import "encoding/binary"

// The fixed geometry of a 1.44 MB floppy with FAT12, and where things stand
// in it. It is a format, not a setting: changing a number makes images that
// other systems do not read. Source: Microsoft's FAT specification 1.03.
//
//	sector      what
//	0           boot sector with the BIOS parameter block
//	1..9        allocation table (FAT), 12 bits a cluster
//	10..18      its copy
//	19..32      root directory, 224 entries of 32 bytes
//	33..2879    clusters 2..2848, one sector each
const (
	// Size is the length of every floppy image in bytes.
	Size = sectorCount * sectorSize
	// Label is the volume label of every floppy and config partition.
	Label = "GRIDCONF"

	sectorSize   = 512
	sectorCount  = 2880
	fatSectors   = 9
	rootEntries  = 224
	entrySize    = 32
	mediaByte    = 0xF0
	clusterCount = 2847
	firstCluster = 2
	lastCluster  = firstCluster + clusterCount - 1

	fatOffset  = 1 * sectorSize
	fatSize    = fatSectors * sectorSize
	copyOffset = fatOffset + fatSize
	rootOffset = copyOffset + fatSize
	dataOffset = rootOffset + rootEntries*entrySize

	// Capacity is how many bytes of files fit, each file rounded up to 512.
	Capacity = clusterCount * sectorSize
)

// Values of a 12-bit entry of the allocation table.
const (
	clusterFree    = 0x000
	clusterBad     = 0xFF7
	clusterEnd     = 0xFFF // what we write; 0xFF8 and above end a chain
	clusterEndFrom = 0xFF8
)

// Attributes of a directory entry.
const (
	attrVolume    = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLongName  = 0x0F // all of read-only, hidden, system, volume
	attrLongMask  = 0x3F
)

// field is one number of the BIOS parameter block that fixes the layout.
type field struct {
	offset, size int
	want         uint32
	name         string
}

// parameterBlock lists what the reader insists on and the writer writes.
// Sectors a track and heads stand apart: they do not move anything in an image.
var parameterBlock = []field{
	{11, 2, sectorSize, "bytes per sector"},
	{13, 1, 1, "sectors per cluster"},
	{14, 2, 1, "reserved sectors"},
	{16, 1, 2, "allocation tables"},
	{17, 2, rootEntries, "root directory entries"},
	{19, 2, sectorCount, "sectors"},
	{21, 1, mediaByte, "as media byte"},
	{22, 2, fatSectors, "sectors per allocation table"},
}

func (f field) get(boot []byte) uint32 {
	if f.size == 1 {
		return uint32(boot[f.offset])
	}
	return uint32(binary.LittleEndian.Uint16(boot[f.offset:]))
}

func (f field) put(boot []byte) {
	if f.size == 1 {
		boot[f.offset] = byte(f.want)
		return
	}
	binary.LittleEndian.PutUint16(boot[f.offset:], uint16(f.want))
}

// tableEntry returns the 12-bit entry of cluster c.
func tableEntry(table []byte, c int) int {
	v := int(binary.LittleEndian.Uint16(table[c+c/2:]))
	if c%2 == 1 {
		return v >> 4
	}
	return v & 0xFFF
}

// setTableEntry sets the 12-bit entry of cluster c.
func setTableEntry(table []byte, c, value int) {
	at := table[c+c/2:]
	v := int(binary.LittleEndian.Uint16(at))
	if c%2 == 1 {
		v = v&0x00F | value<<4
	} else {
		v = v&0xF000 | value
	}
	binary.LittleEndian.PutUint16(at, uint16(v))
}

// cluster returns the 512 bytes of cluster c of the image.
func cluster(image []byte, c int) []byte {
	at := dataOffset + (c-firstCluster)*sectorSize
	return image[at : at+sectorSize]
}

// clustersOf is how many clusters size bytes take.
func clustersOf(size int) int { return (size + sectorSize - 1) / sectorSize }
