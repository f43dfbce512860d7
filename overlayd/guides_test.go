package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
)

// guideTest types the commands of a guide in docs/ on the machines of a world,
// and holds what they print against what the guide shows.
//
//	admin$ builder grid revoke archer --user alice     once, beside the grid's folder
//	elm$ overlayd peers                                on the machine of that name
//
// What a guide shows below a command is its whole output; "…" stands for any
// text, and spaces for any number of spaces. What is asked of a machine is
// asked again until the answer is the guide's, for patience: a guide does not
// say how long to wait.
type guideTest struct {
	*world
	file     string
	text     string
	machines map[string]*station
	ran      map[string]bool // sections
}

func newGuide(t *testing.T, name string) *guideTest {
	t.Helper()
	needLab(t)
	file := filepath.Join("../docs", name)
	text, err := os.ReadFile(file)
	must(t, err)
	g := &guideTest{world: newWorld(t, ordinary), file: file, text: string(text), ran: map[string]bool{}}
	g.machines = map[string]*station{"master": g.master}
	t.Cleanup(func() {
		for _, m := range regexp.MustCompile(`(?m)^##? (.*)$`).FindAllStringSubmatch(g.text, -1) {
			if !t.Failed() && !g.ran[m[1]] && strings.Contains(g.sectionText(m[1]), "```console") {
				t.Errorf("%s: the commands of the section %q were not run", file, m[1])
			}
		}
	})
	return g
}

// boot puts a machine of a name and a floppy into a site, and starts it.
func (g *guideTest) boot(s *site, name, floppy string) *station {
	g.t.Helper()
	m := g.put(s, name, floppy)
	m.start()
	m.waitRunning()
	return m
}

// put is boot for a machine that is to stay off.
func (g *guideTest) put(s *site, name, floppy string) *station {
	g.t.Helper()
	s.machines++
	n := g.net.Node(name)
	s.home.Plug(n, fmt.Sprintf("%s%d/24", s.net, 9+s.machines)).Default(s.net + "1")
	m := g.machine(n, filepath.Join(g.dir, floppy))
	g.machines[name] = m
	return m
}

// reboot starts a machine again, with this floppy.
func (g *guideTest) reboot(name, floppy string) {
	g.t.Helper()
	m := g.machines[name]
	m.process.Signal(syscall.SIGTERM)
	m.process.Wait(patience)
	m.floppy = filepath.Join(g.dir, floppy)
	m.start()
}

// sectionText is the text below a heading.
func (g *guideTest) sectionText(heading string) string {
	_, text, found := strings.Cut("\n"+g.text, "# "+heading+"\n")
	if !found {
		g.t.Fatalf("%s has no section %q", g.file, heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

var guidePrompt = regexp.MustCompile(`^([a-z]+)[$#] (.*)$`)

// section runs the commands below a heading.
func (g *guideTest) section(heading string) {
	g.t.Helper()
	g.ran[heading] = true
	blocks := consoleBlock.FindAllStringSubmatch(g.sectionText(heading), -1)
	if len(blocks) == 0 {
		g.t.Fatalf("%s: %s: no command", g.file, heading)
	}
	for _, block := range blocks {
		lines := strings.Split(strings.TrimSuffix(block[1], "\n"), "\n")
		for len(lines) > 0 {
			typed := guidePrompt.FindStringSubmatch(lines[0])
			if typed == nil {
				g.t.Fatalf("%s: %s: %q is output of no command", g.file, heading, lines[0])
			}
			lines = lines[1:]
			var shown []string
			for len(lines) > 0 && !guidePrompt.MatchString(lines[0]) {
				shown, lines = append(shown, lines[0]), lines[1:]
			}
			g.command(typed[1], quoted.FindAllString(typed[2], -1), strings.Join(shown, "\n"))
		}
	}
}

// command runs one command and compares.
func (g *guideTest) command(where string, argv []string, shown string) {
	g.t.Helper()
	want := regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(squeeze(shown)), "…", ".*?") + "$")
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		got := g.run(where, argv)
		if want.MatchString(squeeze(got)) {
			return
		}
		if where == "admin" || time.Now().After(end) {
			g.t.Fatalf("%s: %s$ %s prints\n%s\nand the guide shows\n%s", g.file, where, strings.Join(argv, " "), got, shown)
		}
	}
}

