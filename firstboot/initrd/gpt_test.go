//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// testTable makes the head of a disk of so many sectors.
func testTable(sectors uint64, parts ...partition) []byte {
	le := binary.LittleEndian
	head := make([]byte, tableSectors*sector)
	head[446+4] = 0xEE
	le.PutUint32(head[446+8:], 1)
	le.PutUint32(head[446+12:], uint32(sectors-1))
	head[510], head[511] = 0x55, 0xAA
	h, entries := head[sector:2*sector], head[2*sector:]
	for _, p := range parts {
		e := entries[(p.number-1)*entrySize:]
		e[0], e[16] = 1, byte(p.number) // any type, any GUID
		le.PutUint64(e[32:], p.first)
		le.PutUint64(e[40:], p.last)
		for i, u := range utf16.Encode([]rune(p.name)) {
			le.PutUint16(e[56+2*i:], u)
		}
	}
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x10000)
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], sectors-1)
	le.PutUint64(h[40:], tableSectors)
	le.PutUint64(h[48:], sectors-tableSectors)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], entryCount)
	le.PutUint32(h[84:], entrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], headerSum(h))
	return head
}

var twoParts = []partition{{4, "gridbase", 2048, 4095}, {5, "griduser", 4096, 8191}}

func TestPartitions(t *testing.T) {
	tab, err := parseTable(testTable(10240, twoParts...))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(twoParts, tab.partitions(), cmp.AllowUnexported(partition{})); d != "" {
		t.Error(d)
	}
}

func TestGrow(t *testing.T) {
	const made = 10240 // sectors of the disk the image was made for
	last := func(n uint64) []partition { return []partition{twoParts[0], {5, "griduser", 4096, n}} }
	tests := []struct {
		name    string
		parts   []partition
		sectors uint64
		end     uint64 // 0: nothing to gain
		err     string
	}{
		{"disk of 100 MiB", twoParts, 204800, 202751, ""},
		{"disk whose end is not aligned", twoParts, 204801 + 33, 204799, ""},
		{"same disk", last(8191), made, 0, ""},
		{"less than a MiB more", last(8191), made + 33, 8191 + 2048, ""},
		{"a disk cut short", last(8191), 9000, 0, ""},
		{"griduser is not there", twoParts[:1], 204800, 0, "no partition is named griduser"},
		{"griduser is not last", append(last(8191), partition{6, "other", 8192, 8200}), 204800, 0, "griduser is not the last partition"},
		{"two of that name", append(last(8191), partition{6, "griduser", 8192, 8200}), 204800, 0, "two partitions are named griduser"},
		{"ends before it begins", last(10), 204800, 0, "partition 5 has no sense"},
		{"over the table", []partition{{1, "griduser", 1, 10}}, 204800, 0, "partition 1 has no sense"},
		{"absurd disk", twoParts, 1 << 60, 0, "a disk of"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab, err := parseTable(testTable(made, tt.parts...))
			if err != nil {
				t.Fatal(err)
			}
			g, err := tab.grow(partUser, tt.sectors)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.end == 0 {
				if g != nil {
					t.Fatalf("grows to %d", g.partition.last)
				}
				return
			}
			if g == nil {
				t.Fatal("does not grow")
			}
			if g.partition.last != tt.end {
				t.Errorf("ends at %d, want %d", g.partition.last, tt.end)
			}
		})
	}
}

// TestGrowInterrupted stops after every write: the primary table or its copy
// at the place the primary, or the disk's end, names must be whole.
func TestGrowInterrupted(t *testing.T) {
	const small, large = 10240, 204800
	for n := range 6 {
		image := make([]byte, large*sector)
		head := testTable(small, twoParts...)
		copy(image, head)
		tab, err := parseTable(bytes.Clone(head))
		if err != nil {
			t.Fatal(err)
		}
		g, err := tab.grow(partUser, large)
		if err != nil {
			t.Fatal(err)
		}
		if len(g.writes) != 5 {
			t.Fatalf("%d writes", len(g.writes))
		}
		for _, w := range g.writes[:n] {
			copy(image[w.offset:], w.data)
		}
		_, primary := parseTable(image[:tableSectors*sector])
		if primary != nil && !backupWhole(image) {
			t.Errorf("after %d writes neither table is whole", n)
		}
	}
}

func backupWhole(image []byte) bool {
	le := binary.LittleEndian
	h := image[len(image)-sector:]
	at := le.Uint64(h[72:]) * sector
	return string(h[:8]) == "EFI PART" && le.Uint32(h[16:]) == headerSum(h) && at < uint64(len(image)) &&
		le.Uint32(h[88:]) == crc32.ChecksumIEEE(image[at:at+entryCount*entrySize])
}

// TestGrowSgdisk lets sgdisk make a table and judge the grown one.
func TestGrowSgdisk(t *testing.T) {
	sgdisk := need.Tool(t, "sgdisk")
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		out, err := sysrun.Output(t.Context(), sgdisk, append(args, name)...)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	run("-n", "1:2048:+1M", "-c", "1:gridbase", "-n", "2:8192:+4M", "-c", "2:griduser")
	const size = 40<<20 + 512
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	tab, err := readTable(name)
	if err != nil {
		t.Fatal(err)
	}
	g, err := tab.grow(partUser, size/sector)
	if err != nil || g == nil {
		t.Fatal(g, err)
	}
	for _, w := range g.writes {
		if _, err := f.WriteAt(w.data, w.offset); err != nil {
			t.Fatal(err)
		}
	}
	if out := run("-v"); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
	if out := run("-i", "2"); !strings.Contains(out, "Last sector: 79871 ") {
		t.Error(out)
	}
}

func FuzzGrow(f *testing.F) {
	f.Add(testTable(10240, twoParts...), uint64(204800))
	f.Add(testTable(10240), uint64(0))
	f.Fuzz(func(t *testing.T, head []byte, sectors uint64) {
		if len(head) == tableSectors*sector { // let the fuzzer past the checksums
			h := head[sector : 2*sector]
			binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(head[2*sector:]))
			binary.LittleEndian.PutUint32(h[16:], headerSum(h))
		}
		tab, err := parseTable(head)
		if err != nil {
			return
		}
		g, err := tab.grow(partUser, sectors)
		if err != nil || g == nil {
			return
		}
		for _, w := range g.writes {
			if w.offset < 0 || uint64(w.offset)+uint64(len(w.data)) > sectors*sector {
				t.Fatalf("writes %d bytes at %d of a disk of %d sectors", len(w.data), w.offset, sectors)
			}
			if o := uint64(w.offset) / sector; o >= tableSectors && o <= g.partition.last {
				t.Fatalf("writes into partitions, at sector %d", o)
			}
		}
		grown := bytes.Clone(head)
		for _, w := range g.writes[2:] {
			copy(grown[w.offset:], w.data)
		}
		again, err := parseTable(grown)
		if err != nil {
			t.Fatal(err)
		}
		if more, err := again.grow(partUser, sectors); more != nil || err != nil {
			t.Fatalf("grows a second time: %v, %v", more, err)
		}
	})
}
