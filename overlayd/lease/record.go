package lease

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// The witness's file is a sequence of records:
//
//	offset size
//	0      1    kind
//	1      2    length n
//	3      n    body
//	3+n    4    CRC-32C of all before it in the record
//
//	kind      body
//	1 header  1 format, 16 node ID, 8 instance, 2 incarnation
//	2 boot    4 number
//	3 hold    key, 16 holder, 8 instance, 8 quota, 8 seq, 8 nonce, 4 term,
//	          8 end: Unix milliseconds; the last of a key counts
//	4 known   16 witness, 2 incarnation, 8 nonce
//	5 epoch   8 highest epoch seen
//	6 twin    2 highest incarnation seen: suspended
//	7 stopped a wire.Stopped
//	8 voting  nothing: it has recovered
//	9 mark    8 records that were ever written, this file as one; each record
//	          after it is one more
//
// What follows a record that is cut off or damaged is not read: a crash while
// appending loses only what nothing was signed for. A damaged record before
// the end is taken for the end, and then a holder or another witness shows what
// is missing.
const (
	recordHeader  = 1
	recordBoot    = 2
	recordHold    = 3
	recordKnown   = 4
	recordEpoch   = 5
	recordTwin    = 6
	recordStopped = 7
	recordVoting  = 8
	recordMark    = 9

	fileFormat = 1
	maxRecord  = 2048
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendRecord(b []byte, kind byte, body []byte) []byte {
	from := len(b)
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, body...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

func (w *Witness) appendHeader(b []byte) []byte {
	body := append([]byte{fileFormat}, w.cfg.ID[:]...)
	body = append(body, w.cfg.Instance[:]...)
	return appendRecord(b, recordHeader, binary.BigEndian.AppendUint16(body, w.incarnation))
}

func appendHold(b []byte, key wire.LeaseKey, h *hold) []byte {
	body := key.Append(make([]byte, 0, 96))
	body = append(append(append(body, h.holder[:]...), h.instance[:]...), h.quota[:]...)
	body = binary.BigEndian.AppendUint64(body, h.seq)
	body = binary.BigEndian.AppendUint64(body, h.nonce)
	body = binary.BigEndian.AppendUint32(body, h.term)
	body = binary.BigEndian.AppendUint64(body, uint64(h.end.Round(0).UnixMilli()))
	return appendRecord(b, recordHold, body)
}

func appendKnown(b []byte, id nodeid.ID, k incarnation) []byte {
	body := binary.BigEndian.AppendUint16(id[:], k.number)
	return appendRecord(b, recordKnown, binary.BigEndian.AppendUint64(body, k.nonce))
}

func appendEpoch(b []byte, epoch uint64) []byte {
	return appendRecord(b, recordEpoch, binary.BigEndian.AppendUint64(nil, epoch))
}

func appendTwin(b []byte, cites uint16) []byte {
	return appendRecord(b, recordTwin, binary.BigEndian.AppendUint16(nil, cites))
}

// record hands out a record to append.
func (w *Witness) record(b []byte) {
	if w.fresh { // the whole file will be written
		return
	}
	w.written++
	w.total++
	w.records++
	w.act(Persist{w.written, b})
}

// rewrite hands out the whole file.
func (w *Witness) rewrite(now time.Time) {
	w.fresh = false
	b := w.appendHeader(nil)
	b = appendRecord(b, recordBoot, binary.BigEndian.AppendUint32(nil, w.boot))
	b = appendEpoch(b, w.floor)
	switch w.mode {
	case suspended:
		b = appendTwin(b, w.cites)
	case voting:
		b = appendRecord(b, recordVoting, nil)
	}
	ids := make([]nodeid.ID, 0, len(w.known))
	for id := range w.known {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, nodeid.ID.Compare)
	for _, id := range ids {
		b = appendKnown(b, id, w.known[id])
	}
	if w.book.proof != nil {
		b = appendRecord(b, recordStopped, w.book.proof.Append(nil))
	}
	for _, k := range w.sortedKeys() {
		b = appendHold(b, k, w.holds[k])
	}
	w.written++
	w.total++
	w.records = len(w.holds)
	b = appendRecord(b, recordMark, binary.BigEndian.AppendUint64(nil, w.total))
	w.act(Rewrite{w.written, b})
}

func (w *Witness) sortedKeys() []wire.LeaseKey {
	keys := make([]wire.LeaseKey, 0, len(w.holds))
	for k := range w.holds {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, wire.LeaseKey.Compare)
	return keys
}

// load reads a file. It returns the instance that the holds are bound to, and
// whether there is a usable file at all.
func (w *Witness) load(file []byte, now time.Time) (instance wire.Instance, ok bool) {
	w.mode = recovering
	for first := true; len(file) > 0; first = false {
		kind, body, rest := nextRecord(file)
		if kind == 0 {
			break
		}
		file = rest
		if first && kind != recordHeader {
			return wire.Instance{}, false
		}
		if !w.loadRecord(kind, body, &instance, now) {
			w.counts[CountMalformed]++
			clear(w.holds)
			return wire.Instance{}, false
		}
		if ok = true; kind != recordMark {
			w.total++
		}
	}
	return instance, ok
}

// nextRecord takes the first record; kind 0 says that there is none whole.
func nextRecord(b []byte) (kind byte, body, rest []byte) {
	if len(b) < 3 {
		return 0, nil, nil
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if n > maxRecord || len(b) < 3+n+4 || crc32.Checksum(b[:3+n], castagnoli) != binary.BigEndian.Uint32(b[3+n:]) {
		return 0, nil, nil
	}
	return b[0], b[3 : 3+n], b[3+n+4:]
}

func (w *Witness) loadRecord(kind byte, body []byte, instance *wire.Instance, now time.Time) bool {
	switch {
	case kind == recordHeader && len(body) == 27 && body[0] == fileFormat && nodeid.ID(body[1:17]) == w.cfg.ID:
		*instance = wire.Instance(body[17:25])
		w.incarnation = binary.BigEndian.Uint16(body[25:])
	case kind == recordBoot && len(body) == 4:
		w.boot = binary.BigEndian.Uint32(body)
	case kind == recordHold:
		return w.loadHold(body, now)
	case kind == recordKnown && len(body) == 26 && len(w.known) < maxKnown:
		w.known[nodeid.ID(body[:16])] = incarnation{binary.BigEndian.Uint16(body[16:]), binary.BigEndian.Uint64(body[18:])}
	case kind == recordEpoch && len(body) == 8:
		w.floor = binary.BigEndian.Uint64(body)
	case kind == recordTwin && len(body) == 2:
		w.mode, w.cites = suspended, binary.BigEndian.Uint16(body)
	case kind == recordStopped:
		s, err := wire.ParseStopped(body)
		w.loaded = &s
		return err == nil
	case kind == recordMark && len(body) == 8:
		w.total = binary.BigEndian.Uint64(body)
	case kind == recordVoting && len(body) == 0:
		if w.mode != suspended {
			w.mode = voting
		}
	default:
		return false
	}
	return true
}

func (w *Witness) loadHold(body []byte, now time.Time) bool {
	key, rest, err := wire.CutLeaseKey(body)
	if err != nil || len(rest) != 60 || len(w.holds) >= maxHolds {
		return false
	}
	h := &hold{holder: nodeid.ID(rest[:16]), instance: wire.Instance(rest[16:24]), quota: wire.Holder(rest[24:32])}
	h.seq, h.nonce = binary.BigEndian.Uint64(rest[32:]), binary.BigEndian.Uint64(rest[40:])
	h.term = binary.BigEndian.Uint32(rest[48:])
	// The time that is left was counted by the wall clock; from now on it is
	// by the caller's.
	left := time.UnixMilli(int64(binary.BigEndian.Uint64(rest[52:]))).Sub(now.Round(0))
	h.end = now.Add(min(left, holdFor(holdFor(time.Duration(h.term)*time.Second))))
	w.holds[key] = h
	if h.quota != (wire.Holder{}) && !slices.Contains(w.byQuota[h.quota], key) {
		w.byQuota[h.quota] = append(w.byQuota[h.quota], key)
	}
	return true
}
