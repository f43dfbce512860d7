package disk

import (
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"strings"

	"gridappliance/builder/plan"
)

// fatFile is one file of the ESP: bytes, or the contents of a file at path.
type fatFile struct {
	name string // path inside the ESP, "EFI/BOOT/BOOTX64.EFI"
	data []byte
	path string
}

// The ESP's FAT32 (Microsoft, "FAT32 File System Specification" 1.03), written
// once and never changed by us: 512-byte clusters, every file in one piece, a
// folder in one cluster, names in 8.3 with the two case bits that Windows NT
// and Linux read, all times 1980-01-01 00:00. go-diskfs is not used because
// its folders do not pass fsck.fat, and because files of the base can stay
// where they are this way.
//
//	sector 0     boot sector           6  its copy
//	       1     FSInfo                7  its copy
//	       32    FAT, twice
//	       then  cluster 2: the root folder; then folders and files in order
const (
	fatReserved  = 32
	fatRoot      = 2          // cluster of the root folder
	fatEnd       = 0x0fffffff // end of a chain
	fatMedia     = 0xf8       // fixed disk
	fatEntry     = 32         // bytes of a folder entry
	fatDate      = 1<<5 | 1   // 1980-01-01
	fatMinimum   = 65525      // fewer clusters make a FAT16
	fatAttrDir   = 0x10
	fatAttrLabel = 0x08
	fatAttrFile  = 0x20
	espLabel     = "GRIDESP    "
)

// fatBuilder lays out one FAT32 from its first cluster on.
type fatBuilder struct {
	im        *Image
	dataStart int64 // offset of cluster 2 on the disk
	clusters  uint32
	fat       []uint32 // the table so far; its length is the next free cluster
	dirs      map[string]*fatDir
	order     []*fatDir
}

type fatDir struct {
	cluster, parent uint32
	entries         []byte
}

// addFAT32 fills a partition with a FAT32 that holds files.
func (im *Image) addFAT32(p plan.Partition, files []fatFile) error {
	sectors := uint32(p.Size() / plan.SectorSize)
	// Each sector of both FATs describes 128 clusters of one sector.
	fatSectors := (sectors - fatReserved + 2 + 129) / 130
	clusters := sectors - fatReserved - 2*fatSectors
	if clusters < fatMinimum {
		return fmt.Errorf("compose %s: %d bytes are too few for FAT32", p.Name, p.Size())
	}
	b := &fatBuilder{
		im: im, clusters: clusters, fat: []uint32{0x0fffff00 | fatMedia, fatEnd},
		dataStart: p.Offset() + int64(fatReserved+2*fatSectors)*plan.SectorSize,
		dirs:      map[string]*fatDir{},
	}
	root := b.newDir("", 0)
	root.entries = append(root.entries, fatDirEntry(espLabel, fatAttrLabel, 0, 0, 0)...)
	for _, f := range files {
		if err := b.add(f); err != nil {
			return fmt.Errorf("compose %s: %s: %w", p.Name, f.name, err)
		}
	}
	for _, d := range b.order {
		if len(d.entries) > plan.SectorSize {
			return fmt.Errorf("compose %s: a folder has more than %d entries", p.Name, plan.SectorSize/fatEntry)
		}
		im.addBytes(b.offset(d.cluster), d.entries)
	}
	if uint32(len(b.fat)) > clusters+2 {
		return fmt.Errorf("compose %s: the kernel and initrd need %d clusters of %d", p.Name, len(b.fat)-2, clusters)
	}
	b.writeTables(p, sectors, fatSectors)
	return nil
}

func (b *fatBuilder) offset(cluster uint32) int64 {
	return b.dataStart + int64(cluster-fatRoot)*plan.SectorSize
}

// take reserves size bytes in one piece and returns the first cluster.
func (b *fatBuilder) take(size int64) (uint32, error) {
	n := (size + plan.SectorSize - 1) / plan.SectorSize
	if n > int64(b.clusters) {
		return 0, fmt.Errorf("%d bytes do not fit", size)
	}
	first := uint32(len(b.fat))
	for i := int64(1); i < n; i++ {
		b.fat = append(b.fat, uint32(len(b.fat))+1)
	}
	b.fat = append(b.fat, fatEnd)
	return first, nil
}

// newDir makes the folder called name inside the folder with cluster parent,
// which is 0 for the root folder and everything in it: a ".." to the root has
// cluster 0 (specification, "Directory creation").
func (b *fatBuilder) newDir(name string, parent uint32) *fatDir {
	cluster, _ := b.take(1)
	d := &fatDir{cluster: cluster, parent: parent}
	if name != "" {
		d.entries = append(fatDirEntry(".          ", fatAttrDir, 0, cluster, 0),
			fatDirEntry("..         ", fatAttrDir, 0, parent, 0)...)
	}
	b.dirs[name] = d
	b.order = append(b.order, d)
	return d
}

// dir returns the folder called name, made when it is new.
func (b *fatBuilder) dir(name string) (*fatDir, error) {
	if d, ok := b.dirs[name]; ok {
		return d, nil
	}
	parentPath, base := splitPath(name)
	parent, err := b.dir(parentPath)
	if err != nil {
		return nil, err
	}
	short, caseBits, err := shortName(base)
	if err != nil {
		return nil, err
	}
	up := parent.cluster
	if parentPath == "" {
		up = 0
	}
	d := b.newDir(name, up)
	parent.entries = append(parent.entries, fatDirEntry(short, fatAttrDir, caseBits, d.cluster, 0)...)
	return d, nil
}

