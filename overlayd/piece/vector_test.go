package piece

import (
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"gridappliance/overlayd/wire"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestVector pins the three pieces of an object of 2,000 bytes, byte i being
// i mod 251.
func TestVector(t *testing.T) {
	b := make([]byte, 2000)
	for i := range b {
		b[i] = byte(i % 251)
	}
	o := New(b)
	root := o.ID().Root
	got := "root " + hex.EncodeToString(root[:]) + "\n"
	for i := range 3 {
		got += "piece " + hex.EncodeToString(o.Cut(i).Append(nil)) + "\n"
	}
	const file = "testdata/object.hex"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Fatalf("got\n%s%s has\n%s%v", got, file, want, err)
	}
	a, err := NewAssembly(ID{root, 2000})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(want)), "\n")[1:] {
		body, err := hex.DecodeString(strings.TrimPrefix(line, "piece "))
		if err != nil {
			t.Fatal(err)
		}
		p, err := wire.ParsePiece(body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	if string(a.Bytes()) != string(b) {
		t.Error("the vector's pieces make another object")
	}
}
