package lease

import (
	"encoding/binary"
	"time"

	"gridappliance/overlayd/wire"
)

// appendSaved appends a lease as Save hands it out.
//
//	offset size field
//	0      8    when its Hold was sent, by the holder's wall clock, Unix milliseconds
//	8      8    its end, likewise
//	16     n    wire.LeaseCertificate
func (h *Holder) appendSaved(b []byte, l *Lease) []byte {
	term := time.Duration(l.Certificate.Term) * time.Second
	b = binary.BigEndian.AppendUint64(b, uint64(l.wall.Add(-term).UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(l.wall.UnixMilli()))
	return l.Certificate.Append(b)
}

// parseSaved reads a lease of this node on this instance. What is left of it
// is counted by the wall clock; when that has gone back before its start,
// nothing is left.
func (h *Holder) parseSaved(b []byte, now time.Time) (Lease, bool) {
	if len(b) < 16 {
		return Lease{}, false
	}
	from := time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
	end := time.UnixMilli(int64(binary.BigEndian.Uint64(b[8:])))
	c, err := wire.ParseLeaseCertificate(b[16:])
	if err != nil || c.Holder != h.cfg.ID || c.Instance != h.cfg.Instance {
		return Lease{}, false
	}
	l := Lease{Key: c.Key, Certificate: c}
	if wall := now.Round(0); !wall.Before(from) && end.Sub(from) <= time.Duration(c.Term)*time.Second {
		l.until, l.wall = now.Add(end.Sub(wall)), end
	}
	return l, true
}
