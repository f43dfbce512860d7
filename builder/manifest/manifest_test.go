package manifest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var sum = strings.Repeat("0123456789abcdef", 4)

func example() *Manifest {
	return &Manifest{
		Version: Version, ID: sum[:32], Suite: "trixie", Time: time.Date(2026, 9, 12, 7, 55, 41, 0, time.UTC), Kernel: "6.12.1",
		Packages: []Package{{"adduser", "3.152", "all", sum, ""}}, Tools: []Package{},
		Programs: []File{{"overlayd", 5, sum}}, Files: []File{{"vmlinuz", 7, sum}, {"initrd.img", 0, sum}},
	}
}

func TestRoundTrip(t *testing.T) {
	got, err := Parse("m", example().Text())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(example(), got); d != "" {
		t.Error(d)
	}
	if f, ok := got.File("vmlinuz"); !ok || f.Size != 7 {
		t.Errorf("%+v", f)
	}
	if _, ok := got.File("none"); ok {
		t.Error("a file that is not there")
	}
}

func TestParseErrors(t *testing.T) {
	good := string(example().Text())
	tests := []struct{ name, from, to, want string }{
		{"empty", good, "", "EOF"},
		{"trailing data", good, good + "{}", "data after its end"},
		{"unknown key", `"suite"`, `"sweet"`, `unknown field "sweet"`},
		{"wrong type", `"version": 1`, `"version": "1"`, "cannot unmarshal"},
		{"version", `"version": 1`, `"version": 2`, "version 2 instead of 1"},
		{"id", sum[:32], "xyz", "is not 32 hex digits"},
		{"kernel", "6.12.1", "", "suite or kernel is missing"},
		{"path in a name", `"vmlinuz"`, `"../vmlinuz"`, "is not a file's name"},
		{"Windows path in a name", `"vmlinuz"`, `"..\\vmlinuz"`, "is not a file's name"},
		{"named twice", `"vmlinuz"`, `"initrd.img"`, "is named twice"},
		{"negative size", `"size": 7`, `"size": -7`, "size or sha256 is wrong"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(good, tt.from, tt.to, 1)
			if text == good {
				t.Fatal("the case changes nothing")
			}
			if _, err := Parse("m", []byte(text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example().Text())
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse("m", text)
		if err != nil {
			return
		}
		again, err := Parse("m", m.Text())
		if err != nil {
			t.Fatalf("its own text is refused: %v", err)
		}
		if !bytes.Equal(m.Text(), again.Text()) {
			t.Fatal("not the same again")
		}
	})
}
