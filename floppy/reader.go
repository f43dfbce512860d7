package floppy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"gridappliance/internal/diag"
)

// ReadImage returns the files of a floppy image in the order of its
// directory: long names where there are, else 8.3 names; no volume label, no
// deleted files, no directories that operating systems leave behind. The data
// are copies.
//
// The error is a diag.List with everything that is wrong with the image: its
// size and geometry, cluster chains that loop, leave the disk, meet or do not
// fit a file's size, names that stand there twice, directories.
func ReadImage(image []byte) ([]File, error) {
	files, _, problems := readImage(image)
	if len(problems) > 0 {
		return nil, problems
	}
	return files, nil
}

// readImage is ReadImage that goes on: it returns the files that could be
// read, the names of those that could not, and every problem.
func readImage(image []byte) (files []File, damaged []string, problems diag.List) {
	if p := checkGeometry(image); len(p) > 0 {
		return nil, nil, p
	}
	r := reader{image: image, table: image[fatOffset : fatOffset+fatSize]}
	r.checkTables()
	r.readRoot()
	files = slices.DeleteFunc(r.files, func(f File) bool {
		return slices.ContainsFunc(r.damaged, func(name string) bool { return strings.EqualFold(name, f.Name) })
	})
	return files, r.damaged, r.problems
}

// reader walks one image of the right geometry.
type reader struct {
	image    []byte
	table    []byte                   // the first allocation table
	owner    [lastCluster + 1]*string // name of the file a cluster belongs to
	files    []File
	damaged  []string
	problems diag.List
}

// otherSizes are images people make by mistake.
var otherSizes = map[int]string{
	360 << 10: "a 360 KB floppy", 720 << 10: "a 720 KB floppy", 1200 << 10: "a 1.2 MB floppy",
	1680 << 10: "a 1.68 MB floppy", 2880 << 10: "a 2.88 MB floppy",
}

// checkGeometry returns what keeps image from being a 1.44 MB FAT12 floppy.
func checkGeometry(image []byte) diag.List {
	const remedy = "make the floppy with builder floppy new, or with mkfs.fat -C floppy.img 1440"
	one := func(format string, args ...any) diag.List {
		return diag.List{{Message: fmt.Sprintf(format, args...), Remedy: remedy}}
	}
	if len(image) != Size {
		what := "not a floppy image"
		switch other := otherSizes[len(image)]; {
		case other != "":
			what = other
		case len(image) == 0:
			what = "an empty file"
		case len(image) < Size:
			what = "cut off in the " + regionAt(len(image))
		}
		return one("%s: %d bytes, a 1.44 MB floppy has %d", what, len(image), Size)
	}
	boot := image[:sectorSize]
	if bytes.Count(boot, []byte{0}) == sectorSize {
		return one("not formatted: its first sector is empty")
	}
	var problems diag.List
	for _, f := range parameterBlock {
		if got := f.get(boot); got != f.want {
			problems = append(problems, one("boot sector: %d %s, a grid floppy has %d", got, f.name, f.want)...)
		}
	}
	return problems
}

// regionAt names the part of a floppy that the byte at offset stands in.
func regionAt(offset int) string {
	switch {
	case offset < fatOffset:
		return "boot sector"
	case offset < rootOffset:
		return "allocation table"
	case offset < dataOffset:
		return "root directory"
	}
	return "data"
}

// checkTables compares the two allocation tables.
func (r *reader) checkTables() {
	if tableEntry(r.table, 0)&0xFF != mediaByte {
		r.problems.Add(diag.Problem{Message: fmt.Sprintf("allocation table: begins with media byte %02X, not %02X", r.table[0], mediaByte), Remedy: remedyDamaged})
	}
	second := r.image[copyOffset:rootOffset]
	for c := firstCluster; c <= lastCluster; c++ {
		if a, b := tableEntry(r.table, c), tableEntry(second, c); a != b {
			r.problems.Add(diag.Problem{
				Message: fmt.Sprintf("the two allocation tables differ, first at cluster %d (%03X and %03X)", c, a, b),
				Remedy:  remedyDamaged,
			})
			return
		}
	}
}

const remedyDamaged = "the floppy is damaged: copy its files to a new one"

// readRoot walks the root directory.
func (r *reader) readRoot() {
	var long longName
	shorts, names := map[string]string{}, map[string]bool{}
	for at := rootOffset; at < dataOffset; at += entrySize {
		entry := r.image[at : at+entrySize]
		attr := entry[11]
		switch {
		case entry[0] == 0x00: // nothing was ever written from here on
			return
		case entry[0] == 0xE5: // deleted
			long = longName{}
			continue
		case attr&attrLongMask == attrLongName:
			long.add(entry)
			continue
		case attr&attrVolume != 0: // label
			long = longName{}
			continue
		}
		short := decodeShort(entry)
		name := long.take(entry[:11])
		if name == "" {
			name = short
		}
		r.checkTwin(shorts, names, short, name)
		if attr&attrDirectory != 0 {
			r.readDirectory(name, entry)
		} else {
			r.readFile(name, entry)
		}
	}
}

