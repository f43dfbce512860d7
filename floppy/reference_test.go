package floppy

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	floppytemplates "gridappliance/floppy-templates"
)

var update = flag.Bool("update", false, "rewrite golden files, templates and the reference page")

const (
	templateDir   = "../floppy-templates"
	referenceFile = "../docs/reference/floppy.md"
)

// golden compares got with a file, or rewrites it under -update.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-file +now; go test ./floppy -update rewrites it):\n%s", path, d)
	}
}

// template is one sample floppy's GRID.TML: what is set, and what is shown as
// a comment with its default. The complete one sets everything.
type template struct {
	name  string
	about string
	set   map[string]string // key -> TOML
	show  []string          // tables whose other keys are shown
}

var templates = []template{
	{"worker", "A worker: it runs jobs of the grid.", map[string]string{"machine.role": `"worker"`}, []string{"machine", "network", "condor", "share", "users"}},
	{"client", "A client: it runs jobs, and jobs are submitted on it.", map[string]string{"machine.role": `"client"`}, []string{"machine", "network", "condor", "share", "users"}},
	{"master", "A master: it brings jobs and machines together. Its floppy boots one machine at a time.", map[string]string{"machine.role": `"master"`}, []string{"machine", "network", "share", "users"}},
	{"standalone", "A grid of one: master, client and worker in one machine, without a network, to try everything.", map[string]string{"machine.role": `"standalone"`}, []string{"machine", "share", "users"}},
	{"complete", "Every key there is, each with a value that is not its default. Nobody needs them all.", nil, nil},
}

// text writes the template from Tables and Keys.
func (tm template) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n", tm.about)
	b.WriteString("# This is GRID.TML of a floppy; the reference is docs/reference/floppy.md.\n")
	b.WriteString("# A key behind a # is not set: the value is its default or, if it has none, an example.\n")
	for _, table := range Tables {
		if tm.set != nil && table.Name != "" && !contains(tm.show, table.Name) {
			continue
		}
		b.WriteString("\n")
		if table.Name != "" {
			b.WriteString(comment(table.Doc))
			header := "[" + table.Name + "]"
			if table.List {
				header = "[" + header + "]"
			}
			b.WriteString(header + "\n")
		}
		for _, k := range Keys {
			if in, _ := k.table(); in == table.Name {
				if table.Name != "" {
					b.WriteString("\n")
				}
				b.WriteString(comment(k.Doc + tm.rest(k)))
				b.WriteString(tm.line(k))
			}
		}
	}
	return b.Bytes()
}

// rest says what the shown line does not.
func (tm template) rest(k Key) string {
	if tm.set == nil && k.Default != nil {
		return " Default: " + tomlText(k.Default) + "."
	}
	if k.Without != "" {
		return " Without it: " + k.Without + "."
	}
	return ""
}

// line writes the key with its value, or as a comment.
func (tm template) line(k Key) string {
	_, name := k.table()
	switch value, ok := tm.set[k.Path]; {
	case tm.set == nil || k.Path == "version":
		return name + " = " + k.Example + "\n"
	case ok:
		return name + " = " + value + "\n"
	case k.Default != nil:
		return "#" + name + " = " + tomlText(k.Default) + "\n"
	}
	return "#" + name + " = " + k.Example + "\n"
}

