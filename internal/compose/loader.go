package compose

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// The dynamic loader's cache, /etc/ld.so.cache (glibc 2.41,
// sysdeps/generic/dl-cache.h), new form, little endian:
//
//	offset size field
//	     0   20 magic "glibc-ld.so.cache1.1"
//	    20    4 entries
//	    24    4 bytes of strings
//	    28    1 flags: 2 is little endian
//	    32    4 extension, 0 for none
//	    48      entries of 24 bytes: flags 4, name 4, path 4, unused 4, hwcap 8
//	            strings, ended by zeros; names and paths are offsets in the file
//
// Entries are sorted by name, the greatest first, as the loader's search
// wants them. An entry for one kind of processor (hwcap) is left out: the
// loader then takes the library for all.
const (
	loaderMagic = "glibc-ld.so.cache1.1"
	loaderHead  = 48
	loaderEntry = 24
)

// parseLoaderCache: the key is name and flags, the text the path.
func parseLoaderCache(b []byte) []record {
	if len(b) < loaderHead || string(b[:20]) != loaderMagic || b[28]&3 != 2 {
		return nil
	}
	le := binary.LittleEndian
	str := func(at uint32) string {
		if int64(at) >= int64(len(b)) {
			return ""
		}
		s, _, _ := bytes.Cut(b[at:], []byte{0})
		return string(s)
	}
	var out []record
	seen := map[string]bool{}
	for i := range int64(le.Uint32(b[20:])) {
		at := loaderHead + i*loaderEntry
		if at+loaderEntry > int64(len(b)) {
			break
		}
		e := b[at:]
		name, path := str(le.Uint32(e[4:])), str(le.Uint32(e[8:]))
		key := fmt.Sprintf("%s %d", name, le.Uint32(e))
		if le.Uint64(e[16:]) != 0 || name == "" || path == "" || seen[key] {
			continue
		}
		seen[key] = true // the loader takes the first
		out = append(out, record{key, path})
	}
	return out
}

func renderLoaderCache(rs []record) []byte {
	type entry struct {
		name, path string
		flags      uint32
	}
	var es []entry
	for _, r := range rs {
		e := entry{path: r.text}
		if _, err := fmt.Sscanf(r.key, "%s %d", &e.name, &e.flags); err == nil {
			es = append(es, e)
		}
	}
	slices.SortStableFunc(es, func(a, b entry) int {
		if c := compareLibraries(b.name, a.name); c != 0 {
			return c
		}
		return int(int64(b.flags) - int64(a.flags))
	})
	le := binary.LittleEndian
	head := make([]byte, loaderHead+len(es)*loaderEntry)
	copy(head, loaderMagic)
	le.PutUint32(head[20:], uint32(len(es)))
	head[28] = 2
	var strs bytes.Buffer
	put := func(s string) uint32 {
		at := len(head) + strs.Len()
		strs.WriteString(s)
		strs.WriteByte(0)
		return uint32(at)
	}
	for i, e := range es {
		b := head[loaderHead+i*loaderEntry:]
		le.PutUint32(b, e.flags)
		le.PutUint32(b[4:], put(e.name))
		le.PutUint32(b[8:], put(e.path))
	}
	le.PutUint32(head[24:], uint32(strs.Len()))
	return append(head, strs.Bytes()...)
}

// compareLibraries orders names as the loader does (elf/dl-cache.c,
// _dl_cache_libcmp): runs of digits by their number, all else by bytes.
func compareLibraries(a, b string) int {
	digit := func(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }
	for a != "" {
		switch {
		case digit(a) && digit(b):
			var x, y int32
			for ; digit(a); a = a[1:] {
				x = x*10 + int32(a[0]-'0')
			}
			for ; digit(b); b = b[1:] {
				y = y*10 + int32(b[0]-'0')
			}
			if x != y {
				return int(x) - int(y)
			}
		case digit(a):
			return 1
		case digit(b):
			return -1
		case b == "":
			return 1
		case a[0] != b[0]:
			return int(a[0]) - int(b[0])
		default:
			a, b = a[1:], b[1:]
		}
	}
	return -strings.Compare(b, "")
}
