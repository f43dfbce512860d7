package repocheck

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gridappliance/floppy"
	"gridappliance/internal/sysrun"
)

// programs are the commands whose lines in documents are checked against
// their own help.
var programs = []string{"builder", "firstboot", "overlayd", "condorconf", "grid"}

// block is one fenced block of a document.
type block struct {
	file  string
	line  int // of its first line
	lang  string
	lines []string
}

// TestDocumentedCommandsExist checks every line of every ```sh block: a make
// target must be in the Makefile, a command of ours must know its verbs and
// flags. Other programs are for the reader to have.
func TestDocumentedCommandsExist(t *testing.T) {
	bin := build(t)
	targets := makeTargets(t)
	checked := 0
	for _, b := range blocks(t) {
		if b.lang != "sh" {
			continue
		}
		for i, line := range b.lines {
			line, _, _ = strings.Cut(line, " #")
			words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "sudo "))
			if len(words) == 0 || strings.HasPrefix(words[0], "#") {
				continue
			}
			var problem string
			name := filepath.Base(words[0])
			switch {
			case name == "make":
				problem = checkMake(words[1:], targets)
			case contains(programs, name):
				problem = checkCommand(t, filepath.Join(bin, name), words[1:])
			default:
				continue
			}
			checked++
			if problem != "" {
				t.Errorf("%s:%d: %s: %s", b.file, b.line+i, strings.Join(words, " "), problem)
			}
		}
	}
	if checked < 10 {
		t.Errorf("checked only %d documented commands", checked)
	}
}

// TestDocumentedFloppiesDecode decodes every ```toml block that has a
// [machine] table.
func TestDocumentedFloppiesDecode(t *testing.T) {
	for _, b := range blocks(t) {
		text := strings.Join(b.lines, "\n") + "\n"
		if b.lang != "toml" || !strings.Contains(text, "[machine]") {
			continue
		}
		if _, err := floppy.DecodeConfig(b.file, []byte(text)); err != nil {
			t.Errorf("%s:%d: %v", b.file, b.line, err)
		}
	}
}

// TestReadmeQuickStart holds the README to its promise: two commands.
func TestReadmeQuickStart(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(readme), "## Quick start")
	if !found {
		t.Fatal("README.md has no section \"Quick start\"")
	}
	m := regexp.MustCompile("(?s)```sh\n(.*?)```").FindStringSubmatch(after)
	if m == nil || m[1] != "make appliance\nmake test\n" {
		t.Errorf("the quick start's first block is %q, want exactly make appliance and make test", m)
	}
}

// TestEveryDependencyHasAReason wants a line in docs/dependencies.md for each
// direct dependency.
func TestEveryDependencyHasAReason(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root(t), "docs/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, line := range strings.Split(string(mod), "\n") {
		f := strings.Fields(line)
		if len(f) != 2 || !strings.HasPrefix(f[1], "v") || strings.Contains(line, "indirect") {
			continue
		}
		n++
		if !bytes.Contains(doc, []byte("| "+f[0]+" |")) {
			t.Errorf("docs/dependencies.md has no line for %s", f[0])
		}
	}
	if n == 0 {
		t.Error("found no direct dependency in go.mod")
	}
}

// TestNoRegistryHostIsWrittenDown takes the hosts from this machine's own
// settings and looks for them in every file: a site's mirror is the site's.
func TestNoRegistryHostIsWrittenDown(t *testing.T) {
	var settings bytes.Buffer
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	for _, f := range append(files, "/etc/apt/sources.list") {
		if b, err := os.ReadFile(f); err == nil {
			settings.Write(b)
		}
	}
	if out, err := sysrun.Output(context.Background(), "go", "env", "GOPROXY", "GOSUMDB"); err == nil {
		settings.Write(out)
	}
	hosts := map[string]bool{}
	for _, m := range regexp.MustCompile(`https?://([^/\s",|]+)`).FindAllStringSubmatch(settings.String(), -1) {
		hosts[m[1]] = true
	}
	out, err := sysrun.Output(context.Background(), "git", "-C", root(t), "ls-files")
	if err != nil {
		t.Skipf("not a checkout: %v", err)
	}
	for _, f := range strings.Fields(string(out)) {
		text, err := os.ReadFile(filepath.Join(root(t), f))
		if err != nil {
			continue
		}
		for h := range hosts {
			if bytes.Contains(text, []byte(h)) {
				t.Errorf("%s names the registry host %s", f, h)
			}
		}
	}
}

func checkMake(words []string, targets map[string]bool) string {
	for _, w := range words {
		if strings.Contains(w, "=") || strings.HasPrefix(w, "-") {
			continue
		}
		if !targets[w] {
			return "no such target"
		}
	}
	return ""
}

// checkCommand walks the verbs as far as the command's help knows them and
// looks each flag up in the last verb's help.
func checkCommand(t *testing.T, program string, words []string) string {
	var verbs, flags []string
	for _, w := range words {
		if strings.ContainsAny(w, "|>;&") {
			break
		}
		if strings.HasPrefix(w, "-") {
			name, _, _ := strings.Cut(w, "=")
			flags = append(flags, name)
		} else if len(flags) == 0 && regexp.MustCompile(`^[a-z]+$`).MatchString(w) {
			verbs = append(verbs, w)
		}
	}
	help := ""
	for n := len(verbs); n >= 0; n-- {
		args := append(append([]string{}, verbs[:n]...), "--help")
		out, err := sysrun.Output(context.Background(), program, args...)
		if err == nil && (n == 0 || strings.Contains(string(out), strings.Join(append([]string{filepath.Base(program)}, verbs[:n]...), " "))) {
			help = string(out)
			if n == 0 && len(verbs) > 0 {
				return "no such verb"
			}
			break
		}
	}
	for _, f := range flags {
		if !regexp.MustCompile(regexp.QuoteMeta(f) + `[\s,]`).MatchString(help) {
			return "no flag " + f
		}
	}
	return ""
}

// build compiles the programs once and returns their folder.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"build", "-buildvcs=false", "-o", dir}
	for _, p := range programs {
		args = append(args, "./"+p)
	}
	if _, err := sysrun.Run(context.Background(), sysrun.Command{Name: "go", Args: args, Dir: root(t)}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func makeTargets(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(text), -1) {
		targets[m[1]] = true
	}
	return targets
}

// blocks returns the fenced blocks of all documents.
func blocks(t *testing.T) []block {
	t.Helper()
	var all []block
	files, _ := filepath.Glob(filepath.Join(root(t), "*.md"))
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md", "images/*.md"} {
		more, _ := filepath.Glob(filepath.Join(root(t), pattern))
		files = append(files, more...)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(root(t), file)
		var open *block
		s := bufio.NewScanner(f)
		for n := 1; s.Scan(); n++ {
			line := s.Text()
			switch lang, fence := strings.CutPrefix(line, "```"); {
			case fence && open == nil:
				open = &block{file: rel, line: n + 1, lang: lang}
			case fence:
				all = append(all, *open)
				open = nil
			case open != nil:
				open.lines = append(open.lines, line)
			}
		}
		f.Close()
		if open != nil {
			t.Errorf("%s:%d: block is not closed", rel, open.line)
		}
	}
	return all
}

// root returns the repository's root, found upwards from this package.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the test")
	return ""
}
