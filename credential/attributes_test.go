package credential

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The bytes of the package comment's table, for whoever writes another reader.
func TestAttributesVector(t *testing.T) {
	a := holderAttributes()
	a.rights.Router = true
	want := "3063" + "020101" + "020102" + // version 1, holder
		"0c06617263686572" + "0c05616c696365" + // archer, alice
		"30090c0770687973696373" + "30080c06776f726b6572" + "30050c036f6e65" + // physics, worker, one
		"0101ff" + "010100" + // router, no gateway
		"300c0c0a31302e3235302e392e39" + "30100c0e3139322e3136382e382e302f3234" + // 10.250.9.9, 192.168.8.0/24
		"02010a" + "02010a" + // quotas
		"0400" + "0400" + "0c00" // no node
	value, err := a.encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, hex.EncodeToString(value)); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeAttributesStrict(t *testing.T) {
	good, err := holderAttributes().encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeAttributes(good); err != nil {
		t.Fatalf("control: %v", err)
	}
	swap := func(old, new string) []byte {
		from, to := unhex(t, old), unhex(t, new)
		if len(from) != len(to) || !bytes.Contains(good, from) {
			t.Fatalf("%s -> %s", old, new)
		}
		return bytes.Replace(good, from, to, 1)
	}
	for name, value := range map[string][]byte{
		"PrintableString":           swap("0c06617263686572", "1306617263686572"),
		"BOOLEAN of 1":              swap("010100", "010101"),
		"version 2":                 swap("020101", "020102"),
		"kind 4":                    swap("020101020102", "020101020104"),
		"long form of a length":     append([]byte{0x30, 0x81}, good[1:]...),
		"trailing byte":             append(bytes.Clone(good), 0),
		"cut short":                 good[:len(good)-1],
		"capital in the group":      swap("70687973696373", "50687973696373"),
		"address with leading zero": swap("31302e3235302e392e39", "31302e3235302e30392e"),
		"empty":                     nil,
		"too long":                  make([]byte, maxAttributes+1),
	} {
		_, err := decodeAttributes(value)
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: got %v, want ErrFormat", name, err)
		}
	}
	// Fields that the kind does not have.
	h := holderAttributes()
	h.instance = "a"
	value, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	_, err = decodeAttributes(value)
	wantRefusal(t, err, ErrFormat, "instance")
	h.kind, h.static, h.instance = kindNode, [32]byte{1}, ""
	if value, err = h.encode(); err != nil {
		t.Fatal(err)
	}
	_, err = decodeAttributes(bytes.Replace(value, unhex(t, "020101020103"), unhex(t, "020101020102"), 1))
	wantRefusal(t, err, ErrFormat, "canonical")
}

func unhex(t *testing.T, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
