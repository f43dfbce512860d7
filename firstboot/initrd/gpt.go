//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"unicode/utf16"
)

// table is the head of a disk with a GUID partition table (UEFI specification
// §5.3): protective MBR, header, entries.
//
//	sector 0       protective MBR
//	sector 1       header: signature 0, size 12, crc 16, own sector 24, copy's
//	               sector 32, first usable 40, last usable 48, disk GUID 56,
//	               entries' sector 72, count 80, size 84, crc of entries 88
//	sector 2..33   128 entries of 128 bytes: type GUID 0, own GUID 16, first
//	               sector 32, last sector 40, flags 48, name 56 (UTF-16LE)
type table struct {
	head []byte // 34 sectors
}

const (
	sector       = 512
	tableSectors = 34
	entryCount   = 128
	entrySize    = 128
	alignment    = 2048 // sectors: 1 MiB
)

var errNoTable = errors.New("no GUID partition table of 128 entries")

// readTable reads a disk's table.
func readTable(device string) (*table, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, tableSectors*sector)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil, fmt.Errorf("read %s: %w", device, err)
	}
	return parseTable(head)
}

// parseTable checks the head of a disk. It keeps head.
func parseTable(head []byte) (*table, error) {
	if len(head) != tableSectors*sector {
		return nil, errNoTable
	}
	t := &table{head}
	h := t.header()
	le := binary.LittleEndian
	if string(h[:8]) != "EFI PART" || le.Uint32(h[12:]) != 92 || le.Uint64(h[24:]) != 1 || le.Uint64(h[72:]) != 2 ||
		le.Uint32(h[80:]) != entryCount || le.Uint32(h[84:]) != entrySize {
		return nil, errNoTable
	}
	if le.Uint32(h[16:]) != headerSum(h) || le.Uint32(h[88:]) != crc32.ChecksumIEEE(t.entries()) {
		return nil, errors.New("the partition table's checksum is wrong")
	}
	return t, nil
}

func (t *table) header() []byte  { return t.head[sector : 2*sector] }
func (t *table) entries() []byte { return t.head[2*sector:] }

// headerSum is the header's CRC with its own field taken as zero.
func headerSum(h []byte) uint32 {
	b := bytes.Clone(h[:92])
	clear(b[16:20])
	return crc32.ChecksumIEEE(b)
}

// partition is one used entry. Sectors are absolute; last is inclusive.
type partition struct {
	number      int // from 1
	name        string
	first, last uint64
}

func (t *table) partitions() []partition {
	var out []partition
	le := binary.LittleEndian
	for i := range entryCount {
		e := t.entries()[i*entrySize : (i+1)*entrySize]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		var name []uint16
		for j := 56; j < entrySize; j += 2 {
			u := le.Uint16(e[j:])
			if u == 0 {
				break
			}
			name = append(name, u)
		}
		out = append(out, partition{i + 1, string(utf16.Decode(name)), le.Uint64(e[32:]), le.Uint64(e[40:])})
	}
	return out
}

// growth is what makes a partition reach the end of its disk: writes, in this
// order, each durable before the next, and the partition as it is then. The
// table's copy at the new end comes first; so at every moment one of the two
// is whole.
type growth struct {
	partition partition
	writes    []write
}

type write struct {
	offset int64
	data   []byte
}

// grow computes the growth of the named partition on a disk of so many
// sectors; nil when there is nothing to gain.
func (t *table) grow(name string, sectors uint64) (*growth, error) {
	var target *partition
	var parts = t.partitions()
	for i := range parts {
		p := &parts[i]
		if p.first > p.last || p.first < tableSectors {
			return nil, fmt.Errorf("partition %d has no sense: sectors %d to %d", p.number, p.first, p.last)
		}
		if p.name == name {
			if target != nil {
				return nil, fmt.Errorf("two partitions are named %s", name)
			}
			target = p
		}
	}
	if target == nil {
		return nil, fmt.Errorf("no partition is named %s", name)
	}
	for _, p := range parts {
		if p.number != target.number && p.last >= target.first {
			return nil, fmt.Errorf("%s is not the last partition", name)
		}
	}
	if sectors < 2*tableSectors || sectors > 1<<53 {
		return nil, fmt.Errorf("a disk of %d sectors", sectors)
	}
	lastUsable := sectors - tableSectors
	end := (lastUsable+1)/alignment*alignment - 1
	if end <= target.last || lastUsable < end {
		return nil, nil
	}
	target.last = end
	return &growth{*target, t.rewrite(*target, sectors, lastUsable)}, nil
}

// rewrite returns the writes that move the table's copy to the end of the
// disk and p's end to its new place.
func (t *table) rewrite(p partition, sectors, lastUsable uint64) []write {
	le := binary.LittleEndian
	entries := bytes.Clone(t.entries())
	le.PutUint64(entries[(p.number-1)*entrySize+40:], p.last)
	primary := bytes.Clone(t.header())
	le.PutUint64(primary[32:], sectors-1)
	le.PutUint64(primary[48:], lastUsable)
	le.PutUint32(primary[88:], crc32.ChecksumIEEE(entries))
	backup := bytes.Clone(primary)
	le.PutUint64(backup[24:], sectors-1)
	le.PutUint64(backup[32:], 1)
	le.PutUint64(backup[72:], sectors-33)
	for _, h := range [][]byte{primary, backup} {
		le.PutUint32(h[16:], headerSum(h))
	}
	mbr := bytes.Clone(t.head[:sector])
	if mbr[446+4] == 0xEE { // the protective entry spans the disk
		le.PutUint32(mbr[446+12:], uint32(min(sectors-1, 0xFFFFFFFF)))
	}
	return []write{
		{int64(sectors-33) * sector, entries},
		{int64(sectors-1) * sector, backup},
		{2 * sector, entries},
		{1 * sector, primary},
		{0, mbr},
	}
}
