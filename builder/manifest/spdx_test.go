package manifest

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func exampleImage() *Image {
	return &Image{Version: ImageVersion, Name: "site", Time: time.Date(2026, 11, 24, 2, 12, 15, 0, time.UTC),
		Base:    BaseRef{ID: sum[:32], Suite: "trixie", Kernel: "6.12.1", SHA256: sum},
		Modules: []Module{{"cad", "1.2", sum}},
		Packages: []Package{{"bash", "5.2.37-2+b10", "amd64", sum, ""}, {"g++", "4:14.2.0-1", "amd64", sum, ""}, {"g-x2b-", "1", "all", sum, "lab"},
			{Name: "of-a-module", Version: "2"}, {"of-a-disk", "3", "all", sum, "here"}},
		Sources: []Source{{"lab", "https://lab.example.org/apt"}, {"here", ""}},
		Programs: []Program{{"overlayd", sum, "1.26.8", []GoModule{{"github.com/a/b", "v1.2.3"}, {"golang.org/x/sys", "v0.30.0"}}},
			{"firstboot", sum, "1.26.8", []GoModule{{"golang.org/x/sys", "v0.30.0"}}}},
		Disk:  Disk{100, []Region{{"a", 0, 10, sum}, {"b", 10, 20, sum}}},
		Files: []File{{"site.qcow2", 3, sum}, {"site-xen/site.raw", 4, ""}},
	}
}

func TestImageRoundTrip(t *testing.T) {
	got, err := ParseImage("m", exampleImage().Text())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(exampleImage(), got); d != "" {
		t.Error(d)
	}
}

