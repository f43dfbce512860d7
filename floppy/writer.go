package floppy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"gridappliance/internal/diag"
)

// epoch is the date of every directory entry, 1 January 1980 at midnight, the
// first a FAT knows: equal content is equal bytes on every day.
const epoch = 1<<5 | 1

// bootCode is INT 18h. A BIOS that tries the floppy first runs it and goes on
// to the next boot device; without it some machines hang (research on the
// boot order: SeaBIOS with 55AA and zeros stops).
var bootCode = []byte{0xCD, 0x18}

// WriteImage returns the image of a floppy that holds files, sorted by name.
// Equal files give equal bytes, whatever their order: times are fixed, the
// volume serial comes from the content and unused sectors are zero.
//
// Names must be 8.3, upper case and unique; a file must not be empty. The
// error is a diag.List with every file that is not so.
func WriteImage(files []File) ([]byte, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	if problems := checkWritable(files); len(problems) > 0 {
		return nil, problems
	}
	image := make([]byte, Size)
	table := image[fatOffset : fatOffset+fatSize]
	setTableEntry(table, 0, 0xF00|mediaByte)
	setTableEntry(table, 1, clusterEnd)

	root := image[rootOffset:dataOffset]
	label, _ := shortName(Label)
	putEntry(root, label, attrVolume, 0, 0)
	next := firstCluster
	for i, f := range files {
		short, _ := shortName(f.Name)
		putEntry(root[(i+1)*entrySize:], short, attrArchive, next, len(f.Data))
		n := clustersOf(len(f.Data))
		copy(image[dataOffset+(next-firstCluster)*sectorSize:], f.Data)
		for c := next; c < next+n-1; c++ {
			setTableEntry(table, c, c+1)
		}
		setTableEntry(table, next+n-1, clusterEnd)
		next += n
	}
	copy(image[copyOffset:], table)
	putBootSector(image)
	return image, nil
}

// checkWritable returns what keeps files from being written.
func checkWritable(files []File) diag.List {
	var problems diag.List
	clusters := 0
	for i, f := range files {
		_, ok := shortName(f.Name)
		switch {
		case !ok:
			problems.Add(diag.Problem{File: printable(f.Name), Message: "not an 8.3 name in upper case"})
		case i > 0 && files[i-1].Name == f.Name:
			problems.Add(diag.Problem{File: f.Name, Message: "stands on the floppy twice"})
		case f.Name == Label:
			problems.Add(diag.Problem{File: f.Name, Message: "is the name of the volume label"})
		case len(f.Data) == 0:
			problems.Add(diag.Problem{File: f.Name, Message: "is empty", Remedy: "leave the file out"})
		}
		clusters += clustersOf(len(f.Data))
	}
	if len(files) > rootEntries-1 {
		problems.Add(diag.Problem{Message: fmt.Sprintf("%d files, a floppy holds %d", len(files), rootEntries-1)})
	}
	if clusters > clusterCount {
		problems.Add(diag.Problem{Message: fmt.Sprintf("the files take %d bytes, a floppy holds %d", clusters*sectorSize, Capacity)})
	}
	return problems
}

// putEntry writes one directory entry.
func putEntry(entry []byte, short [11]byte, attr byte, first, size int) {
	copy(entry, short[:])
	entry[11] = attr
	for _, at := range []int{16, 18, 24} { // dates: created, read, written
		binary.LittleEndian.PutUint16(entry[at:], epoch)
	}
	binary.LittleEndian.PutUint16(entry[26:], uint16(first))
	binary.LittleEndian.PutUint32(entry[28:], uint32(size))
}

// putBootSector writes sector 0 of an image whose other sectors are complete.
//
//	offset size meaning
//	0      3    jump to 62
//	3      8    name of the formatter
//	11     13   parameterBlock
//	24     2    sectors a track (18), 26: heads (2)
//	36     1    BIOS drive (0); 38: 29h, the three below are there
//	39     4    volume serial: the first bytes of SHA-256 of sectors 1 to 2879
//	43     11   volume label
//	54     8    "FAT12   "
//	62     2    CD 18, see bootCode
//	510    2    55 AA
func putBootSector(image []byte) {
	boot := image[:sectorSize]
	copy(boot, []byte{0xEB, 0x3C, 0x90})
	copy(boot[3:], "MSWIN4.1") // what the FAT specification recommends
	for _, f := range parameterBlock {
		f.put(boot)
	}
	binary.LittleEndian.PutUint16(boot[24:], 18)
	binary.LittleEndian.PutUint16(boot[26:], 2)
	boot[38] = 0x29
	sum := sha256.Sum256(image[sectorSize:])
	copy(boot[39:43], sum[:])
	copy(boot[43:54], fmt.Sprintf("%-11s", Label))
	copy(boot[54:62], "FAT12   ")
	copy(boot[62:], bootCode)
	boot[510], boot[511] = 0x55, 0xAA
}

// shortName returns name as the 11 bytes of a directory entry; ok is false
// when it is not a plain 8.3 name in upper case.
func shortName(name string) (short [11]byte, ok bool) {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~"
	base, ext, dotted := strings.Cut(name, ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || dotted && ext == "" {
		return short, false
	}
	for _, s := range []string{base, ext} {
		if strings.Trim(s, allowed) != "" {
			return short, false
		}
	}
	copy(short[:], fmt.Sprintf("%-8s%-3s", base, ext))
	return short, true
}
