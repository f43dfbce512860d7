package base

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const oneLine = `# a comment
deb http://mirror.example/debian/ bookworm main contrib
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm-updates main # trailing
deb-src http://mirror.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb http://other.example/thing stable other
deb http://broken.example
`

const deb822 = `# a comment
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm
  bookworm-updates
Components: main
Signed-By: /k.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
`

func TestDebianSources(t *testing.T) {
	main := []string{"main"}
	want := []source{
		{"http://mirror.example/debian", "trixie", main},
		{"http://security.example/debian-security", "trixie-security", main},
		{"http://mirror.example/debian", "trixie-updates", main},
	}
	for name, host := range map[string][]source{"one line": parseSourcesList([]byte(oneLine)), "deb822": parseSourcesDeb822([]byte(deb822))} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(want, debianSources(host, "bookworm", "trixie")); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("not Debian", func(t *testing.T) {
		if got := debianSources(parseSourcesList([]byte(oneLine)), "", "trixie"); got != nil {
			t.Errorf("%v", got)
		}
	})
	t.Run("updates alone", func(t *testing.T) {
		host := []source{{"http://m", "bookworm-updates", main}}
		if got := debianSources(host, "bookworm", "trixie"); got != nil {
			t.Errorf("%v", got)
		}
	})
	t.Run("without main", func(t *testing.T) {
		host := []source{{"http://m", "bookworm", []string{"contrib"}}}
		if got := debianSources(host, "bookworm", "trixie"); got != nil {
			t.Errorf("%v", got)
		}
	})
}

func TestHostSources(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/apt/sources.list", "deb http://a/debian bookworm main\n")
	write("etc/apt/sources.list.d/b.list", "deb http://b/debian bookworm main\n")
	write("etc/apt/sources.list.d/c.sources", "Types: deb\nURIs: http://c/debian\nSuites: bookworm\nComponents: main\n")
	write("etc/apt/sources.list.d/d.off", "deb http://d/debian bookworm main\n")
	write("etc/os-release", "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_CODENAME=\"bookworm\"\n")
	var got []string
	for _, s := range hostSources(root) {
		got = append(got, s.URI)
	}
	if d := cmp.Diff([]string{"http://a/debian", "http://b/debian", "http://c/debian"}, got); d != "" {
		t.Error(d)
	}
	if c := debianCodename(root); c != "bookworm" {
		t.Errorf("codename %q", c)
	}
	write("etc/os-release", "ID=ubuntu\nVERSION_CODENAME=noble\n")
	if c := debianCodename(root); c != "" {
		t.Errorf("codename %q of another system", c)
	}
}

func TestParseURILine(t *testing.T) {
	a := &apt{sources: []source{{URI: "http://mirror.example/debian"}, {URI: "http://lab.example"}}, named: map[string]string{"http://lab.example": "lab"}}
	got, err := a.parseURILine(`'http://mirror.example/debian/pool/main/p/passwd/passwd_4.17.4-2%2bb1_amd64.deb' passwd_1%3a4.17.4-2+b1_amd64.deb 1228860 SHA256:` + sum)
	want := Package{"passwd", "1:4.17.4-2+b1", "amd64", sum, 1228860, "pool/main/p/passwd/passwd_4.17.4-2+b1_amd64.deb", ""}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := a.parseURILine(`'http://lab.example/./cad_2_all.deb' cad_2_all.deb 9 SHA256:` + sum); err != nil || got.Source != "lab" || got.Path != "cad_2_all.deb" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, line := range []string{
		`'http://elsewhere.example/debian/a_1_all.deb' a_1_all.deb 1 SHA256:` + sum,
		`'http://mirror.example/debian/a_1_all.deb' a_1_all.deb 1 MD5Sum:0123`,
		`'http://mirror.example/debian/a.deb' a.deb 1 SHA256:` + sum,
	} {
		if p, err := a.parseURILine(line); err == nil {
			t.Errorf("%s: taken as %+v", line, p)
		}
	}
}

func FuzzSources(f *testing.F) {
	f.Add([]byte(oneLine))
	f.Add([]byte(deb822))
	f.Add([]byte(" \t:\n]["))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, s := range append(parseSourcesList(text), parseSourcesDeb822(text)...) {
			if s.Suite == "" {
				t.Errorf("no suite in %+v", s)
			}
		}
	})
}
