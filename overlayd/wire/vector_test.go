package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "rewrite golden files")

// body is a message, or a part of one.
type body interface{ Append([]byte) []byte }

// anyParse reads a body and returns the message.
type anyParse func([]byte) (body, error)

func parse[M body](f func([]byte) (M, error)) anyParse {
	return func(b []byte) (body, error) { return f(b) }
}

// vector is a message as a hexadecimal file under testdata.
type vector struct {
	name  string
	m     body
	parse anyParse
}

// check holds vectors against their files, both ways.
func check(t *testing.T, vectors []vector) {
	t.Helper()
	for _, v := range vectors {
		file := filepath.Join("testdata", v.name+".hex")
		got := v.m.Append(nil)
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: Append gives %x, %s has %x", v.name, got, file, want)
		}
		back, err := v.parse(want)
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		if diff := cmp.Diff(v.m, back, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s: Parse differs:\n%s", v.name, diff)
		}
	}
}

// cuts wants every vector refused that is cut short or a byte longer.
func cuts(t *testing.T, vectors []vector) {
	t.Helper()
	for _, v := range vectors {
		whole := v.m.Append(nil)
		for n := range whole {
			if _, err := v.parse(whole[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s cut to %d of %d bytes: %v, want ErrMalformed", v.name, n, len(whole), err)
			}
		}
		if _, err := v.parse(append(whole, 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s with a byte more: %v, want ErrMalformed", v.name, err)
		}
	}
}