func tomlText(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(v)
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// comment breaks a text into lines of at most 90 characters.
func comment(text string) string {
	var b strings.Builder
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > 90 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}

// reference writes the reference page.
func reference() []byte {
	var b bytes.Buffer
	b.WriteString("<!-- Written by go test ./floppy -update from the table Keys in floppy/keys.go. -->\n\n# GRID.TML\n\n")
	b.WriteString("The configuration of one machine, as the file `GRID.TML` (or `appliance.toml`) on its floppy, in TOML. ")
	b.WriteString("A role is enough. What the credential on the floppy decides may be chosen from, never added to. ")
	b.WriteString("A key that is unknown, stands twice, or has a value of another type is an error: `builder floppy check` shows every one of them with its line.\n\n")
	b.WriteString("Samples to start from: [floppy-templates](../../floppy-templates).\n")
	for _, table := range Tables {
		title := "The first line"
		if table.Name != "" {
			title = "`[" + table.Name + "]`"
		}
		if table.List {
			title = "`[[" + table.Name + "]]`"
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| key | value | default | meaning |\n|---|---|---|---|\n", title, table.Doc)
		for _, k := range Keys {
			in, name := k.table()
			if in != table.Name {
				continue
			}
			fallback := "none"
			switch {
			case k.Default != nil:
				fallback = "`" + tomlText(k.Default) + "`"
			case k.Without != "":
				fallback = k.Without
			}
			fmt.Fprintf(&b, "| `%s` | %s, such as `%s` | %s | %s |\n", name, k.shapeText(), k.Example, fallback, k.Doc)
		}
	}
	b.WriteString("\n## The files of a floppy\n\n| file | worker, client | master | standalone | what |\n|---|---|---|---|---|\n")
	for _, f := range [][5]string{
		{ConfigFile, "yes", "yes", "yes", "this configuration"},
		{DescriptorFile, "yes", "yes", "no", "the grid's signed descriptor: its networks, masters and roots"},
		{HolderCertFile, "yes", "yes", "no", "the holder's credential"},
		{HolderKeyFile, "yes", "yes", "no", "its key; secret"},
		{NodeKeyFile, "no", "yes", "no", "the master's fixed identity; secret. A witness has one too"},
		{IssuerCertFile, "no", "yes", "no", "the master's issuer of HTCondor credentials"},
		{IssuerKeyFile, "no", "yes", "no", "its key; secret"},
		{SSHKeysFile, "may", "may", "may", "authorized_keys for griduser and the accounts of `[users]`"},
		{IPOPXMLFile, "may", "may", "no", "`IpopConfig` of the first generation: namespace, device, host name, multicast"},
		{DHCPXMLFile, "may", "may", "no", "`DHCPServerConfig` of the first generation; must say what the descriptor says"},
	} {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f[0], f[1], f[2], f[3], f[4])
	}
	return b.Bytes()
}

func TestReferencePage(t *testing.T) { golden(t, referenceFile, reference()) }

func TestTemplates(t *testing.T) {
	for _, tm := range templates {
		t.Run(tm.name, func(t *testing.T) {
			golden(t, filepath.Join(templateDir, tm.name+".toml"), tm.text())
			embedded, err := floppytemplates.FS.ReadFile(tm.name + ".toml")
			if err != nil {
				t.Fatal(err)
			}
			c, err := DecodeConfig(tm.name+".toml", embedded)
			if err != nil {
				t.Fatal(err)
			}
			c.ApplyDefaults()
			if problems := c.Validate(); len(problems) > 0 {
				t.Errorf("the template is not valid:\n%s", problems.Format())
			}
		})
	}
	entries, _ := floppytemplates.FS.ReadDir(".")
	if len(entries) != len(templates) {
		t.Errorf("%d templates in the folder, %d written by this test", len(entries), len(templates))
	}
}

// TestTemplatesShowDefaults: uncommenting a line that shows a default changes
// nothing.
func TestTemplatesShowDefaults(t *testing.T) {
	for _, tm := range templates[:4] {
		before := mustDecode(t, tm.text())
		for _, k := range Keys {
			if k.Default == nil || !bytes.Contains(tm.text(), []byte("#"+nameOf(k)+" = ")) {
				continue
			}
			text, err := SetKey("t", tm.text(), k.Path, tomlText(k.Default))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, mustDecode(t, text), ignorePositions); d != "" {
				t.Errorf("%s: setting %s to its default changes:\n%s", tm.name, k.Path, d)
			}
		}
	}
}

func nameOf(k Key) string { _, n := k.table(); return n }

// TestKeysCoverConfig: every field of Config has its line in Keys, once.
func TestKeysCoverConfig(t *testing.T) {
	c := Config{Modules: []Module{{}}}
	described := map[any]string{}
	for _, k := range Keys {
		_, target := c.find(k.Path)
		if k.module != nil {
			target = k.module(&c.Modules[0])
		}
		if other := described[target]; other != "" || target == nil {
			t.Errorf("%s and %q describe one field", k.Path, other)
		}
		described[target] = k.Path
	}
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		if v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[Choice]() {
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					walk(v.Field(i), path+"."+v.Type().Field(i).Name)
				}
			}
			return
		}
		if v.Type() == reflect.TypeFor[[]Module]() {
			walk(v.Index(0), path)
			return
		}
		if described[v.Addr().Interface()] == "" {
			t.Errorf("Config%s has no line in Keys", path)
		}
	}
	walk(reflect.ValueOf(&c).Elem(), "")
}
