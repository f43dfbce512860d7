// Package guide types the commands of a document's console blocks and holds
// what they print against what the document shows. It is for tests only.
//
//	admin$ builder grid revoke archer --user alice     typed once, where WHERE is Typist
//	elm$ overlayd peers                                on the machine of that name
//	elm# overlayd publish archer/revoked.pem           there, as root
//
// What a document shows below a command is its whole output; "…" stands for
// any text, and spaces for any number of spaces. What is asked of a machine is
// asked again until the answer is the document's: a document does not say how
// long to wait.
package guide

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Typist is the machine whose commands change things, and are typed once.
const Typist = "admin"

var (
	console  = regexp.MustCompile("(?s)```console\n(.*?)```")
	headings = regexp.MustCompile(`(?m)^##? (.*)$`)
	prompt   = regexp.MustCompile(`^([a-z]+)([$#]) (.*)$`)
)

// Command is one typed line.
type Command struct {
	Where string // the machine's name, or Typist
	Root  bool
	Line  string
}

// Guide is a document under test.
type Guide struct {
	t        *testing.T
	file     string
	text     string
	patience time.Duration
	run      func(Command) string
	ran      map[string]bool // sections
}

// New reads a document. run types one command and returns all that it prints;
// what is asked of a machine is asked for patience. At the end of the test
// every section with commands must have been run.
func New(t *testing.T, file string, patience time.Duration, run func(Command) string) *Guide {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g := &Guide{t: t, file: file, text: string(text), patience: patience, run: run, ran: map[string]bool{}}
	t.Cleanup(func() {
		for _, m := range headings.FindAllStringSubmatch(g.text, -1) {
			if !t.Failed() && !g.ran[m[1]] && console.MatchString(g.section(m[1])) {
				t.Errorf("%s: the commands of the section %q were not run", file, m[1])
			}
		}
	})
	return g
}

// section is the text below a heading.
func (g *Guide) section(heading string) string {
	g.t.Helper()
	_, text, found := strings.Cut("\n"+g.text, "# "+heading+"\n")
	if !found {
		g.t.Fatalf("%s has no section %q", g.file, heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// Section runs the commands below a heading.
func (g *Guide) Section(heading string) {
	g.t.Helper()
	g.ran[heading] = true
	blocks := console.FindAllStringSubmatch(g.section(heading), -1)
	if len(blocks) == 0 {
		g.t.Fatalf("%s: %s: no command", g.file, heading)
	}
	for _, block := range blocks {
		lines := strings.Split(strings.TrimSuffix(block[1], "\n"), "\n")
		for len(lines) > 0 {
			typed := prompt.FindStringSubmatch(lines[0])
			if typed == nil {
				g.t.Fatalf("%s: %s: %q is output of no command", g.file, heading, lines[0])
			}
			lines = lines[1:]
			var shown []string
			for len(lines) > 0 && !prompt.MatchString(lines[0]) {
				shown, lines = append(shown, lines[0]), lines[1:]
			}
			g.command(Command{typed[1], typed[2] == "#", typed[3]}, strings.Join(shown, "\n"))
		}
	}
}

// command runs one command and compares.
func (g *Guide) command(c Command, shown string) {
	g.t.Helper()
	want := regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(squeeze(shown)), "…", ".*?") + "$")
	for end := time.Now().Add(g.patience); ; time.Sleep(200 * time.Millisecond) {
		got := g.run(c)
		if want.MatchString(squeeze(got)) {
			return
		}
		if c.Where == Typist || time.Now().After(end) {
			g.t.Fatalf("%s: %s$ %s prints\n%s\nand the guide shows\n%s", g.file, c.Where, c.Line, got, shown)
		}
	}
}

// squeeze makes columns of any width equal.
func squeeze(text string) string {
	return strings.TrimSpace(regexp.MustCompile(` +`).ReplaceAllString(text, " "))
}