func (b *fatBuilder) add(f fatFile) error {
	dirPath, base := splitPath(f.name)
	d, err := b.dir(dirPath)
	if err != nil {
		return err
	}
	name, caseBits, err := shortName(base)
	if err != nil {
		return err
	}
	size := int64(len(f.data))
	if f.path != "" {
		info, err := os.Stat(f.path)
		if err != nil {
			return err
		}
		size = info.Size()
	}
	if size == 0 {
		return fmt.Errorf("is empty")
	}
	cluster, err := b.take(size)
	if err != nil {
		return err
	}
	d.entries = append(d.entries, fatDirEntry(name, fatAttrFile, caseBits, cluster, uint32(size))...)
	if f.path == "" {
		b.im.addBytes(b.offset(cluster), f.data)
		return nil
	}
	added, err := b.im.addFileAt(b.offset(cluster), f.path)
	if err == nil && added != size {
		err = fmt.Errorf("changed while the image was made")
	}
	return err
}

// writeTables adds boot sectors, FSInfo and both FATs.
func (b *fatBuilder) writeTables(p plan.Partition, sectors, fatSectors uint32) {
	le := binary.LittleEndian
	boot := make([]byte, plan.SectorSize)
	copy(boot, "\xeb\x58\x90GRID    ")
	le.PutUint16(boot[11:], plan.SectorSize)
	boot[13] = 1 // sectors a cluster
	le.PutUint16(boot[14:], fatReserved)
	boot[16] = 2 // FATs
	boot[21] = fatMedia
	le.PutUint16(boot[24:], 63)              // sectors a track, for programs that ask
	le.PutUint16(boot[26:], 255)             // heads
	le.PutUint32(boot[28:], uint32(p.First)) // hidden sectors
	le.PutUint32(boot[32:], sectors)
	le.PutUint32(boot[36:], fatSectors)
	le.PutUint32(boot[44:], fatRoot)
	le.PutUint16(boot[48:], 1)    // FSInfo
	le.PutUint16(boot[50:], 6)    // copy of the boot sector
	boot[64] = 0x80               // drive
	boot[66] = 0x29               // serial, label and type follow
	copy(boot[67:71], p.GUID[:4]) // serial: from the partition's GUID
	copy(boot[71:], espLabel+"FAT32   ")
	boot[510], boot[511] = 0x55, 0xaa

	used := uint32(len(b.fat)) - 2
	info := make([]byte, plan.SectorSize)
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint32(info[488:], b.clusters-used) // free clusters
	le.PutUint32(info[492:], used+1)          // the last one taken
	info[510], info[511] = 0x55, 0xaa

	fat := make([]byte, 4*len(b.fat))
	for i, next := range b.fat {
		le.PutUint32(fat[4*i:], next)
	}
	at := func(sector uint32) int64 { return p.Offset() + int64(sector)*plan.SectorSize }
	b.im.addBytes(at(0), append(append([]byte(nil), boot...), info...))
	b.im.addBytes(at(6), append(append([]byte(nil), boot...), info...))
	b.im.addBytes(at(fatReserved), fat)
	b.im.addBytes(at(fatReserved+fatSectors), fat)
}

// fatDirEntry returns a folder entry; name has 11 bytes, padded with spaces.
//
//	 0 11 name   11 1 attributes   12 1 case bits   16 2 created   18 2 read
//	20  2 cluster, high   24 2 written   26 2 cluster, low   28 4 size
func fatDirEntry(name string, attr, caseBits byte, cluster, size uint32) []byte {
	le := binary.LittleEndian
	e := make([]byte, fatEntry)
	copy(e, name)
	e[11], e[12] = attr, caseBits
	le.PutUint16(e[16:], fatDate)
	le.PutUint16(e[18:], fatDate)
	le.PutUint16(e[20:], uint16(cluster>>16))
	le.PutUint16(e[24:], fatDate)
	le.PutUint16(e[26:], uint16(cluster))
	le.PutUint32(e[28:], size)
	return e
}

// shortName returns a name in 8.3 and the bits that say which of its halves
// is in lower case. A half in mixed case would need a long name.
func shortName(name string) (short string, caseBits byte, err error) {
	base, ext, _ := strings.Cut(name, ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || strings.Contains(ext, ".") {
		return "", 0, fmt.Errorf("%q is not a name in 8.3", name)
	}
	for i, half := range []string{base, ext} {
		upper := strings.ToUpper(half)
		switch half {
		case upper:
		case strings.ToLower(half):
			caseBits |= 0x08 << i
		default:
			return "", 0, fmt.Errorf("%q mixes cases", name)
		}
	}
	return strings.ToUpper(fmt.Sprintf("%-8s%-3s", base, ext)), caseBits, nil
}

// splitPath splits a path at its last slash, which is dropped.
func splitPath(name string) (dir, base string) {
	dir, base = path.Split(name)
	return strings.TrimSuffix(dir, "/"), base
}