// squeeze makes columns of any width equal.
func squeeze(text string) string {
	return strings.TrimSpace(regexp.MustCompile(` +`).ReplaceAllString(text, " "))
}

// run runs one command where the guide says and returns what it prints.
func (g *guideTest) run(where string, argv []string) string {
	g.t.Helper()
	dir, err := tools()
	must(g.t, err)
	c := sysrun.Command{Name: argv[0], Args: argv[1:], Dir: g.dir}
	for i, arg := range c.Args {
		c.Args[i] = strings.Trim(arg, `"`)
	}
	if c.Name == "builder" || c.Name == "overlayd" {
		c.Name = filepath.Join(dir, c.Name)
	}
	var r sysrun.Result
	if where == "admin" {
		r, err = sysrun.Run(g.t.Context(), c)
	} else {
		m := g.machines[where]
		if m == nil {
			g.t.Fatalf("%s: no machine %q", g.file, where)
		}
		if argv[0] == "overlayd" {
			c.Args = append(c.Args[:len(c.Args):len(c.Args)], "--control", m.socket())
		}
		m.Do(func() { r, err = sysrun.Run(g.t.Context(), c) })
	}
	if sysrun.NotFound(err) {
		g.t.Fatal(err)
	}
	return string(r.Stdout) + string(r.Stderr)
}

// TestGuideRevoke: a person is revoked, and comes back with another floppy.
func TestGuideRevoke(t *testing.T) {
	g := newGuide(t, "revoke.md")
	g.section("Revoke somebody")
	oak := g.boot(g.site(netlab.Home), "oak", "alice.img")
	elm := g.boot(g.site(netlab.Home), "elm", "bob.img")
	g.section("Whose machine is it?")
	g.section("Revoke, and tell the grid")
	g.section("See that it holds")
	if out, err := oak.Try("ping", "-c", "3", "-W", "1", elm.Address.String()); err == nil {
		t.Errorf("oak is revoked and reaches elm:\n%s", out)
	}
	g.reboot("oak", "alice.img")
	g.section("The old floppy does not come back")
	g.section("A new floppy for the same person")
	g.reboot("oak", "alice-2.img")
	g.section("It is back")
}

// TestGuideBehindNAT: two machines behind one router, and one behind another.
func TestGuideBehindNAT(t *testing.T) {
	g := newGuide(t, "behind-nat.md")
	g.section("A site behind one NAT")
	here := g.site(netlab.Home)
	g.boot(here, "oak", "oak.img")
	g.boot(here, "elm", "elm.img")
	g.boot(g.site(netlab.Home), "ash", "ash.img")
	g.section("What the router must let through")
	g.section("Machines of the site")
	g.section("Machines elsewhere")
}

// TestGuideLostKey: the grid's folder is lost, then its copy is too old, then
// a master's floppy is lost.
func TestGuideLostKey(t *testing.T) {
	g := newGuide(t, "lost-key.md")
	g.section("Lose a key")
	g.section("The grid's folder")
	g.boot(g.site(netlab.Home), "oak", "alice.img")
	g.section("The new machine is in")
	g.section("A copy that is too old")
	g.section("A master's floppy")
	g.reboot("master", "archer/master-1.img")
	g.section("The master is the same")
}

// TestGuideWhenWrong: a floppy with a mistake, a cable that is out, a machine
// that was switched off, a name that nobody has.
func TestGuideWhenWrong(t *testing.T) {
	g := newGuide(t, "when-wrong.md")
	g.section("The floppy")
	here := g.site(netlab.Home)
	elm := g.boot(g.site(netlab.Home), "elm", "bob.img")
	oak := g.put(here, "oak", "alice.img")
	oak.Run("ip", "link", "set", "eth0", "down")
	oak.start()
	g.section("The machine finds nobody")
	oak.Run("ip", "link", "set", "eth0", "up")
	oak.Run("ip", "route", "add", "default", "via", here.net+"1")
	g.section("The cable is in")
	elm.process.Signal(syscall.SIGKILL)
	elm.process.Wait(patience)
	g.section("Another machine does not answer")
}
