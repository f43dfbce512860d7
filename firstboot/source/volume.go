package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"gridappliance/floppy"
)

// kind is the filesystem of a volume.
type kind int

const (
	kindOther kind = iota
	kindFAT
	kindISO
)

// volume is what the first sectors of a device say about it.
type volume struct {
	kind  kind
	label string
}

// isoStart is where the first volume descriptor of an ISO 9660 filesystem
// stands, in bytes (ECMA-119 §7.2: sixteen sectors of 2,048 are the system's).
const isoStart = 16 * 2048

// probe reads a volume's kind and label.
func probe(path string) (volume, error) {
	f, err := openDevice(path)
	if err != nil {
		return volume{}, err
	}
	defer f.Close()
	return parseVolume(f)
}

// parseVolume reads kind and label of what r holds. It reads at most 24 KiB,
// and returns kindOther for anything it does not know.
func parseVolume(r io.ReaderAt) (volume, error) {
	boot := make([]byte, 512)
	if err := readAt(r, boot, 0); err != nil {
		return volume{}, err
	}
	descriptor := make([]byte, 2048)
	if err := readAt(r, descriptor, isoStart); err == nil && isISO(descriptor) {
		return volume{kindISO, strings.TrimRight(string(descriptor[40:72]), " \x00")}, nil
	}
	if !isFAT(boot) {
		return volume{}, nil
	}
	return volume{kindFAT, fatLabel(r, boot)}, nil
}

// isISO says whether d is a primary volume descriptor (ECMA-119 §8.4).
func isISO(d []byte) bool { return d[0] == 1 && string(d[1:6]) == "CD001" }

// isFAT says whether boot is the boot sector of a FAT filesystem rather than a
// partition table: both end in 55AA.
func isFAT(boot []byte) bool {
	bytesPerSector := binary.LittleEndian.Uint16(boot[11:])
	sectorsPerCluster := boot[13]
	return boot[510] == 0x55 && boot[511] == 0xaa &&
		(bytesPerSector == 512 || bytesPerSector == 1024 || bytesPerSector == 2048 || bytesPerSector == 4096) &&
		sectorsPerCluster != 0 && sectorsPerCluster&(sectorsPerCluster-1) == 0 &&
		binary.LittleEndian.Uint16(boot[14:]) != 0 && // reserved sectors
		(boot[16] == 1 || boot[16] == 2) // allocation tables
}

// fatLabel returns the volume label of a FAT filesystem: the root directory's,
// because that is the one Windows changes, else the boot sector's.
func fatLabel(r io.ReaderAt, boot []byte) string {
	var (
		sector   = int64(binary.LittleEndian.Uint16(boot[11:]))
		reserved = int64(binary.LittleEndian.Uint16(boot[14:]))
		tables   = int64(boot[16])
		perTable = int64(binary.LittleEndian.Uint16(boot[22:]))
		entries  = int64(binary.LittleEndian.Uint16(boot[17:]))
		root     = (reserved + tables*perTable) * sector
		label    = boot[43:54]
		length   = entries * 32
	)
	if perTable == 0 { // FAT32: the root directory is a chain of clusters
		perTable = int64(binary.LittleEndian.Uint32(boot[36:]))
		first := int64(binary.LittleEndian.Uint32(boot[44:]))
		cluster := int64(boot[13]) * sector
		root = (reserved+tables*perTable)*sector + (first-2)*cluster
		label = boot[71:82]
		length = cluster
	}
	directory := make([]byte, min(length, 16384)) // 512 entries, the most a FAT16 root has
	if err := readAt(r, directory, root); err == nil {
		for e := directory; len(e) >= 32 && e[0] != 0; e = e[32:] {
			if e[0] != 0xe5 && e[11]&0x3f == 0x08 { // in use, volume label, not part of a long name
				label = e[:11]
				break
			}
		}
	}
	return strings.TrimRight(string(label), " \x00")
}

// read returns the floppy that the volume at path holds, as an image: the
// volume itself where it is one, else one made of its files.
func (v volume) read(path string) ([]byte, error) {
	if v.kind == kindISO {
		files, err := readISO(path)
		if err != nil {
			return nil, err
		}
		return imageOfFiles(files)
	}
	f, err := openDevice(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	boot := make([]byte, 512)
	if err := readAt(f, boot, 0); err != nil {
		return nil, err
	}
	if sectors := binary.LittleEndian.Uint16(boot[19:]); int(sectors)*512 == floppy.Size {
		image := make([]byte, floppy.Size)
		return image, readAt(f, image, 0)
	}
	filesystem, err := openFAT(f)
	if err != nil {
		return nil, err
	}
	files, err := filesystem.files()
	if err != nil {
		return nil, err
	}
	return imageOfFiles(files)
}

// imageOfFiles returns a floppy of files, whose names may be longer than a
// floppy's and in small letters.
func imageOfFiles(files []floppy.File) ([]byte, error) {
	for i, f := range files {
		if strings.EqualFold(f.Name, floppy.ConfigLongFile) {
			files[i].Name = floppy.ConfigFile
			continue
		}
		files[i].Name = strings.ToUpper(f.Name)
	}
	return floppy.WriteImage(files)
}

// readAt fills b from r at offset.
func readAt(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), offset, err)
}