func TestParseImageErrors(t *testing.T) {
	good := string(exampleImage().Text())
	tests := []struct{ name, from, to, want string }{
		{"trailing data", good, good + "{}", "data after its end"},
		{"unknown key", `"modules"`, `"moduls"`, "unknown field"},
		{"version", `"version": 1,` + "\n \"name\": \"site\"", `"version": 9,` + "\n \"name\": \"site\"", "version 9 instead of 1"},
		{"overlap", `"offset": 10`, `"offset": 9`, "overlaps"},
		{"beyond the disk", `"size": 20`, `"size": 91`, "leaves the disk"},
		{"climbing path", `"site.qcow2"`, `"../site.qcow2"`, "is not a file's path"},
		{"absolute path", `"site.qcow2"`, `"/etc/passwd"`, "is not a file's path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(good, tt.from, tt.to, 1)
			if text == good {
				t.Fatal("the case changes nothing")
			}
			if _, err := ParseImage("m", []byte(text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestSPDX checks a document against the rules of SPDX 2.3's JSON schema that
// it can break, and that nothing of the manifest is missing.
func TestSPDX(t *testing.T) {
	m := exampleImage()
	text := m.SPDX(map[string][]string{"bash": {"GPL-3+"}, "g++": {"GPL-3+", "Expat"}, "of-a-module": {"custom"}})
	for _, p := range checkSPDX(text) {
		t.Error(p)
	}
	var d spdxDocument
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	licences, suppliers := map[string]string{}, map[string]string{}
	for _, p := range d.Packages {
		licences[p.Name] = p.LicenseDeclared
		if strings.HasPrefix(p.SPDXID, "SPDXRef-Package-") {
			suppliers[p.Name] = p.Supplier
		}
	}
	wantSuppliers := map[string]string{"bash": "Organization: Debian", "g++": "Organization: Debian", "g-x2b-": "Organization: lab",
		"of-a-module": noAssertion, "of-a-disk": "Organization: here"}
	if diff := cmp.Diff(wantSuppliers, suppliers); diff != "" {
		t.Errorf("suppliers: -want +got:\n%s", diff)
	}
	want := map[string]string{"site": noAssertion, "bash": "GPL-3.0-or-later", "g++": "GPL-3.0-or-later AND MIT", "g-x2b-": noAssertion,
		"of-a-module": noAssertion, "of-a-disk": noAssertion, "cad": noAssertion, "overlayd": "Apache-2.0", "firstboot": "Apache-2.0", "github.com/a/b": noAssertion,
		"golang.org/x/sys": noAssertion}
	if diff := cmp.Diff(want, licences); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, part := range []string{`pkg:deb/debian/bash@5.2.37-2%2Bb10?arch=amd64\u0026distro=trixie`, "pkg:golang/github.com/a/b@v1.2.3",
		`pkg:deb/lab/g-x2b-@1?arch=all\u0026repository_url=https%3A%2F%2Flab.example.org%2Fapt"`, `pkg:deb/here/of-a-disk@3?arch=all"`,
		"Its copyright file names: custom", `"created": "2026-11-24T02:12:15Z"`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("the document lacks %s", part)
		}
	}
	if !slices.Equal(text, m.SPDX(map[string][]string{"bash": {"GPL-3+"}, "g++": {"GPL-3+", "Expat"}, "of-a-module": {"custom"}})) {
		t.Error("not the same again")
	}
}

// TestCheckSPDX: the checker itself finds what is wrong.
func TestCheckSPDX(t *testing.T) {
	good := string(exampleImage().SPDX(nil))
	for _, tt := range []struct{ from, to, want string }{
		{`"SPDX-2.3"`, `"SPDX-2.2"`, "spdxVersion"},
		{`"CC0-1.0"`, `"MIT"`, "dataLicense"},
		{`"SPDXRef-Package-bash"`, `"SPDXRef-Package_bash"`, "is not an identifier"},
		{`"SPDXRef-Module-cad"`, `"SPDXRef-Image"`, "twice"},
		{`"relatedSpdxElement": "SPDXRef-Program-overlayd"`, `"relatedSpdxElement": "SPDXRef-none"`, "names SPDXRef-none"},
		{`"licenseDeclared": "Apache-2.0"`, `"licenseDeclared": "Apache 2"`, "is no licence expression"},
		{`"DESCRIBES"`, `"DEPICTS"`, "no relationship of SPDX"},
		{`"2026-11-24T02:12:15Z"`, `"yesterday"`, "created"},
		{`"copyrightText": "NOASSERTION",`, ``, "lacks copyrightText"},
		{`"name": "cad"`, `"nom": "cad"`, "unknown key nom"},
	} {
		text := strings.Replace(good, tt.from, tt.to, 1)
		if text == good {
			t.Errorf("%s: the case changes nothing", tt.from)
		}
		if got := strings.Join(checkSPDX([]byte(text)), "\n"); !strings.Contains(got, tt.want) {
			t.Errorf("%s -> %s: %q", tt.from, tt.to, got)
		}
	}
}

func TestLicences(t *testing.T) {
	text := "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nSource: x\n\nFiles: *\nLicense: GPL-2+\n\nFiles: a\nLicense: Expat\n text\n\nLicense: GPL-2+\n text\n"
	if got := Licences([]byte(text)); !slices.Equal(got, []string{"Expat", "GPL-2+"}) {
		t.Errorf("%q", got)
	}
	if got := Licences([]byte("This is free software.\nLicense: GPL\n")); got != nil {
		t.Errorf("of a text that is not machine-readable: %q", got)
	}
}

var (
	spdxIDForm      = regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	spdxLicenceForm = regexp.MustCompile(`^[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*$`)
)

// packageKeys are the keys of a package in SPDX 2.3's JSON schema that we may
// write, true where the schema or the specification wants them.
var packageKeys = map[string]bool{"name": true, "SPDXID": true, "versionInfo": false, "supplier": false, "downloadLocation": true, "filesAnalyzed": false,
	"checksums": false, "licenseConcluded": true, "licenseDeclared": true, "licenseComments": false, "copyrightText": true,
	"externalRefs": false, "primaryPackagePurpose": false}

// checkSPDX returns what is wrong with a document by SPDX 2.3's rules.
func checkSPDX(text []byte) (problems []string) {
	add := func(s ...string) { problems = append(problems, strings.Join(s, " ")) }
	var d map[string]any
	if err := json.Unmarshal(text, &d); err != nil {
		return []string{err.Error()}
	}
	for key, want := range map[string]string{"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT"} {
		if d[key] != want {
			add(key, "is not", want)
		}
	}
	if ns, _ := d["documentNamespace"].(string); !strings.HasPrefix(ns, "https://") || strings.Contains(ns, "#") {
		add("documentNamespace is no unique URI")
	}
	creation, _ := d["creationInfo"].(map[string]any)
	if created, _ := creation["created"].(string); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`).MatchString(created) {
		add("created is no UTC time")
	}
	creators, _ := creation["creators"].([]any)
	if len(creators) == 0 {
		add("no creators")
	}
	for _, c := range creators {
		if s, _ := c.(string); !regexp.MustCompile(`^(Tool|Person|Organization): .`).MatchString(s) {
			add("creator", s)
		}
	}
	ids := map[string]bool{"SPDXRef-DOCUMENT": true}
	packages, _ := d["packages"].([]any)
	for _, p := range packages {
		p, _ := p.(map[string]any)
		id, _ := p["SPDXID"].(string)
		if !spdxIDForm.MatchString(id) {
			add(id, "is not an identifier")
		}
		if ids[id] {
			add(id, "stands there twice")
		}
		ids[id] = true
		for key := range p {
			if _, known := packageKeys[key]; !known {
				add(id, "has the unknown key", key)
			}
		}
		for key, wanted := range packageKeys {
			if _, there := p[key]; wanted && !there {
				add(id, "lacks", key)
			}
		}
		for _, key := range []string{"licenseDeclared", "licenseConcluded"} {
			if s, _ := p[key].(string); s != noAssertion && !spdxLicenceForm.MatchString(s) {
				add(id, key, s, "is no licence expression")
			}
		}
		refs, _ := p["externalRefs"].([]any)
		for _, r := range refs {
			r, _ := r.(map[string]any)
			if loc, _ := r["referenceLocator"].(string); r["referenceCategory"] != "PACKAGE-MANAGER" || !regexp.MustCompile(`^pkg:[a-z]+/\S+@\S+$`).MatchString(loc) {
				add(id, "reference", loc)
			}
		}
	}
	described := false
	relationships, _ := d["relationships"].([]any)
	for _, r := range relationships {
		r, _ := r.(map[string]any)
		kind, _ := r["relationshipType"].(string)
		if !slices.Contains([]string{"DESCRIBES", "CONTAINS", "STATIC_LINK"}, kind) {
			add(kind, "is no relationship of SPDX that we write")
		}
		described = described || kind == "DESCRIBES" && r["spdxElementId"] == "SPDXRef-DOCUMENT"
		for _, key := range []string{"spdxElementId", "relatedSpdxElement"} {
			if id, _ := r[key].(string); !ids[id] {
				add("a relationship names", id+", which is not there")
			}
		}
	}
	if !described {
		add("the document describes nothing")
	}
	return problems
}

func FuzzParseImage(f *testing.F) {
	f.Add(exampleImage().Text())
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseImage("m", text)
		if err != nil {
			return
		}
		if again, err := ParseImage("m", m.Text()); err != nil || !slices.Equal(again.Text(), m.Text()) {
			t.Fatalf("its own text is refused or read otherwise: %v", err)
		}
	})
}
