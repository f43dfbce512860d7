package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
)

// Table reads the partitions of a disk by name: the GPT's first copy (UEFI
// specification §5.3), sectors of 512 bytes. A partition without a name is
// passed over; of two with one name the first counts.
func Table(r io.ReaderAt, size int64) (map[string]Range, error) {
	h := make([]byte, 512)
	if _, err := r.ReadAt(h, 512); err != nil || string(h[:8]) != "EFI PART" {
		return nil, errors.New("read partitions: the disk has no GPT: not an image of the builder's")
	}
	le := binary.LittleEndian
	at, count, entry := int64(le.Uint64(h[72:])), le.Uint32(h[80:]), le.Uint32(h[84:])
	if count > 1024 || entry < 128 || entry > 4096 || at > size/512 {
		return nil, errors.New("read partitions: a GPT that says nonsense")
	}
	b := make([]byte, int(count)*int(entry))
	if _, err := r.ReadAt(b, at*512); err != nil {
		return nil, fmt.Errorf("read partitions: %w", err)
	}
	out := map[string]Range{}
	for ; len(b) > 0; b = b[entry:] {
		var name []uint16
		for i := 56; i < 128; i += 2 {
			if c := le.Uint16(b[i:]); c != 0 {
				name = append(name, c)
			} else {
				break
			}
		}
		p := Range{int64(le.Uint64(b[32:])) * 512, (int64(le.Uint64(b[40:])) + 1) * 512}
		s := string(utf16.Decode(name))
		if _, have := out[s]; have || s == "" {
			continue
		}
		if p.Start <= 0 || p.End <= p.Start || p.End > size {
			return nil, fmt.Errorf("read partitions: %s leaves the disk", s)
		}
		out[s] = p
	}
	return out, nil
}
