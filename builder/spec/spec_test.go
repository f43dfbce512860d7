package spec

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/diag"
)

func TestDecode(t *testing.T) {
	text := "version = 1\r\nname = \"site\"\r\nbase = \"b\"\r\nfloppy = \"/abs.img\"\r\ntargets = [\"raw\", \"qcow2\"]\r\ndisk = \"20GiB\"\r\n"
	d, _, err := Decode("site.toml", []byte("\xef\xbb\xbf"+text))
	if err != nil {
		t.Fatal(err)
	}
	d.Resolve("defs")
	want := &Definition{Version: 1, Name: "site", Base: "defs/b", Floppy: "/abs.img", Targets: []Target{Raw, QCOW2}, Disk: 20 << 30}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if problems := d.Validate(nil); problems != nil {
		t.Error(problems)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	var d Definition
	d.ApplyDefaults()
	if problems := d.Validate(nil); problems != nil {
		t.Error(problems)
	}
}

// TestProblems shows every mistake with the lines a person reads.
func TestProblems(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "version = 1\ntarget = [\"raw\"]\n",
			"x.toml:2:1: target: unknown key\n    target = [\"raw\"]\n    ^\n  remedy: did you mean \"targets\"?\n"},
		{"unknown table", "version = 1\n[machine]\n",
			"x.toml:2:2: machine: unknown key\n    [machine]\n     ^\n  remedy: known keys: base, disk, files, floppy, modules, name, packages, sources, targets, version\n"},
		{"wrong type", "version = 1\nname = 7\n", "x.toml:2:8: name: wrong type: want a string\n    name = 7\n           ^\n"},
		{"wrong type of version", "version = \"1\"\n", "x.toml:1:11: version: wrong type: want an integer\n    version = \"1\"\n              ^\n"},
		{"not a list", "version = 1\ntargets = \"raw\"\n",
			"x.toml:2:11: targets: wrong type: want a list of strings\n    targets = \"raw\"\n              ^\n"},
		{"syntax", "version = 1\nname = \"a\n", "x.toml:2:10: basic strings cannot have new lines"},
		{"twice", "version = 1\nname = \"a\"\nname = \"b\"\n", "x.toml:3"},
		{"size without a unit", "version = 1\ndisk = \"8\"\n", `"8" is not a size such as "8GiB"`},
		{"size as a number", "version = 1\ndisk = 8\n", `want a size such as "8GiB"`},
		{"no version", "name = \"a\"\n", "x.toml: version: is missing\n  remedy: begin with: version = 1\n"},
		{"later version", "version = 2\n", "x.toml:1:1: version: version 2 is not known\n    version = 2\n    ^\n  remedy: this builder reads version 1\n"},
		{"name", "version = 1\nname = \"../x\"\n", `x.toml:2:1: name: "../x" is not a name`},
		{"private name", "version = 1\nname = \"x-private\"\n", "ends in -private"},
		{"target", "version = 1\ntargets = [\"qcow\"]\n", "x.toml:2:12: targets[0]: \"qcow\" is not a target\n    targets = [\"qcow\"]\n               ^\n  remedy: did you mean \"qcow2\"?\n"},
		{"target twice", "version = 1\ntargets = [\"raw\", \"raw\"]\n", "named twice"},
		{"disk too large", "version = 1\ndisk = \"2TiB\"\n", "2TiB is out of range"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, at, err := Decode("x.toml", []byte(tt.text))
			if err == nil {
				d.ApplyDefaults()
				err = d.Validate(at.At).Err()
			}
			got := diag.Of(err).Format()
			if strings.HasSuffix(tt.want, "\n") && got != tt.want || !strings.Contains(got, tt.want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
			if strings.Contains(got, "spec.") {
				t.Errorf("a Go type name reaches the user:\n%s", got)
			}
		})
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGoldenMessages shows what a person reads of a definition in which
// everything is wrong, once in its shape and once in its meaning.
func TestGoldenMessages(t *testing.T) {
	for _, name := range []string{"shape", "meaning"} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile("testdata/" + name + ".toml")
			if err != nil {
				t.Fatal(err)
			}
			d, at, err := Decode(name+".toml", text)
			if err == nil {
				d.ApplyDefaults()
				err = d.Validate(at.At).Err()
			}
			got, golden := diag.Of(err).Format(), "testdata/"+name+".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestAddress(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	tests := []struct {
		address                 Address
		place, sha256, resolved string
		url, id                 bool
	}{
		{"587ad728", "587ad728", "", "587ad728", false, true},
		{Address("587ad728?checksum=sha256:" + sum), "587ad728", sum, "587ad728?checksum=sha256:" + sum, false, true},
		{"./587ad728", "./587ad728", "", "defs/587ad728", false, false},
		{"bases/trixie", "bases/trixie", "", "defs/bases/trixie", false, false},
		{Address("https://h/b/manifest.json?checksum=sha256:" + sum), "https://h/b/manifest.json", sum, "https://h/b/manifest.json?checksum=sha256:" + sum, true, false},
		{Address("m.module?checksum=sha256:" + sum), "m.module", sum, "defs/m.module?checksum=sha256:" + sum, false, false},
	}
	for _, tt := range tests {
		a := tt.address
		if a.Place() != tt.place || a.SHA256() != tt.sha256 || a.IsURL() != tt.url || a.IsID() != tt.id || string(a.resolve("defs")) != tt.resolved {
			t.Errorf("%s: place %s, sha256 %s, URL %v, id %v, resolved %s", a, a.Place(), a.SHA256(), a.IsURL(), a.IsID(), a.resolve("defs"))
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]Size{"1MiB": 1 << 20, "8GiB": 8 << 30, "8 GiB": 8 << 30, "1TiB": 1 << 40,
		"": 0, "0GiB": 0, "-1GiB": 0, "1GB": 0, "1.5GiB": 0, "GiB": 0, "99999999999GiB": 0} {
		got, err := ParseSize(text)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("version = 1\nname = \"a\"\n"))
	f.Add([]byte("version = 1\npackages = [\"a\", \"b=1\"]\n[[files]]\nsource = \"a\"\npath = \"/a\"\n[[sources]]\nuris = [\"http://h\"]\n"))
	f.Add([]byte("version = 1\n[a.b]\nc = [1, {d = 2}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, at, err := Decode("x.toml", text)
		if err != nil {
			if diag.Of(err) == nil {
				t.Fatalf("error without a problem: %v", err)
			}
			_ = diag.Of(err).Format()
			return
		}
		d.ApplyDefaults()
		_ = d.Validate(at.At).Format()
	})
}
