package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"gridappliance/floppy"
)

// fat reads the root directory of a FAT12, FAT16 or FAT32 filesystem, such as
// a memory stick that a person has labelled GRIDCONF and put a floppy's files
// on. (Images of floppies are read by package floppy, which is stricter.)
//
// Whatever the filesystem says, no chain is followed further than what is
// wanted of it, so that loops and huge sizes end in an error. Source:
// Microsoft FAT specification 1.03.
type fat struct {
	r        io.ReaderAt
	bits     int   // of an entry in the allocation table: 12, 16 or 32
	cluster  int64 // bytes
	table    int64 // where the first allocation table stands, bytes
	root     int64 // where the root directory stands (FAT12, FAT16), bytes
	entries  int64 // in it; 0 for FAT32
	data     int64 // where cluster 2 stands, bytes
	clusters uint32
	first    uint32 // cluster of the root directory (FAT32)
}

const (
	entrySize    = 32
	maxDirectory = 4096 * entrySize // of a root directory, bytes

	attrHidden    = 0x02
	attrVolume    = 0x08
	attrDirectory = 0x10
	attrLong      = 0x0f
)

// openFAT reads the boot sector of what isFAT takes for a filesystem.
func openFAT(r io.ReaderAt) (*fat, error) {
	boot := make([]byte, 512)
	if err := readAt(r, boot, 0); err != nil {
		return nil, err
	}
	if !isFAT(boot) {
		return nil, errors.New("not a FAT filesystem")
	}
	var (
		u16      = func(o int) int64 { return int64(binary.LittleEndian.Uint16(boot[o:])) }
		u32      = func(o int) int64 { return int64(binary.LittleEndian.Uint32(boot[o:])) }
		sector   = u16(11)
		perTable = u16(22)
		total    = u16(19)
	)
	if perTable == 0 {
		perTable = u32(36)
	}
	if total == 0 {
		total = u32(32)
	}
	f := &fat{r: r, cluster: sector * int64(boot[13]), table: u16(14) * sector, entries: u16(17)}
	rootSectors := (f.entries*entrySize + sector - 1) / sector
	f.root = f.table + int64(boot[16])*perTable*sector
	f.data = f.root + rootSectors*sector
	count := (total*sector - f.data) / f.cluster
	switch {
	case count < 1:
		return nil, errors.New("the FAT filesystem has no room for files")
	case count < 4085: // the specification's limits, to the number
		f.bits = 12
	case count < 65525:
		f.bits = 16
	default:
		f.bits, f.first = 32, uint32(u32(44))
	}
	f.clusters = uint32(min(count, 1<<28))
	return f, nil
}

// files returns the files of the root directory, without folders and hidden
// files: systems leave such things on a stick.
func (f *fat) files() ([]floppy.File, error) {
	directory, err := f.directory()
	if err != nil {
		return nil, err
	}
	var (
		files []floppy.File
		long  []uint16
		size  int64
	)
	for e := directory; len(e) >= entrySize && e[0] != 0; e = e[entrySize:] {
		attr := e[11]
		switch {
		case e[0] == 0xe5: // deleted
			long = nil
			continue
		case attr&0x3f == attrLong:
			long = append(longPart(e), long...) // the last part stands first
			continue
		case attr&(attrVolume|attrDirectory|attrHidden) != 0:
			long = nil
			continue
		}
		name := fileName(e, long)
		long = nil
		length := int64(binary.LittleEndian.Uint32(e[28:]))
		if size += length; size > floppy.Size {
			return nil, fmt.Errorf("%s: its files do not fit a floppy", name)
		}
		first := uint32(binary.LittleEndian.Uint16(e[26:])) | uint32(binary.LittleEndian.Uint16(e[20:]))<<16
		if f.bits != 32 {
			first &= 0xffff
		}
		data, err := f.chain(first, length)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if int64(len(data)) < length {
			return nil, fmt.Errorf("%s: the filesystem is damaged: the file is cut off", name)
		}
		files = append(files, floppy.File{Name: name, Data: data[:length]})
	}
	return files, nil
}

// directory returns the root directory.
func (f *fat) directory() ([]byte, error) {
	if f.bits == 32 {
		return f.chain(f.first, maxDirectory)
	}
	b := make([]byte, min(f.entries*entrySize, maxDirectory))
	return b, readAt(f.r, b, f.root)
}

// chain returns at most want bytes, rounded up to whole clusters, of the chain
// that begins at cluster c.
func (f *fat) chain(c uint32, want int64) ([]byte, error) {
	var data []byte
	for int64(len(data)) < want {
		if c < 2 || c-2 >= f.clusters {
			return nil, errors.New("the filesystem is damaged: a chain leaves it")
		}
		part := make([]byte, min(f.cluster, want-int64(len(data))))
		if err := readAt(f.r, part, f.data+int64(c-2)*f.cluster); err != nil {
			return nil, err
		}
		data = append(data, part...)
		next, last, err := f.next(c)
		if err != nil || last {
			return data, err
		}
		c = next
	}
	return data, nil
}

// next returns the cluster after c, and whether c is the last.
func (f *fat) next(c uint32) (next uint32, last bool, err error) {
	entry := make([]byte, 4)
	width := f.bits / 8 // 1 for FAT12: one and a half
	offset := int64(c) * int64(width)
	if f.bits == 12 {
		offset, width = int64(c)+int64(c)/2, 2
	}
	if err := readAt(f.r, entry[:width], f.table+offset); err != nil {
		return 0, false, err
	}
	next = binary.LittleEndian.Uint32(entry)
	switch f.bits {
	case 12:
		next = next >> (4 * (c & 1)) & 0xfff
		return next, next >= 0xff8, nil
	case 16:
		return next, next >= 0xfff8, nil
	}
	next &= 0x0fffffff
	return next, next >= 0x0ffffff8, nil
}

// longPart returns the characters of one entry of a long name.
func longPart(e []byte) []uint16 {
	var part []uint16
	for _, span := range [][]byte{e[1:11], e[14:26], e[28:32]} {
		for ; len(span) >= 2; span = span[2:] {
			u := binary.LittleEndian.Uint16(span)
			if u == 0 || u == 0xffff {
				return part
			}
			part = append(part, u)
		}
	}
	return part
}

// fileName returns the long name before entry e, or its 8.3 name.
func fileName(e []byte, long []uint16) string {
	if len(long) > 0 {
		return string(utf16.Decode(long))
	}
	name := strings.TrimRight(string(e[:8]), " ")
	if extension := strings.TrimRight(string(e[8:11]), " "); extension != "" {
		name += "." + extension
	}
	return name
}