// checkTwin reports names that a reader could take for one another. Long and
// short names share one space, and case does not count (FAT specification).
func (r *reader) checkTwin(shorts map[string]string, names map[string]bool, short, name string) {
	folded := strings.ToUpper(name)
	first, twin := shorts[short]
	switch {
	case twin && first != name:
		r.fail(name, fmt.Sprintf("has the same 8.3 name %q as %q", short, printable(first)), "give the two files different names")
	case twin || names[folded] || names[short]:
		r.fail(name, "stands in the directory twice", "delete one of the two")
	}
	shorts[short], names[folded], names[short] = name, true, true
}

// fail reports that the file called name cannot be read.
func (r *reader) fail(name, message, remedy string) {
	r.damaged = append(r.damaged, name)
	r.problems.Add(diag.Problem{File: printable(name), Message: message, Remedy: remedy})
}

// readDirectory passes over the directories that operating systems leave.
func (r *reader) readDirectory(name string, entry []byte) {
	if !isLitter(name) {
		r.fail(name, "is a directory", "a floppy has no directories: move its files to the top and delete it")
		return
	}
	r.chain(name, int(binary.LittleEndian.Uint16(entry[26:])), clusterCount)
}

// readFile reads one file.
func (r *reader) readFile(name string, entry []byte) {
	first := int(binary.LittleEndian.Uint16(entry[26:]))
	size := int64(binary.LittleEndian.Uint32(entry[28:]))
	if size > Capacity {
		r.fail(name, fmt.Sprintf("says it has %d bytes, a floppy holds %d", size, Capacity), remedyDamaged)
		return
	}
	want := clustersOf(int(size))
	if want == 0 && first == 0 {
		r.files = append(r.files, File{Name: name})
		return
	}
	clusters, ok := r.chain(name, first, want)
	if !ok {
		return
	}
	if len(clusters) != want {
		r.fail(name, fmt.Sprintf("has %d bytes but %d clusters, not %d", size, len(clusters), want), remedyDamaged)
		return
	}
	data := make([]byte, 0, want*sectorSize)
	for _, c := range clusters {
		data = append(data, cluster(r.image, c)...)
	}
	r.files = append(r.files, File{Name: name, Data: data[:size]})
}

// chain follows a file's clusters and takes possession of them. It ends after
// at most clusterCount steps, since no cluster is taken twice.
func (r *reader) chain(name string, first, want int) ([]int, bool) {
	var clusters []int
	for c := first; ; {
		switch {
		case c == clusterFree:
			r.fail(name, fmt.Sprintf("its cluster chain breaks off after %d of %d clusters", len(clusters), want), remedyDamaged)
			return nil, false
		case c == clusterBad:
			r.fail(name, "its cluster chain runs into a bad sector", remedyDamaged)
			return nil, false
		case c < firstCluster || c > lastCluster:
			r.fail(name, fmt.Sprintf("its cluster chain leaves the disk (cluster %d of %d)", c, lastCluster), remedyDamaged)
			return nil, false
		case r.owner[c] == &name:
			r.fail(name, fmt.Sprintf("its cluster chain loops at cluster %d", c), remedyDamaged)
			return nil, false
		case r.owner[c] != nil:
			r.fail(name, fmt.Sprintf("shares cluster %d with %s", c, printable(*r.owner[c])), remedyDamaged)
			r.damaged = append(r.damaged, *r.owner[c])
			return nil, false
		}
		r.owner[c] = &name // the address: two files may have one name
		clusters = append(clusters, c)
		if c = tableEntry(r.table, c); c >= clusterEndFrom {
			return clusters, true
		}
	}
}

// decodeShort returns the 8.3 name of an entry. Bytes above 7F are taken as
// Latin-1: whatever they stood for, they stay different from one another.
func decodeShort(entry []byte) string {
	raw := bytes.Clone(entry[:11])
	if raw[0] == 0x05 { // stands for E5, which would mean deleted
		raw[0] = 0xE5
	}
	var b strings.Builder
	write := func(part []byte) {
		for _, c := range bytes.TrimRight(part, " ") {
			b.WriteRune(rune(c))
		}
	}
	write(raw[:8])
	if ext := raw[8:]; len(bytes.TrimRight(ext, " ")) > 0 {
		b.WriteByte('.')
		write(ext)
	}
	return b.String()
}

// printable returns name with everything that a terminal could take for a
// command replaced by '?'.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, name)
}
