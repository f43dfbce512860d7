package bootstrap

import (
	"bytes"
	"encoding/hex"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"gridappliance/overlayd/nodeid"
)

var update = flag.Bool("update", false, "rewrite the vectors")

var (
	v4 = netip.MustParseAddrPort("198.51.100.7:61000")
	v6 = netip.MustParseAddrPort("[2001:db8::7]:4242")
)

func carried(kind byte, h Handle, data []byte) []byte {
	b := append(make([]byte, Overhead), data...)
	putHeader(b, kind, h)
	return b
}

// vectors are one datagram of each form, with what reads it back.
var vectors = []struct {
	name  string
	bytes []byte
	value any
	parse func([]byte) (any, error)
}{
	{"enrol", (&enrol{want: 10, nonce: nonce{1, 2, 3, 4, 5, 6, 7, 8}, tag: TagOf([32]byte{1}), id: nodeid.ID{0xaa, 15: 0xbb}}).append(nil),
		enrol{want: 10, nonce: nonce{1, 2, 3, 4, 5, 6, 7, 8}, tag: TagOf([32]byte{1}), id: nodeid.ID{0xaa, 15: 0xbb}},
		func(b []byte) (any, error) { return parseEnrol(b) }},
	{"cookie", (&cookie{nonce{1, 2, 3, 4, 5, 6, 7, 8}, [cookieSize]byte{0xc0, 15: 0x0c}}).append(nil), cookie{nonce{1, 2, 3, 4, 5, 6, 7, 8}, [cookieSize]byte{0xc0, 15: 0x0c}},
		func(b []byte) (any, error) { return parseCookie(b) }},
	{"enrolled", (&enrolled{nonce: nonce{1, 2, 3, 4, 5, 6, 7, 8}, handle: 5, life: 75, server: [8]byte{0xb0, 7: 0x0b}, seen: v4, contacts: []Contact{{7, nodeid.ID{0xdd}}}}).append(nil),
		enrolled{nonce: nonce{1, 2, 3, 4, 5, 6, 7, 8}, handle: 5, life: 75, server: [8]byte{0xb0, 7: 0x0b}, seen: v4, contacts: []Contact{{7, nodeid.ID{0xdd}}}},
		func(b []byte) (any, error) { return parseEnrolled(b) }},
	{"enrolled-alone", (&enrolled{nonce: nonce{9}, handle: 5, life: 75, seen: v6}).append(nil), enrolled{nonce: nonce{9}, handle: 5, life: 75, seen: v6},
		func(b []byte) (any, error) { return parseEnrolled(b) }},
	{"carry", carried(typeCarry, 7, []byte{0x84, 1, 2, 3}), Handle(7), parseAny(typeCarry)},
	{"carried", carried(typeCarried, 5, []byte{0x84, 1, 2, 3}), Handle(5), parseAny(typeCarried)},
	{"unknown", carried(typeUnknown, 7, nil), Handle(7), func(b []byte) (any, error) { return parseUnknown(b) }},
}

func parseAny(kind byte) func([]byte) (any, error) {
	return func(b []byte) (any, error) {
		h, data, err := parseCarried(b, kind)
		if err == nil && !bytes.Equal(data, b[Overhead:]) {
			return nil, ErrMalformed
		}
		return h, err
	}
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		file := filepath.Join("testdata", v.name+".hex")
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(v.bytes)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(v.bytes) != strings.TrimSpace(string(text)) {
			t.Errorf("%s: %x, want %s", v.name, v.bytes, text)
		}
		if got, err := v.parse(v.bytes); err != nil || !reflect.DeepEqual(got, v.value) {
			t.Errorf("%s: parsed %+v, %v", v.name, got, err)
		}
		least := 9 // a carried datagram may have any length from one byte on
		if !strings.HasPrefix(v.name, "carr") {
			least = len(v.bytes)
			if _, err := v.parse(append(bytes.Clone(v.bytes), 0)); err == nil {
				t.Errorf("%s: a byte more is taken", v.name)
			}
		}
		for n := range least {
			if _, err := v.parse(v.bytes[:n]); err == nil {
				t.Errorf("%s: cut to %d bytes it is taken", v.name, n)
			}
		}
		if !Ours(v.bytes) || IsSTUN(v.bytes) {
			t.Errorf("%s is not told from others", v.name)
		}
	}
}

// TestAnswersAreNoLonger: the longest answer fits into what asked for it.
func TestAnswersAreNoLonger(t *testing.T) {
	e := enrolled{handle: 1, life: 75, seen: v6}
	for i := range MaxContacts {
		e.contacts = append(e.contacts, Contact{Handle(i + 1), nodeid.ID{byte(i)}})
	}
	if n := len(e.append(nil)); n > EnrolSize {
		t.Errorf("%d bytes answer %d", n, EnrolSize)
	}
}
