package floppy

import (
	"encoding/binary"
	"unicode/utf16"
)

// longName collects the entries that carry a file's long name. They stand
// before its 8.3 entry, last part first:
//
//	offset size meaning
//	0      1    part number from 1; 40h added in the last part
//	1      10   five UTF-16LE units; 14: six more; 28: two more
//	11     1    attribute 0Fh
//	13     1    checksum of the 8.3 name
//
// A name whose parts are out of order, incomplete or of another 8.3 name (its
// file was renamed by a system that knows no long names) does not count.
type longName struct {
	units []uint16
	next  int // the part number that must come now; 0 = complete
	sum   byte
	valid bool
}

// maxParts is 255 UTF-16 units in parts of 13, rounded up.
const maxParts = 20

// add takes one entry.
func (l *longName) add(entry []byte) {
	part := int(entry[0] & 0x3F)
	if entry[0]&0x40 != 0 {
		*l = longName{next: part, sum: entry[13], valid: part >= 1 && part <= maxParts}
	}
	if !l.valid || part != l.next || entry[13] != l.sum {
		*l = longName{}
		return
	}
	units := make([]uint16, 0, 13+len(l.units))
	for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		units = append(units, binary.LittleEndian.Uint16(entry[at:]))
	}
	l.units = append(units, l.units...)
	l.next--
}

// take returns the long name that belongs to the 8.3 name short, or "", and
// is ready for the next file.
func (l *longName) take(short []byte) string {
	taken := *l
	*l = longName{}
	if !taken.valid || taken.next != 0 || taken.sum != shortSum(short) {
		return ""
	}
	for i, u := range taken.units {
		if u == 0 { // the end, where the name does not fill its last part
			return string(utf16.Decode(taken.units[:i]))
		}
	}
	return string(utf16.Decode(taken.units))
}

// shortSum is the checksum that ties a long name to its 8.3 name.
func shortSum(short []byte) byte {
	var sum byte
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}
